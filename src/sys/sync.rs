//! The locks, atomics and threads of the crate. The types come from `parking_lot` and the standard
//! library. With `--cfg shuttle`, the types come from a scheduler that tries out interleavings
//! (`simulator/tests/models.rs`). Under Miri the locks are the standard library's, because Miri does
//! not take the way in which `parking_lot` waits.

#[cfg(not(any(shuttle, miri)))]
mod real {
    pub(crate) use std::{
        sync::atomic,
        thread::{Builder, JoinHandle},
    };

    pub(crate) use parking_lot::{Condvar, Mutex};
}

#[cfg(any(shuttle, miri))]
mod modelled {
    use std::{
        fmt,
        ops::{Deref, DerefMut},
        sync::PoisonError,
        time::Instant,
    };

    #[cfg(shuttle)]
    use shuttle as base;
    #[cfg(not(shuttle))]
    use std as base;

    pub(crate) use base::{
        sync::atomic,
        thread::{Builder, JoinHandle},
    };

    /// A mutex without poisoning, like `parking_lot`'s: a panic on another thread does not affect
    /// the thread that locks.
    pub(crate) struct Mutex<T>(base::sync::Mutex<T>);

    pub(crate) struct MutexGuard<'a, T> {
        /// The inner guard, which is `None` only while the guard waits in a condition variable.
        inner: Option<base::sync::MutexGuard<'a, T>>,
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(base::sync::Condvar);

    pub(crate) struct TimedOut(bool);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(base::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            MutexGuard { inner: Some(inner) }
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Mutex<T> {
            Mutex::new(T::default())
        }
    }

    impl<T> fmt::Debug for Mutex<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Mutex").finish_non_exhaustive()
        }
    }

    #[allow(clippy::expect_used)] // The guard is not used while it waits.
    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.inner.as_ref().expect("a guard in use does not wait in a condition variable")
        }
    }

    #[allow(clippy::expect_used)] // The guard is not used while it waits.
    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.inner.as_mut().expect("a guard in use does not wait in a condition variable")
        }
    }

    impl Condvar {
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            if let Some(inner) = guard.inner.take() {
                let inner = self.0.wait(inner).unwrap_or_else(PoisonError::into_inner);
                guard.inner = Some(inner);
            }
        }

        /// Waits without a time-out, because a time-out would hide a lost signal from a model.
        #[cfg(shuttle)]
        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> TimedOut {
            self.wait(guard);
            TimedOut(false)
        }

        #[cfg(not(shuttle))]
        pub(crate) fn wait_until<T>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            until: Instant,
        ) -> TimedOut {
            let left = until.saturating_duration_since(Instant::now());
            let Some(inner) = guard.inner.take() else { return TimedOut(false) };
            let (inner, outcome) =
                self.0.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
            guard.inner = Some(inner);
            TimedOut(outcome.timed_out())
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    impl TimedOut {
        pub(crate) fn timed_out(&self) -> bool {
            self.0
        }
    }
}

#[cfg(any(shuttle, miri))]
pub(crate) use modelled::*;
#[cfg(not(any(shuttle, miri)))]
pub(crate) use real::*;
