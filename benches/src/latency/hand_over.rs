//! The least cost of a worker: a message to another thread and one back, without sockets.

use std::{
    error::Error,
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::cores::{self, Cores};

use super::{
    Plan,
    rounds::{self, Contestant, Slice},
};
use crate::report::Report;

const PEER: &str = "std mpsc";

pub fn run(
    plan: &Plan,
    cores: Cores,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let what = "keep-alive/two hand-overs between threads, no sockets";
    let mut contestants = Vec::new();
    for (place, core) in [("one core", cores.server), ("two cores", cores.load)] {
        let scenario = format!("{what}, {place}");
        if !only(&scenario) {
            continue;
        }
        let time = plan.hand_over;
        contestants.push(Contestant {
            peer: PEER,
            what: scenario.clone(),
            slice: Box::new(move || {
                let latencies = cores::on_a_thread(|| slice(cores.server, core, time))?;
                Ok(vec![Slice::new(&scenario, latencies)])
            }),
        });
    }
    rounds::run(plan.rounds, contestants, only, report)
}

fn slice(first: usize, second: usize, time: Duration) -> io::Result<Vec<Duration>> {
    cores::pin(first)?;
    let (ask, asked) = mpsc::channel::<()>();
    let (answer, answered) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let worker = scope.spawn(move || -> io::Result<()> {
            cores::pin(second)?;
            for () in asked {
                answer.send(()).map_err(io::Error::other)?;
            }
            Ok(())
        });
        let mut latencies = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < time {
            let asked_at = Instant::now();
            // The send and the receive fail only if the worker has ended. The worker's error is
            // returned below.
            if ask.send(()).is_err() || answered.recv().is_err() {
                break;
            }
            latencies.push(asked_at.elapsed());
        }
        drop(ask);
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the worker panicked")))?;
        Ok(latencies)
    })
}
