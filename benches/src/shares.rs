//! Prints how busy the server and the load were, which shows the side that limited a rate.
use std::fmt::Write;

use crate::report::Report;

/// The percentage of a core above which the side that uses the core limits the rate.
const BUSY: f64 = 95.0;

/// Returns the shares as text for the terminal.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    if report.shares.is_empty() {
        return text;
    }
    let _ = writeln!(text, "share of its core in %: the server, then the load generator");
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
    text
}
