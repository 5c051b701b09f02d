//! The limit of descriptors of this process.

use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, rlim_t, setrlimit};

/// Raises the soft limit to `descriptors`, at most to the hard limit. Lowers nothing.
pub fn make_room_for(descriptors: rlim_t) {
    let (soft, hard) = limit();
    if soft < descriptors {
        set_limit(descriptors.min(hard), hard);
    }
}

/// Returns the soft limit and the hard limit.
pub fn limit() -> (rlim_t, rlim_t) {
    getrlimit(RLIMIT_NOFILE).unwrap()
}

/// Sets both limits. Only a child process may lower a limit.
pub fn set_limit(soft: rlim_t, hard: rlim_t) {
    setrlimit(RLIMIT_NOFILE, soft, hard).unwrap();
}
