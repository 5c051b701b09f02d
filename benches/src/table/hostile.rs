//! A table of the scenarios with hostile connections, for `docs/performance.md`.

use std::fmt::Write;

use super::{
    grid::{best, is_tie},
    metric::number,
    names::{group, in_order, peers_in_order, what},
};
use crate::report::{Figure, Metric, Report};

/// The group of the attacks on the benign client's server.
pub const SAME: &str = "hostile";
/// The group of the attacks on another server.
const OTHER: &str = "hostile elsewhere";
/// The heading of the column with that group.
const OTHER_COLUMN: &str = "attack elsewhere";

/// Returns the table, or `None` if nothing was measured.
pub fn hostile_markdown(report: &Report) -> Option<String> {
    let figures = || report.figures.iter().filter(|f| group(&f.scenario) == SAME);
    let peers = peers_in_order(figures().map(|f| f.peer.as_str()));
    let attacks = in_order(figures().map(|f| what(&f.scenario)));
    if peers.is_empty() {
        return None;
    }
    let has_other = report.figures.iter().any(|f| group(&f.scenario) == OTHER);
    let mut heads = peers.clone();
    heads.extend(has_other.then(|| OTHER_COLUMN.to_owned()));
    let mut text = format!("| | {} |\n|---|{}\n", heads.join(" | "), "--:|".repeat(heads.len()));
    for (metric, title) in [
        (Metric::LatencyP99, "Latency, 99th percentile (longest), ms"),
        (Metric::PeakMemory, "Peak of the server's memory, MB"),
    ] {
        _ = writeln!(text, "| **{title}** |");
        for attack in &attacks {
            let scenario = format!("{SAME}/{attack}");
            let of_peers: Vec<Option<&Figure>> =
                peers.iter().map(|peer| report.figure(&scenario, peer, metric)).collect();
            let present: Vec<&Figure> = of_peers.iter().copied().flatten().collect();
            let Some(best) = best(metric, &present) else { continue };
            let cells = of_peers.into_iter().map(|figure| {
                let Some(figure) = figure else { return "–".to_owned() };
                let cell = cell(report, figure);
                if is_tie(metric, figure, best) { format!("**{cell}**") } else { cell }
            });
            let mut cells: Vec<String> = cells.collect();
            if has_other {
                let scenario = format!("{OTHER}/{attack}");
                let figure =
                    (report.figures.iter()).find(|f| f.scenario == scenario && f.metric == metric);
                cells.push(figure.map_or_else(|| "–".to_owned(), |figure| cell(report, figure)));
            }
            _ = writeln!(text, "| {attack} | {} |", cells.join(" | "));
        }
    }
    Some(text)
}

/// Formats MB, or a latency in ms with the longest latency in parentheses.
fn cell(report: &Report, figure: &Figure) -> String {
    if figure.metric != Metric::LatencyP99 {
        return number(figure.median());
    }
    let millis = |figure: &Figure| number(figure.median() / 1e3);
    let longest = report.figure(&figure.scenario, &figure.peer, Metric::LatencyMax);
    let longest = longest.map_or_else(String::new, |longest| format!(" ({})", millis(longest)));
    millis(figure) + &longest
}
