//! Statements of the manual pages and of the SAM text that no other module tests.
//! `docs/conformance.md` lists each statement with its test.

#[cfg(unix)]
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::{
    error::Error,
    io::{self, IoSlice, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, Options, Service, SockMan, SocketsThreads,
    error::{BindErrorKind, ConnectErrorKind, SendError},
    options::More,
    sys::errors,
    testing::{Call, Network, Script, SocketThreadByHand},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder,
    drivers::DRIVERS,
    tools::{Spy, TempDir, fill, run_passes, until},
    without_sweep,
};

/// Records what is reported about a scripted connection. A `Recorder` keeps the kind of an error and
/// not its number.
#[derive(Default)]
struct Log(Mutex<Vec<Reported>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reported {
    Data(Vec<u8>),
    Eof,
    Error(Option<i32>),
}

impl Log {
    fn add(&self, reported: Reported) {
        self.0.lock().unwrap().push(reported);
    }
}

impl EventHandler for Log {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, data: &[u8]) {
        self.add(Reported::Data(data.to_vec()));
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {
        self.add(Reported::Eof);
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, error: &io::Error) {
        self.add(Reported::Error(error.raw_os_error()));
    }
}

struct Scripted {
    network: Network,
    log: Arc<Log>,
    sockman: SockMan,
    thread: SocketThreadByHand,
    id: ConnectionId,
}

/// Makes one connection whose socket follows `script`.
fn scripted(script: Script) -> Scripted {
    let (network, log) = (Network::new(), Arc::new(Log::default()));
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&log) as Arc<dyn EventHandler>, options).unwrap();
    let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let sock = network.scripted(script).unwrap();
    let (me, them) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let id = sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
    Scripted { network, log, sockman, thread, id }
}

/// Returns the errors that the manual pages list for `call`, except those that pass.
fn lasting(call: Call) -> impl Iterator<Item = i32> {
    let passing = [errors::EAGAIN, errors::EINTR, errors::ENOBUFS, errors::ENOMEM];
    call.errors().iter().copied().filter(move |errno| !passing.contains(errno))
}

/// A `SockMan` with its threads running and no listener.
fn running(options: Options) -> (Arc<Recorder>, SockMan, SocketsThreads) {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    (recorder, sockman, threads)
}

/// G5, recv(2): the embedder gets the number of the error, once, after the data and before nothing.
#[test]
fn each_lasting_error_of_a_receive_is_reported_once_with_its_number() {
    for errno in lasting(Call::Recv) {
        let script = Script::new().recv(b"data").recv_error(errno).recv(b"late").then_eof();
        let mut rig = scripted(script);
        rig.thread.run_for(Duration::from_secs(2)).unwrap();
        let reported = rig.log.0.lock().unwrap().clone();
        assert_eq!(reported, [Reported::Data(b"data".to_vec()), Reported::Error(Some(errno))]);
        assert!(rig.sockman.close_connection(rig.id), "the library closes no connection");
    }
}

/// G5, recv(2): a signal interrupts a receive before there is data.
#[test]
fn an_interrupted_receive_is_repeated() {
    let script = Script::new().recv_error(errors::EINTR).recv(b"data").recv_error(errors::EINTR);
    let mut rig = scripted(script.then_eof());
    rig.thread.run_for(Duration::from_secs(2)).unwrap();
    let reported = rig.log.0.lock().unwrap().clone();
    assert_eq!(reported, [Reported::Data(b"data".to_vec()), Reported::Eof]);
}

/// send(2): the caller gets the number of the error, and the connection stays.
#[test]
fn each_lasting_error_of_a_send_is_returned_with_its_number() {
    for errno in lasting(Call::Send) {
        let rig = scripted(Script::new().send_error(errno).send_error(errno));
        let pieces = [IoSlice::new(b"da"), IoSlice::new(b"ta")];
        for sent in
            [rig.sockman.send_bytes(rig.id, b"data"), rig.sockman.send_vectored(rig.id, &pieces)]
        {
            let Err(SendError::Socket { id, source }) = sent else { panic!("{errno}: {sent:?}") };
            assert_eq!((id, source.raw_os_error()), (rig.id, Some(errno)));
        }
        assert!(rig.sockman.connection_info(rig.id).is_some());
    }
}

