//! The handler of the reactor's `SockMan`. Its methods run on the thread of the reactor. They put
//! what happens into a queue, because a handler cannot hold a service, which need not be `Send`. The
//! reactor takes the queue in the next pass, which follows at once.
//!
//! The queue has one mutex, which is held for a push or a swap.

use std::{
    io, mem,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sockman::{
    ConnectionId, NextRecv, Service, SockMan,
    address::Destination,
    error::ConnectError,
    helpers::{SendBudget, SendQueueLimits},
    stateful::{Handler, Link, Remote},
};

use crate::timers::Timers;

/// A peer is not read from while this many bytes are queued for it.
pub(crate) const HIGH_MARK: usize = 1_000_000;
/// The most bytes that are queued for a peer: two of the longest messages of Bitcoin's protocol.
pub(crate) const QUEUE_LIMIT: usize = 8_000_000;
/// The most bytes that are queued for all peers together.
pub(crate) const BUDGET: usize = 64_000_000;

const LIMITS: SendQueueLimits = match SendQueueLimits::new(HIGH_MARK / 2, HIGH_MARK, QUEUE_LIMIT) {
    Ok(limits) => limits,
    Err(_) => panic!("the marks are out of order"), // At compile time.
};

/// The way to a connection. The connections have no value.
pub(crate) type Way = Remote<()>;

/// What has happened on a connection.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) id: ConnectionId,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Accepted {
        me: SocketAddr,
        them: SocketAddr,
        way: Way,
    },
    Connected {
        me: SocketAddr,
        way: Way,
    },
    ConnectFailed(io::Error),
    Data(Vec<u8>),
    /// The connection has ended. It is closed, or is being closed.
    Ended(io::Error),
}

pub(crate) struct Bridge {
    inputs: Mutex<Vec<Input>>,
    pub(crate) timers: Timers,
    budget: SendBudget,
}

impl Bridge {
    pub(crate) fn new() -> Bridge {
        Bridge { inputs: Mutex::default(), timers: Timers::new(), budget: SendBudget::new(BUDGET) }
    }

    /// Takes all inputs, in their order.
    pub(crate) fn take(&self) -> Vec<Input> {
        mem::take(&mut *self.inputs())
    }

    fn inputs(&self) -> MutexGuard<'_, Vec<Input>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, id: ConnectionId, what: What) {
        self.inputs().push(Input { id, what });
    }
}

impl Handler for Bridge {
    type Connection = ();

    fn accepted(&self, link: Link<'_, ()>, me: &Service, them: &Service) -> Option<()> {
        // Each listener is an IP listener, so both have this form.
        let (me, them) = (me.to_socket_addr()?, them.to_socket_addr()?);
        self.put(link.id(), What::Accepted { me, them, way: link.remote() });
        Some(())
    }

    fn connected(&self, link: Link<'_, ()>, _: &Destination, me: &Service) -> Option<()> {
        // Through a proxy on a unix-domain socket, this side has no IP address.
        let me = me.to_socket_addr().unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
        self.put(link.id(), What::Connected { me, way: link.remote() });
        Some(())
    }

    fn connect_failed(&self, _: &SockMan, id: ConnectionId, _: &Destination, error: ConnectError) {
        self.put(id, What::ConnectFailed(error.into()));
    }

    fn got_data(&self, link: Link<'_, ()>, _: &mut (), data: &[u8]) {
        self.put(link.id(), What::Data(data.to_vec()));
    }

    /// Bitcoin has no half-open connections. Nakamoto's own reactor reports the end of a stream with
    /// this kind of error.
    fn got_eof(&self, link: Link<'_, ()>, _: &mut ()) {
        let error = io::Error::new(io::ErrorKind::ConnectionReset, "the peer has disconnected");
        self.put(link.id(), What::Ended(error));
        link.close();
    }

    fn read_error(&self, link: Link<'_, ()>, _: &mut (), error: &io::Error) {
        let error = match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        self.put(link.id(), What::Ended(error));
        link.close();
    }

    fn ready_to_send(&self, link: Link<'_, ()>, _: &mut ()) -> NextRecv {
        if let Err(error) = link.drain() {
            self.put(link.id(), What::Ended(error.into()));
            link.close();
        }
        NextRecv::Proceed
    }

    /// Comes after each close. The reactor knows of the end already, unless the program has closed
    /// the connection itself.
    fn closed(&self, _: &SockMan, id: ConnectionId, (): ()) {
        let error = io::Error::new(io::ErrorKind::NotConnected, "the connection was closed");
        self.put(id, What::Ended(error));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn queue_limits(&self) -> SendQueueLimits {
        LIMITS
    }

    fn send_budget(&self) -> Option<&SendBudget> {
        Some(&self.budget)
    }
}
