//! The limit of descriptors of this process.

use std::sync::Once;

use rlimit::Resource;

/// The descriptors that all tests of one process need together, which run in parallel. macOS allows
/// 256 by default.
const FOR_ALL_TESTS: u64 = 8192;

/// Raises the soft limit to `descriptors`, at most to the hard limit. Lowers nothing.
pub fn make_room_for(descriptors: u64) {
    let (soft, hard) = limit();
    if soft < descriptors {
        set_limit(descriptors.min(hard), hard);
    }
}

/// Raises the soft limit for the tests that run in parallel, at the first call in the process. So a
/// test that lowers the limit later keeps its limit.
pub fn make_room_for_all_tests() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| make_room_for(FOR_ALL_TESTS));
}

/// Returns the soft limit and the hard limit.
pub fn limit() -> (u64, u64) {
    Resource::NOFILE.get().unwrap()
}

/// Sets both limits. Only a child process may lower a limit.
pub fn set_limit(soft: u64, hard: u64) {
    Resource::NOFILE.set(soft, hard).unwrap();
}
