//! Twenty seconds of the torture over real loopback. The program `torture` checks itself. For five
//! minutes: `cargo run --release -p simulator --bin torture -- --seconds 300`.

#![allow(clippy::unwrap_used)]

use std::process::Command;

/// G5, G7, G10, G11, G14: they hold between two processes with a thousand connections.
#[test]
fn every_stream_that_is_not_cut_short_arrives_whole() {
    // The seed also decides whether the sweep is on. The test must pass with any seed.
    let seed = std::process::id().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(["--seconds", "20", "--connections", "1000", "--seed", &seed])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed}:\n{out}{err}");
    assert!(out.contains("in order"), "{out}");
}
