//! The cores of the machine, and its description.
use std::{fs, io};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread. Threads and processes that it starts later inherit its affinity.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The packages whose versions the tables name.
const PACKAGES: [&str; 6] =
    ["lightning", "lightning-net-tokio", "ring", "rustls", "tokio", "tokio-rustls"];

#[derive(Debug, Clone, Copy)]
pub struct Cores {
    pub server: usize,
    pub load: usize,
}

impl Cores {
    /// Chooses the first allowed core for the servers and the next one for the load. On a machine
    /// with one core, both are the same.
    pub fn choose() -> io::Result<Cores> {
        let allowed = sched_getaffinity(THIS_THREAD)?;
        let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
        let server = cores.next().unwrap_or(0);
        Ok(Cores { server, load: cores.next().unwrap_or(server) })
    }
}

/// Pins the calling thread to this core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(THIS_THREAD, &set)?)
}

/// Returns the lines that describe the machine, the compiler and the packages.
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| processor_in(&text));
    let lock = include_str!("../Cargo.lock");
    let versions = PACKAGES.map(|package| format!("{package} {}", version(lock, package)));
    format!(
        "* Processor: {}, {cores} cores\n* Linux {}, {}\n* {}, and `sockman` with its crates of \
         this checkout\n",
        processor.as_deref().unwrap_or("unknown"),
        kernel.trim(),
        env!("RUSTC_VERSION"),
        versions.join(", "),
    )
}

/// Returns the name of the model and the numbers that x86 has, because different models often have
/// the same name under a hypervisor.
fn processor_in(text: &str) -> Option<String> {
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(heading, _)| heading.trim() == name).map(|(_, value)| value.trim())
    };
    let name = field("model name")?;
    let numbers = field("cpu family").zip(field("model")).zip(field("stepping"));
    Some(match numbers {
        Some(((family, model), stepping)) => {
            format!("{name} (family {family}, model {model}, stepping {stepping})")
        }
        None => name.to_owned(),
    })
}

/// Returns the version of a package in a Cargo.lock.
fn version<'a>(lock: &'a str, package: &str) -> &'a str {
    let heading = format!("name = \"{package}\"\nversion = \"");
    let found = lock.split_once(&heading).and_then(|(_, rest)| rest.split('"').next());
    found.unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_named_package_has_a_version_in_the_lock_file() {
        for package in PACKAGES {
            assert_ne!(version(include_str!("../Cargo.lock"), package), "unknown", "{package}");
        }
    }

    #[test]
    fn a_processor_is_described_by_its_name_and_its_numbers() {
        let text = "cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n";
        let expected = "AMD EPYC (family 26, model 2, stepping 1)";
        assert_eq!(processor_in(text).as_deref(), Some(expected));
    }
}
