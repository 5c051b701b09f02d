//! The other side runs on tokio, with LDK's own crate.

use std::{net::TcpListener, sync::Arc, thread};

use lightning_net_tokio::SocketDescriptor;
use sockman_test_support::DEADLINE;
use tokio::{runtime::Builder, sync::oneshot, task::JoinHandle};

use crate::ldk::{Driven, Node};

/// Runs `task` on a runtime of its own until the test ends.
fn on_tokio<T>(
    task: impl FnOnce(Arc<crate::ldk::Manager<SocketDescriptor>>) -> JoinHandle<()> + Send + 'static,
    node: &Node<SocketDescriptor>,
    test: impl FnOnce() -> T,
) -> T {
    let (stop, stopped) = oneshot::channel::<()>();
    let manager = Arc::clone(&node.manager);
    let runtime = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ended = task(manager);
            let _ = stopped.await;
            ended.abort();
        });
    });
    let result = test();
    drop(stop);
    runtime.join().unwrap();
    result
}

/// The node on tokio dials.
#[test]
fn a_node_on_tokio_connects_to_a_driver() {
    let (alice, bob) = (Driven::start(), Node::new());
    let (id, address) = (alice.node.id, alice.address);
    let dial = move |manager| {
        tokio::spawn(async move {
            let connected = lightning_net_tokio::connect_outbound(manager, id, address).await;
            connected.expect("the connect failed").await;
        })
    };
    on_tokio(dial, &bob, || meet(&alice, &bob));
}

/// The driver dials.
#[test]
fn a_driver_connects_to_a_node_on_tokio() {
    let (alice, bob) = (Driven::start(), Node::new());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connection = alice.driver.connect_outbound(bob.id, address).unwrap();
    let stream = listener.accept().unwrap().0;
    let serve = move |manager| tokio::spawn(lightning_net_tokio::setup_inbound(manager, stream));
    on_tokio(serve, &bob, || meet(&alice, &bob));
    assert!(connection.wait_closed(DEADLINE));
}

/// Both nodes exchange messages, and one of them ends the connection.
fn meet(alice: &Driven, bob: &Node<SocketDescriptor>) {
    alice.node.wait_for_peer(bob.id);
    bob.wait_for_peer(alice.node.id);
    for (count, bytes) in [(500, 10), (200, 60_000)] {
        alice.exchange(bob.id, count, bytes);
        bob.exchange(alice.node.id, count, bytes, || bob.manager.process_events());
    }
    alice.node.manager.disconnect_by_node_id(bob.id);
    bob.wait_for_end(alice.node.id);
    alice.wait_until_alone();
}
