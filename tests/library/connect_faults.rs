//! The error of a connect says which party is at fault, for every `errno` that the manual pages of
//! connect(2), socket(2) and bind(2) name. Over the network in memory, which fails calls on demand.

use std::{error::Error, io, sync::Arc};

use sockman::{
    ConnectOptions, Service, SockMan, SocketsThreads,
    error::{ConnectError, ConnectFault as Fault},
    sys::errors,
    testing::{Call, Network},
};
use sockman_test_support::{
    Recorder,
    drivers::{DRIVERS, Driver},
    without_sweep,
};

/// A `SockMan` over the network in memory, with its threads running.
struct Rig {
    network: Network,
    recorder: Arc<Recorder>,
    sockman: SockMan,
    threads: Option<SocketsThreads>,
}

impl Rig {
    fn new() -> Rig {
        let network = Network::new();
        network.set_blocking(true);
        let recorder = Recorder::new();
        let options = without_sweep().sock_factory(network.factory());
        let sockman = SockMan::new(recorder.clone(), options).unwrap();
        let threads = Some(sockman.start_sockets_threads().unwrap());
        Rig { network, recorder, sockman, threads }
    }

    /// Returns the error of a connect whose `call` fails with `errno`.
    fn error(
        &self,
        driver: Driver,
        call: Call,
        errno: i32,
        to: &str,
        options: &ConnectOptions,
    ) -> ConnectError {
        self.network.fail_next(call, errno);
        let to = to.parse::<Service>().unwrap().into();
        let error = driver.connect(&self.sockman, &self.recorder, &to, options).unwrap_err();
        assert_eq!(self.sockman.stats().connections, 0);
        error
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.sockman.interrupt();
        if let Some(threads) = self.threads.take() {
            threads.join().unwrap();
        }
    }
}

const TO: &str = "[2001:db8::1]:8333";
const UNIX: &str = "unix:/nowhere";

/// Returns the name of the kind.
fn name(error: &ConnectError) -> String {
    let text = format!("{:?}", error.kind());
    text.split([' ', '{', '(']).next().unwrap().to_owned()
}

/// The errors of connect(2), and of the networks below it, that concern the destination.
const DESTINATION: &[(i32, &str)] = &[
    (errors::ECONNREFUSED, "Refused"),
    (errors::EHOSTUNREACH, "Unreachable"),
    (errors::ENETUNREACH, "Unreachable"),
    (errors::EHOSTDOWN, "Unreachable"),
    (errors::ETIMEDOUT, "Unreachable"),
    (errors::EADDRNOTAVAIL, "AddressNotAvailable"),
    (errors::EAFNOSUPPORT, "FamilyNotSupported"),
    (errors::EPROTONOSUPPORT, "FamilyNotSupported"),
    (errors::EPERM, "PermissionDenied"),
    (errors::EACCES, "PermissionDenied"),
    (errors::EINVAL, "Os"),
    (errors::ENODEV, "Os"),
    (errors::ECONNRESET, "Os"),
    (errors::ECONNABORTED, "Os"),
    (errors::ENOPROTOOPT, "Os"),
    (errors::EPROTO, "Os"),
    (errors::EOPNOTSUPP, "Os"),
    (errors::EMSGSIZE, "Os"),
    (errors::EPROTOTYPE, "Os"),
    (errors::ENOENT, "Os"),
    (errors::ENOTDIR, "Os"),
    (errors::ELOOP, "Os"),
    (errors::ENAMETOOLONG, "Os"),
];

/// The errors of connect(2) that concern this host or this process. `ENOBUFS`, `ENOMEM` and `EAGAIN`
/// are not among them: the connect is tried again until its deadline.
const HOST: &[(i32, &str)] = &[
    (errors::ENETDOWN, "NetworkDown"),
    (errors::EADDRINUSE, "Os"),
    (errors::EMFILE, "Os"),
    (errors::ENFILE, "Os"),
    (errors::EALREADY, "Os"),
    (errors::EISCONN, "Os"),
    (errors::EBADF, "Os"),
    (errors::EFAULT, "Os"),
    (errors::ENOTSOCK, "Os"),
    (errors::EIO, "Os"),
    // A filter of system calls answers so. An error that is unknown counts as the host's.
    (errors::ENOSYS, "Os"),
];

/// G13
#[test]
fn each_error_of_connect_says_which_party_is_at_fault() {
    let rig = Rig::new();
    let options = ConnectOptions::default();
    for (errors, fault) in [(DESTINATION, Fault::Destination), (HOST, Fault::Host)] {
        for (errno, kind) in errors {
            for to in [TO, UNIX] {
                for driver in DRIVERS {
                    let error = rig.error(driver, Call::Connect, *errno, to, &options);
                    let os = io::Error::from_raw_os_error(*errno);
                    let what = format!("{os}: {error:?}");
                    assert_eq!((error.fault(), &*name(&error)), (fault, *kind), "{what}");
                    assert!(!error.is_proxy_fault(), "{what}");
                    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
                    assert_eq!(source.raw_os_error(), Some(*errno), "{what}");
                    let text = format!("{error:#}");
                    assert!(text.starts_with(&format!("cannot connect to {to}: ")), "{text}");
                    assert!(text.ends_with(&os.to_string()), "{text}");
                    assert_eq!(io::Error::from(error).kind(), os.kind());
                }
            }
        }
    }
}

