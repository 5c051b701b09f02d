//! The targets of the library, each checked against a report.
//!
//! A target has a bound and the values that the report has for it. All values must keep the bound.
//! The worst value is shown.

use std::fmt::Write;

use super::{
    TIE,
    grid::{best, ratio},
    hostile,
    metric::number,
    names::{group, is_sockman, numbers, what},
    wrapped,
};
use crate::report::{BARE_WAKER, FIRST_PROGRAM, Figure, LIMIT, Metric, Report, SOCKMAN};

/// CPU for a message, against the limit: with a bare handler, and with README's program.
const CPU_RATIOS: [(&str, f64); 2] = [(SOCKMAN, 1.02), (FIRST_PROGRAM, 1.03)];
/// Instructions in user space for a message, of the same programs.
const INSTRUCTIONS: [(&str, f64); 2] = [(SOCKMAN, 450.0), (FIRST_PROGRAM, 600.0)];
/// "Not above" another figure: the same 3 % as a tie.
const NOT_ABOVE: f64 = TIE;
/// CPU of an accepted connection, against the limit.
const ACCEPT_RATIO: f64 = 1.10;
/// CPU of a connect, against the limit.
const CONNECT_RATIO: f64 = 1.15;
/// CPU of a line that a member hears, against tokio.
const CHAT_RATIO: f64 = 0.5;
/// The attack in whose table the echo has to be faster than tokio's.
const UPLOADERS: &str = "bulk from 1,000";
/// A wake of an idle loop, against a poller that has only a waker.
const WAKE_RATIO: f64 = 1.05;
/// A rate from which on the library is as good as the other: 3 % in the other direction.
const RATE_RATIO: f64 = 0.97;
/// Idle connections, and the CPU that their sweep may take: ms per second.
const QUIET_CPU: [(u64, f64); 2] = [(1_000, 1.0), (10_000, 1.5)];
/// Per second: the sweep runs every 50 ms, 20 times, plus a few for the clock.
const QUIET_WAKE_UPS: f64 = 25.0;
/// Less CPU than this counts as none, in ms per second, because the kernel's accounting is not
/// finer.
const NO_CPU: f64 = 0.05;
/// Fewer wake-ups than this count as none, per second.
const NO_WAKE_UPS: f64 = 1.0;
/// The library's own memory for an idle connection.
const BYTES_PER_CONNECTION: f64 = 200.0;
/// A reply by a worker thread, against a reply from the callback.
const WORKER_RATIO: f64 = 1.2;
/// µs from the interrupt until the threads are joined.
const JOIN_P99: f64 = 5_000.0;
/// µs of the benign client's echo under each attack.
const HOSTILE_P99: f64 = 5_000.0;
/// An attack that every server can only serve in turn: 1,000 connections that are always ready.
const FLOOD: &str = "flood";
/// MB, with the programs that a user copies.
const HOSTILE_MEMORY: f64 = 64.0;
const COPIED: [&str; 2] = [FIRST_PROGRAM, "sockman, echo example"];
/// One recv, one send, and a poll that at least two messages share.
const SYSTEM_CALLS: f64 = 2.5;

