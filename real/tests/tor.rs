//! Tests of connects through a private Tor network on loopback, with onion services that lead to
//! the node.
//!
//! The tests need tor and python3. `real/fixtures/tor/network.py` starts the network once for all
//! tests, which takes up to a minute.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions, ConnectionId, Service,
    address::Destination,
    error::{ConnectError, ConnectErrorKind},
    proxy::{Proxy, Socks5Reply},
};
use sockman_test_support::{
    drivers::DRIVERS,
    program::{Process, workspace_example, workspace_program},
    socks5::Dialling,
};

/// The time-out of a connect. Tor itself gives up after 15 seconds in this network
/// (`SocksTimeout`), and after 120 by default.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a connect is repeated until Tor is ready, for example until a descriptor has spread.
const READY: Duration = Duration::from_secs(120);

struct Tor {
    socks: Proxy,
    plain_socks: Proxy,
    unix_socks: Proxy,
    control: PathBuf,
    onion: String,
    onion_unknown_client: String,
    onion_wrong_client: String,
    /// The node to which the onion services lead. Like the network, it ends when its standard input
    /// closes, which is when this process ends.
    node: Mutex<Process>,
    /// A Lightning node, to which the first onion service leads too.
    lightning_node: Mutex<Process>,
    lightning_id: String,
    _network: Child,
}

static TOR: LazyLock<Tor> = LazyLock::new(start);

/// Starts a program that listens, and ends when its standard input closes.
fn listening(program: PathBuf, arguments: &[&str]) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", "\"$@\" & cat; kill $!", "sh"]).arg(program).args(arguments);
    Process::new(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
}

/// Waits for the line that begins with `before`, and returns its rest.
fn rest_of_line(process: &mut Process, before: &str) -> String {
    process.wait_for_line(before, |line| line.strip_prefix(before).map(str::to_owned))
}

/// Returns the port on which a program says that it listens.
fn port_of(process: &mut Process) -> String {
    rest_of_line(process, "listening on ").rsplit(':').next().unwrap().to_owned()
}

