//! The tables: medians over all rounds, and ratios to the first peer, round by round.
use std::fmt::Write;

use crate::{
    cases::{Case, Peer},
    measure::{Sample, median},
};

/// One measurement of a round.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    pub case: Case,
    pub peer: Peer,
    pub round: u32,
    pub sample: Sample,
}

/// Returns the tables of all engines that were measured, in Markdown.
pub fn tables(figures: &[Figure]) -> String {
    let mut text = String::new();
    for cases in [Case::LDK, Case::TLS] {
        let measured: Vec<Case> =
            cases.iter().copied().filter(|case| figures.iter().any(|f| f.case == *case)).collect();
        let Some(first) = measured.first() else { continue };
        let (heading, peers) = (if first.is_ldk() { "LDK" } else { "TLS" }, first.peers());
        let titles: Vec<&str> = peers.iter().map(|peer| peer.title(*first)).collect();
        let _ = writeln!(text, "| {heading} | {} |", titles.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(peers.len()));
        for case in measured {
            let cells: Vec<String> = peers.iter().map(|peer| cell(figures, case, *peer)).collect();
            let row = format!("{}: {}", case.title(), case.counted().unit());
            let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

/// Returns the median of a peer. For all but the first peer, the ratio of the first one to it
/// follows: its median, its lowest and its highest value.
fn cell(figures: &[Figure], case: Case, peer: Peer) -> String {
    let of = |peer: Peer| {
        figures.iter().filter(move |figure| figure.case == case && figure.peer == peer)
    };
    let figure = number(median(&mut of(peer).map(|figure| figure.sample.cpu).collect::<Vec<_>>()));
    let first = case.peers()[0];
    if peer == first {
        return figure;
    }
    let pairs = of(peer).filter_map(|theirs| {
        let ours = of(first).find(|ours| ours.round == theirs.round)?;
        Some(ours.sample.cpu / theirs.sample.cpu)
    });
    let mut ratios: Vec<f64> = pairs.collect();
    let middle = median(&mut ratios); // They are in order now.
    match (ratios.first(), ratios.last()) {
        (Some(low), Some(high)) => format!("{figure} ({middle:.2}; {low:.2}–{high:.2})"),
        _ => figure,
    }
}

/// Returns a number with three digits, or without a fraction.
fn number(value: f64) -> String {
    match value {
        value if value >= 999.5 => {
            let whole = value.round() as u64;
            format!("{},{:03}", whole / 1000, whole % 1000)
        }
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(peer: Peer, round: u32, cpu: f64) -> Figure {
        let sample =
            Sample { cpu, rate: 1.0, server_share: 0.5, load_share: 0.5, disturbed_share: 0.0 };
        Figure { case: Case::TlsEcho, peer, round, sample }
    }

    #[test]
    fn numbers_have_three_digits_and_a_separator() {
        for (value, text) in [(1.234, "1.23"), (12.34, "12.3"), (999.4, "999"), (2077.4, "2,077")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn ratios_are_of_one_round() {
        let figures = [
            figure(Peer::Sockman, 1, 4.0),
            figure(Peer::Tokio, 1, 5.0),
            figure(Peer::Sockman, 2, 9.0),
            figure(Peer::Tokio, 2, 10.0),
            figure(Peer::Sockman, 3, 6.0),
            figure(Peer::Tokio, 3, 6.0),
        ];
        assert_eq!(cell(&figures, Case::TlsEcho, Peer::Sockman), "6.00");
        assert_eq!(cell(&figures, Case::TlsEcho, Peer::Tokio), "6.00 (0.90; 0.80–1.00)");
        assert!(tables(&figures).starts_with("| TLS | sockman-rustls | tokio-rustls |"));
    }
}
