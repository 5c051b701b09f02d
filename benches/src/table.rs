//! A report as tables: in Markdown for the documentation, as text for the terminal. The tables have
//! every figure of the report, grouped by the part of the scenario's name before the slash.

use std::fmt::Write;

use crate::report::Report;

mod beaten;
mod grid;
mod hostile;
mod metric;
mod names;
mod overview;
mod targets;
#[cfg(test)]
mod tests;

pub use beaten::{beaten_markdown, beaten_text};
use grid::{Cell, Grid};
pub use grid::{grids, is_supported, ratio_by_rounds};
pub use hostile::hostile_markdown;
pub use metric::number;
pub use names::{group, groups, in_order, is_poll, is_sockman, numbers, peers_in_order, what};
pub use overview::overview_markdown;
pub use targets::{Target, targets, targets_markdown, targets_text};

/// Figures within this factor count as equal, because two runs of one program differ by as much.
pub const TIE: f64 = 1.03;

/// The length of a line on the terminal, characters.
const WIDTH: usize = 110;

/// Returns the table of a group in Markdown: the rows of each metric below its name.
pub fn markdown(report: &Report, group: &str) -> String {
    let grids = grids(report, group);
    let peers = peers_in_order(grids.iter().flat_map(|grid| &grid.peers).map(String::as_str));
    let mut text = format!("| | {} |\n|---|{}\n", peers.join(" | "), "--:|".repeat(peers.len()));
    for grid in &grids {
        let arrow = if grid.higher_is_better { " ↑" } else { "" };
        _ = writeln!(text, "| **{}**{arrow} |", capitalised(&grid.title));
        let columns: Vec<Option<usize>> =
            peers.iter().map(|peer| grid.peers.iter().position(|p| p == peer)).collect();
        for row in &grid.rows {
            let cells = columns.iter().map(|column| column.and_then(|i| row.cells[i].as_ref()));
            let cells: Vec<String> = cells.map(markdown_cell).collect();
            _ = writeln!(text, "| {} | {} |", row.what.replace('|', "\\|"), cells.join(" | "));
        }
    }
    text
}

/// Explains the tables of a page, once for all of them.
pub fn legend() -> &'static str {
    "Each figure is the median of the rounds. Lower is better; ↑: higher is better. × is the ratio \
     to `epoll C`, or to tokio if `epoll C` was not measured, if it is below 0.97 or above 1.03: \
     the median of the ratios round by round, not the quotient of the two medians. ~: the ratios \
     (where there is none: the rounds) differ by more than 10 %. Bold is the best figure and every \
     figure within 3 % of it. – was not measured."
}

/// Returns the tables of all groups for the terminal, and what was not measured.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for group in groups(report) {
        _ = writeln!(text, "=== {group}\n");
        for grid in grids(report, &group) {
            _ = writeln!(text, "{} ({})", capitalised(&grid.title), notes(&grid));
            text.push_str(&aligned(&grid));
            text.push('\n');
        }
    }
    text.push_str("* the best, or within 3 % of it    ");
    text.push_str("~ the rounds (or their ratios) differ by more than 10 %\n");
    if !report.not_measured.is_empty() {
        text.push_str("\n=== Not measured\n\n");
        for sentence in &report.not_measured {
            text.push_str(&wrapped(sentence, "  "));
        }
    }
    text
}

/// Returns the whole text of a run for the terminal, with the most important part at the end.
pub fn summary(report: &Report) -> String {
    [text(report), beaten_text(report), targets_text(&targets(report))].join("\n")
}

/// Wraps a sentence into lines of at most [`WIDTH`] characters, each with `indent` before it.
fn wrapped(sentence: &str, indent: &str) -> String {
    let mut text = String::new();
    let mut line = indent.to_owned();
    for word in sentence.split_whitespace() {
        let is_first = line.trim().is_empty();
        if !is_first && length(&line) + 1 + length(word) > WIDTH {
            _ = writeln!(text, "{line}");
            line = indent.to_owned();
        } else if !is_first {
            line.push(' ');
        }
        line.push_str(word);
    }
    _ = writeln!(text, "{line}");
    text
}

fn notes(grid: &Grid) -> String {
    let direction = if grid.higher_is_better { "higher is better" } else { "lower is better" };
    match &grid.reference {
        Some(reference) => format!("{direction}; x: against {reference}"),
        None => direction.to_owned(),
    }
}

fn markdown_cell(cell: Option<&Cell>) -> String {
    let Some(cell) = cell else { return "–".to_owned() };
    let mut text = if cell.is_best { format!("**{}**", cell.median) } else { cell.median.clone() };
    if let Some(ratio) = cell.ratio.filter(|ratio| !(1.0 / TIE..=TIE).contains(ratio)) {
        _ = write!(text, " ×{}", factor(ratio));
    }
    if cell.is_noisy {
        text.push('~');
    }
    text
}

fn text_cell(cell: &Option<Cell>) -> String {
    let Some(cell) = cell else { return "–  ".to_owned() };
    let ratio = cell.ratio.map_or_else(String::new, |ratio| format!(" x{}", factor(ratio)));
    let best = if cell.is_best { '*' } else { ' ' };
    let noisy = if cell.is_noisy { '~' } else { ' ' };
    format!("{}{ratio}{best}{noisy}", cell.median)
}

fn factor(ratio: f64) -> String {
    if ratio < 9.995 { format!("{ratio:.2}") } else { number(ratio) }
}

/// Formats a grid in columns of one width. Peers that do not fit into a line come below the others.
fn aligned(grid: &Grid) -> String {
    let cells: Vec<Vec<String>> =
        grid.rows.iter().map(|row| row.cells.iter().map(text_cell).collect()).collect();
    let label = grid.rows.iter().map(|row| length(&row.what)).max().unwrap_or(0);
    // Two marks follow each cell.
    let head = grid.peers.iter().map(|peer| length(peer) + 2);
    let column = cells.iter().flatten().map(|cell| length(cell)).chain(head).max().unwrap_or(0) + 1;
    let fit = (WIDTH.saturating_sub(label + 2) / column).max(1);

    let mut text = String::new();
    for first in (0..grid.peers.len()).step_by(fit) {
        let columns = first..(first + fit).min(grid.peers.len());
        let names = grid.peers[columns.clone()].iter().map(|peer| format!("{peer}  "));
        line(&mut text, "", label, names, column);
        for (row, cells) in grid.rows.iter().zip(&cells) {
            line(&mut text, &row.what, label, cells[columns.clone()].iter().cloned(), column);
        }
    }
    text
}

fn line(
    text: &mut String,
    name: &str,
    label: usize,
    cells: impl Iterator<Item = String>,
    column: usize,
) {
    let mut line = format!("  {name:<label$}");
    for cell in cells {
        _ = write!(line, "{cell:>column$}");
    }
    _ = writeln!(text, "{}", line.trim_end());
}

/// Returns the width on the terminal: every character that the suite prints takes one column.
fn length(text: &str) -> usize {
    text.chars().count()
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
