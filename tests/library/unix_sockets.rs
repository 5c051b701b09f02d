//! Unix-domain sockets: what they share with TCP, what differs, and their files.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use sockman::{
    ConnectOptions, ConnectionId, Interrupt, Options, Service, SockMan, SocketsThreads,
    address::{Destination, UnixAddr},
    error::{BindError, BindErrorKind, ConnectError, ConnectErrorKind, InvalidAddrError},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder,
    blackhole::UnixBlackhole,
    descriptors::send_along,
    tools::{Gate, Random, Spy, TempDir, run_passes, until, wait_until_hung_up},
    without_sweep,
};

/// A `SockMan` that listens on its own path and stops when dropped.
struct Listening {
    sockman: SockMan,
    path: PathBuf,
    threads: Option<SocketsThreads>,
    dir: TempDir,
}

impl Listening {
    fn start(handler: Arc<Recorder>, options: Options) -> Listening {
        let dir = TempDir::new();
        let path = dir.path("sock");
        let sockman = SockMan::new(handler, options).unwrap();
        let address = Service::unix(&path).unwrap();
        assert_eq!(sockman.bind_and_start_listening(&address).unwrap(), address);
        let threads = Some(sockman.start_sockets_threads().unwrap());
        Listening { sockman, path, threads, dir }
    }

    fn client(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.sockman.interrupt();
        let joined = self.threads.take().unwrap().join();
        if !thread::panicking() {
            joined.unwrap();
        }
    }
}

fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn destination(path: &Path) -> Destination {
    Service::unix(path).unwrap().into()
}

fn with_deadline() -> ConnectOptions {
    ConnectOptions::default().timeout(DEADLINE)
}

/// Returns the events of `id` without the first event, which is `Accepted`. Data that arrived in
/// several events in a row is one event in the result.
fn reported(handler: &Recorder, id: ConnectionId) -> Vec<Event> {
    let mut reported: Vec<Event> = Vec::new();
    for event in handler.events_of(id).into_iter().skip(1) {
        match (reported.last_mut(), event) {
            (Some(Event::Data(_, before)), Event::Data(_, more)) => before.extend(more),
            (_, event) => reported.push(event),
        }
    }
    reported
}

/// G5
#[test]
fn two_sockmans_exchange_bytes_over_a_path() {
    let (server, client) = (Recorder::new(), Recorder::new());
    let serving = Listening::start(server.clone(), without_sweep());
    let dialling = Listening::start(client.clone(), without_sweep());
    let to = destination(&serving.path);
    let connection = dialling.sockman.connect(&to, &with_deadline()).unwrap();
    assert_eq!(*connection.me(), Service::UNIX_UNNAMED);
    let outbound = connection.activate();
    let inbound = server.wait_for_accepted(0);
    for (from, id) in [(&dialling, outbound), (&serving, inbound)] {
        assert_eq!(from.sockman.send_bytes(id, b"hello").unwrap(), 5);
    }
    assert_eq!(server.wait_for_bytes(inbound, 5), b"hello");
    assert_eq!(client.wait_for_bytes(outbound, 5), b"hello");
    assert!(dialling.sockman.close_connection(outbound));
    server.wait_for_eof(inbound);
    run_passes(&serving.sockman, 1);
    assert_eq!(
        reported(&server, inbound),
        [Event::Data(inbound, b"hello".into()), Event::Eof(inbound)]
    );
}

/// G5: pieces of all sizes, some around the buffer's size, and the end in the same event.
#[test]
fn everything_is_delivered_in_order_and_then_the_end() {
    for buffer in [3, 1000, 64 * 1024] {
        let handler = Recorder::new();
        let options = without_sweep().receive_buffer(buffer);
        let listening = Listening::start(handler.clone(), options);
        let mut random = Random::new(buffer as u64);
        let mut accepted = 0;
        for length in [1, buffer - 1, buffer, buffer + 1, 2 * buffer, 5 * buffer + 1] {
            for round in 0..10 {
                let bytes = random.bytes(length);
                let mut client = listening.client();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(random.up_to(rest.len()));
                    client.write_all(piece).unwrap();
                    rest = more;
                }
                let id = handler.wait_for_accepted(accepted);
                accepted += 1;
                if round % 2 == 0 {
                    assert_eq!(handler.wait_for_bytes(id, length), bytes);
                }
                drop(client);
                handler.wait_for_eof(id);
                assert_eq!(reported(&handler, id), [Event::Data(id, bytes), Event::Eof(id)]);
                listening.sockman.close_connection(id);
            }
        }
    }
}