/// send(2): a signal interrupts a send before there is room.
#[test]
fn an_interrupted_send_is_repeated() {
    let script = Script::new().send_error(errors::EINTR).send_error(errors::EINTR).send(3);
    let rig = scripted(script);
    assert_eq!(rig.sockman.send_bytes(rig.id, b"data").unwrap(), 3);
}

/// send(2): on a stream, a send of no bytes tells nothing. It makes no system call.
#[test]
fn an_empty_send_makes_no_system_call() {
    let rig = scripted(Script::new().then_error(errors::ECONNRESET));
    assert_eq!(rig.sockman.send_bytes(rig.id, b"").unwrap(), 0);
    assert_eq!(rig.sockman.send_vectored(rig.id, &[]).unwrap(), 0);
    assert_eq!(rig.network.calls(Call::Send), 0);
}

/// tcp(7), send(2): a broken pipe is an error value and raises no SIGPIPE, also in a program that
/// does not ignore the signal.
#[cfg(target_os = "linux")]
#[test]
fn a_send_after_a_half_close_raises_no_signal() {
    use sockman_test_support::signals::{raises_sigpipe, write_to_closed_pipe};

    assert!(raises_sigpipe(write_to_closed_pipe), "the test cannot see the signal");
    let (recorder, sockman, _threads) = running(without_sweep());
    let dir = TempDir::new();
    let tcp = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let unix = Service::unix(dir.path("sock")).unwrap();
    sockman.bind_and_start_listening(&unix).unwrap();
    for (round, to) in [tcp, unix].into_iter().enumerate() {
        let id = sockman.connect(&to, &ConnectOptions::default()).unwrap().activate();
        recorder.wait_for_accepted(round);
        sockman.shutdown_write(id).unwrap();
        let raised = raises_sigpipe(|| {
            let pieces = [IoSlice::new(b"x")];
            for sent in [
                sockman.send_bytes(id, b"x"),
                sockman.send_vectored(id, &pieces),
                sockman.send_with(id, &pieces, More::Follows),
            ] {
                let Err(SendError::Socket { source, .. }) = sent else { panic!("{sent:?}") };
                assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
            }
        });
        assert!(!raised, "a send to {to} raised SIGPIPE");
    }
}

/// send(2): fewer bytes may be taken, also of a piece so long that macOS would refuse the call.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_send_of_more_than_two_gigabytes_takes_a_part() {
    let (_recorder, sockman, _threads) = running(without_sweep());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Service::from(listener.local_addr().unwrap());
    let id = sockman.connect(&to, &ConnectOptions::default()).unwrap().activate();
    // The system gives the memory only when it is read, and the socket takes a small part.
    let data = vec![0; (1 << 31) + 1];
    let sent = sockman.send_bytes(id, &data).unwrap();
    assert!(sent > 0 && sent < data.len(), "{sent} bytes");
}

/// Sends to the first accepted connection as if more followed. The client receives the bytes.
fn assert_sends_although_nothing_follows(
    recorder: &Recorder,
    sockman: &SockMan,
    client: &mut impl Read,
) {
    let id = recorder.wait_for_accepted(0);
    let pieces = [IoSlice::new(b"he"), IoSlice::new(b"llo")];
    assert_eq!(sockman.send_with(id, &pieces, More::Follows).unwrap(), 5);
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

/// tcp(7): what is held back because more follows goes out after 200 ms at most, even if nothing
/// follows.
#[test]
fn bytes_arrive_although_nothing_follows_them() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_sends_although_nothing_follows(&recorder, &sockman, &mut client);
}

/// unix(7): `MSG_MORE` has no meaning on a unix-domain socket, so nothing waits for more.
#[cfg(unix)]
#[test]
fn more_to_follow_holds_nothing_back_on_a_unix_domain_socket() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let dir = TempDir::new();
    let path = dir.path("sock");
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_sends_although_nothing_follows(&recorder, &sockman, &mut client);
}

