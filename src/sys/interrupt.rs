//! A signal that ends every wait at once: sleepers, pollers and blocking connects.
//!
//! Owns a number (the epoch, odd while the signal is set), a condition variable for sleepers and
//! the wakers of whoever waits in a poller. Runs on any thread. Takes its own mutex only, and wakes
//! after letting go of it.

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

/// Bitcoin Core's `CThreadInterrupt`: a flag that whoever sleeps, polls or connects sees at once.
///
/// A clone is the same interrupt. Every [`SockMan`](crate::SockMan) has one of its own; one given
/// with [`Options::interrupt`](crate::Options::interrupt) is obeyed beside it, so that an embedder
/// can end several `SockMan`s and threads of its own with one call.
///
/// Not for signal handlers: [`interrupt`](Interrupt::interrupt) takes a mutex.
///
/// ```
/// use std::time::Duration;
/// use sockman::Interrupt;
///
/// let interrupt = Interrupt::new();
/// let sleeper = { let i = interrupt.clone(); std::thread::spawn(move || i.sleep_for(Duration::from_secs(3600))) };
/// interrupt.interrupt();
/// assert!(!sleeper.join().unwrap(), "was woken long before the hour was over");
/// ```
#[doc(alias = "CThreadInterrupt")]
#[derive(Clone, Default)]
pub struct Interrupt {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Odd while the interrupt is set. Grows by one with each set and each reset, so that a waiter
    /// that began in an older epoch notices also an interrupt that was reset meanwhile.
    epoch: AtomicU64,
    waiters: Mutex<Waiters>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiters {
    next_key: u64,
    /// A map: thousands of connects may share one interrupt, and each takes its own out again.
    wakers: BTreeMap<u64, Arc<dyn Waker>>,
}

impl Interrupt {
    /// A new one, not set.
    #[must_use]
    pub fn new() -> Interrupt {
        Interrupt::default()
    }

    /// Sets the flag and ends every wait. May be called from any thread, any number of times.
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
                log::error!(target: "sockman::net", "an interrupt could not wake a poller: {error}");
            }
        }
    }

    /// Clears the flag. Whoever was waiting when it was set still sees that it was.
    pub fn reset(&self) {
        let _waiters = self.inner.waiters.lock();
        let epoch = self.inner.epoch.load(Ordering::Relaxed);
        if is_set(epoch) {
            self.inner.epoch.store(epoch + 1, Ordering::SeqCst);
        }
    }

    /// Is the flag set?
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        is_set(self.inner.epoch.load(Ordering::SeqCst))
    }

    /// Blocks the calling thread for `duration`, or until the interrupt is set. `true` if the time
    /// went by undisturbed, `false` if interrupted (at once if it is set already).
    #[must_use]
    pub fn sleep_for(&self, duration: Duration) -> bool {
        let deadline = Instant::now().checked_add(duration);
        let mut waiters = self.inner.waiters.lock();
        // Under the lock that `interrupt` sets the epoch under: no signal falls in between.
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

    /// The view of one waiter, from now on.
    pub(crate) fn watch(&self) -> Watch {
        Watch { interrupt: self.clone(), since: self.inner.epoch.load(Ordering::SeqCst) }
    }

    /// Has `waker` woken when the interrupt is set, until the guard is dropped. The order for a
    /// poller: add, check the flag, wait, drop.
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

/// What one waiter sees of an interrupt: set when it began, or at any time since.
#[derive(Clone)]
pub(crate) struct Watch {
    interrupt: Interrupt,
    since: u64,
}

impl Watch {
    pub(crate) fn is_interrupted(&self) -> bool {
        is_set(self.since) || self.interrupt.inner.epoch.load(Ordering::SeqCst) != self.since
    }
}

/// Several interrupts seen as one.
#[derive(Clone)]
pub(crate) struct Watches {
    watches: Vec<Watch>,
}

impl Watches {
    pub(crate) fn new<'a>(interrupts: impl IntoIterator<Item = &'a Interrupt>) -> Watches {
        Watches { watches: interrupts.into_iter().map(Interrupt::watch).collect() }
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.watches.iter().any(Watch::is_interrupted)
    }

    pub(crate) fn add_waker(&self, waker: &Arc<dyn Waker>) -> Vec<WakerGuard> {
        self.watches.iter().map(|watch| watch.interrupt.add_waker(Arc::clone(waker))).collect()
    }
}

/// Takes its waker out of the interrupt's list when dropped.
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

    #[test]
    fn sleep_for_tells_a_full_sleep_from_an_interrupted_one() {
        let interrupt = Interrupt::new();
        assert!(interrupt.sleep_for(Duration::from_millis(1)));
        interrupt.interrupt();
        assert!(!interrupt.sleep_for(Duration::MAX));
    }

    #[test]
    fn a_sleeper_sees_an_interrupt_that_is_reset_at_once() {
        let interrupt = Interrupt::new();
        let sleeper = {
            let interrupt = interrupt.clone();
            std::thread::spawn(move || interrupt.sleep_for(Duration::MAX))
        };
        // However the two threads interleave, the sleeper ends: it either sees one of these
        // epochs pass while it waits, or finds the last interrupt, which stays set.
        for _ in 0..1000 {
            interrupt.interrupt();
            interrupt.reset();
        }
        interrupt.interrupt();
        assert!(!sleeper.join().unwrap());
    }

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
