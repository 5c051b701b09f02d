//! A connection as every thread sees it: the id, the socket, the two addresses, the counters.
//!
//! Owns the mutex around the connection's sends. No callback runs under it, and the map's lock is
//! never taken while it is held. What only the socket thread may touch is in `slot`.

use std::{
    fmt, io,
    net::Shutdown,
    sync::OnceLock,
    time::{Duration, Instant},
};

pub use super::id::ConnectionId;
use super::slab::{Key, Token};
use crate::{
    address::{Destination, Service},
    error::SendError,
    sys::{
        Sock,
        sync::{
            Mutex,
            atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering},
        },
    },
};

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer: a listener accepted it.
    Inbound,
    /// This side: [`SockMan::connect`](crate::SockMan::connect) or
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

/// What is known of one connection, at one moment. From
/// [`SockMan::connection_info`](crate::SockMan::connection_info).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Which connection.
    pub id: ConnectionId,
    /// This side's address.
    pub me: Service,
    /// The peer: the address that it came from, or the destination that was dialled.
    pub them: Destination,
    /// Who dialled.
    pub direction: Direction,
    /// When it was accepted, or when the connect succeeded.
    pub since: Instant,
    /// Payload bytes that the kernel took for sending.
    pub bytes_sent: u64,
    /// Payload bytes delivered to the embedder.
    pub bytes_received: u64,
    /// The poller told of an error, or that both directions are over. While reads are paused this
    /// is how one learns of a reset.
    pub hung_up: bool,
}

/// One connection. Closed for good when the last `Arc` goes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) direction: Direction,
    sock: Box<dyn Sock>,
    me: Service,
    /// If it is another one by now: over I2P it is known when the session is.
    late_me: OnceLock<Box<Service>>,
    them: Destination,
    /// In nanoseconds since the `SockMan` was made: half the size of an `Instant`. Set when a
    /// connect succeeds, before anybody can find the connection.
    since: AtomicU64,
    /// Around every send, so that the bytes of two threads do not mix within one call.
    sending: Mutex<()>,
    closed: AtomicBool,
    /// `shutdown_write` was called. Read and written under the send lock.
    write_shut: AtomicBool,
    /// A `Mark::Woken` is in the inbox, or will be dealt with when the connection gets its slot.
    woken: AtomicBool,
    /// What the socket thread found, in its sends and from the poller: a bit each. Written by that
    /// thread alone.
    notes: AtomicU8,
    /// The first reset that a send met, as the operating system numbers it; 0 for none. A send
    /// takes the socket's error away from the receive that would have told it.
    /// Two bytes hold any such number; more of them would cost each connection eight.
    send_error: AtomicU16,
    /// The token of the slot. Written and read by the socket thread alone, as `notes`.
    token: AtomicUsize,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

/// A send on the socket thread would have blocked, or the next one would.
const BLOCKED: u8 = 1;
/// A send on the socket thread was given bytes and took some.
const SENT: u8 = 2;
/// The poller told of an error or a hang-up.
const HUNG_UP: u8 = 4;
/// The poller told that nothing more goes either way.
const OVER: u8 = 8;

/// Linux cuts every send down to this (`MAX_RW_COUNT`), full or not.
const LONGEST_SEND: usize = 0x7fff_f000;

