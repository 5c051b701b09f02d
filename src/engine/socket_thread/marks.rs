//! What the socket thread does with the marks of other threads and of callbacks, and how it releases
//! what was closed or stopped.
//!
//! This module belongs to the socket thread, or, while no thread runs, to the caller that holds the
//! `run` mutex. No lock is held while a callback runs.

use std::{mem, sync::Arc, time::Instant};

use super::SocketThread;
use crate::engine::{
    attempt::Attempt, connection::Connection, context::Context, inbox::Mark, listener::Listener,
    map::Closed, shared::Shared, slab::Token, slot::OpenSince,
};

impl SocketThread {
    /// Takes the marks, runs the closures of other threads, and reports the connections that are
    /// closed. Returns whether there may have been a callback.
    pub(super) fn heed_marks(&mut self, context: &Context<'_>) -> bool {
        self.take_marks(context);
        let calls_back = self.visits.has_due() || self.ending.has_unreported();
        self.visits.run(context, &mut self.connected);
        self.ending.report(context);
        // A closure that is left over may hold what another thread waits for. Its connection is
        // closed, so the next passes drop it.
        if !self.visits.has_due() {
            self.ending.end_drain(context, self.open);
        }
        calls_back
    }

    /// Takes the marks of other threads and of callbacks, and acts on them. Makes no callback.
    fn take_marks(&mut self, context: &Context<'_>) {
        self.open = OpenSince::before_taking_marks(context);
        let mut marks = mem::take(&mut self.marks);
        if context.shared().inbox.take(&mut marks) {
            for mark in marks.drain(..) {
                match mark {
                    Mark::Activated(connection) => {
                        if let Some(connection) = connection.upgrade() {
                            self.connected.add(context.shared(), &connection);
                        }
                    }
                    Mark::Connecting(attempt) => self.connecting.add(attempt),
                    Mark::ConnectCancelled(connection) => {
                        if let Some(connection) = connection.upgrade() {
                            self.connecting.cancel(&connection);
                        }
                    }
                    Mark::Woken(connection) => {
                        if let Some(connection) = connection.upgrade() {
                            self.connected.wake(&connection);
                        }
                    }
                    Mark::Lacking(connection, code) => {
                        if let Some(connection) = connection.upgrade() {
                            self.add_lacking(&connection, code);
                        }
                    }
                    Mark::Closed(closed) => self.remove(context.shared(), &closed),
                    Mark::Ended(id) => self.ending.add(id, context.shared().take_state(id)),
                    Mark::Visit(visit) => self.visits.add(*visit),
                    Mark::Finishing(finishing) => {
                        let (connection, until) = *finishing;
                        if let Some(connection) = connection.upgrade() {
                            self.finish(&connection, until);
                        }
                    }
                    Mark::Draining(until) => {
                        self.ending.drain(*until);
                        self.connected.finish_all();
                    }
                    Mark::Fence(fence) => drop(fence),
                    Mark::ListenerAdded(listener) => {
                        if let Some(listener) = listener.upgrade() {
                            self.add_listener(context.shared(), &listener);
                        }
                    }
                    Mark::ListenersStopped => self.remove_stopped_listeners(),
                }
            }
        }
        self.marks = marks;
    }

    fn finish(&mut self, connection: &Connection, until: Option<Instant>) {
        if connection.is_closed() {
            return;
        }
        if let Some(until) = until {
            self.ending.set_timer(connection.id, until);
        }
        self.connected.finish(connection);
    }

    /// Releases everything that was closed or stopped, marks included, so that descriptors and
    /// memory do not wait for the next start. The caller ensures that no thread runs.
    pub(crate) fn remove_closed(&mut self, shared: &Shared) {
        for attempt in shared.inbox.settle() {
            self.drive(attempt);
        }
        self.connected.remove_closed(shared);
        self.connecting.remove_closed();
        self.remove_stopped_listeners();
    }

    /// Releases one connection that was closed. The caller ensures that no thread runs.
    pub(crate) fn forget(&mut self, shared: &Shared, closed: &Closed) {
        // The inbox may still hold the mark of the connection's activation or of a wake.
        shared.inbox.closed(1);
        self.remove(shared, closed);
    }

    /// Returns how many attempts are listed for a step.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn listed_attempts(&self) -> usize {
        self.connecting.listed()
    }

    /// Takes an attempt over. The caller ensures that no thread runs.
    pub(crate) fn drive(&mut self, attempt: Box<Attempt>) {
        self.connecting.add(attempt);
    }

    /// Releases a connection or an attempt. Lists its end for the report, if it was announced.
    fn remove(&mut self, shared: &Shared, Closed { connection, is_announced }: &Closed) {
        let state = match connection.token() {
            Some(Token::Attempt(key)) => {
                drop(self.connecting.remove(key));
                None
            }
            _ => self.connected.remove(connection),
        };
        if *is_announced {
            let state = state.or_else(|| shared.take_state(connection.id));
            self.ending.add(connection.id, state);
        } else if connection.is_finishing() {
            self.ending.clear_timer(connection.id);
        }
    }

    fn add_lacking(&mut self, connection: &Connection, code: i32) {
        match connection.key() {
            Some(key) => self.lacking.add(key, connection.id, code, self.now),
            // The connection is closed, or not yet activated. The registration of a connection that
            // is activated later reports that the socket is ready.
            None => drop(connection.take_lacks()),
        }
    }

    fn add_listener(&mut self, shared: &Shared, listener: &Arc<Listener>) {
        if !self.listening.add(&self.connected, listener, self.now) {
            log::error!(
                target: "sockman::net",
                "cannot poll the listener on {}: every slot is taken",
                listener.address()
            );
            shared.stop_listener(listener);
        }
    }

    pub(crate) fn remove_stopped_listeners(&mut self) {
        self.listening.remove_stopped(&self.connected);
    }
}
