//! What the kernels of the BSDs and macOS do differently, over the network in memory. The names of the
//! guarantees stand at each test; every test runs on every kernel. The sweep is off.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use sockman::{
    ConnectionId, Options, Service, SockMan,
    error::SendError,
    stats::HangUp,
    sys::errors,
    testing::{Call, Ended, Network, Peer, SocketThreadByHand},
};
use sockman_test_support::{Event, Recorder, without_sweep};

struct Rig {
    network: Network,
    recorder: Arc<Recorder>,
    sockman: SockMan,
    here: Service,
    thread: SocketThreadByHand,
}

impl Rig {
    fn new(network: Network, options: Options) -> Rig {
        let recorder = Recorder::new();
        let options = options.sock_factory(network.factory());
        let sockman = SockMan::new(recorder.clone(), options).unwrap();
        let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        Rig { network, recorder, sockman, here, thread }
    }

    /// Connects a peer. Returns it and the connection's id.
    fn connect(&mut self) -> (Peer, ConnectionId) {
        let peer = self.network.connect(&self.here).unwrap();
        let accepted = self.accepted();
        self.thread.run_until_idle().unwrap();
        (peer, self.recorder.wait_for_accepted(accepted))
    }

    fn accepted(&self) -> usize {
        self.recorder.count(|event| matches!(event, Event::Accepted { .. }))
    }

    fn hung_up(&self, id: ConnectionId) -> Option<HangUp> {
        self.sockman.connection_info(id).unwrap().hung_up
    }
}

fn kernels() -> impl Iterator<Item = Network> {
    [Network::linux(), Network::bsd(), Network::macos(), Network::windows()].into_iter()
}

/// G6: kqueue reports an own half-close as the end of sending. The connection is not broken, and what
/// the peer sends is delivered.
#[test]
fn an_own_half_close_is_no_hang_up() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        let (peer, id) = rig.connect();
        rig.sockman.shutdown_write(id).unwrap();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.hung_up(id), None);
        peer.send(b"still here").unwrap();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.recorder.received(id), b"still here");
        peer.shutdown_write();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.hung_up(id), Some(HangUp::InOrder));
    }
}

/// G6: macOS refuses a second half-close.
#[test]
fn a_second_half_close_succeeds() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        let (peer, id) = rig.connect();
        for _ in 0..2 {
            rig.sockman.shutdown_write(id).unwrap();
        }
        assert_eq!(peer.receive(), (Vec::new(), Some(Ended::Eof)));
    }
}

/// G4: macOS refuses to shut both directions down if the peer has ended its stream. The peer sees the
/// close at once all the same, before the descriptor goes.
#[test]
fn a_close_after_the_peers_end_reaches_the_peer_at_once() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        let (peer, id) = rig.connect();
        peer.shutdown_write();
        rig.thread.run_until_idle().unwrap();
        assert!(rig.sockman.close_connection(id));
        assert_eq!(peer.receive(), (Vec::new(), Some(Ended::Eof)));
    }
}

/// G6: no event of kqueue reports an urgent byte, which ends a receive early.
#[test]
fn bytes_behind_an_urgent_byte_are_delivered() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        let (peer, id) = rig.connect();
        peer.send(b"before").unwrap();
        peer.send_urgent();
        peer.send(b"behind").unwrap();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.recorder.received(id), b"beforebehind");
    }
}

/// G5: on macOS, a send that meets a reset fails with `EPROTOTYPE`. The embedder sees a broken pipe or
/// the reset, and one read error.
#[test]
fn a_send_that_meets_a_reset_fails_as_on_other_systems() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        let (peer, id) = rig.connect();
        rig.recorder.pause_recv(id, true);
        peer.reset();
        let Err(SendError::Socket { source, .. }) = rig.sockman.send_bytes(id, b"late") else {
            panic!("the send meets the reset");
        };
        let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(kinds.contains(&source.kind()), "{source:?}");
        rig.thread.run_until_idle().unwrap();
        let Some(HangUp::Error(kind)) = rig.hung_up(id) else { panic!("the reset is known") };
        assert!(kinds.contains(&kind), "{kind:?}");
        rig.recorder.pause_recv(id, false);
        rig.sockman.wake(id);
        rig.thread.run_until_idle().unwrap();
        let errors = rig.recorder.count(|event| matches!(event, Event::ReadError(..)));
        assert_eq!(errors, 1, "{:?}", rig.recorder.events());
    }
}

