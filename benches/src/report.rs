//! The results of a run. The `results.json` of a run is a whole [`Report`]. The documentation keeps
//! the [data set](crate::data_set) of a report.

use std::{collections::BTreeMap, error, fmt};

use serde::{Deserialize, Serialize};

/// The peer to which all others are compared: level-triggered `epoll` in C, the limit for one
/// thread.
pub const LIMIT: &str = "epoll C";
/// This library with its default options.
pub const SOCKMAN: &str = "sockman";
/// The first program of README.md.
pub const FIRST_PROGRAM: &str = "sockman, first program";

/// Not a server: the least cost of waking a thread on another core.
pub const BARE_WAKER: &str = "mio's waker alone";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One machine has measured all figures.
    pub machine: Machine,
    /// `full`, `quick` or `smoke`.
    pub mode: String,
    /// The duration of the whole run.
    pub seconds: f64,
    pub figures: Vec<Figure>,
    pub distributions: Vec<Distribution>,
    /// One sentence for each thing that could not be measured, with the reason.
    pub not_measured: Vec<String>,
    /// The number of entries in `not_measured` that are failures. The other entries were left out
    /// on purpose.
    #[serde(default)]
    pub failures: usize,
    /// How busy the server and the load generator were.
    #[serde(default)]
    pub shares: Vec<Shares>,
}

/// Which side limited a scenario: the share of its core that each side used, from 0 to 1, the
/// median of the rounds. A server above 0.97 was the bottleneck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    pub scenario: String,
    pub peer: String,
    pub server: f64,
    /// `None` if the load never sleeps, because its share then means nothing.
    pub load: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The model in `/proc/cpuinfo`: its name, and the numbers that distinguish models of the same
    /// name.
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub rustc: String,
    /// The versions of the peers by name.
    pub peers: BTreeMap<String, String>,
}

/// What differs between the machines of two runs. A data set has the figures of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherMachine {
    pub differences: Vec<Difference>,
}

/// One property that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `processor`, `cores`, `kernel`, `rustc`, or the name of a peer.
    pub property: String,
    pub ours: String,
    pub theirs: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores, Linux {}", self.processor, self.cores, self.kernel)
    }
}

impl Machine {
    /// Fails if another machine, kernel or compiler, or another version of a peer, has measured
    /// `other`. A peer that only one of the runs knows is no difference.
    pub fn same_as(&self, other: &Machine) -> Result<(), OtherMachine> {
        let (cores, other_cores) = (self.cores.to_string(), other.cores.to_string());
        let mut pairs = vec![
            ("processor", &self.processor, &other.processor),
            ("cores", &cores, &other_cores),
            ("kernel", &self.kernel, &other.kernel),
            ("rustc", &self.rustc, &other.rustc),
        ];
        for (peer, version) in &self.peers {
            pairs.extend(other.peers.get(peer).map(|other| (peer.as_str(), version, other)));
        }
        let differences: Vec<Difference> = (pairs.into_iter())
            .filter(|(_, ours, theirs)| ours != theirs)
            .map(|(property, ours, theirs)| Difference {
                property: property.to_owned(),
                ours: ours.clone(),
                theirs: theirs.clone(),
            })
            .collect();
        if differences.is_empty() { Ok(()) } else { Err(OtherMachine { differences }) }
    }
}

impl fmt::Display for OtherMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the figures of two machines cannot be in one data set")?;
        for Difference { property, ours, theirs } in &self.differences {
            write!(f, "; {property}: {ours:?} and {theirs:?}")?;
        }
        f.write_str(". Measure everything on one machine, or use --data-set")
    }
}

impl error::Error for OtherMachine {}

/// The error of [`Report::add`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddError {
    OtherMachine(OtherMachine),
    /// A quick run and a full run have rounds of different lengths.
    OtherMode {
        ours: String,
        theirs: String,
    },
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherMachine(error) => error.fmt(f),
            Self::OtherMode { ours, theirs } => {
                write!(f, "the figures of a {ours} run are not added to those of a {theirs} run")
            }
        }
    }
}

impl error::Error for AddError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::OtherMachine(error) => Some(error),
            Self::OtherMode { .. } => None,
        }
    }
}

