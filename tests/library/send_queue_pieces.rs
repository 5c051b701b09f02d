//! `SendQueue` beyond request and answer, over the network in memory: enqueued bytes, shared pieces,
//! messages of several pieces, the writer, and what a drain reports. The sweep is off, so that a
//! lost wake-up causes a wait without end.

use std::{
    io::{self, IoSlice, Write},
    sync::{Arc, OnceLock},
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, SendQueue, Service, SockMan,
    helpers::{Piece, PushError, SendBudget, SendQueueLimits},
    options::More,
    testing::{Call, Network, Peer, SocketThreadByHand},
};
use sockman_test_support::tools::Random;

/// A handler with one connection, whose lines it answers with as many enqueues.
struct Handler {
    limits: SendQueueLimits,
    budget: Option<SendBudget>,
    queue: OnceLock<SendQueue>,
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let queue = match &self.budget {
            None => SendQueue::new(id, self.limits),
            Some(budget) => SendQueue::with_budget(id, self.limits, budget),
        };
        self.queue.set(queue).is_ok()
    }
    fn event_ready_to_send(&self, sockman: &SockMan, _: ConnectionId) -> NextRecv {
        self.queue.get().unwrap().drain(sockman).unwrap();
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, _: ConnectionId, data: &[u8]) {
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            self.queue.get().unwrap().enqueue(sockman, line).unwrap();
        }
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        self.queue.get().is_some_and(SendQueue::has_queued)
    }
    fn should_try_to_recv(&self, _: ConnectionId) -> bool {
        !self.queue.get().is_some_and(SendQueue::is_above_high_mark)
    }
}

struct Rig {
    network: Network,
    handler: Arc<Handler>,
    sockman: SockMan,
    thread: SocketThreadByHand,
    peer: Peer,
}

impl Rig {
    /// Makes one connection whose peer takes `window` bytes.
    fn new(window: usize, limits: SendQueueLimits, budget: Option<SendBudget>) -> Rig {
        let network = Network::new();
        let handler = Arc::new(Handler { limits, budget, queue: OnceLock::new() });
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
        let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        let peer = network.connect(&at).unwrap();
        peer.set_window(window);
        thread.run_until_idle().unwrap();
        Rig { network, handler, sockman, thread, peer }
    }

    fn with_window(window: usize) -> Rig {
        Rig::new(window, SendQueueLimits::default(), None)
    }

    fn queue(&self) -> &SendQueue {
        self.handler.queue.get().unwrap()
    }

    fn sends(&self) -> u64 {
        self.network.calls(Call::Send)
    }

    /// Runs the socket thread until nothing is left to do, and returns what the peer has received.
    fn received(&mut self) -> Vec<u8> {
        self.thread.run_until_idle().unwrap();
        self.peer.receive().0
    }

    /// Lets the peer read until nothing more arrives, a little at a time.
    fn read_all(&mut self, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            self.peer.set_window(step);
            let bytes = self.received();
            if bytes.is_empty() {
                return all;
            }
            all.extend(bytes);
        }
    }
}

fn shared(byte: u8, length: usize) -> Arc<[u8]> {
    vec![byte; length].into()
}

/// Enqueue: no system call before the drain, and one for all that is queued.
#[test]
fn what_is_enqueued_is_sent_with_one_system_call() {
    let mut rig = Rig::with_window(1 << 20);
    let before = rig.sends();
    let mut expected = Vec::new();
    for number in 0..1000 {
        let line = format!("line {number}\n");
        rig.queue().enqueue(&rig.sockman, line.as_bytes()).unwrap();
        expected.extend(line.into_bytes());
    }
    assert_eq!(rig.sends(), before);
    assert_eq!(rig.queue().queued(), expected.len());
    assert_eq!(rig.received(), expected);
    assert_eq!(rig.sends(), before + 1);
}

/// Enqueue: what a callback enqueues is sent in the same way, without the help of a push.
#[test]
fn what_callbacks_enqueue_is_sent_with_one_system_call() {
    let mut rig = Rig::with_window(1 << 20);
    let before = rig.sends();
    let lines: Vec<u8> = (0..500).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    assert_eq!(rig.peer.send(&lines).unwrap(), lines.len());
    assert_eq!(rig.received(), lines);
    assert_eq!(rig.sends(), before + 1);
}

