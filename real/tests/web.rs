//! Tests of the node's page in headless Chromium: its peers, throughput and events. Further tests
//! read the page and its event stream without a browser.
//!
//! The tests need Chromium and its driver, which `.ci/run real` installs. If `SOCKMAN_SCREENSHOT`
//! is set to a path, a test writes a picture of two minutes to it. The file docs/node-page.png was
//! made like this.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    cell::Cell,
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use bitcoin::{
    Network,
    consensus::encode::serialize,
    p2p::{
        Address, ServiceFlags,
        message::{NetworkMessage, RawNetworkMessage},
        message_network::VersionMessage,
    },
};
use data_encoding::BASE64;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use sockman_node::{
    Chain, Config, Node,
    testing::{DEADLINE, start},
};
use sockman_test_support::program::Process;

const NETWORK: Network = Network::Regtest;
/// The pause between two looks at the page.
const LOOK: Duration = Duration::from_millis(50);
/// The shortest time over which the page computes a rate.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(900);
/// The longest time from an event to the state that the node sends after it.
const STATE_DELAY: Duration = Duration::from_millis(200);
/// The node's limit of event streams at a time.
const MAX_STREAMS: usize = 48;

// JavaScript expressions that read the page.
const STATE: &str = "document.getElementById('state').textContent";
const PEERS: &str = "document.getElementById('peers').textContent";
const EVENTS: &str = "document.getElementById('events').textContent";
const POINTS: &str = "document.getElementById('line-in').points.length";

/// A browser, controlled by the WebDriver protocol of the W3C.
struct Browser {
    session: String,
    profile: PathBuf,
    _driver: Process,
}

fn request(url: &str, method: &str, body: Option<&Value>) -> Value {
    let mut command = curl(&["--request", method, url]);
    if let Some(body) = body {
        command.args(["--data", &body.to_string()]);
    }
    let output = command.output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{method} {url}: {}", String::from_utf8_lossy(&output.stderr)));
    assert!(answer["value"]["error"].is_null(), "{method} {url}: {answer}");
    answer["value"].clone()
}

/// Starts the driver. Returns it and its port. The driver asks for a free port over IPv6, and then ends if
/// another program has the same port over IPv4. So a driver that ended is started again.
fn start_driver() -> (Process, u16) {
    const ATTEMPTS: u32 = 20;
    for _ in 0..ATTEMPTS {
        let child = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start chromedriver; install it");
        let mut driver = Process::new(child);
        let port = driver.wait_for_line("the driver's start", |line| {
            if line.contains("port not available") {
                return Some(None);
            }
            let (_, rest) = line.split_once("started successfully on port ")?;
            rest.trim_end_matches('.').parse::<u16>().ok().map(Some)
        });
        if let Some(port) = port {
            return (driver, port);
        }
    }
    panic!("the driver found no free port in {ATTEMPTS} attempts");
}

impl Browser {
    fn start() -> Browser {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sockman-chromium-{}-{number}", std::process::id());
        let profile = env::temp_dir().join(name);
        let (driver, port) = start_driver();
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-proxy-server".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--window-size=1100,1000".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let options = json!({ "args": arguments });
        let wanted = json!({
            "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } }
        });
        let driver_url = format!("http://127.0.0.1:{port}/session");
        let session = request(&driver_url, "POST", Some(&wanted));
        let session = format!("{driver_url}/{}", session["sessionId"].as_str().unwrap());
        Browser { session, profile, _driver: driver }
    }

    fn open(&self, page: &str) {
        request(&format!("{}/url", self.session), "POST", Some(&json!({ "url": page })));
    }

    fn evaluate(&self, expression: &str) -> Value {
        let script = json!({ "script": format!("return {expression};"), "args": [] });
        request(&format!("{}/execute/sync", self.session), "POST", Some(&script))
    }

