//! Counts user-space instructions: for one echoed message, and for one idle connection in one
//! sweep.

use std::{
    collections::HashMap, fs, io, net::SocketAddr, path::PathBuf, process::Command, thread,
    time::Duration,
};

use super::{
    CONNECTIONS, Counted, LONGER, driver::Driver, scratch::Scratch, server_process::Server,
};
use crate::report::Metric;

pub const SCENARIO: &str = "instruments/instructions, 64 × 64 B";
pub const IDLE_SCENARIO: &str =
    "instruments/instructions, one idle connection of 2000 in one sweep";
const IDLE_CONNECTIONS: usize = 2000;
/// The time until the last accepted connection has had its turns, even under callgrind.
const SETTLES: Duration = Duration::from_millis(200);
/// The function that a pass of the loop calls once. Without traffic, every pass is a sweep.
const POLL: &str = "epoll_wait";
/// The name of callgrind's output file, without the process id.
const FILE: &str = "callgrind";
/// With fewer passes than this, the server does not sweep.
const LEAST_SWEEPS: u64 = 3;

pub struct Plan {
    /// Messages of each connection in the shorter run.
    pub exchanges: usize,
    /// How long the idle connections are observed.
    pub idle: Duration,
}

pub fn messages(server: &Server<'_>, plan: &Plan, repeats: usize) -> io::Result<Vec<Counted>> {
    let messages = (CONNECTIONS * plan.exchanges * (LONGER - 1)) as f64;
    let mut samples = Vec::new();
    for _ in 0..repeats {
        let run =
            |exchanges| count(server, |to| Driver::connect(to, CONNECTIONS)?.exchanges(exchanges));
        let shorter = run(plan.exchanges)?;
        let longer = run(plan.exchanges * LONGER)?;
        samples.push(difference(longer, shorter)? as f64 / messages);
    }
    Ok(vec![counted(SCENARIO, samples)])
}

/// Counts in one run: callgrind's counters are set to zero when all connections are open, and are
/// written out later.
pub fn idle_sweep(server: &Server<'_>, plan: &Plan, repeats: usize) -> io::Result<Vec<Counted>> {
    let mut samples = Vec::new();
    for _ in 0..repeats {
        let scratch = Scratch::new()?;
        let mut dump = PathBuf::new();
        server.run_under(&mut callgrind(&scratch), |to, valgrind| {
            let idle = Driver::connect(to, IDLE_CONNECTIONS)?;
            // The server accepts the idle connections. No event says that it rests again.
            thread::sleep(SETTLES);
            tell(valgrind, "zero")?;
            // This is the measured time.
            thread::sleep(plan.idle);
            tell(valgrind, "dump")?;
            dump = scratch.path().join(format!("{FILE}.{valgrind}.1"));
            Ok(idle)
        })?;
        let profile = fs::read_to_string(dump)?;
        let instructions = instructions(&profile).unwrap_or(0);
        let sweeps = calls_of(POLL, &profile);
        if sweeps < LEAST_SWEEPS || instructions == 0 {
            return Err(io::Error::other(format!(
                "the server does not sweep: only {sweeps} passes were counted"
            )));
        }
        samples.push(instructions as f64 / (sweeps * IDLE_CONNECTIONS as u64) as f64);
    }
    Ok(vec![counted(IDLE_SCENARIO, samples)])
}

/// Sends a command to the instrument with vgdb, a part of valgrind.
fn tell(valgrind: u32, command: &str) -> io::Result<()> {
    let told = Command::new("vgdb").arg(format!("--pid={valgrind}")).arg(command).output()?;
    match told.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("vgdb {command}: {}", told.status))),
    }
}

fn counted(scenario: &str, samples: Vec<f64>) -> Counted {
    Counted { scenario: scenario.to_owned(), metric: Metric::Instructions, samples }
}

fn difference(longer: u64, shorter: u64) -> io::Result<u64> {
    let difference = longer.checked_sub(shorter);
    difference.ok_or_else(|| {
        io::Error::other("the longer run took fewer instructions than the shorter one")
    })
}

fn count(
    server: &Server<'_>,
    drive: impl FnOnce(SocketAddr) -> io::Result<Driver>,
) -> io::Result<u64> {
    let scratch = Scratch::new()?;
    server.run_under(&mut callgrind(&scratch), |to, _| drive(to))?;
    let mut sum = 0;
    for file in fs::read_dir(scratch.path())? {
        sum += instructions(&fs::read_to_string(file?.path())?).unwrap_or(0);
    }
    match sum {
        0 => Err(io::Error::other("callgrind wrote no total")),
        _ => Ok(sum),
    }
}

fn callgrind(scratch: &Scratch) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--trace-children=yes", "--quiet"]);
    // One file for each process, because a C program may replace the suite's process.
    valgrind.arg(format!("--callgrind-out-file={}/{FILE}.%p", scratch.path().display()));
    valgrind
}

fn instructions(profile: &str) -> Option<u64> {
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "))?;
    totals.split_whitespace().next()?.parse().ok()
}

/// Returns how often a function was called. The profile has the name of a function only where its
/// number first occurs.
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
    fn calls_of_all_callers_are_counted() {
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
