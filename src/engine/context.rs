//! The context of a pass: the `SockMan` and the interrupts, which the pass uses but does not own,
//! and the guard around its callbacks.
//!
//! The context belongs to the socket thread. No lock is held while a callback runs.

use std::{
    cell::{RefCell, RefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use super::{announce::closed_after_panic, connection::ConnectionId, shared::Shared};
use crate::{
    event_handler::EventHandler,
    options::PanicPolicy,
    sockman::SockMan,
    sys::{SockFactory, interrupt::Watches},
};

/// The `SockMan` and the interrupts that a pass uses.
pub(crate) struct Context<'a> {
    pub(crate) sockman: &'a SockMan,
    pub(crate) interrupts: &'a Watches,
    /// This reference and the next one belong to `sockman`. A turn uses them many times.
    shared: &'a Shared,
    handler: &'a dyn EventHandler,
    clock: &'a dyn SockFactory,
    /// The handle that the callbacks of a turn get. It knows the connection that has the turn.
    desk: RefCell<SockMan>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(sockman: &'a SockMan, interrupts: &'a Watches) -> Context<'a> {
        let shared = sockman.shared();
        let (handler, clock) = (&*shared.handler, &*shared.options.sock_factory);
        Context { sockman, interrupts, shared, handler, clock, desk: RefCell::new(sockman.clone()) }
    }

    #[inline]
    pub(crate) fn shared(&self) -> &'a Shared {
        self.shared
    }

    #[inline]
    pub(crate) fn handler(&self) -> &'a dyn EventHandler {
        self.handler
    }

    /// Reads the clock.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Returns the handle for the callbacks of a turn. Turns do not nest, so the handle is free.
    #[inline]
    pub(crate) fn desk(&self) -> RefMut<'_, SockMan> {
        self.desk.borrow_mut()
    }

    /// Returns whether a callback's panic ends the threads.
    #[inline]
    pub(crate) fn stops_at_panics(&self) -> bool {
        self.shared().options.panic_policy == PanicPolicy::Stop
    }

    /// Runs callbacks for one connection. If a callback panics under
    /// [`PanicPolicy::CloseConnection`], closes the connection, reports the close to the embedder
    /// and returns `None`.
    ///
    /// # Panics
    ///
    /// Continues the callback's panic under [`PanicPolicy::Stop`].
    #[inline]
    pub(crate) fn guard<R>(&self, id: ConnectionId, run: impl FnOnce() -> R) -> Option<R> {
        if self.stops_at_panics() {
            return Some(run());
        }
        // The closure is unwind-safe: besides the handler, `run` borrows only the slot, which is
        // removed after a panic.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => Some(result),
            Err(payload) => {
                closed_after_panic(self.sockman, id, None, &*payload);
                None
            }
        }
    }
}
