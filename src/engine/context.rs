//! What a pass works with and does not own, and the guard around its callbacks.
//!
//! Belongs to the socket thread. Takes no lock while a callback runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{announce::closed_after_panic, connection::ConnectionId, shared::Shared};
use crate::{
    event_handler::EventHandler, options::PanicPolicy, sockman::SockMan, sys::interrupt::Watches,
};

/// What a pass works with and does not own.
pub(crate) struct Context<'a> {
    pub(crate) sockman: &'a SockMan,
    pub(crate) interrupts: &'a Watches,
}

impl Context<'_> {
    #[inline]
    pub(crate) fn shared(&self) -> &Shared {
        self.sockman.shared()
    }

    #[inline]
    pub(crate) fn handler(&self) -> &dyn EventHandler {
        &*self.shared().handler
    }

    /// Runs callbacks for one connection. `None` if one panicked and the policy is to go on: then
    /// the connection was closed, and the embedder told. Under [`PanicPolicy::Stop`] the panic
    /// goes on its way.
    #[inline]
    pub(crate) fn guard<R>(&self, id: ConnectionId, run: impl FnOnce() -> R) -> Option<R> {
        if self.shared().options.panic_policy == PanicPolicy::Stop {
            return Some(run());
        }
        // Unwind-safe: all that `run` borrows beside the handler is the slot, which goes.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => Some(result),
            Err(payload) => {
                closed_after_panic(self.sockman, id, &*payload);
                None
            }
        }
    }
}
