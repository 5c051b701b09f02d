//! Connections that leave the `SockMan`, and their streams: closed, read by other code, or given
//! back.
//!
//! Runs on the test's thread. The model's mutex is not held during calls into the library.

use sockman::{
    ConnectionId, SockMan,
    address::NetAddr,
    error::{AddConnectionErrorKind, IntoStreamError},
    sys::{OwnedSocket, RawSocket, errors},
    testing::{Ended, Peer, Probe},
};

use crate::{
    model::{Model, Phase, Way, byte_at},
    world::{NO_SOCKET, World},
};

/// A connection that was taken out.
pub(crate) struct Leaving {
    id: ConnectionId,
    key: u64,
    fd: RawSocket,
    stream: OwnedSocket,
}

/// A stream that left, as other code holds it.
pub(crate) struct Outside {
    id: ConnectionId,
    key: u64,
    fd: RawSocket,
    stream: Peer,
}

impl World {
    /// Takes a connection out, or lets other code act on a stream that has left.
    pub(crate) fn hand_over(&self, sockman: &SockMan, on_socket_thread: bool) {
        let count = self.outside.lock().len() as u64;
        if count > 0 && self.model.lock().choices.once_in(2) {
            let (at, closes, limit) = {
                let choices = &mut self.model.lock().choices;
                (choices.below(count) as usize, choices.once_in(4), choices.size(20_000))
            };
            if closes {
                let outside = self.outside.lock().remove(at);
                self.with_record(outside.id, |record| record.goes_on = false);
            } else {
                self.read_outside(at, limit as usize);
            }
            return;
        }
        self.take_out(sockman, on_socket_thread);
    }

    fn take_out(&self, sockman: &SockMan, on_socket_thread: bool) {
        let id = {
            let mut model = self.model.lock();
            let there = model.in_phase(|phase| matches!(phase, Phase::Open | Phase::Quiet));
            model.choices.pick(&there)
        };
        let Some(id) = id else { return };
        let them = sockman.connection_info(id).map(|info| info.them);
        let is_i2p = them.is_some_and(|them| {
            them.service().is_some_and(|to| matches!(to.addr(), NetAddr::I2p(_)))
        });
        let taken = sockman.into_stream(id);
        let is_closed = taken.is_ok() && sockman.close_connection(id);
        let mut model = self.model.lock();
        let number = model.number(id);
        model.say(|| match &taken {
            Ok(_) => format!("  connection {number} is taken out"),
            Err(error) => format!("  connection {number} is not taken out: {error:?}"),
        });
        model.require(!is_closed, || {
            format!("a close of connection {number}, which was taken out, returned true (G4)")
        });
        let Some(record) = model.connections.get_mut(&id) else { return };
        let finishes = record.finish.is_some();
        let stream = match taken {
            Ok(stream) => stream,
            Err(error) => {
                let is_right = match &error {
                    IntoStreamError::Finishing(_) | IntoStreamError::UnknownConnection(_) => {
                        finishes
                    }
                    IntoStreamError::Unsupported(_) => is_i2p,
                    IntoStreamError::Duplicate { source, .. } => {
                        source.raw_os_error() == Some(errors::EMFILE)
                    }
                    _ => false,
                };
                model.require(is_right, || {
                    format!("connection {number} cannot be taken out without a cause")
                });
                if finishes {
                    model.count("a connection that finishes was not taken out");
                }
                return;
            }
        };
        let leaving = Leaving { id, key: record.key, fd: record.fd, stream };
        // The turn under way may deliver what it has received. The other thread waits for its end.
        let waits = !on_socket_thread && self.is_in_between();
        (record.phase, record.fd) = (if waits { Phase::Leaving } else { Phase::Closed }, NO_SOCKET);
        (record.timer, record.has_left, record.goes_on) = (None, true, true);
        model.require(!finishes, || format!("connection {number}, which finishes, left"));
        model.count(match (on_socket_thread, waits) {
            (true, _) => "a connection was taken out in a callback",
            (_, true) => "a connection was taken out in the middle of a pass",
            _ => "a connection was taken out on another thread",
        });
        drop(model);
        if waits {
            self.leaving.lock().push(leaving);
        } else {
            self.goes_on(sockman, leaving);
        }
    }

    /// Lets the calls return that took connections out in the middle of a pass, which has ended.
    pub(crate) fn end_handovers(&self, sockman: &SockMan) {
        let leaving: Vec<Leaving> = self.leaving.lock().drain(..).collect();
        for leaving in leaving {
            self.with_record(leaving.id, |record| {
                if record.phase == Phase::Leaving {
                    record.phase = Phase::Closed;
                }
            });
            self.goes_on(sockman, leaving);
        }
    }

    fn probe_of(&self, fd: RawSocket, key: u64) -> Option<Probe> {
        self.network.probe(fd).filter(|probe| probe.peer == Some(key))
    }

