//! Starting, joining and restarting the threads, and running the loop on the caller's thread.
//!
//! This module owns the guard, and the marker by which the library recognises its own threads. The
//! code runs on the embedder's threads and on both threads of the library. It takes the `run` mutex
//! for a moment when a thread starts or ends.

use std::{
    any::Any,
    cell::Cell,
    fmt, io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::Arc,
};

#[cfg(feature = "i2p")]
use super::i2p_accept::AcceptThread;
use super::{context::Context, shared::Shared, socket_thread::SocketThread};
use crate::{
    error::{JoinError, Panic, RunError, StartError, panic_message},
    sockman::SockMan,
    sys::{
        interrupt::Watches,
        sync::{
            Builder, JoinHandle, Mutex,
            atomic::{AtomicBool, Ordering},
        },
    },
};

/// The owner of the socket thread's state.
pub(crate) enum Run {
    Stopped(Box<SocketThread>),
    /// A thread runs and owns the state.
    Running {
        /// Whether no turn is under way, because a test drives the thread by hand and is between
        /// two passes.
        rests: bool,
    },
}

/// The guard of the running threads, returned by [`SockMan::start_sockets_threads`].
///
/// Dropping the guard interrupts the threads and waits until they end. If it is dropped on one of
/// the library's own threads, it interrupts the threads and detaches them instead, because a thread
/// cannot wait for itself. A drop that waits logs the failure that [`join`](SocketsThreads::join)
/// would return.
///
/// # Examples
///
/// ```
/// # fn f(sockman: &sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
/// let threads = sockman.start_sockets_threads()?;
/// // A callback or another thread calls `interrupt` to end the program.
/// threads.join()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the guard ends the threads at once"]
pub struct SocketsThreads {
    shared: Arc<Shared>,
    /// The handle of the thread, or `None` after it was joined or detached.
    thread: Option<JoinHandle<()>>,
    ending: Arc<Ending>,
}

