//! The public surface: the traits, sizes and texts of its types.

use std::{collections::BTreeSet, error::Error, io, mem::size_of, sync::Arc};

use sockman::{
    ConnectOptions, ConnectionId, EventHandler, Interrupt, NewConnection, NextRecv, Options,
    SendQueue, Service, SockMan, SocketsThreads, WeakSockMan,
    address::{
        CjdnsAddr, Destination, InvalidAddrError, NetAddr, Network, ParseAddrError,
        ParseAddrErrorKind, ScopedIpv6, UnixAddr,
    },
    error::{
        AddConnectionError, AddConnectionErrorKind, BindError, BindErrorKind, ConnectError,
        ConnectErrorKind, ConnectFault, ConnectPhase, CreateError, IntoStreamError, InvalidOption,
        JoinError, NotStarted, Panic, RunError, SendError, StartError,
    },
    helpers::{
        ConnectionTable, Deadlines, Drained, Piece, PushError, RateLimit, RateLimiter, SendBudget,
        SendQueueLimits, SendQueueWriter,
    },
    options::{PanicPolicy, SocketOptions},
    stateful::{ActivateError, ConnectionClosed, Handler, Link, Remote, StreamParts},
    stats::{ConnectionInfo, Direction, HangUp, Stats},
    sys::{More, OsSockFactory, Poller, Readiness, Sock, SockFactory, SocketOption, Waker, errors},
    testing::{self, Call, Ended, Peer, PeerListener, Point, Probe, Script, SocketThreadByHand},
};
use sockman_test_support::{Recorder, Running, without_sweep};

/// Returns the names of these types, and checks that all are `Send` and `Sync`.
macro_rules! send_and_sync {
    ($($type:ty),* $(,)?) => {{
        fn both<T: Send + Sync + ?Sized>() {}
        $(both::<$type>();)*
        vec![$(stringify!($type)),*]
    }};
}

/// Every public type is `Send` and `Sync`, except the poller and a socket thread by hand, which one
/// thread owns. The list of public types is `docs/public-api.txt`.
#[test]
fn every_public_type_is_send_and_sync() {
    fn send<T: Send + ?Sized>() {}
    let mut checked = send_and_sync![
        SockMan,
        WeakSockMan,
        SocketsThreads,
        NewConnection,
        dyn EventHandler,
        dyn Handler<Connection = ()>,
        ConnectionId,
        NextRecv,
        Interrupt,
        Options,
        ConnectOptions,
        Service,
        Destination,
        NetAddr,
        Network,
        UnixAddr,
        CjdnsAddr,
        ScopedIpv6,
        ParseAddrError,
        ParseAddrErrorKind,
        InvalidAddrError,
        AddConnectionError,
        AddConnectionErrorKind,
        IntoStreamError,
        NotStarted<u64>,
        BindError,
        BindErrorKind,
        ConnectError,
        ConnectErrorKind,
        ConnectFault,
        ConnectPhase,
        CreateError,
        InvalidOption,
        JoinError,
        Panic,
        SendError,
        StartError,
        RunError,
        PushError,
        SendQueue,
        SendQueueLimits,
        SendBudget,
        SendQueueWriter<'_>,
        Drained,
        Piece<'_>,
        RateLimit,
        RateLimiter,
        ConnectionTable<String>,
        Deadlines<u64>,
        PanicPolicy,
        SocketOptions,
        SocketOption<'static>,
        ActivateError<u64>,
        ConnectionClosed,
        Link<'static, u64>,
        Remote<u64>,
        StreamParts,
        ConnectionInfo,
        HangUp,
        Direction,
        Stats,
        More,
        OsSockFactory,
        Readiness,
        dyn Sock,
        dyn SockFactory,
        dyn Waker,
        Call,
        Ended,
        Peer,
        PeerListener,
        Point,
        Probe,
        Script,
        testing::Network,
    ];
    #[cfg(feature = "socks5")]
    {
        use sockman::{
            address::OnionV3,
            proxy::{Credentials, InvalidCredentials, Proxy, ProxyError, Socks5Reply},
        };
        checked.extend(send_and_sync![
            OnionV3,
            Credentials,
            InvalidCredentials,
            Proxy,
            ProxyError,
            Socks5Reply
        ]);
    }
    #[cfg(feature = "i2p")]
    {
        use sockman::{
            address::I2pHash,
            i2p::{DestinationError, I2pOptions, I2pStatus, KeyFileError, SamError, SamResult},
        };
        checked.extend(send_and_sync![
            I2pHash,
            DestinationError,
            I2pOptions,
            I2pStatus,
            KeyFileError,
            SamError,
            SamResult
        ]);
    }
    send::<dyn Poller>();
    checked.push("Poller");
    send::<SocketThreadByHand>();
    checked.push("SocketThreadByHand");

    let checked: BTreeSet<&str> = checked
        .iter()
        .map(|name| name.trim_start_matches("dyn ").split('<').next().unwrap_or(name).trim())
        .collect();
    if cfg!(all(feature = "socks5", feature = "i2p")) {
        let mut public = BTreeSet::new();
        for line in include_str!("../../docs/public-api.txt").lines() {
            let item = line.trim_start_matches("#[non_exhaustive] ");
            let kinds = ["pub struct sockman::", "pub enum sockman::", "pub trait sockman::"];
            let Some(path) = kinds.iter().find_map(|kind| item.strip_prefix(kind)) else {
                continue;
            };
            let path = path.split(['<', '(', ' ']).next().unwrap_or(path).trim_end_matches(':');
            // Two types have the name `Network`, so this one is listed with its module.
            public.insert(if path == "testing::Network" {
                "testing::Network"
            } else {
                path.rsplit("::").next().unwrap_or(path)
            });
        }
        assert!(public.contains("SockMan"), "{public:?}");
        let unchecked: Vec<_> = public.iter().filter(|name| !checked.contains(*name)).collect();
        assert!(unchecked.is_empty(), "{unchecked:?} are not in the list above: {checked:?}");
    }
}

