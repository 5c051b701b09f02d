//! Connected streams from elsewhere, and connections that leave the `SockMan`.

#[cfg(unix)]
use std::os::{
    fd::AsRawFd,
    unix::net::{UnixDatagram, UnixListener, UnixStream},
};
use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread,
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use sockman::{
    ConnectOptions, ConnectionId, Service, SockMan,
    error::{AddConnectionErrorKind, IntoStreamError},
    sys::OwnedSocket,
    testing::{Network, Script, SocketThreadByHand},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running,
    blackhole::Blackhole,
    eventually, reset,
    tools::{Spy, TempDir, run_passes},
    without_sweep,
};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    theirs.set_read_timeout(Some(DEADLINE)).unwrap();
    (ours, theirs)
}

/// Turns a stream that left the `SockMan` into a blocking one with a deadline.
fn blocking(stream: OwnedSocket) -> TcpStream {
    let stream = TcpStream::from(stream);
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn echo() -> Arc<Recorder> {
    Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, data) = event {
            sockman.send_bytes(*id, data).unwrap();
        }
    })
}

fn is_unknown(outcome: &Result<OwnedSocket, IntoStreamError>, id: ConnectionId) -> bool {
    matches!(outcome, Err(IntoStreamError::UnknownConnection(of)) if *of == id)
}

/// G5: bytes that came before the call are delivered. The stream works as any connection, over TCP
/// and over a pair of unix-domain sockets.
#[cfg(unix)]
#[test]
fn a_stream_from_elsewhere_is_a_connection_like_any_other() {
    let recorder = echo();
    let running = Running::start(recorder.clone(), without_sweep());
    let sockman = &running.sockman;
    let (ours, mut theirs) = pair();
    let addresses = [ours.local_addr().unwrap(), ours.peer_addr().unwrap()].map(Service::from);
    theirs.write_all(b"early").unwrap();
    let connection = sockman.add_connection(ours).unwrap();
    assert_eq!([connection.me(), connection.them().service().unwrap()], addresses.each_ref());
    let id = connection.activate();
    let mut answer = [0; 5];
    theirs.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"early");
    drop(theirs);
    recorder.wait_for_eof(id);
    assert!(sockman.close_connection(id));

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(DEADLINE)).unwrap();
    let connection = sockman.add_connection(ours).unwrap();
    assert_eq!(connection.them().service().unwrap(), &Service::UNIX_UNNAMED);
    let id = connection.activate();
    theirs.write_all(b"hello").unwrap();
    theirs.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    assert!(sockman.close_connection(id));
    assert_eq!(theirs.read(&mut answer).unwrap(), 0);
}

/// The socket gets the flags and options of the library's own sockets.
#[cfg(unix)]
#[test]
fn a_stream_from_elsewhere_is_made_non_blocking_and_without_delay_and_lingering() {
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let (ours, _theirs) = pair();
    let copy = ours.try_clone().unwrap();
    let socket = SockRef::from(&copy);
    socket.set_linger(Some(Duration::from_secs(60))).unwrap();
    let ours = Socket::from(ours);
    ours.set_cloexec(false).unwrap();
    let flags = |fd: i32| {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        i32::from_str_radix(flags.trim(), 8).unwrap()
    };
    let fd = ours.as_raw_fd();
    assert_eq!(flags(fd) & (libc::O_NONBLOCK | libc::O_CLOEXEC), 0);
    let _connection = sockman.add_connection(ours).unwrap();
    let both = libc::O_NONBLOCK | libc::O_CLOEXEC;
    assert_eq!(flags(fd) & both, both);
    assert!(socket.tcp_nodelay().unwrap());
    assert_eq!(socket.linger().unwrap(), None);
}