/// G5: a reset whose error `connection_info` has received is reported as an error, although a receive
/// then returns the end of the stream, and although the poller reports the end without the error.
#[test]
fn a_reset_whose_error_was_taken_is_no_end() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        let (peer, id) = rig.connect();
        rig.network.fail_always(Call::Recv, errors::EAGAIN);
        peer.reset();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.hung_up(id), Some(HangUp::Error(ErrorKind::ConnectionReset)));
        rig.network.heal();
        rig.thread.run_until_idle().unwrap();
        let ends = rig.recorder.events_of(id);
        assert!(!ends.iter().any(|event| matches!(event, Event::Eof(_))), "{ends:?}");
        assert!(ends.iter().any(|event| matches!(event, Event::ReadError(..))), "{ends:?}");
    }
}

/// G5: a reset after the end of the stream is reported once, as an error.
#[test]
fn a_reset_after_the_end_is_reported_once() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        let (peer, id) = rig.connect();
        peer.shutdown_write();
        rig.thread.run_until_idle().unwrap();
        peer.reset();
        rig.thread.run_until_idle().unwrap();
        let ends: Vec<Event> = rig.recorder.events_of(id);
        let eofs = ends.iter().filter(|event| matches!(event, Event::Eof(_))).count();
        let errors = ends.iter().filter(|event| matches!(event, Event::ReadError(..))).count();
        assert_eq!((eofs, errors), (1, 1), "{ends:?}");
    }
}

/// G9: a client that reset before the accept does not pause the listener, and is not announced on the
/// systems that report it.
#[test]
fn a_client_that_reset_before_the_accept_does_not_pause_the_listener() {
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        rig.network.connect(&rig.here).unwrap().reset();
        let accepted = rig.accepted();
        let patient = rig.network.connect(&rig.here).unwrap();
        rig.thread.run_until_idle().unwrap();
        assert!(rig.accepted() > accepted);
        patient.send(b"here").unwrap();
        rig.thread.run_until_idle().unwrap();
        let last = rig.recorder.wait_for_accepted(rig.accepted() - 1);
        assert_eq!(rig.recorder.received(last), b"here");
    }
}

/// G9: without a free descriptor, macOS takes the client from the queue and drops it. The listener
/// accepts again as soon as a descriptor is free.
#[test]
fn a_listener_accepts_again_when_descriptors_are_free() {
    for (network, expected) in kernels().zip([2, 2, 1, 2]) {
        let mut rig = Rig::new(network, without_sweep());
        rig.network.set_descriptor_limit(Some(rig.network.descriptors()));
        let _early = rig.network.connect(&rig.here).unwrap();
        rig.thread.run_for(Duration::from_millis(10)).unwrap();
        assert_eq!(rig.accepted(), 0);
        rig.network.set_descriptor_limit(None);
        let _late = rig.network.connect(&rig.here).unwrap();
        rig.thread.run_for(Duration::from_secs(2)).unwrap();
        // The double of macOS drops the first client at its accept. The library asks the real one
        // only when a descriptor is free.
        assert_eq!(rig.accepted(), expected);
    }
}

/// G7: kqueue refuses a time-out of years. The deadline is kept, and the passes until then are few.
#[test]
fn a_deadline_that_is_years_away_ends_no_thread() {
    const YEARS: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
    for network in kernels() {
        let mut rig = Rig::new(network, without_sweep());
        rig.recorder.set_next_deadline(Some(rig.network.now() + YEARS));
        let passes = rig.sockman.stats().passes;
        rig.thread.run_for(YEARS / 2).unwrap();
        assert!(rig.sockman.stats().passes - passes < 10_000);
    }
}
