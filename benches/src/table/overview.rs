//! A table of the few figures that decide between libraries, for `docs/performance.md`.

use std::fmt::Write;

use super::{
    capitalised,
    grid::{best, is_tie},
    metric::number,
    names::is_poll,
};
use crate::report::{Figure, LIMIT, Metric, Report, SOCKMAN};

/// The last column has the loop around `poll(2)`, in C or in Rust: the shape of Bitcoin Core's.
const COLUMNS: [&str; 6] = [SOCKMAN, LIMIT, "mio", "tokio", "message-io", "poll loop"];

/// What a row says, its scenario and its metric.
const ROWS: [(&str, &str, Metric); 17] = [
    ("echo, 1 connection", "echo/1 × 64 B", Metric::CpuPerMessage),
    ("echo, 64 connections", "echo/64 × 64 B", Metric::CpuPerMessage),
    ("echo, 1,000 connections", "echo/1000 × 64 B", Metric::CpuPerMessage),
    ("pipelined", "pipelined/16 × 64 B × 16 deep", Metric::CpuPerMessage),
    ("echo beside 10,000 idle connections", "beside idle/10000", Metric::CpuPerMessage),
    ("echo, 64 connections", "echo/64 × 64 B", Metric::LatencyP99),
    ("10,000 idle connections", "idle/10000", Metric::CpuPerSecond),
    ("10,000 idle connections", "idle/10000", Metric::BytesPerConnection),
    ("upload", "upload/64 KiB writes, 4 connections", Metric::Throughput),
    ("download", "download/256 KiB sends", Metric::Throughput),
    ("accept, echo, reset", "accept/connect + echo 1 byte + reset", Metric::CpuPerConnection),
    ("wake of an idle loop", "wake/idle loop", Metric::LatencyP50),
    ("wake of an idle loop", "wake/idle loop", Metric::LatencyP99),
    ("reply from a worker thread", "keep-alive/reply from a worker", Metric::LatencyP50),
    ("interrupt to join, 1,000 idle", "interrupt → join/1000 idle connections", Metric::LatencyP99),
    ("cancel of a connect", "connect cancel/one connect", Metric::LatencyP50),
    ("echo, 64 connections", "instruments/instructions, 64 × 64 B", Metric::Instructions),
];

/// Returns the table. A row of which nothing was measured is left out.
pub fn overview_markdown(report: &Report) -> String {
    let mut text =
        format!("| | {} |\n|---|{}\n", COLUMNS.join(" | "), "--:|".repeat(COLUMNS.len()));
    for (what, scenario, metric) in ROWS {
        let figures = COLUMNS.map(|column| of_column(report, scenario, metric, column));
        let present: Vec<&Figure> = figures.iter().copied().flatten().collect();
        let Some(best) = best(metric, &present) else { continue };
        let cells = figures.map(|figure| match figure {
            None => "–".to_owned(),
            Some(figure) => {
                let shown = number(metric.shown(figure.median()));
                if is_tie(metric, figure, best) { format!("**{shown}**") } else { shown }
            }
        });
        let title = metric.title();
        _ = writeln!(text, "| {}: {title} | {} |", capitalised(what), cells.join(" | "));
    }
    text
}

fn of_column<'a>(
    report: &'a Report,
    scenario: &str,
    metric: Metric,
    column: &str,
) -> Option<&'a Figure> {
    let is_last = column == COLUMNS[COLUMNS.len() - 1];
    report.figures.iter().find(|f| {
        let is_peer = if is_last { is_poll(&f.peer) } else { f.peer == column };
        f.scenario == scenario && f.metric == metric && is_peer
    })
}
