//! What a handler does at the end of a turn: each way out, and a panic under each policy.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use sockman::{
    ConnectionId, Service, SockMan,
    options::PanicPolicy,
    stateful::{Handler, Link},
    testing::{Ended, Network, Peer, SocketThreadByHand},
};
use sockman_test_support::without_sweep;

/// What the end of a turn does with a connection that has received something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Act {
    #[default]
    Nothing,
    Finish,
    Close,
    Abort,
    Panic,
}

/// Echoes, and keeps what each connection has received.
#[derive(Default)]
struct AtTurnEnds {
    /// What the end of the next turn does.
    next: Mutex<Act>,
    closed: Mutex<Vec<Vec<u8>>>,
    panicked: Mutex<usize>,
}

impl Handler for AtTurnEnds {
    type Connection = Vec<u8>;

    fn accepted(&self, _: Link<'_, Vec<u8>>, _: &Service, _: &Service) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
    fn got_data(&self, link: Link<'_, Vec<u8>>, got: &mut Vec<u8>, data: &[u8]) {
        got.extend_from_slice(data);
        link.push(data).unwrap();
    }
    fn should_try_to_send(&self, link: Link<'_, Vec<u8>>, _: &mut Vec<u8>) -> bool {
        assert!(!link.is_closed(), "a closed connection is asked nothing");
        link.queue().has_queued()
    }
    fn turn_completed(&self, link: Link<'_, Vec<u8>>, got: &mut Vec<u8>) {
        if got.is_empty() {
            return;
        }
        let act = mem::take(&mut *self.next.lock().unwrap());
        match act {
            Act::Nothing => {}
            Act::Finish => assert!(link.finish(Duration::MAX)),
            Act::Close => assert!(link.close()),
            Act::Abort => assert!(link.abort()),
            Act::Panic => panic!("as the test wants"),
        }
    }
    fn closed(&self, sockman: &SockMan, id: ConnectionId, got: Vec<u8>) {
        assert!(!sockman.close_connection(id), "the id is unknown");
        self.closed.lock().unwrap().push(got);
    }
    fn closed_after_panic(&self, _: &SockMan, _: ConnectionId) {
        *self.panicked.lock().unwrap() += 1;
    }
}

struct Rig {
    network: Network,
    handler: Arc<AtTurnEnds>,
    sockman: SockMan,
    here: Service,
}

impl Rig {
    fn new(network: Network, policy: PanicPolicy) -> Rig {
        let handler = Arc::new(AtTurnEnds::default());
        let options = without_sweep().panic_policy(policy).sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::clone(&handler), options).unwrap();
        let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        Rig { network, handler, sockman, here }
    }

    fn thread(&self) -> SocketThreadByHand {
        SocketThreadByHand::start(&self.sockman, &self.network).unwrap()
    }

    fn peer(&self) -> Peer {
        self.network.connect(&self.here).unwrap()
    }

    /// Lets the end of the next turn act.
    fn act(&self, act: Act) {
        *self.handler.next.lock().unwrap() = act;
    }

    fn closed(&self) -> Vec<Vec<u8>> {
        mem::take(&mut *self.handler.closed.lock().unwrap())
    }
}

const NETWORKS: [fn() -> Network; 4] =
    [Network::linux, Network::bsd, Network::macos, Network::windows];

/// G2, G5: a connection that finishes at the end of a turn sends what its queue has. One that is
/// closed or aborted there has no further call but `closed`.
#[test]
fn a_connection_may_end_at_the_end_of_its_turn() {
    for network in NETWORKS {
        let acts = [Act::Finish, Act::Close, Act::Abort];
        // The turn that receives, and the next one, which only sends.
        for (act, in_next_turn) in acts.into_iter().flat_map(|act| [(act, false), (act, true)]) {
            let rig = Rig::new(network(), PanicPolicy::Stop);
            let mut thread = rig.thread();
            let (peer, other) = (rig.peer(), rig.peer());
            // Most of the echo waits in the queue when the turn ends.
            peer.set_window(4);
            thread.run_until_idle().unwrap();
            if !in_next_turn {
                rig.act(act);
            }
            peer.send(b"0123456789").unwrap();
            let (mut got, mut ended) = (Vec::new(), None);
            for _ in 0..20 {
                thread.run_until_idle().unwrap();
                if in_next_turn && got.is_empty() {
                    rig.act(act);
                }
                let (data, end) = peer.receive();
                got.extend_from_slice(&data);
                ended = ended.or(end);
            }
            peer.shutdown_write();
            thread.run_until_idle().unwrap();
            match act {
                Act::Finish => {
                    assert_eq!((got.as_slice(), ended), (&b"0123456789"[..], Some(Ended::Eof)));
                }
                Act::Close => {
                    let sent = if in_next_turn { 8 } else { 4 };
                    assert_eq!(got, b"0123456789"[..sent], "{ended:?}");
                    assert!(ended.is_some());
                }
                _ => assert!(matches!(ended, Some(Ended::Error(_))), "{act:?}: {ended:?}"),
            }
            let closed = rig.closed();
            assert_eq!(closed.len(), 1, "{act:?}: {closed:?}");
            assert!(b"0123456789".starts_with(&closed[0]) && !closed[0].is_empty());
            // The other connection goes on.
            other.send(b"abc").unwrap();
            thread.run_until_idle().unwrap();
            assert_eq!(other.receive().0, b"abc");
            assert_eq!(rig.sockman.stats().connections, 1);
        }
    }
}

/// G12: a panic at the end of a turn stops the threads, and the connection goes on at the next start
/// with its value, or it closes this connection alone.
#[test]
fn a_panic_at_the_end_of_a_turn_is_one_of_its_connection() {
    for network in NETWORKS {
        for policy in [PanicPolicy::Stop, PanicPolicy::CloseConnection] {
            let rig = Rig::new(network(), policy);
            let mut thread = rig.thread();
            let (peer, other) = (rig.peer(), rig.peer());
            thread.run_until_idle().unwrap();
            rig.act(Act::Panic);
            peer.send(b"first").unwrap();
            let outcome = thread.run_until_idle();
            assert_eq!(outcome.is_err(), policy == PanicPolicy::Stop);
            thread.stop();
            let mut thread = rig.thread();
            thread.run_until_idle().unwrap();
            assert_eq!(peer.receive().0, b"first", "the answer had been sent");
            let is_closed = policy == PanicPolicy::CloseConnection;
            assert_eq!(*rig.handler.panicked.lock().unwrap(), usize::from(is_closed));
            if is_closed {
                assert_eq!(rig.closed(), [b"first".to_vec()]);
            } else {
                peer.send(b" second").unwrap();
                thread.run_until_idle().unwrap();
                assert_eq!(peer.receive().0, b" second");
                rig.act(Act::Close);
                peer.send(b"!").unwrap();
                thread.run_until_idle().unwrap();
                assert_eq!(rig.closed(), [b"first second!".to_vec()]);
            }
            other.send(b"abc").unwrap();
            thread.run_until_idle().unwrap();
            assert_eq!(other.receive().0, b"abc");
            assert_eq!(rig.sockman.stats().connections, 1);
        }
    }
}
