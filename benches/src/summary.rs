//! The end of a run on the terminal: medians, and ratios to the limit.
use std::{collections::BTreeMap, fmt::Write};

use crate::report::{Figure, LIMIT, Metric, Report};

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

/// For each scenario and metric, every peer's median and its ratio to the limit in the same rounds.
pub fn text(report: &Report) -> String {
    let mut rows: BTreeMap<(&str, Metric), Vec<&Figure>> = BTreeMap::new();
    for figure in &report.figures {
        rows.entry((&figure.scenario, figure.metric)).or_default().push(figure);
    }
    let mut text = String::new();
    for ((scenario, metric), figures) in rows {
        let _ = writeln!(text, "{scenario}, {metric:?}");
        let limit = figures.iter().find(|figure| figure.peer == LIMIT);
        for figure in &figures {
            let ratio = limit.and_then(|limit| figure.ratio_to(limit)).filter(|r| r.is_finite());
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} × {LIMIT}"));
            let median = short(figure.median());
            let spread = format!("{} – {}", short(figure.min()), short(figure.max()));
            let _ = writeln!(text, "  {:<18}{median:>9}  {spread:<20}{ratio}", figure.peer);
        }
    }
    for shares in &report.shares {
        if shares.load > shares.server {
            let (who, load, server) = (&shares.peer, shares.load * 100.0, shares.server * 100.0);
            let what = &shares.scenario;
            let _ = writeln!(
                text,
                "limited by the load: {what}, {who}: {load:.0} % of its core, the server {server:.0} %"
            );
        }
    }
    for sentence in &report.not_measured {
        let _ = writeln!(text, "not measured: {sentence}");
    }
    text
}