/// How the thread ends. The thread and the guard share this state.
#[derive(Default)]
struct Ending {
    /// Whether the guard was dropped on a thread of the library, or never existed, because the loop
    /// runs on the caller's thread. In these cases no thread joins, so the socket thread itself
    /// resets the interrupt when it ends.
    detached: AtomicBool,
    /// Whether new threads may be started. The thread sets this flag under the `run` mutex.
    ended: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

/// The reason for which the thread ended without an interrupt.
enum Failure {
    Panic(Box<dyn Any + Send>),
    Poll(io::Error),
}

pub(crate) fn start(sockman: &SockMan) -> Result<SocketsThreads, StartError> {
    let shared = sockman.shared();
    let mut run = shared.run.lock();
    let (socket_thread, watches) = claim(shared, &mut run)?;
    // The state is handed over in a cell, so that a failed spawn can take it back.
    let parked = Arc::new(Mutex::new(Some(socket_thread)));
    let ending = Arc::new(Ending::default());
    let spawned = Builder::new().name(shared.options.thread_name.clone()).spawn({
        let (sockman, parked, ending) = (sockman.clone(), Arc::clone(&parked), Arc::clone(&ending));
        move || {
            // The cell is never empty here. Only a failed spawn takes the state back, and this
            // closure does not run after a failed spawn.
            if let Some(socket_thread) = parked.lock().take() {
                run_thread(&sockman, socket_thread, &watches, &ending, &mut |_| {});
            }
        }
    });
    match spawned {
        Ok(thread) => {
            Ok(SocketsThreads { shared: Arc::clone(shared), thread: Some(thread), ending })
        }
        Err(error) => {
            if let Some(socket_thread) = parked.lock().take() {
                *run = Run::Stopped(socket_thread);
            }
            Err(StartError::Spawn(error))
        }
    }
}

/// Runs the loop on the calling thread, which is the socket thread until the loop ends. Each pass
/// calls `in_each_pass`.
pub(crate) fn run_here(
    sockman: &SockMan,
    in_each_pass: &mut dyn FnMut(&SockMan),
) -> Result<(), RunError> {
    if is_library_thread() {
        return Err(RunError::OnLibraryThread);
    }
    let shared = sockman.shared();
    let (socket_thread, watches) = claim(shared, &mut shared.run.lock())?;
    // No other thread resets the interrupt. The loop resets it under the `run` mutex, so the reset
    // does not clear an interrupt that is meant for a later start.
    let ending = Ending { detached: AtomicBool::new(true), ..Ending::default() };
    run_thread(sockman, socket_thread, &watches, &ending, in_each_pass);
    match ending.failure.into_inner() {
        None => Ok(()),
        Some(Failure::Panic(payload)) => Err(RunError::Panicked(Panic::new(payload))),
        Some(Failure::Poll(error)) => Err(RunError::Poll(error)),
    }
}

/// Takes the socket thread's state out of `run`, unless a thread has the state.
fn claim(shared: &Shared, run: &mut Run) -> Result<(Box<SocketThread>, Watches), StartError> {
    let socket_thread = match mem::replace(run, Run::Running { rests: false }) {
        Run::Running { rests } => {
            *run = Run::Running { rests };
            return Err(StartError::AlreadyStarted);
        }
        Run::Stopped(socket_thread) => socket_thread,
    };
    // The watches begin only under the lock, because a detached thread resets the interrupt under
    // the lock when it ends.
    let watches = shared.watches();
    if watches.is_interrupted() {
        *run = Run::Stopped(socket_thread);
        return Err(StartError::Interrupted);
    }
    Ok((socket_thread, watches))
}

fn run_thread(
    sockman: &SockMan,
    mut socket_thread: Box<SocketThread>,
    watches: &Watches,
    ending: &Ending,
    in_each_pass: &mut dyn FnMut(&SockMan),
) {
    let shared = sockman.shared();
    let marker = Marker::set(shared);
    log::debug!(target: "sockman::net", "the socket thread starts");
    let wakers = watches.add_waker(&socket_thread.waker());
    let i2p_thread = start_i2p_accept(sockman, watches);
    if matches!(i2p_thread, I2pThread::NotStarted(_)) {
        // Without the I2P-accept thread, the socket thread ends too. `join` returns the reason.
        shared.interrupt.interrupt();
    }
    let context = Context::new(sockman, watches);
    // The closure is unwind-safe: the state of the pass is consistent at every callback.
    let run = AssertUnwindSafe(|| socket_thread.thread_socket_handler(&context, in_each_pass));
    let outcome = catch_unwind(run);
    drop((context, wakers));
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            log::error!(
                target: "sockman::net",
                "the socket thread ends: the poller failed: {error}"
            );
            Some(Failure::Poll(error))
        }
        Err(payload) => {
            shared.counters.panics.add(1);
            log::error!(
                target: "sockman::net",
                "the socket thread ends: a callback panicked: {}", panic_message(&*payload)
            );
            Some(Failure::Panic(payload))
        }
    };
    if failure.is_some() {
        shared.interrupt.interrupt();
    }
    // The I2P-accept thread ends as well, because it sees the interrupt that ended this thread or
    // that this thread has set. If both threads failed, the socket thread's failure is reported.
    let failure = failure.or(join_i2p_accept(i2p_thread));
    *ending.failure.lock() = failure;
    log::debug!(target: "sockman::net", "the socket thread has ended");
    drop(marker);

    let mut run = shared.run.lock();
    // Closes on other threads left marks, which would otherwise wait for the next start.
    socket_thread.remove_closed(shared);
    *run = Run::Stopped(socket_thread);
    ending.ended.store(true, Ordering::Release);
    if ending.detached.load(Ordering::Acquire) {
        shared.interrupt.reset();
    }
}

/// The I2P-accept thread as the socket thread sees it.
#[cfg_attr(
    not(feature = "i2p"),
    allow(dead_code, reason = "without the feature, no I2P-accept thread exists")
)]
enum I2pThread {
    /// The options do not ask for an I2P-accept thread.
    None,
    Running(JoinHandle<Option<Failure>>),
    /// The options ask for an I2P-accept thread, but the operating system provided no poller or no
    /// thread.
    NotStarted(io::Error),
}

