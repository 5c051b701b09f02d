//! The turn of a connection that finishes: sends what the embedder has queued, ends the stream,
//! discards what still arrives, and closes the connection when the peer has ended its stream too.
//!
//! This module belongs to the socket thread. No lock is held while a callback runs.

use std::{io, mem};

use super::{
    End, Finish,
    turn::{Closed, Turn},
};
use crate::{engine::connection::RECV_LACKS, sys::passing::passes};

impl Turn<'_> {
    /// Takes the place of both directions of a usual turn.
    pub(super) fn finish(&mut self) -> Result<(), Closed> {
        self.check_open()?;
        if self.slot.end == End::ErrorTold {
            return self.close("its receive direction had failed");
        }
        if self.slot.finish == Finish::Sending {
            self.send_rest()?;
        } else {
            self.slot.send.work = false;
        }
        self.discard()?;
        self.check_open()?;
        let (id, sockman) = (self.slot.id, self.sockman);
        self.context.handler().place_turn_completed(sockman, id, self.place());
        self.check_open()
    }

    /// Lets the embedder send what it has queued, and ends the stream when nothing is left.
    fn send_rest(&mut self) -> Result<(), Closed> {
        // The embedder has ended the stream itself, so no room is awaited.
        if self.slot.connection.is_write_shut() {
            self.slot.send.work = false;
            self.slot.finish = Finish::Sent;
            return self.close_if_over();
        }
        if !self.slot.send.is_due() {
            return Ok(());
        }
        let (id, sockman, handler) = (self.slot.id, self.sockman, self.context.handler());
        let is_allowed = mem::take(&mut self.slot.send.allowed)
            || handler.place_should_try_to_send(sockman, id, self.place());
        self.check_open()?;
        if is_allowed {
            self.slot.forget_blocked_send();
            if !self.slot.send.ready {
                return Ok(());
            }
            self.slot.connection.take_sent();
            handler.place_ready_to_send(sockman, id, self.place());
            let sent = self.slot.connection.take_sent();
            self.slot.forget_blocked_send();
            self.check_open()?;
            // An embedder that sent nothing, although there is room, has nothing to send. The
            // default of `should_try_to_send` never says no.
            if sent || !self.slot.send.ready {
                self.slot.send.work = sent;
                return Ok(());
            }
        }
        self.slot.send.work = false;
        // The layer's queue is the library's own. A limit of the rate holds it back, and a wake
        // follows.
        if handler.place_has_queued(self.place()) {
            return Ok(());
        }
        if self.slot.connection.shutdown_write().is_err() {
            return self.close("its stream cannot be ended");
        }
        self.slot.finish = Finish::Sent;
        self.close_if_over()
    }

    /// Makes one receive and discards its bytes.
    fn discard(&mut self) -> Result<(), Closed> {
        if !self.slot.recv.is_due() {
            return Ok(());
        }
        if self.take_failed_registration().is_some() {
            return self.close("the poller does not watch it");
        }
        if self.slot.end != End::Open {
            return self.close("the peer reset it");
        }
        let (connection, buffer) = (&self.slot.connection, &mut *self.buffer);
        match connection.recv(buffer) {
            Ok(0) => {
                connection.set_ended();
                self.slot.end = End::EofTold;
                self.slot.recv.ready = self.slot.broken;
                self.slot.recv.work = self.slot.broken;
                self.close_if_over()
            }
            Ok(bytes) => {
                if bytes < self.buffer.len() && self.slot.short_read_means_empty {
                    self.slot.recv.clear();
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.slot.recv.clear();
                Ok(())
            }
            Err(error) if passes(&error) => {
                self.context.shared().lacks(connection, RECV_LACKS, &error);
                self.slot.recv.clear();
                Ok(())
            }
            Err(error) => self.close(&format!("a receive failed: {error}")),
        }
    }

    /// Closes the connection if both sides have ended their streams.
    fn close_if_over(&mut self) -> Result<(), Closed> {
        if self.slot.finish == Finish::Sent && self.slot.end != End::Open {
            return self.close("both sides have ended their streams");
        }
        Ok(())
    }

    fn close(&mut self, why: &str) -> Result<(), Closed> {
        let id = self.slot.id;
        log::debug!(target: "sockman::net", "closing connection {id}, which finishes: {why}");
        self.context.shared().close(id);
        Err(Closed)
    }
}
