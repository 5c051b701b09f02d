//! The relay over the network in memory, pass by pass, with calls that fail.

use std::time::Duration;

use sockman::{
    Service, SockMan,
    helpers::SendBudget,
    sys::errors,
    testing::{Call, Ended, Network, Peer, PeerListener, SocketThreadByHand},
};
use sockman_test_support::{relay_example, tools::Random, without_sweep};

use super::HIGH_MARK;

/// How many random pairs run over the network in memory.
const SEEDS: u64 = if cfg!(debug_assertions) { 40 } else { 400 };

/// A relay, and the target of its clients.
struct InMemory {
    network: Network,
    sockman: SockMan,
    budget: SendBudget,
    thread: SocketThreadByHand,
    here: Service,
    target: PeerListener,
}

impl InMemory {
    fn new() -> InMemory {
        InMemory::with_budget(32_000_000)
    }

    fn with_budget(bytes: usize) -> InMemory {
        let network = Network::new();
        let to: Service = "10.0.0.2:2".parse().unwrap();
        let target = network.listen(&to).unwrap();
        let budget = SendBudget::new(bytes);
        let options = without_sweep().sock_factory(network.factory());
        let sockman = relay_example::create(to, &budget, options).unwrap();
        let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        InMemory { network, sockman, budget, thread, here, target }
    }

    fn run(&mut self) {
        self.thread.run_until_idle().unwrap();
    }

    fn pair(&mut self) -> [Peer; 2] {
        let client = self.network.connect(&self.here).unwrap();
        self.run();
        [client, self.target.accept().unwrap()]
    }

    fn assert_over(&mut self) {
        self.run();
        assert_eq!(self.sockman.stats().connections, 0);
        assert_eq!(self.network.descriptors(), 1, "only the listener is left");
        assert_eq!(self.budget.used(), 0);
    }
}

/// The connect to the target ends with its client. The clock stands still, so the end is not the
/// time-out of the connect.
#[test]
fn a_client_that_resets_ends_the_connect_to_its_target() {
    let mut relay = InMemory::new();
    relay.network.ignore(&relay.target.address());
    let client = relay.network.connect(&relay.here).unwrap();
    relay.run();
    assert_eq!(relay.sockman.stats().connections, 2);
    client.reset();
    relay.assert_over();
}

/// The reset of a side that is not read is passed on at once, whatever waits in the other side's queue.
#[test]
fn a_reset_of_a_side_that_is_paused_is_passed_on() {
    for paused in [0, 1] {
        let mut relay = InMemory::new();
        let mut peers: Vec<_> = relay.pair().into();
        peers[1 - paused].set_window(0);
        for _ in 0..100 {
            peers[paused].send(&[7; 30_000]).unwrap();
            relay.run();
        }
        assert!(relay.budget.used() >= HIGH_MARK);
        peers.remove(paused).reset();
        relay.run();
        assert!(matches!(peers[0].receive().1, Some(Ended::Error(_))));
        relay.assert_over();
    }
}

/// A connect that fails at once ends the client with a reset, too.
#[test]
fn a_client_whose_connect_cannot_begin_gets_a_reset() {
    let mut relay = InMemory::new();
    relay.network.fail_next(Call::Socket, errors::EMFILE);
    let client = relay.network.connect(&relay.here).unwrap();
    relay.run();
    assert!(matches!(client.receive().1, Some(Ended::Error(_))));
    relay.assert_over();
}

/// A peer that reads nothing pauses the other one at the high mark, so the memory is bounded by the
/// mark and one receive. When it reads again, every byte arrives.
#[test]
fn a_stalled_peer_pauses_the_other_one_at_the_high_mark() {
    const RECEIVE: usize = 64 * 1024;
    for stalled in [0, 1] {
        let mut relay = InMemory::new();
        let peers = relay.pair();
        peers[stalled].set_window(0);
        let (bytes, mut sent) = (Random::new(17).bytes(3 * HIGH_MARK), 0);
        for _ in 0..100 {
            sent += peers[1 - stalled].send(&bytes[sent..]).unwrap();
            relay.run();
        }
        // The queue, and the window of the relay's own socket.
        assert!((HIGH_MARK..HIGH_MARK + 2 * RECEIVE).contains(&sent), "{sent} bytes were taken");
        // A buffer grows to at most twice what it holds.
        assert!(relay.budget.used() <= 2 * (HIGH_MARK + RECEIVE), "{}", relay.budget.used());
        let mut received = Vec::new();
        // Each round moves a receive, unless the relay stands still.
        for _ in 0..1000 {
            peers[stalled].set_window(RECEIVE);
            sent += peers[1 - stalled].send(&bytes[sent..]).unwrap();
            relay.run();
            received.extend(peers[stalled].receive().0);
        }
        assert!(received == bytes, "bytes are lost or changed");
    }
}