#[cfg(not(feature = "i2p"))]
fn start_i2p_accept(_: &SockMan, _: &Watches) -> I2pThread {
    I2pThread::None
}

/// Starts the I2P-accept thread, if the options ask for one. The socket thread ends only after the
/// I2P-accept thread has ended.
#[cfg(feature = "i2p")]
fn start_i2p_accept(sockman: &SockMan, watches: &Watches) -> I2pThread {
    let shared = sockman.shared();
    let Some(i2p) = shared.i2p.as_ref().filter(|i2p| i2p.accepts()) else {
        return I2pThread::None;
    };
    let poller = match shared.options.sock_factory.create_poller() {
        Ok(poller) => poller,
        Err(error) => return I2pThread::NotStarted(error),
    };
    let (mut accept_thread, sockman, watches) =
        (AcceptThread::new(i2p), sockman.clone(), watches.clone());
    let thread = Builder::new().name(i2p.thread_name().to_owned()).spawn(move || {
        I2P_THREAD_OF.with(|of| of.set(Arc::as_ptr(sockman.shared())));
        log::debug!(target: "sockman::i2p", "the I2P-accept thread starts");
        // The closure is unwind-safe: the state of the step is consistent at every callback.
        let run = AssertUnwindSafe(|| accept_thread.run(&sockman, poller, &watches));
        let failure = match catch_unwind(run) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                log::error!(
                    target: "sockman::i2p",
                    "the I2P-accept thread ends: the poller failed: {error}"
                );
                Some(Failure::Poll(error))
            }
            Err(payload) => {
                sockman.shared().counters.panics.add(1);
                log::error!(
                    target: "sockman::i2p",
                    "the I2P-accept thread ends: a callback panicked: {}", panic_message(&*payload)
                );
                Some(Failure::Panic(payload))
            }
        };
        if failure.is_some() {
            sockman.shared().interrupt.interrupt();
        }
        log::debug!(target: "sockman::i2p", "the I2P-accept thread has ended");
        I2P_THREAD_OF.with(|of| of.set(ptr::null()));
        failure
    });
    match thread {
        Ok(thread) => I2pThread::Running(thread),
        Err(error) => I2pThread::NotStarted(error),
    }
}

fn join_i2p_accept(i2p_thread: I2pThread) -> Option<Failure> {
    match i2p_thread {
        I2pThread::None => None,
        I2pThread::Running(thread) => {
            thread.join().unwrap_or_else(|payload| Some(Failure::Panic(payload)))
        }
        I2pThread::NotStarted(error) => {
            log::error!(target: "sockman::i2p", "cannot start the I2P-accept thread: {error}");
            Some(Failure::Poll(error))
        }
    }
}

impl SocketsThreads {
    /// Waits until the threads end, and resets the `SockMan`'s own interrupt so that they can be
    /// started again. `join` does not interrupt the threads. The threads end when they are
    /// interrupted (see [`SockMan::interrupt`]), when a panic stops them (see [`PanicPolicy`]), or
    /// when a poller fails.
    ///
    /// [`PanicPolicy`]: crate::options::PanicPolicy
    ///
    /// # Errors
    ///
    /// * [`JoinError::Panicked`]: the threads ended because a callback panicked.
    /// * [`JoinError::Poll`]: the threads ended because a poller failed, or because the I2P-accept
    ///   thread could not be started.
    /// * [`JoinError::OnLibraryThread`]: `join` was called from a callback. The error contains the
    ///   guard.
    #[doc(alias = "JoinSocketsThreads")]
    pub fn join(mut self) -> Result<(), JoinError> {
        if is_library_thread_of(&self.shared) {
            return Err(JoinError::OnLibraryThread(self));
        }
        self.wait_for_end();
        match self.ending.failure.lock().take() {
            None => Ok(()),
            Some(Failure::Panic(payload)) => Err(JoinError::Panicked(Panic::new(payload))),
            Some(Failure::Poll(error)) => Err(JoinError::Poll(error)),
        }
    }

