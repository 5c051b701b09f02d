//! Send queues that share a budget, over the network in memory: peers that read nothing cost no
//! more than the budget, and do no harm to those that read. The sweep is off.

use std::{
    io,
    sync::{Arc, Mutex},
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, SendQueue, Service, SockMan,
    helpers::{ConnectionTable, PushError, SendBudget, SendQueueLimits},
    testing::{Network, Peer, SocketThreadByHand},
};

const LIMIT: usize = 1_000_000;

/// An echo whose queues share a budget. It closes a connection of which a push is refused.
struct Echo {
    budget: SendBudget,
    queues: ConnectionTable<SendQueue>,
    refused: Mutex<Vec<PushError>>,
    accepted: Mutex<Vec<ConnectionId>>,
}

impl EventHandler for Echo {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let queue = SendQueue::with_budget(id, SendQueueLimits::default(), &self.budget);
        self.queues.insert(id, queue);
        self.accepted.lock().unwrap().push(id);
        true
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.queues.find(id).is_some_and(|queue| !queue.is_above_high_mark())
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.queues.find(id).is_some_and(|queue| queue.has_queued())
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.queues.find(id).unwrap().drain(sockman).unwrap();
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        if let Err(error) = self.queues.find(id).unwrap().push(sockman, data) {
            self.refused.lock().unwrap().push(error);
            self.queues.remove(id);
            sockman.close_connection(id);
        }
        assert!(self.budget.used() <= LIMIT);
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

struct Rig {
    network: Network,
    at: Service,
    echo: Arc<Echo>,
    sockman: SockMan,
    thread: SocketThreadByHand,
}

impl Rig {
    fn new() -> Rig {
        let network = Network::new();
        let echo = Arc::new(Echo {
            budget: SendBudget::new(LIMIT),
            queues: ConnectionTable::default(),
            refused: Mutex::default(),
            accepted: Mutex::default(),
        });
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let sockman = SockMan::new(Arc::clone(&echo) as Arc<dyn EventHandler>, options).unwrap();
        let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        Rig { network, at, echo, sockman, thread }
    }

    /// Connects a peer that takes `window` bytes.
    fn peer(&mut self, window: usize) -> (Peer, ConnectionId) {
        let peer = self.network.connect(&self.at).unwrap();
        peer.set_window(window);
        self.thread.run_until_idle().unwrap();
        (peer, *self.echo.accepted.lock().unwrap().last().unwrap())
    }

    /// Sends to the echo until it reads no more, at most `total` bytes. Returns the bytes sent.
    fn send(&mut self, peer: &Peer, total: usize) -> usize {
        let mut sent = 0;
        while sent < total {
            match peer.send(&vec![7; total - sent]) {
                Ok(bytes) if bytes > 0 => sent += bytes,
                _ => break,
            }
            self.thread.run_until_idle().unwrap();
        }
        sent
    }

    /// Makes the echo lose the queue and close its connection.
    fn close(&mut self, id: ConnectionId) {
        self.echo.queues.remove(id);
        self.sockman.close_connection(id);
        self.thread.run_until_idle().unwrap();
    }
}

/// The budget: hundreds of peers that write and read nothing use at most the budget, which the
/// handler checks after each push. A peer that reads gets its echo meanwhile.
#[test]
fn peers_that_read_nothing_cost_no_more_than_the_budget_and_do_no_harm_to_one_that_reads() {
    let mut rig = Rig::new();
    let (benign, _) = rig.peer(100_000);
    let mut hostile = Vec::new();
    for round in 0..300 {
        let (peer, _) = rig.peer(1_000);
        rig.send(&peer, 10_000_000);
        hostile.push(peer);
        assert_eq!(rig.send(&benign, 5_000), 5_000);
        assert_eq!(benign.receive().0.len(), 5_000, "round {round}");
    }
    assert!(rig.echo.budget.used() > LIMIT / 2);
    let refused = rig.echo.refused.lock().unwrap();
    assert!(!refused.is_empty());
    let is_over = |error: &PushError| matches!(error, PushError::OverBudget { limit: LIMIT, .. });
    assert!(refused.iter().all(is_over), "{refused:?}");
}

/// The marks: a queue is paused when it holds what the budget has left, so a later queue finds room.
#[test]
fn the_first_peer_that_reads_nothing_does_not_take_the_whole_budget() {
    let mut rig = Rig::new();
    let mut shares = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (peer, id) = rig.peer(0);
        rig.send(&peer, 10_000_000);
        let queue = rig.echo.queues.find(id).unwrap();
        assert!(queue.is_above_high_mark());
        shares.push(queue.queued());
        peers.push(peer);
    }
    assert!(rig.echo.refused.lock().unwrap().is_empty());
    assert!(shares[0] >= LIMIT / 3 && shares[0] < LIMIT * 2 / 3, "{shares:?}");
    assert!(shares[0] > shares[1] && shares[1] > shares[2] && shares[2] > 0, "{shares:?}");
}

