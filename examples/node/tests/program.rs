//! The program `node`: its output, its exit codes, and two processes that talk to each other.

#![cfg(unix)] // The signals, paths and modes of Unix.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use bitcoin::{
    consensus::encode::serialize,
    p2p::{
        Address, Magic, ServiceFlags,
        message::{NetworkMessage, RawNetworkMessage},
        message_network::VersionMessage,
    },
};
use sockman_node::testing::{mine_blocks, write_blocks};
use sockman_test_support::{
    DEADLINE,
    program::{
        Process, assert_lack_of_threads_is_told, assert_unix_path_is_handled, with_default_signals,
    },
    socks5,
    tools::TempDir,
};

fn node() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
    command.env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    node().args(arguments).output().unwrap()
}

fn spawn(arguments: &[&str]) -> Process {
    let mut command = with_default_signals(node().args(arguments));
    Process::new(command.stdout(Stdio::piped()).spawn().unwrap())
}

fn signal(process: &Process, name: &str) {
    // Uses the shell's `kill`, because the standard library can send only SIGKILL.
    let command = format!("kill -s {name} {}", process.child.id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

#[test]
fn the_demonstration_ends_by_itself_and_shows_both_tables() {
    let (code, text) = spawn(&[]).wait_for_end();
    assert_eq!(code, Some(0), "{text}");
    for expected in ["Alice's peers:", "Bob's peers:", "inbound", "outbound", "ipv4"] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    assert_eq!(text.matches("id   direction   network   address").count(), 2, "{text}");
    // Both nodes run in one process, so the ids of their peers are 0 and 1 in either order.
    let rows = text.lines().filter(|line| {
        line.trim_start().starts_with(['0', '1']) && line.contains("   v2    /sockman-node:")
    });
    assert_eq!(rows.count(), 2, "{text}");
    assert!(text.contains("2500 headers checked"), "{text}");
}

#[test]
fn bad_arguments_are_named_and_end_with_code_2() {
    let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:8333";
    let cases: [(&[&str], &str); 17] = [
        (&["--nonsense"], "--nonsense"),
        (&["stray"], "stray"),
        (&["--listen"], "--listen"),
        (&["--listen", "nowhere"], "nowhere"),
        (&["--connect", "example.org:8333"], "example.org:8333"),
        (&["--connect", "127.0.0.1:1", "--network", "moon"], "moon"),
        (&["--connect", "127.0.0.1:1", "--max-connections", "0"], "--max-connections"),
        (&["--network", "regtest"], "--listen or --connect"),
        (&["--connect", onion], "--onion"),
        (&["--connect", "example.org:8333", "--onion", "127.0.0.1:9050"], "--proxy"),
        (&["--connect", "example.org:8333", "--proxy", "nowhere"], "nowhere"),
        (&["--listen", "127.0.0.1:0", "--rpc-cookie", "x"], "--rpc"),
        (&["--listen", "127.0.0.1:0", "--web", "0.0.0.0:0"], "this machine"),
        (&["--connect", "127.0.0.1:1", "--i2p-tunnel-length", "0"], "--i2p-sam"),
        (&["--rpc", "127.0.0.1:0", "--tls-cert", "x"], "--tls-key"),
        (&["--rpc", "127.0.0.1:0", "--tls-key", "x"], "--tls-cert"),
        (&["--listen", "127.0.0.1:0", "--tls-cert", "x", "--tls-key", "x"], "--rpc or --web"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(expected), "{arguments:?}: {complaint}");
        assert!(output.stdout.is_empty());
    }
}

/// A node without the certificate that it was given does not serve without TLS.
#[test]
fn a_certificate_that_cannot_be_read_ends_the_program_with_code_1() {
    for server in ["--rpc", "--web"] {
        let directory = TempDir::new();
        let (cookie, missing) = (directory.path("cookie"), directory.path("missing.pem"));
        let missing = missing.to_str().unwrap();
        let mut arguments = vec!["--listen", "127.0.0.1:0", server, "127.0.0.1:0"];
        arguments.extend(["--tls-cert", missing, "--tls-key", missing]);
        if server == "--rpc" {
            arguments.extend(["--rpc-cookie", cookie.to_str().unwrap()]);
        }
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains("missing.pem"), "{complaint}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("RPC server") && !text.contains("are shown on"), "{text}");
        assert!(!cookie.exists());
    }
}

#[test]
fn help_names_every_option() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let source = include_str!("../src/bin/node/args.rs");
    let mut options = source.split("Arg::Long(\"").skip(1).peekable();
    assert!(options.peek().is_some());
    for option in options {
        let option = format!("--{} ", option.split('"').next().unwrap());
        assert!(help.contains(&option), "{option} is missing in:\n{help}");
    }
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
}

/// The cookie is the password of the first node, which still runs.
#[test]
fn a_second_node_that_fails_to_start_leaves_the_first_ones_cookie() {
    let directory = TempDir::new();
    let cookie = directory.path("cookie");
    let cookie_argument = cookie.to_str().unwrap();
    let mut first = spawn(&["--rpc", "127.0.0.1:0", "--rpc-cookie", cookie_argument]);
    let address = first.wait_for_line("its RPC", |line| {
        Some(line.strip_prefix("the RPC server listens on ")?.split(';').next().unwrap().to_owned())
    });
    let before = fs::read(&cookie).unwrap();
    let second = run(&["--rpc", &address, "--rpc-cookie", cookie_argument]);
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(fs::read(&cookie).unwrap(), before);
    signal(&first, "TERM");
    assert_eq!(first.wait_for_end().0, Some(0));
    assert!(!cookie.exists());
}

#[test]
fn an_address_in_use_ends_the_program_with_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&address));
}

