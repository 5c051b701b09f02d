//! [`Remote`], through which other threads reach a connection and its value.
//!
//! All remotes of a connection share one `Out` with the connection's link. It owns the queue, which
//! has one mutex. It keeps neither the connection's descriptor nor the `SockMan` alive.

use std::{
    error::Error,
    fmt, io, iter,
    marker::PhantomData,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Handler, Link, adapter::entry_of};
use crate::{
    engine::{
        connection::{Connection, ConnectionId, ConnectionInfo},
        inbox::Mark,
        map::How,
        state::{Place, Visit},
    },
    error::SendError,
    helpers::{Drained, Piece, PushError, SendQueue, outlet::Direct},
    options::More,
    sockman::{SockMan, WeakSockMan},
};

/// What the links and the remotes of a connection share.
pub(super) struct Out {
    sockman: WeakSockMan,
    connection: Weak<Connection>,
    pub(super) queue: SendQueue,
}

impl Out {
    pub(super) fn new<H: Handler>(
        handler: &H,
        sockman: WeakSockMan,
        connection: &Arc<Connection>,
    ) -> Arc<Out> {
        let (id, limits) = (connection.id, handler.queue_limits());
        let queue = match handler.send_budget() {
            Some(budget) => SendQueue::with_budget(id, limits, budget),
            None => SendQueue::new(id, limits),
        };
        Arc::new(Out { sockman, connection: Arc::downgrade(connection), queue })
    }
}

/// A handle to a connection and its value, for any thread. Clones are handles to the same
/// connection.
///
/// [`Link::remote`] and [`NewConnection::activate_with`](crate::NewConnection::activate_with)
/// return a remote. `C` is the type of the connection's value.
///
/// A remote may outlive its connection and its [`SockMan`]. Its methods then return an error, or do
/// nothing. It keeps no descriptor open. It keeps about 220 bytes, and no queued bytes after the
/// report of the end.
///
/// A call holds a handle of the [`SockMan`] while it runs. If the program drops all other handles
/// meanwhile and no thread runs, the call drops the last one, and with it the handler and all
/// values, under the locks that the caller holds. A caller that holds a lock which their
/// destructors take therefore ends before the last handle is dropped.
///
/// # Examples
///
/// ```
/// use sockman::stateful::{ConnectionClosed, Remote};
///
/// struct Session {
///     name: String,
/// }
///
/// /// On a worker's thread.
/// fn rename(remote: &Remote<Session>, name: String) -> Result<(), ConnectionClosed> {
///     remote.run(|link, session| {
///         // On the socket thread.
///         session.name = name;
///         if link.push(b"renamed\n").is_err() {
///             link.close();
///         }
///     })
/// }
/// ```
pub struct Remote<C> {
    out: Arc<Out>,
    value: PhantomData<fn(C)>,
}

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Remote::new(Arc::clone(&self.out))
    }
}

impl<C> Remote<C> {
    pub(super) fn new(out: Arc<Out>) -> Remote<C> {
        Remote { out, value: PhantomData }
    }

    /// Returns the `SockMan` and the connection, unless the connection is closed.
    fn open(&self) -> Option<(SockMan, Arc<Connection>)> {
        let connection = self.out.connection.upgrade().filter(|found| !found.is_closed())?;
        Some((self.out.sockman.upgrade()?, connection))
    }