pub struct Target {
    pub name: String,
    /// The bound, in words.
    pub demand: String,
    /// The worst value, and the number of values.
    pub reached: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Met,
    /// The scenarios that missed the target, and by how much.
    Missed(String),
    NotMeasured,
    /// A test of the library proves the target, and no benchmark measures it.
    ProvedByTest,
    /// No scenario of this suite measures the target.
    OfNoScenario,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

/// A value that the report has for a target.
struct Reading {
    whereof: String,
    value: f64,
}

pub fn targets(report: &Report) -> Vec<Target> {
    let mut list = Vec::new();
    for (program, most) in CPU_RATIOS {
        list.push(cpu_per_message(report, program, LIMIT, most));
        list.push(cpu_per_message(report, program, "tokio", NOT_ABOVE));
    }
    list.extend(INSTRUCTIONS.map(|(program, most)| instructions(report, program, most)));
    list.extend([
        of_no_scenario("Locked instructions for an echoed message", "≤ 4", "counted by hand"),
        of_no_scenario("Cache lines of the library for a message", "half", "counted by hand"),
        beside_idle(report),
        beside_listeners(report),
    ]);
    list.extend(QUIET_CPU.map(|(idle, limit)| {
        let name = format!("CPU beside {} quiet connections", number_of(idle));
        let readings = quiet(report, SOCKMAN, Metric::CpuPerSecond, Some(idle));
        judge(&name, &format!("≤ {limit} ms per second"), Bound::AtMost(limit), readings)
    }));
    list.extend([
        judge(
            "Wake-ups with quiet connections",
            &format!("≤ {QUIET_WAKE_UPS} per second"),
            Bound::AtMost(QUIET_WAKE_UPS),
            quiet(report, SOCKMAN, Metric::WakeUps, None),
        ),
        judge(
            "CPU with quiet connections, sweep turned off",
            &format!("below {NO_CPU} ms per second"),
            Bound::Below(NO_CPU),
            quiet(report, "sockman-no-sweep", Metric::CpuPerSecond, None),
        ),
        judge(
            "Wake-ups with quiet connections, sweep turned off",
            &format!("below {NO_WAKE_UPS} per second"),
            Bound::Below(NO_WAKE_UPS),
            quiet(report, "sockman-no-sweep", Metric::WakeUps, None),
        ),
        judge(
            "Memory for an idle connection",
            &format!("≤ {BYTES_PER_CONNECTION} bytes"),
            Bound::AtMost(BYTES_PER_CONNECTION),
            quiet(report, SOCKMAN, Metric::BytesPerConnection, None),
        ),
        throughput(report, "Upload", "upload", |_| true),
        throughput(report, "Download with sends of 256 KiB", "download", |what| {
            what.contains("256 KiB") || what.contains("vectored")
        }),
        accept_against_limit(report),
        accept(report),
        chat(report),
        start_connects(report),
        wake(report, Metric::LatencyP50, "median"),
        wake(report, Metric::LatencyP99, "99th percentile"),
        keep_alive(report),
        judge(
            "Interrupt → join, 99th percentile",
            "≤ 5 ms",
            Bound::AtMost(JOIN_P99),
            readings(report, Metric::LatencyP99, "interrupt → join", |_| true),
        ),
        judge(
            "Echo beside 1,000 hostile connections, 99th percentile (not the flood)",
            "≤ 5 ms",
            Bound::AtMost(HOSTILE_P99),
            under_attack(report, Metric::LatencyP99, |figure| !figure.scenario.contains(FLOOD)),
        ),
        uploaders(report),
        judge(
            "Memory beside 1,000 hostile connections, README's program and the echo example",
            &format!("≤ {HOSTILE_MEMORY} MB"),
            Bound::AtMost(HOSTILE_MEMORY),
            under_attack(report, Metric::PeakMemory, |figure| COPIED.contains(&&*figure.peer)),
        ),
        judge(
            "System calls for an echoed message, 64 connections",
            &format!("2 and the shared poll (at most {SYSTEM_CALLS})"),
            Bound::AtMost(SYSTEM_CALLS),
            readings(report, Metric::SystemCalls, "instruments", |_| true),
        ),
        many(report),
        of_no_scenario(
            "TLS (rustls) and LDK: CPU for a byte against the same on tokio",
            "≤ 1",
            "measured by benches/engines, not here",
        ),
        Target {
            name: "Allocations for a message, for a pass".to_owned(),
            demand: "0".to_owned(),
            reached: "asserted by tests/processes/memory.rs, not measured here".to_owned(),
            verdict: Verdict::ProvedByTest,
        },
    ]);
    list
}

fn of_no_scenario(name: &str, demand: &str, reached: &str) -> Target {
    let [name, demand, reached] = [name, demand, reached].map(str::to_owned);
    Target { name, demand, reached, verdict: Verdict::OfNoScenario }
}

fn cpu_per_message(report: &Report, program: &str, peer: &str, most: f64) -> Target {
    let ours = ours(report, Metric::CpuPerMessage, program)
        .filter(|f| ["echo", "pipelined"].contains(&group(&f.scenario)));
    let readings = ours.filter_map(|figure| against(report, figure, peer, figure.scenario.clone()));
    judge(
        &format!("CPU for a message against {peer}, echo and pipelined{}", of_program(program)),
        &format!("≤ {most}"),
        Bound::AtMost(most),
        readings.collect(),
    )
}

fn instructions(report: &Report, program: &str, most: f64) -> Target {
    let ours = ours(report, Metric::Instructions, program)
        .filter(|f| what(&f.scenario).starts_with("instructions, 64"));
    judge(
        &format!("Instructions in user space for a message{}", of_program(program)),
        &format!("≤ {most}"),
        Bound::AtMost(most),
        ours.map(reading).collect(),
    )
}

/// Returns the end of a target's name.
fn of_program(program: &str) -> &'static str {
    if program == FIRST_PROGRAM { ", README's program" } else { "" }
}

