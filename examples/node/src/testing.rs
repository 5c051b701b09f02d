//! For tests: a node whose events are collected, and waiting for one of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::{Chain, Config, Event, Node};

/// How long a test waits for what must come. A test that passes never waits that long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The events of one node, so far.
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

    /// Waits until `found` finds something in one of the events so far.
    ///
    /// # Panics
    ///
    /// After [`DEADLINE`], with the events.
    pub fn wait_for<T>(&self, what: &str, found: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut events = self.events.lock();
        loop {
            if let Some(result) = events.iter().find_map(&found) {
                return result;
            }
            if self.changed.wait_until(&mut events, deadline).timed_out() {
                panic!("waited in vain for {what}; what came: {events:?}");
            }
        }
    }

    /// Waits until some peer was disconnected, and returns why.
    ///
    /// # Panics
    ///
    /// After [`DEADLINE`], with the events.
    pub fn wait_for_disconnect(&self) -> String {
        self.wait_for("a disconnect", |event| match event {
            Event::Disconnected { reason, .. } => Some(reason.clone()),
            _ => None,
        })
    }
}

/// Starts a node, and collects its events.
///
/// # Panics
///
/// The node does not start.
pub fn start(config: Config, chain: Chain) -> (Node, Arc<Events>) {
    let events = Arc::new(Events::default());
    let observed = Arc::clone(&events);
    let node = Node::start(config, chain, move |event| observed.add(event)).unwrap();
    (node, events)
}
