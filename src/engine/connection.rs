//! Connections as every thread sees them: the id, the socket, the two addresses, the counters.
//!
//! This module owns the send lock of each connection. The lock of the map is never taken while a
//! send lock is held, and no lock is held while a callback runs. The state that belongs to the
//! socket thread alone is in `slot`, except for `notes` and `token`.

use std::{
    fmt, io,
    net::Shutdown,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

pub use super::id::ConnectionId;
use super::slab::{Key, Token};
use crate::{
    address::{Destination, Service},
    error::SendError,
    sys::{
        Sock,
        held::Held,
        passing::{as_broken_pipe, is_signal, passes, repeated, uninterrupted},
        shutdown_both,
        sync::{
            Mutex,
            atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering},
        },
    },
};

/// The direction of a connection: which side dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer dialled, and this side accepted the connection.
    Inbound,
    /// This side dialled, with [`SockMan::connect`](crate::SockMan::connect) or
    /// [`SockMan::start_connect`](crate::SockMan::start_connect).
    Outbound,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        })
    }
}

/// A snapshot of one connection, returned by
/// [`SockMan::connection_info`](crate::SockMan::connection_info).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's id.
    pub id: ConnectionId,
    /// The local address.
    pub me: Service,
    /// The peer: the address that an inbound connection came from, or the destination that was
    /// dialled.
    pub them: Destination,
    /// Which side dialled.
    pub direction: Direction,
    /// When the connection was accepted, or when the connect succeeded.
    pub since: Instant,
    /// The number of payload bytes that the kernel took for sending.
    pub bytes_sent: u64,
    /// The number of payload bytes delivered to the embedder.
    pub bytes_received: u64,
    /// How the connection has ended, or `None` if it has not ended, as far as the poller has
    /// reported. This field shows an end even while reads are paused.
    pub hung_up: Option<HangUp>,
}

/// How a connection has ended: [`ConnectionInfo::hung_up`]. The connection keeps its id until the
/// embedder closes it.
///
/// # Examples
///
/// ```
/// # use sockman::{ConnectionId, SockMan};
/// use sockman::stats::HangUp;
///
/// /// Looks at a connection that the embedder does not read for now.
/// fn check(sockman: &SockMan, id: ConnectionId) {
///     match sockman.connection_info(id).and_then(|info| info.hung_up) {
///         Some(HangUp::Error(error)) => {
///             println!("connection {id} is broken: {error}");
///             sockman.close_connection(id);
///         }
///         // The last bytes of the peer may not be read yet.
///         Some(HangUp::InOrder) | None => {}
///         Some(_) => {}
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HangUp {
    /// Both sides have ended their streams in order. Everything that the peer sent has arrived, but
    /// bytes may still wait to be read. The library delivers these bytes and then the end of the
    /// stream.
    InOrder,
    /// The connection is broken. A reset is [`io::ErrorKind::ConnectionReset`], or
    /// [`io::ErrorKind::BrokenPipe`] if the peer had ended its stream before. Bytes that arrived
    /// before the error may still wait to be read. The library delivers these bytes and then the
    /// error.
    Error(io::ErrorKind),
}

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HangUp::InOrder => f.pad("ended in order"),
            HangUp::Error(kind) => kind.fmt(f),
        }
    }
}