/// One metric of one peer in one scenario, with one sample for each round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `group/what`: `echo/64 × 64 B`, `idle/10000`, `wake/idle loop` …
    pub scenario: String,
    pub peer: String,
    pub metric: Metric,
    /// In the order of the rounds: two peers' samples with the same index were taken one directly
    /// after the other.
    pub samples: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Server CPU (user + system) for one message, µs.
    CpuPerMessage,
    /// Messages per second.
    Rate,
    /// The median latency at the client, µs.
    LatencyP50,
    /// The 99th percentile of the latency at the client, µs.
    LatencyP99,
    /// The longest latency of a round at the client, µs.
    LatencyMax,
    /// GB (10⁹ bytes) per second.
    Throughput,
    /// Server CPU for 10⁶ bytes, µs.
    CpuPerMegabyte,
    /// Server CPU for one connection, µs.
    CpuPerConnection,
    /// Connections per second.
    ConnectionRate,
    /// CPU of the process that connects, for one connect, µs.
    CpuPerConnect,
    /// Server CPU, ms per second.
    CpuPerSecond,
    /// Wake-ups of the server's thread per second.
    WakeUps,
    /// Bytes of the process's private memory that one idle connection adds.
    BytesPerConnection,
    /// The peak of the process's resident memory, MB (10⁶ bytes).
    PeakMemory,
    /// System calls for one message.
    SystemCalls,
    /// User-space instructions for one message.
    Instructions,
}

/// The distribution of a latency over all rounds: pairs of (quantile from 0 to 1, µs).
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

    /// Returns the median of the ratios round by round, which does not depend on how fast the
    /// machine was in each round. `None` if the two have no round in common.
    pub fn ratio_to(&self, other: &Figure) -> Option<f64> {
        let ratios: Vec<f64> =
            (self.samples.iter().zip(&other.samples)).map(|(a, b)| a / b).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }
}

/// The first word of the scenarios with hostile connections.
pub const HOSTILE: &str = "hostile";

/// Returns whether a scenario has hostile connections.
pub fn is_hostile(scenario: &str) -> bool {
    scenario.starts_with(HOSTILE)
}

/// The first word of the scenarios with as many connections as the user asks for.
pub const MANY: &str = "many";

/// Returns whether a scenario is one of `--many`.
pub fn is_many(scenario: &str) -> bool {
    scenario.starts_with(MANY)
}

impl Report {
    /// Adds the figures of an earlier run for the scenarios that this run did not measure. Fails, and
    /// changes nothing, if another machine or another mode has measured them.
    pub fn add(&mut self, earlier: Report) -> Result<(), AddError> {
        self.can_add(&earlier)?;
        let before = earlier.not_measured.len();
        // A scenario that failed then and is measured now is not a failure any more.
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
        Ok(())
    }

    /// Returns whether the figures of both may be in one data set.
    pub fn can_add(&self, earlier: &Report) -> Result<(), AddError> {
        self.machine.same_as(&earlier.machine).map_err(AddError::OtherMachine)?;
        if self.mode != earlier.mode {
            let (ours, theirs) = (self.mode.clone(), earlier.mode.clone());
            return Err(AddError::OtherMode { ours, theirs });
        }
        Ok(())
    }

    pub fn figure(&self, scenario: &str, peer: &str, metric: Metric) -> Option<&Figure> {
        self.figures.iter().find(|f| f.scenario == scenario && f.peer == peer && f.metric == metric)
    }
}

/// Returns the median, or NaN if there are no samples.
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
    fn a_scenario_that_is_measured_again_replaces_the_earlier_one() {
        let mut now = report("echo/1", 2.0, &[]);
        let mut earlier = report("echo/1", 1.0, &["echo/1, mio: broke.", "idle/0, mio: broke."]);
        earlier.figures.extend(report("idle/0", 3.0, &[]).figures);
        now.add(earlier).expect("it is the same machine");
        let samples: Vec<f64> = now.figures.iter().map(|figure| figure.samples[0]).collect();
        assert_eq!(samples, [3.0, 2.0]);
        assert_eq!(now.not_measured, ["idle/0, mio: broke."]);
        assert_eq!(now.failures, 1);
    }

    #[test]
    fn figures_of_another_machine_or_mode_are_not_added_and_the_error_says_what_differs() {
        let mut now = report("echo/1", 2.0, &[]);
        let before = now.clone();
        let mut earlier = report("idle/0", 1.0, &[]);
        earlier.machine.processor = "another processor".to_owned();
        earlier.machine.kernel = "another kernel".to_owned();
        let error = now.add(earlier).expect_err("it is another machine");
        let AddError::OtherMachine(OtherMachine { differences }) = &error else {
            panic!("{error}")
        };
        let properties: Vec<&str> = differences.iter().map(|d| d.property.as_str()).collect();
        assert_eq!(properties, ["processor", "kernel"]);
        assert!(error.to_string().contains("and \"another processor\"; kernel: "), "{error}");

        let mut earlier = report("idle/0", 1.0, &[]);
        earlier.machine.peers.insert("tokio".to_owned(), "another version".to_owned());
        let error = now.add(earlier).expect_err("it is another version of a peer");
        assert!(error.to_string().contains("; tokio: "), "{error}");

        let earlier = Report { mode: "quick".to_owned(), ..report("idle/0", 1.0, &[]) };
        let error = now.add(earlier).expect_err("it is another mode");
        assert!(matches!(error, AddError::OtherMode { .. }), "{error}");
        assert_eq!(now, before);
    }
}
