//! The relay of `examples/relay.rs` passes on bytes, ends and resets in both directions, as if its
//! two peers had one connection. Each scenario over loopback runs without the relay, too, so that
//! the kernel confirms what the test expects. The sweep is off.

mod in_memory;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use sockman::{SockMan, helpers::SendBudget};
use sockman_test_support::{
    RESET_AFTER_END, eventually, read_to_end, relay_example, reset,
    tools::{Random, deadlines},
    without_sweep,
};

/// The high mark of a queue.
const HIGH_MARK: usize = 1_000_000;
/// More than a queue and the buffers of four sockets hold.
const LENGTH: usize = 24 * 1024 * 1024;
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
/// a while, so several writes in a row find no room.
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
        in_vain > 200 && pairs.is_paused()
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
            assert_eq!(writing.join().unwrap(), RESET_AFTER_END);
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
