//! The whole loop: what the bytes say happens to a `SockMan` over the simulated network, and the
//! model has to agree with all that it does.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(failure) = simulator::run_bytes(bytes) {
        panic!("{failure}");
    }
});