/// What is no connected stream socket is refused, and comes back in the error.
#[cfg(unix)]
#[test]
fn what_is_no_connected_stream_is_refused_and_given_back() {
    let dir = TempDir::new();
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let (gone, peer) = pair();
    reset(peer);
    // The reset has arrived when a read returns it.
    assert!((&gone).read(&mut [0]).is_err());
    let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let streams: [(&str, OwnedSocket); 7] = [
        ("a file", File::open("/dev/null").unwrap().into()),
        ("a datagram socket", UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        ("a pair of datagram sockets", UnixDatagram::pair().unwrap().0.into()),
        ("a listener", TcpListener::bind("127.0.0.1:0").unwrap().into()),
        ("a unix-domain listener", UnixListener::bind(dir.path("sock")).unwrap().into()),
        ("a socket that is not connected", unconnected.into()),
        ("a connection that was reset", gone.into()),
    ];
    for (what, stream) in streams {
        let fd = stream.as_raw_fd();
        let error = sockman.add_connection(stream).unwrap_err();
        assert!(
            matches!(error.kind(), AddConnectionErrorKind::NotAConnection { .. }),
            "{what}: {error:?}"
        );
        assert!(!format!("{error:#}").is_empty());
        assert_eq!(error.into_stream().as_raw_fd(), fd, "{what}");
        assert_eq!(sockman.stats().connections, 0, "{what}");
    }
}

/// At `max_connections` the stream comes back unchanged, and can be added when there is room.
#[test]
fn at_the_limit_of_connections_a_stream_is_given_back() {
    let sockman = SockMan::new(Recorder::new(), without_sweep().max_connections(1)).unwrap();
    let ((first, _peer), (second, mut peer)) = (pair(), pair());
    let held = sockman.add_connection(first).unwrap();
    let error = sockman.add_connection(second).unwrap_err();
    assert!(matches!(error.kind(), AddConnectionErrorKind::TooManyConnections { limit: 1 }));
    let mut second = TcpStream::from(error.into_stream());
    second.write_all(b"still here").unwrap();
    peer.read_exact(&mut [0; 10]).unwrap();
    // A stream that leaves makes room as a close does.
    let _first = sockman.into_stream(held.id()).unwrap();
    sockman.add_connection(second).unwrap().activate();
}

/// G4, G5: the callback gets what was received, and the stream has the rest. The peer notices
/// nothing, and no callback names the id again.
#[test]
fn in_a_callback_the_stream_has_what_was_not_received_yet() {
    let taken = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&taken);
    let recorder = Recorder::of_everything(move |sockman, event| {
        if let Event::Data(id, _) = event {
            *slot.lock().unwrap() = Some(sockman.into_stream(*id).unwrap());
            assert!(is_unknown(&sockman.into_stream(*id), *id));
            assert!(!sockman.close_connection(*id));
        }
    });
    let running = Running::start(recorder.clone(), without_sweep().receive_buffer(4));
    let mut client = running.client();
    client.write_all(b"headrest").unwrap();
    let id = recorder.wait_for_accepted(0);
    assert_eq!(recorder.wait_for_bytes(id, 4), b"head");
    run_passes(&running.sockman, 2);
    let events = running.sockman.stats().events;
    let mut stream = blocking(taken.lock().unwrap().take().unwrap());
    let mut rest = [0; 4];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"rest");
    stream.write_all(b"answer").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    client.write_all(b"more").unwrap();
    stream.read_exact(&mut rest).unwrap();
    // The poller does not watch the stream any more.
    run_passes(&running.sockman, 2);
    assert_eq!(running.sockman.stats().events, events);
    assert_eq!(recorder.events_of(id).last(), Some(&Event::Data(id, b"head".to_vec())));
    assert_eq!(recorder.closed(), [id]);
    assert_eq!(running.sockman.connection_info(id), None);
    assert_eq!(running.sockman.stats().connections, 0);
    // The stream was the only holder of the connection.
    drop(stream);
    assert_eq!(client.read(&mut rest).unwrap(), 0);
}

/// A call on another thread waits for the callback under way, whose data is delivered before the
/// call returns.
#[test]
fn on_another_thread_the_callback_under_way_ends_first() {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let recorder = Recorder::with_reaction(move |sockman, event| {
        if let Event::Data(id, _) = event {
            // The other thread has taken the connection out, and waits.
            eventually("the id is gone", || sockman.connection_info(*id).is_none());
            over.store(true, Ordering::SeqCst);
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    client.write_all(b"one").unwrap();
    recorder.wait_for_bytes(id, 3);
    let mut stream = blocking(running.sockman.into_stream(id).unwrap());
    assert!(is_over.load(Ordering::SeqCst), "the callback is still under way");
    client.write_all(b"two").unwrap();
    let mut rest = [0; 3];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"two");
    assert_eq!(recorder.received(id), b"one");
}

/// G5: bytes that were received when another thread takes the connection out are delivered, because
/// the stream does not have them any more.
#[test]
fn bytes_received_just_before_another_thread_takes_the_stream_are_delivered() {
    let (spy, recorder) = (Spy::default(), Recorder::new());
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let running = Running::start(recorder.clone(), options);
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    run_passes(&running.sockman, 2);
    let (sockman, (stream, taken)) = (running.sockman.clone(), channel());
    spy.after_receive(move || {
        let taker = sockman.clone();
        thread::spawn(move || stream.send(taker.into_stream(id)).unwrap());
        eventually("the id is gone", || sockman.connection_info(id).is_none());
    });
    client.write_all(b"one").unwrap();
    let mut stream = blocking(taken.recv().unwrap().unwrap());
    assert_eq!(recorder.received(id), b"one");
    // The end is reported after these bytes, or else the recorder panics.
    recorder.wait_for_closed(id);
    client.write_all(b"two").unwrap();
    let mut rest = [0; 3];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"two");
    drop(stream);
    // Only then does the socket thread hold no copy of the stream.
    assert_eq!(client.read(&mut rest).unwrap(), 0);
}

/// G5: whenever another thread takes the connection out, the data of the callbacks and the data of
/// the stream together are what the peer sent.
#[test]
fn no_byte_is_lost_whenever_another_thread_takes_the_stream() {
    const ROUNDS: usize = 200;
    const LENGTH: usize = 20_000;
    let sent: Vec<u8> = (0..LENGTH).map(|n| (n % 251) as u8).collect();
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep().receive_buffer(64));
    for round in 0..ROUNDS {
        let mut client = running.client();
        let id = recorder.wait_for_accepted(round);
        let data = sent.clone();
        let writer = thread::spawn(move || client.write_all(&data).map(|()| drop(client)));
        recorder.wait_for_bytes(id, round * 10);
        let mut stream = blocking(running.sockman.into_stream(id).unwrap());
        let delivered = recorder.received(id);
        let mut all = delivered.clone();
        stream.read_to_end(&mut all).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(all, sent, "round {round}");
        assert_eq!(recorder.received(id), delivered, "a callback came after the call");
    }
}

