//! Where a peer is better: every figure in which a peer beats `sockman` by more than a tie.

use std::fmt::Write;

use super::{
    TIE,
    grid::times_worse,
    metric::number,
    names::{in_order, is_sockman},
    wrapped,
};
use crate::report::{Metric, Report, SOCKMAN};

pub struct Beaten {
    pub scenario: String,
    pub metric: Metric,
    pub peer: String,
    pub ours: f64,
    pub theirs: f64,
    /// By what factor `sockman` is worse: above 1, infinite if the peer's figure is zero.
    pub times: f64,
}

/// Returns the list in the order of the report's scenarios, with the metrics of each together.
pub fn beaten(report: &Report) -> Vec<Beaten> {
    let mut list = Vec::new();
    for theirs in report.figures.iter().filter(|f| !is_sockman(&f.peer)) {
        let metric = theirs.metric;
        let Some(ours) = report.figure(&theirs.scenario, SOCKMAN, metric) else { continue };
        let times = times_worse(metric, ours, theirs);
        if times > TIE {
            list.push(Beaten {
                scenario: theirs.scenario.clone(),
                metric,
                peer: theirs.peer.clone(),
                ours: metric.shown(ours.median()),
                theirs: metric.shown(theirs.median()),
                times,
            });
        }
    }
    let scenarios = in_order(report.figures.iter().map(|f| f.scenario.as_str()));
    list.sort_by_key(|b| (scenarios.iter().position(|s| *s == b.scenario), b.metric));
    list
}

impl Beaten {
    fn peer_and_factor(&self) -> String {
        if self.times.is_finite() {
            format!("{} {:.2}", self.peer, self.times)
        } else {
            format!("{} ∞", self.peer)
        }
    }

    fn by(&self) -> String {
        if self.times.is_finite() { format!("{:.2} times", self.times) } else { "–".to_owned() }
    }
}

/// Returns the list as a table with a row for each scenario. The tables have the figures.
pub fn beaten_markdown(report: &Report) -> String {
    let list = beaten(report);
    if list.is_empty() {
        return "In this run, no peer was better by more than 3 %.\n".to_owned();
    }
    let mut text = format!(
        "{} figures of peers are better by more than 3 %, by these factors (∞: the peer's figure \
         is 0).\n\n| Scenario | Metric: peer, factor |\n|---|---|\n",
        list.len()
    );
    for of_scenario in list.chunk_by(|a, b| a.scenario == b.scenario) {
        let metrics: Vec<String> = (of_scenario.chunk_by(|a, b| a.metric == b.metric))
            .map(|same| {
                let peers: Vec<String> = same.iter().map(Beaten::peer_and_factor).collect();
                format!("{}: {}", same[0].metric.name(), peers.join(", "))
            })
            .collect();
        _ = writeln!(text, "| {} | {} |", of_scenario[0].scenario, metrics.join("; "));
    }
    text
}

/// Returns the list for the terminal: one entry for each scenario and metric.
pub fn beaten_text(report: &Report) -> String {
    let list = beaten(report);
    let mut text = String::from("=== Where a peer is better by more than 3 %\n\n");
    if list.is_empty() {
        text.push_str("  No peer was better in this run.\n");
    }
    for same in list.chunk_by(|a, b| a.scenario == b.scenario && a.metric == b.metric) {
        let peers: Vec<String> =
            same.iter().map(|b| format!("{} {} ({})", b.peer, number(b.theirs), b.by())).collect();
        let (title, ours) = (same[0].metric.title(), number(same[0].ours));
        text.push_str(&wrapped(&format!("{}: {title}: sockman {ours};", same[0].scenario), "  "));
        text.push_str(&wrapped(&peers.join(", "), "      "));
    }
    text
}
