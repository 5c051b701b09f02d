//! The signals of Unix.

use std::{fs, io, ops::RangeInclusive, process, thread};

use signal_hook::{
    consts::{
        SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
        SIGXCPU, SIGXFSZ,
    },
    iterator::Signals,
};

use super::INTERRUPTED;

/// The signals that end a program by default, except SIGKILL, which no program can catch, SIGPIPE,
/// which Rust ignores, and those that report a fault of the program itself. A program that ended at
/// once would leave its unix-domain path and its cookie behind.
const ENDING: [i32; 12] = [
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO,
    SIGXCPU, SIGXFSZ,
];
/// Those that only Linux has: SIGSTKFLT, SIGPWR and the real-time signals. The C library keeps the
/// first two of these for itself.
const ENDING_ON_LINUX: [RangeInclusive<i32>; 3] = [16..=16, 30..=30, 34..=64];

/// A signal that the program was started to ignore stays ignored, as `nohup` asks for SIGHUP.
pub(super) fn on_signal(stop: impl Fn() + Send + 'static) -> io::Result<()> {
    let ignored = ignored();
    let on_linux = if cfg!(target_os = "linux") { &ENDING_ON_LINUX[..] } else { &[] };
    let ending = ENDING.into_iter().chain(on_linux.iter().cloned().flatten());
    let mut signals = Signals::new(ending.filter(|signal| !is_in(*signal, ignored)))?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for (number, _) in signals.forever().enumerate() {
            if number > 0 {
                process::exit(INTERRUPTED);
            }
            stop();
        }
    })?;
    Ok(())
}

/// Returns the signals that are ignored, one bit each, as Linux shows them. Other systems do not
/// show them, and none counts as ignored.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(signal: i32, mask: u64) -> bool {
    mask >> (signal - 1) & 1 == 1
}