    fn wait_for(&self, expression: &str, is_right: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let text = self.evaluate(expression);
            let text = text.as_str().unwrap_or_default();
            if is_right(text) {
                return text.to_owned();
            }
            assert!(Instant::now() < deadline, "{expression} is still {text:?}");
            thread::park_timeout(LOOK);
        }
    }

    fn points(&self) -> u32 {
        self.evaluate(POINTS).as_u64().unwrap().try_into().unwrap()
    }

    fn screenshot(&self) -> Vec<u8> {
        let picture = request(&format!("{}/screenshot", self.session), "GET", None);
        BASE64.decode(picture.as_str().unwrap().as_bytes()).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = Command::new("curl").args(["--silent", "-X", "DELETE", &self.session]).output();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// The example `node` with its page.
struct Served {
    _node: Process,
    listening: SocketAddr,
    page: String,
}

impl Served {
    fn start(more_arguments: &[&str]) -> Served {
        Served::start_on("127.0.0.1:0", more_arguments)
    }

    fn start_on(web: &str, more_arguments: &[&str]) -> Served {
        let child = real::node()
            .args(["--network", "regtest", "--listen", "127.0.0.1:0", "--web", web])
            .args(more_arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut node = Process::new(child);
        let listening = node.wait_for_line("where it listens", |line| {
            line.strip_prefix("listening on ").and_then(|address| address.parse().ok())
        });
        let page = node.wait_for_line("its page", |line| {
            line.strip_prefix("the peers are shown on ").map(str::to_owned)
        });
        Served { _node: node, listening, page }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listening).unwrap()
    }

    /// Performs a handshake without a node, with any user agent.
    fn shake_hands(&self, agent: &str) -> TcpStream {
        let mut peer = self.connect();
        say(&mut peer, version(agent));
        say(&mut peer, NetworkMessage::Verack);
        peer
    }

    fn open_stream(&self) -> Stream {
        let address = self.page.trim_start_matches("http://").trim_end_matches('/');
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        Stream(BufReader::new(client))
    }

    fn start_peer(&self, ping_interval: Duration) -> Node {
        let mut config = Config::new(NETWORK);
        config.connect.push(self.listening.into());
        config.ping_interval = ping_interval;
        start(config, Chain::new(NETWORK)).0
    }
}

/// The page's event stream, read without a browser.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn wait_for_line(&mut self, what: &str, is_right: impl Fn(&str) -> bool) {
        // A state comes every second, so the time-out of a read alone would never expire.
        let deadline = Instant::now() + DEADLINE;
        let mut line = String::new();
        while !is_right(&line) {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended without: {what}");
            assert!(Instant::now() < deadline, "the stream never had: {what}");
        }
    }

    fn wait_for_state(&mut self) {
        self.wait_for_line("state", |line| line == "event: state\n");
    }
}

/// A reserved port for a program that ends and starts again. The socket is bound and does not
/// listen, so no other program that asks for a free port gets this one.
struct Port {
    address: String,
    _socket: Socket,
}

impl Port {
    fn keep() -> Port {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
        Port { address, _socket: socket }
    }

    /// Answers requests with 404 until the page has asked for its events.
    fn answer_as_another_server(&self) {
        let listener = TcpListener::bind(&self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Ok((mut client, _)) = listener.accept() {
                client.set_nonblocking(false).unwrap();
                // A browser also opens connections without a request.
                client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                // The whole head is read. Unread bytes would reset the connection, and the answer
                // would be lost.
                let lines = BufReader::new(&client).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let _ = client.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n");
                if head.first().is_some_and(|line| line.starts_with("GET /events ")) {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "the page does not ask for its events again");
            thread::park_timeout(LOOK);
        }
    }
}

fn say(peer: &mut TcpStream, message: NetworkMessage) {
    peer.write_all(&serialize(&RawNetworkMessage::new(NETWORK.magic(), message))).unwrap();
}

fn version(agent: &str) -> NetworkMessage {
    let unknown = Address::new(&([0, 0, 0, 0], 0).into(), ServiceFlags::NONE);
    let (from, nonce) = (unknown.clone(), 1);
    let mut version =
        VersionMessage::new(ServiceFlags::NONE, 0, unknown, from, nonce, agent.to_owned(), 0);
    version.version = 70016;
    NetworkMessage::Version(version)
}

fn curl(arguments: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]).args(arguments);
    curl
}

