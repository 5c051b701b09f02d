//! The sockets of the process, by their handles.
//!
//! A poller gets a socket as `&dyn Sock`, perhaps wrapped by a test double. The handle leads to
//! mio's type, which has to be registered. The functions run on any thread. The list has a lock,
//! under which no other is taken.

use std::{
    collections::BTreeMap,
    io,
    os::windows::io::AsRawSocket,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use mio::net::TcpStream;
use socket2::Socket;

use super::RawSocket;

static SOCKETS: Mutex<BTreeMap<RawSocket, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// How many calls on sockets of the process would have blocked. The number wraps.
static BLOCKED_CALLS: AtomicUsize = AtomicUsize::new(0);

/// Counts a call if it would have blocked, and returns its result.
pub(super) fn counted<T>(result: io::Result<T>) -> io::Result<T> {
    if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
        // A poller needs the calls of its own thread, and those that happened before the poll.
        BLOCKED_CALLS.fetch_add(1, Ordering::Relaxed);
    }
    result
}

/// Returns how many calls would have blocked so far.
pub(super) fn blocked_calls() -> usize {
    BLOCKED_CALLS.load(Ordering::Relaxed)
}

/// A socket, as its owner and its poller see it.
#[derive(Debug)]
pub(super) struct Shared {
    /// mio's type for a stream, which also serves a listener: what counts is the registration that
    /// mio keeps in it.
    stream: RwLock<TcpStream>,
    pub(super) raw: RawSocket,
    /// Whether the poller or a send has reported a reset that no receive has returned yet.
    was_reset: AtomicBool,
    /// Whether the poller has reported the end of the peer's stream before a reset.
    has_ended: AtomicBool,
}

impl Shared {
    /// Takes over a socket that does not block.
    pub(super) fn new(socket: Socket) -> Arc<Shared> {
        let raw = socket.as_raw_socket();
        let stream = RwLock::new(TcpStream::from_std(socket.into()));
        let shared = Arc::new(Shared {
            stream,
            raw,
            was_reset: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        });
        list().insert(raw, Arc::downgrade(&shared));
        shared
    }

    /// Returns the open socket with this handle.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if the library's factory has not made the socket.
    pub(super) fn find(raw: RawSocket) -> io::Result<Arc<Shared>> {
        let found = list().get(&raw).and_then(Weak::upgrade);
        found.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket is not one of the operating system's factory",
            )
        })
    }

    pub(super) fn stream(&self) -> RwLockReadGuard<'_, TcpStream> {
        self.stream.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stream_mut(&self) -> RwLockWriteGuard<'_, TcpStream> {
        self.stream.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a reset that the poller or a send reports.
    pub(super) fn note_reset(&self) {
        self.was_reset.store(true, Ordering::Release);
    }

    /// Returns whether a reset was noted.
    pub(super) fn was_reset(&self) -> bool {
        self.was_reset.load(Ordering::Acquire)
    }

    /// Notes an end of the peer's stream that the poller reports.
    pub(super) fn note_end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Returns whether a reset was noted, and forgets it.
    pub(super) fn take_reset(&self) -> bool {
        self.was_reset.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Shared {
    /// The handle closes after this call, so no other socket has its number yet.
    fn drop(&mut self) {
        list().remove(&self.raw);
    }
}

fn list() -> std::sync::MutexGuard<'static, BTreeMap<RawSocket, Weak<Shared>>> {
    SOCKETS.lock().unwrap_or_else(PoisonError::into_inner)
}