/// Enqueue: it wakes the connection once until the next drain.
#[test]
fn enqueues_before_a_drain_wake_once() {
    let mut rig = Rig::with_window(1 << 20);
    let turns = rig.sockman.stats().turns;
    for _ in 0..100 {
        rig.queue().enqueue(&rig.sockman, b"line\n").unwrap();
    }
    assert_eq!(rig.received().len(), 500);
    let turns = rig.sockman.stats().turns - turns;
    assert!(turns <= 2, "{turns} turns for one wake");
    // An empty enqueue has nothing to send, so it wakes nothing.
    let turns = rig.sockman.stats().turns;
    rig.queue().enqueue(&rig.sockman, b"").unwrap();
    rig.thread.run_until_idle().unwrap();
    assert_eq!(rig.sockman.stats().turns, turns);
}

/// Enqueue: before the connection has its first turn, the bytes wait and none is lost.
#[test]
fn what_is_enqueued_before_the_activation_is_sent_after_it() {
    let mut rig = Rig::with_window(100);
    let at = "10.0.0.9:1".parse().unwrap();
    let (sock, _peer) = rig.network.pair(&at, &at).unwrap();
    let new = rig.sockman.add_existing_connection(sock, &at, &at).unwrap();
    let queue = SendQueue::new(new.id(), SendQueueLimits::default());
    queue.enqueue(&rig.sockman, b"early").unwrap();
    rig.thread.run_until_idle().unwrap();
    assert_eq!(queue.queued(), 5);
    new.activate();
    rig.thread.run_until_idle().unwrap();
    // The handler of this test knows only its first connection, so the test drains.
    assert_eq!(queue.drain(&rig.sockman).unwrap().sent, 5);
}

/// The limit: an enqueue that does not fit is refused whole, and fits after a drain.
#[test]
fn an_enqueue_beyond_the_limit_is_refused_whole() {
    let limits = SendQueueLimits::new(10, 20, 30).unwrap();
    let rig = Rig::new(1000, limits, None);
    rig.queue().enqueue(&rig.sockman, &[1; 30]).unwrap();
    for data in [&shared(2, 1), &shared(2, 300)] {
        let error = rig.queue().enqueue_shared(&rig.sockman, data).unwrap_err();
        assert!(matches!(error, PushError::Full { limit: 30 }), "{error:?}");
    }
    assert_eq!(rig.queue().queued(), 30);
    assert!(rig.queue().is_above_high_mark());
    rig.queue().drain(&rig.sockman).unwrap();
    rig.queue().enqueue(&rig.sockman, &[2; 30]).unwrap();
    rig.queue().drain(&rig.sockman).unwrap();
    assert_eq!(rig.peer.receive().0, [[1; 30], [2; 30]].concat());
}

/// Errors: an enqueue on a closed connection fails at once, whether bytes are queued or not.
#[test]
fn an_enqueue_on_a_closed_connection_fails() {
    for queued in [0, 1] {
        let rig = Rig::with_window(0);
        rig.queue().enqueue(&rig.sockman, &vec![1; queued]).unwrap();
        assert!(rig.sockman.close_connection(rig.queue().id()));
        let error = rig.queue().enqueue(&rig.sockman, b"late").unwrap_err();
        assert!(matches!(error, PushError::Send(_)), "{error:?}");
        assert_eq!(rig.queue().queued(), queued);
    }
}

/// The drain: it reports what was sent, what was left, and the fall to the low mark.
#[test]
fn a_drain_reports_what_it_did() {
    let limits = SendQueueLimits::new(1000, 2000, 10_000).unwrap();
    let rig = Rig::new(1500, limits, None);
    let queue = rig.queue();
    let nothing = queue.drain(&rig.sockman).unwrap();
    assert!(nothing.is_empty() && nothing.sent == 0 && !nothing.resumed);
    queue.enqueue(&rig.sockman, &[1; 5000]).unwrap();
    let first = queue.drain(&rig.sockman).unwrap();
    assert_eq!(
        (first.sent, first.left, first.resumed, first.is_empty()),
        (1500, 3500, false, false)
    );
    rig.peer.set_window(3000);
    rig.peer.receive();
    let second = queue.drain(&rig.sockman).unwrap();
    assert_eq!((second.sent, second.left, second.resumed), (3000, 500, true));
    rig.peer.receive();
    let third = queue.drain(&rig.sockman).unwrap();
    assert_eq!((third.sent, third.left, third.resumed, third.is_empty()), (500, 0, false, true));
}

