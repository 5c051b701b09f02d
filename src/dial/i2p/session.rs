//! Sessions: the persistent one, and the transient ones that no connection uses yet.
//!
//! A `SockMan` with I2P options has one `I2p`, which all threads share. An `I2p` has three mutexes.
//! Each mutex is held for a moment, and no mutex is held while a thread waits. The thread that
//! makes the persistent session marks the session as being made, and the other threads check again
//! later. The key file is read and written on a thread of its own, and the thread that makes the
//! session checks again later.

use std::{
    fmt, io,
    io::IoSlice,
    net::Shutdown,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;

use super::{
    destination::PrivateKey,
    dialogue::{Goal, SessionKey},
    error::{KeyFileError, SamError},
    key_file::{self, FileWork},
    options::I2pOptions,
    talk::Talk,
};
use crate::{
    address::Service,
    dial::{Awaits, Step},
    sys::{More, RawSocket, Sock, SockFactory, passing::passes, shutdown_both, sync::Mutex},
};

/// The most transient sessions that are kept for later when the connects that they were made for
/// have failed. Core's number.
const MOST_UNUSED: usize = 10;
/// How often a thread checks for a session that another thread makes, and for the end of file work.
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
    /// The file work that began last, until its result is taken. The connect that began the work
    /// may have ended since. At most one piece of work goes on at a time.
    key_work: Mutex<Option<KeyWork>>,
}