/// G13
#[test]
fn an_unnamed_peer_is_reported_as_unnamed_and_a_named_peer_by_its_name() {
    let handler = Recorder::new();
    let listening = Listening::start(handler.clone(), without_sweep());
    let me_and_them = |n| {
        let id = handler.wait_for_accepted(n);
        let info = listening.sockman.connection_info(id).unwrap();
        assert_eq!(
            handler.events_of(id)[0],
            Event::Accepted { id, me: info.me.clone(), them: info.them.service().unwrap().clone() }
        );
        (info.me, info.them)
    };
    let path = Service::unix(&listening.path).unwrap();

    let _unnamed = listening.client();
    assert_eq!(me_and_them(0), (path.clone(), Service::UNIX_UNNAMED.into()));
    assert_ne!(path, Service::UNIX_UNNAMED);

    let name = listening.dir.path("peer");
    let named = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    named.bind(&SockAddr::unix(&name).unwrap()).unwrap();
    named.connect(&SockAddr::unix(&listening.path).unwrap()).unwrap();
    assert_eq!(me_and_them(1), (path, Service::unix(&name).unwrap().into()));
}

/// G5: a receive ends early at each piece of ancillary data, and the bytes behind it cause no
/// further edge. The descriptors that came along are closed and do not leak.
#[test]
fn bytes_around_ancillary_data_are_delivered_without_the_sweep() {
    let gate = Gate::new();
    let handler = Recorder::with_reaction({
        let gate = Arc::clone(&gate);
        move |_, event| {
            if matches!(event, Event::Data(_, data) if data == b"hold") {
                gate.hold();
            }
        }
    });
    let listening = Listening::start(handler.clone(), without_sweep());
    let mut holder = listening.client();
    for round in 0..100 {
        let mut client = listening.client();
        let id = handler.wait_for_accepted(round + 1);
        let (mut kept, passed) = UnixStream::pair().unwrap();
        kept.set_read_timeout(Some(DEADLINE)).unwrap();
        let passed = OwnedFd::from(passed);
        // In even rounds everything arrives in one event.
        let at_once = round % 2 == 0;
        if at_once {
            holder.write_all(b"hold").unwrap();
            gate.wait_until_held();
        }
        client.write_all(b"before").unwrap();
        send_along(&client, b"with", passed.as_raw_fd());
        client.write_all(b"between").unwrap();
        send_along(&client, b"with", passed.as_raw_fd());
        client.write_all(b"behind").unwrap();
        if at_once {
            gate.open();
        }
        drop(passed);
        let expected = b"beforewithbetweenwithbehind";
        assert_eq!(handler.wait_for_bytes(id, expected.len()), expected);
        assert_eq!(read_to_end(&mut kept), b"", "the library must close the passed descriptor");
        drop(client);
        handler.wait_for_eof(id);
        assert_eq!(reported(&handler, id), [Event::Data(id, expected.to_vec()), Event::Eof(id)]);
        listening.sockman.close_connection(id);
    }
}

/// G5: an orderly end is reported as an end and not as an error, whichever sends fail meanwhile.
#[test]
fn a_peer_that_closes_in_order_ends_in_eof_even_if_sends_fail() {
    let gate = Gate::new();
    let handler = Recorder::with_reaction({
        let gate = Arc::clone(&gate);
        move |sockman, event| match event {
            Event::Data(_, data) if data == b"hold" => gate.hold(),
            Event::Eof(id) => assert!(sockman.send_bytes(*id, b"x").is_err()),
            _ => {}
        }
    });
    let listening = Listening::start(handler.clone(), without_sweep());
    let mut holder = listening.client();
    for round in 0..50 {
        let mut client = listening.client();
        let id = handler.wait_for_accepted(round + 1);
        if round % 2 == 0 {
            holder.write_all(b"hold").unwrap();
            gate.wait_until_held();
        }
        client.write_all(b"bye").unwrap();
        client.shutdown(Shutdown::Both).unwrap();
        assert!(listening.sockman.send_bytes(id, b"x").is_err());
        if round % 2 == 0 {
            gate.open();
        }
        handler.wait_for_eof(id);
        wait_until_hung_up(&listening.sockman, id);
        run_passes(&listening.sockman, 2);
        assert_eq!(reported(&handler, id), [Event::Data(id, b"bye".to_vec()), Event::Eof(id)]);
        listening.sockman.close_connection(id);
    }
}

