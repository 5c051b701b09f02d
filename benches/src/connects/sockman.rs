//! `start_connect`, called on the socket thread, as a program does that has one thread. The socket
//! thread also reports the outcomes.
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
    let handler = Arc::new(Connecting {
        ports: ports.to_owned(),
        options: ConnectOptions::default(),
        requested: Mutex::new(0),
        expected: Mutex::new(0),
        tell,
    });
    let sockman = SockMan::new(Arc::clone(&handler) as _, Options::default())?;
    let _threads = sockman.start_sockets_threads()?;
    serve_requests(|count| {
        *handler.expected.lock() = count;
        *handler.requested.lock() = count;
        sockman.notify();
        Ok(told.recv()??)
    })
}

struct Connecting {
    ports: Vec<u16>,
    options: ConnectOptions,
    /// The number of connects that the next pass starts.
    requested: Mutex<usize>,
    /// The number of connects without an outcome.
    expected: Mutex<usize>,
    /// Reports that all have succeeded, or the first failure.
    tell: mpsc::Sender<Result<(), ConnectError>>,
}

impl EventHandler for Connecting {
    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        let requested = std::mem::take(&mut *self.requested.lock());
        for to in targets(&self.ports, requested) {
            if let Err(error) = sockman.start_connect(to, &self.options) {
                // The main thread receives until the process ends.
                let _ = self.tell.send(Err(error));
            }
        }
    }

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