fn start() -> Tor {
    // The services need the nodes' ports, so the nodes start first.
    let arguments = ["--listen", "127.0.0.1:0", "--network", "regtest"];
    let mut node = listening(workspace_program("sockman-node", "node"), &arguments);
    let port = port_of(&mut node);
    let example = workspace_example("lightning-net-sockman", "node");
    let mut lightning_node = listening(example, &["--seed", "2", "--listen", "127.0.0.1:0"]);
    let lightning_id = rest_of_line(&mut lightning_node, "node ");
    let lightning_port = port_of(&mut lightning_node);
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tor-{}", std::process::id()));
    let script = real::fixture("tor/network.py");
    let mut network = Command::new("python3")
        .arg(script)
        .arg(directory)
        .args(["--service-port", &port, "--lightning-port", &lightning_port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cannot start python3, which runs the network; install it");
    let mut line = String::new();
    BufReader::new(network.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the Tor network did not start; the reason is above");
    let said = |key: &str| {
        let (_, rest) = line
            .split_once(&format!("\"{key}\": \""))
            .expect("network.py did not print an address");
        rest.split('"').next().unwrap().to_owned()
    };
    Tor {
        socks: Proxy::socks5(said("socks").parse::<Service>().unwrap()),
        plain_socks: Proxy::socks5(said("plain_socks").parse::<Service>().unwrap()),
        unix_socks: Proxy::socks5(Service::unix(said("unix_socks")).unwrap()),
        control: said("control").into(),
        onion: said("onion"),
        onion_unknown_client: said("onion_unknown_client"),
        onion_wrong_client: said("onion_wrong_client"),
        node: Mutex::new(node),
        lightning_node: Mutex::new(lightning_node),
        lightning_id,
        _network: network,
    }
}

fn node(arguments: &[&str]) -> Process {
    let child = real::node().args(arguments).stdout(Stdio::piped()).spawn();
    Process::new(child.unwrap())
}

fn name(host: &str, port: u16) -> Destination {
    Destination::Name { host: host.to_owned(), port }
}

fn through(proxy: &Proxy) -> ConnectOptions {
    ConnectOptions::default().proxy(proxy.clone()).timeout(PATIENCE)
}

/// Repeats a connect until its outcome is the expected one. In a new network, some connects fail
/// for other reasons.
fn until<T>(
    dialling: &Dialling,
    to: &Destination,
    proxy: &Proxy,
    wanted: impl Fn(&Result<ConnectionId, ConnectError>) -> Option<T>,
) -> T {
    let deadline = Instant::now() + READY;
    let mut drivers = DRIVERS.into_iter().cycle();
    loop {
        let driver = drivers.next().unwrap();
        let outcome = dialling.connect(driver, to, &through(proxy));
        if let Some(wanted) = wanted(&outcome) {
            return wanted;
        }
        assert!(Instant::now() < deadline, "{to} through {proxy:?}: {outcome:?}");
    }
}

fn until_reply(dialling: &Dialling, to: &Destination, proxy: &Proxy, wanted: Socks5Reply) {
    until(dialling, to, proxy, |outcome| match outcome.as_ref().map_err(ConnectError::kind) {
        Err(ConnectErrorKind::ProxyReplied { reply, .. }) if *reply == wanted => Some(()),
        _ => None,
    });
}

fn until_connected(dialling: &Dialling, to: &Destination, proxy: &Proxy) -> ConnectionId {
    until(dialling, to, proxy, |outcome| outcome.as_ref().ok().copied())
}

#[test]
fn two_nodes_shake_hands_over_an_onion_service() {
    let tor = &*TOR;
    let endpoint = tor.socks.endpoint().to_string();
    let to = format!("{}:8333", tor.onion);
    let began = Instant::now();
    let mut dialling = node(&["--onion", &endpoint, "--connect", &to, "--network", "regtest"]);
    let deadline = Instant::now() + READY;
    loop {
        let is_done = dialling.wait_for_line("an outcome", |line| {
            if line.contains("handshake with /sockman-node:") {
                Some(true)
            } else {
                line.contains("cannot connect").then_some(false)
            }
        });
        if is_done {
            break;
        }
        assert!(Instant::now() < deadline, "no handshake");
    }
    println!("the handshake over the onion service was done after {:?}", began.elapsed());
    dialling.wait_for_line("a pong", |line| line.contains("ping took").then_some(()));
    let mut listening = tor.node.lock().unwrap();
    listening.wait_for_line("the other's handshake", |line| {
        line.contains("handshake with /sockman-node:").then_some(())
    });
    // On SIGTERM the node prints a last table, which shows the network.
    let command = format!("kill -s TERM {}", dialling.child.id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    let (code, text) = dialling.wait_for_end();
    assert_eq!(code, Some(0));
    assert!(text.contains("outbound    onion") && text.contains(&to), "{text}");
}

/// LDK's node from the examples of `lightning-net-sockman` reaches another one.
#[test]
fn lightning_nodes_shake_hands_over_an_onion_service() {
    let tor = &*TOR;
    let proxy = tor.socks.endpoint().to_string();
    let peer = format!("{}@{}:9735", tor.lightning_id, tor.onion);
    let arguments = ["--seed", "1", "--tor", &proxy, "--peer", &peer];
    // The node dials again after half a minute if the onion service is not known yet.
    let mut dialling = listening(workspace_example("lightning-net-sockman", "node"), &arguments);
    let id = rest_of_line(&mut dialling, "node ");
    dialling.wait_for_line_within(READY, "a connection", |line| {
        line.starts_with("connected to ").then_some(())
    });
    let theirs = format!("Finished noise handshake for connection with {id}");
    let mut lightning_node = tor.lightning_node.lock().unwrap();
    lightning_node.wait_for_line(&theirs, |line| line.contains(&theirs).then_some(()));
}

#[test]
fn each_unreachable_onion_service_has_its_own_reply() {
    let tor = &*TOR;
    let dialling = Dialling::start();
    let reply = |host: &str, port: u16, wanted| {
        until_reply(&dialling, &name(host, port), &tor.socks, wanted);
    };
    until_connected(&dialling, &name(&tor.onion.to_uppercase(), 8333), &tor.socks);
    // A valid address without a service in this network.
    let nobody = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
    reply(nobody, 8333, Socks5Reply::OnionServiceNotFound);
    let damaged = format!("a{}", &nobody[1..]);
    reply(&damaged, 8333, Socks5Reply::OnionServiceBadAddress);
    reply("short.onion", 8333, Socks5Reply::OnionServiceBadAddress);
    reply("expyuzz4wqqyqhjn.onion", 8333, Socks5Reply::OnionServiceBadAddress);
    reply(&tor.onion, 8334, Socks5Reply::ConnectionRefused);
    reply(&tor.onion, 9999, Socks5Reply::GeneralFailure);
    reply(&tor.onion_unknown_client, 8333, Socks5Reply::OnionServiceMissingClientAuth);
    reply(&tor.onion_wrong_client, 8333, Socks5Reply::OnionServiceWrongClientAuth);

    // The plain SOCKS port is configured without the flag `ExtendedErrors`.
    until_reply(&dialling, &name(nobody, 8333), &tor.plain_socks, Socks5Reply::HostUnreachable);
    until_reply(&dialling, &name(&damaged, 8333), &tor.plain_socks, Socks5Reply::GeneralFailure);
}

#[test]
fn a_socks_port_on_a_unix_domain_path_works() {
    let tor = &*TOR;
    let dialling = Dialling::start();
    let to = format!("{}:8333", tor.onion).parse().unwrap();
    let id = until_connected(&dialling, &to, &tor.unix_socks);
    let info = dialling.running.sockman.connection_info(id).unwrap();
    assert_eq!((info.me, info.them), (Service::UNIX_UNNAMED, to));
}

#[test]
fn exits_reach_a_listener_and_report_a_closed_port() {
    let tor = &*TOR;
    let dialling = Dialling::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    until_connected(&dialling, &listener.local_addr().unwrap().into(), &tor.socks);
    let nobody = "127.0.0.1:1".parse().unwrap();
    until_reply(&dialling, &nobody, &tor.socks, Socks5Reply::GeneralFailure);
}

/// Returns the circuits of the open streams to `target`.
fn circuits(tor: &Tor, target: &str) -> Vec<String> {
    let mut control = UnixStream::connect(&tor.control).unwrap();
    control.write_all(b"AUTHENTICATE\r\nGETINFO stream-status\r\nQUIT\r\n").unwrap();
    BufReader::new(control)
        .lines()
        .map(Result::unwrap)
        .filter_map(|line| {
            // A single stream is on the first line of the answer.
            let line = line.trim_start_matches("250-stream-status=").to_owned();
            let mut words = line.split(' ').map(str::to_owned);
            let (_, status, circuit, to) =
                (words.next()?, words.next()?, words.next()?, words.next()?);
            (status == "SUCCEEDED" && to == target).then_some(circuit)
        })
        .collect()
}

/// The number of connections. Without isolation, some of this many connections share a circuit.
const MANY: usize = 6;

#[test]
fn isolated_connections_have_circuits_of_their_own() {
    let tor = &*TOR;
    let dialling = Dialling::start();
    let circuits_of = |proxy: &Proxy| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let ids: Vec<_> =
            (0..MANY).map(|_| until_connected(&dialling, &to.into(), proxy)).collect();
        let circuits = circuits(tor, &to.to_string());
        assert_eq!(circuits.len(), MANY, "{circuits:?}");
        assert!(ids.into_iter().all(|id| dialling.running.sockman.close_connection(id)));
        circuits.into_iter().collect::<HashSet<String>>().len()
    };
    // Tor may use a new circuit at any time, but not for each connection.
    assert!(circuits_of(&tor.socks) < MANY);
    assert_eq!(circuits_of(&tor.socks.clone().tor_stream_isolation()), MANY);
}