/// The marks: a queue that the budget has paused is resumed by its own drains, and all bytes arrive.
#[test]
fn a_queue_that_the_budget_has_paused_goes_on_when_its_peer_reads() {
    let mut rig = Rig::new();
    let (hog, hog_id) = rig.peer(0);
    rig.send(&hog, 10_000_000);
    let (peer, id) = rig.peer(0);
    let mut sent = rig.send(&peer, 400_000);
    let queue = rig.echo.queues.find(id).unwrap();
    assert!(queue.is_above_high_mark() && queue.queued() < 500_000);
    drop(queue);
    let mut got = 0;
    while got < 400_000 {
        peer.set_window(10_000);
        rig.thread.run_until_idle().unwrap();
        let bytes = peer.receive().0.len();
        assert!(bytes > 0, "{got} of {sent} bytes arrived");
        got += bytes;
        sent += rig.send(&peer, 400_000 - sent);
    }
    assert!(rig.echo.refused.lock().unwrap().is_empty());
    // The bytes of the first peer are still there.
    assert!(rig.echo.queues.find(hog_id).unwrap().has_queued());
}

/// The marks: only a drain ends a pause, because only a drain wakes those that wait for its end.
#[test]
fn a_push_after_the_budget_has_grown_does_not_end_a_pause() {
    let mut rig = Rig::new();
    let (_hog, hog_id) = rig.peer(0);
    let (peer, id) = rig.peer(0);
    rig.echo.queues.find(hog_id).unwrap().push(&rig.sockman, &vec![0; 900_000]).unwrap();
    let queue = rig.echo.queues.find(id).unwrap();
    queue.push(&rig.sockman, &vec![0; 60_000]).unwrap();
    assert!(queue.is_above_high_mark(), "the budget has 40,000 bytes left");
    peer.send(b"waits").unwrap();
    rig.close(hog_id);
    queue.push(&rig.sockman, b"!").unwrap();
    assert!(queue.is_above_high_mark());
    peer.set_window(1_000_000);
    rig.thread.run_until_idle().unwrap();
    assert!(!queue.is_above_high_mark());
    assert!(peer.receive().0.ends_with(b"!waits"), "the connection is read again");
}

/// The budget: a drained queue and a dropped one give their memory back, to the last byte.
#[test]
fn a_drained_queue_and_a_dropped_one_give_their_memory_back() {
    let mut rig = Rig::new();
    let (reader, _) = rig.peer(0);
    rig.send(&reader, 50_000);
    let (silent, silent_id) = rig.peer(0);
    rig.send(&silent, 50_000);
    let used = rig.echo.budget.used();
    assert!(used >= 100_000, "{used}");
    reader.set_window(100_000);
    rig.thread.run_until_idle().unwrap();
    assert!(rig.echo.budget.used() <= used - 50_000);
    assert!(rig.echo.budget.used() >= 50_000);
    rig.close(silent_id);
    assert_eq!(rig.echo.budget.used(), 0);
}