/// The drain with a limit: it sends no more, also of shared pieces, and nothing with a limit of 0.
#[test]
fn a_drain_with_a_limit_sends_no_more() {
    let rig = Rig::with_window(1 << 20);
    let queue = rig.queue();
    queue.enqueue(&rig.sockman, &[1; 100]).unwrap();
    queue.enqueue_shared(&rig.sockman, &shared(2, 1000)).unwrap();
    let before = rig.sends();
    assert_eq!(queue.drain_at_most(&rig.sockman, 0).unwrap().left, 1100);
    assert_eq!(rig.sends(), before);
    assert_eq!(queue.drain_at_most(&rig.sockman, 60).unwrap().sent, 60);
    assert_eq!(queue.drain_at_most(&rig.sockman, 500).unwrap().sent, 500);
    assert_eq!(queue.drain_at_most(&rig.sockman, 5000).unwrap().sent, 540);
    assert_eq!(rig.peer.receive().0, [vec![1; 100], vec![2; 1000]].concat());
}

/// Shared pieces: the queues of a thousand peers keep one allocation, and let go of it.
#[test]
fn a_message_to_many_peers_is_one_allocation() {
    let rig = Rig::with_window(0);
    let message = shared(7, 100_000);
    let queues: Vec<SendQueue> =
        (0..1000).map(|_| SendQueue::new(rig.queue().id(), SendQueueLimits::default())).collect();
    for (number, queue) in queues.iter().enumerate() {
        match number % 2 {
            0 => queue.push_shared(&rig.sockman, &message).unwrap(),
            _ => queue.enqueue_shared(&rig.sockman, &message).unwrap(),
        }
        assert_eq!(queue.queued(), 100_000);
    }
    assert_eq!(Arc::strong_count(&message), 1001);
    // A piece is let go of when its last byte is sent, not before.
    rig.peer.set_window(99_999);
    assert_eq!(queues[0].drain(&rig.sockman).unwrap().left, 1);
    assert_eq!(Arc::strong_count(&message), 1001);
    rig.peer.receive();
    assert!(queues[0].drain(&rig.sockman).unwrap().is_empty());
    assert_eq!(Arc::strong_count(&message), 1000);
    drop(queues);
    assert_eq!(Arc::strong_count(&message), 1);
}

/// Shared pieces: short ones are copied, because a reference costs as much.
#[test]
fn short_shared_pieces_are_copied_and_leave_in_one_piece() {
    let mut rig = Rig::with_window(1 << 20);
    let line = shared(1, 255);
    let before = rig.sends();
    for _ in 0..500 {
        rig.queue().enqueue_shared(&rig.sockman, &line).unwrap();
    }
    assert_eq!(Arc::strong_count(&line), 1);
    assert_eq!(rig.received().len(), 255 * 500);
    assert_eq!(rig.sends(), before + 1);
}

/// Messages of several pieces: their bytes stay together, with one system call.
#[test]
fn a_message_of_several_pieces_is_sent_whole() {
    let mut rig = Rig::with_window(1 << 20);
    let body = shared(2, 1000);
    let pieces = [Piece::Bytes(b"head"), Piece::Shared(&body), Piece::Bytes(b""), (&body).into()];
    let before = rig.sends();
    rig.queue().push_pieces(&rig.sockman, &pieces).unwrap();
    assert_eq!(rig.sends(), before + 1);
    let expected = [&b"head"[..], &body, &body].concat();
    assert_eq!(rig.received(), expected);
    rig.queue().enqueue_pieces(&rig.sockman, &pieces).unwrap();
    assert_eq!(rig.received(), expected);
    // More pieces than one system call takes.
    let many = vec![b"ab"[..].into(); 1000];
    rig.queue().push_pieces(&rig.sockman, &many).unwrap();
    assert_eq!(rig.received(), b"ab".repeat(1000));
    // What the kernel does not take stays in order, wherever it is cut.
    for cut in [0, 3, 4, 5, 700, 1003, 1004, 1005, 2003, 2004] {
        rig.peer.set_window(cut);
        rig.queue().push_pieces(&rig.sockman, &pieces).unwrap();
        assert_eq!(rig.queue().queued(), 2004 - cut);
        rig.queue().push(&rig.sockman, b"tail").unwrap();
        assert_eq!(rig.read_all(100), [&expected[..], b"tail"].concat(), "cut at {cut}");
    }
}

