//! The interrupt: a signal that ends sleeps, polls and blocking connects at once.
//!
//! An interrupt owns a number (the epoch, odd while the signal is set), a condition variable for
//! sleeping threads, and the wakers of the pollers that wait. Any thread may use an interrupt. An
//! interrupt takes only its own mutex, and releases the mutex before it wakes a poller.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Waker,
    sync::atomic::{AtomicU64, Ordering},
    sync::{Condvar, Mutex},
};

/// A signal that ends sleeps, polls and connects at once. Bitcoin Core's `CThreadInterrupt`.
///
/// A clone is the same interrupt. Every [`SockMan`](crate::SockMan) has its own interrupt. A
/// `SockMan` also obeys the interrupt given with [`Options::interrupt`](crate::Options::interrupt),
/// so that an embedder can end several `SockMan`s and its own threads with one call.
/// [`ConnectOptions::cancel`](crate::ConnectOptions::cancel) ends one connect with an interrupt.
///
/// Every method may be called from any thread. Do not call [`interrupt`](Interrupt::interrupt) in a
/// signal handler, because it takes a mutex.
///
/// ```
/// use std::time::Duration;
/// use sockman::Interrupt;
///
/// let interrupt = Interrupt::new();
/// let sleeper = {
///     let interrupt = interrupt.clone();
///     std::thread::spawn(move || interrupt.sleep_for(Duration::from_secs(3600)))
/// };
/// interrupt.interrupt();
/// assert!(!sleeper.join().unwrap(), "the interrupt ended the sleep");
/// ```
#[doc(alias = "CThreadInterrupt")]
#[derive(Clone, Default)]
pub struct Interrupt {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The epoch, which is odd while the interrupt is set. Each set and each reset adds one, so
    /// that a waiter that began in an older epoch also notices an interrupt that was reset
    /// meanwhile.
    epoch: AtomicU64,
    waiters: Mutex<Waiters>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiters {
    next_key: u64,
    /// The wakers are in a map, because thousands of connects may share one interrupt, and each
    /// connect removes its own waker.
    wakers: BTreeMap<u64, Arc<dyn Waker>>,
}

impl Interrupt {
    /// Creates an interrupt that is not set.
    #[must_use]
    pub fn new() -> Interrupt {
        Interrupt::default()
    }

    /// Sets the flag and ends every wait. A second call while the flag is set does nothing.
    pub fn interrupt(&self) {
        let wakers: Vec<Arc<dyn Waker>> = {
            let waiters = self.inner.waiters.lock();
            let epoch = self.inner.epoch.load(Ordering::Relaxed);
            if is_set(epoch) {
                return;
            }
            self.inner.epoch.store(epoch + 1, Ordering::SeqCst);
            waiters.wakers.values().map(Arc::clone).collect()
        };
        self.inner.changed.notify_all();
        for waker in wakers {
            if let Err(error) = waker.wake() {
                log::error!(
                    target: "sockman::net",
                    "an interrupt cannot wake a poller: {error}"
                );
            }
        }
    }

    /// Clears the flag. A thread that was already waiting when the flag was set still sees that it
    /// was set.
    pub fn reset(&self) {
        let _waiters = self.inner.waiters.lock();
        let epoch = self.inner.epoch.load(Ordering::Relaxed);
        if is_set(epoch) {
            self.inner.epoch.store(epoch + 1, Ordering::SeqCst);
        }
    }

    /// Returns whether the flag is set.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        is_set(self.inner.epoch.load(Ordering::SeqCst))
    }

    /// Blocks the calling thread for `duration`, or until the interrupt is set. Returns `true` if
    /// the whole `duration` passed, and `false` if the interrupt was set. If the interrupt is
    /// already set, the method returns `false` at once. If the clock cannot represent the end of
    /// `duration`, only the interrupt ends the wait.
    #[must_use]
    pub fn sleep_for(&self, duration: Duration) -> bool {
        let deadline = Instant::now().checked_add(duration);
        let mut waiters = self.inner.waiters.lock();
        // The watch begins under the lock, under which `interrupt` sets the epoch, so that no
        // signal is missed.
        let watch = self.watch();
        while !watch.is_interrupted() {
            match deadline {
                Some(deadline) => {
                    if self.inner.changed.wait_until(&mut waiters, deadline).timed_out() {
                        return !watch.is_interrupted();
                    }
                }
                None => self.inner.changed.wait(&mut waiters),
            }
        }
        false
    }

    /// Returns a waiter's view of the interrupt, which begins now.
    pub(crate) fn watch(&self) -> Watch {
        let since = self.inner.epoch.load(Ordering::SeqCst);
        Watch { interrupt: self.clone(), since: if is_set(since) { NEVER } else { since } }
    }