enum KeyWork {
    Read(FileWork<Result<Option<PrivateKey>, KeyFileError>>),
    Write(FileWork<Result<(), KeyFileError>>),
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
        let (unused, key_work) = (Mutex::new(Vec::new()), Mutex::new(None));
        I2p { options, factory, persistent, unused, key_work }
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
            if let Err(error) = shutdown_both(&*session.control) {
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

    /// Drops the result of file work whose connect has ended, because it may be out of date. Work
    /// that still goes on stays.
    fn drop_old_result(&self) {
        let mut work = self.key_work.lock();
        let is_done = match &*work {
            Some(KeyWork::Read(read)) => read.is_done(),
            Some(KeyWork::Write(write)) => write.is_done(),
            None => false,
        };
        if is_done {
            *work = None;
        }
    }

    /// Reads the key file on a thread of its own. Returns `None` while the read goes on.
    fn read_key(&self, path: &Path) -> Result<Option<Option<PrivateKey>>, Fault> {
        let mut work = self.key_work.lock();
        match &*work {
            Some(KeyWork::Read(read)) => {
                let Some(result) = read.take() else { return Ok(None) };
                *work = None;
                return result.map(Some).map_err(Fault::KeyFile);
            }
            // The write of a connect that has ended comes to its end first.
            Some(KeyWork::Write(write)) if !write.is_done() => return Ok(None),
            Some(KeyWork::Write(_)) | None => {}
        }
        let path = path.to_owned();
        let read = FileWork::start(move || key_file::read(&path)).map_err(no_thread)?;
        *work = Some(KeyWork::Read(read));
        Ok(None)
    }

    /// Writes the key file on a thread of its own. Returns `None` while the write goes on. The
    /// caller passes the same key each time.
    fn write_key(&self, path: &Path, key: &PrivateKey) -> Result<Option<()>, Fault> {
        let mut work = self.key_work.lock();
        if let Some(KeyWork::Write(write)) = &*work {
            let Some(result) = write.take() else { return Ok(None) };
            *work = None;
            return result.map(Some).map_err(Fault::KeyFile);
        }
        let (path, key) = (path.to_owned(), key.clone());
        let write = FileWork::start(move || {
            key_file::write_new(&path, &key)?;
            log::info!(
                target: "sockman::i2p",
                "created a new I2P private key in {}", path.display()
            );
            Ok(())
        });
        *work = Some(KeyWork::Write(write.map_err(no_thread)?));
        Ok(None)
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
    state: State,
    /// The number of control sockets so far.
    controls: u32,
}

#[derive(Debug)]
enum State {
    NotBegun,
    /// The key file is being read.
    Reading(Claim),
    /// The router is asked for the session.
    Talking(Box<Making>),
    /// The session exists, and the key that the router generated for it is being written.
    Writing(Box<Making>),
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
    /// The maker waits for these events of the control socket.
    WaitForSocket(Awaits),
    WaitUntil(Instant),
    /// The maker begins again, with another control socket. The next step can run at once.
    Restarted,
}

fn no_thread(source: io::Error) -> Fault {
    Fault::Os { step: "pthread_create", source }
}

impl SessionMaker {
    pub(crate) fn new(i2p: &Arc<I2p>) -> SessionMaker {
        SessionMaker { i2p: Arc::clone(i2p), state: State::NotBegun, controls: 0 }
    }

    /// Returns the socket to wait on, if the wait is for a socket.
    pub(crate) fn control(&self) -> Option<&dyn Sock> {
        match &self.state {
            State::Talking(making) => Some(&*making.control),
            State::NotBegun | State::Reading(_) | State::Writing(_) => None,
        }
    }

    /// Returns the number of the present control socket, which counts from 1.
    pub(crate) fn controls(&self) -> u32 {
        self.controls
    }

    pub(crate) fn request(&self) -> &'static str {
        match &self.state {
            State::Talking(making) | State::Writing(making) => making.talk.dialogue.request(),
            State::NotBegun | State::Reading(_) => "HELLO",
        }
    }

    /// Takes the next step.
    ///
    /// # Errors
    ///
    /// Fails if no session can be provided.
    pub(crate) fn step(&mut self, now: Instant) -> Result<Made, Fault> {
        loop {
            // If the step fails, the state stays `NotBegun`.
            match std::mem::replace(&mut self.state, State::NotBegun) {
                State::NotBegun => {
                    if let Some(made) = self.begin(now)? {
                        return Ok(made);
                    }
                }
                State::Reading(claim) => {
                    let Some(key) = self.i2p.read_key(self.key_path())? else {
                        self.state = State::Reading(claim);
                        return Ok(Made::WaitUntil(now + LOOK_AGAIN));
                    };
                    let session_key = match &key {
                        Some(key) => SessionKey::Persistent(key.clone()),
                        None => SessionKey::ToBeMade,
                    };
                    self.talk(session_key, key, Some(claim), now)?;
                }
                State::Talking(mut making) => match making.talk.step(&*making.control, now)? {
                    Step::Connected => self.state = State::Writing(making),
                    Step::WaitForSocket(awaits) => {
                        self.state = State::Talking(making);
                        return Ok(Made::WaitForSocket(awaits));
                    }
                    Step::WaitUntil(at) => {
                        self.state = State::Talking(making);
                        return Ok(Made::WaitUntil(at));
                    }
                },
                State::Writing(making) => return self.write_and_finish(making, now),
            }
        }
    }

    /// Returns the path of the key file. Without a key file, no state calls this.
    fn key_path(&self) -> &Path {
        self.i2p.options.key_file.as_deref().unwrap_or(Path::new(""))
    }

    /// Begins to make a session. Returns what there is in its place: a session that already exists,
    /// or the time to check again, because another thread makes the persistent session.
    fn begin(&mut self, now: Instant) -> Result<Option<Made>, Fault> {
        let i2p = &self.i2p;
        if i2p.options.key_file.is_none() {
            if let Some(session) = i2p.take_unused() {
                return Ok(Some(Made::Session(session)));
            }
            return self.talk(SessionKey::Transient, None, None, now).map(|()| None);
        }
        {
            let mut persistent = i2p.persistent.lock();
            match &*persistent {
                Persistent::Made(session) if session.is_alive() => {
                    return Ok(Some(Made::Session(Arc::clone(session))));
                }
                Persistent::BeingMade => return Ok(Some(Made::WaitUntil(now + LOOK_AGAIN))),
                Persistent::Made(_) | Persistent::NotMade => {}
            }
            *persistent = Persistent::BeingMade;
        }
        let claim = Claim(Arc::clone(i2p));
        i2p.drop_old_result();
        self.state = State::Reading(claim);
        Ok(None)
    }

    /// Begins the dialogue with the router.
    fn talk(
        &mut self,
        session_key: SessionKey,
        key: Option<PrivateKey>,
        claim: Option<Claim>,
        now: Instant,
    ) -> Result<(), Fault> {
        let i2p = &self.i2p;
        let mut name = [0; NAME_BYTES];
        getrandom::fill(&mut name)
            .map_err(|error| Fault::Os { step: "getrandom", source: error.into() })?;
        let id = HEXLOWER.encode(&name);
        let tunnels = i2p.options.tunnels(claim.is_some());
        let goal = Goal::Session { id: id.clone(), key: session_key, tunnels };
        let control = i2p.create_sock()?;
        self.controls += 1;
        let talk = Talk::new(&i2p.options.sam, goal, now);
        self.state = State::Talking(Box::new(Making { control, talk, id, key, claim }));
        Ok(())
    }

    /// Writes a new key of a persistent session to its file. The key is saved before the address is
    /// reported: an address whose key cannot be kept must not become known.
    fn write_and_finish(&mut self, making: Box<Making>, now: Instant) -> Result<Made, Fault> {
        let made = making.talk.dialogue.outcome().key.clone();
        let new = made.as_ref().filter(|_| making.claim.is_some() && making.key.is_none());
        if let Some(new) = new {
            match self.i2p.write_key(self.key_path(), new) {
                Ok(Some(())) => {}
                Ok(None) => {
                    self.state = State::Writing(making);
                    return Ok(Made::WaitUntil(now + LOOK_AGAIN));
                }
                // Another process has created the file meanwhile. Its key is the one to use.
                Err(Fault::KeyFile(error)) if key_file::exists_already(&error) => {
                    return Ok(Made::Restarted);
                }
                Err(fault) => return Err(fault),
            }
        }
        let Making { control, id, key, claim, .. } = *making;
        let Some(key) = key.or(made) else {
            return Err(SamError::UnexpectedReply { request: "SESSION CREATE" }.into());
        };
        let address = Service::new(key.address(), I2P_PORT);
        log::debug!(target: "sockman::i2p", "created session {id} with the address {address}");
        let session = Arc::new(Session { id, address, control });
        if claim.is_some() {
            *self.i2p.persistent.lock() = Persistent::Made(Arc::clone(&session));
        }
        Ok(Made::Session(session))
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
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.sock.peek(buffer)
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
    fn would_block_repeats_events(&self) -> bool {
        self.sock.would_block_repeats_events()
    }
    fn short_send_means_full(&self) -> bool {
        self.sock.short_send_means_full()
    }
    fn set_reset_on_close(&self) -> io::Result<()> {
        self.sock.set_reset_on_close()
    }
    fn as_raw_fd(&self) -> RawSocket {
        self.sock.as_raw_fd()
    }
}

#[cfg(unix)] // The bridge has a unix-domain address.
#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::sys::OsSockFactory;

    /// A file system that hangs, for as long as the test wants.
    fn hang<T: Send + 'static>() -> (mpsc::Sender<T>, FileWork<T>) {
        let (sender, receiver) = mpsc::channel();
        (sender, FileWork::start(move || receiver.recv().unwrap()).unwrap())
    }

