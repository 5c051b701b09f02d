//! Tests against the kernel in network namespaces of their own: situations that only a changed
//! network shows. Each test runs this program again, in its namespace.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::TcpListener;

use sockman::{ConnectOptions, Service, SockMan, address::Destination, error::ConnectErrorKind};
use sockman_test_support::{
    DEADLINE, Recorder, child::in_namespace, drivers::DRIVERS, without_sweep,
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
