//! G13: the addresses of listeners, the address that a connection reports as its own, and the
//! options set on the sockets.

#[cfg(unix)]
use std::os::{
    fd::OwnedFd,
    unix::net::{UnixListener, UnixStream},
};
use std::{
    error::Error,
    fs, io,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
};

use sockman::{
    ConnectOptions, ConnectionId, Service, SockMan, address::NetAddr, error::BindErrorKind,
};
use sockman_test_support::{
    Event, Recorder, Running, eventually,
    tools::{Spy, TempDir, has_family_of, loopbacks},
    without_sweep,
};

/// A `SockMan` with its threads running and no listener.
fn running() -> (Arc<Recorder>, SockMan, sockman::SocketsThreads) {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    (recorder, sockman, threads)
}

/// Returns `me` and `them` of the `n`th accepted connection. Asserts that `connection_info` reports
/// the same addresses.
fn addresses(recorder: &Recorder, sockman: &SockMan, n: usize) -> (ConnectionId, Service, Service) {
    let id = recorder.wait_for_accepted(n);
    let accepted = recorder.wait_for_event("its acceptance", |event| event.id() == Some(id));
    let Event::Accepted { me, them, .. } = accepted else { panic!("{accepted:?}") };
    let info = sockman.connection_info(id).unwrap();
    assert_eq!((&info.me, &info.them), (&me, &(&them).into()));
    (id, me, them)
}

/// G13
#[test]
fn on_wildcard_listeners_me_is_the_address_that_was_dialled() {
    let (recorder, sockman, _threads) = running();
    let mut n = 0;
    let mut check = |bound: &Service, host: IpAddr| {
        let dialled = SocketAddr::new(host, bound.port());
        let client = TcpStream::connect(dialled).unwrap();
        let (_, me, them) = addresses(&recorder, &sockman, n);
        n += 1;
        assert_eq!(me, Service::from(dialled));
        assert_eq!(them, Service::from(client.local_addr().unwrap()));
    };
    let v4 = sockman.bind_and_start_listening("0.0.0.0:0").unwrap();
    assert!(v4.addr().is_unspecified() && v4.port() != 0);
    for last in [1, 2, 77, 77, 2, 2, 1] {
        check(&v4, Ipv4Addr::new(127, 0, 0, last).into());
    }
    if !has_family_of("[::]") {
        return;
    }
    let v6 = sockman.bind_and_start_listening("[::]:0").unwrap();
    assert!(v6.addr().is_unspecified() && v6.port() != 0);
    check(&v6, Ipv6Addr::LOCALHOST.into());
    // An adopted dual-stack listener reports the addresses of IPv4 clients as IPv4.
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(10).unwrap();
    let both = sockman.start_listening_on(TcpListener::from(socket)).unwrap();
    check(&both, Ipv6Addr::LOCALHOST.into());
    check(&both, Ipv4Addr::new(127, 0, 0, 3).into());
}

/// G13
#[test]
fn on_other_listeners_me_is_the_listeners_address() {
    let (recorder, sockman, _threads) = running();
    for (n, to) in ["127.0.0.5:0"].into_iter().chain(loopbacks()).enumerate() {
        let bound = sockman.bind_and_start_listening(to).unwrap();
        let client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
        let (_, me, them) = addresses(&recorder, &sockman, n);
        assert_eq!(me, bound);
        assert_eq!(them, Service::from(client.local_addr().unwrap()));
    }
}

/// G13: the kernel hands connections to other addresses to the listener of a transparent proxy. The
/// test `namespaces` of the package `real` does so with nftables.
#[test]
fn on_a_listener_of_a_transparent_proxy_me_is_the_address_that_was_dialled() {
    let (recorder, spy) = (Recorder::new(), Spy::default());
    let options = without_sweep().sock_factory(Arc::new(spy.clone()));
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let dialled: Service = "198.51.100.7:80".parse().unwrap();
    spy.pretend_accepted_at(dialled.clone());
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let adopted = TcpListener::bind("127.0.0.1:0").unwrap();
    let adopted = sockman.start_listening_on(adopted).unwrap();
    for (n, listener) in [bound, adopted].into_iter().enumerate() {
        let client = TcpStream::connect(listener.to_socket_addr().unwrap()).unwrap();
        let (_, me, them) = addresses(&recorder, &sockman, n);
        assert_eq!((me, them), (dialled.clone(), client.local_addr().unwrap().into()));
    }
}

