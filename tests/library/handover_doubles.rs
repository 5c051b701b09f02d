//! Connections that leave a `SockMan` over the doubles of `sockman::testing`, also to another
//! `SockMan`, and calls beside a socket thread by hand.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread,
};

use sockman::{
    ConnectionId, Service, SockMan,
    error::{AddConnectionErrorKind, IntoStreamError},
    testing::{Call, Ended, Network, Peer, Point, SocketThreadByHand},
};
use sockman_test_support::{DEADLINE, Event, Recorder, eventually, without_sweep};

fn addresses() -> (Service, Service) {
    ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap())
}

fn sockman_on(network: &Network) -> (Arc<Recorder>, SockMan, SocketThreadByHand) {
    let recorder = Recorder::new();
    with(network, recorder)
}

fn with(
    network: &Network,
    recorder: Arc<Recorder>,
) -> (Arc<Recorder>, SockMan, SocketThreadByHand) {
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let thread = SocketThreadByHand::start(&sockman, network).unwrap();
    (recorder, sockman, thread)
}

fn connection(network: &Network, sockman: &SockMan) -> (ConnectionId, Peer) {
    let (me, them) = addresses();
    let (sock, peer) = network.pair(&me, &them).unwrap();
    (sockman.add_existing_connection(sock, &me, &them).unwrap().activate(), peer)
}

/// G5: a connection moves from one `SockMan` to another and to other code, and no byte is lost.
#[test]
fn a_connection_moves_between_two_sockmen_over_the_doubles() {
    let network = Network::new();
    let (first, one, mut one_by_hand) = sockman_on(&network);
    let (second, two, mut two_by_hand) = sockman_on(&network);
    let (id, peer) = connection(&network, &one);
    peer.send(b"one").unwrap();
    one_by_hand.run_until_idle().unwrap();
    peer.send(b"two").unwrap();

    let moved = two.add_connection(one.into_stream(id).unwrap()).unwrap();
    let (me, them) = addresses();
    assert_eq!((moved.me(), moved.them().service().unwrap()), (&me, &them));
    let new_id = moved.activate();
    two_by_hand.run_until_idle().unwrap();
    one_by_hand.run_until_idle().unwrap();
    assert_eq!(first.wait_for_bytes(id, 3), b"one");
    assert_eq!(second.wait_for_bytes(new_id, 3), b"two");
    assert_eq!((first.closed(), network.descriptors()), (vec![id], 1));
    // The first one's late release does not end the watch of the second one.
    peer.send(b"2!").unwrap();
    two_by_hand.run_until_idle().unwrap();
    assert_eq!(second.wait_for_bytes(new_id, 5), b"two2!");

    peer.send(b"three").unwrap();
    let stream = network.taken_out(two.into_stream(new_id).unwrap()).unwrap();
    two_by_hand.run_until_idle().unwrap();
    assert_eq!((stream.address(), stream.receive().0), (me, b"three".to_vec()));
    stream.send(b"bye").unwrap();
    assert_eq!(peer.receive(), (b"bye".to_vec(), None));
    assert_eq!(network.descriptors(), 0);
    drop(stream);
    assert_eq!(peer.receive().1, Some(Ended::Eof));
}

/// G4: the stream of a double ends when the embedder drops its descriptor. A stream that is not the
/// network's, or that was reset, is given back.
#[test]
fn a_stream_of_the_doubles_ends_with_its_descriptor() {
    let network = Network::new();
    let (_, sockman, mut by_hand) = sockman_on(&network);
    let (id, peer) = connection(&network, &sockman);
    let stream = sockman.into_stream(id).unwrap();
    by_hand.run_until_idle().unwrap();
    assert_eq!((network.descriptors(), peer.receive().1), (1, None));
    drop(stream);
    assert_eq!((peer.receive().1, network.descriptors()), (Some(Ended::Eof), 0));

    let (id, _peer) = connection(&network, &sockman);
    network.set_descriptor_limit(Some(1));
    let error = sockman.into_stream(id).unwrap_err();
    assert!(matches!(error, IntoStreamError::Duplicate { id: of, .. } if of == id), "{error:?}");
    network.set_descriptor_limit(None);
    assert!(sockman.close_connection(id));

    let (id, peer) = connection(&network, &sockman);
    let stream = sockman.into_stream(id).unwrap();
    peer.reset();
    let error = sockman.add_connection(stream).unwrap_err();
    assert!(matches!(error.kind(), AddConnectionErrorKind::NotAConnection { .. }), "{error:?}");
    let stream = Network::new().taken_out(error.into_stream()).unwrap_err();
    assert!(matches!(network.taken_out(stream).unwrap().receive().1, Some(Ended::Error(_))));
    by_hand.run_until_idle().unwrap();
    assert_eq!(network.descriptors(), 0);
}

