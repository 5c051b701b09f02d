//! The two ways to connect, for tests that use both.

use sockman::{ConnectOptions, ConnectionId, SockMan, address::Destination, error::ConnectError};

use super::Recorder;

/// The two ways to connect, which must give the same result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Blocking,
    SocketThread,
}

pub const DRIVERS: [Driver; 2] = [Driver::Blocking, Driver::SocketThread];

impl Driver {
    /// Connects and activates. Returns the id of the connection, or the error of the attempt.
    /// `recorder` is the handler of `sockman`.
    pub fn connect(
        self,
        sockman: &SockMan,
        recorder: &Recorder,
        to: &Destination,
        options: &ConnectOptions,
    ) -> Result<ConnectionId, ConnectError> {
        match self {
            Driver::Blocking => sockman.connect(to, options).map(|new| new.activate()),
            Driver::SocketThread => {
                let id = sockman.start_connect(to, options)?;
                recorder.wait_for_outcome(id).map(|_| id)
            }
        }
    }
}