    /// Returns the connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.out.queue.id()
    }

    /// Returns the connection's queue.
    #[must_use]
    pub fn queue(&self) -> &SendQueue {
        &self.out.queue
    }

    /// Returns whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.open().is_none()
    }

    /// Sends `data`, or queues what the kernel does not take now: [`SendQueue::push`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    pub fn push(&self, data: &[u8]) -> Result<(), PushError> {
        self.push_with(data, More::No)
    }

    /// Works as [`push`](Remote::push), for a caller that knows whether another push follows at
    /// once.
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    pub fn push_with(&self, data: &[u8], more: More) -> Result<(), PushError> {
        self.with(|queue, direct| queue.push_to(direct, data, more))
    }

    /// Works as [`push`](Remote::push), for bytes that other queues send too:
    /// [`SendQueue::push_shared`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    pub fn push_shared(&self, data: &Arc<[u8]>) -> Result<(), PushError> {
        self.push_pieces(&[Piece::Shared(data)])
    }

    /// Works as [`push`](Remote::push), for one message that consists of several pieces:
    /// [`SendQueue::push_pieces`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    pub fn push_pieces(&self, pieces: &[Piece<'_>]) -> Result<(), PushError> {
        self.with(|queue, direct| queue.push_pieces_to(direct, pieces))
    }

    /// Queues `data`, and lets the socket thread send it: [`SendQueue::enqueue`]. No enqueue makes
    /// a system call to send.
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue`].
    pub fn enqueue(&self, data: &[u8]) -> Result<(), PushError> {
        self.with(|queue, direct| queue.enqueue_all(direct, iter::once(Piece::Bytes(data))))
    }

    /// Works as [`enqueue`](Remote::enqueue), for bytes of which the queue may take a part. Returns
    /// how many bytes it took: [`SendQueue::enqueue_part`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue_part`].
    pub fn enqueue_part(&self, data: &[u8]) -> Result<usize, PushError> {
        self.with(|queue, direct| queue.enqueue_part_to(direct, data))
    }

    /// Works as [`enqueue`](Remote::enqueue), for bytes that other queues send too. One message to
    /// thousands of peers is one allocation: [`SendQueue::enqueue_shared`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use sockman::{helpers::ConnectionTable, stateful::Remote};
    ///
    /// /// Sends a line to all members of a chat.
    /// fn send_to_all(members: &ConnectionTable<Remote<()>>, line: &str) {
    ///     let line: Arc<[u8]> = line.as_bytes().into();
    ///     for (_, member) in members.all() {
    ///         if member.enqueue_shared(&line).is_err() {
    ///             member.close(); // It does not read.
    ///         }
    ///     }
    /// }
    /// ```
    pub fn enqueue_shared(&self, data: &Arc<[u8]>) -> Result<(), PushError> {
        self.with(|queue, direct| queue.enqueue_all(direct, iter::once(Piece::Shared(data))))
    }

    /// Works as [`enqueue`](Remote::enqueue), for one message that consists of several pieces:
    /// [`SendQueue::enqueue_pieces`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue`].
    pub fn enqueue_pieces(&self, pieces: &[Piece<'_>]) -> Result<(), PushError> {
        self.with(|queue, direct| queue.enqueue_all(direct, pieces.iter().copied()))
    }

    /// Sends as many queued bytes as the kernel takes, on the calling thread, and returns what the
    /// call did: [`SendQueue::drain`]. If an enqueue fails with [`PushError::Full`], a drain may
    /// make room.
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`].
    pub fn drain(&self) -> Result<Drained, SendError> {
        let (sockman, connection) = self.open_or_error()?;
        let direct = Direct { sockman: &sockman, connection: &connection };
        self.out.queue.drain_to(&direct, usize::MAX)
    }

    fn open_or_error(&self) -> Result<(SockMan, Arc<Connection>), SendError> {
        self.open().ok_or(SendError::UnknownConnection(self.id()))
    }

    /// Uses the queue with a way to its connection.
    fn with<T>(
        &self,
        push: impl FnOnce(&SendQueue, &Direct<'_>) -> Result<T, PushError>,
    ) -> Result<T, PushError> {
        let (sockman, connection) = self.open_or_error().map_err(PushError::Send)?;
        push(&self.out.queue, &Direct { sockman: &sockman, connection: &connection })
    }

    /// Makes the socket thread ask the hooks of the connection again at once: [`SockMan::wake`].
    pub fn wake(&self) {
        if let Some((sockman, connection)) = self.open() {
            sockman.shared().wake(&connection);
        }
    }

    /// Closes the connection: [`SockMan::close_connection`]. Returns `true` for the one call that
    /// closed the connection.
    pub fn close(&self) -> bool {
        self.open().is_some_and(|(sockman, _)| sockman.close_connection(self.id()))
    }

    /// Ends the connection in order: [`SockMan::finish_connection`]. What is queued is sent.
    /// Returns `true` for the one call that began the end. Returns `false` if the connection
    /// finishes already or is closed.
    ///
    /// The call does not wait for closures of [`run`](Remote::run), which may then come too late to
    /// queue anything. To finish after them, call [`Link::finish`] in a closure.
    pub fn finish(&self, linger: Duration) -> bool {
        self.open().is_some_and(|(sockman, _)| sockman.finish_connection(self.id(), linger))
    }

    /// Closes the connection with a reset: [`SockMan::abort_connection`]. Returns `true` for the
    /// one call that closed the connection. Returns `false` if the connection is closed already.
    pub fn abort(&self) -> bool {
        self.open().is_some_and(|(sockman, _)| sockman.shared().close_as(self.id(), How::Reset))
    }

    /// Returns the current state of the connection. Returns `None` if the connection is closed.
    #[must_use]
    pub fn info(&self) -> Option<ConnectionInfo> {
        self.open().map(|(sockman, connection)| connection.info(sockman.shared().created))
    }

    /// Runs a closure on the connection's value, on the socket thread, in the next pass. Does not
    /// wait for the closure. After the closure, the library asks the hooks of the connection.
    ///
    /// The closures of one thread for one connection run in the order of the calls. The number of
    /// closures that wait has no limit. A pass runs closures for about a millisecond, and the next
    /// pass runs the rest. While no thread runs, closures wait for the next start, or are dropped
    /// with the last [`SockMan`].
    ///
    /// If the connection is closed before the closure's turn, the closure is dropped without being
    /// run, on the socket thread. A caller that waits for an answer therefore moves the sender of a
    /// channel into the closure, and treats a channel that ends as the end of the connection.
    ///
    /// # Errors
    ///
    /// [`ConnectionClosed`] if the connection is closed already. The closure is dropped.
    ///
    /// # Panics
    ///
    /// The call does not panic. A panic of the closure is handled as a panic of a callback for the
    /// connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use sockman::stateful::Remote;
    ///
    /// /// Asks for the value, and waits. Returns `None` if the connection is closed.
    /// fn value_of(remote: &Remote<u64>) -> Option<u64> {
    ///     let (sender, answer) = mpsc::channel();
    ///     let sent = remote.run(move |_link, value| {
    ///         let _ = sender.send(*value);
    ///     });
    ///     sent.ok()?;
    ///     answer.recv().ok()
    /// }
    /// ```
    pub fn run(
        &self,
        closure: impl FnOnce(Link<'_, C>, &mut C) + Send + 'static,
    ) -> Result<(), ConnectionClosed>
    where
        C: Send + 'static,
    {
        let id = self.id();
        let Some((sockman, connection)) = self.open() else { return Err(ConnectionClosed { id }) };
        let run = move |sockman: &SockMan, Place { connection, state }: Place<'_>| {
            if let Some(entry) = entry_of::<C>(state) {
                closure(Link::new(sockman, connection, &entry.out), &mut entry.value);
            }
        };
        let visit = Visit { id, connection: Arc::downgrade(&connection), run: Box::new(run) };
        sockman.shared().inbox.push(Mark::Visit(Box::new(visit)));
        Ok(())
    }
}

impl<C> fmt::Debug for Remote<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// The error returned by [`Remote::run`]: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionClosed {
    id: ConnectionId,
}

impl ConnectionClosed {
    /// Returns the id of the connection.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }
}

impl From<ConnectionClosed> for io::Error {
    fn from(error: ConnectionClosed) -> io::Error {
        io::Error::new(io::ErrorKind::NotConnected, error)
    }
}

impl fmt::Display for ConnectionClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot run the closure: connection {} is closed", self.id)
    }
}

impl Error for ConnectionClosed {}