fn text_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_peer_appears_on_the_page_as_it_shakes_hands_and_leaves_it_with_its_connection() {
    let served = Served::start(&[]);
    let browser = Browser::start();
    browser.open(&served.page);
    browser.wait_for(STATE, |state| state.starts_with("regtest, height 0, 0 peers, "));

    let peer = served.start_peer(Duration::from_millis(100));
    let row = browser.wait_for("document.getElementById('peers').innerText", |rows| {
        rows.contains("/sockman-node:") && rows.contains(" ms")
    });
    assert!(row.contains("inbound\tlocal\t") && row.contains("v2"), "{row}");
    browser.wait_for(STATE, |state| state.starts_with("regtest, height 0, 1 peer, "));
    browser.wait_for(EVENTS, |events| events.contains("handshake with /sockman-node:"));
    if let Some(picture) = env::var_os("SOCKMAN_SCREENSHOT") {
        fs::write(picture, picture_of(&served, &browser)).unwrap();
    }

    peer.stop().unwrap();
    browser.wait_for(EVENTS, |events| events.contains("disconnected"));
    browser.wait_for(STATE, |state| state.starts_with("regtest, height 0, 0 peers, "));
    assert_eq!(browser.evaluate(PEERS), "");
}

/// Returns a picture for the documentation. The picture shows two minutes in which peers connect
/// one after the other, and one of them sends at a changing rate.
fn picture_of(served: &Served, browser: &Browser) -> Vec<u8> {
    let mut talker = served.shake_hands("/talker:1.0/");
    let mut peers = Vec::new();
    for ping_interval in [60, 20, 30, 15] {
        let enough = browser.points() + 28;
        peers.push(served.start_peer(Duration::from_millis(ping_interval)));
        while browser.points() < enough {
            let length = (browser.points() % 40).abs_diff(20) * 10;
            say(&mut talker, NetworkMessage::Alert(vec![0; length as usize]));
            thread::park_timeout(LOOK);
        }
    }
    browser.screenshot()
}

#[test]
fn the_user_agent_of_a_peer_is_shown_as_text() {
    let agent = "<img src=x onerror=\"document.title='pwned'\">";
    let served = Served::start(&[]);
    let browser = Browser::start();
    browser.open(&served.page);
    // Events are sent once, so the page must be connected before the handshake.
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
    let _peer = served.shake_hands(agent);
    browser.wait_for(PEERS, |rows| rows.contains(agent));
    browser.wait_for(EVENTS, |events| events.contains(agent));
    assert_eq!(browser.evaluate("document.querySelectorAll('img').length"), 0);
    assert_eq!(browser.evaluate("document.title"), "sockman node");
}

#[test]
fn the_page_loads_nothing_from_other_hosts() {
    let served = Served::start(&[]);
    let answer = text_of(curl(&["--include", &served.page]));
    // This header makes the browser refuse content from other hosts.
    assert!(answer.contains("Content-Security-Policy: default-src 'none';"), "{answer}");
    for reference in ["http://", "https://", "src=", "href=", "url(", "import"] {
        assert!(!answer.contains(reference), "{reference} in {answer}");
    }

    let browser = Browser::start();
    browser.open(&served.page);
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
    let loaded =
        browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)");
    for name in loaded.as_array().unwrap() {
        assert!(name.as_str().unwrap().starts_with(&served.page), "{name}");
    }
}

#[test]
fn throughput_is_sampled_once_a_second_whatever_happens() {
    let served = Served::start(&[]);
    let _peer = served.start_peer(Duration::from_millis(100));
    let browser = Browser::start();
    let before = Instant::now();
    browser.open(&served.page);
    let deadline = Instant::now() + DEADLINE;
    loop {
        // Each connection causes two events, its accept and its end.
        drop(served.connect());
        let points = browser.points();
        let most = before.elapsed().as_secs_f64() / SHORTEST_SAMPLE.as_secs_f64();
        assert!(f64::from(points) <= most + 1.0, "{points} points after {:?}", before.elapsed());
        if points >= 5 {
            break;
        }
        assert!(Instant::now() < deadline, "there are still {points} points");
        thread::park_timeout(LOOK);
    }
    browser.wait_for(EVENTS, |events| events.contains("disconnected"));
}

