//! Sessions: the persistent one, and the transient ones that no connection uses yet.
//!
//! A `SockMan` with I2P options has one `I2p`, which all threads share. An `I2p` has two mutexes.
//! Each mutex is held for a moment, and no mutex is held while a thread waits. The thread that
//! makes the persistent session marks the session as being made, and the other threads check again
//! later.

use std::{
    fmt, io,
    io::IoSlice,
    net::Shutdown,
    os::fd::RawFd,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;

use super::{
    destination::PrivateKey,
    dialogue::{Goal, SessionKey},
    error::{KeyFileError, SamError},
    key_file,
    options::I2pOptions,
    talk::Talk,
};
use crate::{
    address::Service,
    dial::Step,
    sys::{More, Sock, SockFactory, passing::passes, sync::Mutex},
};

/// The most transient sessions that are kept for later when the connects that they were made for
/// have failed. Core's number.
const MOST_UNUSED: usize = 10;
/// How often a thread checks for a session that another thread makes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The number of random bytes in the name of a session, as in Core.
const NAME_BYTES: usize = 5;
/// The port of an I2P address: SAM 3.1 has no ports.
pub(crate) const I2P_PORT: u16 = 0;

pub(crate) struct I2p {
    pub(crate) options: I2pOptions,
    factory: Arc<dyn SockFactory>,
    persistent: Mutex<Persistent>,
    unused: Mutex<Vec<Arc<Session>>>,
}

enum Persistent {
    NotMade,
    /// A thread is making the session.
    BeingMade,
    Made(Arc<Session>),
}

/// A session. The session lasts as long as its control socket is open.
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) address: Service,
    control: Box<dyn Sock>,
}

/// Why a session or a stream failed.
#[derive(Debug)]
pub(crate) enum Fault {
    Sam(SamError),
    KeyFile(KeyFileError),
    Os { step: &'static str, source: io::Error },
}

impl From<SamError> for Fault {
    fn from(error: SamError) -> Fault {
        Fault::Sam(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Sam(error) => error.fmt(f),
            Fault::KeyFile(error) => error.fmt(f),
            Fault::Os { step, source } if f.alternate() => write!(f, "{step} failed: {source}"),
            Fault::Os { step, .. } => write!(f, "{step} failed"),
        }
    }
}

impl I2p {
    pub(crate) fn new(options: I2pOptions, factory: Arc<dyn SockFactory>) -> I2p {
        let persistent = Mutex::new(Persistent::NotMade);
        I2p { options, factory, persistent, unused: Mutex::new(Vec::new()) }
    }

    pub(crate) fn accepts(&self) -> bool {
        self.options.accepts
    }

    pub(crate) fn thread_name(&self) -> &str {
        &self.options.thread_name
    }

    pub(crate) fn sam(&self) -> &Service {
        &self.options.sam
    }

    #[cfg(feature = "testing")]
    pub(crate) fn unused_sessions(&self) -> usize {
        self.unused.lock().len()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.options.key_file.is_some()
    }

    pub(crate) fn create_sock(&self) -> Result<Box<dyn Sock>, Fault> {
        let created = self.factory.create_sock(&self.options.sam);
        created.map_err(|source| Fault::Os { step: "socket", source })
    }

    pub(crate) fn now(&self) -> Instant {
        self.factory.now()
    }

    /// Forgets a session that is no longer of use.
    pub(crate) fn forget(&self, session: &Arc<Session>) {
        let mut persistent = self.persistent.lock();
        let is_it = matches!(&*persistent, Persistent::Made(made) if Arc::ptr_eq(made, session));
        if is_it {
            *persistent = Persistent::NotMade;
            // Connections may keep the session open. The router refuses another session with the
            // same key until this one ends.
            if let Err(error) = session.control.shutdown(Shutdown::Both) {
                log::trace!(
                    target: "sockman::i2p",
                    "cannot shut down the control socket of session {}: {error}", session.id
                );
            }
        }
    }

    /// Takes back a session whose connect failed through no fault of the session.
    pub(crate) fn give_back(&self, session: Arc<Session>) {
        let mut unused = self.unused.lock();
        if !self.is_persistent() && unused.len() < MOST_UNUSED && session.is_alive() {
            unused.push(session);
        }
    }

