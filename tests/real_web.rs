//! The node example's page in headless Chromium: a peer's handshake, and its row appears.
//!
//! Needs Chromium and its driver; `.ci/run` installs them. With `SOCKMAN_SCREENSHOT` set, the picture
//! is written there: that is how docs/node-page.png was made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod node_support;

use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bitcoin::Network;
use data_encoding::BASE64;
use node_support::{
    DEADLINE, Process,
    node::{Config, chain::Chain},
    start,
};
use serde_json::{Value, json};

/// Between two looks at the page.
const LOOK: Duration = Duration::from_millis(50);

/// A browser, by the WebDriver protocol of the W3C.
struct Browser {
    session: String,
    profile: PathBuf,
    _driver: Process,
}

fn request(url: &str, method: &str, body: Option<&Value>) -> Value {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]);
    command.args(["--request", method, url]);
    if let Some(body) = body {
        command.args(["--data", &body.to_string()]);
    }
    let output = command.output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{method} {url}: {}", String::from_utf8_lossy(&output.stderr)));
    assert!(answer["value"]["error"].is_null(), "{method} {url}: {answer}");
    answer["value"].clone()
}

impl Browser {
    fn start() -> Browser {
        let profile = env::temp_dir().join(format!("sockman-chromium-{}", std::process::id()));
        let child = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed");
        let mut driver = Process::new(child);
        let port = driver.wait_for_line("the driver's start", |line| {
            let (_, rest) = line.split_once("started successfully on port ")?;
            rest.trim_end_matches('.').parse::<u16>().ok()
        });
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
            "--window-size=1100,760".to_owned(),
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

    fn open(&self, url: &str) {
        request(&format!("{}/url", self.session), "POST", Some(&json!({ "url": url })));
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
            assert!(Instant::now() < deadline, "{expression} stays {text:?}");
            thread::park_timeout(LOOK);
        }
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

#[test]
fn a_peer_appears_on_the_page_as_it_shakes_hands() {
    let mut path = env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    let child = Command::new(path.join("node"))
        .args(["--network", "regtest", "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut node = Process::new(child);
    let listening: SocketAddr = node.wait_for_line("where it listens", |line| {
        line.strip_prefix("listening on ").and_then(|address| address.parse().ok())
    });
    let page = node.wait_for_line("its page", |line| {
        line.strip_prefix("the peers are shown on ").map(str::to_owned)
    });

    let browser = Browser::start();
    browser.open(&page);
    browser.wait_for("document.getElementById('state').textContent", |state| {
        state.starts_with("regtest, height 0, 0 peers")
    });

    let mut config = Config::new(Network::Regtest);
    config.connect.push(listening.into());
    // So that there is something to draw.
    config.ping_interval = Duration::from_millis(100);
    let (peer, _) = start(config, Chain::new(Network::Regtest));
    let row = browser.wait_for("document.getElementById('peers').innerText", |rows| {
        rows.contains("/sockman-node:") && rows.contains(" ms")
    });
    assert!(row.contains("inbound") && row.contains("v2"), "{row}");
    let events = "document.getElementById('events').textContent";
    browser.wait_for(events, |events| events.contains("handshake with /sockman-node:"));
    browser.wait_for("document.getElementById('line-in').getAttribute('points')", |points| {
        points.split(' ').count() >= 4
    });
    if let Some(picture) = env::var_os("SOCKMAN_SCREENSHOT") {
        fs::write(picture, browser.screenshot()).unwrap();
    }

    peer.stop().unwrap();
    browser.wait_for("document.getElementById('peers').innerText", |rows| rows.trim().is_empty());
    browser.wait_for(events, |events| events.contains("disconnected"));
    drop(browser);

    for (host, path, method, status) in [
        ("localhost", "", "GET", "200"),
        ("127.0.0.1", "", "HEAD", "200"),
        ("evil.example", "", "GET", "403"),
        ("localhost", "other", "GET", "404"),
        ("localhost", "", "POST", "405"),
    ] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--noproxy", "*", "--output", "/dev/null", "--max-time", "60"]);
        curl.args(["--write-out", "%{http_code}", "--header", &format!("Host: {host}")]);
        match method {
            "HEAD" => curl.arg("--head"),
            _ => curl.args(["--request", method]),
        };
        let output = curl.arg(format!("{page}{path}")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), status, "{method} {path} of {host}");
    }
}
