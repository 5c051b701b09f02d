//! The limit of descriptors of this process. Windows has none.

#[cfg(unix)]
pub use unix::*;

/// Does nothing.
#[cfg(windows)]
pub fn make_room_for(_: u64) {}

/// Does nothing.
#[cfg(windows)]
pub fn make_room_for_all_tests() {}

#[cfg(unix)]
mod unix {
    use std::sync::Once;

    use rlimit::Resource;

    /// The descriptors that all tests of one process need together, which run in parallel. macOS allows
    /// 256 by default.
    const FOR_ALL_TESTS: u64 = 8192;
    const LEAST_FOR_ALL_TESTS: u64 = 1024;

    /// Raises the soft limit to `descriptors`, and the hard limit if it is lower. Lowers nothing.
    ///
    /// # Panics
    ///
    /// Panics if the hard limit is lower and this user may not raise it. Without the descriptors, the
    /// test would wait in vain.
    pub fn make_room_for(descriptors: u64) {
        assert!(
            raise(descriptors),
            "the tests need {descriptors} descriptors: run `ulimit -H -n {descriptors}` as root"
        );
    }

    /// Makes room for the tests that run in parallel, at the first call in the process. So a test that
    /// lowers the limit later keeps its limit. A user who may not raise the hard limit gets as much as
    /// that allows.
    ///
    /// # Panics
    ///
    /// Panics if that is less than the tests need on a machine of a few cores.
    pub fn make_room_for_all_tests() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            if !raise(FOR_ALL_TESTS) {
                make_room_for(limit().1.max(LEAST_FOR_ALL_TESTS));
            }
        });
    }

    /// Returns whether the soft limit is at least `descriptors` now.
    fn raise(descriptors: u64) -> bool {
        let (soft, hard) = limit();
        soft >= descriptors || Resource::NOFILE.set(descriptors, hard.max(descriptors)).is_ok()
    }

    /// Returns the soft limit and the hard limit.
    pub fn limit() -> (u64, u64) {
        Resource::NOFILE.get().unwrap()
    }

    /// Sets both limits. Only a child process may lower a limit.
    pub fn set_limit(soft: u64, hard: u64) {
        Resource::NOFILE.set(soft, hard).unwrap();
    }
}