/// No slot. The poller's own waker has this token, so no slot has.
const NO_TOKEN: usize = usize::MAX;

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        direction: Direction,
        sock: Box<dyn Sock>,
        me: Service,
        them: Destination,
        since: Duration,
    ) -> Connection {
        Connection {
            id,
            direction,
            sock,
            me,
            late_me: OnceLock::new(),
            them,
            since: AtomicU64::new(nanoseconds(since)),
            sending: Mutex::new(()),
            closed: AtomicBool::new(false),
            write_shut: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            notes: AtomicU8::new(0),
            send_error: AtomicU16::new(0),
            token: AtomicUsize::new(NO_TOKEN),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn sock(&self) -> &dyn Sock {
        &*self.sock
    }

    pub(crate) fn me(&self) -> &Service {
        self.late_me.get().map_or(&self.me, |me| me)
    }

    /// Before anybody is told of the connection.
    pub(crate) fn set_me(&self, me: &Service) {
        self.late_me.get_or_init(|| Box::new(me.clone()));
    }

    pub(crate) fn them(&self) -> &Destination {
        &self.them
    }

    /// When a connect succeeded, before any thread can find the connection.
    pub(crate) fn set_since(&self, since: Duration) {
        self.since.store(nanoseconds(since), Ordering::Relaxed);
    }

    /// Under the map's lock.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the stream towards the peer at once. The descriptor itself goes with the last `Arc`,
    /// so that no system call under way on another thread ever meets a reused number.
    pub(crate) fn shutdown(&self) {
        // One system call less for each peer that resets.
        if self.notes.load(Ordering::Relaxed) & OVER != 0 {
            return;
        }
        if let Err(error) = self.sock.shutdown(Shutdown::Both) {
            // The usual case: the peer has reset it, and there is nothing left to shut down.
            log::trace!(target: "sockman::net", "shutdown of connection {}: {error}", self.id);
        }
    }

    /// Runs one send of `length` bytes. `Ok(0)` if it would block. `on_socket_thread` lets the
    /// socket thread know what it did to the latches; a would-block elsewhere changes none.
    #[inline]
    pub(crate) fn send(
        &self,
        length: usize,
        on_socket_thread: bool,
        mut send: impl FnMut(&dyn Sock) -> io::Result<usize>,
    ) -> Result<usize, SendError> {
        let _sending = self.sending.lock();
        loop {
            if self.is_closed() {
                return Err(SendError::UnknownConnection(self.id));
            }
            match send(&*self.sock) {
                Ok(bytes) => {
                    // Under the lock: a plain add.
                    let sent = self.bytes_sent.load(Ordering::Relaxed);
                    self.bytes_sent.store(sent.wrapping_add(bytes as u64), Ordering::Relaxed);
                    if on_socket_thread && bytes > 0 {
                        self.note(SENT);
                        if bytes < length.min(LONGEST_SEND) && self.sock.short_send_means_full() {
                            self.note(BLOCKED);
                        }
                    }
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if on_socket_thread {
                        self.note(BLOCKED);
                    }
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A close on another thread came in between: its shutdown broke the pipe.
                Err(_) if self.is_closed() => {
                    return Err(SendError::UnknownConnection(self.id));
                }
                Err(source) => {
                    self.remember_send_error(&source);
                    return Err(SendError::Socket { id: self.id, source });
                }
            }
        }
    }

    /// Half-closes: the peer reads the end of the stream.
    pub(crate) fn shutdown_write(&self) -> Result<(), SendError> {
        let _sending = self.sending.lock();
        if self.is_closed() {
            return Err(SendError::UnknownConnection(self.id));
        }
        self.sock
            .shutdown(Shutdown::Write)
            .map_err(|source| SendError::Socket { id: self.id, source })?;
        self.write_shut.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Under the send lock.
    fn remember_send_error(&self, error: &io::Error) {
        // These come without a reset: after a half-close of ours, and from a unix-domain peer that
        // closed in order. On TCP a broken pipe is a reset that came after the peer's end.
        let no_reset = error.kind() == io::ErrorKind::BrokenPipe
            && (self.write_shut.load(Ordering::Relaxed) || self.me.addr().is_unix());
        if no_reset || self.send_error.load(Ordering::Relaxed) != 0 {
            return;
        }
        let code = error.raw_os_error().and_then(|code| u16::try_from(code).ok());
        self.send_error.store(code.unwrap_or(0), Ordering::Relaxed);
    }

    /// `true` if the caller has to put a `Mark::Woken` into the inbox.
    pub(crate) fn mark_woken(&self) -> bool {
        !self.woken.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    pub(crate) fn info(&self, created: Instant) -> ConnectionInfo {
        let since = Duration::from_nanos(self.since.load(Ordering::Relaxed));
        ConnectionInfo {
            id: self.id,
            me: self.me().clone(),
            them: self.them.clone(),
            direction: self.direction,
            since: created.checked_add(since).unwrap_or(created),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            hung_up: self.notes.load(Ordering::Relaxed) & HUNG_UP != 0,
        }
    }

    #[inline]
    fn note(&self, note: u8) {
        self.notes.store(self.notes.load(Ordering::Relaxed) | note, Ordering::Relaxed);
    }

    #[inline]
    fn take_note(&self, note: u8) -> bool {
        let notes = self.notes.load(Ordering::Relaxed);
        if notes & note == 0 {
            return false;
        }
        self.notes.store(notes & !note, Ordering::Relaxed);
        true
    }
}

/// Enough for 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// For the socket thread alone.
impl Connection {
    /// Did a send on this thread find the socket full since the last call?
    #[inline]
    pub(crate) fn take_blocked(&self) -> bool {
        self.take_note(BLOCKED)
    }

    /// Did a send on this thread get bytes out since the last call?
    #[inline]
    pub(crate) fn take_sent(&self) -> bool {
        self.take_note(SENT)
    }

    /// The wake is being acted upon: the next one makes a new mark. A swap and not a store, which
    /// could pass the hooks' loads: a wake that still found the mark set has what it queued seen.
    pub(crate) fn clear_woken(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }

    /// `is_over`: in both directions, and not only because an error waits.
    pub(crate) fn set_hung_up(&self, is_over: bool) {
        self.note(if is_over { HUNG_UP | OVER } else { HUNG_UP });
    }

    /// The reset that a send was told of, if one was.
    pub(crate) fn send_error(&self) -> Option<io::Error> {
        // A send under way on another thread may have the error and not have noted it yet.
        let _sending = self.sending.lock();
        match self.send_error.load(Ordering::Relaxed) {
            0 => None,
            code => Some(io::Error::from_raw_os_error(i32::from(code))),
        }
    }

    #[inline]
    pub(crate) fn count_received(&self, bytes: usize) {
        let received = self.bytes_received.load(Ordering::Relaxed);
        self.bytes_received.store(received.wrapping_add(bytes as u64), Ordering::Relaxed);
    }

    /// Where the socket thread keeps it: among the connections, or the attempts. `None`: not yet,
    /// or no more.
    pub(crate) fn token(&self) -> Option<Token> {
        match self.token.load(Ordering::Relaxed) {
            NO_TOKEN => None,
            token => Some(Token::decode(token)),
        }
    }

    /// The key of its slot, if it has one.
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
