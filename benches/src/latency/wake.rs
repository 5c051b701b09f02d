//! Measures a wake by another thread that queues a byte: the time until the I/O thread comes to
//! send the byte, and the time until the client receives the byte.

use std::{
    error::Error,
    io::{self, Read},
    ops::Range,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};

use crate::cores::{self, Cores};

use super::{
    Plan,
    load::{self, Load, Pauses, STUCK},
    rounds::{self, Contestant, Slice},
    server::{Options, POLL_TIMEOUT, Peer},
};
use crate::report::{BARE_WAKER, Report};

/// The pause between two wakes, in which the loop goes to sleep.
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

pub fn run(
    plan: &Plan,
    cores: Cores,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let time = plan.wake;
    for (what, is_busy) in [("idle loop", false), ("busy loop", true)] {
        let scenarios = [format!("wake/{what}"), format!("queued → on the wire/{what}")];
        if !scenarios.iter().any(|scenario| only(scenario)) {
            continue;
        }
        let [wake, wire] = &scenarios;
        let mut contestants = Vec::new();
        for peer in Peer::ALL {
            contestants.push(Contestant {
                peer: peer.name(),
                what: wake.clone(),
                slice: Box::new(move || {
                    let (to_loop, to_peer) =
                        cores::on_a_thread(|| slice(peer, cores, is_busy, time))?;
                    Ok(vec![Slice::new(wake, to_loop), Slice::new(wire, to_peer)])
                }),
            });
        }
        if !is_busy {
            contestants.push(Contestant {
                peer: BARE_WAKER,
                what: wake.clone(),
                slice: Box::new(move || {
                    Ok(vec![Slice::new(wake, cores::on_a_thread(|| wake_bare(cores, time))?)])
                }),
            });
        }
        rounds::run(plan.rounds, contestants, only, report)?;
    }
    Ok(())
}

/// Returns the times until the loop came to send, and until the client had the byte.
fn slice(
    peer: Peer,
    cores: Cores,
    is_busy: bool,
    time: Duration,
) -> io::Result<(Vec<Duration>, Vec<Duration>)> {
    cores::pin(cores.server)?;
    let mut server = peer.server(Options::ECHO)?;
    server.start()?;
    cores::pin(cores.load)?;
    let mut client = load::connect(server.address())?;
    let mut byte = [1];
    load::exchange(&client, &mut byte)?;
    let load = is_busy.then(|| Load::start(server.address(), cores.load)).transpose()?;

    let (mut to_loop, mut to_peer) = (Vec::new(), Vec::new());
    let mut pauses = Pauses::new(pauses(peer, is_busy));
    let begin = Instant::now();
    while begin.elapsed() < time {
        pauses.sleep();
        let queued = Instant::now();
        server.queue(&byte)?;
        client.read_exact(&mut byte)?;
        to_peer.push(queued.elapsed());
        let came = server.came_to_send().checked_duration_since(queued);
        to_loop
            .push(came.ok_or_else(|| io::Error::other("the byte was sent before it was queued"))?);
    }
    load.map_or(Ok(()), Load::end)?;
    server.stop()?;
    Ok((to_loop, to_peer))
}

/// Returns the pauses between wakes. The poll loop starts a new wait after each byte, so shorter
/// pauses would always hit the start of that wait and make the loop look worse than it is. Under
/// load the loop does not wait.
fn pauses(peer: Peer, is_busy: bool) -> Range<Duration> {
    if peer == Peer::PollLoop && !is_busy {
        SHORTEST_PAUSE..SHORTEST_PAUSE + POLL_TIMEOUT
    } else {
        SHORTEST_PAUSE..LONGEST_PAUSE
    }
}

/// Measures the machine's own cost: a thread sleeps in a poller that has only a waker.
fn wake_bare(cores: Cores, time: Duration) -> io::Result<Vec<Duration>> {
    let mut poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), Token(0))?;
    let (awake, woken) = mpsc::channel();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| -> io::Result<()> {
            cores::pin(cores.server)?;
            let mut events = Events::with_capacity(1);
            while !ends.load(Ordering::SeqCst) {
                poll.poll(&mut events, None)?;
                awake.send(Instant::now()).map_err(io::Error::other)?;
            }
            Ok(())
        });
        cores::pin(cores.load)?;
        let mut latencies = Vec::new();
        let mut pauses = Pauses::new(SHORTEST_PAUSE..LONGEST_PAUSE);
        let begin = Instant::now();
        while begin.elapsed() < time {
            pauses.sleep();
            let wakes = Instant::now();
            waker.wake()?;
            let woke = woken.recv_timeout(STUCK).map_err(io::Error::other)?;
            latencies.push(woke.duration_since(wakes));
        }
        ends.store(true, Ordering::SeqCst);
        waker.wake()?;
        sleeper.join().unwrap_or_else(|_| Err(io::Error::other("the sleeper panicked")))?;
        Ok(latencies)
    })
}