/// G5, unix(7): Linux has urgent bytes on unix-domain sockets since 5.15, although the page denies
/// it. The bytes around an urgent byte arrive.
#[cfg(unix)]
#[test]
fn bytes_around_an_urgent_byte_arrive_over_a_unix_domain_socket() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let dir = TempDir::new();
    let path = dir.path("sock");
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    for round in 0..50 {
        let mut client = UnixStream::connect(&path).unwrap();
        let id = recorder.wait_for_accepted(round);
        client.write_all(b"before").unwrap();
        // A kernel without this feature refuses the call.
        let _ = SockRef::from(&client).send_out_of_band(b"!");
        client.write_all(b"behind").unwrap();
        assert_eq!(recorder.wait_for_bytes(id, 12), b"beforebehind");
        drop(client);
        recorder.wait_for_eof(id);
        sockman.close_connection(id);
    }
}

/// G5, tcp(7): if another urgent byte follows, an unread earlier one may become part of the stream.
/// No other byte is lost or moved.
#[test]
fn a_second_urgent_byte_moves_no_other_byte() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    for round in 0..50 {
        let mut client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let id = recorder.wait_for_accepted(round);
        client.write_all(b"a").unwrap();
        SockRef::from(&client).send_out_of_band(b"1").unwrap();
        client.write_all(b"b").unwrap();
        SockRef::from(&client).send_out_of_band(b"2").unwrap();
        client.write_all(b"c").unwrap();
        drop(client);
        recorder.wait_for_eof(id);
        let bytes = recorder.received(id);
        assert!(bytes == b"abc" || bytes == b"a1bc", "{}", bytes.escape_ascii());
        sockman.close_connection(id);
    }
}

/// G5, socket(7): `SO_OOBINLINE` of an adopted listener makes urgent bytes a part of the stream.
#[test]
fn urgent_bytes_arrive_in_line_if_an_adopted_listener_says_so() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_out_of_band_inline(true).unwrap();
    let address = listener.local_addr().unwrap();
    sockman.start_listening_on(listener).unwrap();
    for round in 0..50 {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_nodelay(true).unwrap();
        let id = recorder.wait_for_accepted(round);
        client.write_all(b"before").unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"behind").unwrap();
        assert_eq!(recorder.wait_for_bytes(id, 13), b"before!behind");
        sockman.close_connection(id);
    }
}

/// G8, G9, socket(7): with `SO_LINGER`, a close waits until the peer has taken all data, on Linux
/// also on a non-blocking socket. Accepted sockets inherit the option from an adopted listener, and
/// the socket thread closes them.
#[test]
fn a_lingering_adopted_listener_does_not_delay_the_socket_thread() {
    let spy = Spy::default();
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let (recorder, sockman, _threads) = running(options);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_linger(Some(10 * DEADLINE)).unwrap();
    let address = listener.local_addr().unwrap();
    // One client comes before the adoption. None of them reads.
    let early = TcpStream::connect(address).unwrap();
    sockman.start_listening_on(listener).unwrap();
    let late = TcpStream::connect(address).unwrap();
    for n in 0..2 {
        let id = recorder.wait_for_accepted(n);
        assert!(fill(&sockman, id, b'x') > 0);
        assert!(sockman.close_connection(id));
    }
    let mut served = TcpStream::connect(address).unwrap();
    served.write_all(b"served").unwrap();
    let id = recorder.wait_for_accepted(2);
    assert_eq!(recorder.wait_for_bytes(id, 6), b"served");
    run_passes(&sockman, 1);
    assert_eq!(spy.open(), 2, "the listener and one connection are open");
    drop((early, late));
}

/// tcp(7): the sockets that an adopted listener accepts inherit its options. The library clears
/// SO_LINGER, sets TCP_NODELAY, and keeps the others.
#[cfg(target_os = "linux")]
#[test]
fn accepted_sockets_keep_the_options_of_an_adopted_listener() {
    use socket2::TcpKeepalive;
    use sockman_test_support::descriptors;

    let (recorder, sockman, _threads) = running(without_sweep());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let before = descriptors::inherited_options(descriptors::of(address, None));
    let options = SockRef::from(&listener);
    options.set_recv_buffer_size(10_000).unwrap();
    options.set_send_buffer_size(20_000).unwrap();
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(77))).unwrap();
    options.set_tcp_user_timeout(Some(Duration::from_secs(33))).unwrap();
    let set = descriptors::inherited_options(descriptors::of(address, None));
    assert_eq!((set.2, set.3, set.4), (true, 77, 33_000));
    assert!(set.0 != before.0 && set.1 != before.1, "{before:?} {set:?}");
    sockman.start_listening_on(listener).unwrap();
    let client = TcpStream::connect(address).unwrap();
    recorder.wait_for_accepted(0);
    let accepted = descriptors::of(address, Some(client.local_addr().unwrap()));
    assert_eq!(descriptors::inherited_options(accepted), set);
}

