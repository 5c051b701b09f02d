//! Counts instead of times: the system calls (strace) and the user-space instructions (callgrind)
//! of a message. The counts hardly depend on the other work of the machine.
//!
//! Each server runs under the instrument in a separate process, twice: for a number of messages and
//! for three times as many. The difference is the cost of the messages. Both runs include the
//! start, the accepts and the end, so these cancel out in the difference.

mod callgrind;
mod driver;
pub mod scratch;
mod server_process;
mod strace;

use std::{error::Error, io, path::Path, time::Duration};

use crate::{
    effort::Effort,
    latency,
    report::{FIRST_PROGRAM, Figure, LIMIT, Metric, Report, SOCKMAN},
};

use driver::CONNECTIONS;
use server_process::Server;

/// The names of the peers: (on the command line, in the report).
const PEERS: [(&str, &str); 8] = [
    ("sockman", SOCKMAN),
    // This variant has no sweeps, which would add counts during a run.
    ("sockman-no-sweep", "sockman-no-sweep"),
    // The layer `stateful` with its queue.
    ("sockman-first", FIRST_PROGRAM),
    ("epoll-c", LIMIT),
    ("mio", "mio"),
    ("tokio", "tokio"),
    ("message-io", "message-io"),
    ("poll-c", "poll C"),
];
/// The longer of the two runs has this many times the messages of the shorter one.
const LONGER: usize = 3;

struct Plan {
    peers: &'static [(&'static str, &'static str)],
    /// How often each connection exchanges a message in the shorter run.
    strace_exchanges: usize,
    /// `None` in a smoke run, because callgrind takes a second to start.
    callgrind: Option<callgrind::Plan>,
    /// The number of repetitions of each count.
    repeats: usize,
}

impl Plan {
    fn of(effort: Effort) -> Plan {
        let callgrind = |exchanges, idle_millis| {
            let idle = Duration::from_millis(idle_millis);
            Some(callgrind::Plan { exchanges, idle })
        };
        let (peers, callgrind, strace_exchanges, repeats) = match effort {
            Effort::Smoke => (&PEERS[..1], None, 4, 1),
            Effort::Quick => (&PEERS[..], callgrind(40, 600), 16, 1),
            Effort::Full => (&PEERS[..], callgrind(100, 2000), 50, 2),
        };
        Plan { peers, strace_exchanges, callgrind, repeats }
    }
}

/// Counts in the scenarios that pass the filter `only`. `suite` is this executable. With the
/// arguments `serve PEER echo --core N`, the executable is a server that prints its address and
/// ends at the end of its input.
pub fn run(
    effort: Effort,
    only: &dyn Fn(&str) -> bool,
    suite: &Path,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let plan = Plan::of(effort);
    latency::raise_descriptor_limit()?;
    let core = crate::cores::Cores::choose()?.server;

    if only(strace::SCENARIO) && is_installed("strace", report) {
        for &(command, peer) in plan.peers {
            let server = Server { suite, peer: command, core };
            let counted = strace::run(&server, plan.strace_exchanges, plan.repeats);
            keep(strace::SCENARIO, peer, counted, report);
        }
    }
    let scenarios = [callgrind::SCENARIO, callgrind::IDLE_SCENARIO];
    if !scenarios.iter().any(|scenario| only(scenario)) {
        return Ok(());
    }
    let Some(callgrind_plan) = plan.callgrind else {
        report.not_measured.push("Instructions are not counted in a smoke run.".to_owned());
        return Ok(());
    };
    if !is_installed("valgrind", report) {
        return Ok(());
    }
    if only(callgrind::SCENARIO) {
        for &(command, peer) in plan.peers {
            let server = Server { suite, peer: command, core };
            let counted = callgrind::messages(&server, &callgrind_plan, plan.repeats);
            keep(callgrind::SCENARIO, peer, counted, report);
        }
    }
    if only(callgrind::IDLE_SCENARIO) {
        let server = Server { suite, peer: "sockman", core };
        let counted = callgrind::idle_sweep(&server, &callgrind_plan, plan.repeats);
        keep(callgrind::IDLE_SCENARIO, SOCKMAN, counted, report);
    }
    Ok(())
}

/// The counts of one scenario.
struct Counted {
    scenario: String,
    metric: Metric,
    samples: Vec<f64>,
}

/// Adds the counts to the report. If a count failed, adds the reason to the report.
fn keep(scenario: &str, peer: &str, counted: io::Result<Vec<Counted>>, report: &mut Report) {
    let counted = match counted {
        Ok(counted) => counted,
        Err(error) => {
            eprintln!("  {scenario}, {peer}: failed: {error}");
            report.not_measured.push(format!("{scenario}, {peer}: {error}"));
            report.failures += 1;
            return;
        }
    };
    for Counted { scenario, metric, samples } in counted {
        // Only sockman has a row for each system call. The sum is enough for the peers.
        if peer != SOCKMAN && scenario.starts_with(strace::ONE_CALL) {
            continue;
        }
        let samples_text: Vec<String> = samples.iter().map(|s| format!("{s:.3}")).collect();
        eprintln!("  {scenario}, {peer}: {}", samples_text.join(", "));
        report.figures.push(Figure { scenario, peer: peer.to_owned(), metric, samples });
    }
}

fn is_installed(tool: &str, report: &mut Report) -> bool {
    let version = std::process::Command::new(tool).arg("--version").output();
    let is_installed = version.is_ok_and(|output| output.status.success());
    if !is_installed {
        report
            .not_measured
            .push(format!("Counts of {tool}: {tool} is not installed or does not run here."));
    }
    is_installed
}
