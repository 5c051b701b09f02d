//! The closures that a remote sends to the value of its connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use sockman::{
    helpers::{PushError, SendQueueLimits},
    options::PanicPolicy,
    stateful::Link,
    testing::Network,
};
use sockman_test_support::without_sweep;

use super::{Rig, Value};

/// The closures of a remote run in order, on the socket thread, each once, with the value and the
/// link. The hooks are asked after them.
#[test]
fn closures_run_on_the_value_in_order_and_once() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let peer = rig.peer();
    thread.run_until_idle().unwrap();
    let remote = rig.script.remote();
    for byte in *b"one two" {
        remote.run(move |_, value| value.got.push(byte)).unwrap();
    }
    remote
        .run(|link, value| {
            link.push(&value.got).unwrap();
            assert_eq!(link.id(), link.remote().id());
        })
        .unwrap();
    assert_eq!(peer.receive().0, b"");
    thread.run_until_idle().unwrap();
    assert_eq!(peer.receive().0, b"one two");
    remote.push(b" three").unwrap();
    assert_eq!(peer.receive().0, b" three");

    // While no thread runs, closures wait. Those of a connection that is closed then are dropped.
    thread.stop();
    for _ in 0..2 {
        let value = rig.script.value("held");
        remote.run(move |_, _| drop(value)).unwrap();
    }
    assert_eq!(rig.script.count.alive(), 3);
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    remote.run(move |_, _| assert_eq!(count.fetch_add(1, SeqCst), 9)).unwrap();
    assert!(remote.close());
    assert_eq!(rig.script.count.alive(), 3, "no destructor runs under a lock of the library");
    assert_eq!(remote.run(|_, _| {}).unwrap_err().id(), remote.id());
    let mut thread = rig.thread();
    thread.run_until_idle().unwrap();
    assert_eq!(Arc::strong_count(&ran), 1, "the closure is dropped");
    assert_eq!((ran.load(SeqCst), rig.script.count.alive()), (0, 0));
    assert!(matches!(remote.push(b"x"), Err(PushError::Send(_))));
    assert!(!remote.close() && !remote.finish(Duration::ZERO) && !remote.abort());
}

/// G8: closures that take long do not hold a pass up. The rest follows without a wait, and an
/// interrupt loses none.
#[test]
fn a_pass_runs_closures_for_about_a_millisecond() {
    let rig = Rig::new();
    let mut thread = rig.thread();
    let _peer = rig.peer();
    thread.run_until_idle().unwrap();
    let (remote, passes) = (rig.script.remote(), rig.sockman.stats().passes);
    for _ in 0..10 {
        let network = rig.network.clone();
        let slow = move |_: Link<'_, Value>, value: &mut Value| {
            network.advance(Duration::from_millis(2));
            value.got.push(b'x');
        };
        remote.run(slow).unwrap();
    }
    assert!(thread.pass_within(Duration::ZERO).unwrap());
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO), "the rest does not wait");
    rig.sockman.interrupt();
    assert!(!thread.pass().unwrap());
    thread.stop();
    let mut thread = rig.thread();
    thread.run_until_idle().unwrap();
    // A pass takes marks, and runs closures, before and after its poll.
    assert!(rig.sockman.stats().passes - passes >= 5);
    remote.close();
    thread.run_until_idle().unwrap();
    assert_eq!(rig.script.take(), ["closed in xxxxxxxxxx"]);
}

/// G8: closures that are dropped count too, because their destructors are the embedder's code.
#[test]
fn destructors_of_closures_that_take_long_do_not_hold_a_pass_up() {
    struct Slow(Network, Arc<AtomicUsize>);
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.advance(Duration::from_millis(2));
            self.1.fetch_add(1, SeqCst);
        }
    }
    let rig = Rig::new();
    let mut thread = rig.thread();
    let _peer = rig.peer();
    thread.run_until_idle().unwrap();
    thread.stop();
    let (remote, dropped) = (rig.script.remote(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..10 {
        let slow = Slow(rig.network.clone(), Arc::clone(&dropped));
        remote.run(move |_, _| drop(slow)).unwrap();
    }
    assert!(remote.close());
    let mut thread = rig.thread();
    assert!(thread.pass_within(Duration::ZERO).unwrap());
    assert_eq!(rig.network.last_timeout(), Some(Duration::ZERO), "the rest does not wait");
    assert!(dropped.load(SeqCst) < 5);
    thread.run_until_idle().unwrap();
    assert_eq!(dropped.load(SeqCst), 10);
}

/// G12: a closure that panics is handled as a callback: the connection is closed, and its value
/// comes back.
#[test]
fn a_closure_that_panics_closes_its_connection_alone() {
    let policy = without_sweep().panic_policy(PanicPolicy::CloseConnection);
    let rig = Rig::with(policy, SendQueueLimits::default(), None);
    let mut thread = rig.thread();
    let _peer = rig.peer();
    let other = rig.peer();
    thread.run_until_idle().unwrap();
    let first = rig.script.remotes.lock().unwrap()[0].clone();
    first
        .run(|_, value| {
            value.got.push(b'x');
            panic!("as the test wants");
        })
        .unwrap();
    first.run(|_, value| value.got.push(b'y')).unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(rig.script.take(), ["panicked", "closed in x"]);
    other.send(b"echo").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(other.receive().0, b"echo");
}
