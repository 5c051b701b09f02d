//! A dialogue over a socket: the connect to the SAM bridge, and then the exchange of lines.
//!
//! A step takes the socket and the time, and returns what to wait for. The step runs on the thread
//! that calls it, and takes no lock.

use std::time::Instant;

use super::{
    dialogue::{Dialogue, Goal},
    error::SamError,
};
use crate::{
    address::Service,
    dial::{DirectConnect, Step, fault::of_endpoint, machine::drive},
    sys::Sock,
};

#[derive(Debug)]
pub(crate) struct Talk {
    sam: Service,
    direct: DirectConnect,
    pub(crate) dialogue: Dialogue,
}

impl Talk {
    pub(crate) fn new(sam: &Service, goal: Goal, now: Instant) -> Talk {
        Talk { sam: sam.clone(), direct: DirectConnect::new(now), dialogue: Dialogue::new(goal) }
    }

    /// Proceeds as far as it can without waiting. `Connected` means that the dialogue needs no
    /// further step for now.
    ///
    /// # Errors
    ///
    /// Returns the error that ended the dialogue.
    pub(crate) fn step(&mut self, sock: &dyn Sock, now: Instant) -> Result<Step, SamError> {
        match self.direct.step(sock, &self.sam, now) {
            Err(source) => {
                return Err(SamError::Unreachable { source: of_endpoint(&self.sam, source) });
            }
            Ok(Step::Connected) => {}
            Ok(step) => return Ok(step),
        }
        drive(&mut self.dialogue, sock, now)
    }
}
