//! A requester that does not read its answers.

use std::time::Duration;

use sockman::Interrupt;
use sockman_test_support::tools::run_passes;

use crate::{ldk::Driven, plain_peer::PlainPeer};

const REQUESTS: u32 = 20_000;
const BYTES: u32 = 60_000;

/// The most answers that may exist at once and are not received: 36 MB of 1.2 GB. The kernel has
/// most of them: up to 10 MB with Linux's defaults.
const MOST_UNDER_WAY: usize = 600;

/// G7, G10: while the requester stalls, memory is bounded and no pass runs. Afterwards each answer
/// comes, in order.
#[test]
fn a_requester_that_stalls_costs_bounded_memory_and_no_pass() {
    let alice = Driven::start();
    let mut peer = PlainPeer::connect(alice.address, alice.node.id);
    for number in 0..REQUESTS {
        peer.node.messages.request(alice.node.id, number, BYTES);
    }
    let sockman = alice.driver.sockman();
    let made = || alice.node.messages.state().made;
    let mut before = 0;
    loop {
        peer.turn(false);
        run_passes(sockman, 3);
        if before > 0 && made() == before {
            break;
        }
        before = made();
    }
    let stalled = made();
    assert!(stalled <= MOST_UNDER_WAY, "{stalled} answers exist");

    // The kernel may move some bytes at first. Then one second passes without a pass.
    let is_quiet = (0..5).any(|_| {
        let passes = sockman.stats().passes;
        assert!(Interrupt::new().sleep_for(Duration::from_secs(1)));
        sockman.stats().passes == passes
    });
    assert!(is_quiet, "the loop runs although nothing can be done");
    assert!(made() <= MOST_UNDER_WAY);

    let mut most = 0;
    loop {
        peer.turn(true);
        let received = peer.node.messages.state().replies.len();
        most = most.max(made() - received);
        if received == REQUESTS as usize {
            break;
        }
    }
    assert!(most <= MOST_UNDER_WAY, "{most} answers existed at once");
    let replies = std::mem::take(&mut peer.node.messages.state().replies);
    assert!(replies.into_iter().eq(0..REQUESTS));
}
