//! [`Link`], through which a callback reaches its own connection. A link owns nothing. It reaches
//! the connection without a look-up, except to end it.

use std::{fmt, io::IoSlice, iter, marker::PhantomData, sync::Arc, time::Duration};

use super::{Remote, StreamParts, remote::Out};
use crate::{
    address::{Destination, Service},
    engine::{
        connection::{Connection, ConnectionId, ConnectionInfo},
        handover,
        map::How,
    },
    error::{IntoStreamError, SendError},
    helpers::{Drained, Piece, PushError, SendQueue, outlet::Direct},
    options::More,
    sockman::SockMan,
};

/// The way from a callback to its own connection. Each method of [`Handler`](super::Handler) for
/// one connection gets a link.
///
/// A link is valid during the callback. For later and for other threads, [`remote`](Link::remote)
/// returns a [`Remote`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use sockman::{helpers::PushError, stateful::Link};
///
/// struct Peer {
///     requests: u32,
/// }
///
/// /// Called in `got_data`. Answers a request, and ends the connection after the hundredth one.
/// fn answer(link: Link<'_, Peer>, peer: &mut Peer, answer: &[u8]) -> Result<(), PushError> {
///     peer.requests += 1;
///     link.push(answer)?;
///     if peer.requests == 100 {
///         link.finish(Duration::from_secs(5)); // Sends what is queued, and then closes.
///     }
///     Ok(())
/// }
/// ```
pub struct Link<'a, C> {
    sockman: &'a SockMan,
    connection: &'a Arc<Connection>,
    out: &'a Arc<Out>,
    value: PhantomData<fn(C)>,
}

impl<C> Clone for Link<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Link<'_, C> {}

