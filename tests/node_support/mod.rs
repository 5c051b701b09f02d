//! What the tests of the `node` example share: the node itself, as a module, and waiting for what
//! it tells.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_pass_by_value
)]

#[path = "../../examples/node/node/mod.rs"]
pub(crate) mod node;
#[path = "../common/program.rs"]
pub mod program;

use std::{
    io::{BufRead, BufReader, Read},
    process::Child,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use node::{Config, Event, Node, chain::Chain};
use parking_lot::{Condvar, Mutex};

/// How long a test waits for what must come. A test that passes never waits that long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The events of one node, so far.
#[derive(Default)]
pub struct Events {
    events: Mutex<Vec<Event>>,
    changed: Condvar,
}

impl Events {
    pub fn add(&self, event: Event) {
        self.events.lock().push(event);
        self.changed.notify_all();
    }

    pub fn all(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// Waits until `found` finds something in one of the events so far.
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
    pub fn wait_for_disconnect(&self) -> String {
        self.wait_for("a disconnect", |event| match event {
            Event::Disconnected { reason, .. } => Some(reason.clone()),
            _ => None,
        })
    }
}

/// Starts a node, and collects its events.
pub fn start(config: Config, chain: Chain) -> (Node, Arc<Events>) {
    let events = Arc::new(Events::default());
    let observed = Arc::clone(&events);
    let node = Node::start(config, chain, move |event| observed.add(event)).unwrap();
    (node, events)
}

/// A child process that is killed, and waited for, when this is dropped.
pub struct Process {
    pub child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Of a child whose standard output is piped.
    pub fn new(mut child: Child) -> Process {
        let output = child.stdout.take().expect("standard output is piped");
        let (sender, lines) = channel();
        // Reads on whether or not anybody waits for lines, so that the child never blocks.
        thread::spawn(move || read_lines(output, |line| drop(sender.send(line))));
        Process { child, lines, seen: Vec::new() }
    }

    /// Waits for a line in which `found` finds something.
    pub fn wait_for_line<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        self.wait_for_line_within(DEADLINE, what, found)
    }

    /// The same, for what takes longer than anything on this machine alone.
    pub fn wait_for_line_within<T>(
        &mut self,
        patience: Duration,
        what: &str,
        found: impl Fn(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("waited in vain for {what}; what it said: {:#?}", self.seen);
            };
            let result = found(&line);
            self.seen.push(line);
            if let Some(result) = result {
                return result;
            }
        }
    }

    /// Waits until the process ends. Returns its exit code, and the lines that nobody has waited
    /// for.
    pub fn wait_for_end(&mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => text += &(line + "\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end; it said: {text}"),
            }
        }
        // Its output is closed: it has ended, or is about to.
        (self.child.wait().unwrap().code(), text)
    }
}

fn read_lines(output: impl Read, mut each: impl FnMut(String)) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        each(String::from_utf8_lossy(&line).into_owned());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