/// A `Result` with one of these errors costs no more than a pointer besides its value.
#[test]
fn the_errors_of_connecting_and_binding_are_one_pointer() {
    assert_eq!(size_of::<ConnectError>(), size_of::<usize>());
    assert_eq!(size_of::<BindError>(), size_of::<usize>());
}

/// A program can return every error with `?` alone.
#[test]
fn every_error_becomes_a_boxed_error_that_threads_can_share() {
    fn program() -> Result<(), Box<dyn Error + Send + Sync>> {
        let sockman = SockMan::new(Recorder::new(), without_sweep())?;
        sockman.bind_and_start_listening("127.0.0.1:0")?;
        let threads = sockman.start_sockets_threads()?;
        sockman.interrupt();
        threads.join()?;
        Ok(())
    }
    program().unwrap();
}

#[test]
fn the_errors_of_connecting_and_binding_become_io_errors_of_the_nearest_kind() {
    let running = Running::start(Recorder::new(), without_sweep());
    let (sockman, bound) = (&running.sockman, Service::from(running.address));

    let in_use = sockman.bind_and_start_listening(&bound).unwrap_err();
    assert!(matches!(in_use.kind(), BindErrorKind::AddressInUse { .. }), "{in_use:?}");
    assert_eq!(in_use.to(), Some(&bound));
    assert_eq!(io::Error::from(in_use).kind(), io::ErrorKind::AddrInUse);

    let no_text = sockman.bind_and_start_listening("nonsense").unwrap_err();
    assert!(matches!(no_text.kind(), BindErrorKind::InvalidText(_)), "{no_text:?}");
    assert_eq!(io::Error::from(no_text).kind(), io::ErrorKind::InvalidInput);

    let options = ConnectOptions::default();
    let name = sockman.connect("example.com:80", &options).unwrap_err();
    assert!(matches!(name.kind(), ConnectErrorKind::NeedsProxy), "{name:?}");
    assert_eq!(io::Error::from(name).kind(), io::ErrorKind::InvalidInput);

    let no_text = sockman.start_connect("1.2.3.4", &options).unwrap_err();
    assert!(matches!(no_text.kind(), ConnectErrorKind::InvalidText(_)), "{no_text:?}");
    assert_eq!(no_text.to(), None);

    sockman.stop_listening();
    let refused = sockman.connect(&bound, &options).unwrap_err();
    assert!(matches!(refused.kind(), ConnectErrorKind::Refused { .. }), "{refused:?}");
    assert_eq!(io::Error::from(refused).kind(), io::ErrorKind::ConnectionRefused);
}

