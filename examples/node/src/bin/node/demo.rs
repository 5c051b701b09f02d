//! The demonstration: two nodes in one process that talk to each other and then stop.
//!
//! Alice listens and has a chain. Bob dials her and has only the genesis block. [`Expected`] lists
//! the events that must happen. The demonstration fails if one of these events does not happen.

use std::{
    error::Error,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use bitcoin::Network;
use sockman_node::{Chain, Config, Event, Node};

use crate::report::{self, duration, say};

/// More headers than one message holds, so that Bob must request twice.
const HEADERS: usize = 2500;
/// The number of pings that each side sends.
const PINGS: usize = 3;
const PING_INTERVAL: Duration = Duration::from_millis(50);
/// Much longer than the demonstration takes, which is a fraction of a second.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Alice,
    Bob,
}

/// Runs the demonstration and prints its events.
///
/// # Errors
///
/// An error, if a node does not start or an expected event does not happen in time.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    say("This process runs two Bitcoin nodes, Alice and Bob, on regtest over 127.0.0.1.\n");
    let start = Instant::now();
    let mut chain = Chain::new(Network::Regtest);
    chain.mine(HEADERS)?;
    say(format!("Alice mined {HEADERS} regtest headers in {}.", duration(start.elapsed())));

    let (sender, events) = channel();
    let mut config = config();
    config.listen.push("127.0.0.1:0".parse()?);
    let alice = start_node(Who::Alice, config, chain, sender.clone())?;
    let address = alice.listening().pop().ok_or("Alice has no address that she listens on")?;
    say(format!(
        "Alice listens on {address}. Bob knows only the genesis block and connects to her.\n"
    ));

    let mut story = Story { start: Instant::now(), events, expected: Expected::default() };
    let mut config = self::config();
    config.connect.push(address.into());
    let bob = start_node(Who::Bob, config, Chain::new(Network::Regtest), sender)?;

    story.follow(Expected::is_complete)?;
    if bob.tip() != alice.tip() {
        return Err("Bob's chain differs from Alice's".into());
    }
    for (name, node) in [("Alice", &alice), ("Bob", &bob)] {
        say(format!("\n{name}'s peers:\n{}", report::table(&node.peers())));
    }
    say("\nBob stops.\n");
    bob.stop()?;
    story.follow(|expected| expected.alice_saw_the_end)?;
    alice.stop()?;
    say(format!(
        "\nSuccess: 2 handshakes, {HEADERS} headers checked, {PINGS} pings in each direction, \
         and an orderly stop, in {}.",
        duration(story.start.elapsed())
    ));
    Ok(())
}

fn config() -> Config {
    Config { ping_interval: PING_INTERVAL, max_connections: 8, ..Config::new(Network::Regtest) }
}

fn start_node(
    who: Who,
    config: Config,
    chain: Chain,
    sender: Sender<(Who, Instant, Event)>,
) -> Result<Node, Box<dyn Error>> {
    let observer = move |event| {
        // Fails after the demonstration, when the receiver is gone.
        let _ = sender.send((who, Instant::now(), event));
    };
    Ok(Node::start(config, chain, observer)?)
}

/// The events that have happened so far, of the events that must happen.
#[derive(Debug, Default)]
struct Expected {
    handshakes: Vec<Who>,
    alice_pings: usize,
    bob_pings: usize,
    headers: usize,
    alice_saw_the_end: bool,
}

impl Expected {
    fn is_complete(&self) -> bool {
        self.handshakes.len() == 2
            && self.alice_pings >= PINGS
            && self.bob_pings >= PINGS
            && self.headers == HEADERS
    }

    /// Records an event. Returns whether the event must be printed.
    fn record(&mut self, who: Who, event: &Event) -> bool {
        match (event, who) {
            (Event::Handshake { .. }, _) => self.handshakes.push(who),
            (Event::Headers { new, .. }, Who::Bob) => self.headers += new,
            (Event::Pong { .. }, Who::Alice) => {
                self.alice_pings += 1;
                return self.alice_pings <= PINGS;
            }
            (Event::Pong { .. }, Who::Bob) => {
                self.bob_pings += 1;
                return self.bob_pings <= PINGS;
            }
            (Event::Disconnected { .. }, Who::Alice) => self.alice_saw_the_end = true,
            _ => {}
        }
        true
    }
}

struct Story {
    start: Instant,
    events: Receiver<(Who, Instant, Event)>,
    expected: Expected,
}

impl Story {
    /// Prints the events until `is_enough` returns `true`.
    fn follow(&mut self, is_enough: impl Fn(&Expected) -> bool) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + DEADLINE;
        while !is_enough(&self.expected) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((who, when, event)) = self.events.recv_timeout(left) else {
                return Err(format!(
                    "an expected event did not happen within {}; events so far: {:?}",
                    duration(DEADLINE),
                    self.expected
                )
                .into());
            };
            let is_news = self.expected.record(who, &event);
            if let Some(line) = report::event(&event).filter(|_| is_news) {
                let at = duration(when.saturating_duration_since(self.start));
                say(format!("{at:>9}  {:<5}  {line}", format!("{who:?}")));
            }
        }
        Ok(())
    }
}
