//! The relay of `examples/relay.rs` passes on bytes, ends and resets in both directions, as if its
//! two peers had one connection. Each scenario over loopback runs without the relay, too, so that
//! the kernel confirms what the test expects. The sweep is off.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use sockman::{
    Service, SockMan,
    helpers::SendBudget,
    testing::{Call, Ended, Network, Peer, PeerListener, SocketThreadByHand},
};
use sockman_test_support::{
    eventually, read_to_end, relay_example, reset,
    tools::{Random, deadlines},
    without_sweep,
};

/// The high mark of a queue.
const HIGH_MARK: usize = 1_000_000;
/// More than a queue and the buffers of four sockets hold.
const LENGTH: usize = 24 * 1024 * 1024;
/// How many random pairs run over the network in memory.
const SEEDS: u64 = if cfg!(debug_assertions) { 40 } else { 400 };
const LAST_WORDS: &[u8] = &[9; 1000];

/// Which of the two peers ends the connection. The client dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ender {
    Client,
    Target,
}

const ENDERS: [Ender; 2] = [Ender::Client, Ender::Target];

/// Makes pairs of connected streams: over the relay, or without it.
enum Way {
    Direct,
    Relayed { sockman: SockMan, budget: SendBudget, address: SocketAddr },
}

struct Pairs {
    target: TcpListener,
    way: Way,
}

impl Pairs {
    fn direct() -> Pairs {
        Pairs { target: TcpListener::bind("127.0.0.1:0").unwrap(), way: Way::Direct }
    }

    /// Starts a relay, whose threads end with the last `SockMan`.
    fn relayed() -> Pairs {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let budget = SendBudget::new(32_000_000);
        let to = target.local_addr().unwrap().into();
        let sockman = relay_example::create(to, &budget, without_sweep()).unwrap();
        let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        let address = bound.to_socket_addr().unwrap();
        Pairs { target, way: Way::Relayed { sockman, budget, address } }
    }

    /// Returns the stream of the peer that ends, and the other one.
    fn pair(&self, ender: Ender) -> (TcpStream, TcpStream) {
        let address = match &self.way {
            Way::Direct => self.target.local_addr().unwrap(),
            Way::Relayed { address, .. } => *address,
        };
        let client = TcpStream::connect(address).unwrap();
        let (target, _) = self.target.accept().unwrap();
        deadlines(&client);
        deadlines(&target);
        match ender {
            Ender::Client => (client, target),
            Ender::Target => (target, client),
        }
    }

    /// Returns whether the relay does not read from a peer any more. Without a relay, returns true.
    fn is_paused(&self) -> bool {
        match &self.way {
            Way::Direct => true,
            Way::Relayed { budget, .. } => budget.used() >= HIGH_MARK,
        }
    }

    fn wait_until_paused(&self) {
        eventually("a queue is above its high mark", || self.is_paused());
    }

    /// Waits until nothing of the pairs is left in the relay.
    fn wait_until_over(&self) {
        if let Way::Relayed { sockman, budget, .. } = &self.way {
            eventually("all connections are closed", || sockman.stats().connections == 0);
            eventually("the queues are gone", || budget.used() == 0);
        }
    }
}

/// Runs a scenario without the relay and over the relay, with each of the two peers as the one that
/// ends.
fn in_each_way(scenario: impl Fn(&Pairs, TcpStream, TcpStream)) {
    let direct = Pairs::direct();
    for ender in ENDERS {
        let (ending, other) = direct.pair(ender);
        scenario(&direct, ending, other);
    }
    let relayed = Pairs::relayed();
    let Way::Relayed { sockman, .. } = &relayed.way else { unreachable!() };
    let threads = sockman.start_sockets_threads().unwrap();
    for ender in ENDERS {
        let (ending, other) = relayed.pair(ender);
        scenario(&relayed, ending, other);
        relayed.wait_until_over();
    }
    sockman.interrupt();
    threads.join().unwrap();
}

/// Bytes that differ from their neighbours at any distance that a mistake may have.
fn pattern() -> Vec<u8> {
    Random::new(17).bytes(LENGTH)
}

/// Writes bytes until an error comes.
fn write_until_error(mut stream: &TcpStream) -> ErrorKind {
    let bytes = vec![7; 64 * 1024];
    loop {
        if let Err(error) = stream.write_all(&bytes) {
            return error.kind();
        }
    }
}

/// Waits until the peer's reset has arrived. Neither reads, because that would make room, nor writes,
/// because the relay would notice the reset when it passes the bytes on.
fn wait_for_reset(stream: &TcpStream) {
    eventually("the reset arrives", || {
        let error = stream.take_error().unwrap();
        error.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
    });
}

/// Writes until nothing more fits, and returns how many bytes did. The buffers of the kernel grow for
/// a while, so many writes in a row find no room.
fn fill(mut stream: &TcpStream, pairs: &Pairs) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (bytes, mut filled, mut in_vain) = (vec![7; 64 * 1024], 0, 0);
    eventually("nothing more fits", || {
        match stream.write(&bytes) {
            Ok(sent) => (filled, in_vain) = (filled + sent, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                in_vain += 1;
            }
        }
        in_vain > 10_000 && pairs.is_paused()
    });
    stream.set_nonblocking(false).unwrap();
    filled
}

