//! The simulated SOCKS5 proxies. A proxy receives a request, and then agrees, refuses, answers
//! nonsense, breaks off or stays silent. A connection to which a proxy has agreed becomes a peer.
//!
//! Runs on the test's thread. The model's mutex is held during calls to the doubles, which call no
//! code of the simulator.

use sockman::testing::{Ended, Peer, PeerListener};

use crate::{
    model::{Model, Player},
    world::World,
};

/// The host name and the port that every request to a proxy names.
pub(crate) const NAME: &str = "name.test";
pub(crate) const PORT: u16 = 8333;

/// All proxies, and the connections with which they still negotiate.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    pub(crate) listeners: Vec<PeerListener>,
    negotiating: Vec<Negotiation>,
}

/// One negotiation with the program.
#[derive(Debug)]
struct Negotiation {
    peer: Peer,
    /// The bytes of the message that the proxy has not answered yet.
    received: Vec<u8>,
    stage: Stage,
    /// The rest of the last answer, for which the window had no room.
    unsent: Vec<u8>,
}

/// The message that the proxy expects next, or the end of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Credentials,
    Request,
    /// The reply reports success. When the reply is sent, the connection becomes a peer.
    Agreed,
    /// The reply is a refusal or nonsense. The program must act on this reply.
    Over,
}

impl World {
    /// Returns the number of negotiations under way.
    pub(crate) fn negotiating(&self) -> usize {
        self.proxies.lock().negotiating.len()
    }

    /// Lets the proxies accept, receive and answer. If `agrees` is set, the proxies answer
    /// correctly and never fail. Returns `true` if a proxy did something.
    pub(crate) fn proxies_act(&self, agrees: bool) -> bool {
        let mut proxies = self.proxies.lock();
        let Proxies { listeners, negotiating } = &mut *proxies;
        let before = negotiating.len();
        for listener in listeners {
            while let Some(peer) = listener.accept() {
                let (received, unsent) = (Vec::new(), Vec::new());
                negotiating.push(Negotiation { peer, received, stage: Stage::Greeting, unsent });
            }
        }
        let mut has_acted = negotiating.len() != before;
        let mut model = self.model.lock();
        let mut left = Vec::new();
        for mut negotiation in negotiating.drain(..) {
            match negotiation.act(&mut model, agrees) {
                Went::Nowhere => left.push(negotiation),
                Went::On => {
                    has_acted = true;
                    left.push(negotiation);
                }
                Went::Agreed => {
                    has_acted = true;
                    model.count("a proxy agreed");
                    model.peers.push(Player::new(negotiation.peer));
                }
                Went::Away => has_acted = true,
            }
        }
        *negotiating = left;
        model.activity += u64::from(has_acted);
        has_acted
    }

    /// Checks, before the loop sleeps, that no proxy waits for something that the program could do.
    /// Returns a violation for each proxy that waits.
    pub(crate) fn negotiations_left(&self) -> Vec<String> {
        let proxies = self.proxies.lock();
        let calls_failed = self.model.lock().calls_failed;
        let left = |negotiation: &Negotiation| negotiation.left_to_do(calls_failed);
        proxies.negotiating.iter().filter_map(left).collect()
    }
}

/// The result of a proxy's action.
enum Went {
    /// Nothing happened.
    Nowhere,
    /// The negotiation has proceeded.
    On,
    /// The negotiation is over, and the proxy has agreed.
    Agreed,
    /// One side has closed the connection.
    Away,
}

impl Negotiation {
    /// Returns what the program has left undone in this negotiation, if anything.
    fn left_to_do(&self, calls_failed: bool) -> Option<String> {
        let key = self.peer.key();
        let probe = self.peer.probe_program().filter(|probe| probe.is_watched)?;
        if probe.has_data || probe.has_end {
            return Some(format!("the loop sleeps, but the answer of proxy {key} is unread (G9)"));
        }
        let is_programs_turn = self.unsent.is_empty() && probe.in_flight == 0 && probe.is_writable;
        let received = [&self.received[..], &self.peer.peek()?].concat();
        let waits = !matches!(self.stage, Stage::Agreed | Stage::Over);
        // A simulated `getpeername` may fail with ENOTCONN although the socket has a peer. The
        // program then waits for another event.
        let is_misled = calls_failed && self.stage == Stage::Greeting && received.is_empty();
        if is_programs_turn && waits && !is_misled && whole(self.stage, &received).is_none() {
            return Some(format!(
                "the loop sleeps, but proxy {key} waits for the next message (G9)"
            ));
        }
        None
    }

