//! G11: no free descriptors, and ten thousand short connections. (`tests/library/connection_cap.rs`
//! tests the connection cap.)
//!
//! A child process with a lowered limit runs out of descriptors. A client in the parent process
//! asks the child for its counters.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sockman::{
    ConnectOptions, ConnectionId, EventHandler, Interrupt, NextRecv, Options, Service, SockMan,
    address::Destination, error::ConnectErrorKind,
};
use sockman_test_support::{
    DEADLINE, Recorder, Running, child,
    child::{in_child, is_child},
    eventually, limits, reset, without_sweep,
};

/// Counts the log lines of level `info` and above.
struct CountingLog(AtomicUsize);

static LOG: CountingLog = CountingLog(AtomicUsize::new(0));

impl log::Log for CountingLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn flush(&self) {}
}

/// The server in the child. The server sends `+` on each new connection, and closes a connection
/// when the peer closes. The server answers any data with one line: log lines, passes, pauses of
/// the listener, connections.
struct Reporter;

impl EventHandler for Reporter {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        sockman.send_bytes(id, b"+").unwrap();
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, _: &[u8]) {
        let stats = sockman.stats();
        let line = format!(
            "{} {} {} {}\n",
            LOG.0.load(Ordering::SeqCst),
            stats.passes,
            stats.accept_pauses,
            stats.connections
        );
        sockman.send_bytes(id, line.as_bytes()).unwrap();
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        sockman.close_connection(id);
    }
}

/// How many descriptors the child has left for connections.
const DESCRIPTORS: usize = 20;

