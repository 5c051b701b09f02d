//! Tests of a connection that has sent: whether it rests at the end of its turn.

use std::{mem, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    address::Service,
    engine::threads::run_one_pass,
    event_handler::NextRecv,
    options::Options,
    sockman::SockMan,
    stateful::{Handler, Link},
    testing::{Network, Peer},
};

/// A handler that sends one byte for each receive, and records its calls. The value of a connection
/// is the number of bytes that are left to send.
#[derive(Default)]
struct Answering {
    calls: Mutex<Vec<&'static str>>,
    /// Whether the end of the next turn adds a byte.
    adds_at_end: Mutex<bool>,
}

impl Answering {
    fn record(&self, call: &'static str) {
        self.calls.lock().push(call);
    }
}

impl Handler for Answering {
    type Connection = usize;

    fn accepted(&self, _: Link<'_, usize>, _: &Service, _: &Service) -> Option<usize> {
        Some(0)
    }
    fn got_data(&self, _: Link<'_, usize>, left: &mut usize, _: &[u8]) {
        *left += 1;
    }
    fn should_try_to_send(&self, _: Link<'_, usize>, left: &mut usize) -> bool {
        self.record("asked");
        *left > 0
    }
    fn ready_to_send(&self, link: Link<'_, usize>, left: &mut usize) -> NextRecv {
        self.record("sends");
        *left -= link.send(b"x").unwrap();
        NextRecv::Proceed
    }
    fn turn_completed(&self, _: Link<'_, usize>, left: &mut usize) {
        self.record("turn");
        *left += usize::from(mem::take(&mut *self.adds_at_end.lock()));
    }
}

struct Rig {
    network: Network,
    handler: Arc<Answering>,
    sockman: SockMan,
    peer: Peer,
}

impl Rig {
    /// Accepts one connection and runs its first turn.
    fn new() -> Rig {
        let network = Network::new();
        network.hold_clock(Some(Duration::ZERO));
        let handler = Arc::new(Answering::default());
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::clone(&handler), options).unwrap();
        let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        run_one_pass(&sockman).unwrap();
        let peer = network.connect(&here).unwrap();
        let rig = Rig { network, handler, sockman, peer };
        for _ in 0..3 {
            rig.calls_of_one_pass();
        }
        rig
    }

    fn calls_of_one_pass(&self) -> Vec<&'static str> {
        run_one_pass(&self.sockman).unwrap();
        mem::take(&mut *self.handler.calls.lock())
    }
}

/// The cost of a message: after a send, the hook is asked in the same turn, and a connection that
/// has sent everything is not listed for another pass.
#[test]
fn a_connection_that_has_sent_everything_rests_at_the_end_of_its_turn() {
    let rig = Rig::new();
    rig.peer.send(&[1]).unwrap();
    assert_eq!(rig.calls_of_one_pass(), ["asked", "sends", "turn", "asked"]);
    assert_eq!(rig.calls_of_one_pass(), [""; 0]);
    assert_eq!(rig.network.last_timeout(), None, "nothing is left to do");
}

/// G6: what the last callback of a turn adds is sent in the next pass, which does not wait.
#[test]
fn what_the_end_of_a_turn_adds_is_sent_in_the_next_pass() {
    let rig = Rig::new();
    *rig.handler.adds_at_end.lock() = true;
    rig.peer.send(&[1]).unwrap();
    assert_eq!(rig.calls_of_one_pass(), ["asked", "sends", "turn", "asked"]);
    assert_eq!(rig.calls_of_one_pass(), ["asked", "sends", "turn", "asked"]);
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO));
    assert_eq!(rig.calls_of_one_pass(), [""; 0]);
    assert_eq!(rig.network.last_timeout(), None, "nothing is left to do");
}
