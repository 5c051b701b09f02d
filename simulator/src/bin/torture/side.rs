//! One side of the torture: a handler that sends and checks a stream on each of its connections,
//! pauses them, cuts some short, and counts how they end.
//!
//! The handler runs on the socket thread. The main thread pauses and resumes. No lock is held
//! during calls into the library, except during sends and half-closes.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use fastrand::Rng;
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, Service, SockMan,
    address::Destination,
    error::{ConnectError, SendError},
};

use crate::stream::{Incoming, Outgoing};

/// The lengths of streams, in bytes, are below these limits. Most streams are short, one in sixteen
/// is long.
const SHORT: u64 = 4 * 1024;
const LONG: u64 = 1024 * 1024;

/// The counts of connections by the way in which they ended, and of bytes and pauses.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Both streams arrived whole, with the right checksums.
    pub(crate) in_order: AtomicU64,
    /// This side cut the connection short.
    pub(crate) cut_here: AtomicU64,
    /// The other side cut the connection short.
    pub(crate) cut_there: AtomicU64,
    /// The connection ended before the header arrived.
    pub(crate) headless: AtomicU64,
    /// The connect failed.
    pub(crate) refused: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) pauses: AtomicU64,
}

/// The handler of one process.
pub(crate) struct Side {
    connections: Mutex<HashMap<ConnectionId, Talk>>,
    chance: Mutex<Rng>,
    /// The addresses to which a new connection is made when one is over. Empty at the server.
    destinations: Vec<Destination>,
    pub(crate) is_over: AtomicBool,
    pub(crate) counts: Counts,
    violations: Mutex<Vec<String>>,
}