#[test]
fn bytes_from_a_peer_are_drawn_as_received_and_not_as_sent() {
    let served = Served::start(&[]);
    let browser = Browser::start();
    browser.open(&served.page);
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
    let mut peer = served.shake_hands("/talker:1.0/");
    let deadline = Instant::now() + DEADLINE;
    loop {
        say(&mut peer, NetworkMessage::Alert(vec![0; 100_000]));
        let shown = browser.evaluate(
            "[byId('rate-in').textContent, byId('rate-out').textContent, \
              ...['line-in', 'line-out'].map(id => \
                Math.min(...Array.from(byId(id).points, point => point.y)))]",
        );
        let rates = (rate(&shown[0]), rate(&shown[1]));
        // The last two values are distances from the top of the plot, in percent. The base line of
        // the plot is at 100.
        let highest = (shown[2].as_f64(), shown[3].as_f64());
        if let ((Some(received), Some(sent)), (Some(line_in), Some(line_out))) = (rates, highest) {
            if received > 10_000.0 && sent < received / 10.0 && line_in < 70.0 && line_out > 90.0 {
                break;
            }
        }
        assert!(Instant::now() < deadline, "the page shows {shown}");
        thread::park_timeout(LOOK);
    }
}

/// Returns the bytes per second of a text such as `12.3 kB/s in`.
fn rate(shown: &Value) -> Option<f64> {
    let (number, unit) = shown.as_str()?.split_once(' ')?;
    let unit = match unit.split_once("/s")?.0 {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

#[test]
fn the_page_reconnects_when_the_node_restarts() {
    let port = Port::keep();
    let served = Served::start_on(&port.address, &[]);
    let browser = Browser::start();
    browser.open(&served.page);
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
    drop(served);
    browser.wait_for(STATE, |state| state.starts_with("the node does not answer"));

    let served = Served::start_on(&port.address, &[]);
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
    let _peer = served.shake_hands("/after:1.0/");
    browser.wait_for(PEERS, |rows| rows.contains("/after:1.0/"));
    browser.wait_for(EVENTS, |events| events.contains("/after:1.0/"));
}

#[test]
fn the_page_reconnects_after_another_server_answered_at_its_address() {
    let port = Port::keep();
    let served = Served::start_on(&port.address, &[]);
    let browser = Browser::start();
    browser.open(&served.page);
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
    drop(served);
    port.answer_as_another_server();
    browser.wait_for(STATE, |state| state.starts_with("the node does not answer"));

    let served = Served::start_on(&port.address, &[]);
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
    let _peer = served.shake_hands("/after:1.0/");
    browser.wait_for(EVENTS, |events| events.contains("handshake with /after:1.0/"));
    // The page has one event stream. A page with two streams would show each event twice.
    let told = browser.evaluate(EVENTS);
    assert_eq!(told.as_str().unwrap().matches("handshake with /after:1.0/").count(), 1, "{told}");
}

#[test]
fn too_many_streams_end_the_oldest_and_admit_the_newest() {
    let served = Served::start(&[]);
    let mut oldest = served.open_stream();
    oldest.wait_for_state();
    let mut streams: Vec<Stream> = (1..MAX_STREAMS).map(|_| served.open_stream()).collect();
    streams.iter_mut().for_each(Stream::wait_for_state);
    // The number of streams is at the limit now, and no stream has ended.
    let _peer = served.connect();
    oldest.wait_for_line("event", |line| line.contains(": accepted a connection from "));

    // These streams exceed the limit.
    streams.extend((0..MAX_STREAMS).map(|_| served.open_stream()));
    oldest.wait_for_line("last chunk", |line| line == "0\r\n");
    let browser = Browser::start();
    browser.open(&served.page);
    browser.wait_for(STATE, |state| state.starts_with("regtest"));
}

#[test]
fn a_burst_of_events_is_sent_one_by_one_and_followed_by_one_state() {
    const CONNECTIONS: usize = 100;
    let served = Served::start(&[]);
    let before = Instant::now();
    let url = format!("{}events", served.page);
    let child = curl(&["--no-buffer", &url]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stream = Process::new(child);
    stream.wait_for_line("the first state", |line| line.starts_with("data: {").then_some(()));

    let connections: Vec<TcpStream> = (0..CONNECTIONS).map(|_| served.connect()).collect();
    let (told, states) = (Cell::new(0), Cell::new(1));
    let state: Value = stream.wait_for_line("the state after all of them", |line| {
        told.set(told.get() + usize::from(line.contains(": accepted a connection from ")));
        let state = line.strip_prefix("data: ").filter(|data| data.starts_with('{'))?;
        states.set(states.get() + 1);
        let state: Value = serde_json::from_str(state).unwrap();
        let shown = state["peers"].as_array().unwrap().len();
        // A peer is in the table shortly before its event is sent.
        (told.get() == CONNECTIONS && shown == CONNECTIONS).then_some(state)
    });
    let most = before.elapsed().as_secs_f64() / STATE_DELAY.as_secs_f64() + 1.0;
    assert!(f64::from(states.get()) <= most, "{} states, at most {most}", states.get());
    drop(connections);

    // The state holds only the fields that the page shows. There is no ping yet.
    let row = state["peers"][0].as_object().unwrap();
    let mut fields: Vec<&str> = row.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "addr",
            "bytesrecv",
            "bytessent",
            "id",
            "inbound",
            "network",
            "subver",
            "transport_protocol_type"
        ]
    );
}

#[test]
fn hundreds_of_peers_are_shown_and_the_stream_stays() {
    let served = Served::start(&["--max-connections", "500"]);
    let browser = Browser::start();
    browser.open(&served.page);
    browser.wait_for(STATE, |state| state.contains(" 0 peers, "));
    browser.evaluate(
        "new MutationObserver(() => { \
            if (byId('state').className) document.title = 'interrupted'; \
        }).observe(byId('state'), { attributes: true })",
    );

    let mut peers: Vec<TcpStream> = (0..400).map(|_| served.connect()).collect();
    browser.wait_for(STATE, |state| state.contains(" 400 peers, "));
    assert_eq!(browser.evaluate("document.getElementById('peers').rows.length"), 400);
    // A later peer is shown, too.
    peers.push(served.connect());
    browser.wait_for(STATE, |state| state.contains(" 401 peers, "));
    drop(peers);
    browser.wait_for(STATE, |state| state.contains(" 0 peers, "));
    assert_eq!(browser.evaluate("document.title"), "sockman node");
    assert_eq!(browser.evaluate("document.getElementById('state').className"), "");
}

#[test]
fn requests_with_another_host_path_or_method_are_refused() {
    let served = Served::start(&[]);
    let port = served.page.trim_end_matches('/').rsplit_once(':').unwrap().1;
    for (host, path, method, status) in [
        ("localhost", "", "GET", "200"),
        ("127.0.0.1", "", "HEAD", "200"),
        ("localhost:PORT", "", "GET", "200"),
        ("127.0.0.1:PORT", "", "GET", "200"),
        ("[::1]:PORT", "", "GET", "200"),
        ("evil.example", "", "GET", "403"),
        ("evil.example:PORT", "", "GET", "403"),
        ("evil.example:PORT", "events", "GET", "403"),
        ("localhost.evil.example:PORT", "", "GET", "403"),
        ("localhost", "other", "GET", "404"),
        ("localhost", "", "POST", "405"),
        ("localhost", "events", "POST", "405"),
        ("localhost", "events", "HEAD", "405"),
    ] {
        let header = format!("Host: {}", host.replace("PORT", port));
        let mut curl = curl(&["--output", "/dev/null", "--write-out", "%{http_code}"]);
        curl.args(["--header", &header]);
        match method {
            "HEAD" => curl.arg("--head"),
            _ => curl.args(["--request", method]),
        };
        curl.arg(format!("{}{path}", served.page));
        assert_eq!(text_of(curl), status, "{method} {path} of {host}");
    }
}