fn open_descriptors() -> usize {
    // One of the descriptors belongs to the directory itself.
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Serves until its standard input ends.
fn serve_with_few_descriptors(options: Options) {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let running = Running::start(Arc::new(Reporter), options);
    let limit = (open_descriptors() + DESCRIPTORS) as u64;
    limits::set_limit(limit, limit);
    println!("\naddress {}", running.address);
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A server in a child process, which ends when this is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(test: impl Fn()) -> Server {
        let mut child = child::start(test);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the child must print its address").unwrap();
            if let Some(address) = line.strip_prefix("address ") {
                break address.parse().unwrap();
            }
        };
        // Reads what the child prints at its end, so that the pipe does not fill.
        thread::spawn(move || lines.for_each(drop));
        Server { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn wait_until_accepted(stream: &mut TcpStream) {
    let mut greeting = [0];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"+");
}

#[derive(Debug, Clone, Copy)]
struct Report {
    log_lines: u64,
    passes: u64,
    pauses: u64,
    connections: u64,
}

fn ask(stream: &mut TcpStream) -> Report {
    stream.write_all(b"?").unwrap();
    let mut line = String::new();
    BufReader::new(&mut *stream).read_line(&mut line).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [log_lines, passes, pauses, connections] = numbers[..] else { panic!("{line}") };
    Report { log_lines, passes, pauses, connections }
}

/// G11, G7: one log line for each episode, established connections are served, the loop does not
/// spin, and accepting resumes by itself.
fn exhaustion(test: impl Fn(), options: Options) {
    if is_child() {
        return serve_with_few_descriptors(options);
    }
    let server = Server::start(test);
    let mut established = server.connect();
    wait_until_accepted(&mut established);

    for episode in 1..=2 {
        // Opens more new connections than the child has descriptors.
        let mut clients: Vec<_> = (0..2 * DESCRIPTORS).map(|_| server.connect()).collect();
        let mut report = ask(&mut established);
        eventually("the child's descriptors run out", || {
            report = ask(&mut established);
            report.log_lines == episode
        });
        // The bound allows one connection less, because the process may have opened one other
        // descriptor.
        assert!(report.connections + 1 >= DESCRIPTORS as u64, "descriptors are left: {report:?}");
        assert!(report.connections < 2 * DESCRIPTORS as u64, "the limit has no effect: {report:?}");

        let (began, before) = (Instant::now(), ask(&mut established));
        assert!(Interrupt::new().sleep_for(Duration::from_millis(400)));
        clients.extend((0..5).map(|_| server.connect()));
        let after = ask(&mut established);
        let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap();
        let passes = after.passes - before.passes;
        assert!(passes <= 12 + elapsed / 20, "{passes} passes in {elapsed} ms");
        let pauses = after.pauses - before.pauses;
        assert!(pauses <= 2 + elapsed / 100, "{pauses} pauses in {elapsed} ms");
        assert_eq!(after.log_lines, episode, "an episode must log one line: {after:?}");

        // When clients leave, descriptors become free and waiting clients are accepted.
        for mut client in clients {
            wait_until_accepted(&mut client);
        }
        eventually("the other connections are closed", || ask(&mut established).connections == 1);
        assert_eq!(ask(&mut established).log_lines, episode);
        // The episode ends when the listener looks again and finds no waiting client.
        let mut last = server.connect();
        wait_until_accepted(&mut last);
    }
    server.end();
}

/// G11
#[test]
fn without_descriptors_one_line_is_logged_and_accepting_resumes() {
    exhaustion(without_descriptors_one_line_is_logged_and_accepting_resumes, Options::default());
}

/// G11: the back-off works without the sweep.
#[test]
fn without_descriptors_and_sweep_accepting_resumes() {
    exhaustion(without_descriptors_and_sweep_accepting_resumes, without_sweep());
}

/// G11: a connect that gets no descriptor fails, and gives its place back.
#[test]
fn without_descriptors_connect_fails_and_gives_its_place_back() {
    in_child(without_descriptors_connect_fails_and_gives_its_place_back, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Destination::from(listener.local_addr().unwrap());
        let sockman = SockMan::new(Recorder::new(), without_sweep().max_connections(1)).unwrap();
        let limit = open_descriptors() as u64;
        let (soft, hard) = limits::limit();
        limits::set_limit(limit, hard);
        for _ in 0..3 {
            let error = sockman.connect(&to, &ConnectOptions::default()).unwrap_err();
            assert!(matches!(error.kind(), ConnectErrorKind::Os { .. }), "{error}");
            assert_eq!(sockman.stats().connections, 0);
        }
        limits::set_limit(soft, hard);
        let connection = sockman.connect(&to, &ConnectOptions::default()).unwrap();
        drop(connection);
        assert_eq!(sockman.stats().connections, 0);
    });
}

/// Counts the ends, and closes each connection at its end.
#[derive(Default)]
struct Closer {
    ended: AtomicUsize,
}

impl EventHandler for Closer {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let _ = sockman.send_bytes(id, data);
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        assert!(sockman.close_connection(id));
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        assert!(sockman.close_connection(id));
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// G11, G1: all descriptors are closed again (`memory.rs` tests the memory) after ten thousand
/// connections, half of which end with a reset.
#[test]
fn after_ten_thousand_short_connections_no_descriptor_is_left() {
    in_child(after_ten_thousand_short_connections_no_descriptor_is_left, || {
        let handler = Arc::new(Closer::default());
        let running = Running::start(handler.clone(), without_sweep());
        let before = open_descriptors();
        for round in 0..100 {
            let mut clients: Vec<_> = (0..100).map(|_| running.client()).collect();
            for (n, client) in clients.iter_mut().enumerate() {
                if n % 4 < 2 {
                    client.write_all(b"short").unwrap();
                }
            }
            for (n, mut client) in clients.into_iter().enumerate() {
                if n % 4 < 2 {
                    client.read_exact(&mut [0; 5]).unwrap();
                }
                if n % 2 == 0 {
                    reset(client);
                }
            }
            eventually("all connections have ended", || {
                handler.ended.load(Ordering::SeqCst) == 100 * (round + 1)
            });
        }
        let stats = running.sockman.stats();
        assert_eq!((stats.connections, stats.accepted, stats.closed), (0, 10_000, 10_000));
        running.sockman.notify();
        eventually("the descriptors are closed", || open_descriptors() == before);
        drop(running);
        assert!(open_descriptors() < before);
    });
}
