//! This process's limit of descriptors.

use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, rlim_t, setrlimit};

/// Makes room for so many descriptors, as far as the hard limit goes. Lowers nothing.
pub fn make_room_for(descriptors: rlim_t) {
    let (soft, hard) = limit();
    if soft < descriptors {
        set_limit(descriptors.min(hard), hard);
    }
}

/// Returns the soft limit and the hard one.
pub fn limit() -> (rlim_t, rlim_t) {
    getrlimit(RLIMIT_NOFILE).unwrap()
}

/// Sets both limits. A lower one is for a child of its own alone.
pub fn set_limit(soft: rlim_t, hard: rlim_t) {
    setrlimit(RLIMIT_NOFILE, soft, hard).unwrap();
}
