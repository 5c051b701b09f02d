//! `ConnectionTable` and `Deadlines`, with the sweep off, so that no sweep can hide a timer that
//! does not wake the loop.

use std::{
    io::{self, Read},
    net::TcpStream,
    sync::{Arc, Barrier, mpsc},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectionId, EventHandler, NextRecv, Service, SockMan, SocketsThreads,
    address::Destination,
    helpers::{ConnectionTable, Deadlines},
    testing::{Network, SocketThreadByHand},
};
use sockman_test_support::{DEADLINE, without_sweep};

/// Closes each connection whose idle timer ends, and reports the other timers.
struct Timed {
    connections: ConnectionTable<Service>,
    deadlines: Deadlines<Key>,
    ended: Mutex<mpsc::Sender<(u32, Instant)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Idle(ConnectionId),
    Number(u32),
}

const IDLE: Duration = Duration::from_millis(50);

impl EventHandler for Timed {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Service,
        them: &Service,
    ) -> bool {
        self.connections.insert(id, them.clone());
        self.deadlines.set(sockman, Key::Idle(id), Instant::now() + IDLE);
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}

    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        let now = Instant::now();
        while let Some(key) = self.deadlines.take_due(now) {
            match key {
                Key::Idle(id) => {
                    sockman.close_connection(id);
                    assert!(self.connections.remove(id).is_some());
                }
                Key::Number(number) => self.ended.lock().send((number, now)).unwrap(),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}

fn unstarted() -> (Arc<Timed>, SockMan, mpsc::Receiver<(u32, Instant)>) {
    let (ended, ends) = mpsc::channel();
    let handler = Arc::new(Timed {
        connections: ConnectionTable::new(),
        deadlines: Deadlines::new(),
        ended: Mutex::new(ended),
    });
    let sockman = SockMan::new(handler.clone(), without_sweep()).unwrap();
    (handler, sockman, ends)
}

fn start() -> (Arc<Timed>, SockMan, SocketsThreads, mpsc::Receiver<(u32, Instant)>) {
    let (handler, sockman, ends) = unstarted();
    let threads = sockman.start_sockets_threads().unwrap();
    (handler, sockman, threads, ends)
}

#[test]
fn a_timer_set_on_another_thread_is_not_slept_through() {
    let (handler, sockman, _threads, ends) = start();
    for round in 0..200 {
        // The first timer is far in the future, so that the loop sleeps. The second timer expires
        // soon.
        handler.deadlines.set(&sockman, Key::Number(0), Instant::now() + 2 * DEADLINE);
        let at = Instant::now() + Duration::from_micros(round * 10);
        handler.deadlines.set(&sockman, Key::Number(1), at);
        let (number, when) = ends.recv_timeout(DEADLINE).expect("the near timer must end");
        assert_eq!(number, 1);
        assert!(when >= at, "the timer must not end early");
    }
    assert_eq!(handler.deadlines.len(), 1);
}

#[test]
fn a_timer_that_is_moved_to_an_earlier_time_is_not_slept_through() {
    let (handler, sockman, _threads, ends) = start();
    for _ in 0..100 {
        handler.deadlines.set(&sockman, Key::Number(0), Instant::now() + 2 * DEADLINE);
        let at = Instant::now() + Duration::from_millis(1);
        handler.deadlines.set(&sockman, Key::Number(0), at);
        assert!(ends.recv_timeout(DEADLINE).expect("the moved timer must end").1 >= at);
    }
}

/// The test runs no thread, and uses times of its own choice.
#[test]
fn timers_end_in_the_order_of_their_times_and_cleared_timers_do_not_end() {
    let deadlines: Deadlines<u64> = Deadlines::new();
    let (_, sockman, _) = unstarted();
    let start = Instant::now();
    let at = |number: u64| start + Duration::from_secs(number);
    for number in [3, 1, 2, 0, 4] {
        deadlines.set(&sockman, number, at(number));
    }
    assert!(deadlines.clear(2));
    assert!(!deadlines.clear(2));
    // This call moves the timer behind the other timers.
    deadlines.set(&sockman, 0, at(40));
    assert_eq!((deadlines.next(), deadlines.len()), (Some(at(1)), 4));
    assert_eq!(deadlines.take_due(at(1) - Duration::from_nanos(1)), None);
    assert_eq!(deadlines.take_due(at(3)), Some(1));
    // A timer set for a later time is not due in this round.
    deadlines.set(&sockman, 1, at(5));
    assert_eq!(deadlines.take_due(at(3)), Some(3));
    assert_eq!(deadlines.take_due(at(3)), None);
    let order: Vec<u64> = std::iter::from_fn(|| deadlines.take_due(at(100))).collect();
    assert_eq!(order, [4, 1, 0]);
    assert!(deadlines.is_empty());
    assert_eq!(deadlines.next(), None);
}

/// An embedder's own test can use the clock of the network in memory, on which an hour passes at
/// once.
#[test]
fn timers_follow_the_clock_of_a_network_in_memory() {
    let network = Network::new();
    let (ended, ends) = mpsc::channel();
    let handler = Arc::new(ByNetworkTime {
        network: network.clone(),
        deadlines: Deadlines::new(),
        ended: Mutex::new(ended),
    });
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(handler.clone(), options).unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let hour = Duration::from_secs(3600);
    handler.deadlines.set(&sockman, 1, network.now() + hour);
    thread.run_for(hour - Duration::from_secs(1)).unwrap();
    assert!(ends.try_recv().is_err());
    thread.run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(ends.try_recv(), Ok(1));
}

struct ByNetworkTime {
    network: Network,
    deadlines: Deadlines<u32>,
    ended: Mutex<mpsc::Sender<u32>>,
}

impl EventHandler for ByNetworkTime {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        false
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}

    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        let now = self.network.now();
        while let Some(key) = self.deadlines.take_due(now) {
            self.ended.lock().send(key).unwrap();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}

#[test]
fn idle_connections_are_closed_by_their_timers() {
    let (handler, sockman, _threads, _ends) = start();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let mut peers: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap()).collect();
    for peer in &mut peers {
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the timer must close the idle connection");
    }
    // The handler removes the entry after the close.
    let deadline = Instant::now() + DEADLINE;
    while !handler.connections.is_empty() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    assert!(handler.deadlines.is_empty());
}

#[test]
fn a_connection_is_removed_by_one_of_several_threads() {
    let table: ConnectionTable<u64> = ConnectionTable::new();
    let (_handler, sockman, _threads, _ends) = start();
    let ids: Vec<ConnectionId> = ids(&sockman, 100);
    for (number, id) in ids.iter().enumerate() {
        table.insert(*id, number as u64);
    }
    let all: Vec<u64> = table.all().iter().map(|(_, value)| **value).collect();
    assert_eq!(all, (0..100).collect::<Vec<u64>>(), "entries must come in the order of their ids");
    let kept = table.find(ids[5]).unwrap();
    let barrier = Barrier::new(4);
    let removed: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    ids.iter().filter(|id| table.remove(**id).is_some()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(removed, 100);
    assert_eq!((*kept, table.len()), (5, 0), "a holder must keep the removed entry");
    assert!(table.find(ids[5]).is_none());
}

/// Makes real connections, because no other way leads to an id.
fn ids(sockman: &SockMan, count: usize) -> Vec<ConnectionId> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Destination::from(listener.local_addr().unwrap());
    (0..count)
        .map(|_| {
            let connection = sockman.connect(&to, &sockman::ConnectOptions::default()).unwrap();
            listener.accept().unwrap();
            connection.id()
        })
        .collect()
}
