//! Tests of the system calls of `echo` and `node`, which strace counts.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::process::ExitStatusExt,
    process::Command,
    time::Duration,
};

use sockman_test_support::program::{Program, signal, workspace_example, workspace_program};

const SIGTERM: i32 = 15;

/// The socket thread makes one `recv` and one `send` for each message, and polls. Of 16
/// connections, those that are ready together share a poll. There are no further calls: no `recv`
/// that would block, no second `epoll_ctl` for a connection, no write to the waker.
#[test]
fn an_echoed_message_costs_one_recv_and_one_send() {
    const CONNECTIONS: usize = 16;
    const ROUNDS: usize = 200;
    let summary = std::env::temp_dir().join(format!("sockman-strace-{}", std::process::id()));
    let mut program = Program::start(
        Command::new("strace")
            .args(["-f", "-qq", "-c", "-U", "name,calls", "-o"])
            .arg(&summary)
            .arg(workspace_example("sockman", "echo"))
            .args(["echo", "0"]),
    );
    let line = program.wait_for_line("listening");
    let address = line.rsplit(' ').next().unwrap();
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        })
        .collect();
    for _ in 0..ROUNDS {
        for stream in &mut streams {
            stream.write_all(&[7; 64]).unwrap();
        }
        for stream in &mut streams {
            stream.read_exact(&mut [0; 64]).unwrap();
        }
    }
    // The signal goes to the traced program. When this program ends, strace writes its summary and
    // ends with the same signal.
    let children = format!("/proc/{0}/task/{0}/children", program.child.id());
    let traced = fs::read_to_string(children).unwrap();
    signal(traced.trim().parse().unwrap(), "TERM");
    assert_eq!(program.child.wait().unwrap().signal(), Some(SIGTERM));
    let text = fs::read_to_string(&summary).unwrap();
    fs::remove_file(&summary).unwrap();

    let calls: HashMap<&str, usize> = text
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let name = columns.next()?;
            Some((name, columns.next()?.parse().ok()?))
        })
        .collect();
    let messages = CONNECTIONS * ROUNDS;
    let count = |name: &str| calls.get(name).copied().unwrap_or(0);
    println!("{messages} messages: {calls:?}");
    // Each peer waits for its echo, so each message takes a read of its own.
    assert_eq!(count("sendto"), messages);
    assert!((messages..=messages + 2 * CONNECTIONS).contains(&count("recvfrom")));
    assert!(count("epoll_wait") <= messages + 200, "more polls than messages");
    assert!(count("epoll_ctl") <= CONNECTIONS + 10);
    assert!((CONNECTIONS..=2 * CONNECTIONS).contains(&count("accept4")), "accepts");
    assert!(count("write") <= 10, "the waker is written to");
    assert_eq!(
        count("setsockopt"),
        2,
        "more than the listener's two: accepted sockets must inherit TCP_NODELAY"
    );
}

/// The proxy resolves names. The library asks no resolver on this machine, and reads none of the
/// files that a resolver reads first.
#[test]
fn a_name_is_resolved_by_the_proxy_alone() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = proxy.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&[5, 0]).unwrap();
        let mut request = [0; 5 + 12 + 2];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        request[5..17].to_vec()
    });
    let calls = std::env::temp_dir().join(format!("sockman-names-{}", std::process::id()));
    let mut program = Program::start(
        Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=network,openat,open", "-o"])
            .arg(&calls)
            .arg(workspace_program("sockman-node", "node"))
            .args(["--proxy", &endpoint.to_string(), "--connect", "no.such.host:8333"]),
    );
    program.wait_for_line("the host is unreachable");
    assert_eq!(asked.join().unwrap(), b"no.such.host");
    let children = format!("/proc/{0}/task/{0}/children", program.child.id());
    let traced = fs::read_to_string(children).unwrap();
    signal(traced.trim().parse().unwrap(), "TERM");
    program.child.wait().unwrap();
    let text = fs::read_to_string(&calls).unwrap();
    fs::remove_file(&calls).unwrap();

    let connects: Vec<&str> = text.lines().filter(|line| line.contains(" connect(")).collect();
    let to_the_proxy = format!("sin_port=htons({})", endpoint.port());
    assert!(!connects.is_empty(), "strace saw nothing: {text}");
    assert!(connects.iter().all(|line| line.contains(&to_the_proxy)), "{connects:#?}");
    for resolvers in ["resolv.conf", "/etc/hosts", "nsswitch.conf", "sendmmsg(", "htons(53)"] {
        assert!(!text.contains(resolvers), "{resolvers} in: {text}");
    }
}