/// Of several threads that take the connection out or close it, exactly one succeeds.
#[test]
fn exactly_one_of_racing_calls_ends_the_connection() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    for round in 0..100 {
        let _client = running.client();
        let id = recorder.wait_for_accepted(round);
        let barrier = Barrier::new(3);
        let ended: usize = thread::scope(|scope| {
            let race = |take: bool| {
                let (barrier, sockman) = (&barrier, &running.sockman);
                scope.spawn(move || {
                    barrier.wait();
                    usize::from(match take {
                        true => sockman.into_stream(id).is_ok(),
                        false => sockman.close_connection(id),
                    })
                })
            };
            [race(true), race(true), race(false)].map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(ended, 1);
        assert_eq!(running.sockman.stats().closed, round as u64 + 1);
        recorder.wait_for_closed(id);
        assert_eq!(recorder.closed().len(), round + 1);
    }
}

/// A connection that finishes cannot leave, because its bytes are discarded. It still ends in order.
#[test]
fn a_connection_that_finishes_stays() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    for (round, drains) in [false, true].into_iter().enumerate() {
        let mut client = running.client();
        let id = recorder.wait_for_accepted(round);
        if drains {
            running.sockman.drain_and_stop(DEADLINE);
        } else {
            assert!(running.sockman.finish_connection(id, DEADLINE));
        }
        let error = running.sockman.into_stream(id).unwrap_err();
        assert!(matches!(error, IntoStreamError::Finishing(of) if of == id), "{error:?}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        recorder.wait_for_closed(id);
        assert!(is_unknown(&running.sockman.into_stream(id), id));
    }
}

/// A drain waits for connections that leave no longer.
#[test]
fn a_drain_ends_when_the_last_connection_has_left() {
    let mut running = Running::start(Recorder::new(), without_sweep());
    let (ours, _theirs) = pair();
    let connection = running.sockman.add_connection(ours).unwrap();
    running.sockman.drain_and_stop(Duration::MAX);
    let error = running.sockman.into_stream(connection.id()).unwrap_err();
    assert!(matches!(error, IntoStreamError::Finishing(_)), "{error:?}");
    let (ours, _theirs) = pair();
    let late = running.sockman.add_connection(ours).unwrap();
    drop(connection);
    let _stream = running.sockman.into_stream(late.id()).unwrap();
    running.threads.take().unwrap().join().unwrap();
}

/// With no thread running the call returns at once, before the activation and after the threads
/// have ended.
#[test]
fn with_no_thread_running_the_stream_leaves_at_once() {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let ((first, mut first_peer), (second, mut second_peer)) = (pair(), pair());
    let never_polled = sockman.add_connection(first).unwrap().activate();
    let mut stream = blocking(sockman.into_stream(never_polled).unwrap());
    first_peer.write_all(b"a").unwrap();
    stream.read_exact(&mut [0]).unwrap();

    let polled = sockman.add_connection(second).unwrap().activate();
    let threads = sockman.start_sockets_threads().unwrap();
    second_peer.write_all(b"b").unwrap();
    recorder.wait_for_bytes(polled, 1);
    sockman.interrupt();
    threads.join().unwrap();
    second_peer.write_all(b"c").unwrap();
    let mut stream = blocking(sockman.into_stream(polled).unwrap());
    let _threads = sockman.start_sockets_threads().unwrap();
    run_passes(&sockman, 2);
    let events = sockman.stats().events;
    second_peer.write_all(b"d").unwrap();
    let mut rest = [0; 2];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"cd");
    run_passes(&sockman, 2);
    assert_eq!(sockman.stats().events, events, "the poller still watches the stream");
    assert_eq!(recorder.received(polled), b"b");
    assert_eq!(recorder.closed(), [never_polled, polled]);
    assert_eq!(sockman.stats().connections, 0);
}

