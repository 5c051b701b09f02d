//! Instructions of user space: for one echoed message, and for one idle connection in one sweep.

use std::{
    collections::HashMap, fs, io, net::SocketAddr, process::Command, thread, time::Duration,
};

use super::{
    CONNECTIONS, Counted, LONGER, driver::Driver, scratch::Scratch, server_process::Server,
};
use crate::report::Metric;

pub const SCENARIO: &str = "instruments/instructions, 64 × 64 B";
pub const IDLE_SCENARIO: &str =
    "instruments/instructions, one idle connection of 2000 in one sweep";
/// What a pass of the loop calls once.
const POLL: &str = "epoll_wait";
/// Fewer passes than this between the two runs are no sweeps.
const LEAST_SWEEPS: u64 = 3;

pub struct Plan {
    /// Of each connection in the shorter run.
    pub exchanges: usize,
    pub idle_connections: usize,
    /// Of the shorter run.
    pub idle_millis: u64,
}

/// What a run of a server took in all.
struct Totals {
    instructions: u64,
    polls: u64,
}

pub fn messages(server: &Server<'_>, plan: &Plan, repeats: usize) -> io::Result<Vec<Counted>> {
    let messages = (CONNECTIONS * plan.exchanges * (LONGER - 1)) as f64;
    let mut samples = Vec::new();
    for _ in 0..repeats {
        let run =
            |exchanges| count(server, |to| Driver::connect(to, CONNECTIONS)?.exchanges(exchanges));
        let shorter = run(plan.exchanges)?;
        let longer = run(plan.exchanges * LONGER)?;
        samples.push(difference(longer.instructions, shorter.instructions)? as f64 / messages);
    }
    Ok(vec![counted(SCENARIO, samples)])
}

pub fn idle_sweep(server: &Server<'_>, plan: &Plan, repeats: usize) -> io::Result<Vec<Counted>> {
    let mut samples = Vec::new();
    for _ in 0..repeats {
        let run = |millis| {
            count(server, |to| {
                let idle = Driver::connect(to, plan.idle_connections)?;
                thread::sleep(Duration::from_millis(millis));
                Ok(idle)
            })
        };
        let shorter = run(plan.idle_millis)?;
        let longer = run(plan.idle_millis * LONGER as u64)?;
        let sweeps = longer.polls.saturating_sub(shorter.polls);
        if sweeps < LEAST_SWEEPS {
            return Err(io::Error::other("it does not sweep"));
        }
        let instructions = difference(longer.instructions, shorter.instructions)?;
        samples.push(instructions as f64 / (sweeps * plan.idle_connections as u64) as f64);
    }
    Ok(vec![counted(IDLE_SCENARIO, samples)])
}

fn counted(scenario: &str, samples: Vec<f64>) -> Counted {
    Counted { scenario: scenario.to_owned(), metric: Metric::Instructions, samples }
}

fn difference(longer: u64, shorter: u64) -> io::Result<u64> {
    let difference = longer.checked_sub(shorter);
    difference.ok_or_else(|| io::Error::other("the longer run took fewer instructions"))
}

fn count(
    server: &Server<'_>,
    drive: impl FnOnce(SocketAddr) -> io::Result<Driver>,
) -> io::Result<Totals> {
    let scratch = Scratch::new()?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--trace-children=yes", "--quiet"]);
    // One file for each process: the suite may become a C program.
    valgrind.arg(format!("--callgrind-out-file={}/callgrind.%p", scratch.path().display()));
    server.run_under(&mut valgrind, drive)?;
    let mut totals = Totals { instructions: 0, polls: 0 };
    for file in fs::read_dir(scratch.path())? {
        let profile = fs::read_to_string(file?.path())?;
        totals.instructions += instructions(&profile).unwrap_or(0);
        totals.polls += calls_of(POLL, &profile);
    }
    match totals.instructions {
        0 => Err(io::Error::other("callgrind wrote no total")),
        _ => Ok(totals),
    }
}

fn instructions(profile: &str) -> Option<u64> {
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "))?;
    totals.split_whitespace().next()?.parse().ok()
}

/// How often a function was called. A name is written out where its number is first used.
fn calls_of(function: &str, profile: &str) -> u64 {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut callee, mut calls) = ("", 0);
    for line in profile.lines() {
        if let Some(count) = line.strip_prefix("calls=") {
            if names.get(callee).is_some_and(|name| *name == function) {
                let count = count.split_whitespace().next();
                calls += count.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            }
            continue;
        }
        let called = line.strip_prefix("cfn=");
        let Some(named) = called.or_else(|| line.strip_prefix("fn=")) else { continue };
        let (number, name) = named.split_once(' ').unwrap_or((named, ""));
        if !name.is_empty() {
            names.insert(number, name);
        }
        if called.is_some() {
            callee = number;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_over_all_callers() {
        let profile = "\
fn=(1) main
cfn=(2) epoll_wait
calls=3 0
1 30
fn=(4) other
cfn=(5) recv
calls=7 0
cfn=(2)
calls=2 0
totals: 1234
";
        assert_eq!(calls_of("epoll_wait", profile), 5);
        assert_eq!(instructions(profile), Some(1234));
    }
}