    /// Returns whether the threads have ended, because of an interrupt or a failure.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_none() || self.ending.ended.load(Ordering::Acquire)
    }

    fn wait_for_end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if thread.join().is_err() {
            // A handler's panic is caught on the thread. Only a bug of the library leads here.
            log::error!(
                target: "sockman::net",
                "the socket thread panicked outside of callbacks: this is a bug in sockman"
            );
        }
        self.shared.interrupt.reset();
    }
}

impl Drop for SocketsThreads {
    fn drop(&mut self) {
        if self.thread.is_none() {
            return;
        }
        let run = self.shared.run.lock();
        // If this guard's thread has ended, a thread that runs now belongs to another guard.
        if !self.ending.ended.load(Ordering::Acquire) {
            self.shared.interrupt.interrupt();
            if is_library_thread_of(&self.shared) {
                // The socket thread reads this flag when it ends.
                self.ending.detached.store(true, Ordering::Release);
                return;
            }
        }
        drop(run);
        self.wait_for_end();
        match &*self.ending.failure.lock() {
            None => {}
            Some(Failure::Panic(payload)) => log::error!(
                target: "sockman::net",
                "a callback panicked, and the guard was dropped without `join`: {}",
                panic_message(&**payload)
            ),
            Some(Failure::Poll(error)) => {
                log::error!(
                    target: "sockman::net",
                    "a poller failed, or the I2P-accept thread was not started, and the guard was \
                     dropped without `join`: {error}"
                );
            }
        }
    }
}

impl fmt::Debug for SocketsThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketsThreads").field("is_finished", &self.is_finished()).finish()
    }
}

#[cfg(not(shuttle))]
thread_local! {
    /// The address of the `Shared` whose socket thread this is. The address is compared, never
    /// dereferenced.
    static SOCKET_THREAD_OF: Cell<*const Shared> = const { Cell::new(ptr::null()) };
    /// The address of the `Shared` whose I2P-accept thread this is.
    static I2P_THREAD_OF: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

#[cfg(all(feature = "testing", not(shuttle)))]
thread_local! {
    /// The address of the `Shared` whose socket thread this is, while the thread acts as another
    /// one.
    static HALTED: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

#[cfg(shuttle)]
shuttle::thread_local! {
    static SOCKET_THREAD_OF: Cell<*const Shared> = Cell::new(ptr::null());
    static I2P_THREAD_OF: Cell<*const Shared> = Cell::new(ptr::null());
}

#[cfg(all(feature = "testing", shuttle))]
shuttle::thread_local! {
    static HALTED: Cell<*const Shared> = Cell::new(ptr::null());
}

/// Returns whether the calling thread is the socket thread of this `SockMan`.
pub(crate) fn is_socket_thread_of(shared: &Shared) -> bool {
    SOCKET_THREAD_OF.with(|of| ptr::eq(of.get(), shared))
}

/// Returns whether the calling thread is the I2P-accept thread of this `SockMan`.
pub(crate) fn is_i2p_accept_thread_of(shared: &Shared) -> bool {
    I2P_THREAD_OF.with(|of| ptr::eq(of.get(), shared))
}

/// Returns whether the calling thread is one of this `SockMan`'s threads. A join on such a thread
/// would wait for itself.
fn is_library_thread_of(shared: &Shared) -> bool {
    is_socket_thread_of(shared) || is_i2p_accept_thread_of(shared)
}

/// Returns whether the calling thread is a thread of any `SockMan`. Code on such a thread runs in a
/// callback.
fn is_library_thread() -> bool {
    SOCKET_THREAD_OF.with(|of| !of.get().is_null()) || I2P_THREAD_OF.with(|of| !of.get().is_null())
}

/// Marks the current thread as the socket thread until this value is dropped.
struct Marker;

impl Marker {
    fn set(shared: &Shared) -> Marker {
        SOCKET_THREAD_OF.with(|of| of.set(shared));
        Marker
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        SOCKET_THREAD_OF.with(|of| of.set(ptr::null()));
    }
}

/// The socket thread's state, held by a test that runs the passes itself. The thread that calls
/// [`pass`](Parked::pass) is the socket thread during the call.
#[cfg(feature = "testing")]
pub(crate) struct Parked {
    sockman: SockMan,
    socket_thread: Box<SocketThread>,
    watches: Watches,
    _wakers: Vec<crate::sys::interrupt::WakerGuard>,
}

#[cfg(feature = "testing")]
impl Parked {
    pub(crate) fn start(sockman: &SockMan) -> Result<Parked, StartError> {
        let shared = sockman.shared();
        let mut run = shared.run.lock();
        let (socket_thread, watches) = claim(shared, &mut run)?;
        *run = Run::Running { rests: true };
        drop(run);
        let wakers = watches.add_waker(&socket_thread.waker());
        Ok(Parked { sockman: sockman.clone(), socket_thread, watches, _wakers: wakers })
    }

    /// Runs one pass and returns `true`. If the interrupt is set, runs no pass and returns `false`.
    pub(crate) fn pass(&mut self) -> Result<bool, JoinError> {
        if self.watches.is_interrupted() {
            return Ok(false);
        }
        let shared = self.sockman.shared();
        *shared.run.lock() = Run::Running { rests: false };
        let marker = Marker::set(shared);
        let context = Context::new(&self.sockman, &self.watches);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.socket_thread.pass(&context)));
        drop(marker);
        // Other threads may wait for the end of the turns. The next pass may never come.
        let mut run = shared.run.lock();
        *run = Run::Running { rests: true };
        shared.inbox.drop_fences();
        drop(run);
        let failure = match outcome {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(error)) => JoinError::Poll(error),
            Err(payload) => {
                shared.counters.panics.add(1);
                JoinError::Panicked(Panic::new(payload))
            }
        };
        shared.interrupt.interrupt();
        Err(failure)
    }

    /// Returns whether the last pass was idle and the next pass has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.socket_thread.is_idle() && !self.sockman.shared().inbox.is_pending()
    }

    pub(crate) fn stop(mut self) {
        let shared = self.sockman.shared();
        let mut run = shared.run.lock();
        self.socket_thread.remove_closed(shared);
        *run = Run::Stopped(self.socket_thread);
        drop(run);
        shared.interrupt.reset();
    }
}