/// A thread that ends meanwhile lets the call go on.
#[test]
fn the_end_of_the_threads_ends_the_wait() {
    let recorder = Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, _) = event {
            eventually("the id is gone", || sockman.connection_info(*id).is_none());
            sockman.interrupt();
        }
    });
    let mut running = Running::start(recorder.clone(), without_sweep());
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    client.write_all(b"x").unwrap();
    recorder.wait_for_bytes(id, 1);
    running.sockman.into_stream(id).unwrap();
    running.threads.take().unwrap().join().unwrap();
}

/// The callbacks that report a connection may hand it out at once. A connect without an outcome is
/// unknown.
#[test]
fn a_connection_may_leave_in_the_callback_that_reports_it() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&taken);
    let recorder = Recorder::with_reaction(move |sockman, event| {
        if let Event::Accepted { id, .. } | Event::ConnectCompleted { id, outcome: Ok(_), .. } =
            event
        {
            list.lock().unwrap().push((*id, sockman.into_stream(*id).unwrap()));
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let id = running.sockman.start_connect(running.address, &ConnectOptions::default()).unwrap();
    recorder.wait_for_outcome(id).unwrap();
    let accepted = recorder.wait_for_accepted(0);
    run_passes(&running.sockman, 2);
    let mut streams =
        taken.lock().unwrap().drain(..).map(|(_, fd)| blocking(fd)).collect::<Vec<_>>();
    streams[0].write_all(b"x").unwrap();
    streams[1].read_exact(&mut [0]).unwrap();
    run_passes(&running.sockman, 2);
    for id in [id, accepted] {
        assert_eq!(recorder.events_of(id).len(), 1);
        recorder.wait_for_closed(id);
    }
    assert_eq!(recorder.closed().len(), 2);
    assert_eq!(running.sockman.stats().connections, 0);

    let blackhole = Blackhole::new();
    let options = ConnectOptions::default().timeout(DEADLINE);
    let attempt = running.sockman.start_connect(blackhole.address, &options).unwrap();
    assert!(is_unknown(&running.sockman.into_stream(attempt), attempt));
    assert!(running.sockman.close_connection(attempt));
}

/// A socket that follows a script is no stream, so it stays, and works on.
#[test]
fn a_connection_that_cannot_leave_goes_on() {
    let network = Network::new();
    let recorder = echo();
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let mut by_hand = SocketThreadByHand::start(&sockman, &network).unwrap();
    let (me, them) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let sock = network.scripted(Script::new().recv("ping")).unwrap();
    let id = sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
    let error = sockman.into_stream(id).unwrap_err();
    assert!(matches!(error, IntoStreamError::Unsupported(of) if of == id), "{error:?}");
    by_hand.run_until_idle().unwrap();
    assert_eq!(recorder.wait_for_bytes(id, 4), b"ping");
    let (ours, _theirs) = pair();
    let error = sockman.add_connection(ours).unwrap_err();
    assert!(matches!(error.kind(), AddConnectionErrorKind::NotAConnection { .. }), "{error:?}");
}

/// The connections of a listener have its options. (Here, because only a stream that leaves can be
/// asked.)
#[cfg(target_os = "linux")]
#[test]
fn accepted_connections_have_the_options_of_their_listener() {
    use sockman::options::SocketOptions;

    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    for (n, at) in sockman_test_support::tools::loopbacks().enumerate() {
        let options = crate::socket_options::unusual();
        let bound = sockman.bind_and_start_listening_with(at, &options).unwrap();
        let _client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
        let stream = sockman.into_stream(recorder.wait_for_accepted(n)).unwrap();
        crate::socket_options::assert_unusual(&SockRef::from(&stream));
    }
    let options = SocketOptions::default().interface("lo");
    let bound = sockman.bind_and_start_listening_with("127.0.0.1:0", &options).unwrap();
    let _client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
    let before = sockman_test_support::tools::loopbacks().count();
    let stream = sockman.into_stream(recorder.wait_for_accepted(before)).unwrap();
    assert_eq!(SockRef::from(&stream).device().unwrap().unwrap(), b"lo");
}