fn beside_idle(report: &Report) -> Target {
    let reading = most_against_least(report, "beside idle", Metric::Rate, (0, 10_000));
    judge(
        "Echo rate beside 10,000 idle connections, against none",
        &format!("≥ {RATE_RATIO}"),
        Bound::AtLeast(RATE_RATIO),
        reading.into_iter().collect(),
    )
}

fn beside_listeners(report: &Report) -> Target {
    let numbers = (1, 10_000);
    let reading = most_against_least(report, "beside listeners", Metric::CpuPerMessage, numbers);
    judge(
        "CPU for a message beside 10,000 listeners, against one",
        &format!("≤ {NOT_ABOVE}"),
        Bound::AtMost(NOT_ABOVE),
        reading.into_iter().collect(),
    )
}

/// Compares runs with `--many`, in the scenario with the most connections, to the echo beside none.
fn many(report: &Report) -> Target {
    const OF: &str = "many beside idle";
    let counts = ours(report, Metric::CpuPerMessage, SOCKMAN)
        .filter(|f| group(&f.scenario) == OF)
        .filter_map(idle_connections);
    let reading = counts
        .max()
        .and_then(|most| most_against_least(report, OF, Metric::CpuPerMessage, (0, most)));
    judge(
        "CPU for a message beside the connections of --many, against none",
        &format!("≤ {NOT_ABOVE}"),
        Bound::AtMost(NOT_ABOVE),
        reading.into_iter().collect(),
    )
}

/// Returns the ratio of two scenarios of one group that differ in the number in their names.
fn most_against_least(
    report: &Report,
    of: &str,
    metric: Metric,
    (least, most): (u64, u64),
) -> Option<Reading> {
    let with = |count: u64| {
        ours(report, metric, SOCKMAN)
            .find(|f| group(&f.scenario) == of && idle_connections(f) == Some(count))
    };
    let value = ratio(with(most)?, with(least)?)?;
    Some(Reading { whereof: "ratio".to_owned(), value })
}

fn quiet(report: &Report, peer: &str, metric: Metric, idle: Option<u64>) -> Vec<Reading> {
    ours(report, metric, peer)
        .filter(|f| group(&f.scenario) == "idle")
        .filter(|f| idle.is_none() || idle_connections(f) == idle)
        .map(|f| Reading { whereof: format!("{} idle", what(&f.scenario)), value: f.median() })
        .collect()
}

fn throughput(report: &Report, name: &str, of: &str, is_asked: impl Fn(&str) -> bool) -> Target {
    let ours = ours(report, Metric::Throughput, SOCKMAN)
        .filter(|f| group(&f.scenario) == of && is_asked(what(&f.scenario)));
    let readings = ours.filter_map(|figure| {
        let best = best(Metric::Throughput, &others(report, figure))?;
        let whereof = format!("{}, against {}", what(&figure.scenario), best.peer);
        Some(Reading { whereof, value: ratio(figure, best)? })
    });
    judge(
        &format!("{name}: throughput against the best peer"),
        &format!("≥ {RATE_RATIO}"),
        Bound::AtLeast(RATE_RATIO),
        readings.collect(),
    )
}

fn accept(report: &Report) -> Target {
    let ours = ours(report, Metric::CpuPerConnection, SOCKMAN);
    let readings = ours.flat_map(|figure| {
        let others =
            others(report, figure).into_iter().filter(|f| ![LIMIT, "mio"].contains(&&*f.peer));
        others.filter_map(|other| {
            let whereof = format!("against {}", other.peer);
            Some(Reading { whereof, value: ratio(figure, other)? })
        })
    });
    judge(
        "CPU for a connection accepted and reset",
        "below every peer but epoll C and mio",
        Bound::Below(1.0),
        readings.collect(),
    )
}

fn accept_against_limit(report: &Report) -> Target {
    let ours = ours(report, Metric::CpuPerConnection, SOCKMAN);
    let readings = ours.filter_map(|figure| against(report, figure, LIMIT, "ratio".to_owned()));
    judge(
        &format!("CPU for a connection accepted and reset, against {LIMIT}"),
        &format!("≤ {ACCEPT_RATIO}"),
        Bound::AtMost(ACCEPT_RATIO),
        readings.collect(),
    )
}