/// G5: a unix-domain peer that closes with unread bytes resets the connection.
#[test]
fn a_reset_is_reported_after_the_data() {
    let handler = Recorder::new();
    let listening = Listening::start(handler.clone(), without_sweep());
    for round in 0..50 {
        let mut client = listening.client();
        let id = handler.wait_for_accepted(round);
        assert_eq!(listening.sockman.send_bytes(id, b"unread").unwrap(), 6);
        client.write_all(b"data").unwrap();
        drop(client);
        assert_eq!(handler.wait_for_read_error(id), ErrorKind::ConnectionReset);
        run_passes(&listening.sockman, 1);
        assert_eq!(
            reported(&handler, id),
            [Event::Data(id, b"data".to_vec()), Event::ReadError(id, ErrorKind::ConnectionReset)]
        );
        listening.sockman.close_connection(id);
    }
}

/// G5
#[test]
fn half_closes_work_both_ways() {
    let handler = Recorder::new();
    let listening = Listening::start(handler.clone(), without_sweep());
    let mut client = listening.client();
    let id = handler.wait_for_accepted(0);
    listening.sockman.shutdown_write(id).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    client.write_all(b"data").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    handler.wait_for_eof(id);

    let mut client = listening.client();
    let id = handler.wait_for_accepted(1);
    client.shutdown(Shutdown::Write).unwrap();
    handler.wait_for_eof(id);
    assert_eq!(listening.sockman.send_bytes(id, b"reply").unwrap(), 5);
    listening.sockman.close_connection(id);
    assert_eq!(read_to_end(&mut client), b"reply");
}

/// G4
#[test]
fn the_peer_sees_a_close_at_once() {
    let handler = Recorder::new();
    let spy = Spy::default();
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let listening = Listening::start(handler.clone(), options);
    let mut client = listening.client();
    let id = handler.wait_for_accepted(0);
    run_passes(&listening.sockman, 2);
    assert!(listening.sockman.close_connection(id));
    assert_eq!(read_to_end(&mut client), b"");
    until("the descriptor is closed", || spy.open() == 1);
}

fn is_in_use(result: &Result<Service, BindError>) -> bool {
    matches!(result.as_ref().map_err(BindError::kind), Err(BindErrorKind::AddressInUse { .. }))
}

