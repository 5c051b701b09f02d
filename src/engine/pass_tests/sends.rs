//! Tests of the effects of a send that took fewer bytes than it was given.

use std::io;

use parking_lot::Mutex;

use super::{Ordinals, only};
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    event_handler::{EventHandler, NextRecv},
    options::Options,
    sockman::SockMan,
    sys::Readiness,
    testing::{Call, Peer},
};

/// A handler that always has ten bytes to send, and records how many bytes each send took.
#[derive(Default)]
struct Source {
    ordinals: Ordinals,
    taken: Mutex<Vec<usize>>,
}

impl EventHandler for Source {
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
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.taken.lock().push(sockman.send_bytes(id, &[0; 10]).unwrap());
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

type Rig = super::Rig<Source>;

impl Rig {
    /// Accepts one connection at this address. The peer's window is closed.
    fn accept_at(to: &Service) -> (Rig, Peer) {
        let rig = Rig::with_handler(Source::default(), Options::default().sweep(None));
        if *to != rig.here {
            rig.sockman.bind_and_start_listening(to).unwrap();
            rig.pass();
        }
        let peer = rig.network.connect(to).unwrap();
        peer.set_window(0);
        for _ in 0..3 {
            rig.pass();
        }
        assert_eq!((rig.network.calls(Call::Send), rig.connections().len()), (0, 1));
        (rig, peer)
    }

    /// Runs one pass. Returns how many bytes each send of the handler took, and the number of
    /// sends.
    fn sends_of_one_pass(&self) -> (Vec<usize>, u64) {
        let calls = self.network.calls(Call::Send);
        self.pass();
        let taken = std::mem::take(&mut *self.handler.taken.lock());
        (taken, self.network.calls(Call::Send) - calls)
    }
}

fn tcp() -> Service {
    "10.0.0.1:1".parse().unwrap()
}

/// The cost of a full socket: after a short send, the library makes no `send` that would find no
/// room. G5: the remaining bytes are sent after the event that reports room.
#[test]
fn a_short_send_on_tcp_clears_the_latch() {
    let (rig, peer) = Rig::accept_at(&tcp());
    peer.set_window(14);
    assert_eq!(rig.sends_of_one_pass(), (vec![10], 1), "all bytes were taken, so more may fit");
    assert_eq!(rig.sends_of_one_pass(), (vec![4], 1));
    assert_eq!(rig.sends_of_one_pass(), (vec![], 0));
    assert_eq!(
        rig.network.last_timeout(),
        None,
        "the loop has nothing to do until the socket has room"
    );
    assert_eq!(peer.receive().0.len(), 14);
    assert_eq!(rig.sends_of_one_pass(), (vec![10], 1));
}

/// G5: on other sockets (unix-domain sockets, and those of an embedder's factory) a short send does
/// not mean that the socket is full.
#[test]
fn a_short_send_on_another_socket_is_followed_by_one_that_would_block() {
    let (rig, peer) = Rig::accept_at(&Service::unix("/nowhere").unwrap());
    peer.set_window(4);
    assert_eq!(rig.sends_of_one_pass(), (vec![4], 1));
    assert_eq!(rig.sends_of_one_pass(), (vec![0], 1));
    assert_eq!(rig.sends_of_one_pass(), (vec![], 0));
    peer.set_window(64);
    assert_eq!(rig.sends_of_one_pass(), (vec![10], 1));
}

/// The cost of a peer that resets: a connection whose two directions are over is not shut down. G4:
/// a socket on which only an error was reported is shut down at once.
#[test]
fn a_close_shuts_down_only_a_connection_that_is_not_over() {
    let writable = Readiness { writable: true, ..Readiness::default() };
    for (event, is_shut) in [
        (Readiness { broken: true, read_closed: true, ..writable }, false),
        (Readiness { broken: true, ..writable }, true),
        (Readiness { read_closed: true, ..writable }, true),
        (writable, true),
    ] {
        let (rig, _peer) = Rig::accept_at(&tcp());
        rig.network.inject_event(Readiness { token: only(&rig.connections()), ..event });
        rig.pass();
        assert_eq!(rig.network.calls(Call::Send), 1, "the event reached the connection");
        assert!(rig.sockman.close_connection(rig.handler.ordinals.id(0)));
        assert_eq!(rig.network.calls(Call::Shutdown), u64::from(is_shut), "{event:?}");
    }
}
