//! Whether another process holds a copy of a unix-domain listener, which a fork makes.
//!
//! Linux says so in `/proc`. On other systems, and without `/proc`, the answer is `None`. The
//! functions run on any thread and take no lock.

use std::{fs, os::fd::RawFd};

/// The column of the inode in `/proc/net/unix`, see proc(5).
const INODE_COLUMN: usize = 6;

/// Returns the inode of the socket `fd`, by which the kernel names the socket for all processes.
pub(super) fn socket_inode(fd: RawFd) -> Option<u64> {
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Returns whether a process has a descriptor of the unix-domain socket with this inode.
pub(super) fn is_unix_socket_open(inode: u64) -> Option<bool> {
    // A line ends with the path, which may have any bytes.
    let sockets = fs::read("/proc/net/unix").ok()?;
    let inode = inode.to_string();
    let mut lines = sockets.split(|byte| *byte == b'\n').skip(1);
    Some(lines.any(|line| {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        words.nth(INODE_COLUMN) == Some(inode.as_bytes())
    }))
}
