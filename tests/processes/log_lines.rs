//! A logger that keeps every line of every level. The logger belongs to the process, so the tests
//! that use it run in children.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};

struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let line = format!("{} {}: {}", record.level(), record.target(), record.args());
        self.0.lock().unwrap().push(line);
    }
    fn flush(&self) {}
}

static LINES: Lines = Lines(Mutex::new(Vec::new()));

/// Installs the logger, which keeps all later lines.
pub(crate) fn start_logging() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(LevelFilter::Trace);
}

/// Returns the lines so far.
pub(crate) fn logged() -> Vec<String> {
    LINES.0.lock().unwrap().clone()
}