/// epoll(7): two descriptors of one listener can be in one poll set. Each reports each client, one
/// of the accepts gets it, and after the stop neither is watched.
#[test]
fn a_listener_that_is_adopted_twice_accepts_each_client_once() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    for _ in 0..2 {
        sockman.start_listening_on(kept.try_clone().unwrap()).unwrap();
    }
    for round in 0..20 {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"hello").unwrap();
        let id = recorder.wait_for_accepted(round);
        assert_eq!(recorder.wait_for_bytes(id, 5), b"hello");
        assert!(sockman.close_connection(id));
    }
    sockman.stop_listening();
    run_passes(&sockman, 1);
    let client = TcpStream::connect(address).unwrap();
    run_passes(&sockman, 2);
    assert_eq!(sockman.stats().accepted, 20);
    assert_eq!(kept.accept().unwrap().1, client.local_addr().unwrap());
}

/// epoll(7): without `EPOLLEXCLUSIVE`, each poll set of a shared listener reports each client. One
/// of the accepts gets it.
#[test]
fn a_listener_of_two_sockmans_accepts_each_client_once() {
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    let both = [(); 2].map(|()| running(without_sweep()));
    for (_, sockman, _) in &both {
        sockman.start_listening_on(kept.try_clone().unwrap()).unwrap();
    }
    let accepted = || both.iter().map(|(_, sockman, _)| sockman.stats().accepted).sum::<u64>();
    let mut clients = Vec::new();
    for n in 1..=20 {
        clients.push(TcpStream::connect(address).unwrap());
        until("the client is accepted", || accepted() == n);
    }
    for (_, sockman, _) in &both {
        run_passes(sockman, 2);
        assert_eq!(sockman.stats().accept_pauses, 0);
    }
    assert_eq!(accepted(), 20);
}

/// unix(7): the umask decides who may connect. The library changes neither.
#[cfg(target_os = "linux")]
#[test]
fn a_path_has_the_permissions_that_the_umask_leaves() {
    use std::{fs, os::unix::fs::PermissionsExt};

    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let dir = TempDir::new();
    let path = dir.path("sock");
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    let umask = u32::from_str_radix(umask.trim(), 8).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777 & !umask);
}

/// G13, ipv6(7): an IPv4 client of a dual-stack socket has an IPv4-mapped address. Both sides of the
/// connection are reported as IPv4.
#[test]
fn an_ipv4_client_of_an_adopted_dual_stack_listener_has_ipv4_addresses() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(10).unwrap();
    let bound = sockman.start_listening_on(socket).unwrap();
    let dialled = SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port()));
    let client = TcpStream::connect(dialled).unwrap();
    let id = recorder.wait_for_accepted(0);
    let them = client.local_addr().unwrap().into();
    assert_eq!(recorder.events_of(id)[0], Event::Accepted { id, me: dialled.into(), them });
}

/// bind(2), ip(7): the errors that an embedder tells apart have kinds of their own.
#[test]
fn each_error_of_a_bind_has_its_kind() {
    for &errno in Call::Bind.errors() {
        let network = Network::new();
        let options = Options::default().sock_factory(network.factory());
        let sockman = SockMan::new(Arc::new(Log::default()), options).unwrap();
        network.fail_next(Call::Bind, errno);
        let error = sockman.bind_and_start_listening("10.0.0.1:1").unwrap_err();
        let source = match (errno, error.kind()) {
            (errors::EACCES, BindErrorKind::PermissionDenied { source })
            | (errors::EADDRINUSE, BindErrorKind::AddressInUse { source })
            | (errors::EADDRNOTAVAIL, BindErrorKind::AddressNotAvailable { source }) => source,
            (_, BindErrorKind::Os { step: "bind", source }) => {
                assert!(
                    ![errors::EACCES, errors::EADDRINUSE, errors::EADDRNOTAVAIL].contains(&errno)
                );
                source
            }
            (_, kind) => panic!("{errno}: {kind:?}"),
        };
        assert_eq!(source.raw_os_error(), Some(errno));
        assert_eq!((network.descriptors(), sockman.stats().listeners), (0, 0));
    }
}

