//! Pins threads to cores. The server has a core of its own, and the load generator has another.
use std::{io, thread};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread. Threads that it starts later inherit its affinity.
const THIS_THREAD: Pid = Pid::from_raw(0);

#[derive(Debug, Clone, Copy)]
pub struct Cores {
    pub server: usize,
    pub load: usize,
}

impl Cores {
    /// Chooses the last allowed core for servers and the first one for the load, because the first
    /// core gets more device interrupts. On a machine with one core, both are the same.
    pub fn choose() -> io::Result<Cores> {
        let allowed = sched_getaffinity(THIS_THREAD)?;
        let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
        let load = cores.next().unwrap_or(0);
        Ok(Cores { server: cores.next_back().unwrap_or(load), load })
    }

    pub fn are_apart(self) -> bool {
        self.server != self.load
    }
}

/// Pins the calling thread, and the threads and processes that it starts, to this core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// Lets the calling thread run on every core. A process that inherited a pin needs this.
pub fn unpin() -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in 0..CpuSet::count() {
        set.set(core)?;
    }
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// Runs `slice` on a new thread, so that the pinning of `slice` ends with that thread.
pub fn on_a_thread<T: Send>(slice: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(slice).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that measured panicked")))
}

/// Pins the calling thread until this value is dropped.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub fn to(core: usize) -> io::Result<Pinned> {
        let before = sched_getaffinity(THIS_THREAD)?;
        pin(core)?;
        Ok(Pinned { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The cores were allowed before. If that has changed, the thread stays on its core.
        let _ = sched_setaffinity(THIS_THREAD, &self.before);
    }
}
