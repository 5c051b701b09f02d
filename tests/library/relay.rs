//! A relay over the network in memory: the bytes of one connection go to another connection, through
//! a `SendQueue` that resumes the connection the bytes come from. The sweep is off, so that a
//! forgotten wake causes a wait without end.

use std::{
    io,
    sync::{Arc, Mutex},
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, SendQueue, Service, SockMan,
    helpers::{ConnectionTable, SendQueueLimits},
    testing::{Network, Peer, SocketThreadByHand},
};

/// What comes from one of the sources goes to the sink. What comes from the sink goes nowhere.
#[derive(Default)]
struct Relay {
    accepted: Mutex<Vec<ConnectionId>>,
    /// For each source, the queue of the sink.
    to: ConnectionTable<Arc<SendQueue>>,
    /// The queue of the sink.
    of: ConnectionTable<Arc<SendQueue>>,
}

impl EventHandler for Relay {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.accepted.lock().unwrap().push(id);
        true
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.to.find(id).is_none_or(|queue| !queue.is_above_high_mark())
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.of.find(id).is_some_and(|queue| queue.has_queued())
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.of.find(id).unwrap().drain(sockman).unwrap();
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.to.find(id).unwrap().push(sockman, data).unwrap();
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

struct Rig {
    relay: Arc<Relay>,
    sockman: SockMan,
    thread: SocketThreadByHand,
    peers: Vec<Peer>,
    ids: Vec<ConnectionId>,
}

/// Accepts `count` connections. The first one is the sink, whose peer takes no bytes at first.
fn rig(count: usize) -> Rig {
    let network = Network::new();
    let relay = Arc::new(Relay::default());
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&relay) as Arc<dyn EventHandler>, options).unwrap();
    let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let peers: Vec<_> = (0..count)
        .map(|_| {
            let peer = network.connect(&at).unwrap();
            thread.run_until_idle().unwrap();
            peer
        })
        .collect();
    peers[0].set_window(0);
    let ids = relay.accepted.lock().unwrap().clone();
    Rig { relay, sockman, thread, peers, ids }
}

/// The marks of the sink's queue.
fn limits() -> SendQueueLimits {
    SendQueueLimits::new(1_000, 20_000, usize::MAX).unwrap()
}

/// Makes the other connections the sources of the first one.
fn relay_to_first(rig: &Rig, queue: SendQueue) -> Arc<SendQueue> {
    let queue = Arc::new(queue);
    rig.relay.of.insert(rig.ids[0], Arc::clone(&queue));
    for source in &rig.ids[1..] {
        rig.relay.to.insert(*source, Arc::clone(&queue));
    }
    queue
}

/// Sends `total` bytes from each source, and returns how many the sink gets.
fn relay_all(rig: &mut Rig, total: usize) -> usize {
    let mut left = vec![total; rig.peers.len() - 1];
    rig.thread.run_until_idle().unwrap();
    let mut got = 0;
    // Until the sink takes bytes, the sources send until they are paused.
    for round in 0.. {
        let mut moved = 0;
        for (source, left) in rig.peers[1..].iter().zip(&mut left) {
            let sent = source.send(&vec![7; *left]).unwrap();
            (*left, moved) = (*left - sent, moved + sent);
            rig.thread.run_until_idle().unwrap();
        }
        if round > 2 {
            rig.peers[0].set_window(5_000);
            rig.thread.run_until_idle().unwrap();
            let (bytes, _) = rig.peers[0].receive();
            (got, moved) = (got + bytes.len(), moved + bytes.len());
            rig.thread.run_until_idle().unwrap();
        }
        if moved == 0 && round > 4 {
            break;
        }
    }
    got
}

/// The low mark: it wakes the connection that was paused, which is not the queue's own.
#[test]
fn a_queue_wakes_the_connection_that_it_resumes() {
    let mut rig = rig(2);
    let queue = SendQueue::new(rig.ids[0], limits());
    queue.resumes([rig.ids[1]]);
    let queue = relay_to_first(&rig, queue);
    assert_eq!(relay_all(&mut rig, 1_000_000), 1_000_000);
    assert!(!queue.has_queued());
}

/// The low mark: it wakes every connection that the queue has paused.
#[test]
fn a_queue_with_several_sources_wakes_them_all() {
    let mut rig = rig(4);
    let queue = SendQueue::new(rig.ids[0], limits());
    queue.resumes(rig.ids[1..].iter().copied());
    relay_to_first(&rig, queue);
    assert_eq!(relay_all(&mut rig, 400_000), 1_200_000);
}

/// Why `resumes` exists: without it, the queue wakes its own connection, and the relay stands still.
#[test]
fn without_resumes_a_queue_wakes_its_own_connection() {
    let mut rig = rig(2);
    let queue = SendQueue::new(rig.ids[0], limits());
    relay_to_first(&rig, queue);
    assert!(relay_all(&mut rig, 1_000_000) < 1_000_000);
    // A wake by hand shows that nothing else was missing.
    rig.sockman.wake(rig.ids[1]);
    rig.thread.run_until_idle().unwrap();
    rig.peers[0].set_window(10_000_000);
    rig.thread.run_until_idle().unwrap();
    assert!(!rig.peers[0].receive().0.is_empty());
}

/// A source that was closed meanwhile does no harm, and the others are woken.
#[test]
fn a_closed_source_does_not_keep_the_others_from_being_woken() {
    let mut rig = rig(3);
    let queue = SendQueue::new(rig.ids[0], limits());
    queue.resumes([ConnectionId::from_u64(u64::MAX), rig.ids[1], rig.ids[2]]);
    relay_to_first(&rig, queue);
    rig.peers[1].send(&[7; 30_000]).unwrap();
    rig.thread.run_until_idle().unwrap();
    assert!(rig.sockman.close_connection(rig.ids[1]));
    rig.peers.remove(1);
    assert_eq!(relay_all(&mut rig, 100_000), 130_000);
}
