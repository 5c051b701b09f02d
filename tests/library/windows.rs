//! The rules of Windows over the network in memory: what its poller reports, and what the library does
//! where the other kernels need nothing. The names of the guarantees stand at each test. The sweep is
//! off.

use std::{
    io::{self, ErrorKind},
    net::Shutdown,
    time::Duration,
};

use sockman::{
    ConnectOptions, Options, Service, SockMan,
    error::{BindErrorKind, ConnectErrorKind},
    stats::HangUp,
    sys::{More, Poller, Readiness, Sock, errors},
    testing::{Ended, Network, Peer, SocketThreadByHand},
};
use sockman_test_support::{Event, Recorder, without_sweep};

const PROXY: &str = "10.0.0.9:1080";

fn addresses() -> (Service, Service) {
    ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap())
}

/// A socket that a poller watches, and its peer.
struct Watched {
    network: Network,
    poller: Box<dyn Poller>,
    sock: Box<dyn Sock>,
    peer: Peer,
}

impl Watched {
    fn new() -> Watched {
        let network = Network::windows();
        let poller = network.factory().create_poller().unwrap();
        let (me, them) = addresses();
        let (sock, peer) = network.pair(&me, &them).unwrap();
        poller.register(&*sock, 7).unwrap();
        Watched { network, poller, sock, peer }
    }

