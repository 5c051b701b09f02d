//! Makes one measurement: a server under a load for some short slices of time. Only the calm slices
//! count.
//!
//! A slice is calm if no other program took the cores. The scheduler reports how long the threads
//! of the server and of the load were ready and did not run. The kernel reports how long the host
//! gave this machine's processors to others ("steal"). The sum is the disturbance of a slice. The
//! half of the slices with the least disturbance is kept, whatever figures they have. A figure is
//! their median.
use std::{
    fs, io,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    load::{Load, Tally, new_histogram},
    report::{Metric, median},
    server_process::{ServerProcess, Times},
};

/// The length of a tick in /proc/stat, ns: Linux shows hundredths of a second to programs on all
/// common architectures.
const TICK: u64 = 10_000_000;
/// The index of the stolen time among the words of a line of /proc/stat; the name has index 0.
const STEAL: usize = 8;

/// The duration of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub warm_up: Duration,
    pub slices: u32,
    pub slice: Duration,
}

impl Pace {
    pub fn total(self) -> Duration {
        self.warm_up + self.slice * self.slices
    }
}

/// The result of a measurement.
#[derive(Debug)]
pub struct Sample {
    pub values: Vec<(Metric, f64)>,
    /// Round trips, ns; empty if the scenario has none.
    pub round_trips: Histogram<u64>,
    /// The share of its core that the server used, from 0 to 1.
    pub server_share: f64,
    /// The share of its core that the load used, from 0 to 1; `None` for bulk data, where the load
    /// never sleeps.
    pub load_share: Option<f64>,
}

/// The unit that a scenario counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    Messages,
    Bytes,
    Connections,
}

pub fn measure(
    server: &ServerProcess,
    load: &mut dyn Load,
    counted: Counted,
    pace: Pace,
) -> io::Result<Sample> {
    load.run(Instant::now() + pace.warm_up, &mut Tally::new())?;
    let mut slices = Vec::new();
    for _ in 0..pace.slices {
        slices.push(Slice::take(server, load, pace.slice)?);
    }
    // A slice without any result was disturbed, whatever the cause: the kernel sends a dropped
    // packet again only after 200 ms.
    slices.sort_by_key(|slice| (slice.amount(counted) == 0, slice.disturbed));
    slices.truncate(slices.len().div_ceil(2));
    if slices.iter().any(|slice| slice.amount(counted) == 0) {
        let text = format!("the server answered nothing within {:?}", pace.slice);
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }

    let of_all =
        |value: &dyn Fn(&Slice) -> f64| median(&slices.iter().map(value).collect::<Vec<f64>>());
    let mut round_trips = new_histogram();
    for slice in &slices {
        // All histograms have the same bounds, so they can be added.
        round_trips.add(&slice.tally.round_trips).map_err(io::Error::other)?;
    }
    let values = metrics(counted).iter().map(|&metric| (metric, of_all(&|s| s.value(metric))));
    Ok(Sample {
        values: values.collect(),
        round_trips,
        server_share: of_all(&|slice| slice.server as f64 / slice.nanoseconds),
        load_share: (counted != Counted::Bytes)
            .then(|| of_all(&|slice| slice.load as f64 / slice.nanoseconds)),
    })
}

fn metrics(counted: Counted) -> &'static [Metric] {
    match counted {
        Counted::Messages => {
            &[Metric::CpuPerMessage, Metric::Rate, Metric::LatencyP50, Metric::LatencyP99]
        }
        Counted::Bytes => &[Metric::Throughput, Metric::CpuPerMegabyte],
        Counted::Connections => &[Metric::CpuPerConnection, Metric::ConnectionRate],
    }
}

struct Slice {
    tally: Tally,
    nanoseconds: f64,
    /// The time of the server on its core, ns.
    server: u64,
    /// The time of the load on its core, ns.
    load: u64,
    /// The time that other programs took from the server and the load, ns.
    disturbed: u64,
}

