//! `start_connect`, called on the main thread. The socket thread reports the outcomes.
use std::{
    error::Error,
    io,
    sync::{Arc, mpsc},
};

use parking_lot::Mutex;
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, Options, Service, SockMan,
    address::Destination, error::ConnectError,
};

use super::{serve_requests, targets};

pub(super) fn run(ports: &[u16]) -> Result<(), Box<dyn Error>> {
    let (tell, told) = mpsc::channel();
    let handler = Arc::new(Connecting { expected: Mutex::new(0), tell });
    let sockman = SockMan::new(Arc::clone(&handler) as _, Options::default())?;
    let _threads = sockman.start_sockets_threads()?;
    let options = ConnectOptions::default();
    serve_requests(|count| {
        *handler.expected.lock() = count;
        for to in targets(ports, count) {
            sockman.start_connect(to, &options)?;
        }
        Ok(told.recv()??)
    })
}

struct Connecting {
    /// The number of connects without an outcome.
    expected: Mutex<usize>,
    /// Reports that all have succeeded, or the first failure.
    tell: mpsc::Sender<Result<(), ConnectError>>,
}

impl EventHandler for Connecting {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        false
    }

    fn event_connect_completed(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let mut expected = self.expected.lock();
        *expected = expected.saturating_sub(1);
        let report = match outcome {
            Ok(_) if *expected > 0 => return,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        // The main thread receives until the process ends.
        let _ = self.tell.send(report);
    }

    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }

    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        sockman.close_connection(id);
    }
}
