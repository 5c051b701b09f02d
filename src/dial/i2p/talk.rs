//! A dialogue over a socket: the connect to the SAM bridge, and behind it the lines.
//!
//! Plain: given the socket and the time, a step says what to wait for. Whatever thread steps it.

use std::{io, time::Instant};

use super::{
    dialogue::{Dialogue, Goal, Want},
    error::SamError,
};
use crate::{
    address::Service,
    dial::{DirectConnect, Step},
    sys::{More, Sock},
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

    /// As far as it goes without waiting. `Connected`: the dialogue wants nothing more for now.
    ///
    /// # Errors
    ///
    /// It failed, and is over.
    pub(crate) fn step(&mut self, sock: &dyn Sock, now: Instant) -> Result<Step, SamError> {
        match self.direct.step(sock, &self.sam, now) {
            Err(source) => return Err(SamError::Unreachable { source }),
            Ok(Step::Connected) => {}
            Ok(step) => return Ok(step),
        }
        loop {
            let outcome = match self.dialogue.wants() {
                Want::Nothing => return Ok(Step::Connected),
                Want::Send(bytes) => sock.send(bytes, More::No).map(|sent| {
                    self.dialogue.sent(sent);
                    sent > 0
                }),
                Want::Receive => {
                    let mut byte = [0];
                    match sock.recv(&mut byte) {
                        Ok(0) => return Err(self.dialogue.ended()),
                        Ok(_) => {
                            self.dialogue.received(byte[0])?;
                            Ok(true)
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            match outcome {
                Ok(true) => {}
                Ok(false) => return Ok(Step::WaitForSocket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Step::WaitForSocket);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let request = self.dialogue.request();
                    return Err(SamError::BrokeOff { request, source: Some(source) });
                }
            }
        }
    }
}
