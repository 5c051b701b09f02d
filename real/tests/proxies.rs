//! Tests of connects through the SOCKS5 servers microsocks and dante, over IPv4 and IPv6, with
//! and without credentials.
//!
//! The tests need both servers, and the account that `real/fixtures/socks/install.sh` creates. All
//! traffic stays on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::Instant,
};

use sockman::{
    ConnectOptions, ConnectionId,
    address::Destination,
    error::{ConnectError, ConnectErrorKind},
    proxy::{Credentials, Proxy, ProxyError, Socks5Reply},
};
use sockman_test_support::{
    DEADLINE,
    drivers::{DRIVERS, Driver},
    socks5::Dialling,
};

/// The account of `real/fixtures/socks/install.sh`.
const DANTE_USER: (&str, &str) = ("sockman-test", "not-a-secret");
const MICROSOCKS_USER: (&str, &str) = ("user", "password");
const SOCKS_PORT: u16 = 1080;

/// A server that ends when it is dropped.
struct Server {
    child: Child,
    proxy: Proxy,
    /// A folder that is removed with the server.
    files: Option<PathBuf>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The whole process group is killed, because dante's children would outlive it.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
        if let Some(files) = &self.files {
            let _ = fs::remove_dir_all(files);
        }
    }
}

/// Returns a loopback address that no other test uses.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

fn start(command: &mut Command, at: SocketAddr, files: Option<PathBuf>) -> Server {
    use std::os::unix::process::CommandExt;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; install microsocks and dante"));
    let mut server = Server { child, proxy: Proxy::socks5(at), files };
    let deadline = Instant::now() + DEADLINE;
    while TcpStream::connect(at).is_err() {
        if let Some(status) = server.child.try_wait().unwrap() {
            panic!("{command:?} ended: {status}");
        }
        assert!(Instant::now() < deadline, "{command:?} does not listen at {at}");
        thread::yield_now();
    }
    server
}

fn microsocks(at: SocketAddr, user: Option<(&str, &str)>) -> Server {
    let mut command = Command::new("microsocks");
    command.args(["-i", &at.ip().to_string(), "-p", &at.port().to_string()]);
    if let Some((name, password)) = user {
        command.args(["-u", name, "-P", password]);
    }
    start(&mut command, at, None)
}

/// A port to which a rule of dante's configuration forbids connects.
const FORBIDDEN_PORT: u16 = 666;

fn dante(at: SocketAddr, method: &str) -> Server {
    let name = format!("dante-{}-{}", at.ip(), at.port()).replace(':', "_");
    let files = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&files).unwrap();
    let configuration = format!(
        "logoutput: /dev/null\n\
         internal: {} port = {}\n\
         external: lo\n\
         clientmethod: none\n\
         socksmethod: {method}\n\
         user.privileged: root\n\
         user.unprivileged: nobody\n\
         client pass {{ from: 0/0 to: 0/0 }}\n\
         client pass {{ from: ::/0 to: ::/0 }}\n\
         socks block {{ from: 0/0 to: 127.0.0.0/8 port = {FORBIDDEN_PORT} }}\n\
         socks pass {{ from: 0/0 to: 127.0.0.0/8 command: connect }}\n\
         socks pass {{ from: 0/0 to: ::1/128 command: connect }}\n\
         socks pass {{ from: ::/0 to: ::1/128 command: connect }}\n\
         socks pass {{ from: ::/0 to: 127.0.0.0/8 command: connect }}\n\
         socks pass {{ from: 0/0 to: localhost command: connect }}\n",
        at.ip(),
        at.port()
    );
    let file = files.join("danted.conf");
    fs::write(&file, configuration).unwrap();
    let mut command = Command::new("danted");
    command.arg("-f").arg(&file).arg("-p").arg(files.join("pid"));
    start(&mut command, at, Some(files))
}

/// Returns a free port. IPv6 has only one loopback address, so the tests there differ by port.
fn free_on_ipv6() -> SocketAddr {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Starts a server that sends back what it receives in capital letters, and returns its address.
fn destination(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut buffer = [0; 1000];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
                    buffer.make_ascii_uppercase();
                    let _ = stream.write_all(&buffer[..bytes]);
                }
            });
        }
    });
    address
}

fn name(host: &str, port: u16) -> Destination {
    Destination::Name { host: host.to_owned(), port }
}

fn connect(
    dialling: &Dialling,
    driver: Driver,
    to: &Destination,
    proxy: &Proxy,
) -> Result<ConnectionId, ConnectError> {
    let options = ConnectOptions::default().proxy(proxy.clone()).timeout(DEADLINE);
    dialling.connect(driver, to, &options)
}

