//! The dialogue with a SOCKS5 proxy byte by byte, in a network in memory: cut everywhere, stalled
//! everywhere, each byte replaced by each other one. What has to come of it is worked out by an
//! oracle that shares nothing with the library.

use sockman_test_support::socks5_oracle::{End, Outcome, expected, run};

/// All that a proxy says, with what the destination says behind it.
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
        "of {pieces:?}, with credentials: {has_credentials}, {end:?}"
    );
}

#[test]
fn a_dialogue_cut_in_two_anywhere_or_in_single_bytes_comes_to_the_same() {
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

/// One deadline over all of it, told with its phase, however the time before went.
#[test]
fn a_proxy_that_stops_after_any_byte_times_out_or_broke_off_in_that_phase() {
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
fn every_byte_replaced_by_every_other_comes_to_what_it_means() {
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
    // The oracle is no yes-man: bound addresses, ports and payload may be anything, little else.
    assert!(connected > 10_000);
}
