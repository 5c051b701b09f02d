//! Options of sockets: each test asks the kernel, through a copy of the descriptor, what is set.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use sockman::{
    ConnectOptions, Service, SockMan,
    address::Destination,
    error::{BindErrorKind, ConnectError, ConnectErrorKind, ConnectFault},
    options::SocketOptions,
    sys::errors,
    testing::{Call, Network},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running,
    drivers::DRIVERS,
    tools::{TempDir, has_family_of, loopbacks, until},
    without_sweep,
};

/// Every option but the interface, with values that no system has as its defaults.
pub(crate) fn unusual() -> SocketOptions {
    SocketOptions::default()
        .keepalive_idle(Duration::from_secs(77))
        .keepalive_interval(Duration::from_secs(33))
        .keepalive_count(5)
        .user_timeout(Duration::from_millis(44_321))
        .send_buffer(40_000)
        .receive_buffer(50_000)
        .notsent_lowat(23_456)
        .dscp(46)
}

/// Asserts that the kernel has the values of [`unusual`].
pub(crate) fn assert_unusual(socket: &SockRef<'_>) {
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(33));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(44_321)));
    // Linux doubles the sizes.
    assert_eq!(socket.send_buffer_size().unwrap(), 80_000);
    assert_eq!(socket.recv_buffer_size().unwrap(), 100_000);
    assert_eq!(socket.tcp_notsent_lowat().unwrap(), 23_456);
    let is_ipv6 = socket.local_addr().unwrap().is_ipv6();
    let class = if is_ipv6 { socket.tclass_v6().unwrap() } else { socket.tos_v4().unwrap() };
    assert_eq!(class, 46 << 2);
}

/// Keeps copies of the descriptors that the library passes to the function of the options.
#[derive(Clone, Default)]
struct Copies(Arc<Mutex<Vec<OwnedFd>>>);

impl Copies {
    fn with(&self, options: SocketOptions) -> SocketOptions {
        let copies = self.clone();
        options.custom(move |socket: BorrowedFd<'_>| {
            copies.0.lock().unwrap().push(socket.try_clone_to_owned()?);
            Ok(())
        })
    }

    fn take(&self) -> OwnedFd {
        self.0.lock().unwrap().pop().expect("the function of the options was not called")
    }
}

fn start() -> (Arc<Recorder>, Running) {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    (recorder, running)
}

/// Returns the error of a connect with these options to a listener of this process.
fn refused(options: &ConnectOptions) -> [ConnectError; 2] {
    let (recorder, running) = start();
    let to = Destination::from(running.address);
    DRIVERS.map(|driver| {
        let error = driver.connect(&running.sockman, &recorder, &to, options).unwrap_err();
        assert_eq!(running.sockman.stats().connections, 0);
        error
    })
}

/// Each option of a connect is set on its socket, for both families and with both
/// ways to connect.
#[test]
fn the_kernel_has_each_option_of_a_connect() {
    let (recorder, running) = start();
    for host in loopbacks() {
        let to = Destination::from(running.sockman.bind_and_start_listening(host).unwrap());
        for driver in DRIVERS {
            let copies = Copies::default();
            let options = ConnectOptions::default().socket_options(copies.with(unusual()));
            driver.connect(&running.sockman, &recorder, &to, &options).unwrap();
            assert_unusual(&SockRef::from(&copies.take()));
        }
    }
}

/// Without options, the library leaves the system's defaults alone.
#[test]
fn a_connect_without_options_keeps_the_defaults_of_the_system() {
    let (recorder, running) = start();
    let plain = TcpStream::connect(running.address).unwrap();
    let plain = SockRef::from(&plain);
    for driver in DRIVERS {
        let copies = Copies::default();
        let options = ConnectOptions::default().socket_options(copies.with(Default::default()));
        let to = Destination::from(running.address);
        driver.connect(&running.sockman, &recorder, &to, &options).unwrap();
        let copy = copies.take();
        let socket = SockRef::from(&copy);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), plain.tcp_notsent_lowat().unwrap());
        assert_eq!(socket.tos_v4().unwrap(), 0);
        assert_eq!(socket.device().unwrap(), None);
    }
}