    fn take_unused(&self) -> Option<Arc<Session>> {
        loop {
            let session = self.unused.lock().pop()?;
            if session.is_alive() {
                return Some(session);
            }
        }
    }
}

impl fmt::Debug for I2p {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("I2p").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Session {
    /// Returns whether the router still has the session open. The router sends nothing on this
    /// socket. If bytes arrive in spite of that, they are discarded.
    pub(crate) fn is_alive(&self) -> bool {
        let mut buffer = [0; 64];
        match self.control.recv(&mut buffer) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock || passes(&error),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, {})", self.id, self.address)
    }
}

/// Provides a session: an existing one, or a new one.
#[derive(Debug)]
pub(crate) struct SessionMaker {
    i2p: Arc<I2p>,
    making: Option<Box<Making>>,
}

#[derive(Debug)]
struct Making {
    control: Box<dyn Sock>,
    talk: Talk,
    id: String,
    /// The key, or `None` if the router has not generated the key yet.
    key: Option<PrivateKey>,
    claim: Option<Claim>,
}

/// The claim of one thread to make the persistent session. While the claim exists, no other thread
/// makes the session.
struct Claim(Arc<I2p>);

impl Drop for Claim {
    fn drop(&mut self) {
        let mut persistent = self.0.persistent.lock();
        if matches!(&*persistent, Persistent::BeingMade) {
            *persistent = Persistent::NotMade;
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

/// The outcome of a step.
#[derive(Debug)]
pub(crate) enum Made {
    Session(Arc<Session>),
    /// The maker waits for the control socket.
    WaitForSocket,
    WaitUntil(Instant),
}

/// The way in which the first step began.
enum Begun {
    /// This `SessionMaker` makes a session.
    Making(Box<Making>),
    /// A session already exists.
    Found(Arc<Session>),
    /// Another thread makes the persistent session. This maker checks again at the given time.
    ElsewhereUntil(Instant),
}

impl SessionMaker {
    pub(crate) fn new(i2p: &Arc<I2p>) -> SessionMaker {
        SessionMaker { i2p: Arc::clone(i2p), making: None }
    }

    /// Returns the socket to wait on, if the wait is for a socket.
    pub(crate) fn control(&self) -> Option<&dyn Sock> {
        self.making.as_ref().map(|making| &*making.control)
    }

    pub(crate) fn request(&self) -> &'static str {
        self.making.as_ref().map_or("HELLO", |making| making.talk.dialogue.request())
    }

    /// Takes the next step.
    ///
    /// # Errors
    ///
    /// Fails if no session can be provided.
    pub(crate) fn step(&mut self, now: Instant) -> Result<Made, Fault> {
        let mut making = match self.making.take() {
            Some(making) => making,
            None => match self.begin(now)? {
                Begun::Making(making) => making,
                Begun::Found(session) => return Ok(Made::Session(session)),
                Begun::ElsewhereUntil(at) => return Ok(Made::WaitUntil(at)),
            },
        };
        match making.talk.step(&*making.control, now)? {
            Step::Connected => self.finish(*making).map(Made::Session),
            Step::WaitForSocket => {
                self.making = Some(making);
                Ok(Made::WaitForSocket)
            }
            Step::WaitUntil(at) => {
                self.making = Some(making);
                Ok(Made::WaitUntil(at))
            }
        }
    }

    fn begin(&self, now: Instant) -> Result<Begun, Fault> {
        let i2p = &self.i2p;
        let (claim, key, session_key) = if let Some(path) = &i2p.options.key_file {
            {
                let mut persistent = i2p.persistent.lock();
                match &*persistent {
                    Persistent::Made(session) if session.is_alive() => {
                        return Ok(Begun::Found(Arc::clone(session)));
                    }
                    Persistent::BeingMade => {
                        return Ok(Begun::ElsewhereUntil(now + LOOK_AGAIN));
                    }
                    Persistent::Made(_) | Persistent::NotMade => {}
                }
                *persistent = Persistent::BeingMade;
            }
            let claim = Claim(Arc::clone(i2p));
            let key = key_file::read(path).map_err(Fault::KeyFile)?;
            let session_key = match &key {
                Some(key) => SessionKey::Persistent(key.clone()),
                None => SessionKey::ToBeMade,
            };
            (Some(claim), key, session_key)
        } else {
            if let Some(session) = i2p.take_unused() {
                return Ok(Begun::Found(session));
            }
            (None, None, SessionKey::Transient)
        };
        let mut name = [0; NAME_BYTES];
        getrandom::fill(&mut name)
            .map_err(|error| Fault::Os { step: "getrandom", source: error.into() })?;
        let id = HEXLOWER.encode(&name);
        let tunnels = i2p.options.tunnels(claim.is_some());
        let goal = Goal::Session { id: id.clone(), key: session_key, tunnels };
        let control = i2p.create_sock()?;
        let talk = Talk::new(&i2p.options.sam, goal, now);
        Ok(Begun::Making(Box::new(Making { control, talk, id, key, claim })))
    }

    fn finish(&self, making: Making) -> Result<Arc<Session>, Fault> {
        let Making { control, talk, id, key, claim } = making;
        let made = talk.dialogue.outcome().key.clone();
        // The key is saved before the address is reported: an address whose key cannot be kept must
        // not become known.
        if let (Some(path), None, Some(made)) = (&self.i2p.options.key_file, &key, &made) {
            key_file::write_new(path, made).map_err(Fault::KeyFile)?;
            log::info!(
                target: "sockman::i2p",
                "created a new I2P private key in {}", path.display()
            );
        }
        let Some(key) = key.or(made) else {
            return Err(SamError::UnexpectedReply { request: "SESSION CREATE" }.into());
        };
        let address = Service::new(key.address(), I2P_PORT);
        log::debug!(target: "sockman::i2p", "created session {id} with the address {address}");
        let session = Arc::new(Session { id, address, control });
        if claim.is_some() {
            *self.i2p.persistent.lock() = Persistent::Made(Arc::clone(&session));
        }
        Ok(session)
    }
}

/// The socket of a stream, together with the session that it needs. The router ends the stream when
/// the session ends.
pub(crate) struct HeldSession {
    sock: Box<dyn Sock>,
    session: Arc<OnceLock<Arc<Session>>>,
}

impl HeldSession {
    /// Wraps `sock`. The session is put into the cell as soon as it exists.
    pub(crate) fn new(sock: Box<dyn Sock>, session: Arc<OnceLock<Arc<Session>>>) -> HeldSession {
        HeldSession { sock, session }
    }
}

impl fmt::Debug for HeldSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldSession({:?}, {:?})", self.sock, self.session.get())
    }
}

impl Sock for HeldSession {
    fn connect(&self, to: &Service) -> io::Result<()> {
        self.sock.connect(to)
    }
    fn bind(&self, to: &Service) -> io::Result<()> {
        self.sock.bind(to)
    }
    fn listen(self: Box<Self>, backlog: i32) -> io::Result<Box<dyn Sock>> {
        self.sock.listen(backlog)
    }
    fn accept(&self) -> io::Result<(Box<dyn Sock>, Service)> {
        self.sock.accept()
    }
    fn ready_to_accept(&self) -> io::Result<bool> {
        self.sock.ready_to_accept()
    }
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.sock.recv(buffer)
    }
    fn send(&self, data: &[u8], more: More) -> io::Result<usize> {
        self.sock.send(data, more)
    }
    fn send_vectored(&self, data: &[IoSlice<'_>], more: More) -> io::Result<usize> {
        self.sock.send_vectored(data, more)
    }
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.sock.shutdown(how)
    }
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.sock.take_error()
    }
    fn local_address(&self) -> io::Result<Service> {
        self.sock.local_address()
    }
    fn peer_address(&self) -> io::Result<Service> {
        self.sock.peer_address()
    }
    fn short_read_means_empty(&self) -> bool {
        self.sock.short_read_means_empty()
    }
    fn short_send_means_full(&self) -> bool {
        self.sock.short_send_means_full()
    }
    fn as_raw_fd(&self) -> RawFd {
        self.sock.as_raw_fd()
    }
}