    /// Registers a waker until the guard is dropped. Setting the interrupt uses the waker. A thread
    /// that polls adds its waker, checks the flag, waits, and drops the guard, in this order.
    pub(crate) fn add_waker(&self, waker: Arc<dyn Waker>) -> WakerGuard {
        let mut waiters = self.inner.waiters.lock();
        let key = waiters.next_key;
        waiters.next_key += 1;
        waiters.wakers.insert(key, waker);
        WakerGuard { interrupt: self.clone(), key }
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("interrupted", &self.is_interrupted()).finish()
    }
}

fn is_set(epoch: u64) -> bool {
    epoch % 2 == 1
}

/// An epoch that no interrupt reaches, for a view of an interrupt that was set when it began.
const NEVER: u64 = u64::MAX;

/// One waiter's view of an interrupt: whether it was set when the view began, or at any time since.
#[derive(Clone)]
pub(crate) struct Watch {
    interrupt: Interrupt,
    /// The epoch at the beginning, or [`NEVER`].
    since: u64,
}

impl Watch {
    #[inline]
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.inner.epoch.load(Ordering::SeqCst) != self.since
    }
}

/// The views of several interrupts, used as one.
#[derive(Clone)]
pub(crate) struct Watches {
    /// The first one is at hand, because most `SockMan`s have no other.
    first: Option<Watch>,
    others: Vec<Watch>,
}

impl Watches {
    pub(crate) fn new<'a>(interrupts: impl IntoIterator<Item = &'a Interrupt>) -> Watches {
        let mut watches = interrupts.into_iter().map(Interrupt::watch);
        Watches { first: watches.next(), others: watches.collect() }
    }

    #[inline]
    pub(crate) fn is_interrupted(&self) -> bool {
        self.first.as_ref().is_some_and(Watch::is_interrupted)
            || (!self.others.is_empty() && self.others.iter().any(Watch::is_interrupted))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn add_waker(&self, waker: &Arc<dyn Waker>) -> Vec<WakerGuard> {
        let watches = self.first.iter().chain(&self.others);
        watches.map(|watch| watch.interrupt.add_waker(Arc::clone(waker))).collect()
    }
}

/// Removes its waker from the interrupt's list when dropped.
#[must_use]
pub(crate) struct WakerGuard {
    interrupt: Interrupt,
    key: u64,
}

impl Drop for WakerGuard {
    fn drop(&mut self) {
        self.interrupt.inner.waiters.lock().wakers.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G14: a reset does not hide an interrupt from a waiter that began before the interrupt.
    #[test]
    fn a_watch_sees_an_interrupt_that_was_reset_meanwhile() {
        let interrupt = Interrupt::new();
        let before = interrupt.watch();
        interrupt.interrupt();
        interrupt.reset();
        assert!(!interrupt.is_interrupted());
        assert!(before.is_interrupted());
        assert!(!interrupt.watch().is_interrupted());
    }

    /// G9: the return value says why the sleep ended.
    #[test]
    fn sleep_for_distinguishes_a_full_sleep_from_an_interrupted_one() {
        let interrupt = Interrupt::new();
        assert!(interrupt.sleep_for(Duration::from_millis(1)));
        interrupt.interrupt();
        assert!(!interrupt.sleep_for(Duration::MAX));
    }

    /// G9, G14: an interrupt ends a sleep even if it is reset at once.
    #[test]
    fn a_sleeper_sees_an_interrupt_that_is_reset_at_once() {
        let interrupt = Interrupt::new();
        let sleeper = {
            let interrupt = interrupt.clone();
            std::thread::spawn(move || interrupt.sleep_for(Duration::MAX))
        };
        // The sleeper ends however the two threads interleave. The sleeper either sees one of these
        // epochs while it waits, or finds the last interrupt, which stays set.
        for _ in 0..1000 {
            interrupt.interrupt();
            interrupt.reset();
        }
        interrupt.interrupt();
        assert!(!sleeper.join().unwrap());
    }

    /// G9: an interrupt wakes each registered poller once, and no poller whose guard was dropped.
    #[test]
    fn a_waker_is_woken_until_its_guard_is_dropped() {
        struct Count(AtomicU64);
        impl Waker for Count {
            fn wake(&self) -> std::io::Result<()> {
                self.0.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }
        let interrupt = Interrupt::new();
        let count = Arc::new(Count(AtomicU64::new(0)));
        let guard = interrupt.add_waker(Arc::clone(&count) as Arc<dyn Waker>);
        interrupt.interrupt();
        interrupt.interrupt();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        drop(guard);
        interrupt.reset();
        interrupt.interrupt();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
