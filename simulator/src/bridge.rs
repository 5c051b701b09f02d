//! The simulated SAM bridge: sessions and streams, and the failures of a bridge. A stream that the
//! bridge has connected becomes a peer.
//!
//! Runs on the test's thread. The model's mutex is held during calls to the doubles, which call no
//! code of the simulator.

use data_encoding::{Encoding, Specification};
use sockman::testing::{Peer, PeerListener};

use crate::{
    model::{Model, Player},
    world::World,
};

/// The byte that fills destinations and private keys.
const FILLING: u8 = 7;
/// The length of a destination, in bytes.
const DESTINATION: usize = 391;
/// The length of a private key, which begins with its destination, in bytes.
const PRIVATE_KEY: usize = 679;

/// The bridge and its sockets.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    pub(crate) listener: Option<PeerListener>,
    talks: Vec<Talk>,
    /// The control sockets of the sessions. A control socket stays open until the program or the
    /// bridge closes it.
    controls: Vec<Peer>,
}

/// One dialogue with the program.
#[derive(Debug)]
struct Talk {
    peer: Peer,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// The socket's role after the answer is sent.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    IsControl,
    IsPeer,
    IsOver,
}

/// Returns a destination, or a private key that begins with it.
pub(crate) fn key(length: usize) -> Vec<u8> {
    let mut bytes = vec![FILLING; length];
    // These bytes are the type of the certificate and its length, which is four.
    bytes[384..387].copy_from_slice(&[5, 0, 4]);
    bytes
}

/// Returns the destination that the bridge returns for every name.
pub(crate) fn destination() -> Vec<u8> {
    key(DESTINATION)
}

fn base64(bytes: &[u8]) -> String {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~");
    specification.padding = Some('=');
    let encoding: Option<Encoding> = specification.encoding().ok();
    encoding.map(|encoding| encoding.encode(bytes)).unwrap_or_default()
}

impl World {
    /// Returns the number of dialogues under way.
    pub(crate) fn talks(&self) -> usize {
        self.bridge.lock().talks.len()
    }

    /// Lets the bridge accept, receive and answer. If `agrees` is set, the bridge answers correctly
    /// and never fails. Returns `true` if the bridge did something.
    pub(crate) fn bridge_acts(&self, agrees: bool) -> bool {
        let mut bridge = self.bridge.lock();
        let Bridge { listener, talks, controls } = &mut *bridge;
        let before = talks.len();
        while let Some(peer) = listener.as_ref().and_then(PeerListener::accept) {
            let (received, unsent) = (Vec::new(), Vec::new());
            talks.push(Talk { peer, received, unsent, then: Then::GoesOn });
        }
        let mut has_acted = talks.len() != before;
        let mut model = self.model.lock();
        controls.retain(|control| control.receive().1.is_none());
        if !agrees && !controls.is_empty() && model.choices.once_in(40) {
            model.count("a session ended");
            controls.remove(0);
            has_acted = true;
        }
        let mut left = Vec::new();
        for mut talk in talks.drain(..) {
            let (went_on, is_left) = talk.act(&mut model, agrees);
            has_acted |= went_on;
            if is_left {
                continue;
            }
            match talk.then {
                Then::IsControl if talk.unsent.is_empty() => {
                    model.count("a session was made");
                    controls.push(talk.peer);
                }
                Then::IsPeer if talk.unsent.is_empty() => {
                    model.count("a bridge connected");
                    model.peers.push(Player::new(talk.peer));
                }
                _ => left.push(talk),
            }
        }
        *talks = left;
        model.activity += u64::from(has_acted);
        has_acted
    }

    /// Checks, before the loop sleeps, that the program has read every answer of the bridge.
    /// Returns a violation for each unread answer.
    pub(crate) fn talks_left(&self) -> Vec<String> {
        let bridge = self.bridge.lock();
        let unread = bridge.talks.iter().filter(|talk| {
            let probe = talk.peer.probe_program();
            probe.is_some_and(|probe| probe.is_watched && (probe.has_data || probe.has_end))
        });
        let violation = |talk: &Talk| {
            format!(
                "the loop sleeps, but the bridge's answer to dialogue {} is unread (G9)",
                talk.peer.key()
            )
        };
        unread.map(violation).collect()
    }
}

impl Talk {
    /// Receives and answers. Returns whether something happened, and whether the dialogue is over.
    fn act(&mut self, model: &mut Model, agrees: bool) -> (bool, bool) {
        let (data, ended) = self.peer.receive();
        self.received.extend(&data);
        if ended.is_some() {
            return (true, true);
        }
        if !agrees && model.choices.once_in(24) {
            model.say(|| format!("  bridge {} closes the dialogue early", self.peer.key()));
            model.count("a bridge closed a dialogue early");
            return (true, true);
        }
        let mut has_acted = !data.is_empty();
        if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let answer = self.answer(model, &line, agrees);
            let key = self.peer.key();
            model.say(|| format!("  bridge {key} receives {line:.60}, answers {answer:.60}"));
            self.unsent.extend(answer.into_bytes());
            has_acted = true;
        }
        let sent = self.peer.send(&self.unsent).unwrap_or(0);
        self.unsent.drain(..sent);
        (has_acted || sent > 0, false)
    }

    /// Returns the answer to a line of the program.
    fn answer(&mut self, model: &mut Model, line: &str, agrees: bool) -> String {
        if !agrees && model.choices.once_in(8) {
            self.then = Then::IsOver;
            model.count("a bridge refused a request or sent an invalid answer");
            let verbs = if model.choices.once_in(2) { "STREAM STATUS" } else { "NONSENSE" };
            return format!("{verbs} RESULT=CANT_REACH_PEER\n");
        }
        if line.starts_with("HELLO ") {
            "HELLO REPLY RESULT=OK VERSION=3.1\n".to_owned()
        } else if line.starts_with("SESSION CREATE ") {
            self.then = Then::IsControl;
            format!("SESSION STATUS RESULT=OK DESTINATION={}\n", base64(&key(PRIVATE_KEY)))
        } else if line.starts_with("NAMING LOOKUP ") {
            format!("NAMING REPLY RESULT=OK VALUE={}\n", base64(&destination()))
        } else if line.starts_with("STREAM CONNECT ") {
            self.then = Then::IsPeer;
            "STREAM STATUS RESULT=OK\n".to_owned()
        } else {
            let key = self.peer.key();
            model.violated(format!("bridge {key} received an unexpected request {line:?}"));
            self.then = Then::IsOver;
            String::new()
        }
    }
}