/// What a client sends before its target is connected is passed on, with the end.
#[test]
fn bytes_and_the_end_of_a_client_wait_for_its_target() {
    let mut relay = InMemory::new();
    relay.network.set_latency(Duration::from_millis(30));
    let client = relay.network.connect(&relay.here).unwrap();
    client.send(b"hello").unwrap();
    client.shutdown_write();
    relay.thread.run_for(Duration::from_secs(1)).unwrap();
    let target = relay.target.accept().unwrap();
    assert_eq!(target.receive(), (b"hello".to_vec(), Some(Ended::Eof)));
    target.shutdown_write();
    relay.thread.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(client.receive(), (Vec::new(), Some(Ended::Eof)));
    relay.assert_over();
}

/// A client that resets in the pass in which its target is connected leaves nothing behind.
#[test]
fn a_client_that_resets_when_its_target_is_connected_leaves_nothing() {
    for passes in 0..8 {
        let mut relay = InMemory::new();
        let client = relay.network.connect(&relay.here).unwrap();
        for _ in 0..passes {
            relay.thread.pass_within(Duration::ZERO).unwrap();
        }
        client.reset();
        relay.run();
        if let Some(target) = relay.target.accept() {
            assert!(target.receive().1.is_some(), "the target is left alone");
        }
        relay.assert_over();
    }
}

/// One direction of a pair: what the peers have sent and received.
#[derive(Default)]
struct Stream {
    left: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    has_ended: bool,
    end: Option<Ended>,
}

/// Failures of the kernel that pass. Each call is repeated by the library or its caller.
const PASSING: [(Call, i32); 6] = [
    (Call::Recv, errors::EAGAIN),
    (Call::Recv, errors::EINTR),
    (Call::Recv, errors::ENOBUFS),
    (Call::Send, errors::EAGAIN),
    (Call::Send, errors::EINTR),
    (Call::Send, errors::ENOBUFS),
];

/// G5, G7: whatever the windows, the pieces, the pauses and the failures that pass, both directions
/// are complete and in order, each end comes once and last, and no queue grows beyond its mark.
#[test]
fn both_directions_are_complete_over_a_kernel_that_lies() {
    let mut paused = 0;
    for seed in 1..SEEDS {
        let mut random = Random::new(seed);
        let mut relay = InMemory::new();
        relay.network.set_window(random.up_to(50_000));
        let peers = relay.pair();
        let mut streams = [0, 1].map(|_| {
            let length = random.up_to(2_000_000);
            Stream { left: random.bytes(length), ..Stream::default() }
        });
        for peer in &peers {
            peer.set_chunk(Some(random.up_to(20_000)));
        }
        let (mut steps, mut most) = (0, 0);
        while streams.iter().any(|stream| stream.end.is_none()) {
            steps += 1;
            assert!(steps < 100_000, "seed {seed}: the relay stands still");
            let from = random.up_to(2) - 1;
            let (sender, receiver, stream) = (&peers[from], &peers[1 - from], &mut streams[from]);
            match random.up_to(8) {
                1..=3 if stream.sent < stream.left.len() => {
                    let until = stream.left.len().min(stream.sent + random.up_to(200_000));
                    stream.sent += sender.send(&stream.left[stream.sent..until]).unwrap();
                }
                1..=3 if !stream.has_ended => {
                    sender.shutdown_write();
                    stream.has_ended = true;
                }
                4 | 5 if stream.end.is_none() => {
                    let (bytes, end) = receiver.receive_at_most(random.up_to(150_000));
                    stream.received.extend(bytes);
                    stream.end = end;
                }
                6 => receiver.set_window(random.up_to(50_000)),
                7 => receiver.spurious_event(),
                8 => {
                    let (call, errno) = PASSING[random.up_to(PASSING.len()) - 1];
                    receiver.fail_next(call, errno);
                }
                _ => {}
            }
            // Lets pauses after a lack of buffers end, too.
            relay.thread.run_for(Duration::from_millis(random.next() % 3 * 100)).unwrap();
            most = most.max(relay.budget.used());
        }
        // The buffer of a queue is at most four times as large as its bytes.
        assert!(most < 8 * HIGH_MARK, "seed {seed}: the queues grew to {most} bytes");
        paused += usize::from(most >= HIGH_MARK);
        for stream in &streams {
            assert_eq!(stream.end, Some(Ended::Eof), "seed {seed}");
            assert!(stream.received == stream.left, "seed {seed}: bytes are lost or changed");
        }
        drop(peers);
        relay.assert_over();
    }
    assert!(paused > 0, "no queue was ever above its high mark");
}