#[test]
fn two_processes_talk_and_end_on_signals() {
    let mut listening = spawn(&["--listen", "127.0.0.1:0", "--network", "regtest"]);
    let address = listening
        .wait_for_line("its address", |line| line.strip_prefix("listening on ").map(str::to_owned));
    let mut dialling = spawn(&["--connect", &address, "--network", "regtest"]);
    for process in [&mut listening, &mut dialling] {
        process.wait_for_line("the handshake", |line| {
            line.contains("handshake with /sockman-node:").then_some(())
        });
        process.wait_for_line("a pong", |line| line.contains("ping took").then_some(()));
    }

    signal(&dialling, "TERM");
    let (code, text) = dialling.wait_for_end();
    assert_eq!(code, Some(0));
    assert!(text.contains("outbound"), "the last table is missing in:\n{text}");
    listening.wait_for_line("the end of the other", |line| {
        line.contains("disconnected: the peer closed the connection").then_some(())
    });
    signal(&listening, "INT");
    let (code, text) = listening.wait_for_end();
    assert_eq!((code, text.lines().last()), (Some(0), Some("stopped")));
}

#[test]
fn a_process_serves_the_headers_of_its_blocks_to_another_one() {
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &mine_blocks(30, 0));
    let path = folder.path("");
    let path = path.to_str().unwrap();
    let mut serving = spawn(&["--listen", "127.0.0.1:0", "--network", "regtest", "--blocks", path]);
    serving.wait_for_line("the blocks", |line| {
        line.contains("serves the blocks up to height 30").then_some(())
    });
    let address = serving
        .wait_for_line("its address", |line| line.strip_prefix("listening on ").map(str::to_owned));
    let mut dialling = spawn(&["--connect", &address, "--network", "regtest"]);
    dialling.wait_for_line("the headers", |line| line.contains("height now 30").then_some(()));
    for process in [serving, dialling] {
        signal(&process, "TERM");
        assert_eq!({ process }.wait_for_end().0, Some(0));
    }
}

#[test]
fn blocks_that_cannot_be_served_end_the_program_with_code_1() {
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &mine_blocks(1, 0));
    let path = folder.path("");
    let missing = folder.path("missing");
    for (path, expected) in [(&path, "follows the genesis block"), (&missing, "missing")] {
        let path = path.to_str().unwrap();
        let output = run(&["--listen", "127.0.0.1:0", "--network", "signet", "--blocks", path]);
        assert_eq!(output.status.code(), Some(1));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(expected), "{complaint}");
    }
}