/// `bind` never unlinks a path, whether it is a socket in use, a stale socket or a file.
#[test]
fn a_path_in_use_is_left_alone_by_bind() {
    let dir = TempDir::new();
    let spy = Spy::default();
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let sockman = SockMan::new(Recorder::new(), options).unwrap();
    let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();

    let live = dir.path("live");
    let listener = UnixListener::bind(&live).unwrap();
    let stale = dir.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let file = dir.path("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path("link");
    std::os::unix::fs::symlink(dir.path("nowhere"), &link).unwrap();
    for path in [&live, &stale, &file, &link] {
        let before = inode(path);
        assert!(is_in_use(&sockman.bind_and_start_listening(Service::unix(path).unwrap())));
        assert_eq!(inode(path), before);
    }
    // `stop_listening` and the drop of the `SockMan` unlink no path either.
    sockman.stop_listening();
    drop(sockman);
    assert_eq!(spy.open(), 0);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert!(stale.exists() && fs::symlink_metadata(&link).is_ok());
    UnixStream::connect(&live).unwrap();
    listener.accept().unwrap();
}

/// `stop_listening` removes the path that `bind` made. Connections stay open.
#[test]
fn stop_listening_removes_the_path_that_bind_made() {
    let handler = Recorder::new();
    let listening = Listening::start(handler.clone(), without_sweep());
    assert!(fs::metadata(&listening.path).unwrap().file_type().is_socket());
    let mut client = listening.client();
    let id = handler.wait_for_accepted(0);
    listening.sockman.stop_listening();
    assert!(!listening.path.exists());
    assert_eq!(UnixStream::connect(&listening.path).unwrap_err().kind(), ErrorKind::NotFound);
    client.write_all(b"still here").unwrap();
    handler.wait_for_bytes(id, 10);

    // The path can be bound again.
    let address = Service::unix(&listening.path).unwrap();
    listening.sockman.bind_and_start_listening(&address).unwrap();
    let _client = listening.client();
    handler.wait_for_accepted(1);
}

/// Another program has replaced the library's socket file by a file of its own.
#[test]
fn stop_listening_does_not_remove_a_replaced_file() {
    let dir = TempDir::new();
    let path = dir.path("sock");
    for by_drop in [false, true] {
        let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
        sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        if !by_drop {
            sockman.stop_listening();
        }
        drop(sockman);
        UnixStream::connect(&path).unwrap();
        other.accept().unwrap();
        fs::remove_file(&path).unwrap();
    }
}

/// The next listener on the path may get the same inode. The drop of the first listener must not
/// remove the path.
#[test]
fn a_stopped_listener_does_not_remove_the_path_of_the_next() {
    let gate = Gate::new();
    let holds = Arc::new(AtomicBool::new(false));
    let handler = Recorder::of_everything({
        let (gate, holds) = (Arc::clone(&gate), Arc::clone(&holds));
        move |_, event| {
            if *event == Event::CompletedForAll && holds.swap(false, Ordering::SeqCst) {
                gate.hold();
            }
        }
    });
    let listening = Listening::start(handler, without_sweep());
    let address = Service::unix(&listening.path).unwrap();
    for _ in 0..200 {
        // The socket thread drops the old listener only when the new one has its path.
        holds.store(true, Ordering::SeqCst);
        listening.sockman.notify();
        gate.wait_until_held();
        listening.sockman.stop_listening();
        listening.sockman.bind_and_start_listening(&address).unwrap();
        gate.open();
        run_passes(&listening.sockman, 1);
        assert!(listening.path.exists());
    }
}

/// The next file at the path certainly has the inode of the old socket file, because the test
/// renames a second link of the old file to the path.
#[test]
fn a_stopped_listener_does_not_remove_the_next_file_of_its_inode() {
    let gate = Gate::new();
    let holds = Arc::new(AtomicBool::new(false));
    let handler = Recorder::of_everything({
        let (gate, holds) = (Arc::clone(&gate), Arc::clone(&holds));
        move |_, event| {
            if *event == Event::CompletedForAll && holds.swap(false, Ordering::SeqCst) {
                gate.hold();
            }
        }
    });
    let listening = Listening::start(handler, without_sweep());
    let other_name = listening.path.with_extension("next");
    fs::hard_link(&listening.path, &other_name).unwrap();
    holds.store(true, Ordering::SeqCst);
    listening.sockman.notify();
    gate.wait_until_held();
    listening.sockman.stop_listening();
    assert!(!listening.path.exists());
    fs::rename(&other_name, &listening.path).unwrap();
    gate.open();
    // The socket thread drops the listener in this pass.
    run_passes(&listening.sockman, 1);
    assert!(listening.path.exists());
}

/// Dropping the last handle removes the path, as `stop_listening` does.
#[test]
fn dropping_the_last_handle_removes_the_path() {
    let dir = TempDir::new();
    let path = dir.path("sock");
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    drop(sockman.clone());
    assert!(path.exists());
    drop(threads);
    assert!(path.exists());
    drop(sockman);
    assert!(!path.exists());
}

/// The library does not remove the path of a listener that the embedder bound.
#[test]
fn the_path_of_an_adopted_listener_stays() {
    let dir = TempDir::new();
    let path = dir.path("sock");
    let handler = Recorder::new();
    let sockman = SockMan::new(handler.clone(), without_sweep()).unwrap();
    let adopted = UnixListener::bind(&path).unwrap();
    assert_eq!(sockman.start_listening_on(adopted).unwrap(), Service::unix(&path).unwrap());
    let threads = sockman.start_sockets_threads().unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    handler.wait_for_accepted(0);
    sockman.stop_listening();
    drop(threads);
    drop(sockman);
    assert!(path.exists());
}

#[test]
fn paths_too_long_or_with_a_nul_are_errors() {
    assert!(matches!(Service::unix("/a\0b"), Err(InvalidAddrError::UnixPathHasNul)));
    assert!(matches!(Service::unix(""), Err(InvalidAddrError::UnixPathEmpty)));
    let too_long = format!("/{}", "x".repeat(UnixAddr::MAX_BYTES));
    assert!(matches!(
        Service::unix(too_long),
        Err(InvalidAddrError::UnixTooLong { max: UnixAddr::MAX_BYTES, .. })
    ));

    // A peer may have a path without a terminator; the library neither binds nor dials one.
    let dir = TempDir::new();
    let longest = |bytes: usize| {
        let fixed = dir.path("").to_str().unwrap().len();
        dir.path(&"x".repeat(bytes - fixed))
    };
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    for unusable in [Service::unix(longest(UnixAddr::MAX_BYTES)).unwrap(), Service::UNIX_UNNAMED] {
        assert!(matches!(
            sockman.bind_and_start_listening(&unusable).as_ref().map_err(BindError::kind),
            Err(BindErrorKind::Unsupported)
        ));
        assert!(matches!(
            sockman.connect(&unusable, &with_deadline()).as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::InvalidDestination)
        ));
    }
    let longest = Service::unix(longest(UnixAddr::MAX_BYTES - 1)).unwrap();
    assert_eq!(sockman.bind_and_start_listening(&longest).unwrap(), longest);
    drop(sockman.connect(longest, &with_deadline()).unwrap());
    assert_eq!(sockman.stats().connections, 0);
}