/// The budget counts each reference to a shared piece like a copy, and gets all of it back.
#[test]
fn a_budget_counts_shared_pieces_in_each_queue() {
    let budget = SendBudget::new(100_000);
    let rig = Rig::new(0, SendQueueLimits::default(), Some(budget.clone()));
    let message = shared(7, 30_000);
    let other = SendQueue::with_budget(rig.queue().id(), SendQueueLimits::default(), &budget);
    rig.queue().push_shared(&rig.sockman, &message).unwrap();
    other.enqueue_shared(&rig.sockman, &message).unwrap();
    assert!((60_000..61_000).contains(&budget.used()), "{}", budget.used());
    // Both are paused, because they hold as much as the budget has left.
    other.enqueue(&rig.sockman, b"x").unwrap();
    rig.queue().enqueue_shared(&rig.sockman, &message).unwrap();
    assert!(rig.queue().is_above_high_mark());
    let error = other.enqueue_shared(&rig.sockman, &message).unwrap_err();
    assert!(matches!(error, PushError::OverBudget { sent: 0, .. }), "{error:?}");
    let error = other.push_shared(&rig.sockman, &message).unwrap_err();
    assert!(matches!(error, PushError::OverBudget { sent: 0, .. }), "{error:?}");
    assert_eq!(other.queued(), 30_001);
    drop(other);
    // A piece of which a byte is left keeps its whole memory.
    rig.peer.set_window(59_999);
    rig.queue().drain(&rig.sockman).unwrap();
    assert!((30_000..31_000).contains(&budget.used()), "{}", budget.used());
    rig.peer.set_window(100_000);
    rig.queue().drain(&rig.sockman).unwrap();
    assert_eq!(budget.used(), 0);
}

/// Order: random pushes and enqueues of all kinds arrive as they were made, for hundreds of seeds,
/// and limits, marks and budget hold at each step.
#[test]
fn mixed_pushes_and_enqueues_arrive_in_order() {
    const LIMIT: usize = 20_000;
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let limits = SendQueueLimits::new(2_000, 8_000, LIMIT).unwrap();
        let budget = (random.up_to(2) == 1).then(|| SendBudget::new(60_000));
        let mut rig = Rig::new(random.up_to(3_000), limits, budget.clone());
        let (mut pushed, mut got) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let most = if random.up_to(2) == 1 { 40 } else { 3_000 };
            let length = random.up_to(most) - 1;
            let data = random.bytes(length);
            let memory: Arc<[u8]> = data.as_slice().into();
            let (queue, sockman) = (rig.handler.queue.get().unwrap(), &rig.sockman);
            let before = queue.queued();
            let half = length / 2;
            let first: Arc<[u8]> = data[..half].into();
            let pieces = [Piece::Shared(&first), Piece::Bytes(&data[half..])];
            let result = match random.up_to(9) - 1 {
                0 => queue.push(sockman, &data),
                1 => queue.push_with(sockman, &data, More::Follows),
                2 => queue.push_shared(sockman, &memory),
                3 => queue.enqueue(sockman, &data),
                4 => queue.enqueue_shared(sockman, &memory),
                5 => queue.push_pieces(sockman, &pieces),
                6 => queue.enqueue_pieces(sockman, &pieces),
                7 => {
                    rig.peer.set_window(random.up_to(3_000) - 1);
                    rig.thread.run_until_idle().unwrap();
                    continue;
                }
                _ => {
                    got.extend(rig.peer.receive_at_most(random.up_to(5_000)).0);
                    queue.drain_at_most(sockman, random.up_to(4_000) - 1).unwrap();
                    continue;
                }
            };
            match result {
                Ok(()) => pushed.extend(data),
                Err(PushError::Full { .. }) => {
                    assert!(before + length > LIMIT);
                    assert_eq!(queue.queued(), before);
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            assert!(queue.queued() <= LIMIT && queue.queued() <= pushed.len());
            assert!(queue.queued() < 8_000 || queue.is_above_high_mark());
            if let Some(budget) = &budget {
                assert!(budget.used() >= queue.queued() && budget.used() <= budget.limit());
            }
        }
        got.extend(rig.read_all(10_000));
        assert!(got == pushed, "seed {seed}: {} of {} bytes", got.len(), pushed.len());
        assert!(!rig.queue().has_queued() && !rig.queue().is_above_high_mark());
        assert!(budget.is_none_or(|budget| budget.used() == 0));
    }
}

