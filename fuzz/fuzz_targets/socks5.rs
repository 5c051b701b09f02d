//! A SOCKS5 proxy that says anything, in any pieces, and then closes or falls silent: the outcome is
//! the one that an independent reading of its bytes gives, and what lies behind its reply arrives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockman_test_support::socks5_oracle::{End, expected, run};

// Three bytes of plan: what the client has and how the proxy ends, and two lengths of pieces that
// take turns.
fuzz_target!(|input: &[u8]| {
    let [plan, first, second, bytes @ ..] = input else { return };
    let has_credentials = plan & 1 != 0;
    let end = if plan & 2 != 0 { End::Closes } else { End::FallsSilent };
    let lengths = [usize::from(*first).max(1), usize::from(*second).max(1)];
    let mut rest = bytes;
    let pieces = lengths.iter().cycle().map_while(|length| {
        let (piece, others) = rest.split_at(rest.len().min(*length));
        rest = others;
        (!piece.is_empty()).then_some(piece)
    });
    let outcome = run(pieces, has_credentials, end);
    assert_eq!(outcome, expected(bytes, has_credentials, end));
});
