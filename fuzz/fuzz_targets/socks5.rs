//! Fuzzes the SOCKS5 client with a proxy that sends any bytes in any pieces, and then closes or
//! goes silent. The outcome must be the one that an independent parser derives from the bytes, and
//! the bytes after the proxy's reply must arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockman_test_support::socks5_oracle::{End, expected, run};

// The first byte says whether the client has credentials and how the proxy ends. The next two bytes
// are lengths, which the pieces have in turn.
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