/// The writer: it queues without a system call, and `flush` sends what the kernel takes.
#[test]
fn a_writer_enqueues_and_flushes() {
    let mut rig = Rig::with_window(1000);
    let before = rig.sends();
    let mut writer = rig.queue().writer(&rig.sockman);
    for number in 0..3 {
        writeln!(writer, "line {number}").unwrap();
    }
    let pieces = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")];
    assert_eq!(writer.write_vectored(&pieces).unwrap(), 4);
    assert_eq!(rig.sends(), before);
    writer.flush().unwrap();
    assert_eq!(rig.sends(), before + 1);
    assert_eq!(rig.peer.receive().0, b"line 0\nline 1\nline 2\nabcd");
    // Without a flush, the socket thread sends. With a slow peer, a flush does not wait.
    let mut writer = rig.queue().writer(&rig.sockman);
    writer.write_all(&[1; 2000]).unwrap();
    writer.flush().unwrap();
    assert_eq!(rig.queue().queued(), 1000);
    assert_eq!(rig.read_all(1000).len(), 2000);
}

/// The writer: a full queue is "would block", and a closed connection is not connected.
#[test]
fn a_writer_maps_the_errors_of_pushes() {
    let rig = Rig::new(0, SendQueueLimits::new(1, 2, 3).unwrap(), None);
    let mut writer = rig.queue().writer(&rig.sockman);
    writer.write_all(b"abc").unwrap();
    let error = writer.write_all(b"d").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let inner = error.get_ref().unwrap().downcast_ref::<PushError>();
    assert!(matches!(inner, Some(PushError::Full { limit: 3 })), "{error:?}");
    assert_eq!(rig.queue().queued(), 3);
    rig.sockman.close_connection(rig.queue().id());
    let kinds = [writer.write_all(b"d"), writer.flush()].map(|result| result.unwrap_err().kind());
    assert_eq!(kinds, [io::ErrorKind::NotConnected; 2]);
}

/// The writer takes the part of a write that fits, as `io::Write` allows, so that a write longer than
/// the limit succeeds in parts.
#[test]
fn a_writer_takes_the_part_that_fits() {
    let mut rig = Rig::new(0, SendQueueLimits::new(1, 2, 10).unwrap(), None);
    let mut writer = rig.queue().writer(&rig.sockman);
    assert_eq!(writer.write(&[]).unwrap(), 0);
    assert_eq!(writer.write(b"0123456789abcdef").unwrap(), 10);
    assert_eq!(writer.write(b"abcdef").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(writer.write(&[]).unwrap(), 0);
    assert_eq!(rig.read_all(10), b"0123456789");
    let mut writer = rig.queue().writer(&rig.sockman);
    let pieces = [IoSlice::new(b""), IoSlice::new(b"abcdef"), IoSlice::new(b"ghijkl")];
    assert_eq!(writer.write_vectored(&pieces).unwrap(), 6);
    assert_eq!(writer.write_vectored(&pieces).unwrap(), 4);
    let error = writer.write_vectored(&pieces).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(rig.read_all(10), b"abcdefabcd");
    assert_eq!(rig.queue().enqueue_part(&rig.sockman, &[1; 11]).unwrap(), 10);
    let full = rig.queue().enqueue_part(&rig.sockman, b"x").unwrap_err();
    assert!(matches!(full, PushError::Full { limit: 10 }), "{full:?}");
}

/// The writer: no drain of this queue makes room in a used-up budget, and nothing reports room, so this
/// is no "would block". The same holds for a queue that the budget has cut.
#[test]
fn a_writer_without_a_budget_is_not_told_to_wait() {
    let budget = SendBudget::new(1000);
    let rig = Rig::new(0, SendQueueLimits::default(), Some(budget.clone()));
    let error = rig.queue().writer(&rig.sockman).write(&[1; 5000]).unwrap_err();
    assert_eq!((error.kind(), rig.queue().queued()), (io::ErrorKind::Other, 0));
    let inner = error.get_ref().unwrap().downcast_ref::<PushError>();
    assert!(matches!(inner, Some(PushError::OverBudget { .. })), "{error:?}");

    let budget = SendBudget::new(1000);
    let rig = Rig::new(100, SendQueueLimits::default(), Some(budget));
    let error = rig.queue().push(&rig.sockman, &[1; 5000]).unwrap_err();
    assert!(matches!(error, PushError::OverBudget { sent: 100, .. }), "{error:?}");
    let error = rig.queue().writer(&rig.sockman).write(b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Other);
}