#[test]
fn a_connect_to_a_path_without_a_listener_fails_at_once() {
    let dir = TempDir::new();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let stale = dir.path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(matches!(
        sockman.connect(destination(&stale), &with_deadline()).as_ref().map_err(ConnectError::kind),
        Err(ConnectErrorKind::Refused { .. })
    ));
    assert!(
        matches!(sockman.connect(destination(&dir.path("missing")), &with_deadline()).as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::Os { step: "connect", source, .. }) if source.kind() == ErrorKind::NotFound
        )
    );
    assert_eq!(sockman.stats().connections, 0);
}

/// Linux can report a false success here, so the test sends bytes through the connection.
#[test]
fn a_connect_to_a_full_backlog_succeeds_when_room_comes() {
    let UnixBlackhole { path, listener, fillers, .. } = &UnixBlackhole::new();
    let handler = Recorder::new();
    let listening = Listening::start(handler.clone(), without_sweep());
    let sockman = &listening.sockman;
    thread::scope(|scope| {
        let connect = scope.spawn(|| sockman.connect(destination(path), &with_deadline()));
        until("the connect is under way", || sockman.stats().connections == 1);
        assert_eq!(sockman.stats().connected, 0);
        for _ in fillers {
            assert!(!connect.is_finished());
            listener.accept().unwrap();
        }
        listener.set_nonblocking(true).unwrap();
        let mut peer = None;
        until("the connect completes", || {
            peer = listener.accept().ok();
            peer.is_some() || connect.is_finished()
        });
        let connection = connect.join().unwrap().unwrap();
        // The connect may have completed just after the last accept.
        let mut peer = peer.or_else(|| listener.accept().ok()).unwrap().0;
        peer.set_nonblocking(false).unwrap();
        assert_eq!(connection.them(), &Service::unix(path).unwrap());
        let id = connection.activate();
        assert_eq!(sockman.send_bytes(id, b"ping").unwrap(), 4);
        let mut received = [0; 4];
        peer.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"ping");
        peer.write_all(b"pong").unwrap();
        assert_eq!(handler.wait_for_bytes(id, 4), b"pong");
    });
}

#[test]
fn a_connect_to_a_full_backlog_ends_at_its_deadline_or_when_interrupted() {
    let blackhole = UnixBlackhole::new();
    let spy = Spy::default();
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let sockman = SockMan::new(Recorder::new(), options).unwrap();
    let (to, timeout) = (blackhole.destination(), Duration::from_millis(20));
    let outcome = sockman.connect(&to, &ConnectOptions::default().timeout(timeout));
    match outcome.map_err(ConnectError::into_kind) {
        Err(ConnectErrorKind::TimedOut { after, .. }) => assert!(after >= timeout),
        other => panic!("{other:?}"),
    }
    let cancel = Interrupt::new();
    thread::scope(|scope| {
        let connect = scope.spawn(|| sockman.connect(&to, &with_deadline().cancel(cancel.clone())));
        until("the connect is under way", || sockman.stats().connections == 1);
        cancel.interrupt();
        assert!(matches!(
            connect.join().unwrap().as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::Interrupted)
        ));
    });
    assert_eq!((sockman.stats().connections, spy.open()), (0, 0));
}