/// Either the message of an error contains the source, or `source` returns it. The format `{}`
/// never repeats a source that `source` returns, and `{:#}` always does.
#[test]
fn a_message_does_not_repeat_its_source_unless_the_alternate_form_asks_for_it() {
    fn check(error: &impl Error) {
        let source =
            error.source().unwrap_or_else(|| panic!("{error:?} has no source")).to_string();
        assert!(!error.to_string().contains(&source), "{error}");
        assert!(format!("{error:#}").ends_with(&source), "{error:#}");
    }
    let sockman = SockMan::new(Recorder::new(), Options::default()).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    check(&sockman.bind_and_start_listening(&bound).unwrap_err());
    sockman.stop_listening();
    check(&sockman.connect(&bound, &ConnectOptions::default()).unwrap_err());
    check(&StartError::Spawn(io::Error::from_raw_os_error(errors::EAGAIN)));
    check(&JoinError::Poll(io::Error::from_raw_os_error(errors::EBADF)));
    let source = io::Error::from_raw_os_error(errors::EPIPE);
    check(&SendError::Socket { id: ConnectionId::from_u64(7), source });
}

/// The message alone says what is wrong with a text or an option, so the error has no source.
#[test]
fn a_message_about_a_text_or_an_option_says_what_is_wrong() {
    fn check(error: &impl Error, parts: [&str; 2]) {
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(error.source().is_none(), "{error:?}");
        assert_eq!(format!("{error:#}"), message);
    }
    let sockman = SockMan::new(Recorder::new(), Options::default()).unwrap();
    let options = ConnectOptions::default();
    check(&sockman.bind_and_start_listening("1.2.3.4").unwrap_err(), ["1.2.3.4", "port"]);
    check(&sockman.connect("1.2.3.4", &options).unwrap_err(), ["1.2.3.4", "port"]);
    check(&sockman.start_connect("1.2.3.4", &options).unwrap_err(), ["1.2.3.4", "port"]);
    let error = SockMan::new(Recorder::new(), Options::default().accept_batch(0)).unwrap_err();
    check(&error, ["Options::accept_batch", "at least 1"]);
}

/// A parameter that names an address accepts every type that holds one.
#[test]
#[allow(
    clippy::needless_borrows_for_generic_args,
    reason = "the test is about what may be borrowed"
)]
fn an_address_is_accepted_as_text_and_in_every_form_of_the_standard_library() {
    use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let text = String::from("127.0.0.1:0");
    let v4: SocketAddrV4 = "127.0.0.1:0".parse().unwrap();
    let any = SocketAddr::from(v4);
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    sockman.bind_and_start_listening(&text).unwrap();
    sockman.bind_and_start_listening(text).unwrap();
    sockman.bind_and_start_listening(v4).unwrap();
    sockman.bind_and_start_listening(any).unwrap();
    sockman.bind_and_start_listening(&any).unwrap();
    sockman.bind_and_start_listening(Service::from(any)).unwrap();

    let options = ConnectOptions::default();
    let address = bound.to_socket_addr().unwrap();
    let SocketAddr::V4(v4) = address else {
        unreachable!("the listener was bound to an IPv4 address")
    };
    let text = bound.to_string();
    let destination = Destination::from(&bound);
    drop(sockman.connect(text.as_str(), &options).unwrap());
    drop(sockman.connect(&text, &options).unwrap());
    drop(sockman.connect(text, &options).unwrap());
    drop(sockman.connect(v4, &options).unwrap());
    drop(sockman.connect(address, &options).unwrap());
    drop(sockman.connect(&address, &options).unwrap());
    drop(sockman.connect(&bound, &options).unwrap());
    drop(sockman.connect(bound, &options).unwrap());
    drop(sockman.connect(&destination, &options).unwrap());
    let last = sockman.connect(destination, &options).unwrap();
    assert_eq!(last.them(), &Destination::from(address));
    let v6 = SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, 1, 0, 0);
    assert_eq!(Destination::from(v6).to_string(), "[::1]:1");
}