/// G4: on the thread that drives the socket thread by hand, and on a thread beside it, the call does
/// not wait for a pass that nobody runs.
#[test]
fn into_stream_returns_between_two_passes_by_hand() {
    let network = Network::new();
    let (recorder, sockman, mut by_hand) = sockman_on(&network);
    let (id, peer) = connection(&network, &sockman);
    let (other, _other_peer) = connection(&network, &sockman);
    by_hand.run_until_idle().unwrap();
    peer.send(b"left").unwrap();
    on_another_thread(&sockman, other).recv_timeout(DEADLINE).unwrap();
    let stream = sockman.into_stream(id).unwrap();
    by_hand.run_until_idle().unwrap();
    assert_eq!(recorder.closed(), [other, id]);
    assert_eq!(network.taken_out(stream).unwrap().receive().0, b"left");
}

fn on_another_thread(sockman: &SockMan, id: ConnectionId) -> Receiver<()> {
    let (sender, receiver) = channel();
    let sockman = sockman.clone();
    thread::spawn(move || {
        sockman.into_stream(id).unwrap();
        sender.send(()).unwrap();
    });
    receiver
}

/// G4: a call on another thread, in the middle of a pass by hand, returns when that pass ends.
#[test]
fn into_stream_in_a_pass_by_hand_returns_with_the_end_of_the_pass() {
    let network = Network::new();
    let slot = Arc::new(Mutex::new(None));
    let recorder = Recorder::with_reaction({
        let slot = Arc::clone(&slot);
        move |sockman, event| {
            if let Event::Data(id, _) = event {
                *slot.lock().unwrap() = Some(on_another_thread(sockman, *id));
                eventually("the id is gone", || sockman.connection_info(*id).is_none());
            }
        }
    });
    let (recorder, sockman, mut by_hand) = with(&network, recorder);
    let (id, peer) = connection(&network, &sockman);
    by_hand.run_until_idle().unwrap();
    peer.send(b"data").unwrap();
    while slot.lock().unwrap().is_none() {
        by_hand.pass().unwrap();
    }
    slot.lock().unwrap().take().unwrap().recv_timeout(DEADLINE).unwrap();
    by_hand.run_until_idle().unwrap();
    assert_eq!(recorder.closed(), [id]);
}

/// G5: where one thread acts as all threads, the call does not wait for the receive under way. What
/// the receive returns is delivered, and the rest stays in the stream.
#[test]
fn into_stream_as_another_thread_leaves_no_byte_twice() {
    let (sender, done) = channel();
    // A thread of its own, so that a wait without end fails the test.
    thread::spawn(move || {
        take_out_as_another_thread();
        sender.send(()).unwrap();
    });
    done.recv_timeout(DEADLINE).unwrap();
}

fn take_out_as_another_thread() {
    let network = Network::new();
    let (recorder, sockman, mut by_hand) = sockman_on(&network);
    let (id, peer) = connection(&network, &sockman);
    by_hand.run_until_idle().unwrap();
    peer.send(b"received").unwrap();
    let slot = Arc::new(Mutex::new(None));
    network.set_interleave(Some(Arc::new({
        let (network, sockman, slot) = (network.clone(), sockman.clone(), Arc::clone(&slot));
        move |point| {
            let is_first = point == Point::Call(Call::Recv) && slot.lock().unwrap().is_none();
            if is_first {
                let stream = network.as_another_thread(|| sockman.into_stream(id).unwrap());
                *slot.lock().unwrap() = Some(stream);
            }
            is_first
        }
    })));
    by_hand.run_until_idle().unwrap();
    network.set_interleave(None);
    peer.send(b"left").unwrap();
    by_hand.run_until_idle().unwrap();
    assert_eq!(recorder.wait_for_bytes(id, 8), b"received");
    let stream = slot.lock().unwrap().take().unwrap();
    assert_eq!(network.taken_out(stream).unwrap().receive().0, b"left");
    assert_eq!(recorder.closed(), [id]);
}
