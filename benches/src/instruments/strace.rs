//! Counts the system calls for one echoed message.

use std::{collections::BTreeMap, io, process::Command};

use super::{
    CONNECTIONS, Counted, LONGER, driver::Driver, scratch::Scratch, server_process::Server,
};
use crate::report::Metric;

pub const SCENARIO: &str = "instruments/system calls, 64 × 64 B";
/// The prefix of the scenarios for single system calls.
pub const ONE_CALL: &str = "instruments/system calls, 64 × 64 B: ";
/// Calls that are rarer for one message are left out: they belong to an allocation or a sweep.
const LEAST: f64 = 0.002;

/// The number of calls by name.
type Calls = BTreeMap<String, u64>;

pub fn run(server: &Server<'_>, exchanges: usize, repeats: usize) -> io::Result<Vec<Counted>> {
    let messages = (CONNECTIONS * exchanges * (LONGER - 1)) as f64;
    let mut sums = Vec::new();
    let mut by_call: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for repeat in 0..repeats {
        let shorter = count(server, exchanges)?;
        let longer = count(server, exchanges * LONGER)?;
        let mut sum = 0.0;
        for (call, &count) in &longer {
            let before = shorter.get(call).copied().unwrap_or(0);
            let for_one = (count as f64 - before as f64) / messages;
            sum += for_one;
            by_call.entry(call.clone()).or_insert_with(|| vec![0.0; repeats])[repeat] = for_one;
        }
        sums.push(sum);
    }
    let metric = Metric::SystemCalls;
    let mut counted = vec![Counted { scenario: SCENARIO.to_owned(), metric, samples: sums }];
    for (call, samples) in by_call {
        if samples.iter().any(|&sample| sample >= LEAST) {
            counted.push(Counted { scenario: format!("{ONE_CALL}{call}"), metric, samples });
        }
    }
    Ok(counted)
}

fn count(server: &Server<'_>, exchanges: usize) -> io::Result<Calls> {
    let scratch = Scratch::new()?;
    let summary = scratch.path().join("strace");
    // -f follows all threads, and the C program that replaces the suite's process.
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(&summary).arg("--");
    server
        .run_under(&mut strace, |to, _| Driver::connect(to, CONNECTIONS)?.exchanges(exchanges))?;
    let text = std::fs::read_to_string(&summary)?;
    parse(&text).ok_or_else(|| io::Error::other("cannot parse the summary that strace wrote"))
}

/// Parses the table of `strace -c`: time, seconds, µs for each call, calls, errors if there were
/// any, name. The table stands between lines of dashes, with a total below.
fn parse(summary: &str) -> Option<Calls> {
    let mut lines = summary.lines().skip_while(|line| !line.starts_with("------")).skip(1);
    let mut calls = Calls::new();
    for line in lines.by_ref().take_while(|line| !line.starts_with("------")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        calls.insert((*words.last()?).to_owned(), words.get(3)?.parse().ok()?);
    }
    (!calls.is_empty()).then_some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_parsed_with_and_without_errors() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           3       200        10 recvfrom
 40.00    0.000400           2       190           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           2       390        10 total
";
        let calls = [("recvfrom".to_owned(), 200), ("sendto".to_owned(), 190)];
        assert_eq!(parse(summary), Some(Calls::from(calls)));
        assert_eq!(parse("strace: no such thing"), None);
    }
}
