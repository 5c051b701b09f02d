//! The end of a run on the terminal: medians, and ratios to the limit.
use std::fmt::Write;

use crate::report::{Figure, LIMIT, Metric, Report};

/// Percent of a core, from which on a side is what limits the rate.
const BUSY: f64 = 95.0;

/// Three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// For each scenario and metric, every peer's median and its ratio to the limit in the same rounds;
/// then how busy both sides were.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for (scenario, metric) in headings(report) {
        let _ = writeln!(text, "{scenario}, {metric:?}");
        let limit = report.figure(scenario, LIMIT, metric);
        let of_it = |f: &&Figure| f.scenario == scenario && f.metric == metric;
        for figure in report.figures.iter().filter(of_it) {
            let ratio = limit.and_then(|limit| figure.ratio_to(limit)).filter(|r| r.is_finite());
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} × {LIMIT}"));
            let median = short(figure.median());
            let spread = format!("{} – {}", short(figure.min()), short(figure.max()));
            let _ = writeln!(text, "  {:<18}{median:>9}  {spread:<20}{ratio}", figure.peer);
        }
    }
    let _ = writeln!(text, "share of its core in %: the server's, then the load generator's");
    let mut latest = "";
    for shares in &report.shares {
        if shares.scenario != latest {
            latest = &shares.scenario;
            let _ = writeln!(text, "  {latest}");
        }
        let server = shares.server * 100.0;
        let _ = write!(text, "    {:<18}{server:>4.0}", shares.peer);
        let _ = match shares.load.map(|load| load * 100.0) {
            None => writeln!(text, "  spins"),
            Some(load) if load > BUSY && server < BUSY => {
                writeln!(text, "{load:>5.0}  limited by the load")
            }
            Some(load) => writeln!(text, "{load:>5.0}"),
        };
    }
    for sentence in &report.not_measured {
        let _ = writeln!(text, "not measured: {sentence}");
    }
    text
}

/// In the order in which they were measured first.
fn headings(report: &Report) -> Vec<(&str, Metric)> {
    let mut headings = Vec::new();
    for figure in &report.figures {
        let heading = (figure.scenario.as_str(), figure.metric);
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings
}
