//! Tests of the effects of a send that took fewer bytes than it was given.

use std::{io, time::Duration};

use parking_lot::Mutex;

use super::{Ordinals, only};
use crate::{
    address::Service,
    engine::connection::ConnectionId,
    event_handler::{EventHandler, NextRecv},
    options::Options,
    sockman::SockMan,
    sys::{Readiness, errors},
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

/// Runs passes and lets the clock move by `time`. Returns how many bytes the sends took, and the
/// number of passes.
fn run_for(rig: &Rig, time: Duration) -> (usize, u64) {
    let (until, passes) = (rig.network.now() + time, rig.sockman.stats().passes);
    rig.network.hold_clock(Some(time));
    while rig.network.now() < until {
        rig.pass();
    }
    rig.network.hold_clock(Some(Duration::ZERO));
    let taken = std::mem::take(&mut *rig.handler.taken.lock());
    (taken.into_iter().sum(), rig.sockman.stats().passes - passes)
}

/// G11: a send that lacks memory or buffers once is no error. The rest is sent after a pause,
/// without an event, a wake or a sweep.
#[test]
fn a_send_that_lacks_buffers_once_is_repeated_after_a_pause() {
    for errno in [errors::ENOBUFS, errors::ENOMEM] {
        for to in [tcp(), Service::unix("/nowhere").unwrap()] {
            let (rig, peer) = Rig::accept_at(&to);
            rig.network.fail_next(Call::Send, errno);
            peer.set_window(12);
            assert_eq!(rig.sends_of_one_pass(), (vec![0], 1), "errno {errno} is not reported");
            assert_eq!(rig.sends_of_one_pass(), (vec![], 0));
            assert_eq!(rig.sends_of_one_pass(), (vec![], 0));
            assert_eq!(rig.network.last_timeout(), Some(Duration::from_millis(10)));
            assert_eq!(run_for(&rig, Duration::from_millis(11)).0, 12);
            rig.pass();
            rig.pass();
            assert_eq!(rig.network.last_timeout(), None, "nothing is left to wait for");
        }
    }
}

/// G7, G11: a lack that lasts costs few passes. After the lack, everything is sent.
#[test]
fn a_send_that_always_lacks_buffers_does_not_spin() {
    for errno in [errors::ENOBUFS, errors::ENOMEM, errors::EINTR] {
        let (rig, peer) = Rig::accept_at(&tcp());
        rig.network.fail_always(Call::Send, errno);
        peer.set_window(12);
        let (taken, passes) = run_for(&rig, Duration::from_secs(10));
        assert_eq!(taken, 0);
        assert!((40..=200).contains(&passes), "errno {errno}: {passes} passes in ten seconds");
        rig.network.heal();
        assert_eq!(run_for(&rig, Duration::from_millis(201)).0, 12);
    }
}

/// G11: a send on another thread that lacks buffers gets no event either, so the socket thread asks
/// the hook after a pause.
#[test]
fn a_send_on_another_thread_that_lacks_buffers_is_followed_by_the_hook() {
    let (rig, peer) = Rig::accept_at(&tcp());
    peer.set_window(5);
    // The socket thread's send fills the window. After that, the latch is clear.
    assert_eq!(rig.sends_of_one_pass(), (vec![5], 1));
    rig.pass();
    let id = rig.handler.ordinals.id(0);
    rig.network.fail_next(Call::Send, errors::ENOBUFS);
    let sent = rig.network.as_another_thread(|| rig.sockman.send_bytes(id, &[1; 3]));
    assert_eq!(sent.unwrap(), 0);
    let calls = rig.network.calls(Call::Send);
    run_for(&rig, Duration::from_millis(11));
    assert_eq!(rig.network.calls(Call::Send), calls + 1);
}

/// G11: a closed connection that lacked buffers is released, and a restart forgets nothing.
#[test]
fn a_connection_that_lacks_buffers_can_be_closed() {
    let (rig, peer) = Rig::accept_at(&tcp());
    rig.network.fail_always(Call::Send, errors::ENOBUFS);
    peer.set_window(12);
    let descriptors = rig.network.descriptors();
    rig.pass();
    assert!(rig.sockman.close_connection(rig.handler.ordinals.id(0)));
    assert_eq!(rig.network.descriptors(), descriptors - 1);
    run_for(&rig, Duration::from_secs(1));
    assert_eq!(rig.network.last_timeout(), None);
}
