//! The SOCKS5 proxies of the simulation: they take what was asked of them, and agree, refuse, answer
//! nonsense, break off or say nothing. One that has agreed is a peer from then on.
//!
//! On the test's thread. The model's mutex is held over calls to the doubles, which call nobody.

use sockman::testing::{Ended, Peer, PeerListener};

use crate::{
    model::{Model, Player},
    world::World,
};

/// What is asked of the proxies: `Destination::Name`s all begin like this.
pub(crate) const NAME: &str = "name.test";
pub(crate) const PORT: u16 = 8333;

/// All the proxies there are, and those that they are still dealing with.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    pub(crate) listeners: Vec<PeerListener>,
    negotiating: Vec<Negotiation>,
}

#[derive(Debug)]
struct Negotiation {
    peer: Peer,
    /// Of what is being answered now.
    heard: Vec<u8>,
    stage: Stage,
    /// Of the last answer, what had no room in the window.
    unsent: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Credentials,
    Request,
    /// The reply says success; when it is out, this is the destination.
    Agreed,
    /// Whatever else was said or done: it is out, and the program's turn.
    Over,
}

impl World {
    pub(crate) fn negotiating(&self) -> usize {
        self.proxies.lock().negotiating.len()
    }

    /// The proxies take what waits, and answer. `true` if one of them did something. With `agrees`
    /// they do what they should.
    pub(crate) fn proxies_act(&self, agrees: bool) -> bool {
        let mut proxies = self.proxies.lock();
        let Proxies { listeners, negotiating } = &mut *proxies;
        let before = negotiating.len();
        for listener in listeners {
            while let Some(peer) = listener.accept() {
                let (heard, unsent) = (Vec::new(), Vec::new());
                negotiating.push(Negotiation { peer, heard, stage: Stage::Greeting, unsent });
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

    /// Before the loop sleeps: no proxy may wait for what the program could do.
    pub(crate) fn negotiations_left(&self) -> Vec<String> {
        let proxies = self.proxies.lock();
        let calls_failed = self.model.lock().calls_failed;
        let left = |negotiation: &Negotiation| negotiation.left_to_do(calls_failed);
        proxies.negotiating.iter().filter_map(left).collect()
    }
}

enum Went {
    Nowhere,
    On,
    Agreed,
    Away,
}

impl Negotiation {
    /// What the program has left undone.
    fn left_to_do(&self, calls_failed: bool) -> Option<String> {
        let key = self.peer.key();
        let ours = self.peer.probe_program().filter(|ours| ours.is_watched)?;
        if ours.has_data || ours.has_end {
            return Some(format!("asleep with an answer of proxy {key} unread (G9)"));
        }
        let is_our_turn = self.unsent.is_empty() && ours.in_flight == 0 && ours.is_writable;
        let heard = [&self.heard[..], &self.peer.peek()?].concat();
        let waits = !matches!(self.stage, Stage::Agreed | Stage::Over);
        // A `getpeername` that says ENOTCONN of a socket that has a peer: it waits for another word.
        let is_misled = calls_failed && self.stage == Stage::Greeting && heard.is_empty();
        if is_our_turn && waits && !is_misled && whole(self.stage, &heard).is_none() {
            return Some(format!("asleep while proxy {key} waits for its part (G9)"));
        }
        None
    }

    fn act(&mut self, model: &mut Model, agrees: bool) -> Went {
        let (data, ended) = self.peer.receive();
        self.heard.extend(&data);
        let key = self.peer.key();
        if ended.is_some() {
            model.say(|| format!("  proxy {key} is left: {ended:?}"));
            let is_early = ended == Some(Ended::Eof) && self.stage == Stage::Agreed;
            model.require(!is_early || !self.unsent.is_empty(), || {
                format!("proxy {key} agreed, and was left")
            });
            return Went::Away;
        }
        if !agrees && model.choices.once_in(24) {
            model.say(|| format!("  proxy {key} breaks off"));
            model.count("a proxy broke off");
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

    /// To what was heard, if that is complete.
    fn answer(&mut self, model: &mut Model, agrees: bool) -> Option<Vec<u8>> {
        let asked = whole(self.stage, &self.heard)?;
        let heard: Vec<u8> = self.heard.drain(..asked).collect();
        let key = self.peer.key();
        let is_nonsense = !agrees && model.choices.once_in(8);
        if is_nonsense {
            let answer = (0..10).map(|_| model.choices.below(7) as u8).collect::<Vec<u8>>();
            // Nonsense that happens to make sense would have to be gone along with.
            if answer[0] != 5 && answer[0] != 1 {
                self.stage = Stage::Over;
                model.count("a proxy answered nonsense");
                return Some(answer);
            }
        }
        let (stage, answer): (Stage, &[u8]) = match self.stage {
            Stage::Greeting if heard.contains(&2) && heard[1] == 2 => (Stage::Credentials, &[5, 2]),
            Stage::Greeting => (Stage::Request, &[5, 0]),
            Stage::Credentials => (Stage::Request, &[1, 0]),
            Stage::Request => {
                let mut expected = vec![5, 1, 0, 3, NAME.len() as u8];
                expected.extend(NAME.as_bytes());
                expected.extend(PORT.to_be_bytes());
                model.require(heard == expected, || format!("proxy {key} is asked {heard:?}"));
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

/// How many bytes of what was heard make up what this stage waits for.
fn whole(stage: Stage, heard: &[u8]) -> Option<usize> {
    let at = |index: usize| heard.get(index).copied().map(usize::from);
    let length = match stage {
        Stage::Greeting => 2 + at(1)?,
        Stage::Credentials => {
            let username = at(1)?;
            3 + username + at(2 + username)?
        }
        Stage::Request => 7 + at(4)?,
        Stage::Agreed | Stage::Over => return None,
    };
    (heard.len() >= length).then_some(length)
}
