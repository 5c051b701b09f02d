//! What a run found out. The `results.json` of a run is a whole [`Report`]. The page keeps the
//! [data set](crate::data_set) of a report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whom everybody is compared with: level-triggered `epoll` in C, the limit for one thread.
pub const LIMIT: &str = "epoll C";
/// Ourselves.
pub const SOCKMAN: &str = "sockman";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    /// `full`, `quick` or `smoke`.
    pub mode: String,
    /// Of the whole run.
    pub seconds: f64,
    pub figures: Vec<Figure>,
    pub distributions: Vec<Distribution>,
    /// What could not be measured here, and why: one sentence each.
    pub not_measured: Vec<String>,
    /// How many of those are failures, and not what was left out on purpose.
    #[serde(default)]
    pub failures: usize,
    /// How busy server and load generator were.
    #[serde(default)]
    pub shares: Vec<Shares>,
}

/// Which of the two sides limited a scenario: each one's share of its core, from 0 to 1, median
/// over the rounds. A server above 0.97 was the bottleneck itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    pub scenario: String,
    pub peer: String,
    pub server: f64,
    /// `None` where it never sleeps, so that its share says nothing.
    pub load: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// As `/proc/cpuinfo` calls it.
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub rustc: String,
    /// Versions of the peers, by name.
    pub peers: BTreeMap<String, String>,
}

/// One metric of one peer in one scenario: one sample for each round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `group/what`: `echo/64 × 64 B`, `idle/10000`, `wake/idle loop` …
    pub scenario: String,
    pub peer: String,
    pub metric: Metric,
    /// In the order of the rounds: those of two peers with the same index were taken side by side.
    pub samples: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Server CPU (user + system), µs for one message.
    CpuPerMessage,
    /// Messages in a second.
    Rate,
    /// Latency at the client, µs.
    LatencyP50,
    LatencyP99,
    /// GB (10⁹ bytes) in a second.
    Throughput,
    /// Server CPU, µs for 10⁶ bytes.
    CpuPerMegabyte,
    /// Server CPU, µs for one connection.
    CpuPerConnection,
    /// Connections in a second.
    ConnectionRate,
    /// Server CPU, ms in a second.
    CpuPerSecond,
    /// How often the server's thread woke, in a second.
    WakeUps,
    /// Resident memory of the process that one idle connection adds, bytes.
    BytesPerConnection,
    /// For one message.
    SystemCalls,
    /// User-space instructions for one message.
    Instructions,
}

/// How a latency is spread: pairs of (quantile from 0 to 1, µs), of all rounds together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub scenario: String,
    pub peer: String,
    pub count: u64,
    pub quantiles: Vec<(f64, f64)>,
}

impl Figure {
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }

    pub fn min(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn max(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The median of the ratios round by round, which a machine that drifts leaves alone. `None`
    /// if they have no round in common.
    pub fn ratio_to(&self, other: &Figure) -> Option<f64> {
        let ratios: Vec<f64> =
            (self.samples.iter().zip(&other.samples)).map(|(a, b)| a / b).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }
}

impl Report {
    /// Takes over what an earlier run measured in scenarios that this one has nothing of.
    pub fn add(&mut self, earlier: Report) {
        let before = earlier.not_measured.len();
        // What failed then and is measured now is no failure any more.
        let is_made_up = |sentence: &str| {
            self.figures.iter().any(|figure| sentence.starts_with(&figure.scenario))
        };
        let mut still = earlier.not_measured;
        still.retain(|sentence| !is_made_up(sentence));
        self.failures += earlier.failures.saturating_sub(before - still.len());
        self.not_measured.splice(0..0, still);

        let is_new =
            |scenario: &str| !self.figures.iter().any(|figure| figure.scenario == scenario);
        let (figures, distributions, shares): (Vec<Figure>, Vec<Distribution>, Vec<Shares>) = (
            earlier.figures.into_iter().filter(|f| is_new(&f.scenario)).collect(),
            earlier.distributions.into_iter().filter(|d| is_new(&d.scenario)).collect(),
            earlier.shares.into_iter().filter(|s| is_new(&s.scenario)).collect(),
        );
        self.figures.splice(0..0, figures);
        self.distributions.splice(0..0, distributions);
        self.shares.splice(0..0, shares);
        self.seconds += earlier.seconds;
    }

    pub fn figure(&self, scenario: &str, peer: &str, metric: Metric) -> Option<&Figure> {
        self.figures.iter().find(|f| f.scenario == scenario && f.peer == peer && f.metric == metric)
    }
}

/// NaN for none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(scenario: &str, sample: f64, not_measured: &[&str]) -> Report {
        let mut report = crate::fixture::report();
        report.distributions.clear();
        report.figures = vec![Figure {
            scenario: scenario.to_owned(),
            peer: SOCKMAN.to_owned(),
            metric: Metric::Rate,
            samples: vec![sample],
        }];
        report.not_measured = not_measured.iter().map(|&text| text.to_owned()).collect();
        report.failures = not_measured.len();
        report
    }

    #[test]
    fn what_is_measured_again_takes_the_place_of_what_was_before() {
        let mut now = report("echo/1", 2.0, &[]);
        let mut earlier = report("echo/1", 1.0, &["echo/1, mio: broke.", "idle/0, mio: broke."]);
        earlier.figures.extend(report("idle/0", 3.0, &[]).figures);
        now.add(earlier);
        let samples: Vec<f64> = now.figures.iter().map(|figure| figure.samples[0]).collect();
        assert_eq!(samples, [3.0, 2.0]);
        assert_eq!(now.not_measured, ["idle/0, mio: broke."]);
        assert_eq!(now.failures, 1);
    }
}