/// G13: an error of `socket(2)` concerns this host, except that of a family that it lacks.
#[test]
fn each_error_of_socket_says_which_party_is_at_fault() {
    let rig = Rig::new();
    let errors = [
        (errors::EAFNOSUPPORT, Fault::Destination, "FamilyNotSupported"),
        (errors::EPROTONOSUPPORT, Fault::Destination, "FamilyNotSupported"),
        (errors::EINVAL, Fault::Destination, "Os"),
        (errors::EACCES, Fault::Host, "Os"),
        (errors::EPERM, Fault::Host, "Os"),
        (errors::EMFILE, Fault::Host, "Os"),
        (errors::ENFILE, Fault::Host, "Os"),
        (errors::ENOBUFS, Fault::Host, "Os"),
        (errors::ENOMEM, Fault::Host, "Os"),
        // A factory may bind the socket. The address to bind is not the destination.
        (errors::EADDRINUSE, Fault::Host, "Os"),
        (errors::EADDRNOTAVAIL, Fault::Host, "Os"),
    ];
    for (errno, fault, kind) in errors {
        for driver in DRIVERS {
            let error = rig.error(driver, Call::Socket, errno, TO, &ConnectOptions::default());
            assert_eq!((error.fault(), &*name(&error)), (fault, kind), "{error:?}");
        }
    }
    for (call, errno) in
        [(Call::CreatePoller, errors::EMFILE), (Call::LocalAddress, errors::ENOBUFS)]
    {
        // The other driver needs no poller of its own.
        let _listener = rig.network.listen(&UNIX.parse().unwrap()).unwrap();
        let to = if call == Call::LocalAddress { UNIX } else { TO };
        let error = rig.error(Driver::Blocking, call, errno, to, &ConnectOptions::default());
        assert_eq!(error.fault(), Fault::Host, "{error:?}");
    }
}

/// G13: the same error at the proxy is the proxy's fault, but a lack of this host stays the host's.
#[cfg(feature = "socks5")]
#[test]
fn a_lack_of_this_host_is_not_the_proxys_fault() {
    let rig = Rig::new();
    let proxy: sockman::proxy::Proxy = "10.0.0.9:9050".parse().unwrap();
    let options = ConnectOptions::default().proxy(proxy);
    let at_connect = DESTINATION
        .iter()
        .map(|(errno, _)| (Call::Connect, *errno, Fault::Proxy))
        .chain(HOST.iter().map(|(errno, _)| (Call::Connect, *errno, Fault::Host)));
    let at_socket = [
        (Call::Socket, errors::EAFNOSUPPORT, Fault::Proxy),
        (Call::Socket, errors::EMFILE, Fault::Host),
    ];
    for (call, errno, fault) in at_connect.chain(at_socket) {
        for driver in DRIVERS {
            let error = rig.error(driver, call, errno, "192.0.2.1:1", &options);
            assert_eq!(error.fault(), fault, "{error:?}");
            assert_eq!(error.is_proxy_fault(), fault == Fault::Proxy);
        }
    }
    // A link-local address of the proxy without a zone says so, too.
    let options = options.proxy("[fe80::1]:9050".parse().unwrap());
    for driver in DRIVERS {
        let error = rig.error(driver, Call::Connect, errors::EINVAL, "192.0.2.1:1", &options);
        assert_eq!(error.fault(), Fault::Proxy, "{error:?}");
        assert!(format!("{error:#}").contains("must have a zone"), "{error:#}");
    }
}

/// G13: the same for a SAM bridge.
#[cfg(feature = "i2p")]
#[test]
fn a_lack_of_this_host_is_not_the_bridges_fault() {
    use sockman::{address::NetAddr, i2p::I2pOptions};

    let to = Service::new(NetAddr::i2p([7; 32]), 0).to_string();
    let start = |sam: &str| {
        let network = Network::new();
        network.set_blocking(true);
        let recorder = Recorder::new();
        let i2p = I2pOptions::new(sam.parse::<Service>().unwrap());
        let options = without_sweep().sock_factory(network.factory()).i2p(i2p);
        let sockman = SockMan::new(recorder.clone(), options).unwrap();
        let threads = Some(sockman.start_sockets_threads().unwrap());
        Rig { network, recorder, sockman, threads }
    };
    let rig = start("10.0.0.9:7656");
    let errors = [
        (Call::Connect, errors::ENETUNREACH, Fault::Proxy),
        (Call::Connect, errors::EADDRNOTAVAIL, Fault::Proxy),
        (Call::Connect, errors::ENETDOWN, Fault::Host),
        (Call::Socket, errors::EAFNOSUPPORT, Fault::Proxy),
        (Call::Socket, errors::EMFILE, Fault::Host),
    ];
    let options = ConnectOptions::default();
    for (call, errno, fault) in errors {
        for driver in DRIVERS {
            let error = rig.error(driver, call, errno, &to, &options);
            assert_eq!(error.fault(), fault, "{error:?}");
        }
    }
    let rig = start("[fe80::1]:7656");
    for driver in DRIVERS {
        let error = rig.error(driver, Call::Connect, errors::EINVAL, &to, &options);
        assert_eq!(error.fault(), Fault::Proxy, "{error:?}");
        assert!(format!("{error:#}").contains("must have a zone"), "{error:#}");
    }
}

