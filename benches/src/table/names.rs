//! The names of scenarios and peers in a report, and the order in which peers are shown.

use crate::report::{LIMIT, Report, SOCKMAN};

/// Returns the part of `group/what` before the first slash.
pub fn group(scenario: &str) -> &str {
    scenario.split_once('/').map_or(scenario, |(group, _)| group)
}

/// Returns the part of `group/what` after the first slash, or the whole name if it has no slash.
pub fn what(scenario: &str) -> &str {
    scenario.split_once('/').map_or(scenario, |(_, what)| what)
}

/// Returns every group of the report in the order of measurement.
pub fn groups(report: &Report) -> Vec<String> {
    let figures = report.figures.iter().map(|f| &f.scenario);
    let distributions = report.distributions.iter().map(|d| &d.scenario);
    in_order(figures.chain(distributions).map(|scenario| group(scenario)))
}

/// Returns whether the peer is `sockman`, with any options: `sockman`, `sockman-no-sweep`.
pub fn is_sockman(peer: &str) -> bool {
    peer.starts_with(SOCKMAN)
}

/// Returns whether the peer is a loop around `poll(2)`, in C or in Rust.
pub fn is_poll(peer: &str) -> bool {
    peer.starts_with("poll")
}

/// Returns the names in the order of the tables, each name once: `sockman` and its variants, the
/// limit, the other peers that this suite has, then all other names in their order.
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

/// Returns each name once, in the order of the first appearances.
pub fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        if !seen.iter().any(|s| s == name) {
            seen.push(name.to_owned());
        }
    }
    seen
}

/// Returns the numbers in the name of a scenario: 64 and 4 for `64 × 4 KiB`, and 10000 for both
/// `10,000 idle` and `10k`.
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