/// Returns `path` relative to the working directory.
fn relative(path: &Path) -> PathBuf {
    let depth = std::env::current_dir().unwrap().components().count() - 1;
    let up: PathBuf = std::iter::repeat_n("..", depth).collect();
    up.join(path.strip_prefix("/").unwrap())
}

#[test]
fn a_relative_path_can_be_bound_dialled_and_stopped() {
    let dir = TempDir::new();
    let path = dir.path("sock");
    let address = Service::unix(relative(&path)).unwrap();
    let handler = Recorder::new();
    let sockman = SockMan::new(handler.clone(), without_sweep()).unwrap();
    assert_eq!(sockman.bind_and_start_listening(&address).unwrap(), address);
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    let threads = sockman.start_sockets_threads().unwrap();
    let connection = sockman.connect(&address, &with_deadline()).unwrap();
    assert_eq!(connection.them(), &address);
    let info = sockman.connection_info(handler.wait_for_accepted(0)).unwrap();
    assert_eq!((info.me, info.them), (address, Service::UNIX_UNNAMED.into()));
    drop(connection);
    sockman.stop_listening();
    assert!(!path.exists());
    drop(threads);
}

/// An abstract name, which only Linux has, leaves no file to remove.
#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_can_be_bound_and_dialled() {
    use sockman::address::NetAddr;

    let name = format!("sockman-test-{}", std::process::id());
    let address = Service::new(NetAddr::unix_abstract(&name).unwrap(), 0);
    let handler = Recorder::new();
    let sockman = SockMan::new(handler.clone(), without_sweep()).unwrap();
    assert_eq!(sockman.bind_and_start_listening(&address).unwrap(), address);
    assert!(is_in_use(&sockman.bind_and_start_listening(&address)));
    let threads = sockman.start_sockets_threads().unwrap();
    let id = sockman.connect(&address, &with_deadline()).unwrap().activate();
    let inbound = handler.wait_for_accepted(0);
    assert_eq!(sockman.send_bytes(inbound, b"hello").unwrap(), 5);
    assert_eq!(handler.wait_for_bytes(id, 5), b"hello");
    assert_eq!(sockman.connection_info(inbound).unwrap().me, address);
    drop(threads);
}

/// The error names the failed call and says what to do.
#[test]
fn the_message_of_a_path_in_use_says_what_to_do() {
    let dir = TempDir::new();
    let path = dir.path("sock");
    drop(UnixListener::bind(&path).unwrap());
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let error = sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(path.to_str().unwrap()), "{message}");
    assert!(message.contains("remove it"), "{message}");
    let source = std::error::Error::source(&error).unwrap();
    let source: &io::Error = source.downcast_ref().unwrap();
    assert_eq!(source.kind(), ErrorKind::AddrInUse);
}

/// A parent that forked the daemon returns from main: the path belongs to the child, which still
/// listens. Here a copy of the listener that is on its way to another process stands for the child's
/// copy.
#[cfg(target_os = "linux")]
#[test]
fn the_path_of_a_listener_that_another_process_holds_stays() {
    use sockman_test_support::descriptors::of_path;

    let dir = TempDir::new();
    for is_held in [true, false] {
        let path = dir.path(if is_held { "held" } else { "alone" });
        let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
        sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
        let (to, from) = UnixStream::pair().unwrap();
        if is_held {
            send_along(&to, b"listener", of_path(&path));
        }
        drop(sockman);
        assert_eq!(path.exists(), is_held);
        if is_held {
            UnixStream::connect(&path).expect("the other process still listens");
        }
        drop((to, from));
    }
    // The embedder's call removes the path in any case, because it ends the listening for all.
    let path = dir.path("stopped");
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let (to, _from) = UnixStream::pair().unwrap();
    send_along(&to, b"listener", of_path(&path));
    sockman.stop_listening();
    assert!(!path.exists());
}
