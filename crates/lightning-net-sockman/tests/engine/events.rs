//! `process_events` and the other methods of LDK from other threads, all the while.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::ldk::Driven;

/// Contract: other threads may call LDK at any time. No call waits for another for ever, and
/// nothing is lost or reordered.
#[test]
fn other_threads_process_events_all_the_while() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let connection = alice.connect(&bob);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in [&alice.node, &bob.node] {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        node.manager.process_events();
                        thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    node.manager.list_peers();
                    thread::yield_now();
                }
            });
        }
        for (bytes, count) in [(0, 500), (100, 500), (20_000, 100), (60_000, 100)] {
            alice.node.exchange(bob.node.id, count, bytes, || {});
            bob.node.exchange(alice.node.id, count, bytes, || {});
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(!connection.is_closed());
}

/// Peers come and go while other threads process events and disconnect everything.
#[test]
fn peers_come_and_go_while_other_threads_disconnect_them() {
    let (alice, bob) = (Driven::start(), Driven::start());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bob.node.manager.process_events();
                bob.node.manager.disconnect_all_peers();
                thread::yield_now();
            }
        });
        for _ in 0..200 {
            let made = alice.driver.connect_outbound(bob.node.id, bob.address).unwrap();
            assert!(made.wait_closed(sockman_test_support::DEADLINE));
        }
        done.store(true, Ordering::Relaxed);
    });
    alice.wait_until_alone();
    bob.wait_until_alone();
    for node in [&alice.node, &bob.node] {
        let heard = node.messages.state();
        assert_eq!(heard.connected.len(), heard.disconnected.len());
    }
}
