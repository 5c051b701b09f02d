//! Which thread runs on which core.

use std::{io, thread};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The two cores that everything runs on.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    /// The I/O thread's, and its workers'.
    pub io: usize,
    /// Of whoever wakes, asks and interrupts.
    pub other: usize,
}

impl Cores {
    /// The last one that this process may use for the I/O, the first for the other: interrupts of
    /// devices come to the first more often. The same one twice if it has only one.
    pub fn of_this_process() -> io::Result<Cores> {
        let allowed = sched_getaffinity(THIS_THREAD)?;
        let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
        let other = cores.next().ok_or_else(|| io::Error::other("no core is allowed"))?;
        Ok(Cores { io: cores.next_back().unwrap_or(other), other })
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

/// Moves the calling thread. Threads that it starts from now on inherit the core: that is how each
/// server's thread gets where it belongs, whichever library starts it.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// Runs `slice` on a thread of its own, so that the pinning ends with it.
pub fn on_a_thread<T: Send>(slice: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(slice).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that measured panicked")))
}
