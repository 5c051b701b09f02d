//! The limit of descriptors of this process.

use rlimit::Resource;

/// Raises the soft limit to `descriptors`, at most to the hard limit. Lowers nothing.
pub fn make_room_for(descriptors: u64) {
    let (soft, hard) = limit();
    if soft < descriptors {
        set_limit(descriptors.min(hard), hard);
    }
}

/// Returns the soft limit and the hard limit.
pub fn limit() -> (u64, u64) {
    Resource::NOFILE.get().unwrap()
}

/// Sets both limits. Only a child process may lower a limit.
pub fn set_limit(soft: u64, hard: u64) {
    Resource::NOFILE.set(soft, hard).unwrap();
}
