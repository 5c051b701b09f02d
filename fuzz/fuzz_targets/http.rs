//! Fuzzes the parser of the HTTP server with any bytes in any pieces. The parser must find the same
//! requests and the same end as in the uncut bytes. Its memory must stay within a small multiple of
//! the bytes that have arrived.
#![no_main]

use std::alloc::System;

use libfuzzer_sys::fuzz_target;
use sockman_http_rpc::{
    parser::{MAX_HEAD, RequestParser},
    testing::parse,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The limit is small, so that lengths in the input exceed it.
const MAX_BODY: usize = 1000;
/// Returns the most bytes that the parser may keep: twice what has arrived, because a growing
/// buffer doubles, and the capacity that an empty buffer may keep.
fn allowed(arrived: usize) -> usize {
    2 * arrived.min(MAX_HEAD + MAX_BODY) + 6 * 1024
}

// The first two bytes are two lengths, which the pieces have in turn.
fuzz_target!(|input: &[u8]| {
    let [first, second, bytes @ ..] = input else { return };
    let lengths = [usize::from(*first).max(1), usize::from(*second).max(1)];
    let mut rest = bytes;
    let pieces: Vec<&[u8]> = lengths
        .iter()
        .cycle()
        .map_while(|length| {
            let (piece, others) = rest.split_at(rest.len().min(*length));
            rest = others;
            (!piece.is_empty()).then_some(piece)
        })
        .collect();

    let whole = parse([bytes], MAX_BODY);
    assert_eq!(parse(pieces.iter().copied(), MAX_BODY), whole);
    assert_eq!(parse(bytes.chunks(1), MAX_BODY), whole);

    assert_memory_is_bounded(&[bytes]);
    assert_memory_is_bounded(&pieces);
});

fn assert_memory_is_bounded(pieces: &[&[u8]]) {
    let region = Region::new(ALLOCATOR);
    let mut parser = RequestParser::new(MAX_BODY);
    let mut arrived = 0;
    for piece in pieces {
        parser.receive(piece);
        arrived += piece.len();
        while let Ok(Some(_)) = parser.next(|_| Ok(())) {}
        let change = region.change();
        let kept = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
        assert!(kept <= allowed(arrived), "the parser keeps {kept} bytes after {arrived}");
    }
}
