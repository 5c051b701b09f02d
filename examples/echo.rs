//! `echo MODE PORT`: an `echo`, a `sink` (discards) or a `source` (sends without end). The server
//! stops reading from a peer that leaves a megabyte unread. It keeps 32 megabytes for all peers.
use std::{collections::HashMap, env, error::Error, io, io::Write, process, sync::Arc};

use parking_lot::Mutex;
use sockman::helpers::{SendBudget, SendQueue, SendQueueLimits};
use sockman::{ConnectionId as Id, EventHandler, NextRecv, Options, Service, SockMan};

struct Server {
    mode: String,
    budget: SendBudget,
    /// The bytes to send on each connection, and whether the peer has finished.
    peers: Mutex<HashMap<Id, (Arc<SendQueue>, bool)>>,
}

impl Server {
    fn peer(&self, id: Id) -> Option<(Arc<SendQueue>, bool)> {
        self.peers.lock().get(&id).cloned()
    }
    fn close(&self, sockman: &SockMan, id: Id) {
        self.peers.lock().remove(&id);
        sockman.close_connection(id);
    }
}

impl EventHandler for Server {
    fn event_new_connection_accepted(&self, _: &SockMan, id: Id, _: &Service, _: &Service) -> bool {
        let queue = SendQueue::with_budget(id, SendQueueLimits::default(), &self.budget);
        self.peers.lock().insert(id, (Arc::new(queue), false));
        true
    }
    fn should_try_to_send(&self, id: Id) -> bool {
        self.peer(id).is_some_and(|(queue, end)| self.mode == "source" || end || queue.has_queued())
    }
    fn should_try_to_recv(&self, id: Id) -> bool {
        self.peer(id).is_some_and(|(queue, _)| !queue.is_above_high_mark())
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: Id) -> NextRecv {
        let Some((queue, finished)) = self.peer(id) else { return NextRecv::Skip };
        let all_sent = match self.mode.as_str() {
            "source" => sockman.send_bytes(id, &[0; 256 * 1024]).map(|_| true),
            _ => queue.drain(sockman),
        };
        if all_sent.map_or(true, |all_sent| all_sent && finished) {
            self.close(sockman, id);
        }
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: Id, data: &[u8]) {
        let peer = if self.mode == "echo" { self.peer(id) } else { None };
        if peer.is_some_and(|(queue, _)| queue.push(sockman, data).is_err()) {
            self.close(sockman, id);
        }
    }
    fn event_got_eof(&self, _: &SockMan, id: Id) {
        // The library asks the send hook next, which sends the queued bytes before the close.
        self.peers.lock().entry(id).and_modify(|(_, finished)| *finished = true);
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: Id, _: &io::Error) {
        self.close(sockman, id);
    }
}

fn main() {
    let Err(error) = run() else { return };
    let _ = writeln!(io::stderr(), "echo: {error:#}");
    process::exit(1);
}
fn run() -> Result<(), Box<dyn Error>> {
    let mode = env::args().nth(1).unwrap_or_default();
    let port = env::args().nth(2).filter(|_| ["echo", "sink", "source"].contains(&&*mode));
    let Some(port) = port else { return Err("usage: echo echo|sink|source PORT".into()) };
    let server = Server { mode, budget: SendBudget::new(32_000_000), peers: Mutex::default() };
    // Every change of a hook's answer wakes the connection, so the server needs no sweep.
    let sockman = SockMan::new(Arc::new(server), Options::default().sweep(None))?;
    let bound = sockman.bind_and_start_listening(format!("127.0.0.1:{port}"))?;
    writeln!(io::stdout(), "listening on {bound}")?;
    Ok(sockman.start_sockets_threads()?.join()?)
}