/// A connect with one setter of the keepalive has the system's defaults for the rest.
#[test]
fn each_part_of_the_keepalive_turns_it_on() {
    let (recorder, running) = start();
    let defaults = TcpStream::connect(running.address).unwrap();
    let defaults = SockRef::from(&defaults);
    let second = Duration::from_secs(1);
    for (part, options) in [
        SocketOptions::default().keepalive_idle(second),
        SocketOptions::default().keepalive_interval(second),
        SocketOptions::default().keepalive_count(1),
    ]
    .into_iter()
    .enumerate()
    {
        let copies = Copies::default();
        let options = ConnectOptions::default().socket_options(copies.with(options));
        let to = Destination::from(running.address);
        DRIVERS[0].connect(&running.sockman, &recorder, &to, &options).unwrap();
        let copy = copies.take();
        let (socket, of) = (SockRef::from(&copy), |n| part == n);
        assert!(socket.keepalive().unwrap());
        let idle = if of(0) { second } else { defaults.tcp_keepalive_time().unwrap() };
        assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
        let interval = if of(1) { second } else { defaults.tcp_keepalive_interval().unwrap() };
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval);
        let count = if of(2) { 1 } else { defaults.tcp_keepalive_retries().unwrap() };
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), count);
    }
}

/// A value out of its range is an error of the connect and of the bind, which names the option.
#[test]
fn a_value_out_of_range_is_an_error_that_names_the_option() {
    let options = SocketOptions::default;
    let half = Duration::from_millis(500);
    for (socket, name) in [
        (options().keepalive_idle(half), "SO_KEEPALIVE"),
        (options().keepalive_interval(Duration::from_secs(32_768)), "SO_KEEPALIVE"),
        (options().keepalive_count(0), "SO_KEEPALIVE"),
        (options().keepalive_count(128), "SO_KEEPALIVE"),
        (options().user_timeout(Duration::from_micros(999)), "TCP_USER_TIMEOUT"),
        (options().user_timeout(Duration::from_secs(3_000_000)), "TCP_USER_TIMEOUT"),
        (options().send_buffer(0), "SO_SNDBUF"),
        (options().receive_buffer(1 << 31), "SO_RCVBUF"),
        (options().notsent_lowat(0), "TCP_NOTSENT_LOWAT"),
        (options().dscp(64), "IP_TOS"),
        (options().interface(""), "SO_BINDTODEVICE"),
        (options().interface("sixteen-letters-"), "SO_BINDTODEVICE"),
    ] {
        for error in refused(&ConnectOptions::default().socket_options(socket.clone())) {
            let ConnectErrorKind::SocketOption { option, source } = error.kind() else {
                panic!("{error:?}")
            };
            assert_eq!((*option, source.kind()), (name, io::ErrorKind::InvalidInput));
            assert_eq!(error.fault(), ConnectFault::Caller);
            assert!(error.to_string().contains(name), "{error}");
        }
        let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
        let error = sockman.bind_and_start_listening_with("127.0.0.1:0", &socket).unwrap_err();
        let BindErrorKind::SocketOption { option, source } = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!((*option, source.kind()), (name, io::ErrorKind::InvalidInput));
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(sockman.stats().listeners, 0);
    }
}

/// The function of the options runs before the socket is bound, connected or listening, and its
/// error ends the call.
#[test]
fn an_error_of_the_embedders_function_ends_the_call_before_the_peer_sees_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let socket = SocketOptions::default().custom(|socket| {
        let socket = SockRef::from(&socket);
        assert_eq!(socket.local_addr()?.as_socket().unwrap().port(), 0, "the socket is bound");
        assert!(socket.peer_addr().is_err());
        assert!(!socket.is_listener()?);
        Err(io::Error::from_raw_os_error(libc::EDOM))
    });
    let is_told = |option: &str, source: &io::Error| {
        option == "SocketOptions::custom" && source.raw_os_error() == Some(libc::EDOM)
    };
    let options = ConnectOptions::default()
        .socket_options(socket.clone())
        .bind((Ipv4Addr::new(127, 0, 0, 5), 0));
    let to = Destination::from(listener.local_addr().unwrap());
    for driver in DRIVERS {
        let error = driver.connect(&sockman, &recorder, &to, &options).unwrap_err();
        let ConnectErrorKind::SocketOption { option, source } = error.kind() else {
            panic!("{error:?}")
        };
        assert!(is_told(option, source), "{error:?}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let error = sockman.bind_and_start_listening_with("127.0.0.1:0", &socket).unwrap_err();
    let BindErrorKind::SocketOption { option, source } = error.kind() else { panic!("{error:?}") };
    assert!(is_told(option, source), "{error:?}");
}

/// The peer sees the source address and the port that the options name.
#[test]
fn a_connect_leaves_from_its_source_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let to = Destination::from(listener.local_addr().unwrap());
    let host = Ipv4Addr::new(127, 0, 0, 77);
    // A free port, which a program has used just now.
    let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
    for driver in DRIVERS {
        for wanted in [0, port] {
            let options = ConnectOptions::default().bind((host, wanted)).timeout(DEADLINE);
            let id = driver.connect(&sockman, &recorder, &to, &options).unwrap();
            let (peer, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), IpAddr::from(host));
            assert!(wanted == 0 || from.port() == wanted, "{from}");
            assert_eq!(sockman.connection_info(id).unwrap().me, Service::from(from));
            // A reset frees the port for the next connect.
            sockman_test_support::reset(peer);
            sockman.close_connection(id);
            recorder.wait_for("the end", |_| (sockman.stats().connections == 0).then_some(()));
        }
    }
}