fn reply(dialling: &Dialling, driver: Driver, to: &Destination, proxy: &Proxy) -> Socks5Reply {
    match connect(dialling, driver, to, proxy).map_err(ConnectError::into_kind) {
        Err(ConnectErrorKind::ProxyReplied { reply, .. }) => reply,
        other => panic!("{to} through {proxy:?}: {other:?}"),
    }
}

fn fault(dialling: &Dialling, driver: Driver, proxy: &Proxy) -> ProxyError {
    match connect(dialling, driver, &name("localhost", 1), proxy).map_err(ConnectError::into_kind) {
        Err(ConnectErrorKind::ProxyFailed { error, .. }) => error,
        other => panic!("{proxy:?}: {other:?}"),
    }
}

/// Asserts that connects through the proxy work for addresses of both families and for names.
fn assert_serves(proxy: &Proxy) {
    let dialling = Dialling::start();
    let (v4, v6) =
        (destination(Ipv4Addr::LOCALHOST.into()), destination(Ipv6Addr::LOCALHOST.into()));
    for driver in DRIVERS {
        for to in [v4.into(), v6.into(), name("localhost", v4.port())] {
            let id = connect(&dialling, driver, &to, proxy).unwrap();
            dialling.running.sockman.send_bytes(id, b"through it").unwrap();
            assert_eq!(dialling.recorder.wait_for_bytes(id, 10), b"THROUGH IT", "{to}");
        }
        // Nothing listens on port 1.
        for to in [name("localhost", 1), "127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]
        {
            assert_eq!(reply(&dialling, driver, &to, proxy), Socks5Reply::ConnectionRefused);
        }
    }
}

fn credentials((name, password): (&str, &str)) -> Credentials {
    Credentials::new(name, password).unwrap()
}

#[test]
fn microsocks_without_credentials_over_ipv4_and_ipv6() {
    for at in [(own_address(), SOCKS_PORT).into(), free_on_ipv6()] {
        let server = microsocks(at, None);
        assert_serves(&server.proxy);
        // The client offers unique credentials, and the server does not ask for them.
        assert_serves(&server.proxy.clone().tor_stream_isolation());
        let dialling = Dialling::start();
        for driver in DRIVERS {
            for host in ["nobody.invalid", &"n".repeat(255)] {
                let reply = reply(&dialling, driver, &name(host, 1), &server.proxy);
                assert_eq!(reply, Socks5Reply::GeneralFailure);
            }
        }
    }
}

#[test]
fn microsocks_with_credentials() {
    let server = microsocks((own_address(), SOCKS_PORT).into(), Some(MICROSOCKS_USER));
    assert_serves(&server.proxy.clone().credentials(credentials(MICROSOCKS_USER)));
    let dialling = Dialling::start();
    for driver in DRIVERS {
        let fault_of = |proxy: &Proxy| fault(&dialling, driver, proxy);
        assert!(matches!(fault_of(&server.proxy), ProxyError::NoAcceptableMethod));
        let wrong = server.proxy.clone().credentials(credentials(("user", "wrong")));
        assert!(matches!(fault_of(&wrong), ProxyError::CredentialsRejected { status: 2 }));
        let isolated = server.proxy.clone().tor_stream_isolation();
        assert!(matches!(fault_of(&isolated), ProxyError::CredentialsRejected { status: 2 }));
    }
}

#[test]
fn dante_without_credentials_over_ipv4_and_ipv6() {
    for at in [(own_address(), SOCKS_PORT).into(), free_on_ipv6()] {
        let server = dante(at, "none");
        assert_serves(&server.proxy);
        let dialling = Dialling::start();
        for driver in DRIVERS {
            // The bound addresses in these replies are names of 14 and of 255 bytes.
            for host in ["nobody.invalid", &"n".repeat(255)] {
                let reply = reply(&dialling, driver, &name(host, 1), &server.proxy);
                assert_eq!(reply, Socks5Reply::HostUnreachable);
            }
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, FORBIDDEN_PORT)).into();
            let reply = reply(&dialling, driver, &to, &server.proxy);
            assert_eq!(reply, Socks5Reply::NotAllowed);
        }
    }
}

#[test]
fn dante_with_credentials() {
    let server = dante((own_address(), SOCKS_PORT).into(), "username");
    assert_serves(&server.proxy.clone().credentials(credentials(DANTE_USER)));
    let dialling = Dialling::start();
    for driver in DRIVERS {
        let fault_of = |proxy: &Proxy| fault(&dialling, driver, proxy);
        assert!(matches!(fault_of(&server.proxy), ProxyError::NoAcceptableMethod));
        let wrong = server.proxy.clone().credentials(credentials((DANTE_USER.0, "wrong")));
        assert!(matches!(fault_of(&wrong), ProxyError::CredentialsRejected { status: 1 }));
    }
}
