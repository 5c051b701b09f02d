//! Runs the rounds: in each round, every contestant measures once, one after the other. Records the
//! results.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    error::Error,
    io,
    time::Duration,
};

use hdrhistogram::Histogram;

use crate::random::Random;
use crate::report::{Distribution, Figure, Metric, Report};

/// Latencies are recorded in nanoseconds, up to a minute, with three digits.
const LONGEST: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// One peer, measured in one way.
pub struct Contestant<'a> {
    pub peer: &'static str,
    /// The name in messages to the user.
    pub what: String,
    pub slice: Box<dyn FnMut() -> io::Result<Vec<Slice>> + 'a>,
}

/// The result of one contestant in one scenario in one round.
pub struct Slice {
    pub scenario: String,
    pub latencies: Vec<Duration>,
    /// Messages per second, in scenarios in which that means something.
    pub rate: Option<f64>,
}

impl Slice {
    pub fn new(scenario: impl Into<String>, latencies: Vec<Duration>) -> Slice {
        Slice { scenario: scenario.into(), latencies, rate: None }
    }
}

/// The results of all rounds of one peer in one scenario.
struct Recording {
    p50: Vec<f64>,
    p99: Vec<f64>,
    rate: Vec<f64>,
    all: Histogram<u64>,
}

/// Runs all rounds. A contestant that fails is removed, and the report says so: its remaining
/// rounds would be compared with the wrong rounds of the others.
pub fn run(
    rounds: usize,
    mut contestants: Vec<Contestant<'_>>,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let mut recordings: Vec<BTreeMap<String, Recording>> =
        contestants.iter().map(|_| BTreeMap::new()).collect();
    let mut failures: Vec<Option<io::Error>> = contestants.iter().map(|_| None).collect();
    // The order changes in each round: a core that has slept for long (under a poll loop) wakes
    // more slowly for a while. In a fixed order, the slow wake-ups would always affect the same
    // contestant.
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    let mut random = Random::new();
    for _ in 0..rounds {
        random.shuffle(&mut order);
        for &index in &order {
            if failures[index].is_some() {
                continue;
            }
            match (contestants[index].slice)() {
                Ok(slices) if slices.iter().any(|slice| slice.latencies.is_empty()) => {
                    failures[index] = Some(io::Error::other("a round had no samples"));
                }
                Ok(slices) => {
                    for slice in slices.into_iter().filter(|slice| only(&slice.scenario)) {
                        record(&mut recordings[index], slice)?;
                    }
                }
                Err(error) => failures[index] = Some(error),
            }
        }
    }
    for ((contestant, recordings), failure) in contestants.iter().zip(recordings).zip(failures) {
        if let Some(error) = failure {
            let Contestant { peer, what, .. } = contestant;
            eprintln!("  {what}, {peer}: failed: {error}");
            report.not_measured.push(format!("{what}, {peer}: {error}"));
            report.failures += 1;
            continue;
        }
        for (scenario, recording) in recordings {
            keep(scenario, contestant.peer, recording, report);
        }
    }
    Ok(())
}

fn record(
    recordings: &mut BTreeMap<String, Recording>,
    slice: Slice,
) -> Result<(), hdrhistogram::CreationError> {
    let mut round = Histogram::<u64>::new_with_max(LONGEST, DIGITS)?;
    for latency in &slice.latencies {
        round.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LONGEST));
    }
    let recording = match recordings.entry(slice.scenario) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(Recording {
            p50: Vec::new(),
            p99: Vec::new(),
            rate: Vec::new(),
            all: Histogram::new_with_max(LONGEST, DIGITS)?,
        }),
    };
    recording.p50.push(micros(&round, 0.5));
    recording.p99.push(micros(&round, 0.99));
    recording.rate.extend(slice.rate);
    // Both histograms have the same bounds, so this cannot fail.
    let _ = recording.all.add(&round);
    Ok(())
}

fn keep(scenario: String, peer: &str, recording: Recording, report: &mut Report) {
    let Recording { p50, p99, rate, all } = recording;
    eprintln!(
        "  {scenario}, {peer}: p50 {:.1} µs, p99 {:.1} µs, max {:.1} µs of {}",
        micros(&all, 0.5),
        micros(&all, 0.99),
        micros(&all, 1.0),
        all.len()
    );
    for (metric, samples) in
        [(Metric::LatencyP50, p50), (Metric::LatencyP99, p99), (Metric::Rate, rate)]
    {
        if !samples.is_empty() {
            let (scenario, peer) = (scenario.clone(), peer.to_owned());
            report.figures.push(Figure { scenario, peer, metric, samples });
        }
    }
    let quantiles = quantiles().map(|quantile| (quantile, micros(&all, quantile))).collect();
    let peer = peer.to_owned();
    report.distributions.push(Distribution { scenario, peer, count: all.len(), quantiles });
}

/// Returns the recorded quantiles, which are denser towards the end: 0 to 0.9 in steps of 2 %, then
/// each further nine in steps of a tenth of the remaining share.
fn quantiles() -> impl Iterator<Item = f64> {
    let body = (0..45).map(|step| f64::from(step) / 50.0);
    let tail = (1..=4).flat_map(|nines| {
        let rest = 0.1_f64.powi(nines);
        (0..9).map(move |step| 1.0 - rest * (1.0 - f64::from(step) / 10.0))
    });
    body.chain(tail).chain([1.0])
}

fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_nanos(histogram.value_at_quantile(quantile)).as_secs_f64() * 1e6
}
