//! Tests of the handle that a callback gets, which knows the callback's connection.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use parking_lot::Mutex;

use super::{Ordinals, Rig};
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    error::SendError,
    event_handler::EventHandler,
    options::{Options, PanicPolicy},
    sockman::SockMan,
};

/// Answers each byte with a deed. The first connection is number 0, and so on.
#[derive(Default)]
struct Deeds {
    ordinals: Ordinals,
    kept: Mutex<Vec<SockMan>>,
    unknown: Mutex<usize>,
}

impl EventHandler for Deeds {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.ordinals.of(id);
        true
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        match data {
            b"own" => drop(sockman.send_bytes(id, b"own").unwrap()),
            b"both" => {
                for ordinal in 0..self.ordinals.count() {
                    sockman.send_bytes(self.ordinals.id(ordinal), &[ordinal as u8]).unwrap();
                }
            }
            b"keep" => self.kept.lock().push(sockman.clone()),
            b"close" => {
                assert!(sockman.close_connection(id));
                let sent = sockman.send_bytes(id, b"late");
                assert!(matches!(sent, Err(SendError::UnknownConnection(of)) if of == id));
                assert!(sockman.shutdown_write(id).is_err());
                sockman.wake(id);
                *self.unknown.lock() += 1;
            }
            b"panic" => panic!("the peer asked for it"),
            _ => {}
        }
    }
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

fn rig() -> Rig<Deeds> {
    let options = Options::default().sweep(None).panic_policy(PanicPolicy::CloseConnection);
    Rig::with_handler(Deeds::default(), options)
}

/// G1, G5: each send in a callback goes to the connection that it names, the callback's own or
/// another one.
#[test]
fn a_send_in_a_callback_reaches_the_connection_that_it_names() {
    let rig = rig();
    let peers = [rig.connect_peer(), rig.connect_peer()];
    rig.pass();
    rig.pass();
    for (sent, expected) in [(&b"own"[..], [&b"own"[..], b""]), (b"both", [b"\0", b"\x01"])] {
        peers[0].send(sent).unwrap();
        rig.pass();
        for (peer, expected) in peers.iter().zip(expected) {
            assert_eq!(peer.receive().0, expected);
        }
    }
}

/// G4: after a close in a callback, the id is unknown to the callback's own handle too. A clone of
/// the handle keeps no descriptor open, and after a panic the next callback has its own connection.
#[test]
fn the_handle_of_a_callback_keeps_nothing_open() {
    let rig = rig();
    let descriptors = rig.network.descriptors();
    for deed in [&b"keep"[..], b"panic", b"close"] {
        let peers = [rig.connect_peer(), rig.connect_peer()];
        rig.pass();
        rig.pass();
        peers[0].send(deed).unwrap();
        peers[1].send(b"own").unwrap();
        rig.pass();
        assert_eq!(peers[1].receive().0, b"own");
        rig.pass();
        for id in rig.sockman.connection_ids() {
            rig.sockman.close_connection(id);
        }
        rig.pass();
        drop(peers);
        assert_eq!(rig.network.descriptors(), descriptors, "after {deed:?}");
    }
    // The handler must not keep its own `SockMan` beyond the test, because neither would be freed.
    assert_eq!((rig.handler.kept.lock().drain(..).count(), *rig.handler.unknown.lock()), (1, 1));
}

/// G12, G14: a panic that ends the thread leaves the connection's slot without a reference to lend.
/// After the restart, the handle still reaches the connection, and nothing is kept open.
#[test]
fn the_handle_of_a_callback_works_after_a_panic_that_ended_the_thread() {
    let options = Options::default().sweep(None).panic_policy(PanicPolicy::Stop);
    let rig = Rig::with_handler(Deeds::default(), options);
    let descriptors = rig.network.descriptors();
    let peers = [rig.connect_peer(), rig.connect_peer()];
    rig.pass();
    rig.pass();
    peers[0].send(b"panic").unwrap();
    peers[1].send(b"own").unwrap();
    catch_unwind(AssertUnwindSafe(|| rig.pass())).unwrap_err();
    rig.pass();
    assert_eq!(peers[1].receive().0, b"own");
    for _ in 0..2 {
        peers[0].send(b"both").unwrap();
        rig.pass();
        assert_eq!((peers[0].receive().0, peers[1].receive().0), (vec![0], vec![1]));
    }
    for (ordinal, peer) in peers.into_iter().enumerate() {
        assert!(rig.sockman.close_connection(rig.handler.ordinals.id(ordinal)));
        drop(peer);
    }
    assert_eq!(rig.network.descriptors(), descriptors);
}
