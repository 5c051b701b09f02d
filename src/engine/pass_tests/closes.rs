//! Tests of closes while no thread runs: what they release, and what they cost. The cost is counted
//! in marks that the inbox looks at, not in time.

use std::{io, sync::Arc};

use super::Rig;
use crate::{
    address::Service,
    dial::ConnectOptions,
    engine::{connection::ConnectionId, inbox::Mark, threads::Run},
    event_handler::EventHandler,
    options::Options,
    sockman::SockMan,
    testing::Peer,
};

struct Quiet;

impl EventHandler for Quiet {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

fn rig() -> Rig<Quiet> {
    Rig::with_handler(Quiet, Options::default().sweep(None))
}

impl Rig<Quiet> {
    /// Makes a connection and activates it.
    fn activated(&self) -> (ConnectionId, Peer) {
        let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let (sock, peer) = self.network.pair(&me, &them).unwrap();
        (self.sockman.add_existing_connection(sock, &me, &them).unwrap().activate(), peer)
    }

    fn looked_at(&self) -> usize {
        self.sockman.shared().inbox.waiting_and_looked_at().1
    }
}

// Under Miri, which executes some thousand instructions in the time of one, fewer show the same.
const COUNT: usize = if cfg!(miri) { 100 } else { 8_000 };

/// The cost of a close with no thread running does not depend on how many marks wait, for
/// connections that wait in the inbox, for those that were woken, and for attempts.
#[test]
fn closes_while_no_thread_runs_cost_the_same_however_many_marks_wait() {
    for (what, is_polled) in [("activated", false), ("woken", true)] {
        let rig = rig();
        let descriptors = rig.network.descriptors();
        let (ids, _peers): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| rig.activated()).unzip();
        if is_polled {
            rig.pass();
            ids.iter().for_each(|id| rig.sockman.wake(*id));
        }
        let before = rig.looked_at();
        for (closed, id) in ids.iter().enumerate() {
            assert!(rig.sockman.close_connection(*id));
            let open = rig.network.descriptors() - descriptors;
            assert_eq!(open, COUNT - closed - 1, "a close releases its descriptor at once");
        }
        let looked_at = rig.looked_at() - before;
        assert!(looked_at <= 4 * COUNT, "{what}: {looked_at} marks were looked at");
        assert!(rig.sockman.shared().inbox.waiting_and_looked_at().0 <= 2);
    }
}

/// The same for connects under way, each of which is closed before the next one begins, and all
/// together.
#[test]
fn closes_of_attempts_while_no_thread_runs_release_all_and_cost_the_same() {
    let rig = rig();
    let to: Service = "10.0.0.9:9".parse().unwrap();
    rig.network.ignore(&to);
    let descriptors = rig.network.descriptors();
    let start = || rig.sockman.start_connect(&to, &ConnectOptions::default()).unwrap();
    for together in [1, COUNT] {
        for _ in 0..COUNT / together {
            let ids: Vec<_> = (0..together).map(|_| start()).collect();
            assert_eq!(rig.network.descriptors(), descriptors + together);
            assert!(ids.iter().all(|id| rig.sockman.close_connection(*id)));
            assert_eq!(rig.network.descriptors(), descriptors);
        }
    }
    let Run::Stopped(socket_thread) = &*rig.sockman.shared().run.lock() else {
        panic!("a thread runs");
    };
    assert!(socket_thread.listed_attempts() <= 2, "closed attempts stay listed");
    let looked_at = rig.looked_at();
    assert!(looked_at <= 4 * COUNT, "{looked_at} marks were looked at");
    assert!(rig.sockman.shared().inbox.waiting_and_looked_at().0 <= 2);
}

/// Connections that are dropped without an activation search for no marks of others.
#[test]
fn connections_dropped_without_activation_cost_the_same_however_many_marks_wait() {
    let rig = rig();
    let (ids, _peers): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| rig.activated()).unzip();
    let descriptors = rig.network.descriptors();
    let (me, them) = ("10.0.0.1:2".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    for _ in 0..COUNT {
        let (sock, _peer) = rig.network.pair(&me, &them).unwrap();
        drop(rig.sockman.add_existing_connection(sock, &me, &them).unwrap());
    }
    assert_eq!(rig.network.descriptors(), descriptors);
    assert!(rig.looked_at() <= 4 * COUNT, "{} marks were looked at", rig.looked_at());
    // The marks of the others are still there.
    rig.pass();
    assert_eq!(rig.connections().len(), ids.len());
}

/// A thread found the connection or the listener, another thread closed it, and the first thread
/// pushes its mark only now.
#[test]
fn a_mark_pushed_just_after_a_close_keeps_no_descriptor() {
    let rig = rig();
    let shared = rig.sockman.shared();
    let before = rig.network.descriptors();
    for activates in [true, false] {
        let (id, _peer) = rig.activated();
        let connection = shared.connections.find(id).unwrap();
        assert!(rig.sockman.close_connection(id));
        let weak = Arc::downgrade(&connection);
        shared.inbox.push(if activates { Mark::Activated(weak) } else { Mark::Woken(weak) });
        drop(connection);
        assert_eq!(rig.network.descriptors(), before);
    }
    let listener = shared.take_listeners().pop().unwrap();
    listener.stop();
    rig.pass();
    shared.inbox.push(Mark::ListenersStopped);
    rig.pass();
    shared.inbox.push(Mark::ListenerAdded(Arc::downgrade(&listener)));
    drop(listener);
    assert_eq!(rig.network.descriptors(), before - 1);
    rig.pass();
    assert_eq!((rig.connections().len(), rig.listeners().len()), (0, 0));
}

/// The cost of thousands of listeners that are stopped, each before the next one is bound.
#[test]
fn stopped_listeners_leave_no_marks_while_no_thread_runs() {
    let rig = rig();
    rig.sockman.stop_listening();
    let descriptors = rig.network.descriptors();
    for _ in 0..COUNT / 8 {
        rig.sockman.bind_and_start_listening("10.0.0.1:0").unwrap();
        rig.sockman.stop_listening();
    }
    assert_eq!(rig.network.descriptors(), descriptors);
    assert!(rig.sockman.shared().inbox.waiting_and_looked_at().0 <= 2);
}

/// A connection that the poller refused and that is closed before its turn leaves no failure
/// behind.
#[test]
fn a_refused_connection_that_is_closed_while_no_thread_runs_leaves_nothing() {
    let rig = rig();
    rig.fail_registrations();
    let descriptors = rig.network.descriptors();
    let (ids, _peers): (Vec<_>, Vec<_>) = (0..50).map(|_| rig.activated()).unzip();
    rig.pass();
    assert!(ids.iter().all(|id| rig.sockman.close_connection(*id)));
    assert_eq!(rig.network.descriptors(), descriptors);
}

/// G5: a connection whose stream has left never finishes, whichever thread asks for it just then. The
/// bytes that were received before are thus delivered.
#[test]
fn a_connection_that_has_left_does_not_finish() {
    let rig = rig();
    let (id, _peer) = rig.activated();
    let connections = &rig.sockman.shared().connections;
    let connection = connections.find(id).unwrap();
    assert!(connections.take_out(id).is_ok());
    assert!(!connection.set_finishing());
    assert!(connection.is_taken_out() && !connection.is_finishing());
}