/// G5: the end of one direction passes while the other direction stands still, and that one then
/// delivers every byte and its own end.
#[test]
fn an_end_is_passed_on_while_the_other_direction_is_stalled() {
    let sent = pattern();
    in_each_way(|pairs, mut ending, mut other| {
        thread::scope(|scope| {
            let (mut writer, sent) = (other.try_clone().unwrap(), &sent);
            scope.spawn(move || {
                writer.write_all(sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            pairs.wait_until_paused();
            ending.write_all(LAST_WORDS).unwrap();
            ending.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut other), LAST_WORDS);
            assert!(read_to_end(&mut ending) == *sent, "the stalled direction lost bytes");
        });
    });
}

/// G5: an end comes after all bytes that were sent before it, also if they wait in the queue, and the
/// other direction goes on meanwhile and afterwards.
#[test]
fn an_end_waits_for_the_bytes_in_front_of_it() {
    let sent = pattern();
    in_each_way(|pairs, mut ending, mut other| {
        thread::scope(|scope| {
            let (mut writer, sent) = (ending.try_clone().unwrap(), &sent);
            scope.spawn(move || {
                writer.write_all(sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            pairs.wait_until_paused();
            let mut back = [0; 1000];
            other.write_all(LAST_WORDS).unwrap();
            ending.read_exact(&mut back).unwrap();
            assert!(read_to_end(&mut other) == *sent, "the bytes in front of the end are lost");
            other.write_all(LAST_WORDS).unwrap();
            other.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut ending), LAST_WORDS);
        });
    });
}

/// A reset is a reset for the other peer, whose bytes stand still in the relay: the one of its read
/// and its write that notices the end first gets `ConnectionReset`.
#[test]
fn a_reset_is_passed_on_while_the_other_direction_is_stalled() {
    in_each_way(|pairs, mut ending, mut other| {
        thread::scope(|scope| {
            let writer = other.try_clone().unwrap();
            let writing = scope.spawn(move || write_until_error(&writer));
            pairs.wait_until_paused();
            ending.write_all(LAST_WORDS).unwrap();
            other.read_exact(&mut [0; LAST_WORDS.len()]).unwrap();
            reset(ending);
            let read = other.read(&mut [0; 1]).map_err(|error| error.kind());
            let written = writing.join().unwrap();
            assert!(
                read == Err(ErrorKind::ConnectionReset) || written == ErrorKind::ConnectionReset,
                "no reset: the read returned {read:?}, and the write {written:?}"
            );
        });
    });
}

/// A peer that is closed while bytes for it wait in its kernel resets the connection.
#[test]
fn a_close_that_discards_bytes_is_passed_on_as_a_reset() {
    in_each_way(|_, ending, mut other| {
        other.write_all(LAST_WORDS).unwrap();
        eventually("the bytes arrive", || ending.peek(&mut [0; 1000]).unwrap() == 1000);
        drop(ending);
        assert_eq!(other.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

/// The reset of a peer that the relay does not read for now is passed on at once: it does not wait
/// until the other peer reads what is queued.
#[test]
fn a_reset_is_passed_on_although_the_other_peer_reads_nothing() {
    in_each_way(|pairs, ending, other| {
        assert!(fill(&ending, pairs) > 0);
        reset(ending);
        wait_for_reset(&other);
    });
}

/// After its end, a peer may still reset. The kernel reports that to a writer as a broken pipe.
#[test]
fn a_reset_after_an_end_is_passed_on() {
    in_each_way(|pairs, mut ending, mut other| {
        thread::scope(|scope| {
            let writer = other.try_clone().unwrap();
            let writing = scope.spawn(move || write_until_error(&writer));
            pairs.wait_until_paused();
            ending.write_all(LAST_WORDS).unwrap();
            ending.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut other), LAST_WORDS);
            reset(ending);
            assert_eq!(writing.join().unwrap(), ErrorKind::BrokenPipe);
        });
    });
}

/// An end that waits in the relay behind bytes does not keep a later reset from being passed on.
#[test]
fn a_reset_overtakes_an_end_that_waits_in_the_relay() {
    in_each_way(|pairs, ending, other| {
        assert!(fill(&ending, pairs) > 0);
        ending.shutdown(Shutdown::Write).unwrap();
        reset(ending);
        wait_for_reset(&other);
    });
}

/// A client whose target refuses gets a reset: an end would look like an answer without bytes.
#[test]
fn a_client_whose_target_refuses_gets_a_reset() {
    let Pairs { target, way } = Pairs::relayed();
    let Way::Relayed { sockman, address, .. } = &way else { unreachable!() };
    drop(target);
    let threads = sockman.start_sockets_threads().unwrap();
    for _ in 0..20 {
        let mut client = TcpStream::connect(address).unwrap();
        deadlines(&client);
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    eventually("nothing is left", || sockman.stats().connections == 0);
    sockman.interrupt();
    threads.join().unwrap();
}

/// The relay over the network in memory.
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
    relay.network.fail_next(Call::Socket, libc::EMFILE);
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
    (Call::Recv, libc::EAGAIN),
    (Call::Recv, libc::EINTR),
    (Call::Recv, libc::ENOBUFS),
    (Call::Send, libc::EAGAIN),
    (Call::Send, libc::EINTR),
    (Call::Send, libc::ENOBUFS),
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
        (Call::Recv, libc::ECONNRESET),
        (Call::Recv, libc::ETIMEDOUT),
        (Call::Send, libc::EPIPE),
        (Call::Shutdown, libc::ENOTCONN),
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