/// ipv6(7): the flow identifier is no part of an address. A peer with one equals a peer without.
#[test]
fn a_flow_identifier_is_no_part_of_an_address() {
    let [with, without] =
        [0x12345, 0].map(|flow| SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, flow, 0));
    assert_eq!(Service::from(SocketAddr::from(with)), Service::from(SocketAddr::from(without)));
    let back = Service::from(SocketAddr::from(with)).to_socket_addr();
    assert_eq!(back, Some(without.into()));
}

/// ipv6(7): a link-local address needs a zone. The bind fails and leaves nothing behind.
#[test]
fn a_link_local_address_without_a_zone_cannot_be_bound() {
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let error = sockman.bind_and_start_listening("[fe80::1]:0").unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on [fe80::1]:0: "), "{error}");
    assert!(error.source().is_some());
    assert_eq!(sockman.stats().listeners, 0);
}

/// connect(2), unix(7): a path of a datagram socket has the wrong type. The error has the number.
#[cfg(unix)]
#[test]
fn a_connect_to_a_datagram_path_fails_with_the_wrong_type() {
    let (recorder, sockman, _threads) = running(without_sweep().max_connections(1));
    let dir = TempDir::new();
    let path = dir.path("datagrams");
    let _datagrams = UnixDatagram::bind(&path).unwrap();
    let to = Service::unix(&path).unwrap().into();
    for driver in DRIVERS {
        let error =
            driver.connect(&sockman, &recorder, &to, &ConnectOptions::default()).unwrap_err();
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let errno = source.and_then(io::Error::raw_os_error);
        assert_eq!(errno, Some(errors::EPROTOTYPE), "{driver:?}: {error:?}");
        assert_eq!(sockman.stats().connections, 0);
    }
}

/// unix(7): a path that is no socket refuses connects, like a socket that does not listen.
#[cfg(unix)]
#[test]
fn a_connect_to_a_file_that_is_no_socket_is_refused() {
    let (recorder, sockman, _threads) = running(without_sweep());
    let dir = TempDir::new();
    let path = dir.path("file");
    std::fs::write(&path, "no socket").unwrap();
    let to = Service::unix(&path).unwrap().into();
    for driver in DRIVERS {
        let error =
            driver.connect(&sockman, &recorder, &to, &ConnectOptions::default()).unwrap_err();
        assert!(matches!(error.kind(), ConnectErrorKind::Refused { .. }), "{driver:?}: {error:?}");
        assert_eq!(sockman.stats().connections, 0);
    }
}