/// Setters accept any value. The constructor that takes the options refuses a value out of range
/// and names the option.
#[test]
fn a_value_out_of_range_is_refused_by_name() {
    use std::time::Duration;

    let refused = |options: Options| match SockMan::new(Recorder::new(), options) {
        Err(CreateError::InvalidOption(error)) => error.option(),
        other => panic!("{other:?}"),
    };
    let options = Options::default;
    assert_eq!(refused(options().accept_batch(0)), "Options::accept_batch");
    assert_eq!(refused(options().receive_buffer(0)), "Options::receive_buffer");
    assert_eq!(refused(options().receive_buffer((1 << 30) + 1)), "Options::receive_buffer");
    assert_eq!(refused(options().sweep(Some(Duration::from_micros(999)))), "Options::sweep");
    assert_eq!(refused(options().thread_name("a\0b")), "Options::thread_name");
    assert_eq!(SendQueueLimits::new(1, 1, 9).unwrap_err().option(), "SendQueueLimits::new");
    assert_eq!(SendQueueLimits::new(1, 10, 9).unwrap_err().option(), "SendQueueLimits::new");
    SendQueueLimits::new(0, 1, 1).unwrap();
    SockMan::new(Recorder::new(), options().accept_batch(1).receive_buffer(1)).unwrap();
}

#[cfg(feature = "i2p")]
#[test]
fn an_i2p_value_out_of_range_is_refused_by_name() {
    use sockman::i2p::I2pOptions;

    let refused = |i2p: I2pOptions| match SockMan::new(Recorder::new(), Options::default().i2p(i2p))
    {
        Err(CreateError::InvalidOption(error)) => error.option(),
        other => panic!("{other:?}"),
    };
    let i2p = || I2pOptions::new("127.0.0.1:7656".parse::<Service>().unwrap());
    assert_eq!(refused(i2p().tunnel_quantity(0, 1)), "I2pOptions::tunnel_quantity");
    assert_eq!(refused(i2p().tunnel_quantity(1, 17)), "I2pOptions::tunnel_quantity");
    assert_eq!(refused(i2p().tunnel_length(0, 8)), "I2pOptions::tunnel_length");
    assert_eq!(refused(i2p().accept_incoming(true)), "I2pOptions::accept_incoming");
    assert_eq!(refused(i2p().thread_name("a\0b")), "I2pOptions::thread_name");
    let unnamed = I2pOptions::new(Service::UNIX_UNNAMED);
    assert_eq!(refused(unnamed), "I2pOptions::new");
}

/// Asserts that every type that parses, and a connect, refuses `addr`, whose network needs
/// `feature`, with the name of the feature.
#[cfg(not(all(feature = "socks5", feature = "i2p")))]
fn assert_refused_for_want_of(feature: &'static str, addr: &str) {
    let missing = ParseAddrErrorKind::MissingFeature { feature };
    let named = format!("`{feature}`");
    let service = format!("{addr}:0");
    for error in [
        addr.parse::<NetAddr>().unwrap_err(),
        service.parse::<Service>().unwrap_err(),
        service.parse::<Destination>().unwrap_err(),
    ] {
        assert_eq!(error.kind(), missing, "{error}");
        assert!(error.to_string().contains(&named), "{error}");
    }
    let sockman = SockMan::new(Recorder::new(), without_sweep()).unwrap();
    let options = ConnectOptions::default();
    for error in [
        sockman.connect(&service, &options).unwrap_err(),
        sockman.start_connect(&service, &options).unwrap_err(),
    ] {
        let ConnectErrorKind::InvalidText(text) = error.kind() else { panic!("{error:?}") };
        assert_eq!(text.kind(), missing);
        assert!(format!("{error:#}").contains(&named), "{error:#}");
    }
}

#[cfg(not(feature = "socks5"))]
#[test]
fn without_the_feature_socks5_an_onion_address_is_refused_with_its_name() {
    let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
    assert_refused_for_want_of("socks5", onion);
    assert_refused_for_want_of("socks5", &onion.to_uppercase());
    // One name is an onion address of version 2, and the other has an empty label. Without the
    // feature the library does not check for such faults.
    assert_refused_for_want_of("socks5", "6hzph5hv6337r6p2.onion");
    assert_refused_for_want_of("socks5", ".onion");
}