/// Whatever call fails for good on either side and whatever waits in the queues, both peers get a
/// reset, and nothing of the pair is left.
#[test]
fn a_failure_of_one_side_resets_both() {
    const FAILURES: [(Call, i32); 4] = [
        (Call::Recv, errors::ECONNRESET),
        (Call::Recv, errors::ETIMEDOUT),
        (Call::Send, errors::EPIPE),
        (Call::Shutdown, errors::ENOTCONN),
    ];
    for (call, errno) in FAILURES {
        for (broken, stalled) in [(0, false), (1, false), (0, true), (1, true)] {
            let mut relay = InMemory::new();
            let peers = relay.pair();
            if stalled {
                // The other direction: what the broken side is to get.
                peers[broken].set_window(0);
                for _ in 0..100 {
                    peers[1 - broken].send(&[7; 30_000]).unwrap();
                    relay.run();
                }
                assert!(relay.budget.used() >= HIGH_MARK);
            }
            peers[broken].fail_next(call, errno);
            match call {
                Call::Recv => drop(peers[broken].send(b"x").unwrap()),
                Call::Send if stalled => peers[broken].set_window(60_000),
                Call::Send => drop(peers[1 - broken].send(b"x").unwrap()),
                // The end waits behind the bytes.
                _ => {
                    peers[1 - broken].shutdown_write();
                    relay.run();
                    while stalled && peers[broken].probe_program().is_some() {
                        peers[broken].set_window(60_000);
                        peers[broken].receive();
                        relay.run();
                    }
                }
            }
            relay.run();
            let what = format!("{call:?} fails with {errno} on {broken}, stalled {stalled}");
            let end = peers[1 - broken].receive().1;
            assert!(matches!(end, Some(Ended::Error(_))), "{what}: the other peer sees {end:?}");
            assert!(peers[broken].receive().1.is_some(), "{what}: the peer sees no end");
            relay.assert_over();
        }
    }
}

/// A side that is over is closed, and the bytes and the end for the other side still go out.
#[test]
fn the_first_side_that_is_over_does_not_cut_the_other_one_off() {
    for stalled in [0, 1] {
        let mut relay = InMemory::new();
        let peers = relay.pair();
        peers[stalled].set_window(0);
        peers[stalled].shutdown_write();
        peers[1 - stalled].send(&[7; 60_000]).unwrap();
        peers[1 - stalled].shutdown_write();
        relay.run();
        assert_eq!(peers[1 - stalled].receive(), (Vec::new(), Some(Ended::Eof)));
        assert_eq!(relay.sockman.stats().connections, 1, "one side is over");
        peers[stalled].set_window(60_000);
        relay.run();
        assert_eq!(peers[stalled].receive(), (vec![7; 60_000], Some(Ended::Eof)));
        relay.assert_over();
    }
}

/// A pair whose bytes do not fit into the budget is reset. The others go on, and lose nothing.
#[test]
fn a_pair_beyond_the_budget_is_reset_and_the_others_go_on() {
    let mut relay = InMemory::with_budget(100_000);
    let [first, second] = [relay.pair(), relay.pair()];
    for [client, target] in [&first, &second] {
        target.set_window(0);
        client.send(&[7; 60_000]).unwrap();
        relay.run();
    }
    for peer in second {
        assert!(matches!(peer.receive().1, Some(Ended::Error(_))));
    }
    let [client, target] = first;
    target.set_window(60_000);
    client.shutdown_write();
    target.shutdown_write();
    relay.run();
    assert_eq!(target.receive(), (vec![7; 60_000], Some(Ended::Eof)));
    assert_eq!(client.receive(), (Vec::new(), Some(Ended::Eof)));
    relay.assert_over();
}