/// A connect with a source address that is not possible fails, and says why.
#[test]
fn a_source_address_that_cannot_be_bound_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for (from, errno, fault) in [
        ("192.0.2.1:0".parse().unwrap(), errors::EADDRNOTAVAIL, ConnectFault::Host),
        (taken.local_addr().unwrap(), errors::EADDRINUSE, ConnectFault::Host),
        // The destination is an IPv4 address.
        ("[::1]:0".parse::<SocketAddr>().unwrap(), errors::EAFNOSUPPORT, ConnectFault::Caller),
    ] {
        for error in refused(&ConnectOptions::default().bind(from)) {
            let ConnectErrorKind::SourceAddress { from: reported, source } = error.kind() else {
                panic!("{error:?}")
            };
            assert_eq!((*reported, source.raw_os_error()), (from, Some(errno)));
            assert_eq!(error.fault(), fault);
            assert!(error.to_string().contains(&from.to_string()), "{error}");
        }
    }
}

/// Each family has a source address of its own.
#[test]
fn a_connect_takes_the_source_address_of_its_family() {
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let options = ConnectOptions::default()
        .bind((Ipv4Addr::new(127, 0, 0, 8), 0))
        .bind((std::net::Ipv6Addr::LOCALHOST, 0));
    for (at, from) in [("127.0.0.1:0", "127.0.0.8"), ("[::1]:0", "::1")] {
        if !has_family_of(at) {
            continue;
        }
        let listener = TcpListener::bind(at).unwrap();
        let to = Destination::from(listener.local_addr().unwrap());
        for driver in DRIVERS {
            driver.connect(&sockman, &recorder, &to, &options).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), from.parse::<IpAddr>().unwrap());
        }
    }
}

/// Through a proxy, the options and the source address are those of the connection to the proxy.
#[cfg(feature = "socks5")]
#[test]
fn through_a_proxy_the_options_apply_to_the_way_to_the_proxy() {
    use sockman_test_support::socks5::{CONNECTED, name, negotiate, proxy, stall};

    let (from_there, seen) = std::sync::mpsc::channel();
    let proxy = proxy(move |mut stream| {
        from_there.send(stream.peer_addr().unwrap()).unwrap();
        if negotiate(&mut stream).is_some() {
            io::Write::write_all(&mut stream, CONNECTED).unwrap();
            stall(&mut stream);
        }
    });
    let (recorder, running) = start();
    for driver in DRIVERS {
        let copies = Copies::default();
        let options = ConnectOptions::default()
            .proxy(proxy.clone())
            .socket_options(copies.with(unusual()))
            .bind((Ipv4Addr::new(127, 0, 0, 9), 0))
            .timeout(DEADLINE);
        driver.connect(&running.sockman, &recorder, &name(), &options).unwrap();
        assert_eq!(seen.recv().unwrap().ip(), Ipv4Addr::new(127, 0, 0, 9));
        assert_unusual(&SockRef::from(&copies.take()));
    }
    // A fault of the options is no fault of the proxy.
    let options = ConnectOptions::default().proxy(proxy).bind((Ipv4Addr::new(192, 0, 2, 1), 0));
    for driver in DRIVERS {
        let error = driver.connect(&running.sockman, &recorder, &name(), &options).unwrap_err();
        assert!(matches!(error.kind(), ConnectErrorKind::SourceAddress { .. }), "{error:?}");
        assert_eq!(error.fault(), ConnectFault::Host);
    }
}