#[cfg(not(feature = "i2p"))]
#[test]
fn without_the_feature_i2p_an_i2p_address_is_refused_with_its_name() {
    let i2p = "ukeu3k5oycgaauneqgtnvselmt4yemvoilkln7jpvamvfx7dnkdq.b32.i2p";
    assert_refused_for_want_of("i2p", i2p);
    assert_refused_for_want_of("i2p", &i2p.to_uppercase());
    assert_refused_for_want_of("i2p", ".b32.i2p");
    // A name in I2P's address book is no host name, with the feature and without it.
    let name = "stats.i2p:0";
    assert_eq!(name.parse::<Service>().unwrap_err().kind(), ParseAddrErrorKind::I2pName);
    assert_eq!(name.parse::<Destination>().unwrap_err().kind(), ParseAddrErrorKind::I2pName);
}

#[cfg(not(feature = "socks5"))]
#[test]
fn without_the_feature_socks5_a_host_name_is_refused_because_it_needs_a_proxy() {
    let running = Running::start(Recorder::new(), without_sweep());
    let to: Destination = "example.com:80".parse().unwrap();
    let options = ConnectOptions::default();
    for error in [
        running.sockman.connect(&to, &options).unwrap_err(),
        running.sockman.start_connect(&to, &options).unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ConnectErrorKind::NeedsProxy), "{error:?}");
        assert_eq!(error.to(), Some(&to));
    }
    assert_eq!(running.sockman.stats().connections, 0);
}

/// G1: an id belongs to one `SockMan`. All calls of another `SockMan` in the same process treat the
/// id as unknown.
#[test]
fn an_id_of_another_sockman_is_unknown() {
    let start = || Running::start(Recorder::new(), without_sweep());
    let (here, elsewhere) = (start(), start());
    let connected = |running: &Running| {
        let options = ConnectOptions::default();
        running.sockman.connect(running.address, &options).unwrap().activate()
    };
    let ids = [connected(&here), connected(&elsewhere)];
    assert_ne!(ids[0], ids[1]);
    let foreign = ids[0];
    let sockman = &elsewhere.sockman;
    let unknown =
        |outcome| matches!(outcome, Err(SendError::UnknownConnection(id)) if id == foreign);
    assert!(unknown(sockman.send_bytes(foreign, b"x").map(|_| ())));
    assert!(unknown(sockman.send_bytes(foreign, b"").map(|_| ())));
    assert!(unknown(sockman.send_vectored(foreign, &[io::IoSlice::new(b"x")]).map(|_| ())));
    assert!(unknown(
        sockman.send_with(foreign, &[io::IoSlice::new(b"x")], More::Follows).map(|_| ())
    ));
    assert!(unknown(sockman.shutdown_write(foreign)));
    assert!(sockman.connection_info(foreign).is_none());
    assert!(!sockman.close_connection(foreign));
    sockman.wake(foreign);
    assert!(
        here.sockman.connection_info(foreign).is_some(),
        "the connection must stay open in its own SockMan"
    );
    assert_eq!(here.sockman.send_bytes(foreign, b"x").unwrap(), 1);
}

#[test]
fn an_id_can_be_carried_as_a_number() {
    let running = Running::start(Recorder::new(), without_sweep());
    let id =
        running.sockman.connect(running.address, &ConnectOptions::default()).unwrap().activate();
    let carried: u64 = id.to_string().parse().unwrap();
    assert_eq!(carried, id.as_u64());
    assert_eq!(ConnectionId::from_u64(carried), id);
    assert!(running.sockman.close_connection(ConnectionId::from_u64(carried)));
}

/// A handler that only receives implements four methods.
#[test]
fn a_handler_that_only_receives_needs_no_method_about_sending() {
    struct Sink;
    impl EventHandler for Sink {
        fn event_new_connection_accepted(
            &self,
            _: &SockMan,
            _: ConnectionId,
            _: &Service,
            _: &Service,
        ) -> bool {
            true
        }
        fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
        fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
        fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    }
    let sockman = SockMan::new(Arc::new(Sink), Options::default()).unwrap();
    assert_eq!(Sink.event_ready_to_send(&sockman, ConnectionId::from_u64(0)), NextRecv::Proceed);
}
