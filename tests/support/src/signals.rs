//! Whether a call raises SIGPIPE. Rust programs ignore this signal, so the tests look for it on a
//! thread that blocks it: a blocked signal stays pending, even if the process ignores it.

use std::{fs, os::fd::AsRawFd, os::unix::net::UnixStream, thread};

use nix::sys::signal::{SigSet, Signal};

/// Runs `act` on a thread of its own. Returns whether `act` raised SIGPIPE on this thread.
pub fn raises_sigpipe(act: impl FnOnce() + Send) -> bool {
    thread::scope(|scope| {
        let raises = scope.spawn(|| {
            let mut signals = SigSet::empty();
            signals.add(Signal::SIGPIPE);
            signals.thread_block().unwrap();
            act();
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap();
            let pending = u64::from_str_radix(pending.trim(), 16).unwrap();
            pending & (1 << (Signal::SIGPIPE as u32 - 1)) != 0
        });
        raises.join().unwrap()
    })
}

/// Writes to a socket whose peer is gone, without the flag that prevents the signal.
pub fn write_to_closed_pipe() {
    let (kept, dropped) = UnixStream::pair().unwrap();
    drop(dropped);
    assert_eq!(nix::unistd::write(kept.as_raw_fd(), b"x"), Err(nix::errno::Errno::EPIPE));
}
