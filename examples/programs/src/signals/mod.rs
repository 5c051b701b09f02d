//! An orderly end for everything that ends a program from outside: signals on Unix, Ctrl-C and the
//! end of the session on Windows. The programs of the packages in this folder share this module.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io;

#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;

/// The usual exit code of a program that SIGINT ended: 128 + 2.
const INTERRUPTED: i32 = 130;

/// Starts the thread that waits for signals. The first signal calls `stop`. The second one ends the
/// program immediately.
///
/// # Errors
///
/// The operating system provided no thread, or no descriptors, or a program on Windows calls the
/// function twice.
pub fn on_signal(stop: impl Fn() + Send + 'static) -> io::Result<()> {
    system::on_signal(stop)
}
