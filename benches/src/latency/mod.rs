//! Latencies inside a program: a wake, a reply by a worker thread, the end of the threads, the
//! cancel of a connect.
//!
//! This module owns the plan: the duration of each part. Everything runs in this process: the I/O
//! thread on one core, and the thread that wakes it or sends requests on the other.

mod attempts;
mod black_hole;
mod connect;
mod hand_over;
mod interrupt;
mod keep_alive;
mod load;
mod rounds;
mod server;
mod stalled_proxy;
mod wake;

use std::{error::Error, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{effort::Effort, report::Report};

use crate::cores::Cores;

/// The duration of each part.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    /// The time of one contestant in one round, for each scenario.
    wake: Duration,
    keep_alive: Duration,
    interrupt: Duration,
    connect: Duration,
    attempts: Duration,
    hand_over: Duration,
    /// The number of idle connections when the threads are interrupted.
    idle_connections: usize,
    /// Whether to wait for connects that cannot be interrupted. Each of them takes seconds.
    waits_for_time_outs: bool,
}

impl Plan {
    fn of(effort: Effort) -> Plan {
        let millis = Duration::from_millis;
        match effort {
            Effort::Smoke => Plan {
                rounds: 1,
                wake: millis(60),
                keep_alive: millis(20),
                interrupt: millis(60),
                connect: millis(20),
                attempts: millis(60),
                hand_over: millis(10),
                idle_connections: 100,
                waits_for_time_outs: false,
            },
            Effort::Quick => Plan {
                rounds: 3,
                wake: millis(250),
                keep_alive: millis(80),
                interrupt: millis(250),
                connect: millis(120),
                attempts: millis(400),
                hand_over: millis(60),
                idle_connections: 1000,
                waits_for_time_outs: false,
            },
            Effort::Full => Plan {
                rounds: 5,
                wake: millis(2000),
                keep_alive: millis(800),
                interrupt: millis(1500),
                connect: millis(500),
                attempts: millis(1500),
                hand_over: millis(300),
                idle_connections: 1000,
                waits_for_time_outs: true,
            },
        }
    }
}

/// Measures the scenarios that pass the filter `only`.
pub fn run(
    effort: Effort,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let plan = Plan::of(effort);
    let cores = Cores::choose()?;
    if cores.server == cores.load {
        report.not_measured.push(
            "latencies on two cores: the machine has one core, which both threads share."
                .to_owned(),
        );
    }
    raise_descriptor_limit()?;
    wake::run(&plan, cores, only, report)?;
    hand_over::run(&plan, cores, only, report)?;
    keep_alive::run(&plan, cores, only, report)?;
    interrupt::run(&plan, cores, only, report)?;
    connect::run(&plan, cores, only, report)?;
    attempts::run(&plan, cores, only, report)?;
    stalled_proxy::run(&plan, cores, only, report)
}

/// Raises the limit of descriptors, and returns it. Both ends of 1,000 connections exceed the default of 1,024.
pub fn raise_descriptor_limit() -> nix::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}