/// Connects `count` times to a program that listens, and waits each time until the program has
/// closed the connection.
fn connect_and_close(address: &str, count: usize, bytes: &[u8]) {
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn peers_do_not_write_the_log() {
    let arguments = ["--listen", "127.0.0.1:0", "--network", "regtest", "--max-connections", "5"];
    let mut process = spawn(&arguments);
    let address = process
        .wait_for_line("its address", |line| line.strip_prefix("listening on ").map(str::to_owned));
    connect_and_close(&address, 500, b"");
    connect_and_close(&address, 500, b"GET / HTTP/1.1\r\n\r\n");
    // More than the node admits.
    let held: Vec<_> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    drop(held);
    signal(&process, "TERM");
    let (code, text) = process.wait_for_end();
    assert_eq!(code, Some(0));
    assert!(text.lines().count() < 30, "{text}");
}

#[test]
fn established_peers_write_a_bounded_number_of_lines() {
    let mut process = spawn(&["--listen", "127.0.0.1:0", "--network", "regtest"]);
    let address = process
        .wait_for_line("its address", |line| line.strip_prefix("listening on ").map(str::to_owned));
    let nobody = Address::new(&([0, 0, 0, 0], 0).into(), ServiceFlags::NONE);
    let version =
        VersionMessage::new(ServiceFlags::NONE, 0, nobody.clone(), nobody, 1, String::new(), 0);
    let mut greeting = Vec::new();
    for message in [NetworkMessage::Version(version), NetworkMessage::Verack] {
        greeting.extend(serialize(&RawNetworkMessage::new(Magic::REGTEST, message)));
    }
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(&greeting).unwrap();
        // The node sends a ping when the handshake is complete.
        let mut received = Vec::new();
        while !received.windows(5).any(|bytes| bytes == b"ping\0") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            received.push(byte[0]);
        }
    }
    signal(&process, "TERM");
    let (code, text) = process.wait_for_end();
    assert_eq!(code, Some(0));
    assert!(text.contains("handshake with"), "{text}");
    assert!(text.contains("lines about peers are left out"), "{text}");
    assert!(text.lines().count() < 60, "{text}");
}

/// Only the proxy can resolve the name, and each connection has its own credentials.
#[test]
fn two_processes_talk_through_a_proxy() {
    let mut listening = spawn(&["--listen", "127.0.0.1:0", "--network", "regtest"]);
    let address = listening
        .wait_for_line("its address", |line| line.strip_prefix("listening on ").map(str::to_owned));
    let proxy = socks5::proxy(move |mut stream| {
        assert_eq!(socks5::read_greeting(&mut stream), Some(vec![0, 2]), "isolated by default");
        stream.write_all(socks5::METHOD_PASSWORD).unwrap();
        socks5::read_credentials(&mut stream).unwrap();
        stream.write_all(socks5::AUTHENTICATED).unwrap();
        let request = socks5::read_request(&mut stream).unwrap();
        assert_eq!((request.host, request.port), (b"node.test".to_vec(), 8333));
        let peer = TcpStream::connect(&address).unwrap();
        stream.write_all(socks5::CONNECTED).unwrap();
        stream.set_read_timeout(None).unwrap();
        let (mut from, mut to) = (stream.try_clone().unwrap(), peer.try_clone().unwrap());
        let there = thread::spawn(move || io::copy(&mut from, &mut to));
        let _ = io::copy(&mut &peer, &mut &stream);
        let _ = stream.shutdown(Shutdown::Both);
        let _ = there.join();
    });
    let endpoint = proxy.endpoint().to_string();
    let mut dialling =
        spawn(&["--proxy", &endpoint, "--connect", "node.test:8333", "--network", "regtest"]);
    for process in [&mut listening, &mut dialling] {
        process.wait_for_line("the handshake", |line| {
            line.contains("handshake with /sockman-node:").then_some(())
        });
    }
    signal(&dialling, "TERM");
    let (code, text) = dialling.wait_for_end();
    assert_eq!(code, Some(0));
    assert!(text.contains("outbound    name      node.test:8333"), "{text}");
}

#[test]
fn a_signal_ends_a_node_that_cannot_connect() {
    // No process listens on port 1.
    let mut process = spawn(&["--connect", "127.0.0.1:1", "--max-connections", "1"]);
    process.wait_for_line("the failure", |line| {
        line.contains("cannot connect to 127.0.0.1:1").then_some(())
    });
    signal(&process, "TERM");
    assert_eq!(process.wait_for_end().0, Some(0));
}

