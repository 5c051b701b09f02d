//! What the process holds, and its limit of descriptors. Windows has no such limit, and tells nothing
//! without calls of its own.

use std::error::Error;
#[cfg(unix)]
use std::fs;

use crate::KEPT_MEMORY;

/// Whether the system has a limit that the process can lower.
pub(crate) const HAS_LIMIT: bool = cfg!(unix);

/// Raises the limit of descriptors as far as the system allows.
#[cfg(unix)]
pub(crate) fn raise_limit() -> std::io::Result<()> {
    let (_, hard) = rlimit::Resource::NOFILE.get()?;
    rlimit::setrlimit(rlimit::Resource::NOFILE, hard, hard)
}

/// Lowers the limit to three quarters of the descriptors that are open.
#[cfg(unix)]
pub(crate) fn lower_limit() -> std::io::Result<()> {
    let (_, hard) = rlimit::Resource::NOFILE.get()?;
    let now = open_descriptors()?;
    rlimit::setrlimit(rlimit::Resource::NOFILE, now - now / 4, hard)
}

#[cfg(unix)]
fn open_descriptors() -> std::io::Result<u64> {
    Ok(fs::read_dir("/proc/self/fd")?.count() as u64)
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as on Unix, where the call may fail")]
pub(crate) fn raise_limit() -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as on Unix, where the call may fail")]
pub(crate) fn lower_limit() -> std::io::Result<()> {
    Ok(())
}

/// The resources that the process holds.
pub(crate) struct Held {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

impl Held {
    #[cfg(unix)]
    pub(crate) fn now() -> Result<Held, Box<dyn Error>> {
        let status = fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next());
        Ok(Held {
            descriptors: open_descriptors()? as usize,
            threads: fs::read_dir("/proc/self/task")?.count(),
            resident_kib: resident.ok_or("/proc/self/status has no VmRSS")?.parse()?,
        })
    }

    /// Nothing is known.
    #[cfg(not(unix))]
    pub(crate) fn now() -> Result<Held, Box<dyn Error>> {
        Ok(Held { descriptors: 0, threads: 0, resident_kib: 0 })
    }

    pub(crate) fn compare(&self, after: &Held) -> Vec<String> {
        println!(
            "before and after the run: {} and {} descriptors, {} and {} threads, {} and {} KiB",
            self.descriptors,
            after.descriptors,
            self.threads,
            after.threads,
            self.resident_kib,
            after.resident_kib
        );
        let mut violations = Vec::new();
        if after.descriptors != self.descriptors {
            violations.push(format!(
                "{} descriptors are open; {} were open before the run",
                after.descriptors, self.descriptors
            ));
        }
        if after.threads != self.threads {
            violations.push(format!(
                "{} threads exist; {} existed before the run",
                after.threads, self.threads
            ));
        }
        if after.resident_kib > self.resident_kib + KEPT_MEMORY {
            violations.push(format!(
                "{} KiB are resident; {} were resident before the run",
                after.resident_kib, self.resident_kib
            ));
        }
        violations
    }
}
