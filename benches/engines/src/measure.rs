//! One measurement: a server under a load for some short slices of time. The half of the slices in
//! which other programs took least time from the server and the load is kept. A figure is the
//! median of these slices.
use std::{
    error::Error,
    fs, io,
    time::{Duration, Instant},
};

use crate::{
    cases::{Case, Counted, Peer},
    ldk::Nodes,
    load::{Load, PATIENCE, Tally},
    machine::Cores,
    server_process::{ServerProcess, Settings, Times},
    tls::{self, Bulk, Echoes},
};

/// A tick of /proc/stat, ns.
const TICK: u64 = 10_000_000;
/// The index of the stolen time among the words of a line of /proc/stat; the name has index 0.
const STEAL: usize = 8;
/// The messages of a check of LDK, and how often their number is looked at.
const CHECKED_MESSAGES: u64 = 64;
const SMALL_SLICE: Duration = Duration::from_millis(10);

/// The duration of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub warm_up: Duration,
    pub slices: u32,
    pub slice: Duration,
}

/// The result of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Server CPU for one message or for a megabyte, µs.
    pub cpu: f64,
    /// Messages per second, or MB per second.
    pub rate: f64,
    /// The shares of their cores that the server and the load used, from 0 to 1.
    pub server_share: f64,
    pub load_share: f64,
    /// The share of the time that other programs took from the server or from the load, from 0 on.
    pub disturbed_share: f64,
}

/// Checks that the server keeps its contract. The calling thread is the load.
pub fn check(case: Case, peer: Peer, cores: Cores) -> Result<(), Box<dyn Error>> {
    let settings = Settings { core: cores.server, is_checked: true };
    let server = ServerProcess::start(case, peer, settings)?;
    if !case.is_ldk() {
        return tls::check(&server, case);
    }
    // The nodes check each message.
    let (mut load, mut tally) = (Nodes::connect(&server, case)?, Tally::default());
    let deadline = Instant::now() + PATIENCE;
    while tally.messages < CHECKED_MESSAGES {
        if Instant::now() > deadline {
            return Err(format!("the server answered too little within {PATIENCE:?}").into());
        }
        load.run(Instant::now() + SMALL_SLICE, &mut tally)?;
    }
    Ok(())
}

/// Measures. The calling thread is the load.
pub fn measure(case: Case, peer: Peer, cores: Cores, pace: Pace) -> Result<Sample, Box<dyn Error>> {
    let settings = Settings { core: cores.server, is_checked: false };
    let server = ServerProcess::start(case, peer, settings)?;
    let mut load: Box<dyn Load> = match case {
        Case::LdkServes | Case::LdkReceives => Box::new(Nodes::connect(&server, case)?),
        Case::TlsEcho => Box::new(Echoes::connect(&server)?),
        Case::TlsUpload | Case::TlsDownload => Box::new(Bulk::connect(&server, case)?),
    };
    load.run(Instant::now() + pace.warm_up, &mut Tally::default())?;
    let mut slices = Vec::new();
    for _ in 0..pace.slices {
        slices.push(take_slice(case, &server, &mut *load, pace.slice)?);
    }
    slices.sort_by(|a, b| a.disturbed_share.total_cmp(&b.disturbed_share));
    slices.truncate(slices.len().div_ceil(2));
    let of_all = |value: &dyn Fn(&Sample) -> f64| {
        median(&mut slices.iter().map(value).collect::<Vec<f64>>())
    };
    let sample = Sample {
        cpu: of_all(&|sample| sample.cpu),
        rate: of_all(&|sample| sample.rate),
        server_share: of_all(&|sample| sample.server_share),
        load_share: of_all(&|sample| sample.load_share),
        disturbed_share: of_all(&|sample| sample.disturbed_share),
    };
    if !sample.cpu.is_finite() {
        return Err(format!("the server answered nothing within {PATIENCE:?}").into());
    }
    Ok(sample)
}

/// Continues the load for a slice of time, and until something was done.
fn take_slice(
    case: Case,
    server: &ServerProcess,
    load: &mut dyn Load,
    length: Duration,
) -> io::Result<Sample> {
    let mut tally = Tally::default();
    let (stolen, ours, theirs) = (stolen()?, Times::of_this_thread()?, server.times()?);
    let start = Instant::now();
    load.run(start + length, &mut tally)?;
    // On a busy machine, nothing may have come back: the slice is longer then.
    while tally.messages + tally.bytes == 0 && start.elapsed() < PATIENCE {
        load.run(Instant::now() + length, &mut tally)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let (theirs, ours) = (server.times()?.since(theirs), Times::of_this_thread()?.since(ours));
    let stolen = self::stolen()?.saturating_sub(stolen);
    let amount = match case.counted() {
        Counted::Messages => tally.messages as f64,
        Counted::Bytes => tally.bytes as f64 / 1e6,
    };
    let share = |nanoseconds: u64| nanoseconds as f64 / 1e9 / seconds;
    Ok(Sample {
        cpu: theirs.on_core as f64 / 1e3 / amount,
        rate: amount / seconds,
        server_share: share(theirs.on_core),
        load_share: share(ours.on_core),
        disturbed_share: share(theirs.waited + ours.waited + stolen),
    })
}

/// Returns the time that the host gave to others, over all processors, ns.
fn stolen() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let word = text.lines().next().and_then(|all| all.split_whitespace().nth(STEAL));
    Ok(word.and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0) * TICK)
}

/// Returns the median. Of an even number of values it is the mean of the two in the middle. The
/// median of no value is not a number.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.get(half) {
        None => f64::NAN,
        Some(&upper) if values.len() % 2 == 1 => upper,
        Some(&upper) => (values[half - 1] + upper) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_value_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }
}
