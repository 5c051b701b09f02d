//! The simulator over a thousand or more seeds, and tests of the simulator itself. For a million
//! seeds: `cargo run --release -p simulator -- --seeds 1000000`.

#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use simulator::{KINDS, Kernel};

/// The number of seeds. The seeds take a few seconds, with and without optimisation.
const SEEDS: u64 = if cfg!(debug_assertions) { 1000 } else { 8000 };

/// G1 to G9, G11, G12, G14: they hold in every seed, and every kind of event happens.
#[test]
fn the_guarantees_hold_over_thousands_of_seeds() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        match simulator::run(Kernel::Linux, seed) {
            Ok(report) => {
                for (kind, count) in report.counts {
                    *counts.entry(kind).or_default() += count;
                }
            }
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    let never: Vec<_> = KINDS.iter().filter(|kind| !counts.contains_key(*kind)).collect();
    assert!(never.is_empty(), "kinds of events that never happened: {never:?}");
}

/// The same seed gives the same report.
#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 77, 4242] {
        let reports = [(); 2].map(|()| {
            format!("{:?}", simulator::run(Kernel::Linux, seed).expect("the guarantees hold"))
        });
        assert_eq!(reports[0], reports[1]);
    }
}

/// A run with the bytes of a fuzzer ends where the bytes end.
#[test]
fn bytes_in_place_of_a_seed_drive_a_run() {
    for length in [0_u8, 1, 2, 40, 200] {
        let bytes: Vec<u8> = (0..length).map(|at| at.wrapping_mul(151)).collect();
        let report = simulator::run_bytes(&bytes).expect("the guarantees hold");
        assert!(u64::from(report.steps) <= u64::from(length) + 1);
    }
}

/// The fuzz target `pass` found such a case: eight connects begin before a start, with a batch of
/// one. Each pass advances one connect. The model once reported these passes as a spin.
#[test]
fn a_pass_for_each_connect_is_no_spin() {
    let mut bytes = vec![0x2b, 0xd3, 0x3f, 0xbe, 0x00, 0xc2, 0x1e];
    bytes.extend([0x0e; 88]);
    bytes.extend([0x17; 12]);
    let report = simulator::run_bytes(&bytes).expect("the guarantees hold");
    assert!(report.counts["a connect was begun"] >= 8);
}