    fn is_waiting(maker: &mut SessionMaker, now: Instant) -> bool {
        matches!(maker.step(now), Ok(Made::WaitUntil(at)) if at > now)
    }

    /// G9: a file system that hangs holds no thread that steps a connect. Connects that come later
    /// wait for the same work, and no further thread hangs.
    #[test]
    fn no_step_waits_for_a_file_system_that_hangs() {
        let options = I2pOptions::new("unix:/nonexistent/sam".parse::<Service>().unwrap())
            .key_file("/nonexistent/key");
        let i2p = Arc::new(I2p::new(options, Arc::new(OsSockFactory::default())));
        let (goes_on, read) = hang();
        *i2p.key_work.lock() = Some(KeyWork::Read(read));
        let now = i2p.now();
        for _ in 0..3 {
            let mut maker = SessionMaker::new(&i2p);
            assert!(is_waiting(&mut maker, now) && is_waiting(&mut maker, now));
            assert!(maker.control().is_none());
        }
        let mut maker = SessionMaker::new(&i2p);
        assert!(is_waiting(&mut maker, now));
        goes_on.send(Ok(None)).unwrap();
        // The key file does not exist, so the router is asked for a key.
        let fault = loop {
            match maker.step(now) {
                Ok(_) => std::thread::yield_now(),
                Err(fault) => break fault,
            }
        };
        assert!(matches!(fault, Fault::Sam(SamError::Unreachable { .. })), "{fault}");

        // The same holds for a write.
        let (goes_on, write) = hang();
        *i2p.key_work.lock() = Some(KeyWork::Write(write));
        let mut maker = SessionMaker::new(&i2p);
        assert!(is_waiting(&mut maker, now) && is_waiting(&mut maker, now));
        goes_on.send(Ok(())).unwrap();
    }
}