/// One connection. The descriptor is closed when the last `Arc` of the connection is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) direction: Direction,
    sock: Held,
    /// The two addresses, which a connect learns when it succeeds.
    addresses: OnceLock<Addresses>,
    /// The time of creation, in nanoseconds since the `SockMan` was made. A `u64` has half the size
    /// of an `Instant`. A connect sets this time when it succeeds, before any thread can find the
    /// connection.
    since: AtomicU64,
    /// The send lock. Every send holds the lock, so that the bytes of two threads do not mix within
    /// one call.
    sending: Mutex<()>,
    /// One bit for each stage of the connection's life that it has reached. Any thread may set a
    /// bit. No bit is ever cleared.
    life: AtomicU8,
    /// Whether a `Mark::Woken` is in the inbox, or a wake waits until the connection gets its slot.
    woken: AtomicBool,
    /// One bit for each of three facts, in one byte because each connection pays for it.
    /// `WRITE_SHUT` is read and written under the send lock. If `SEND_LACKS` or `RECV_LACKS` is
    /// set, a `Mark::Lacking` is in the inbox, or the socket thread has set its timer.
    facts: AtomicU8,
    /// The notes: one bit for each finding of the socket thread's sends and of the poller's events.
    /// Only the socket thread writes them. Any thread may read `HUNG_UP`, `OVER` and
    /// `RECEIVING`.
    notes: AtomicU8,
    /// The operating system's error number of the first error that broke the connection and that a
    /// send, a receive or a question for the socket's error received, or 0. The kernel returns a
    /// socket's error once, so a later call does not return the error again. Two bytes hold any
    /// error number. A larger field would cost each connection eight more bytes.
    error: AtomicU16,
    /// The token of the slot or of the attempt. Only the socket thread reads and writes it. While
    /// no socket thread runs, the thread that holds the `run` mutex reads and writes the token.
    token: AtomicUsize,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

/// A stage: the connection is closed.
const CLOSED: u8 = 1;
/// A stage: the embedder was told about the connection and keeps it, so the end is reported.
const ANNOUNCED: u8 = 2;
/// A stage: `finish_connection` was called. Never set together with `TAKEN_OUT`.
const FINISHING: u8 = 4;
/// A stage: the connection is closed, and its stream goes on elsewhere.
const TAKEN_OUT: u8 = 8;

/// The two addresses of a connection.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// The local address. The connections that a listener accepts share it while it is the same.
    pub(crate) me: Arc<Service>,
    pub(crate) them: Destination,
}

/// Stands for the addresses of a connect under way, which no caller sees: its id can only be closed.
/// Over I2P, the local address is known when the session has been made. Of several destinations,
/// one is reached.
static NO_ADDRESS: Service = Service::UNIX_UNNAMED;
static NO_DESTINATION: Destination = Destination::Service(Service::UNIX_UNNAMED);

/// A note: a send on the socket thread would have blocked, or the next send would block.
const BLOCKED: u8 = 1;
/// A note: a send on the socket thread sent at least one byte.
const SENT: u8 = 2;
/// A note: the poller reported an error or a hang-up.
const HUNG_UP: u8 = 4;
/// A note: the poller reported that both directions are over.
const OVER: u8 = 8;
/// A note: a receive after a hang-up is under way.
const RECEIVING: u8 = 16;
/// A note: the peer has ended its stream in order.
const ENDED: u8 = 32;
/// A note: the poller reported that the connection is broken in both directions, and not only that
/// they are over.
const BROKEN: u8 = 64;

/// A fact: `shutdown_write` succeeded.
const WRITE_SHUT: u8 = 4;
/// A fact: a send lacked memory or buffers, and is tried again later.
pub(crate) const SEND_LACKS: u8 = 1;
/// A fact: a receive lacked memory or buffers, and is tried again later.
pub(crate) const RECV_LACKS: u8 = 2;

/// The outcome of a send that did not fail.
pub(crate) enum Sent {
    /// The kernel took this many bytes. Zero means that the send would block.
    Bytes(usize),
    /// The kernel took nothing, because of this failure, which passes. No event will report that it
    /// has passed.
    Lacked(io::Error),
}

/// The most bytes that one send takes on Linux (`MAX_RW_COUNT`), even if the socket has more room.
const LONGEST_SEND: usize = 0x7fff_f000;

