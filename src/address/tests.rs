//! Tests of what only the crate itself sees: the sizes of addresses, and their conversion to and
//! from the kernel's form.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::net::{Ipv6Addr, SocketAddr, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};

#[cfg(unix)]
use socket2::SockRef;
use socket2::{Domain, Socket, Type};

use super::{NetAddr, Service, UnixAddr};

/// G10: an idle connection takes a few hundred bytes. The figures are for processors of 64 bits.
#[cfg(target_pointer_width = "64")]
#[test]
fn addresses_stay_small_because_each_connection_holds_two() {
    assert_eq!(size_of::<NetAddr>(), 24);
    assert_eq!(size_of::<Service>(), 32);
}

/// G13: an address that is converted to the kernel's form and back stays the same.
#[test]
fn addresses_survive_the_conversion_to_the_kernels_form() {
    let longest_path = format!("unix:/{}", "p".repeat(UnixAddr::MAX_BYTES - 2));
    let mut texts = vec!["0.0.0.0:0", "1.2.3.4:8333", "[::1]:65535", "[fe80::1%7]:1"];
    // The library reads no unix-domain addresses from Windows.
    if cfg!(unix) {
        texts.extend(["unix:/a b", &longest_path]);
    }
    for text in texts {
        let service: Service = text.parse().unwrap();
        let sock_addr = service.to_sock_addr().unwrap();
        assert_eq!(Service::from_sock_addr(&sock_addr), Some(service));
    }
}

/// The kernel has no address family for CJDNS, so the address comes back as plain IPv6.
#[test]
fn cjdns_goes_to_the_kernel_as_ipv6() {
    let service: Service = "cjdns:[fc00::1]:8333".parse().unwrap();
    let sock_addr = service.to_sock_addr().unwrap();
    let plain: SocketAddr = "[fc00::1]:8333".parse().unwrap();
    assert_eq!(sock_addr.as_socket(), Some(plain));
    assert_eq!(Service::from_sock_addr(&sock_addr), Some(plain.into()));
}

/// The message of the error names the reason.
#[test]
fn an_address_that_no_socket_can_have_is_refused_with_the_reason() {
    let no_terminator = format!("unix:/{}", "p".repeat(UnixAddr::MAX_BYTES - 1));
    for (service, reason) in [
        #[cfg(feature = "socks5")]
        (Service::new(NetAddr::tor_v3([1; 32]), 1), "through Tor"),
        #[cfg(feature = "i2p")]
        (Service::new(NetAddr::i2p([1; 32]), 0), "through I2P"),
        (Service::UNIX_UNNAMED, "unnamed"),
        (no_terminator.parse().unwrap(), "terminator"),
    ] {
        let error = service.to_sock_addr().unwrap_err();
        assert!(error.to_string().contains(reason), "{service}: {error}");
        let error = std::io::Error::from(error);
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        assert!(error.to_string().contains(reason), "{service}: {error}");
    }
}

/// A peer of a family that the library does not know has no address.
#[cfg(target_os = "linux")]
#[test]
fn an_address_of_another_family_is_none() {
    let vsock = socket2::SockAddr::vsock(1, 2);
    assert_eq!(Service::from_sock_addr(&vsock), None);
}

/// G13.
#[cfg(unix)]
#[test]
fn an_unnamed_unix_peer_is_reported_as_unnamed() {
    let directory = crate::sys::temporary::TempDir::new("address");
    let path = directory.path().join("address");
    let listener = UnixListener::bind(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let (accepted, _) = listener.accept().unwrap();

    let them = SockRef::from(&accepted).peer_addr().unwrap();
    let me = SockRef::from(&accepted).local_addr().unwrap();
    let them = Service::from_sock_addr(&them).unwrap();
    assert_eq!(them, Service::UNIX_UNNAMED);
    assert_eq!(them.to_string(), "unix:");
    assert_eq!(Service::from_sock_addr(&me), Some(Service::unix(&path).unwrap()));
}

/// Abstract names may contain NUL bytes and fill `sun_path`.
#[cfg(target_os = "linux")]
#[test]
fn abstract_names_survive_the_conversion_to_the_kernels_form() {
    let longest = UnixAddr::MAX_BYTES - 1;
    let pid = std::process::id();
    for name in [format!("sockman\0{pid}\0"), format!("{pid:0>longest$}")] {
        let service = Service::new(NetAddr::unix_abstract(&name).unwrap(), 0);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&service.to_sock_addr().unwrap()).unwrap();
        let bound = socket.local_addr().unwrap();
        assert_eq!(Service::from_sock_addr(&bound), Some(service));
    }
    let nameless = Service::new(NetAddr::unix_abstract("").unwrap(), 0);
    let sock_addr = nameless.to_sock_addr().unwrap();
    assert_eq!(Service::from_sock_addr(&sock_addr), Some(nameless));
}

/// G13: one peer has one address, independent of the listener that accepts the peer.
#[test]
fn an_ipv4_peer_of_a_dual_stack_listener_is_ipv4() {
    let listener = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    listener.set_only_v6(false).unwrap();
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    if listener.bind(&any.into()).is_err() {
        return; // no IPv6 on this machine
    }
    listener.listen(1).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (accepted, them) = listener.accept().unwrap();

    let mapped = them.as_socket_ipv6().unwrap();
    assert!(mapped.ip().to_ipv4_mapped().is_some());
    let them = Service::from_sock_addr(&them).unwrap();
    assert_eq!(them, client.local_addr().unwrap().into());
    let me = Service::from_sock_addr(&accepted.local_addr().unwrap()).unwrap();
    assert_eq!(me.to_string(), format!("127.0.0.1:{port}"));
}
