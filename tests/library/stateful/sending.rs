//! What links and remotes send: each way of the queue, and what an error of `into_stream` leaves.

use std::sync::{Arc, mpsc};

use sockman::{
    error::IntoStreamError,
    helpers::{Piece, PushError, SendBudget, SendQueueLimits},
};
use sockman_test_support::without_sweep;

use super::Rig;

/// Pushes are sent at once, and enqueued bytes when the socket thread asks the hooks next, with the
/// sweep off. All keep their order.
#[test]
fn links_and_remotes_send_in_each_way_of_the_queue() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let peer = rig.peer();
    thread.run_until_idle().unwrap();
    let remote = rig.script.remote();
    let (shared, head): (Arc<[u8]>, _) = (vec![b's'; 300].into(), Piece::Bytes(b"head "));
    let expected = [&shared[..], b"head ", &shared].concat();

    remote.push_shared(&shared).unwrap();
    remote.push_pieces(&[head, Piece::Shared(&shared)]).unwrap();
    assert_eq!(peer.receive().0, expected);
    let enqueues: [&dyn Fn(); 3] = [
        &|| remote.enqueue(b"one ").unwrap(),
        &|| remote.enqueue_shared(&shared).unwrap(),
        &|| remote.enqueue_pieces(&[head, Piece::Shared(&shared)]).unwrap(),
    ];
    for (enqueue, sent) in enqueues.iter().zip([b"one ", &shared[..], &expected[300..]]) {
        enqueue();
        assert_eq!((peer.receive().0.len(), remote.queue().queued()), (0, sent.len()));
        thread.run_until_idle().unwrap();
        assert_eq!(peer.receive().0, sent);
    }

    let (sender, pushed) = mpsc::channel();
    let of_link = Arc::clone(&shared);
    remote
        .run(move |link, _| {
            let pieces = [head, Piece::Shared(&of_link)];
            link.push_shared(&of_link).unwrap();
            link.push_pieces(&pieces).unwrap();
            sender.send(link.queue().queued()).unwrap();
            link.enqueue(b"two ").unwrap();
            link.enqueue_shared(&of_link).unwrap();
            link.enqueue_pieces(&pieces).unwrap();
            sender.send(link.queue().queued()).unwrap();
            let drained = link.drain().unwrap();
            assert_eq!((drained.sent, drained.left), (4 + 605, 0));
            link.enqueue(b"three").unwrap();
        })
        .unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(pushed.try_iter().collect::<Vec<_>>(), [0, 4 + 605]);
    assert_eq!(peer.receive().0, [&expected[..], b"two ", &expected, b"three"].concat());

    remote.enqueue(b"four").unwrap();
    let drained = remote.drain().unwrap();
    assert_eq!((drained.sent, drained.left, peer.receive().0), (4, 0, b"four".to_vec()));
    assert!(remote.close() && remote.drain().is_err());
    for outcome in [
        remote.push_shared(&shared),
        remote.push_pieces(&[head]),
        remote.enqueue(b"late"),
        remote.enqueue_shared(&shared),
        remote.enqueue_pieces(&[head]),
    ] {
        assert!(matches!(outcome, Err(PushError::Send(_))));
    }
}

/// One message to many members is one allocation, and counts in the budget until it is sent. The
/// queue of a member that does not read is full at its limit.
#[test]
fn a_shared_message_lies_in_memory_once_for_all_members() {
    let limits = SendQueueLimits::new(100, 2000, 4000).unwrap();
    let budget = SendBudget::new(1_000_000);
    let rig = Rig::with(without_sweep(), limits, Some(budget.clone()));
    rig.network.set_window(100);
    let mut thread = rig.thread();
    let peers: Vec<_> = (0..10).map(|_| rig.peer()).collect();
    thread.run_until_idle().unwrap();
    let line: Arc<[u8]> = vec![7; 1000].into();
    let remotes = rig.script.remotes.lock().unwrap().clone();
    for remote in &remotes {
        remote.enqueue_shared(&line).unwrap();
    }
    assert_eq!((remotes.len(), Arc::strong_count(&line)), (10, 11));
    assert!(budget.used() >= 10_000);
    for remote in &remotes {
        assert!(
            (0..4).any(|_| matches!(
                remote.enqueue_shared(&line),
                Err(PushError::Full { limit: 4000 })
            ))
        );
        remote.close();
    }
    drop(peers);
    thread.run_until_idle().unwrap();
    assert_eq!((budget.used(), Arc::strong_count(&line)), (0, 1));
}

/// An error of `into_stream` changes nothing: what is queued is sent.
#[test]
fn what_is_queued_stays_if_the_stream_cannot_leave() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let peer = rig.peer();
    thread.run_until_idle().unwrap();
    let remote = rig.script.remote();
    let id = remote.id();
    rig.network.set_descriptor_limit(Some(0));
    remote
        .run(move |link, _| {
            link.enqueue(b"queued").unwrap();
            let error = link.into_stream().unwrap_err();
            assert!(matches!(error, IntoStreamError::Duplicate { id: of, .. } if of == id));
        })
        .unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(peer.receive().0, b"queued");
    assert!(!remote.is_closed());
}