/// The state of one connection.
struct Talk {
    outgoing: Outgoing,
    incoming: Incoming,
    /// The number of received bytes after which this side cuts the connection short.
    cut_at: Option<u64>,
    is_paused: bool,
    has_shut: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Side {
    pub(crate) fn new(seed: u64, destinations: Vec<Destination>) -> Arc<Side> {
        Arc::new(Side {
            connections: Mutex::default(),
            chance: Mutex::new(Rng::with_seed(seed)),
            destinations,
            is_over: AtomicBool::new(false),
            counts: Counts::default(),
            violations: Mutex::default(),
        })
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub(crate) fn open(&self) -> usize {
        lock(&self.connections).len()
    }

    /// Pauses some connections and resumes others. Called on the main thread.
    pub(crate) fn pause_some(&self, sockman: &SockMan) {
        let mut resumed = Vec::new();
        {
            let mut connections = lock(&self.connections);
            let mut chance = lock(&self.chance);
            for (id, talk) in connections.iter_mut() {
                if talk.is_paused || chance.u8(..) < 8 {
                    talk.is_paused = !talk.is_paused;
                    self.counts.pauses.fetch_add(u64::from(talk.is_paused), Ordering::Relaxed);
                    if !talk.is_paused {
                        resumed.push(*id);
                    }
                }
            }
        }
        resumed.into_iter().for_each(|id| sockman.wake(id));
    }

    /// Resumes all connections.
    pub(crate) fn resume_all(&self, sockman: &SockMan) {
        let ids: Vec<ConnectionId> = {
            let mut connections = lock(&self.connections);
            connections.values_mut().for_each(|talk| talk.is_paused = false);
            connections.keys().copied().collect()
        };
        ids.into_iter().for_each(|id| sockman.wake(id));
    }

    /// Chooses the stream of a new connection.
    fn begin(&self, id: ConnectionId) {
        let talk = {
            let mut chance = lock(&self.chance);
            let length = if chance.u8(..) < 16 { chance.u64(..LONG) } else { chance.u64(..SHORT) };
            let cut_at = (chance.u8(..) < 20).then(|| chance.u64(..SHORT));
            Talk {
                outgoing: Outgoing::new(chance.u64(..), length, cut_at.is_some()),
                incoming: Incoming::default(),
                cut_at,
                is_paused: false,
                has_shut: false,
            }
        };
        lock(&self.connections).insert(id, talk);
    }

    /// Closes a connection, counts how it ended, and begins a new one.
    fn end(&self, sockman: &SockMan, id: ConnectionId, how: &str, is_cut_here: bool) {
        sockman.close_connection(id);
        let Some(talk) = lock(&self.connections).remove(&id) else { return };
        self.counts.bytes.fetch_add(talk.incoming.received, Ordering::Relaxed);
        let is_whole = talk.incoming.is_complete() && talk.has_shut;
        let count = match talk.incoming.is_cut_short() {
            _ if is_whole => &self.counts.in_order,
            _ if is_cut_here => &self.counts.cut_here,
            // This side announced that it cuts the connection short, so the peer may stop first.
            _ if talk.cut_at.is_some() => &self.counts.cut_here,
            None => &self.counts.headless,
            Some(true) => &self.counts.cut_there,
            Some(false) => {
                let received = talk.incoming.received;
                let what = format!(
                    "connection {id}: {how} after {received} bytes of an uncut stream (complete: {}, own end sent: {})",
                    talk.incoming.is_complete(),
                    talk.has_shut
                );
                lock(&self.violations).push(what);
                return;
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.connect(sockman);
    }

    /// Begins a new connection, unless the time is over.
    pub(crate) fn connect(&self, sockman: &SockMan) {
        if self.destinations.is_empty() || self.is_over.load(Ordering::Relaxed) {
            return;
        }
        let at = lock(&self.chance).usize(..self.destinations.len());
        let options = ConnectOptions::default().timeout(std::time::Duration::from_secs(60));
        // The outcome may be reported before the call returns. This is no problem, because the
        // callback makes the entry of a connection.
        if let Err(error) = sockman.start_connect(&self.destinations[at], &options) {
            lock(&self.violations).push(format!("`start_connect` failed: {error:#}"));
        }
    }

    /// Sends what the kernel takes, and half-closes after the last byte. Returns an error if the
    /// socket is broken. A read error follows then.
    fn send(&self, sockman: &SockMan, id: ConnectionId) -> Result<(), SendError> {
        let mut connections = lock(&self.connections);
        let Some(talk) = connections.get_mut(&id) else { return Ok(()) };
        while !talk.outgoing.is_over() {
            let data = talk.outgoing.next();
            let length = data.len();
            let sent = sockman.send_bytes(id, data)?;
            talk.outgoing.sent(sent);
            if sent < length {
                return Ok(());
            }
        }
        if !talk.has_shut {
            sockman.shutdown_write(id)?;
            talk.has_shut = true;
        }
        Ok(())
    }

    /// Ends the connection if both of its streams are complete.
    fn finish_if_both_are_over(&self, sockman: &SockMan, id: ConnectionId) {
        let is_over = {
            let connections = lock(&self.connections);
            connections.get(&id).is_some_and(|talk| talk.has_shut && talk.incoming.is_complete())
        };
        if is_over {
            self.end(sockman, id, "ended", false);
        }
    }
}

impl EventHandler for Side {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.begin(id);
        true
    }

    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _: &Destination,
        result: Result<&Service, ConnectError>,
    ) {
        match result {
            Ok(_) => self.begin(id),
            Err(_) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                self.connect(sockman);
            }
        }
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let connections = lock(&self.connections);
        connections.get(&id).is_some_and(|talk| !talk.is_paused && !talk.has_shut)
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        lock(&self.connections).get(&id).is_some_and(|talk| !talk.is_paused)
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        // A broken socket is reported by a read error, after all data.
        let _ = self.send(sockman, id);
        self.finish_if_both_are_over(sockman, id);
        NextRecv::Proceed
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let (result, is_cut) = {
            let mut connections = lock(&self.connections);
            let Some(talk) = connections.get_mut(&id) else { return };
            let result = talk.incoming.receive(data);
            (result, talk.cut_at.is_some_and(|at| talk.incoming.received > at))
        };
        if let Err(what) = result {
            lock(&self.violations).push(format!("connection {id}: {what}"));
            self.end(sockman, id, "was closed because of wrong bytes", true);
        } else if is_cut {
            self.end(sockman, id, "cut short", true);
        }
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        let is_whole =
            lock(&self.connections).get(&id).is_some_and(|talk| talk.incoming.is_complete());
        if is_whole {
            self.finish_if_both_are_over(sockman, id);
        } else {
            self.end(sockman, id, "ended", false);
        }
    }

    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    ) {
        self.end(sockman, id, &error.to_string(), false);
    }
}