/// G13: a name of each kind, of a client that goes at once, too.
#[cfg(target_os = "linux")]
#[test]
fn a_unix_peer_with_an_abstract_name_is_reported_with_it() {
    use std::os::unix::ffi::OsStrExt;

    let (recorder, sockman, _threads) = running();
    let dir = TempDir::new();
    let path = dir.path("server");
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let unique = format!("sockman-{}-{}", std::process::id(), "client");
    let long = format!("{unique:x<107}");
    let names: [&[u8]; 5] =
        [unique.as_bytes(), long.as_bytes(), b"", b"\0\xff/a\0", b"/like/a/path"];
    for (n, name) in names.into_iter().enumerate() {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let full: Vec<u8> = [b"\0", name].concat();
        let own = socket2::SockAddr::unix(std::ffi::OsStr::from_bytes(&full)).unwrap();
        socket.bind(&own).unwrap();
        socket.connect(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        if n % 2 == 1 {
            drop(socket);
        }
        let (_, _, them) = addresses(&recorder, &sockman, n);
        assert_eq!(them, Service::new(NetAddr::unix_abstract(name).unwrap(), 0));
    }
}

/// G13
#[cfg(unix)]
#[test]
fn a_unix_peer_without_a_name_is_reported_as_unnamed() {
    let (recorder, sockman, _threads) = running();
    let dir = TempDir::new();
    let (path, peer_path) = (dir.path("server"), dir.path("peer"));
    let to = Service::unix(&path).unwrap();
    let bound = sockman.bind_and_start_listening(&to).unwrap();
    assert_eq!(bound, to);
    let _client = UnixStream::connect(&path).unwrap();
    let (_, me, them) = addresses(&recorder, &sockman, 0);
    assert_eq!((me, them), (to, Service::UNIX_UNNAMED));
    // A peer that has a name is reported with this name.
    let named = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    named.bind(&socket2::SockAddr::unix(&peer_path).unwrap()).unwrap();
    named.connect(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    let (_, _, them) = addresses(&recorder, &sockman, 1);
    assert_eq!(them, Service::unix(&peer_path).unwrap());
}

/// G13: the kernel chooses the local address of an outbound connection.
#[test]
fn an_outbound_connection_knows_its_own_address() {
    let (_recorder, sockman, _threads) = running();
    for host in loopbacks() {
        let listener = TcpListener::bind(host).unwrap();
        let to = listener.local_addr().unwrap();
        let connection = sockman.connect(to, &ConnectOptions::default()).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        assert_eq!(connection.me(), &Service::from(from));
        assert_eq!(connection.them(), &Service::from(to));
        drop(accepted);
    }
}

/// G13
#[test]
fn ipv4_and_ipv6_listeners_share_a_port() {
    let (recorder, sockman, _threads) = running();
    if !has_family_of("[::1]") {
        // Without IPv6, the error says so.
        let error = sockman.bind_and_start_listening("[::1]:0").unwrap_err();
        let kind = error.kind();
        assert!(matches!(kind, BindErrorKind::AddressNotAvailable { .. }), "{error:?}");
        return;
    }
    // Each family chooses a port in turn: Linux offers one half of the ports before the other, and one
    // family may have all of these in use, as after thousands of connects.
    let listen = |host: &str, port| {
        let listener = sockman.bind_and_start_listening(format!("{host}:{port}"));
        let is_taken = |kind: &_| matches!(kind, BindErrorKind::AddressInUse { .. });
        listener.map_err(|error| assert!(is_taken(error.kind()), "{error:#}")).ok()
    };
    let mut shared = 0;
    for (first, second) in [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0"), ("127.0.0.1", "[::1]")] {
        let found = [first, second].into_iter().cycle().take(1000).find_map(|chooses| {
            let chosen = listen(chooses, 0)?;
            sockman.stop_listening();
            let both = listen(first, chosen.port()).zip(listen(second, chosen.port()));
            if both.is_none() {
                sockman.stop_listening();
            }
            both
        });
        let (one, other) = found.expect("a port that is free in both families");
        assert_eq!(one.port(), other.port());
        for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let dialled = SocketAddr::new(host, one.port());
            let _client = TcpStream::connect(dialled).unwrap();
            let (_, me, _) = addresses(&recorder, &sockman, shared);
            assert_eq!(me, Service::from(dialled));
            shared += 1;
        }
        sockman.stop_listening();
    }
}

/// G13
#[test]
fn port_zero_gives_the_real_port_and_a_new_one_each_time() {
    let (recorder, sockman, _threads) = running();
    let mut ports = Vec::new();
    for n in 0..5 {
        let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        assert_ne!(bound.port(), 0);
        assert!(!ports.contains(&bound.port()));
        ports.push(bound.port());
        let _client = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
        recorder.wait_for_accepted(n);
    }
    assert_eq!(sockman.stats().listeners, 5);
}

/// G13: the error says what was tried, on what address, and what to do.
#[cfg(unix)]
#[test]
fn bind_errors_say_what_is_wrong() {
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let fail = |to: &Service| {
        let error = sockman.bind_and_start_listening(to).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot listen on {to}: ")), "{text}");
        (error, text)
    };

    let taken = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let (error, text) = fail(&taken);
    assert!(matches!(error.kind(), BindErrorKind::AddressInUse { .. }), "{error:?}");
    assert_eq!(error.to(), Some(&taken));
    assert!(error.source().is_some() && text.contains("using it"), "{text}");

    let (error, text) = fail(&"203.0.113.1:0".parse().unwrap());
    assert!(matches!(error.kind(), BindErrorKind::AddressNotAvailable { .. }), "{error:?}");
    assert!(text.contains("must be an address of this machine"), "{text}");

    let unsupported = [
        #[cfg(feature = "socks5")]
        Service::new(NetAddr::tor_v3([7; 32]), 80),
        #[cfg(feature = "i2p")]
        Service::new(NetAddr::i2p([7; 32]), 0),
        Service::UNIX_UNNAMED,
    ];
    for to in unsupported {
        let (error, text) = fail(&to);
        assert!(matches!(error.kind(), BindErrorKind::Unsupported), "{error:?}");
        assert!(error.source().is_none() && text.contains("cannot be bound on this machine"));
    }

    // A file at the path is left alone, whatever it is.
    let dir = TempDir::new();
    let path = dir.path("sock");
    fs::write(&path, "a file").unwrap();
    let (error, text) = fail(&Service::unix(&path).unwrap());
    assert!(matches!(error.kind(), BindErrorKind::AddressInUse { .. }), "{error:?}");
    assert!(text.contains("remove it"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"a file");
    fs::remove_file(&path).unwrap();
    let (error, text) = fail(&Service::unix(path.join("below")).unwrap());
    assert!(matches!(error.kind(), BindErrorKind::Os { step: "bind", .. }), "{error:?}");
    assert!(text.contains("bind failed"), "{text}");

    assert_eq!(sockman.stats().listeners, 1, "failed binds must leave no listener");
}

/// G13: a listener can come from systemd, for example.
#[cfg(unix)]
#[test]
fn listeners_that_exist_are_adopted() {
    let (recorder, sockman, _threads) = running();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // This client connects before the listener is handed over.
    let early = TcpStream::connect(address).unwrap();
    assert_eq!(sockman.start_listening_on(listener).unwrap(), Service::from(address));
    let (_, me, them) = addresses(&recorder, &sockman, 0);
    assert_eq!((me, them), (address.into(), early.local_addr().unwrap().into()));
    let _late = TcpStream::connect(address).unwrap();
    recorder.wait_for_accepted(1);

    let dir = TempDir::new();
    let path = dir.path("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let bound = sockman.start_listening_on(listener).unwrap();
    assert_eq!(bound, Service::unix(&path).unwrap());
    let mut client = UnixStream::connect(&path).unwrap();
    let (id, me, them) = addresses(&recorder, &sockman, 2);
    assert_eq!((me, them), (bound, Service::UNIX_UNNAMED));
    client.write_all(b"over unix").unwrap();
    assert_eq!(recorder.wait_for_bytes(id, 9), b"over unix");
    sockman.stop_listening();
    assert!(path.exists(), "the library must not remove a path that it did not make");
    // The socket thread closes the listener.
    eventually("the listener is closed", || UnixStream::connect(&path).is_err());
}

/// G13: a copy of an adopted listener keeps working after the library closes its own. systemd keeps
/// such a copy, and starts the program again with it.
#[test]
fn an_adopted_listener_is_closed_without_a_shutdown() {
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    for round in 0..3 {
        sockman.start_listening_on(kept.try_clone().unwrap()).unwrap();
        let _served = TcpStream::connect(kept.local_addr().unwrap()).unwrap();
        recorder.wait_for_accepted(round);
        sockman.stop_listening();
        // A pass that began after the stop has closed the library's copy.
        let passes = sockman.stats().passes;
        eventually("a pass is over", || {
            sockman.notify();
            sockman.stats().passes > passes + 1
        });
        let unserved = TcpStream::connect(kept.local_addr().unwrap()).unwrap();
        let (accepted, from) = kept.accept().unwrap();
        assert_eq!(
            from,
            unserved.local_addr().unwrap(),
            "the embedder's copy must accept the client"
        );
        drop(accepted);
        assert_eq!(sockman.stats().accepted, round as u64 + 1);
    }
    sockman.interrupt();
    threads.join().unwrap();
}

/// G13
#[cfg(unix)]
#[test]
fn a_descriptor_that_is_no_listener_is_refused() {
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let no_listeners: [(&str, OwnedFd); 5] = [
        ("a connection", connected.into()),
        ("a bound socket", bound.into()),
        ("a datagram socket", UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        ("a unix connection", UnixStream::pair().unwrap().0.into()),
        ("a file", fs::File::open("/dev/null").unwrap().into()),
    ];
    for (what, fd) in no_listeners {
        let error = sockman.start_listening_on(fd).unwrap_err();
        assert!(matches!(error.kind(), BindErrorKind::NotAListener { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("not a listening stream socket"), "{what}: {error}");
        assert!(error.source().is_some());
    }
    assert_eq!(sockman.stats().listeners, 0);
}

/// G13: an address can be bound again while connections of the old listener are open or wait in
/// TIME_WAIT.
#[test]
fn an_address_can_be_bound_again_directly_after_stop_listening() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let to = Service::from(running.address);
    let mut clients = Vec::new();
    for n in 0..20 {
        let client = running.client();
        let id = recorder.wait_for_accepted(n);
        // Half of the connections stay open. This side closes the other half first, so they wait in
        // TIME_WAIT.
        if n % 2 == 0 {
            running.sockman.close_connection(id);
        }
        clients.push(client);
        running.sockman.stop_listening();
        assert_eq!(running.sockman.bind_and_start_listening(&to).unwrap(), to, "round {n}");
    }
}

/// G13: an address can be bound again although no thread runs that closes the old listener.
#[cfg(unix)]
#[test]
fn an_address_can_be_bound_again_with_no_thread_running() {
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let dir = TempDir::new();
    let path = dir.path("sock");
    let tcp = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let unix = sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    for _ in 0..5 {
        sockman.stop_listening();
        assert!(!path.exists());
        for to in [&tcp, &unix] {
            assert_eq!(&sockman.bind_and_start_listening(to).unwrap(), to);
        }
    }
}

#[cfg(target_os = "linux")]
fn is_close_on_exec(descriptor: std::os::fd::RawFd) -> bool {
    is_gone_or_close_on_exec(descriptor)
        && fs::exists(format!("/proc/self/fd/{descriptor}")).unwrap()
}

/// Accepts a closed descriptor, because other tests may close their descriptors at any time.
#[cfg(target_os = "linux")]
fn is_gone_or_close_on_exec(descriptor: std::os::fd::RawFd) -> bool {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")) else {
        return true;
    };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    u32::from_str_radix(flags.trim(), 8).unwrap() & O_CLOEXEC != 0
}

/// G13
#[cfg(target_os = "linux")]
#[test]
fn every_tcp_socket_is_without_delay_and_close_on_exec() {
    use sockman_test_support::descriptors;

    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let check = |what: &str, descriptor: std::os::fd::RawFd| {
        assert!(is_close_on_exec(descriptor), "{what}: not close-on-exec");
        assert!(descriptors::is_without_delay(descriptor), "{what}: Nagle's delay is on");
    };
    check("the listener", descriptors::of(running.address, None));
    let client = TcpStream::connect(running.address).unwrap();
    recorder.wait_for_accepted(0);
    let peer = client.local_addr().unwrap();
    check("an accepted connection", descriptors::of(running.address, Some(peer)));

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = other.local_addr().unwrap();
    let connection = running.sockman.connect(to, &ConnectOptions::default()).unwrap();
    let me = connection.me().to_socket_addr().unwrap();
    check("a connection", descriptors::of(me, Some(to)));
}

/// G13: systemd may hand over a listener after a client has connected.
#[cfg(target_os = "linux")]
#[test]
fn clients_from_before_the_adoption_have_no_nagle_delay() {
    use sockman_test_support::descriptors;

    let (recorder, sockman, _threads) = running();
    // The listener is made without close-on-exec, like a descriptor that one process hands to the
    // next.
    let socket = socket2::Socket::new_raw(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(10).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let clients = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
    sockman.start_listening_on(listener).unwrap();
    assert!(is_close_on_exec(descriptors::of(address, None)));
    for (n, client) in clients.iter().enumerate() {
        recorder.wait_for_accepted(n);
        let descriptor = descriptors::of(address, Some(client.local_addr().unwrap()));
        assert!(is_close_on_exec(descriptor));
        assert!(descriptors::is_without_delay(descriptor), "Nagle's delay is on");
    }
}

/// G13: unix-domain sockets and pollers are close-on-exec, too.
#[cfg(target_os = "linux")]
#[test]
fn every_other_descriptor_is_close_on_exec() {
    use sockman::address::Destination;
    use sockman_test_support::descriptors;

    let (recorder, sockman, _threads) = running();
    let dir = TempDir::new();
    let path = dir.path("sock");
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let to = Destination::from(Service::unix(&path).unwrap());
    let _connection = sockman.connect(&to, &ConnectOptions::default()).unwrap();
    recorder.wait_for_accepted(0);
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let inodes: Vec<_> = table
        .lines()
        .filter(|line| line.ends_with(path.to_str().unwrap()))
        .map(|line| line.split_whitespace().nth(6).unwrap().to_owned())
        .collect();
    assert_eq!(inodes.len(), 2, "the listener and its accepted connection must be open");
    for inode in inodes {
        let descriptor = descriptors::with_target(&format!("socket:[{inode}]")).unwrap();
        assert!(is_close_on_exec(descriptor), "{table}");
    }
    // Checks all pollers of the process. Other tests open sockets through std, which sets
    // close-on-exec. One test hands over a listener without close-on-exec.
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let descriptor = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let is_poller = || {
            let link = fs::read_link(format!("/proc/self/fd/{descriptor}"));
            link.is_ok_and(|to| to.to_string_lossy().starts_with("anon_inode:"))
        };
        // The test asks for the type of the descriptor again after it has read the flags, because
        // another descriptor may have the same number by then.
        let is_right = !is_poller() || is_gone_or_close_on_exec(descriptor) || !is_poller();
        assert!(is_right, "poller {descriptor} is not close-on-exec");
    }
}

/// G13, G5: a client and a server in two `SockMan`s report the same two addresses.
#[test]
fn both_sides_agree_on_their_addresses() {
    let (recorder, serving, _serving) = running();
    let (_, dialling, _dialling) = running();
    let (wildcard, host) = match has_family_of("[::]") {
        true => ("[::]:0", IpAddr::from(Ipv6Addr::LOCALHOST)),
        false => ("0.0.0.0:0", Ipv4Addr::LOCALHOST.into()),
    };
    let bound = serving.bind_and_start_listening(wildcard).unwrap();
    let to = SocketAddr::new(host, bound.port());
    let connection = dialling.connect(to, &ConnectOptions::default()).unwrap();
    let (id, me, them) = addresses(&recorder, &serving, 0);
    assert_eq!((&me.into(), &them), (connection.them(), connection.me()));
    let outbound = connection.activate();
    dialling.send_bytes(outbound, b"hello").unwrap();
    assert_eq!(recorder.wait_for_bytes(id, 5), b"hello");
    dialling.close_connection(outbound);
    recorder.wait_for_eof(id);
    eventually("the connection is gone", || dialling.stats().connections == 0);
}

/// G13: an adopted listener serves a client that came before the adoption.
#[test]
fn a_client_of_an_adopted_listener_gets_its_bytes() -> io::Result<()> {
    let (recorder, sockman, _threads) = running();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    sockman.start_listening_on(listener).unwrap();
    let id = recorder.wait_for_accepted(0);
    assert_eq!(sockman.send_bytes(id, b"welcome").unwrap(), 7);
    assert!(sockman.close_connection(id));
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes)?;
    assert_eq!(bytes, b"welcome");
    Ok(())
}
