//! How scenarios and peers are named in a report, and in which order peers are shown.

use crate::report::{LIMIT, Report, SOCKMAN};

/// The part of `group/what` before the first slash.
pub fn group(scenario: &str) -> &str {
    scenario.split_once('/').map_or(scenario, |(group, _)| group)
}

/// The part of `group/what` behind the first slash; all of it if there is none.
pub fn what(scenario: &str) -> &str {
    scenario.split_once('/').map_or(scenario, |(_, what)| what)
}

/// Every group of the report, in the order in which it was measured.
pub fn groups(report: &Report) -> Vec<String> {
    let figures = report.figures.iter().map(|f| &f.scenario);
    let distributions = report.distributions.iter().map(|d| &d.scenario);
    in_order(figures.chain(distributions).map(|scenario| group(scenario)))
}

/// Ourselves, whatever the options: `sockman`, `sockman-no-sweep`.
pub fn is_sockman(peer: &str) -> bool {
    peer.starts_with(SOCKMAN)
}

/// A loop around `poll(2)`, in whichever language.
pub fn is_poll(peer: &str) -> bool {
    peer.starts_with("poll")
}

/// Each name once: `sockman` and its variants, the limit, the other peers that are always there,
/// then the rest as they come.
pub fn peers_in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut peers = in_order(names);
    peers.sort_by_key(|peer| match peer.as_str() {
        SOCKMAN => 0,
        peer if is_sockman(peer) => 1,
        LIMIT => 2,
        "mio" => 3,
        "tokio" => 4,
        "message-io" => 5,
        peer if is_poll(peer) => 6,
        _ => 7,
    });
    peers
}

/// Each once, in the order of their first appearance.
pub fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        if !seen.iter().any(|s| s == name) {
            seen.push(name.to_owned());
        }
    }
    seen
}

/// The numbers in a scenario's name: `64 × 4 KiB` has 64 and 4, `10,000 idle` and `10k` have
/// 10000.
pub fn numbers(what: &str) -> Vec<u64> {
    let joined = what.replace(',', "");
    let mut numbers = Vec::new();
    let mut rest = joined.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        let thousands =
            after.strip_prefix('k').is_some_and(|r| !r.starts_with(char::is_alphabetic));
        if let Ok(number) = digits.parse::<u64>() {
            numbers.push(if thousands { number * 1000 } else { number });
        }
        rest = after;
    }
    numbers
}
