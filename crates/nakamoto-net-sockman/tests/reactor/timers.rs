//! Timers.

use std::time::{Duration, Instant};

use nakamoto_net::{Io, LocalDuration};

use crate::script::{Call, Running};

fn timer(milliseconds: u128) -> crate::script::Request {
    Io::SetTimer(LocalDuration::from_millis(milliseconds))
}

/// Timers: no timer ends early.
#[test]
fn a_timer_does_not_end_early() {
    let running = Running::start();
    for delay in [1, 100, 20, 65] {
        let start = Instant::now();
        running.ask([timer(delay)]);
        running.wait_for_call(&Call::TimerExpired);
        assert!(start.elapsed() >= Duration::from_millis(delay as u64), "{delay} ms");
    }
}

/// Timers: each timer ends, in whatever order the service has set them.
#[test]
fn the_last_timer_ends_also_if_it_was_set_first() {
    let running = Running::start();
    let start = Instant::now();
    running.ask([100, 20, 60, 1].map(timer));
    // On a busy machine, several timers that have ended are one call.
    let mut calls = 0;
    while start.elapsed() < Duration::from_millis(100) {
        running.wait_for_call(&Call::TimerExpired);
        calls += 1;
    }
    assert!((1..=4).contains(&calls), "{calls} calls");
}

/// Timers: the service may set a timer in a timer, and a timer of no time does not spin.
#[test]
fn a_timer_sets_the_next_one() {
    let running = Running::reacting(|call| match call {
        Call::TimerExpired => vec![timer(0)],
        _ => Vec::new(),
    });
    running.ask([timer(0)]);
    for _ in 0..50 {
        running.wait_for_call(&Call::TimerExpired);
    }
    // The reactor serves other requests in between.
    running.ask([Io::Event("still here".to_owned())]);
    assert_eq!(running.events.recv().unwrap(), "still here");
}

/// G10: timers of the same time are one call.
#[test]
fn many_timers_of_one_time_are_one_call() {
    let running = Running::start();
    running.ask((0..1000).map(|_| timer(100)).collect::<Vec<_>>());
    running.ask([timer(300)]);
    let calls = running.calls.iter().filter(|call| *call == Call::TimerExpired).take(2).count();
    assert_eq!(calls, 2);
    let more = running.settle().into_iter().filter(|call| *call == Call::TimerExpired).count();
    // The thousand timers were set within a few steps of a millisecond.
    assert!(more < 100, "{more} more calls");
}