#[cfg(feature = "testing")]
impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("is_idle", &self.is_idle()).finish_non_exhaustive()
    }
}

/// Runs `f` as if on another thread. A simulated thread can then act in the middle of a pass.
#[cfg(feature = "testing")]
pub(crate) fn as_another_thread<R>(f: impl FnOnce() -> R) -> R {
    struct Restore {
        socket_thread_of: *const Shared,
        halted: *const Shared,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            SOCKET_THREAD_OF.with(|of| of.set(self.socket_thread_of));
            HALTED.with(|halted| halted.set(self.halted));
        }
    }
    let restore = Restore {
        socket_thread_of: SOCKET_THREAD_OF.with(|of| of.replace(ptr::null())),
        halted: HALTED.with(Cell::get),
    };
    if !restore.socket_thread_of.is_null() {
        HALTED.with(|halted| halted.set(restore.socket_thread_of));
    }
    f()
}

/// Returns whether the calling thread is the socket thread of this `SockMan`, but acts as another
/// thread at the moment. The turn under way goes on only after that.
#[cfg(feature = "testing")]
pub(crate) fn is_halted_socket_thread_of(shared: &Shared) -> bool {
    HALTED.with(|halted| ptr::eq(halted.get(), shared))
}

/// Runs one pass on the calling thread, which is the socket thread during the call.
#[cfg(test)]
#[cfg(feature = "testing")]
pub(crate) fn run_one_pass(sockman: &SockMan) -> io::Result<()> {
    let shared = sockman.shared();
    let Run::Stopped(mut socket_thread) =
        mem::replace(&mut *shared.run.lock(), Run::Running { rests: false })
    else {
        panic!("the socket thread runs");
    };
    let marker = Marker::set(shared);
    let watches = shared.watches();
    let context = Context::new(sockman, &watches);
    let result = catch_unwind(AssertUnwindSafe(|| socket_thread.pass(&context)));
    drop(marker);
    *shared.run.lock() = Run::Stopped(socket_thread);
    result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}