    /// Receives and answers.
    fn act(&mut self, model: &mut Model, agrees: bool) -> Went {
        let (data, ended) = self.peer.receive();
        self.received.extend(&data);
        let key = self.peer.key();
        if ended.is_some() {
            model.say(|| format!("  proxy {key} reads the end of the connection: {ended:?}"));
            let is_early = ended == Some(Ended::Eof) && self.stage == Stage::Agreed;
            model.require(!is_early || !self.unsent.is_empty(), || {
                format!(
                    "the program closed the connection to proxy {key} although the proxy agreed"
                )
            });
            return Went::Away;
        }
        if !agrees && model.choices.once_in(24) {
            model.say(|| format!("  proxy {key} closes the negotiation early"));
            model.count("a proxy closed a negotiation early");
            return Went::Away;
        }
        let answer = self.answer(model, agrees);
        if let Some(answer) = &answer {
            model.say(|| format!("  proxy {key} answers {answer:02x?}"));
            self.unsent.extend(answer);
        }
        let sent = self.peer.send(&self.unsent).unwrap_or(0);
        self.unsent.drain(..sent);
        match self.stage {
            Stage::Agreed if self.unsent.is_empty() => Went::Agreed,
            _ if answer.is_some() || sent > 0 || !data.is_empty() => Went::On,
            _ => Went::Nowhere,
        }
    }

    /// Returns the answer to the received message, if the message is complete.
    fn answer(&mut self, model: &mut Model, agrees: bool) -> Option<Vec<u8>> {
        let asked = whole(self.stage, &self.received)?;
        let received: Vec<u8> = self.received.drain(..asked).collect();
        let key = self.peer.key();
        let is_nonsense = !agrees && model.choices.once_in(8);
        if is_nonsense {
            let answer = (0..10).map(|_| model.choices.below(7) as u8).collect::<Vec<u8>>();
            // Random bytes that begin like a valid answer are not sent, because the simulator would
            // have to continue the negotiation after this answer.
            if answer[0] != 5 && answer[0] != 1 {
                self.stage = Stage::Over;
                model.count("a proxy sent an invalid answer");
                return Some(answer);
            }
        }
        let (stage, answer): (Stage, &[u8]) = match self.stage {
            Stage::Greeting if received.contains(&2) && received[1] == 2 => {
                (Stage::Credentials, &[5, 2])
            }
            Stage::Greeting => (Stage::Request, &[5, 0]),
            Stage::Credentials => (Stage::Request, &[1, 0]),
            Stage::Request => {
                let mut expected = vec![5, 1, 0, 3, NAME.len() as u8];
                expected.extend(NAME.as_bytes());
                expected.extend(PORT.to_be_bytes());
                model.require(received == expected, || {
                    format!("proxy {key} received a wrong request {received:?}")
                });
                if !agrees && model.choices.once_in(6) {
                    model.count("a proxy refused");
                    (Stage::Over, &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0])
                } else {
                    (Stage::Agreed, &[5, 0, 0, 3, 1, b'x', 0, 80])
                }
            }
            Stage::Agreed | Stage::Over => return None,
        };
        self.stage = stage;
        Some(answer.to_vec())
    }
}

/// Returns the length of the message that this stage expects, if `received` contains all of it.
fn whole(stage: Stage, received: &[u8]) -> Option<usize> {
    let at = |index: usize| received.get(index).copied().map(usize::from);
    let length = match stage {
        Stage::Greeting => 2 + at(1)?,
        Stage::Credentials => {
            let username = at(1)?;
            3 + username + at(2 + username)?
        }
        Stage::Request => 7 + at(4)?,
        Stage::Agreed | Stage::Over => return None,
    };
    (received.len() >= length).then_some(length)
}