/// RFC 7686, section 1: an onion name may have further labels in front. They are no part of an
/// address, so the text is an error. It is no host name, which would go to a resolver.
#[cfg(feature = "socks5")]
#[test]
fn an_onion_name_with_further_labels_is_no_address_and_no_host_name() {
    use sockman::address::Destination;

    let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
    assert!(format!("{onion}:1").parse::<Destination>().is_ok());
    for labels in ["www.", "a.b.", "."] {
        for end in ["", "."] {
            let text = format!("{labels}{onion}{end}:1");
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }
}

#[cfg(feature = "i2p")]
mod sam {
    use sockman::i2p::{I2pOptions, SamError, SamResult};
    use sockman_test_support::sam::{Bridge, Play, address_of, base64, destination, once};

    use super::*;

    /// Connects to a peer through a bridge that answers STREAM CONNECT or NAMING LOOKUP by `reply`.
    fn attempt(request: &'static str, reply: &str) -> Result<(), ConnectErrorKind> {
        let bridge = Bridge::planned(once(request, Play::Say(reply.into())));
        let options = without_sweep().i2p(I2pOptions::new(bridge.address.clone()));
        let (_recorder, sockman, _threads) = running(options);
        let options = ConnectOptions::default().timeout(DEADLINE);
        let connected = sockman.connect(address_of(&destination(7)), &options);
        connected.map(drop).map_err(sockman::error::ConnectError::into_kind)
    }

    /// SAM, "Encoding and Escaping": pairs come in any order and may be quoted. A quoted value may
    /// contain what looks like a pair, and escaped quotes.
    #[test]
    fn the_pairs_of_a_reply_may_come_in_any_order_and_in_quotes() {
        for reply in [
            "STREAM STATUS MESSAGE=\"RESULT=TIMEOUT\" RESULT=OK\n",
            "STREAM STATUS RESULT=\"OK\" MESSAGE=\"\"\n",
            "STREAM  STATUS   MESSAGE=\"a \\\"quoted\\\" \\\\\"  RESULT=OK\n",
            "STREAM STATUS UNKNOWN NEW=1 RESULT=OK\n",
        ] {
            assert!(attempt("STREAM CONNECT", reply).is_ok(), "{reply}");
        }
        let reply = "STREAM STATUS MESSAGE=\"RESULT=OK \\\" RESULT=OK\" RESULT=CANT_REACH_PEER\n";
        let error = attempt("STREAM CONNECT", reply).unwrap_err();
        let ConnectErrorKind::I2pPeer { result, .. } = error else { panic!("{error:?}") };
        assert_eq!(result, SamResult::CantReachPeer);
        // The protocol is case-sensitive.
        assert!(attempt("STREAM CONNECT", "stream status result=OK\n").is_err());
    }

    /// SAM, "RESULT Values": an invalid key is the peer's destination, or in the reply to SESSION
    /// CREATE this side's own key.
    #[test]
    fn an_invalid_key_is_the_peers_or_this_sides_own() {
        for (request, verbs, is_peers) in [
            ("SESSION CREATE", "SESSION STATUS", false),
            ("NAMING LOOKUP", "NAMING REPLY", true),
            ("STREAM CONNECT", "STREAM STATUS", true),
        ] {
            let found = match attempt(request, &format!("{verbs} RESULT=INVALID_KEY\n")) {
                Err(ConnectErrorKind::I2pPeer { result, .. }) => (true, result),
                Err(ConnectErrorKind::SamFailed {
                    error: SamError::Refused { result, .. },
                    ..
                }) => (false, result),
                other => panic!("{request}: {other:?}"),
            };
            assert_eq!(found, (is_peers, SamResult::InvalidKey), "{request}");
        }
    }

    /// SAM, "Timeouts": a bridge that waited too long for a request says SESSION STATUS, whatever
    /// request follows.
    #[test]
    fn a_bridge_that_no_longer_waits_for_a_request_is_at_fault() {
        let reply = "SESSION STATUS RESULT=I2P_ERROR MESSAGE=\"too late\"\n";
        for request in ["NAMING LOOKUP", "STREAM CONNECT"] {
            let error = attempt(request, reply).unwrap_err();
            let ConnectErrorKind::SamFailed { error, .. } = error else { panic!("{error:?}") };
            assert!(matches!(error, SamError::UnexpectedReply { .. }), "{error:?}");
        }
    }

    /// SAM, "Accept Response": bridges of version 3.2 append ports to the destination.
    #[test]
    fn the_line_of_a_peer_may_have_ports_behind_the_destination() {
        let (bridge, dir) = (Bridge::start(), TempDir::new());
        let options = I2pOptions::new(bridge.address.clone()).key_file(dir.path("key"));
        let (recorder, _sockman, _threads) =
            running(without_sweep().i2p(options.accept_incoming(true)));
        for (round, tail) in
            [" FROM_PORT=7 TO_PORT=0\nfirst", "\nfirst", "\r\nfirst"].iter().enumerate()
        {
            let line = format!("{}{tail}", base64().encode(&destination(9)));
            bridge.say_to_accepting(&line);
            let id = recorder.wait_for_accepted(round);
            assert_eq!(recorder.wait_for_bytes(id, 5), b"first");
            let them = address_of(&destination(9));
            assert!(
                matches!(&recorder.events_of(id)[0], Event::Accepted { them: found, .. } if *found == them)
            );
        }
    }
}
