//! No log line of any level, no error and no `Debug` text contains a private key of I2P, even if a
//! bridge sends the key back in place of a message. Runs in a process of its own, because the
//! logger belongs to the process.

use std::fs;

use sockman::{
    ConnectOptions, SockMan,
    address::Destination,
    i2p::{I2pOptions, I2pStatus},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder,
    child::in_child,
    sam::{Bridge, Play, address_of, base64, destination, private_key},
    tools::TempDir,
    without_sweep,
};

use crate::log_lines::{logged, start_logging};

/// A part of the key of this length counts as a leak.
const TELLING: usize = 40;

#[test]
fn private_keys_are_in_no_log_line_no_error_and_no_debug_text() {
    in_child(private_keys_are_in_no_log_line_no_error_and_no_debug_text, || {
        start_logging();
        let key = base64().encode(&private_key(99));
        let says = |text: String| move |_: &str| Play::SayAndClose(text.clone().into_bytes());
        let once_said = |request: &'static str, text: String| {
            move |line: &str| {
                if line.starts_with(request) {
                    Play::SayAndClose(text.clone().into_bytes())
                } else {
                    Play::Properly
                }
            }
        };
        // The library cuts a text that it shows, so the test puts the secret part first.
        let secret = key[524..].to_owned();
        let bridges = [
            Bridge::start(),
            Bridge::planned(says(format!("{secret}\n"))),
            Bridge::planned(once_said(
                "SESSION",
                format!("SESSION STATUS RESULT={secret} MESSAGE=\"{secret}\"\n"),
            )),
            Bridge::planned(says(format!("{key}\n"))),
            Bridge::planned(once_said("SESSION", format!("{key} {key}={key}\n"))),
            Bridge::planned(once_said(
                "SESSION",
                format!("SESSION STATUS RESULT={key} MESSAGE=\"{key}\"\n"),
            )),
            Bridge::planned(once_said(
                "SESSION",
                format!("SESSION STATUS RESULT=I2P_ERROR MESSAGE=\"the key is {key}, no?\"\n"),
            )),
        ];
        let mut texts = Vec::new();
        for (number, bridge) in bridges.iter().enumerate() {
            let directory = TempDir::new();
            let path = directory.path("key");
            fs::write(&path, private_key(99)).unwrap();
            let i2p = I2pOptions::new(bridge.address.clone()).key_file(path).accept_incoming(true);
            let recorder = Recorder::new();
            let options = without_sweep().i2p(i2p);
            texts.push(format!("{options:?}"));
            let sockman = SockMan::new(recorder.clone(), options).unwrap();
            let threads = sockman.start_sockets_threads().unwrap();
            recorder.wait_for_event("an I2P status", |event| matches!(event, Event::I2p(..)));
            let to = Destination::from(address_of(&destination(7)));
            let options = ConnectOptions::default().timeout(DEADLINE).is_important(true);
            let outcome = sockman.connect(&to, &options);
            texts.push(format!("{outcome:?} {sockman:?}"));
            assert_eq!(outcome.is_ok(), number == 0, "{outcome:?}");
            if let Err(error) = outcome {
                texts.push(error.to_string());
            }
            let status = recorder.events().into_iter().find_map(|event| match event {
                Event::I2p(_, status) => Some(status),
                _ => None,
            });
            let is_well = status == Some(I2pStatus::StartListening);
            assert_eq!(is_well, number == 0);
            sockman.interrupt();
            threads.join().unwrap();
        }
        let lines = logged();
        assert!(lines.iter().any(|line| line.starts_with("WARN sockman::i2p: cannot accept")));
        // The public part may be shown; the part behind it may not.
        for text in lines.iter().chain(&texts) {
            for at in 0..secret.len() - TELLING {
                assert!(
                    !text.contains(&secret[at..at + TELLING]),
                    "this text contains a part of the key: {text}"
                );
            }
        }
    });
}

/// Returns `secret` in pieces, each way in which a bridge might cut a key into a message.
fn cuts(secret: &str) -> Vec<String> {
    let pieces = |length: usize, between: &str| {
        let pieces: Vec<&str> = secret
            .as_bytes()
            .chunks(length)
            .map(|part| std::str::from_utf8(part).unwrap())
            .collect();
        pieces.join(between)
    };
    vec![
        pieces(60, " "),
        pieces(8, " "),
        pieces(8, ","),
        pieces(8, "\\\""),
        pieces(8, "\t"),
        pieces(8, "\u{200b}"),
        pieces(8, "="),
        secret[..70].to_owned(),
        secret[..8].to_owned(),
    ]
}

/// No text that a bridge sends is shown, in whatever cut it contains a key, and whichever reply
/// contains it.
#[test]
fn no_text_of_a_bridge_is_shown_because_it_could_contain_a_key() {
    in_child(no_text_of_a_bridge_is_shown_because_it_could_contain_a_key, || {
        start_logging();
        let key = base64().encode(&private_key(99));
        let secret = key[524..].to_owned();
        let mut texts = Vec::new();
        for (request, verbs) in [
            ("HELLO", "HELLO REPLY"),
            ("SESSION CREATE", "SESSION STATUS"),
            ("NAMING LOOKUP", "NAMING REPLY"),
            ("STREAM CONNECT", "STREAM STATUS"),
            ("STREAM ACCEPT", "STREAM STATUS"),
        ] {
            for cut in cuts(&secret) {
                for line in [
                    format!("{verbs} RESULT=I2P_ERROR MESSAGE=\"{cut}\"\n"),
                    format!("{verbs} RESULT=CANT_REACH_PEER MESSAGE=\"{cut}\""),
                    format!("{verbs} RESULT=\"{cut}\"\n"),
                    format!("{cut}\n"),
                    format!("{verbs} {cut} RESULT=OK VALUE=\"{cut}\" DESTINATION=\"{cut}\"\n"),
                    format!("{verbs} RESULT=OK\n{cut}\n"),
                ] {
                    let bridge = Bridge::planned(move |asked: &str| {
                        if asked.starts_with(request) {
                            Play::SayAndClose(line.clone().into_bytes())
                        } else {
                            Play::Properly
                        }
                    });
                    let directory = TempDir::new();
                    let path = directory.path("key");
                    fs::write(&path, private_key(99)).unwrap();
                    let accepts = request == "STREAM ACCEPT";
                    let i2p = I2pOptions::new(bridge.address.clone())
                        .key_file(path)
                        .accept_incoming(accepts);
                    let recorder = Recorder::new();
                    let sockman = SockMan::new(recorder.clone(), without_sweep().i2p(i2p)).unwrap();
                    if accepts {
                        let threads = sockman.start_sockets_threads().unwrap();
                        recorder.wait_for_event("the failure", |event| {
                            matches!(event, Event::I2p(_, I2pStatus::StopListening))
                        });
                        sockman.interrupt();
                        threads.join().unwrap();
                    } else {
                        let to = Destination::from(address_of(&destination(7)));
                        let options = ConnectOptions::default().timeout(DEADLINE);
                        match sockman.connect(&to, &options) {
                            Ok(new) => texts.push(format!("{new:?}")),
                            Err(error) => texts.push(format!("{error} {error:#} {error:?}")),
                        }
                    }
                }
            }
        }
        for text in logged().iter().chain(&texts) {
            for at in 0..secret.len() - SHORT {
                assert!(
                    !text.contains(&secret[at..at + SHORT]),
                    "this text contains a part of the key: {text}"
                );
            }
        }
    });
}

/// A part of this length is in no other text of the test.
const SHORT: usize = 6;
