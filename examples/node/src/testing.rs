//! Test support: starts a node, collects its events, waits for one of them, and mines blocks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

mod blocks;

pub use blocks::{framed, mine_block, mine_blocks, script_of, solve, write_blocks};

use crate::{Chain, Config, Event, Node};

/// The time that a test waits for an event before it fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The events of one node so far.
#[derive(Debug, Default)]
pub struct Events {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
}

impl Events {
    /// Adds an event.
    pub fn add(&self, event: Event) {
        self.events.lock().push(event);
        self.changed.notify_all();
    }

    /// Returns the events so far, in order.
    pub fn all(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// Waits until `found` returns a value for one of the events so far, and returns that value.
    ///
    /// # Panics
    ///
    /// After [`DEADLINE`]. The message lists the events.
    pub fn wait_for<T>(&self, what: &str, found: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut events = self.events.lock();
        loop {
            if let Some(result) = events.iter().find_map(&found) {
                return result;
            }
            if self.changed.wait_until(&mut events, deadline).timed_out() {
                panic!("{what} did not happen within {DEADLINE:?}; events: {events:?}");
            }
        }
    }

    /// Waits until a peer was disconnected, and returns the reason.
    ///
    /// # Panics
    ///
    /// After [`DEADLINE`]. The message lists the events.
    pub fn wait_for_disconnect(&self) -> String {
        self.wait_for("a disconnect", |event| match event {
            Event::Disconnected { reason, .. } => Some(reason.clone()),
            _ => None,
        })
    }
}

/// Starts a node and collects its events.
///
/// # Panics
///
/// If the node does not start.
pub fn start(config: Config, chain: Chain) -> (Node, Arc<Events>) {
    let events = Arc::new(Events::default());
    let observed = Arc::clone(&events);
    let node = Node::start(config, chain, move |event| observed.add(event)).unwrap();
    (node, events)
}
