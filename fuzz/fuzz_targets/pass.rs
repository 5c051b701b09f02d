//! Fuzzes the whole loop. The input is a sequence of events for a `SockMan` on the simulated
//! network, and the simulator's model must agree with everything that the `SockMan` does.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(failure) = simulator::run_bytes(bytes) {
        panic!("{failure}");
    }
});