/// RFC 7686: the proxy that resolves names never sees an onion or I2P address, however it is
/// spelled.
#[test]
fn the_proxy_for_names_never_sees_an_onion_or_i2p_address() {
    let label = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd";
    let (seen, asked) = mpsc::channel();
    let recording = |which: &'static str| {
        let seen = seen.clone();
        socks5::proxy(move |mut stream| {
            let _ = seen.send(which);
            socks5::stall(&mut stream);
        })
    };
    let (names, onions) = (recording("names"), recording("onions"));
    let (names, onions) = (names.endpoint().to_string(), onions.endpoint().to_string());
    for host in [format!("{label}.onion"), format!("{label}.onion."), format!("{label}.ONION.")] {
        let to = format!("{host}:8333");
        let node = spawn(&["--proxy", &names, "--onion", &onions, "--connect", &to]);
        assert_eq!(asked.recv_timeout(DEADLINE), Ok("onions"), "{to}");
        drop(node);
    }
    let hash = "ukeu3k5oycgaauneqgtnvselmt4yemvoilkln7jpvamvfx7dnkdq";
    for to in [
        format!("{hash}.b32.i2p:0"),
        format!("{hash}.B32.I2P.:0"),
        "stats.i2p:0".to_owned(),
        "stats.I2P.:8333".to_owned(),
        "service.onion..:8333".to_owned(),
        "onion.:8333".to_owned(),
    ] {
        let output = run(&["--proxy", &names, "--onion", &onions, "--connect", &to]);
        assert_eq!(output.status.code(), Some(2), "{to}");
    }
    assert!(asked.try_recv().is_err());
}

/// A page of another site must not take the places of the operator's page.
#[test]
fn the_web_page_answers_no_page_of_another_origin() {
    let mut process = spawn(&["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0"]);
    let address = process.wait_for_line("the page's address", |line| {
        let rest = line.strip_prefix("the peers are shown on http://")?;
        Some(rest.trim_end_matches('/').to_owned())
    });
    let status = |request: &str, headers: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let headers = headers.replace("OWN", &address);
        let head = format!("{request} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        String::from_utf8(line[9..].to_vec()).unwrap()
    };
    let own = [
        "",
        "Origin: http://OWN\r\n",
        "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Dest: empty\r\n",
        "Sec-Fetch-Site: none\r\nSec-Fetch-Dest: document\r\n",
    ];
    for headers in own {
        for request in ["GET /events", "GET /", "HEAD /"] {
            assert_eq!(status(request, headers), "200", "{request} {headers}");
        }
    }
    let foreign = [
        "Origin: http://evil.example\r\n",
        "Origin: http://OWN.evil.example\r\n",
        "Origin: http://OWN1\r\n",
        "Origin: http://OWN/\r\n",
        "Origin: https://OWN\r\n",
        "Origin: http://127.0.0.1\r\n",
        "Origin: http://localhost:1\r\n",
        "Origin: http://\r\n",
        "Origin: null\r\n",
        "Origin:\r\n",
        "Origin: http://OWN, http://evil.example\r\n",
        // An image or a script of another site has no Origin.
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: image\r\n",
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Dest: script\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: iframe\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ];
    for headers in foreign {
        for request in ["GET /events", "GET /", "HEAD /"] {
            assert_eq!(status(request, headers), "403", "{request} {headers}");
        }
    }
    assert_eq!(status("GET /events", "Origin: http://OWN\r\nOrigin: http://OWN\r\n"), "400");
    // A link on another site leads to the page, but not to its events.
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document\r\n";
    assert_eq!(status("GET /", link), "200");
    assert_eq!(status("GET /events", link), "403");
    signal(&process, "TERM");
    assert_eq!(process.wait_for_end().0, Some(0));
}

#[test]
fn every_signal_ends_the_program_in_order_and_an_unused_path_is_replaced() {
    let directory = TempDir::new();
    let (peers, rpc, cookie) =
        (directory.path("peers"), directory.path("rpc"), directory.path("cookie"));
    let unix = |path: &Path| format!("unix:{}", path.display());
    let for_peers = || {
        let mut command = node();
        command.args(["--listen", &unix(&peers)]);
        command
    };
    assert_unix_path_is_handled(for_peers, &peers, None);
    let for_rpc = || {
        let mut command = node();
        command.args(["--rpc", &unix(&rpc), "--rpc-cookie"]).arg(&cookie);
        command
    };
    assert_unix_path_is_handled(for_rpc, &rpc, Some(&cookie));
}

#[test]
fn a_lack_of_threads_is_one_line_and_an_exit_code() {
    assert_lack_of_threads_is_told(Path::new(env!("CARGO_BIN_EXE_node")), &[]);
    assert_lack_of_threads_is_told(
        Path::new(env!("CARGO_BIN_EXE_node")),
        &["--listen", "127.0.0.1:0"],
    );
}
