//! Tests against the kernel in network namespaces of their own: situations that only a changed
//! network shows. Each test runs this program again, in its namespace.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

use sockman::{
    ConnectOptions, Service, SockMan,
    address::Destination,
    error::{ConnectErrorKind, ConnectFault},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, child::in_namespace, drivers::DRIVERS, without_sweep,
};

fn for_long() -> ConnectOptions {
    ConnectOptions::default().timeout(DEADLINE)
}

/// G13: if the kernel has one port only, a connect to this port reaches its own socket.
#[test]
fn a_connect_to_the_only_ephemeral_port_is_refused() {
    let setup = "echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range";
    in_namespace(a_connect_to_the_only_ephemeral_port_is_refused, setup, || {
        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
        let _threads = sockman.start_sockets_threads().unwrap();
        for to in ["127.0.0.1:40000", "[::1]:40000", "0.0.0.0:40000"] {
            let to = Destination::from(to.parse::<Service>().unwrap());
            for driver in DRIVERS {
                let error = driver.connect(&sockman, &recorder, &to, &for_long()).unwrap_err();
                assert!(matches!(error.kind(), ConnectErrorKind::Refused { .. }), "{error:?}");
            }
        }
        // The port was given back: a program can listen there, and is then reached.
        drop(TcpListener::bind("127.0.0.1:40000").unwrap());
    });
}

/// G13: a program that dials the addresses that its peers report gets on, although this host can
/// dial some of them never.
#[test]
fn addresses_that_this_host_cannot_dial_are_told_apart_from_a_lack_of_this_host() {
    let test = addresses_that_this_host_cannot_dial_are_told_apart_from_a_lack_of_this_host;
    let setup = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n\
        nft add table inet t\n\
        nft add chain inet t out '{ type filter hook output priority 0; }'\n\
        nft add rule inet t out ip daddr 127.0.0.66 reject with icmp type admin-prohibited\n\
        ip route add prohibit 198.51.100.2\n\
        ip route add blackhole 198.51.100.3\n\
        ip route add unreachable 198.51.100.4";
    in_namespace(test, setup, || {
        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
        let _threads = sockman.start_sockets_threads().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [
            ("[fe80::1]:8333", Some((ConnectFault::Caller, "NeedsZone"))),
            ("[2001:db8::1]:8333", Some((ConnectFault::Destination, "AddressNotAvailable"))),
            ("[::1]:8333", Some((ConnectFault::Destination, "AddressNotAvailable"))),
            ("[fe80::1%99]:8333", Some((ConnectFault::Destination, "AddressNotAvailable"))),
            ("[ff02::1]:8333", Some((ConnectFault::Destination, "Unreachable"))),
            ("198.51.100.1:8333", Some((ConnectFault::Destination, "Unreachable"))),
            ("255.255.255.255:8333", Some((ConnectFault::Destination, "Unreachable"))),
            ("224.0.0.1:8333", Some((ConnectFault::Destination, "Unreachable"))),
            ("127.255.255.255:8333", Some((ConnectFault::Destination, "Unreachable"))),
            ("127.0.0.66:8333", Some((ConnectFault::Destination, "Unreachable"))),
            ("198.51.100.2:8333", Some((ConnectFault::Destination, "PermissionDenied"))),
            // Linux answers EINVAL for a route into a black hole.
            ("198.51.100.3:8333", Some((ConnectFault::Destination, "Os"))),
            ("198.51.100.4:8333", Some((ConnectFault::Destination, "Unreachable"))),
            ("127.0.0.1:1", Some((ConnectFault::Destination, "Refused"))),
            (&listener.local_addr().unwrap().to_string(), None),
        ];
        for (to, expected) in addresses {
            for driver in DRIVERS {
                let destination = Destination::from(to.parse::<Service>().unwrap());
                let outcome = driver.connect(&sockman, &recorder, &destination, &for_long());
                println!("{to}: {outcome:?}");
                match (outcome, expected) {
                    (Ok(_), None) => {}
                    (Err(error), Some((fault, kind))) => {
                        assert_eq!(error.fault(), fault, "{error:?}");
                        assert!(format!("{:?}", error.kind()).starts_with(kind), "{error:?}");
                    }
                    (outcome, _) => panic!("{to}: {outcome:?}"),
                }
            }
        }
    });
}

/// G13: `me` behind a transparent proxy is the address that the client dialled. The listener is
/// adopted, as the library sets no `IP_TRANSPARENT`.
#[test]
fn behind_tproxy_me_is_the_address_that_was_dialled() {
    let setup = "ip route add local 198.51.100.7 dev lo\n\
        ip -6 route add local 2001:db8::7 dev lo\n\
        nft add table inet t\n\
        nft add chain inet t pre '{ type filter hook prerouting priority mangle; }'\n\
        nft add rule inet t pre ip daddr 198.51.100.7 tcp dport 80 tproxy ip to 127.0.0.1:50080\n\
        nft add rule inet t pre ip6 daddr 2001:db8::7 tcp dport 80 tproxy ip6 to '[::1]:50080'";
    in_namespace(behind_tproxy_me_is_the_address_that_was_dialled, setup, || {
        let recorder = Recorder::new();
        let sockman = SockMan::new(recorder.clone(), without_sweep()).unwrap();
        let _threads = sockman.start_sockets_threads().unwrap();
        let at = ["127.0.0.1:50080", "[::1]:50080"];
        for (n, (at, to)) in at.into_iter().zip(["198.51.100.7:80", "[2001:db8::7]:80"]).enumerate()
        {
            let at: SocketAddr = at.parse().unwrap();
            let listener = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
            // The option of IPv4 applies to the IPv6 socket, too.
            listener.set_ip_transparent_v4(true).unwrap();
            listener.bind(&at.into()).unwrap();
            listener.listen(16).unwrap();
            let bound = sockman.start_listening_on(listener).unwrap();
            assert_eq!(bound, Service::from(at));
            let client = TcpStream::connect(to).unwrap();
            let id = recorder.wait_for_accepted(n);
            let event = recorder.wait_for_event("its acceptance", |event| event.id() == Some(id));
            let Event::Accepted { me, them, .. } = event else { panic!("{event:?}") };
            assert_eq!(me, to.parse().unwrap());
            assert_eq!(them, Service::from(client.local_addr().unwrap()));
            assert_eq!(sockman.connection_info(id).unwrap().me, me);
        }
    });
}