/// The budget counts the memory, not the bytes: a peer that leaves a few bytes unread does not keep
/// the memory of all that it has read.
#[test]
fn a_peer_that_leaves_a_few_bytes_unread_keeps_little_memory() {
    let mut rig = Rig::new();
    let (peer, id) = rig.peer(0);
    rig.send(&peer, 300_000);
    let queued = rig.echo.queues.find(id).unwrap().queued();
    assert!(queued > 200_000 && rig.echo.budget.used() >= queued);
    // The last receive may have left bytes in the network, which the echo reads when there is room.
    while rig.echo.queues.find(id).unwrap().queued() > 10 {
        let take = rig.echo.queues.find(id).unwrap().queued().saturating_sub(10).max(1);
        peer.set_window(take);
        rig.thread.run_until_idle().unwrap();
        peer.set_window(0);
        assert!(!peer.receive().0.is_empty());
    }
    assert!(rig.echo.budget.used() <= 16 * 1024, "{} bytes", rig.echo.budget.used());
}

/// The order of bytes: after a push of which a part was sent and the rest refused, nothing follows.
#[test]
fn after_a_push_that_was_cut_nothing_follows() {
    let mut rig = Rig::new();
    let (peer, id) = rig.peer(10);
    let queue = SendQueue::with_budget(id, SendQueueLimits::default(), &SendBudget::new(5));
    let error = queue.push(&rig.sockman, b"0123456789abcdef").unwrap_err();
    assert!(matches!(error, PushError::OverBudget { limit: 5, sent: 10 }), "{error:?}");
    assert!(error.to_string().contains("10 bytes were sent"), "{error}");
    assert_eq!(peer.receive().0, b"0123456789");
    let error = queue.push(&rig.sockman, b"next").unwrap_err();
    assert!(matches!(error, PushError::OverBudget { sent: 0, .. }), "{error:?}");
    rig.thread.run_until_idle().unwrap();
    assert_eq!((peer.receive().0.len(), queue.queued()), (0, 0));
    // A closed connection is reported as such.
    rig.close(id);
    assert!(matches!(queue.push(&rig.sockman, b"next"), Err(PushError::Send(_))));
}

/// The order of bytes: a push that was refused whole leaves the queue as it was.
#[test]
fn a_push_that_was_refused_whole_may_be_repeated() {
    let mut rig = Rig::new();
    let (peer, id) = rig.peer(0);
    let queue = SendQueue::with_budget(id, SendQueueLimits::default(), &SendBudget::new(5));
    queue.push(&rig.sockman, b"0123").unwrap();
    let error = queue.push(&rig.sockman, b"45").unwrap_err();
    assert!(matches!(error, PushError::OverBudget { sent: 0, .. }), "{error:?}");
    peer.set_window(100);
    assert!(queue.drain(&rig.sockman).unwrap().is_empty());
    queue.push(&rig.sockman, b"45").unwrap();
    rig.thread.run_until_idle().unwrap();
    assert_eq!(peer.receive().0, b"012345");
}

/// The marks: a queue that the budget has paused stays paused until it holds at most what the budget
/// has left, although it is below its own low mark.
#[test]
fn a_queue_that_the_budget_has_paused_is_not_resumed_at_its_own_low_mark() {
    let mut rig = Rig::new();
    let (_peer, id) = rig.peer(1_000);
    let budget = SendBudget::new(1_000);
    let limits = SendQueueLimits::new(500, 600, 10_000).unwrap();
    let [hog, queue] = [(); 2].map(|()| SendQueue::with_budget(id, limits, &budget));
    hog.enqueue(&rig.sockman, &[1; 500]).unwrap();
    queue.enqueue(&rig.sockman, &[2; 300]).unwrap();
    assert!(queue.is_above_high_mark());
    // The buffer keeps its size until it is empty, so the budget has 200 bytes left.
    assert!(!queue.drain_at_most(&rig.sockman, 50).unwrap().resumed);
    assert!(queue.is_above_high_mark());
    assert!(queue.drain_at_most(&rig.sockman, 51).unwrap().resumed);
    assert!(!queue.is_above_high_mark());
}