/// Compares with each way in which tokio serves the chat.
fn chat(report: &Report) -> Target {
    let ours =
        ours(report, Metric::CpuPerMessage, SOCKMAN).filter(|f| group(&f.scenario) == "chat");
    let readings = ours.flat_map(|figure| {
        others(report, figure).into_iter().filter_map(|other| {
            let whereof = format!("against {}", other.peer);
            Some(Reading { whereof, value: ratio(figure, other)? })
        })
    });
    judge(
        "Chat: CPU for a line that a member hears, against tokio",
        &format!("below {CHAT_RATIO}"),
        Bound::Below(CHAT_RATIO),
        readings.collect(),
    )
}

fn start_connects(report: &Report) -> Target {
    let ours = ours(report, Metric::CpuPerConnect, SOCKMAN);
    let readings =
        ours.filter_map(|figure| against(report, figure, LIMIT, what(&figure.scenario).to_owned()));
    judge(
        &format!("CPU for each of many connects, against {LIMIT}"),
        &format!("≤ {CONNECT_RATIO}"),
        Bound::AtMost(CONNECT_RATIO),
        readings.collect(),
    )
}

fn wake(report: &Report, metric: Metric, which: &str) -> Target {
    let ours = ours(report, metric, SOCKMAN)
        .filter(|f| group(&f.scenario) == "wake" && what(&f.scenario).contains("idle"));
    let readings = ours.filter_map(|figure| {
        against(report, figure, BARE_WAKER, what(&figure.scenario).to_owned())
    });
    judge(
        &format!("Wake → ready to send, idle loop, against {BARE_WAKER}, {which}"),
        &format!("≤ {WAKE_RATIO}"),
        Bound::AtMost(WAKE_RATIO),
        readings.collect(),
    )
}

fn uploaders(report: &Report) -> Target {
    let figures = (report.figures.iter())
        .filter(|f| f.metric == Metric::LatencyP99 && is_sockman(&f.peer))
        .filter(|f| f.scenario == format!("{}/{UPLOADERS}", hostile::SAME));
    let readings =
        figures.filter_map(|figure| against(report, figure, "tokio", figure.peer.clone()));
    judge(
        "Echo beside 1,000 connections with bulk data, 99th percentile, against tokio",
        "below 1",
        Bound::Below(1.0),
        readings.collect(),
    )
}

/// Compares each scenario with a worker to the scenario without a worker that has the same numbers
/// in its name.
fn keep_alive(report: &Report) -> Target {
    let all: Vec<&Figure> = ours(report, Metric::LatencyP50, SOCKMAN)
        .filter(|f| group(&f.scenario) == "keep-alive")
        .collect();
    let named = |word: &'static str| all.iter().copied().filter(move |f| f.scenario.contains(word));
    let callbacks: Vec<&Figure> = named("callback").collect();
    let readings = named("worker").filter_map(|worker| {
        let same = callbacks.iter().find(|f| numbers(&f.scenario) == numbers(&worker.scenario));
        let callback = same.or(if callbacks.len() == 1 { callbacks.first() } else { None })?;
        let whereof = what(&worker.scenario).to_owned();
        Some(Reading { whereof, value: ratio(worker, callback)? })
    });
    judge(
        "Keep-alive reply from a worker thread, against one from the callback, median",
        &format!("≤ {WORKER_RATIO}"),
        Bound::AtMost(WORKER_RATIO),
        readings.collect(),
    )
}

/// Returns the figures of `peer`, which is `sockman` or a variant of it, in this metric.
fn ours<'a>(report: &'a Report, metric: Metric, peer: &str) -> impl Iterator<Item = &'a Figure> {
    report.figures.iter().filter(move |f| f.metric == metric && f.peer == peer)
}

/// Returns the figures of the peers in the same scenario and metric.
fn others<'a>(report: &'a Report, figure: &Figure) -> Vec<&'a Figure> {
    (report.figures.iter())
        .filter(|f| f.scenario == figure.scenario && f.metric == figure.metric)
        .filter(|f| !is_sockman(&f.peer))
        .collect()
}

fn against(report: &Report, figure: &Figure, peer: &str, whereof: String) -> Option<Reading> {
    let other = report.figure(&figure.scenario, peer, figure.metric)?;
    Some(Reading { whereof, value: ratio(figure, other)? })
}

fn readings(
    report: &Report,
    metric: Metric,
    of: &str,
    is_asked: impl Fn(&str) -> bool,
) -> Vec<Reading> {
    ours(report, metric, SOCKMAN)
        .filter(|f| group(&f.scenario) == of && is_asked(what(&f.scenario)))
        .map(reading)
        .collect()
}

