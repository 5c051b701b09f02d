//! The SAM bridge of the simulation: sessions and streams, and all that can go wrong with a bridge. A
//! stream that it has connected is a peer from then on.
//!
//! On the test's thread. The model's mutex is held over calls to the doubles, which call nobody.

use data_encoding::{Encoding, Specification};
use sockman::testing::{Peer, PeerListener};

use crate::{
    model::{Model, Player},
    world::World,
};

/// What a destination is filled with, and a private key behind it.
const FILLING: u8 = 7;
const DESTINATION: usize = 391;
const PRIVATE_KEY: usize = 679;

#[derive(Debug, Default)]
pub(crate) struct Bridge {
    pub(crate) listener: Option<PeerListener>,
    talks: Vec<Talk>,
    /// Of sessions: open as long as the program likes, or the bridge.
    controls: Vec<Peer>,
}

#[derive(Debug)]
struct Talk {
    peer: Peer,
    heard: Vec<u8>,
    unsent: Vec<u8>,
    /// What it is when everything is out.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    IsControl,
    IsPeer,
    IsOver,
}

/// A destination, or a private key that begins with it.
pub(crate) fn key(length: usize) -> Vec<u8> {
    let mut bytes = vec![FILLING; length];
    // The certificate: its type, and that it has four bytes.
    bytes[384..387].copy_from_slice(&[5, 0, 4]);
    bytes
}

/// The destination that everybody is looked up as.
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
    pub(crate) fn talks(&self) -> usize {
        self.bridge.lock().talks.len()
    }

    /// The bridge takes what waits, and answers. `true` if it did something. With `agrees` it does
    /// what it should.
    pub(crate) fn bridge_acts(&self, agrees: bool) -> bool {
        let mut bridge = self.bridge.lock();
        let Bridge { listener, talks, controls } = &mut *bridge;
        let before = talks.len();
        while let Some(peer) = listener.as_ref().and_then(PeerListener::accept) {
            let (heard, unsent) = (Vec::new(), Vec::new());
            talks.push(Talk { peer, heard, unsent, then: Then::GoesOn });
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

    /// Before the loop sleeps: no answer of the bridge may lie unread, for the program waits for it.
    pub(crate) fn talks_left(&self) -> Vec<String> {
        let bridge = self.bridge.lock();
        let unread = bridge.talks.iter().filter(|talk| {
            let ours = talk.peer.probe_program();
            ours.is_some_and(|ours| ours.is_watched && (ours.has_data || ours.has_end))
        });
        let said = |talk: &Talk| {
            format!("asleep with an answer of the bridge {} unread (G9)", talk.peer.key())
        };
        unread.map(said).collect()
    }
}

impl Talk {
    /// Whether something happened, and whether it is over.
    fn act(&mut self, model: &mut Model, agrees: bool) -> (bool, bool) {
        let (data, ended) = self.peer.receive();
        self.heard.extend(&data);
        if ended.is_some() {
            return (true, true);
        }
        if !agrees && model.choices.once_in(24) {
            model.say(|| format!("  bridge {} breaks off", self.peer.key()));
            model.count("a bridge broke off");
            return (true, true);
        }
        let mut has_acted = !data.is_empty();
        if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let answer = self.answer(model, &line, agrees);
            let key = self.peer.key();
            model.say(|| format!("  bridge {key} is asked {:.60}, answers {answer:.60}", line));
            self.unsent.extend(answer.into_bytes());
            has_acted = true;
        }
        let sent = self.peer.send(&self.unsent).unwrap_or(0);
        self.unsent.drain(..sent);
        (has_acted || sent > 0, false)
    }

    fn answer(&mut self, model: &mut Model, line: &str, agrees: bool) -> String {
        if !agrees && model.choices.once_in(8) {
            self.then = Then::IsOver;
            model.count("a bridge refused, or made no sense");
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
            model.violated(format!("bridge {key} is asked {line:?}"));
            self.then = Then::IsOver;
            String::new()
        }
    }
}
