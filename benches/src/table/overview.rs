//! A table of the few figures that decide between libraries, for `docs/performance.md`.

use std::fmt::Write;

use super::{
    capitalised,
    grid::{best, is_tie},
    metric::number,
    names::is_poll,
};
use crate::report::{FIRST_PROGRAM, Figure, LIMIT, Metric, Report, SOCKMAN};

/// The last column has the loop around `poll(2)`, in C or in Rust: the shape of Bitcoin Core's.
/// The column of the first program is left out if the run has no figure for it.
const COLUMNS: [&str; 7] = [SOCKMAN, FIRST_PROGRAM, LIMIT, "mio", "tokio", "message-io", POLL_LOOP];
const POLL_LOOP: &str = "poll loop";

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
    let is_measured =
        |column| ROWS.iter().any(|row| of_column(report, row.1, row.2, column).is_some());
    let columns: Vec<&str> = COLUMNS
        .into_iter()
        .filter(|&column| column != FIRST_PROGRAM || is_measured(column))
        .collect();
    let mut text =
        format!("| | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(columns.len()));
    for (what, scenario, metric) in ROWS {
        let figures: Vec<Option<&Figure>> =
            columns.iter().map(|column| of_column(report, scenario, metric, column)).collect();
        let present: Vec<&Figure> = figures.iter().copied().flatten().collect();
        let Some(best) = best(metric, &present) else { continue };
        let cells = figures.into_iter().map(|figure| match figure {
            None => "–".to_owned(),
            Some(figure) => {
                let shown = number(metric.shown(figure.median()));
                if is_tie(metric, figure, best) { format!("**{shown}**") } else { shown }
            }
        });
        let (cells, title) = (cells.collect::<Vec<_>>().join(" | "), metric.title());
        _ = writeln!(text, "| {}: {title} | {cells} |", capitalised(what));
    }
    text
}

fn of_column<'a>(
    report: &'a Report,
    scenario: &str,
    metric: Metric,
    column: &str,
) -> Option<&'a Figure> {
    report.figures.iter().find(|f| {
        let is_peer = if column == POLL_LOOP { is_poll(&f.peer) } else { f.peer == column };
        f.scenario == scenario && f.metric == metric && is_peer
    })
}
