//! Wakes, commands and the shutdown.

use std::{io::ErrorKind, net::SocketAddr, thread, time::Duration};

use crossbeam_channel as chan;
use nakamoto_net::{Io, Reactor as _, Waker as _};
use nakamoto_net_sockman::Reactor;
use sockman::Interrupt;

use crate::script::{Call, Events, Running, Script};

/// G9: commands of many threads all arrive, also if the reactor sleeps in between.
#[test]
fn commands_of_many_threads_arrive() {
    const THREADS: usize = 8;
    const COMMANDS: usize = 200;
    let running = Running::start();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (commands, waker) = (running.commands.clone(), running.waker.clone());
            thread::spawn(move || {
                for _ in 0..COMMANDS {
                    commands.send(Vec::new()).unwrap();
                    waker.wake().unwrap();
                }
            })
        })
        .collect();
    for _ in 0..THREADS * COMMANDS {
        running.wait_for_call(&Call::Command);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

/// G9: one wake reaches a reactor that sleeps, again and again.
#[test]
fn each_wake_reaches_a_reactor_that_sleeps() {
    let running = Running::start();
    for number in 0..1000 {
        running.ask([Io::Event(number.to_string())]);
        assert_eq!(running.events.recv().unwrap(), number.to_string());
    }
}

/// G7: a reactor with a connection and nothing to do makes no pass.
#[test]
fn an_idle_reactor_rests() {
    let running = Running::start();
    let _client = running.client();
    let is_quiet = (0..5).any(|_| {
        let passes = running.sockman.stats().passes;
        assert!(Interrupt::new().sleep_for(Duration::from_secs(1)));
        running.sockman.stats().passes == passes
    });
    assert!(is_quiet, "the loop runs although nothing can be done");
}

/// Waking: commands and a wake before the run count, and a command that was sent before the shutdown
/// is taken.
#[test]
fn what_was_sent_before_the_run_is_taken() {
    let (end, shutdown) = chan::bounded(1);
    let (listening, _addresses) = chan::bounded(1);
    let (commands, to_do) = chan::unbounded();
    let (called, calls) = chan::unbounded();
    let mut reactor = Reactor::<SocketAddr>::new(shutdown, listening).unwrap();
    let waker = reactor.waker();
    let (published, events) = chan::unbounded();
    commands.send(vec![Io::Event("one".to_owned())]).unwrap();
    commands.send(vec![Io::Event("two".to_owned())]).unwrap();
    end.send(()).unwrap();
    waker.wake().unwrap();
    let mut reaction = |_: &Call| Vec::new();
    let service = Script::new(called, &mut reaction);
    reactor.run(&[], service, Events(published), to_do).unwrap();
    assert_eq!(events.try_iter().collect::<Vec<_>>(), ["one", "two"]);
    assert!(calls.try_iter().eq([Call::Initialized, Call::Command, Call::Command]));

    drop(reactor);
    assert_eq!(waker.wake().unwrap_err().kind(), ErrorKind::NotConnected);
}