/// The value that stands for "no token". The poller's own waker has this token, so no slot has it.
const NO_TOKEN: usize = usize::MAX;

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        direction: Direction,
        sock: Box<dyn Sock>,
        addresses: Option<Addresses>,
        since: Duration,
    ) -> Connection {
        Connection {
            id,
            direction,
            sock: Held::new(sock),
            addresses: addresses.map_or_else(OnceLock::new, OnceLock::from),
            since: AtomicU64::new(nanoseconds(since)),
            sending: Mutex::new(()),
            life: AtomicU8::new(0),
            woken: AtomicBool::new(false),
            facts: AtomicU8::new(0),
            notes: AtomicU8::new(0),
            error: AtomicU16::new(0),
            token: AtomicUsize::new(NO_TOKEN),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn sock(&self) -> &dyn Sock {
        self.sock.as_sock()
    }

    pub(crate) fn me(&self) -> &Service {
        self.addresses.get().map_or(&NO_ADDRESS, |addresses| &addresses.me)
    }

    /// Sets the addresses that a connect learned when it succeeded. The caller does this before the
    /// connection is reported.
    pub(crate) fn set_addresses(&self, me: Service, them: Destination) {
        self.addresses.get_or_init(|| Addresses { me: Arc::new(me), them });
    }

    pub(crate) fn them(&self) -> &Destination {
        self.addresses.get().map_or(&NO_DESTINATION, |addresses| &addresses.them)
    }

    /// Sets the time at which a connect succeeded. The caller does this before any thread can find
    /// the connection.
    pub(crate) fn set_since(&self, since: Duration) {
        self.since.store(nanoseconds(since), Ordering::Relaxed);
    }

    /// Marks the connection as closed. Returns whether it was announced before: then the caller
    /// must have its end reported. The caller holds the map's lock.
    pub(crate) fn set_closed(&self) -> bool {
        self.life.fetch_or(CLOSED, Ordering::AcqRel) & ANNOUNCED != 0
    }

    /// Marks the connection as closed and its stream as one that goes on elsewhere. Returns whether
    /// it was announced before, as [`set_closed`](Connection::set_closed), or `None` if the
    /// connection finishes, and thus stays as it is. The caller holds the map's lock.
    pub(crate) fn set_taken_out(&self) -> Option<bool> {
        let taken_out = |life| (life & FINISHING == 0).then_some(life | CLOSED | TAKEN_OUT);
        let before = self.life.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken_out);
        before.ok().map(|life| life & ANNOUNCED != 0)
    }

    /// Returns whether the stream of a closed connection goes on elsewhere.
    pub(crate) fn is_taken_out(&self) -> bool {
        self.life.load(Ordering::Acquire) & TAKEN_OUT != 0
    }

    /// Waits for the send under way. After a close, no other send begins.
    pub(crate) fn wait_for_send(&self) {
        drop(self.sending.lock());
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.life.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Marks the connection as announced. Returns `true` if the connection was closed before, and
    /// no call has announced it before: then the caller must have its end reported. Of the close
    /// and the announcement, the later one thus has the end reported, on whatever threads they are.
    pub(crate) fn set_announced(&self) -> bool {
        self.life.fetch_or(ANNOUNCED, Ordering::AcqRel) & (ANNOUNCED | CLOSED) == CLOSED
    }

    /// Marks the connection as finishing, unless it is closed. Returns `true` for the first call.
    pub(crate) fn set_finishing(&self) -> bool {
        let finishing = |life| (life & (CLOSED | FINISHING) == 0).then_some(life | FINISHING);
        self.life.fetch_update(Ordering::AcqRel, Ordering::Acquire, finishing).is_ok()
    }

    #[inline]
    pub(crate) fn is_finishing(&self) -> bool {
        self.life.load(Ordering::Acquire) & FINISHING != 0
    }

    /// Shuts both directions down at once. The descriptor itself is closed with the last `Arc`, so
    /// that a system call on another thread never uses a number that the kernel has given to a new
    /// socket.
    pub(crate) fn shutdown(&self) {
        // If both directions are over, no shutdown is needed. This check saves one system call for
        // each peer that resets.
        let notes = self.notes.load(Ordering::Relaxed);
        if notes & OVER != 0 || self.is_over_in_order(notes) {
            return;
        }
        if let Err(error) = shutdown_both(self.sock()) {
            // Usually the peer has reset the connection, and nothing is left to shut down.
            log::trace!(target: "sockman::net", "cannot shut down connection {}: {error}", self.id);
        }
    }

    /// Makes the close of the descriptor reset the connection. No shutdown comes before the close,
    /// because the peer would read the end of the stream before the reset. On a unix-domain socket,
    /// which has no reset, the close is an orderly one.
    pub(crate) fn reset(&self) {
        if let Err(error) = self.sock().set_reset_on_close() {
            log::debug!(
                target: "sockman::net",
                "cannot reset connection {}, so it is closed in order: {error}", self.id
            );
            self.shutdown();
        }
    }

    /// Runs one send of `length` bytes. With `on_socket_thread`, the result is noted for the
    /// latches. A send on another thread changes no latch.
    #[inline]
    pub(crate) fn send(
        &self,
        length: usize,
        on_socket_thread: bool,
        mut send: impl FnMut(&Held) -> io::Result<usize>,
    ) -> Result<Sent, SendError> {
        let _sending = self.sending.lock();
        if self.is_closed() {
            return Err(SendError::UnknownConnection(self.id));
        }
        match uninterrupted(|| send(&self.sock)) {
            Ok(bytes) => {
                // The send lock is held, so a plain add is enough.
                let sent = self.bytes_sent.load(Ordering::Relaxed);
                self.bytes_sent.store(sent.wrapping_add(bytes as u64), Ordering::Relaxed);
                if on_socket_thread && bytes > 0 {
                    self.note(SENT);
                    if bytes < length.min(LONGEST_SEND) && self.sock().short_send_means_full() {
                        self.note(BLOCKED);
                    }
                }
                Ok(Sent::Bytes(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if on_socket_thread {
                    self.note(BLOCKED);
                }
                Ok(Sent::Bytes(0))
            }
            // Another thread closed the connection meanwhile, and its shutdown caused the error.
            Err(_) if self.is_closed() => Err(SendError::UnknownConnection(self.id)),
            Err(error) if passes(&error) => {
                if on_socket_thread {
                    self.note(BLOCKED);
                }
                Ok(Sent::Lacked(error))
            }
            Err(source) => {
                let source = as_broken_pipe(source);
                self.remember_send_error(&source);
                Err(SendError::Socket { id: self.id, source })
            }
        }
    }

    /// Half-closes the connection: the peer reads the end of the stream. Returns `false` if an
    /// earlier call has done so.
    pub(crate) fn shutdown_write(&self) -> Result<bool, SendError> {
        let _sending = self.sending.lock();
        if self.is_closed() {
            return Err(SendError::UnknownConnection(self.id));
        }
        // macOS refuses a second half-close.
        if self.is_write_shut() {
            return Ok(false);
        }
        // kqueue reports an own half-close as the end of sending. The flag tells the socket thread
        // that this end is no hang-up, so the flag is set before the call.
        self.facts.fetch_or(WRITE_SHUT, Ordering::Relaxed);
        self.sock().shutdown(Shutdown::Write).map(|()| true).map_err(|source| {
            self.facts.fetch_and(!WRITE_SHUT, Ordering::Relaxed);
            SendError::Socket { id: self.id, source }
        })
    }

    /// Receives. Repeats the receive if a signal interrupts it. Remembers an error, so that `info`
    /// reports the error even after the receive has taken it from the socket.
    #[inline(always)]
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // After a hang-up, `info` may ask for the error at the same time. The note says that this
        // receive may have taken the error. Before a hang-up, `info` does not ask.
        let is_hung_up = self.notes.load(Ordering::Relaxed) & (HUNG_UP | ENDED) != 0;
        if is_hung_up {
            self.note(RECEIVING);
        }
        let mut received = self.sock.recv(buffer);
        if received.is_err() {
            received = self.recv_again(received, buffer);
        }
        if let Err(error) = &received {
            self.remember_error(error);
        }
        if is_hung_up {
            self.take_note(RECEIVING);
        }
        received
    }

    /// Repeats a receive that a signal interrupted. Returns the result of any other receive.
    #[inline(never)]
    fn recv_again(&self, received: io::Result<usize>, buffer: &mut [u8]) -> io::Result<usize> {
        match received {
            Err(error) if is_signal(&error) => repeated(|| self.sock.recv(buffer)),
            received => received,
        }
    }

    /// Returns the error that is pending on the socket, or else the error that another call has
    /// received.
    ///
    /// # Errors
    ///
    /// Returns the error of `getsockopt(2)`.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        let _taking = self.sending.lock();
        self.take_error_locked()
    }

    /// Does what [`take_error`](Connection::take_error) does. The caller holds the send lock.
    fn take_error_locked(&self) -> io::Result<Option<io::Error>> {
        let pending = self.sock().take_error()?;
        if let Some(error) = &pending {
            self.remember_error(error);
        }
        Ok(pending.or_else(|| self.remembered_error()))
    }

    fn remembered_error(&self) -> Option<io::Error> {
        match self.error.load(Ordering::Acquire) {
            0 => None,
            code => Some(io::Error::from_raw_os_error(i32::from(code))),
        }
    }

    /// Remembers the first error that broke the connection.
    fn remember_error(&self, error: &io::Error) {
        // The operation can be repeated.
        if passes(error) || error.kind() == io::ErrorKind::WouldBlock {
            return;
        }
        let Some(code) = error.raw_os_error() else { return };
        let code = u16::try_from(code).unwrap_or(0);
        // If the exchange fails, an earlier error is remembered.
        let _ = self.error.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Remembers the first reset that a send received. The caller holds the send lock.
    fn remember_send_error(&self, error: &io::Error) {
        // A broken pipe is no reset if this side has half-closed, or if a unix-domain peer has
        // closed in order. In all other cases on TCP, a broken pipe is a reset that came after the
        // peer's end of stream.
        let no_reset = error.kind() == io::ErrorKind::BrokenPipe
            && (self.is_write_shut() || self.me().addr().is_unix());
        if !no_reset {
            self.remember_error(error);
        }
    }

    /// Returns how the connection has ended. Asks for the socket's error if the poller reported a
    /// hang-up and no call has received an error yet.
    fn hung_up(&self) -> Option<HangUp> {
        let notes = self.notes.load(Ordering::Acquire);
        if notes & HUNG_UP == 0 && !self.is_over_in_order(notes) {
            return self.remembered_error().map(|error| HangUp::Error(error.kind()));
        }
        let _taking = self.sending.lock();
        let error = match self.remembered_error() {
            Some(error) => Some(error),
            // A receive takes the remembered error into account, as it does after a send.
            None => self.take_error_locked().unwrap_or(None),
        };
        match error {
            Some(error) => Some(HangUp::Error(error.kind())),
            // The receive under way may have taken an error. A callback reports the end soon.
            None if self.notes.load(Ordering::Acquire) & RECEIVING != 0 => None,
            // A receive that ended meanwhile has remembered the error that it took. On Windows, only
            // a receive or a send returns the error of a reset.
            None => Some(match self.remembered_error() {
                Some(error) => HangUp::Error(error.kind()),
                None if self.is_broken() => HangUp::Error(io::ErrorKind::ConnectionReset),
                None => HangUp::InOrder,
            }),
        }
    }

    /// Returns whether both sides have ended their streams. epoll reports that as a hang-up. kqueue
    /// reports the two ends, and Windows only the peer's.
    fn is_over_in_order(&self, notes: u8) -> bool {
        notes & ENDED != 0 && self.is_write_shut()
    }

    /// Returns whether the poller reported that the connection is broken in both directions.
    pub(crate) fn is_broken(&self) -> bool {
        self.notes.load(Ordering::Acquire) & BROKEN != 0
    }

    #[inline]
    pub(crate) fn is_write_shut(&self) -> bool {
        self.facts.load(Ordering::Relaxed) & WRITE_SHUT != 0
    }

    /// Sets `woken`. Returns `true` if the caller must put a `Mark::Woken` into the inbox.
    pub(crate) fn mark_woken(&self) -> bool {
        !self.woken.swap(true, Ordering::AcqRel)
    }

    /// Notes that a direction lacks memory or buffers. Returns `true` if the caller must put a
    /// `Mark::Lacking` into the inbox.
    pub(crate) fn mark_lacking(&self, direction: u8) -> bool {
        self.facts.fetch_or(direction, Ordering::AcqRel) & (SEND_LACKS | RECV_LACKS) == 0
    }

    pub(crate) fn info(&self, created: Instant) -> ConnectionInfo {
        let since = Duration::from_nanos(self.since.load(Ordering::Relaxed));
        ConnectionInfo {
            id: self.id,
            me: self.me().clone(),
            them: self.them().clone(),
            direction: self.direction,
            since: created.checked_add(since).unwrap_or(created),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            hung_up: self.hung_up(),
        }
    }

    #[inline]
    fn note(&self, note: u8) {
        // `Release`, so that a thread that sees a hang-up also sees an error remembered before it.
        self.notes.store(self.notes.load(Ordering::Relaxed) | note, Ordering::Release);
    }

    #[inline]
    fn take_note(&self, note: u8) -> bool {
        let notes = self.notes.load(Ordering::Relaxed);
        if notes & note == 0 {
            return false;
        }
        self.notes.store(notes & !note, Ordering::Release);
        true
    }
}

/// Returns the duration in nanoseconds. A `u64` holds 584 years of nanoseconds.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Only the socket thread calls these methods.
impl Connection {
    /// Returns whether a send on this thread found the socket full since the last call.
    #[inline]
    pub(crate) fn take_blocked(&self) -> bool {
        self.take_note(BLOCKED)
    }

    /// Returns whether a send on this thread sent bytes since the last call.
    #[inline]
    pub(crate) fn take_sent(&self) -> bool {
        self.take_note(SENT)
    }

    /// Clears `woken`, so that the next wake makes a new mark. The caller does this before it asks
    /// the hooks. A plain store could be reordered with the loads of the hooks. The swap prevents
    /// this reordering: if a wake found the flag still set, the hooks see all data that was queued
    /// before the wake.
    pub(crate) fn clear_woken(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }

    /// Returns the directions that lack memory or buffers, and clears them. A direction that lacks
    /// again makes a new mark.
    pub(crate) fn take_lacks(&self) -> u8 {
        let lacks = SEND_LACKS | RECV_LACKS;
        self.facts.fetch_and(!lacks, Ordering::AcqRel) & lacks
    }

    /// Notes a hang-up. With `is_over`, both directions are over; without it, an error is pending.
    pub(crate) fn set_hung_up(&self, is_over: bool) {
        self.note(if is_over { HUNG_UP | OVER } else { HUNG_UP });
    }

    /// Notes that the peer has ended its stream in order.
    pub(crate) fn set_ended(&self) {
        self.note(ENDED);
    }

    /// Notes that the poller reported the connection as broken in both directions.
    pub(crate) fn set_broken(&self) {
        self.note(BROKEN);
    }

    /// Returns the error that another call has received, or `None` if no call received one.
    pub(crate) fn received_error(&self) -> Option<io::Error> {
        // The lock waits for a call on another thread that has received the error but has not
        // remembered the error yet.
        let _sending = self.sending.lock();
        self.remembered_error()
    }

    #[inline]
    pub(crate) fn count_received(&self, bytes: usize) {
        let received = self.bytes_received.load(Ordering::Relaxed);
        self.bytes_received.store(received.wrapping_add(bytes as u64), Ordering::Relaxed);
    }

    /// Returns where the socket thread keeps the connection: in a slot, or among the attempts.
    /// Returns `None` if the socket thread does not have the connection.
    pub(crate) fn token(&self) -> Option<Token> {
        match self.token.load(Ordering::Relaxed) {
            NO_TOKEN => None,
            token => Some(Token::decode(token)),
        }
    }

    /// Returns the key of the connection's slot, or `None` if the connection has no slot.
    pub(crate) fn key(&self) -> Option<Key> {
        match self.token() {
            Some(Token::Connection(key)) => Some(key),
            _ => None,
        }
    }

    pub(crate) fn set_token(&self, token: Option<Token>) {
        self.token.store(token.map_or(NO_TOKEN, Token::encode), Ordering::Relaxed);
    }
}
