//! Ctrl-C, Ctrl-Break, the close of the console, the end of the session and of the system.

use std::{
    io, process,
    sync::atomic::{AtomicBool, Ordering},
};

use super::INTERRUPTED;

pub(super) fn on_signal(stop: impl Fn() + Send + 'static) -> io::Result<()> {
    let stops = AtomicBool::new(false);
    ctrlc::try_set_handler(move || {
        if stops.swap(true, Ordering::Relaxed) {
            process::exit(INTERRUPTED);
        }
        stop();
    })
    .map_err(io::Error::other)
}
