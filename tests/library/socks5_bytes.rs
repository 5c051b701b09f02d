//! The dialogue with a SOCKS5 proxy, byte by byte, over the network in memory: cut at every byte,
//! stalled at every byte, each byte replaced by every other. An oracle that shares no code with the
//! library computes the expected outcome.

use sockman_test_support::socks5_oracle::{End, Outcome, expected, run};

/// Returns everything that a proxy sends, followed by bytes of the destination.
fn dialogues() -> Vec<(bool, Vec<u8>)> {
    let replies: [Vec<u8>; 3] = [
        b"\x05\x00\x00\x01\x01\x02\x03\x04\x20\x8d".to_vec(),
        [&b"\x05\x00\x00\x04"[..], &[7; 16], b"\x20\x8d"].concat(),
        b"\x05\x00\x00\x03\x09name.test\x20\x8d".to_vec(),
    ];
    let mut dialogues = Vec::new();
    for reply in replies {
        dialogues.push((false, [b"\x05\x00", &reply[..], b"behind"].concat()));
        dialogues.push((true, [b"\x05\x00", &reply[..], b"behind"].concat()));
        dialogues.push((true, [b"\x05\x02\x01\x00", &reply[..], b"behind"].concat()));
    }
    dialogues
}

fn check(bytes: &[u8], pieces: &[&[u8]], has_credentials: bool, end: End) {
    let outcome = run(pieces.iter().copied(), has_credentials, end);
    assert_eq!(
        outcome,
        expected(bytes, has_credentials, end),
        "the proxy sent {pieces:?}, with credentials: {has_credentials}, {end:?}"
    );
}

#[test]
fn a_dialogue_cut_in_two_anywhere_or_into_single_bytes_gives_the_same_outcome() {
    for (has_credentials, bytes) in dialogues() {
        for end in [End::Closes, End::FallsSilent] {
            for cut in 0..=bytes.len() {
                let (first, second) = bytes.split_at(cut);
                check(&bytes, &[first, second], has_credentials, end);
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            check(&bytes, &single, has_credentials, end);
        }
    }
}

/// G9: one deadline covers the whole dialogue, and the error names the phase that it ended in.
#[test]
fn a_proxy_that_stops_after_any_byte_gives_an_error_that_names_the_phase() {
    for (has_credentials, bytes) in dialogues() {
        for length in 0..bytes.len() {
            let bytes = &bytes[..length];
            for end in [End::Closes, End::FallsSilent] {
                check(bytes, &[bytes], has_credentials, end);
            }
        }
    }
}

#[test]
fn every_byte_replaced_by_every_other_gives_the_expected_outcome() {
    let mut connected = 0;
    for (has_credentials, bytes) in dialogues() {
        for at in 0..bytes.len() {
            for byte in 0..=255 {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                check(&bytes, &[&bytes], has_credentials, End::FallsSilent);
                let outcome = expected(&bytes, has_credentials, End::FallsSilent);
                connected += usize::from(matches!(outcome, Outcome::Connected(_)));
            }
        }
    }
    // Many changed bytes still give a connection, because the bytes of bound addresses, ports and
    // payload may have any value.
    assert!(connected > 10_000);
}
