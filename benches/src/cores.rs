//! Which core runs what. The server has one for itself, the load generator another.
use std::{io, thread};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread; with it those that it starts from then on.
const THIS_THREAD: Pid = Pid::from_raw(0);

#[derive(Debug, Clone, Copy)]
pub struct Cores {
    pub server: usize,
    pub load: usize,
}

impl Cores {
    /// The last core that we may run on for servers, and the first for the load: interrupts of
    /// devices come to the first more often. With one core only, they are the same.
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

/// The calling thread runs on this core alone, and so do threads and processes that it starts.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// The calling thread runs wherever it may: for a process that inherited a pin.
pub fn unpin() -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in 0..CpuSet::count() {
        set.set(core)?;
    }
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// Runs `slice` on a thread of its own, so that its pinning ends with it.
pub fn on_a_thread<T: Send>(slice: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(slice).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that measured panicked")))
}

/// Pins the calling thread until it is dropped.
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
        // It was allowed before. If it is not now, the thread stays where it is, which harms none.
        let _ = sched_setaffinity(THIS_THREAD, &self.before);
    }
}