impl Slice {
    fn take(server: &ServerProcess, load: &mut dyn Load, length: Duration) -> io::Result<Slice> {
        let mut tally = Tally::new();
        let (stolen, ours, theirs) = (stolen()?, Times::of_this_thread()?, server.times()?);
        let start = Instant::now();
        load.run(start + length, &mut tally)?;
        let nanoseconds = start.elapsed().as_nanos() as f64;
        let (theirs, ours) = (server.times()?.since(theirs), Times::of_this_thread()?.since(ours));
        let stolen = self::stolen()?.saturating_sub(stolen);
        Ok(Slice {
            tally,
            nanoseconds,
            server: theirs.on_core,
            load: ours.on_core,
            disturbed: theirs.waited + ours.waited + stolen,
        })
    }

    fn amount(&self, counted: Counted) -> u64 {
        match counted {
            Counted::Messages => self.tally.messages,
            Counted::Bytes => self.tally.bytes,
            Counted::Connections => self.tally.connections,
        }
    }

    fn value(&self, metric: Metric) -> f64 {
        let Slice { tally, nanoseconds, server, .. } = self;
        let (cpu_us, seconds) = (*server as f64 / 1e3, nanoseconds / 1e9);
        let (messages, bytes) = (tally.messages as f64, tally.bytes as f64);
        let connections = tally.connections as f64;
        match metric {
            Metric::CpuPerMessage => cpu_us / messages,
            Metric::Rate => messages / seconds,
            Metric::LatencyP50 => tally.round_trips.value_at_quantile(0.5) as f64 / 1e3,
            Metric::LatencyP99 => tally.round_trips.value_at_quantile(0.99) as f64 / 1e3,
            Metric::Throughput => bytes / seconds / 1e9,
            Metric::CpuPerMegabyte => cpu_us / (bytes / 1e6),
            Metric::CpuPerConnection => cpu_us / connections,
            Metric::ConnectionRate => connections / seconds,
            // A slice under load has no other metrics: a wrong table above would show as NaN.
            _ => f64::NAN,
        }
    }
}

/// Returns the time that the host gave to others, over all processors, ns.
fn stolen() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let word = text.lines().next().and_then(|all| all.split_whitespace().nth(STEAL));
    Ok(word.and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0) * TICK)
}

/// What all cores have done since the start of the machine, ticks.
#[derive(Debug, Clone, Copy)]
pub struct CoreTimes {
    idle: u64,
    all: u64,
}

impl CoreTimes {
    pub fn read() -> io::Result<CoreTimes> {
        let text = fs::read_to_string("/proc/stat")?;
        let words = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).take(STEAL).collect();
        // Idle, and idle while a disk works.
        Ok(CoreTimes { idle: ticks.iter().skip(3).take(2).sum(), all: ticks.iter().sum() })
    }

    /// Returns the share of the time in which the cores were busy, from 0 to 1.
    pub fn busy_since(self, before: CoreTimes) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let idle = self.idle.saturating_sub(before.idle);
        if all == 0 { 0.0 } else { 1.0 - idle as f64 / all as f64 }
    }
}

/// The result for a server without traffic.
#[derive(Debug, Clone, Copy)]
pub struct Quiet {
    /// CPU, ms per second.
    pub cpu: f64,
    /// Wake-ups per second.
    pub wake_ups: f64,
}

pub fn measure_quiet(server: &ServerProcess, length: Duration) -> io::Result<Quiet> {
    let (times, sleeps, start) = (server.times()?, server.sleeps()?, Instant::now());
    // This is the measured time.
    std::thread::sleep(length);
    let seconds = start.elapsed().as_secs_f64();
    let on_core = server.times()?.since(times).on_core;
    let wake_ups = server.sleeps()? - sleeps;
    Ok(Quiet { cpu: on_core as f64 / 1e6 / seconds, wake_ups: wake_ups as f64 / seconds })
}