/// On unix-domain sockets, the buffers and the function apply, and the rest is skipped.
#[test]
fn on_a_unix_domain_socket_the_options_of_tcp_and_ip_are_skipped() {
    let dir = TempDir::new();
    let path = Service::unix(dir.path("sock")).unwrap();
    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let of_listener = Copies::default();
    let all = unusual().interface("none-such");
    sockman.bind_and_start_listening_with(&path, &of_listener.with(all.clone())).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    assert_eq!(SockRef::from(&of_listener.take()).send_buffer_size().unwrap(), 80_000);
    for driver in DRIVERS {
        let copies = Copies::default();
        let options = ConnectOptions::default()
            .socket_options(copies.with(all.clone()))
            .bind((Ipv4Addr::new(192, 0, 2, 1), 0));
        driver.connect(&sockman, &recorder, &Destination::from(&path), &options).unwrap();
        let copy = copies.take();
        let socket = SockRef::from(&copy);
        assert_eq!(socket.send_buffer_size().unwrap(), 80_000);
        assert_eq!(socket.recv_buffer_size().unwrap(), 100_000);
        assert!(!socket.keepalive().unwrap());
    }
}

/// An interface that does not exist may come, so its lack is this host's fault.
#[test]
fn an_interface_that_does_not_exist_is_an_error_of_this_host() {
    let socket = SocketOptions::default().interface("none-such");
    for error in refused(&ConnectOptions::default().socket_options(socket)) {
        let ConnectErrorKind::SocketOption { option, source } = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!((*option, source.raw_os_error()), ("SO_BINDTODEVICE", Some(errors::ENODEV)));
        assert_eq!(error.fault(), ConnectFault::Host);
    }
}

/// The doubles have no descriptors, and no options that the test does not let fail.
#[test]
fn over_the_doubles_an_option_can_fail_and_a_function_is_not_supported() {
    let network = Network::new();
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(Recorder::new(), options).unwrap();
    let to = "10.0.0.9:9";
    let _listener = network.listen(&to.parse().unwrap()).unwrap();
    let failed = |socket: SocketOptions| {
        let options = ConnectOptions::default().socket_options(socket);
        let error = sockman.start_connect(to, &options).unwrap_err();
        match error.into_kind() {
            ConnectErrorKind::SocketOption { option, source } => (option, source),
            kind => panic!("{kind:?}"),
        }
    };
    network.fail_next(Call::SetOption, errors::ENOPROTOOPT);
    let (option, source) = failed(SocketOptions::default().dscp(8));
    assert_eq!((option, source.raw_os_error()), ("IP_TOS", Some(errors::ENOPROTOOPT)));
    let (option, source) = failed(SocketOptions::default().custom(|_| Ok(())));
    assert_eq!(option, "SocketOptions::custom");
    assert_eq!(source.kind(), io::ErrorKind::Unsupported);
    // The connect of a port, which is bound to a source address.
    let options = ConnectOptions::default().bind((Ipv4Addr::new(10, 0, 0, 1), 4444));
    let connection = sockman.connect(to, &options).unwrap();
    assert_eq!(connection.me().to_string(), "10.0.0.1:4444");
    drop(connection);
    assert_eq!(network.descriptors(), 0);
}

/// Without this option, Linux says "room to send" only when a third of the send buffer is free.
/// With it, a slow reader is seen to make progress long before.
#[test]
fn with_notsent_lowat_the_progress_of_a_slow_reader_is_seen_soon() {
    // How often the sender has filled the buffer.
    let rounds = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&rounds);
    let recorder = Recorder::of_everything(move |sockman, event| {
        if let Event::ReadyToSend(id) = event {
            while sockman.send_bytes(*id, &[7; 65536]).is_ok_and(|sent| sent > 0) {}
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The peer's window is small, so that each read of it reaches the sender at once.
    SockRef::from(&listener).set_recv_buffer_size(64 * 1024).unwrap();
    let socket = SocketOptions::default().send_buffer(1_000_000).notsent_lowat(16 * 1024);
    let options = ConnectOptions::default().socket_options(socket);
    let connection = running.sockman.connect(listener.local_addr().unwrap(), &options).unwrap();
    recorder.want_to_send(connection.id(), true);
    connection.activate();
    let (mut peer, _) = listener.accept().unwrap();
    // Everything that the peer reads here is less than a third of the send buffer of 2 MB.
    let mut buffer = vec![0; 128 * 1024];
    for _ in 0..5 {
        let before = rounds.load(Ordering::SeqCst);
        peer.read_exact(&mut buffer).unwrap();
        until("the sender sees room", || rounds.load(Ordering::SeqCst) > before);
    }
}