    /// Decides what becomes of a stream that has left.
    fn goes_on(&self, sockman: &SockMan, leaving: Leaving) {
        let Leaving { id, key, fd, stream } = leaving;
        let probe = self.probe_of(fd, key);
        let (how, is_over) = {
            let mut model = self.model.lock();
            let number = model.number(id);
            model.require(probe.is_some(), || {
                format!("the stream of connection {number}, which was taken out, is closed (G5)")
            });
            // The error of a broken stream was perhaps reported already, and the next owner of a
            // half-closed stream does not know that it is half-closed.
            let is_over = probe.is_none_or(|probe| probe.is_broken || probe.has_error);
            let is_over = is_over
                || model.connections.get(&id).is_none_or(|record| {
                    record.is_broken()
                        || record.write_shut
                        || model.streams_seem_ended
                        || model.streams_fail
                });
            (model.choices.below(4), is_over)
        };
        match how {
            0 => {
                drop(stream);
                self.with_record(id, |record| record.goes_on = false);
                self.model.lock().count("a stream that left was closed");
            }
            1 => match self.network.taken_out(stream) {
                Ok(stream) => {
                    self.outside.lock().push(Outside { id, key, fd, stream });
                    let last = self.outside.lock().len() - 1;
                    self.read_outside(last, 1000);
                }
                Err(_) => self.model.lock().violated("a stream that left is unknown".to_owned()),
            },
            _ if is_over => self.with_record(id, |record| record.goes_on = false),
            _ => self.give_back(sockman, id, stream),
        }
    }

    fn give_back(&self, sockman: &SockMan, old: ConnectionId, stream: OwnedSocket) {
        match sockman.add_connection(stream) {
            Ok(connection) => {
                let id = connection.id();
                let mut model = self.model.lock();
                let is_new = model.connections.keys().next_back().is_none_or(|last| *last < id);
                model.require(is_new, || format!("id {id} was handed out before (G1)"));
                self.register(sockman, &mut model, id, Phase::Quiet);
                model.moves(old, id);
                model.count("a stream that left came back");
                drop(model);
                self.held.lock().push(connection);
            }
            Err(error) => {
                let is_full =
                    matches!(error.kind(), AddConnectionErrorKind::TooManyConnections { .. });
                drop(error.into_stream());
                self.with_record(old, |record| record.goes_on = false);
                self.model.lock().require(is_full, || "a stream was not added again".to_owned());
            }
        }
    }

    /// Lets other code read at most `limit` bytes from the stream at index `at`.
    fn read_outside(&self, at: usize, limit: usize) {
        let outside = self.outside.lock();
        let Some(outside) = outside.get(at) else { return };
        let (data, ended) = outside.stream.receive_at_most(limit);
        let mut model = self.model.lock();
        model.check_left(outside.id, &data);
        if ended == Some(Ended::Eof) {
            model.check_end_outside(outside.id);
        }
    }

    /// Lets other code read all streams that have left. Checks that no poller watches them.
    pub(crate) fn read_all_outside(&self) {
        let count = self.outside.lock().len();
        (0..count).for_each(|at| self.read_outside(at, usize::MAX));
        for outside in &*self.outside.lock() {
            let is_watched = self.probe_of(outside.fd, outside.key);
            let is_watched = is_watched.is_some_and(|probe| probe.is_watched);
            let mut model = self.model.lock();
            let (number, is_excused) = (model.number(outside.id), model.calls_failed);
            model.require(!is_watched || is_excused, || {
                format!("a poller watches the stream of connection {number}, which left (G14)")
            });
        }
    }

    /// Closes the streams that have left. Checks that each one was read to its end.
    pub(crate) fn end_outside(&self) {
        for Outside { id, key, .. } in self.outside.lock().drain(..) {
            let mut model = self.model.lock();
            let number = model.number(id);
            let received = model.connections.get(&id).map_or(0, |record| record.received);
            let player = model.player(key).filter(|player| !player.may_reset);
            let sent = player.map(|player| player.sent);
            model.require(sent.is_none_or(|sent| sent == received), || {
                format!("the stream of connection {number} holds {received} of {sent:?} bytes (G5)")
            });
            if let Some(record) = model.connections.get_mut(&id) {
                record.goes_on = false;
            }
        }
    }
}

impl Model {
    /// Checks data that other code read from the stream of a connection that has left.
    fn check_left(&mut self, id: ConnectionId, data: &[u8]) {
        let number = self.number(id);
        self.say(|| format!("  {} bytes from the stream of connection {number}", data.len()));
        let Some(record) = self.connections.get_mut(&id) else { return };
        let (key, from) = (record.key, record.received);
        record.received += data.len() as u64;
        let is_right = (from..).zip(data).all(|(at, byte)| *byte == byte_at(key, Way::In, at));
        self.require(is_right, || {
            format!("the stream of connection {number} holds wrong bytes from byte {from} on (G5)")
        });
        if !data.is_empty() {
            self.count("a stream that left was read");
        }
    }

    fn check_end_outside(&mut self, id: ConnectionId) {
        let number = self.number(id);
        let Some(record) = self.connections.get(&id) else { return };
        let (key, received) = (record.key, record.received);
        let Some(player) = self.player(key).filter(|player| !player.may_reset) else { return };
        let (has_fin, sent) = (player.has_fin, player.sent);
        self.require(has_fin && sent == received, || {
            format!("the stream of connection {number} ends after {received} of {sent} bytes (G5)")
        });
    }

    /// Notes that the stream of `old`, which has left, is now the connection `new`.
    fn moves(&mut self, old: ConnectionId, new: ConnectionId) {
        let Some(before) = self.connections.get_mut(&old) else { return };
        before.goes_on = false;
        let key = std::mem::replace(&mut before.key, u64::MAX);
        let sent = match &before.queue {
            Some(queue) => before.goal - queue.queued() as u64,
            None => before.sent,
        };
        let (received, write_shut) = (before.received, before.write_shut);
        let number = self.number(new);
        let Some(after) = self.connections.get_mut(&new) else { return };
        let has_key = after.key == key;
        (after.received, after.sent, after.goal) = (received, sent, sent);
        (after.write_shut, after.is_back) = (write_shut, true);
        self.require(has_key, || format!("connection {number} has another stream than before"));
    }
}