impl<'a, C> Link<'a, C> {
    #[inline]
    pub(super) fn new(
        sockman: &'a SockMan,
        connection: &'a Arc<Connection>,
        out: &'a Arc<Out>,
    ) -> Link<'a, C> {
        Link { sockman, connection, out, value: PhantomData }
    }

    #[inline]
    fn direct(&self) -> Direct<'a> {
        Direct { sockman: self.sockman, connection: self.connection }
    }

    /// Returns the connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.connection.id
    }

    /// Returns the `SockMan` that owns the connection.
    #[must_use]
    pub fn sockman(&self) -> &'a SockMan {
        self.sockman
    }

    /// Returns the local address.
    #[must_use]
    pub fn me(&self) -> &'a Service {
        self.connection.me()
    }

    /// Returns the peer: the address that an inbound connection came from, or the destination that
    /// was dialled.
    #[must_use]
    pub fn them(&self) -> &'a Destination {
        self.connection.them()
    }

    /// Returns whether the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Returns whether the connection ends in order: [`finish`](Link::finish),
    /// [`SockMan::finish_connection`] or [`SockMan::drain_and_stop`] was called, on any thread. A
    /// connection that is announced during a drain finishes from the end of its first callback on. A
    /// handler whose protocol has a last message sends it in
    /// [`ready_to_send`](super::Handler::ready_to_send) then.
    ///
    /// # Examples
    ///
    /// ```
    /// use sockman::{NextRecv, stateful::Link};
    ///
    /// struct Peer {
    ///     has_said_goodbye: bool,
    /// }
    ///
    /// // The `Handler` calls these methods:
    /// fn should_try_to_send(link: Link<'_, Peer>, peer: &mut Peer) -> bool {
    ///     link.queue().has_queued() || link.is_finishing() && !peer.has_said_goodbye
    /// }
    /// fn ready_to_send(link: Link<'_, Peer>, peer: &mut Peer) -> NextRecv {
    ///     let says_goodbye = link.is_finishing() && !peer.has_said_goodbye;
    ///     peer.has_said_goodbye |= says_goodbye;
    ///     if says_goodbye && link.enqueue(b"goodbye\n").is_err() || link.drain().is_err() {
    ///         link.close();
    ///     }
    ///     NextRecv::Proceed
    /// }
    /// ```
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        self.connection.is_finishing()
    }

    /// Sends `data`, or queues what the kernel does not take now: [`SendQueue::push`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    #[inline]
    pub fn push(&self, data: &[u8]) -> Result<(), PushError> {
        self.out.queue.push_to(&self.direct(), data, More::No)
    }

    /// Works as [`push`](Link::push), for a caller that knows whether another push follows at once.
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    #[inline]
    pub fn push_with(&self, data: &[u8], more: More) -> Result<(), PushError> {
        self.out.queue.push_to(&self.direct(), data, more)
    }

    /// Works as [`push`](Link::push), for bytes that other queues send too:
    /// [`SendQueue::push_shared`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    pub fn push_shared(&self, data: &Arc<[u8]>) -> Result<(), PushError> {
        self.push_pieces(&[Piece::Shared(data)])
    }

    /// Works as [`push`](Link::push), for one message that consists of several pieces:
    /// [`SendQueue::push_pieces`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::push`].
    pub fn push_pieces(&self, pieces: &[Piece<'_>]) -> Result<(), PushError> {
        self.out.queue.push_pieces_to(&self.direct(), pieces)
    }

    /// Queues `data`. The library sends everything that is queued with one system call, after the
    /// callbacks of this pass: [`SendQueue::enqueue`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue`].
    #[inline]
    pub fn enqueue(&self, data: &[u8]) -> Result<(), PushError> {
        self.out.queue.enqueue_all(&self.direct(), iter::once(Piece::Bytes(data)))
    }

    /// Works as [`enqueue`](Link::enqueue), for bytes of which the queue may take a part. Returns
    /// how many bytes it took: [`SendQueue::enqueue_part`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue_part`].
    pub fn enqueue_part(&self, data: &[u8]) -> Result<usize, PushError> {
        self.out.queue.enqueue_part_to(&self.direct(), data)
    }

    /// Works as [`enqueue`](Link::enqueue), for bytes that other queues send too:
    /// [`SendQueue::enqueue_shared`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue`].
    #[inline]
    pub fn enqueue_shared(&self, data: &Arc<[u8]>) -> Result<(), PushError> {
        self.out.queue.enqueue_all(&self.direct(), iter::once(Piece::Shared(data)))
    }

    /// Works as [`enqueue`](Link::enqueue), for one message that consists of several pieces:
    /// [`SendQueue::enqueue_pieces`].
    ///
    /// # Errors
    ///
    /// As [`SendQueue::enqueue`].
    pub fn enqueue_pieces(&self, pieces: &[Piece<'_>]) -> Result<(), PushError> {
        self.out.queue.enqueue_all(&self.direct(), pieces.iter().copied())
    }

    /// Sends as many queued bytes as the kernel takes, and returns what the call did:
    /// [`SendQueue::drain`].
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`].
    #[inline]
    pub fn drain(&self) -> Result<Drained, SendError> {
        self.out.queue.drain_to(&self.direct(), usize::MAX)
    }

    /// Returns the connection's queue, for its length, its marks, and what is needed seldom:
    /// `link.queue().writer(link.sockman())` is an [`io::Write`](std::io::Write),
    /// `link.queue().drain_at_most(link.sockman(), limit)` drains with a limit, and
    /// `link.queue().resumes([other])` is for a relay.
    #[must_use]
    #[inline]
    pub fn queue(&self) -> &'a SendQueue {
        &self.out.queue
    }

    /// Sends as much of `data` as the kernel takes at once, past the queue, and returns the number
    /// of bytes sent: [`SockMan::send_bytes`].
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`].
    #[inline]
    pub fn send(&self, data: &[u8]) -> Result<usize, SendError> {
        self.sockman.shared().send_bytes(self.connection, data)
    }

    /// Sends several pieces in one system call, past the queue: [`SockMan::send_with`].
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`].
    pub fn send_with(&self, pieces: &[IoSlice<'_>], more: More) -> Result<usize, SendError> {
        self.sockman.shared().send_with(self.connection, pieces, more)
    }

    /// Half-closes the connection: [`SockMan::shutdown_write`].
    ///
    /// # Errors
    ///
    /// As [`SockMan::send_bytes`].
    pub fn shutdown_write(&self) -> Result<(), SendError> {
        self.sockman.shared().shutdown_write(self.connection)
    }

    /// Closes the connection: [`SockMan::close_connection`]. Returns `true` for the one call that
    /// closed the connection. [`Handler::closed`](super::Handler::closed) then gives its value
    /// back.
    pub fn close(&self) -> bool {
        self.sockman.shared().close(self.connection.id)
    }

    /// Ends the connection in order: [`SockMan::finish_connection`]. What is queued is sent.
    /// Returns `true` for the one call that began the end. Returns `false` if the connection
    /// finishes already or is closed.
    pub fn finish(&self, linger: Duration) -> bool {
        self.sockman.shared().finish(self.connection.id, linger)
    }

    /// Closes the connection with a reset: [`SockMan::abort_connection`]. Returns `true` for the
    /// one call that closed the connection. Returns `false` if the connection is closed already.
    pub fn abort(&self) -> bool {
        self.sockman.shared().close_as(self.connection.id, How::Reset)
    }

    /// Takes the connection out of the `SockMan`, and returns its stream and what was queued for
    /// it: [`SockMan::into_stream`]. Use this method for a protocol that other code speaks after an
    /// upgrade.
    ///
    /// No byte is lost. What the library has received was delivered before: it is in the embedder's
    /// value, or in the `data` of the callback under way. What is in the kernel comes with the
    /// first read of the stream. What was queued and not sent is in [`StreamParts::unsent`]. A push
    /// after the call, on any thread, returns an error.
    ///
    /// The value goes the way of a closed connection: the callback keeps its `&mut`, and
    /// [`Handler::closed`](super::Handler::closed) gives the value back afterwards. The callback
    /// itself takes out of the value what the new owner of the stream needs, such as a buffer.
    ///
    /// The call returns at once. Other threads reach it through [`Remote::run`].
    ///
    /// # Errors
    ///
    /// [`IntoStreamError`]. In `accepted` for a connection from I2P, the call returns
    /// [`OnI2pAcceptThread`](IntoStreamError::OnI2pAcceptThread). After an error, the queue is
    /// unchanged.
    ///
    /// # Examples
    ///
    /// ```
    /// # use sockman::stateful::{Link, StreamParts};
    /// use std::{io::Write, net::TcpStream, thread};
    ///
    /// struct Peer {
    ///     /// Received, and not understood yet.
    ///     input: Vec<u8>,
    /// }
    ///
    /// /// Called in `got_data`, when a client asks for the protocol of another library.
    /// fn upgrade(link: Link<'_, Peer>, peer: &mut Peer) -> std::io::Result<()> {
    ///     let StreamParts { stream, unsent, .. } = link.into_stream()?;
    ///     let mut stream = TcpStream::from(stream);
    ///     stream.set_nonblocking(false)?;
    ///     let input = std::mem::take(&mut peer.input);
    ///     thread::spawn(move || {
    ///         stream.write_all(&unsent)?;
    ///         // The other library serves `input` and then `stream`.
    /// #       drop(input);
    ///         Ok::<(), std::io::Error>(())
    ///     });
    ///     Ok(())
    /// }
    /// ```
    pub fn into_stream(&self) -> Result<StreamParts, IntoStreamError> {
        let stream = handover::take_out(self.sockman, self.id())?;
        // Each push of another thread has queued its bytes by now, or fails.
        Ok(StreamParts { stream, unsent: self.out.queue.take().into_bytes() })
    }

    /// Makes the socket thread ask the hooks of the connection again at once: [`SockMan::wake`].
    pub fn wake(&self) {
        self.sockman.shared().wake(self.connection);
    }

    /// Returns the current state of the connection. Returns `None` if the connection is closed.
    #[must_use]
    pub fn info(&self) -> Option<ConnectionInfo> {
        let is_open = !self.connection.is_closed();
        is_open.then(|| self.connection.info(self.sockman.shared().created))
    }

    /// Returns a handle for later, and for other threads.
    #[must_use]
    pub fn remote(&self) -> Remote<C> {
        Remote::new(Arc::clone(self.out))
    }
}

impl<C> fmt::Debug for Link<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id()).finish_non_exhaustive()
    }
}
