//! Records samples in a report.
use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::{
    measure::Sample,
    report::{Distribution, Figure, Metric, Report, Shares, median},
    servers::Peer,
};

/// The points of a distribution for each factor of 10 in the share above the quantile.
const POINTS_A_DECADE: u32 = 16;
/// The number of factors of 10 in a distribution, which goes up to 99.999 %.
const DECADES: u32 = 5;

/// The shares of their cores that the server and the load used in one round.
type Share = (f64, Option<f64>);

pub(super) struct Recorder<'a> {
    report: &'a mut Report,
    round_trips: BTreeMap<(String, Peer), Histogram<u64>>,
    shares: BTreeMap<(String, Peer), Vec<Share>>,
    /// Failed measurements are not repeated, because rounds of two peers with the same index belong
    /// together.
    failed: Vec<(String, Peer)>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(report: &'a mut Report) -> Recorder<'a> {
        let (round_trips, shares) = (BTreeMap::new(), BTreeMap::new());
        Recorder { report, round_trips, shares, failed: Vec::new() }
    }

    pub(super) fn wants(&self, peer: Peer, scenario: &str) -> bool {
        !self.failed.iter().any(|(name, who)| name == scenario && *who == peer)
    }

    pub(super) fn value(&mut self, scenario: &str, peer: Peer, metric: Metric, value: f64) {
        let known = (self.report.figures.iter_mut())
            .find(|f| f.scenario == scenario && f.peer == peer.name() && f.metric == metric);
        match known {
            Some(figure) => figure.samples.push(value),
            None => self.report.figures.push(Figure {
                scenario: scenario.into(),
                peer: peer.name().into(),
                metric,
                samples: vec![value],
            }),
        }
    }

    pub(super) fn sample(&mut self, scenario: &str, peer: Peer, sample: &Sample) {
        for &(metric, value) in &sample.values {
            self.value(scenario, peer, metric, value);
        }
        let key = (scenario.to_owned(), peer);
        let shares = self.shares.entry(key.clone()).or_default();
        shares.push((sample.server_share, sample.load_share));
        if !sample.round_trips.is_empty() {
            let sum = self.round_trips.entry(key).or_insert_with(crate::load::new_histogram);
            // All histograms have the same bounds, so the addition cannot fail.
            let _ = sum.add(&sample.round_trips);
        }
    }

    /// Removes the figures of these scenarios, so that no figure represents half of a run.
    pub(super) fn failure(&mut self, what: &str, scenarios: &[String], peer: Peer, why: &str) {
        let is_of_it =
            |name: &str, who: &str| who == peer.name() && scenarios.iter().any(|s| s == name);
        self.report.figures.retain(|f| !is_of_it(&f.scenario, &f.peer));
        let keeps = |(name, who): &(String, Peer)| !is_of_it(name, who.name());
        self.round_trips.retain(|key, _| keeps(key));
        self.shares.retain(|key, _| keeps(key));
        self.failed.extend(scenarios.iter().map(|name| (name.clone(), peer)));
        self.report.not_measured.push(format!("{what}, {}: {why}.", peer.name()));
        self.report.failures += 1;
    }

    /// Returns the first metric of a scenario in the latest round: `epoll C 5.1, mio 5.2`.
    pub(super) fn latest(&self, scenario: &str) -> String {
        let of_it = || self.report.figures.iter().filter(|f| f.scenario == scenario);
        let Some(metric) = of_it().map(|f| f.metric).next() else { return String::new() };
        let of_metric = of_it().filter(|f| f.metric == metric);
        let shown = of_metric.filter_map(|f| {
            Some(format!("{} {}", f.peer, crate::table::number(*f.samples.last()?)))
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Records the results of all rounds together.
    pub(super) fn finish(self) {
        for ((scenario, peer), histogram) in self.round_trips {
            self.report.distributions.push(Distribution {
                scenario,
                peer: peer.name().into(),
                count: histogram.len(),
                quantiles: quantiles(&histogram),
            });
        }
        for ((scenario, peer), shares) in self.shares {
            let server = median(&shares.iter().map(|share| share.0).collect::<Vec<f64>>());
            let loads: Vec<f64> = shares.iter().filter_map(|share| share.1).collect();
            let load = (!loads.is_empty()).then(|| median(&loads));
            self.report.shares.push(Shares { scenario, peer: peer.name().into(), server, load });
        }
    }
}

/// Returns pairs of a quantile and µs. The quantiles approach 1 as far as the count supports them.
fn quantiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let at = |quantile| (quantile, histogram.value_at_quantile(quantile) as f64 / 1e3);
    let count = histogram.len() as f64;
    let points = (0..=POINTS_A_DECADE * DECADES)
        .map(|i| 10_f64.powf(-f64::from(i) / f64::from(POINTS_A_DECADE)))
        .take_while(|above| above * count >= 1.0)
        .map(|above| at(1.0 - above));
    points.chain([at(1.0)]).collect()
}