/// G13: with the system's sockets. Linux refuses the address with EINVAL.
#[cfg(target_os = "linux")]
#[test]
fn a_link_local_address_without_a_zone_says_so_in_words() {
    use sockman::error::BindErrorKind;
    use sockman::error::ConnectErrorKind as Kind;
    use sockman_test_support::DEADLINE;

    let recorder = Recorder::new();
    let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
    let _threads = sockman.start_sockets_threads().unwrap();
    let options = ConnectOptions::default().timeout(DEADLINE);
    for to in ["[fe80::1]:8333", "[febf:ffff::2]:18333"] {
        let to: Service = to.parse().unwrap();
        for driver in DRIVERS {
            let error = driver.connect(&sockman, &recorder, &(&to).into(), &options).unwrap_err();
            assert!(matches!(error.kind(), Kind::NeedsZone { .. }), "{error:?}");
            assert_eq!(error.fault(), Fault::Caller);
            let text = format!("cannot connect to {to}: a link-local address must have a zone");
            assert!(error.to_string().starts_with(&text), "{error}");
        }
        let error = sockman.bind_and_start_listening(&to).unwrap_err();
        assert!(matches!(error.kind(), BindErrorKind::NeedsZone { .. }), "{error:?}");
        let text = format!("cannot listen on {to}: a link-local address must have a zone");
        assert!(error.to_string().starts_with(&text), "{error}");
    }
}

/// G13: the other kinds.
#[test]
fn an_error_without_a_system_call_says_which_party_is_at_fault() {
    let rig = Rig::new();
    let sockman = &rig.sockman;
    let fault = |to: &str, options: &ConnectOptions| {
        let error = sockman.connect(to, options).unwrap_err();
        (name(&error), error.fault())
    };
    let options = ConnectOptions::default();
    assert_eq!(fault("name.test:80", &options), ("NeedsProxy".to_owned(), Fault::Caller));
    assert_eq!(fault("unix:", &options), ("InvalidDestination".to_owned(), Fault::Caller));
    assert_eq!(fault("no port", &options), ("InvalidText".to_owned(), Fault::Caller));
    let late = options.timeout(std::time::Duration::ZERO);
    assert_eq!(fault(TO, &late), ("TimedOut".to_owned(), Fault::Destination));

    let full = without_sweep().max_connections(0);
    let full = SockMan::new(Recorder::new(), full).unwrap();
    let error = full.connect(TO, &ConnectOptions::default()).unwrap_err();
    assert_eq!((&*name(&error), error.fault()), ("TooManyConnections", Fault::Host));
    full.interrupt();
    let error = full.start_connect(TO, &ConnectOptions::default()).unwrap_err();
    assert_eq!((&*name(&error), error.fault()), ("Interrupted", Fault::Caller));
}

/// G13: a listener's address has the same errors, each with its kind.
#[test]
fn each_error_of_bind_has_its_kind() {
    let network = Network::new();
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(Recorder::new(), options).unwrap();
    let errors = [
        (errors::EADDRINUSE, "AddressInUse"),
        (errors::EADDRNOTAVAIL, "AddressNotAvailable"),
        (errors::EACCES, "PermissionDenied"),
        (errors::EPERM, "PermissionDenied"),
        (errors::EINVAL, "Os"),
        (errors::EBADF, "Os"),
        (errors::ENOTSOCK, "Os"),
        (errors::ELOOP, "Os"),
        (errors::ENAMETOOLONG, "Os"),
        (errors::ENOENT, "Os"),
        (errors::ENOTDIR, "Os"),
        (errors::ENOMEM, "Os"),
        (errors::EROFS, "Os"),
    ];
    for (errno, kind) in errors {
        network.fail_next(Call::Bind, errno);
        let error = sockman.bind_and_start_listening(TO).unwrap_err();
        assert!(format!("{:?}", error.kind()).starts_with(kind), "{error:?}");
        let os = io::Error::from_raw_os_error(errno);
        assert!(format!("{error:#}").ends_with(&os.to_string()), "{error:#}");
    }
}