    /// Returns what one poll reports, all its events taken together, or `None` for no event.
    fn poll(&mut self) -> Option<Readiness> {
        let mut events = Vec::new();
        self.poller.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.iter().all(|event| event.token == 7), "{events:?}");
        events.into_iter().reduce(|mut all, event| {
            all.readable |= event.readable;
            all.writable |= event.writable;
            all.read_closed |= event.read_closed;
            all.broken |= event.broken;
            all.write_closed |= event.write_closed;
            all
        })
    }

    fn recv(&self) -> io::Result<usize> {
        self.sock.recv(&mut [0; 4])
    }

    fn would_block(&self) {
        assert_eq!(self.recv().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

/// The poller reports an event once, and again only after a call that would block. It then reports
/// both directions.
#[test]
fn events_come_again_only_after_a_call_that_would_block() {
    let mut watched = Watched::new();
    let room = watched.poll().unwrap();
    assert!(room.writable && !room.readable);
    assert_eq!(watched.poll(), None);
    watched.peer.send(b"abcd").unwrap();
    assert!(watched.poll().unwrap().readable);
    watched.peer.send(b"more").unwrap();
    assert_eq!(watched.poll(), None);
    assert_eq!(watched.recv().unwrap(), 4);
    assert_eq!(watched.poll(), None);
    assert_eq!(watched.recv().unwrap(), 4);
    watched.would_block();
    let room = watched.poll().unwrap();
    assert!(room.writable && !room.readable);
    assert_eq!(watched.poll(), None);
}

/// A send that would block puts the receiving direction back, too.
#[test]
fn a_send_that_would_block_brings_the_events_of_both_directions() {
    let mut watched = Watched::new();
    watched.peer.set_window(2);
    watched.peer.send(b"abcd").unwrap();
    assert!(watched.poll().unwrap().readable);
    assert_eq!(watched.sock.send(b"abcd", More::No).unwrap(), 2);
    assert_eq!(watched.poll(), None);
    assert!(watched.sock.send(b"cd", More::No).is_err());
    let data = watched.poll().unwrap();
    assert!(data.readable && !data.writable);
    assert_eq!(watched.peer.receive().0, b"ab");
    assert!(watched.poll().unwrap().writable);
}

/// The end of a stream behind data is not reported before a receive would block.
#[test]
fn the_end_behind_data_causes_no_event() {
    let mut watched = Watched::new();
    watched.peer.send(b"abcd").unwrap();
    assert!(watched.poll().unwrap().readable);
    watched.peer.shutdown_write();
    assert_eq!(watched.poll(), None);
    assert_eq!(watched.recv().unwrap(), 4);
    assert_eq!(watched.poll(), None);
    assert_eq!(watched.recv().unwrap(), 0);
}

/// A reset after the end is reported, although no call would block in between. `SO_ERROR` does not hold
/// it, and each receive and each send returns it.
#[test]
fn a_reset_after_the_end_is_an_event_and_not_an_error_of_the_socket() {
    let mut watched = Watched::new();
    watched.peer.shutdown_write();
    assert!(watched.poll().unwrap().read_closed);
    assert_eq!(watched.recv().unwrap(), 0);
    let Watched { mut poller, sock, peer, network } = watched;
    peer.reset();
    let mut events = Vec::new();
    poller.poll(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.iter().any(|event| event.broken && event.write_closed), "{events:?}");
    assert!(sock.take_error().unwrap().is_none());
    for _ in 0..2 {
        assert_eq!(sock.recv(&mut [0; 4]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(sock.send(b"x", More::No).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    drop(network);
}

/// A socket remembers its poller, even one that is gone, until that poller deregisters it.
#[test]
fn a_socket_remembers_its_poller() {
    let Watched { network, poller: first, sock, peer } = Watched::new();
    let second = network.factory().create_poller().unwrap();
    assert!(second.register(&*sock, 1).is_err());
    assert!(second.deregister(&*sock).is_err());
    first.deregister(&*sock).unwrap();
    second.register(&*sock, 1).unwrap();
    drop(second);
    assert!(first.register(&*sock, 1).is_err());
    drop(peer);
}

/// A shutdown of both directions resets the connection if data waits, or if data comes later.
#[test]
fn a_shutdown_that_drops_data_resets() {
    for is_late in [false, true] {
        let watched = Watched::new();
        let Watched { sock, peer, network, poller } = watched;
        if !is_late {
            peer.send(b"unread").unwrap();
        }
        sock.shutdown(Shutdown::Both).unwrap();
        if is_late {
            assert_eq!(peer.receive().1, Some(Ended::Eof));
            peer.send(b"late").unwrap();
        }
        assert_eq!(peer.receive().1, Some(Ended::Error(errors::ECONNRESET)));
        drop((network, poller));
    }
}

pub(crate) fn sockman_on(
    network: &Network,
) -> (std::sync::Arc<Recorder>, SockMan, SocketThreadByHand) {
    let recorder = Recorder::new();
    let options: Options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let thread = SocketThreadByHand::start(&sockman, network).unwrap();
    (recorder, sockman, thread)
}

/// G2: the poller of a blocking connect gives the socket up, so that the socket thread can watch it.
#[test]
fn the_socket_of_a_blocking_connect_can_be_watched() {
    let network = Network::windows();
    let (recorder, sockman, mut thread) = sockman_on(&network);
    network.set_latency(Duration::from_millis(10));
    let there = network.listen(&PROXY.parse().unwrap()).unwrap();
    let to = there.address();
    let connected =
        network.as_another_thread(|| sockman.connect(to, &ConnectOptions::default()).unwrap());
    let (id, peer) = (connected.activate(), there.accept().unwrap());
    peer.send(b"hello").unwrap();
    thread.run_for(Duration::from_millis(20)).unwrap();
    assert_eq!(recorder.received(id), b"hello");
}

/// G6: Windows has no event for an own half-close behind the peer's end. The end of both is known.
#[test]
fn both_ends_are_known_whichever_comes_last() {
    let network = Network::windows();
    let (recorder, sockman, mut thread) = sockman_on(&network);
    let (me, them) = addresses();
    let (sock, peer) = network.pair(&me, &them).unwrap();
    let id = sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
    peer.send(b"last").unwrap();
    peer.shutdown_write();
    thread.run_until_idle().unwrap();
    assert!(recorder.events_of(id).contains(&Event::Eof(id)));
    assert_eq!(sockman.connection_info(id).unwrap().hung_up, None);
    sockman.shutdown_write(id).unwrap();
    assert_eq!(sockman.connection_info(id).unwrap().hung_up, Some(HangUp::InOrder));
}

/// G4: a connection that finishes is closed when the embedder ends the stream itself, although the peer
/// leaves no room and Windows has no event for it.
#[test]
fn a_connection_that_finishes_ends_with_an_own_half_close() {
    let network = Network::windows();
    let (recorder, sockman, mut thread) = sockman_on(&network);
    let (me, them) = addresses();
    let (sock, peer) = network.pair(&me, &them).unwrap();
    let id = sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
    peer.set_window(4);
    recorder.want_to_send(id, true);
    assert_eq!(sockman.send_bytes(id, b"full").unwrap(), 4);
    assert_eq!(sockman.send_bytes(id, b"more").unwrap(), 0);
    thread.run_until_idle().unwrap();
    assert!(sockman.finish_connection(id, Duration::from_secs(60)));
    peer.shutdown_write();
    thread.run_until_idle().unwrap();
    assert!(recorder.closed().is_empty());
    sockman.shutdown_write(id).unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(recorder.closed(), [id]);
    assert_eq!(peer.receive(), (b"full".to_vec(), Some(Ended::Eof)));
}

/// G7: each send that would block brings the event of the data that waits, and of the end that was
/// reported. Such an event gives no turn, because a handler that sends in each turn would get turns
/// without end.
#[test]
fn an_event_that_says_nothing_new_gives_no_turn() {
    for has_ended in [false, true] {
        let network = Network::windows();
        let (recorder, sockman, mut thread) = sockman_on(&network);
        let (me, them) = addresses();
        let (sock, peer) = network.pair(&me, &them).unwrap();
        let id = sockman.add_existing_connection(sock, &me, &them).unwrap().activate();
        peer.set_window(4);
        if has_ended {
            peer.shutdown_write();
        } else {
            recorder.pause_recv(id, true);
            peer.send(b"waits").unwrap();
        }
        thread.run_until_idle().unwrap();
        assert_eq!(sockman.send_bytes(id, b"full").unwrap(), 4);
        let before = sockman.stats();
        for _ in 0..10 {
            assert_eq!(sockman.send_bytes(id, b"more").unwrap(), 0);
            thread.run_until_idle().unwrap();
        }
        assert_eq!(sockman.stats().events - before.events, 10);
        assert_eq!(sockman.stats().turns, before.turns);
        recorder.pause_recv(id, false);
        sockman.wake(id);
        thread.run_until_idle().unwrap();
        assert_eq!(recorder.received(id), if has_ended { &b""[..] } else { b"waits" });
    }
}

/// There are no unix-domain sockets.
#[test]
fn a_unix_domain_socket_is_a_typed_error() {
    let network = Network::windows();
    let (_recorder, sockman, _thread) = sockman_on(&network);
    let at: Service = "unix:/double/sock".parse().unwrap();
    let error = sockman.bind_and_start_listening(&at).unwrap_err();
    let BindErrorKind::Os { source, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!(source.kind(), ErrorKind::Unsupported);
    let error = sockman.start_connect(&at, &ConnectOptions::default()).unwrap_err();
    let ConnectErrorKind::Os { source, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!(source.kind(), ErrorKind::Unsupported);
    assert_eq!(network.connect(&at).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(network.listen(&at).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(network.pair(&at, &at).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(network.factory().create_sock(&at).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// G11: an accept looks for a client before it needs a descriptor, so a listener without clients does
/// not pause at the limit.
#[test]
fn a_listener_without_clients_does_not_pause_at_the_limit_of_descriptors() {
    let network = Network::windows();
    let (_recorder, sockman, mut thread) = sockman_on(&network);
    let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let first = network.connect(&here).unwrap();
    network.set_descriptor_limit(Some(network.descriptors() + 1));
    thread.run_until_idle().unwrap();
    assert_eq!((sockman.stats().accepted, sockman.stats().accept_pauses), (1, 0));
    let _second = network.connect(&here).unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!((sockman.stats().accepted, sockman.stats().accept_pauses), (1, 1));
    drop(first);
}
