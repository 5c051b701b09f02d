//! The two ways to connect, for tests that go through both.

use sockman::{ConnectOptions, ConnectionId, SockMan, address::Destination, error::ConnectError};

use super::Recorder;

/// The two ways to connect, which have to come to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Blocking,
    SocketThread,
}

pub const DRIVERS: [Driver; 2] = [Driver::Blocking, Driver::SocketThread];

impl Driver {
    /// Returns an activated connection of `sockman`, whose handler is `recorder`, or why there is
    /// none.
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
