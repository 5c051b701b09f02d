//! The listeners of the double: accepting, adopting, and the end of a listener.
//!
//! The functions change plain data, part of the [`Kernel`].

use super::{End, Kernel, Owner, Sys};
use crate::{
    address::Service,
    sys::{RawSocket, errors},
    testing::calls::Call,
};

impl Kernel {
    /// Accepts on behalf of the program or of a peer.
    pub(in crate::testing) fn accept(&mut self, end: End, by: Owner) -> Sys<(End, Service)> {
        if by == Owner::Program {
            self.fault(Some(end), Call::Accept)?;
        }
        let accepted = self.accept_now(end, by);
        if accepted == Err(errors::EAGAIN) && by == Owner::Program {
            self.rearm(end);
        }
        accepted
    }

    fn accept_now(&mut self, end: End, by: Owner) -> Sys<(End, Service)> {
        let is_full = by == Owner::Program
            && self.descriptor_limit.is_some_and(|limit| self.descriptors >= limit);
        let backlog = self.backlog(end).ok_or(errors::EINVAL)?;
        if backlog.is_shut {
            return Err(errors::EINVAL);
        }
        let has_client = !backlog.waiting.is_empty();
        // Linux and the BSDs allocate the descriptor before they look for a client.
        if is_full && (has_client || !self.system.accept_looks_first()) {
            let dropped = match self.system.drops_clients_without_descriptor() {
                true => self.backlog(end).and_then(|backlog| backlog.waiting.pop_front()),
                false => None,
            };
            if let Some(client) = dropped {
                self.reset_other_of(client);
                self.close(client);
            }
            self.exhausted_at = Some(self.elapsed);
            return Err(errors::EMFILE);
        }
        let backlog = self.backlog(end).ok_or(errors::EINVAL)?;
        let Some(accepted) = backlog.waiting.pop_front() else {
            let blocks = backlog.is_blocking && by == Owner::Program;
            self.blocked_accepts += u64::from(blocks);
            return Err(errors::EAGAIN);
        };
        let was_reset = self.stream(accepted).is_some_and(|stream| stream.is_broken);
        let error = self.system.accept_of_reset_client();
        if let Some(error) = error.filter(|_| was_reset && by == Owner::Program) {
            self.close(accepted);
            return Err(error);
        }
        if by == Owner::Program {
            self.descriptors += 1;
        }
        let socket = self.socket(accepted).ok_or(errors::ECONNABORTED)?;
        socket.owner = by;
        let them = socket.remote.clone().ok_or(errors::ECONNABORTED)?;
        Ok((accepted, them))
    }

    /// Sets `O_NONBLOCK` on a listener of the program, and returns whether an accept has an outcome
    /// now. On Windows, `false` counts as a call that would block.
    pub(in crate::testing) fn ready_to_accept(&mut self, end: End) -> Sys<bool> {
        let backlog = self.backlog(end).ok_or(errors::EINVAL)?;
        backlog.is_blocking = false;
        let is_ready = !backlog.waiting.is_empty() || backlog.is_shut;
        if !is_ready {
            self.rearm(end);
        }
        Ok(is_ready)
    }

    /// Makes the program a holder of a peer's listener.
    pub(in crate::testing) fn adopt(&mut self, fd: RawSocket) -> Sys<End> {
        let end = self.shared.remove(&fd).ok_or(errors::EOPNOTSUPP)?;
        let backlog = self.backlog(end).ok_or(errors::EINVAL)?;
        (backlog.is_shared, backlog.is_blocking) = (true, false);
        self.socket(end).ok_or(errors::EBADF)?.owner = Owner::Program;
        self.descriptors += 1;
        Ok(end)
    }

    /// Ends the hold of the program or of a peer on a listener. Returns `true` if the other one
    /// still holds it.
    pub(in crate::testing) fn release_listener(&mut self, end: End, by: Owner) -> bool {
        let Some(backlog) = self.backlog(end) else { return false };
        if !std::mem::take(&mut backlog.is_shared) {
            return false;
        }
        if by == Owner::Program {
            self.descriptors -= 1;
            if let Some(socket) = self.socket(end) {
                socket.owner = Owner::Elsewhere;
            }
        }
        true
    }

    pub(in crate::testing) fn shutdown_listener(&mut self, end: End) -> Sys<()> {
        if !self.system.shuts_listeners_down() {
            return Err(errors::ENOTCONN);
        }
        let backlog = self.backlog(end).ok_or(errors::ENOTCONN)?;
        backlog.is_shut = true;
        let waiting = std::mem::take(&mut backlog.waiting);
        for waiting in waiting {
            self.reset_other_of(waiting);
            self.close(waiting);
        }
        self.tell(end);
        Ok(())
    }
}