/// Returns the readings of `sockman` in any program.
fn under_attack(
    report: &Report,
    metric: Metric,
    is_asked: impl Fn(&Figure) -> bool,
) -> Vec<Reading> {
    let of_group = |f: &&Figure| f.metric == metric && group(&f.scenario) == hostile::SAME;
    let figures = report.figures.iter().filter(of_group).filter(|f| is_sockman(&f.peer));
    let whereof = |f: &Figure| format!("{}, {}", what(&f.scenario), f.peer);
    (figures.filter(|f| is_asked(f)))
        .map(|f| Reading { whereof: whereof(f), value: f.median() })
        .collect()
}

fn reading(figure: &Figure) -> Reading {
    Reading { whereof: what(&figure.scenario).to_owned(), value: figure.median() }
}

fn idle_connections(figure: &Figure) -> Option<u64> {
    match what(&figure.scenario) {
        "none" => Some(0),
        // In `16 active beside 10,000` the number of idle connections comes last. `10,000 idle` has
        // no other number.
        what => numbers(what).last().copied(),
    }
}

fn judge(name: &str, demand: &str, bound: Bound, mut readings: Vec<Reading>) -> Target {
    readings.retain(|reading| reading.value.is_finite());
    readings.sort_by(|a, b| bound.excess(b.value).total_cmp(&bound.excess(a.value)));
    let missed: Vec<String> = (readings.iter())
        .filter(|reading| !bound.holds(reading.value))
        .map(|reading| match readings.len() {
            1 => format!("by {}", bound.by_how_much(reading.value)),
            _ => format!("{} by {}", reading.whereof, bound.by_how_much(reading.value)),
        })
        .collect();
    let reached = match readings.as_slice() {
        [] => "not measured in this run".to_owned(),
        [only] => format!("{} ({})", precise(only.value), only.whereof),
        [worst, ..] => {
            format!("worst of {}: {} ({})", readings.len(), precise(worst.value), worst.whereof)
        }
    };
    let verdict = match (readings.is_empty(), missed.is_empty()) {
        (true, _) => Verdict::NotMeasured,
        (false, true) => Verdict::Met,
        (false, false) => Verdict::Missed(missed.join("; ")),
    };
    Target { name: name.to_owned(), demand: demand.to_owned(), reached, verdict }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Below(limit) => value < limit,
        }
    }

    /// Returns how far the value misses the limit, as a share of it; negative if it keeps the
    /// limit.
    fn excess(self, value: f64) -> f64 {
        match self {
            Self::AtMost(limit) | Self::Below(limit) => value / limit - 1.0,
            Self::AtLeast(limit) => 1.0 - value / limit,
        }
    }

    fn by_how_much(self, value: f64) -> String {
        let percent = self.excess(value) * 100.0;
        if percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
    }
}

/// Formats a ratio with one digit more than elsewhere, because it stands beside its bound.
fn precise(value: f64) -> String {
    if (0.1..9.9995).contains(&value) { format!("{value:.3}") } else { number(value) }
}

fn number_of(connections: u64) -> String {
    number(connections as f64)
}

impl Target {
    /// Returns whether the report has a figure for this target.
    pub fn is_measured(&self) -> bool {
        matches!(self.verdict, Verdict::Met | Verdict::Missed(_))
    }
}

impl Verdict {
    fn markdown(&self) -> String {
        match self {
            Self::Met => "met".to_owned(),
            Self::Missed(by) => format!("**missed**: {by}"),
            Self::NotMeasured => "not measured".to_owned(),
            Self::ProvedByTest => "proved by a test".to_owned(),
            Self::OfNoScenario => "not of this suite".to_owned(),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed(_) => "MISSED",
            Self::NotMeasured => "–",
            Self::ProvedByTest => "a test",
            Self::OfNoScenario => "other",
        }
    }
}

pub fn targets_markdown(targets: &[Target]) -> String {
    let mut text = String::from("| Figure | Target | Reached | |\n|---|---|---|---|\n");
    for target in targets {
        let Target { name, demand, reached, verdict } = target;
        _ = writeln!(text, "| {name} | {demand} | {reached} | {} |", verdict.markdown());
    }
    text
}

pub fn targets_text(targets: &[Target]) -> String {
    let mut text = String::from("=== Targets\n\n");
    for target in targets {
        _ = writeln!(text, "  {:<7} {}: {}", target.verdict.word(), target.name, target.demand);
        text.push_str(&wrapped(&target.reached, "          "));
        if let Verdict::Missed(by) = &target.verdict {
            text.push_str(&wrapped(&format!("missed: {by}"), "          "));
        }
    }
    text
}
