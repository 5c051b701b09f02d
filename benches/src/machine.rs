//! Describes the machine of a run, the compilers and the versions of the peers.
use std::{fs, thread};

use crate::report::Machine;

pub fn describe() -> Machine {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    let versions = env!("PEER_VERSIONS").split(',').filter_map(|pair| pair.split_once('='));
    let mut peers = versions.map(|(peer, version)| (peer.into(), version.into())).collect();
    extend_with_own(&mut peers);
    Machine {
        processor: processor().unwrap_or_else(|| "unknown".into()),
        cores: thread::available_parallelism().map_or(0, usize::from),
        kernel: release.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned()),
        rustc: env!("RUSTC_VERSION").into(),
        peers,
    }
}

fn extend_with_own(peers: &mut std::collections::BTreeMap<String, String>) {
    peers.insert("sockman".into(), "of this checkout".into());
    peers.insert("epoll C".into(), env!("C_VERSION").into());
    peers.insert("poll C".into(), env!("C_VERSION").into());
}

fn processor() -> Option<String> {
    processor_in(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// Returns the name of the model and the numbers that x86 has: under a hypervisor, different models
/// often have the same name.
fn processor_in(text: &str) -> Option<String> {
    let field = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.split_once(':').is_some_and(|(heading, _)| heading.trim() == name))?;
        Some(line.split_once(':')?.1.trim())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_one_name_are_distinguished_by_their_numbers() {
        let text = "\
processor\t: 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
stepping\t: 1
";
        let expected = "AMD EPYC (family 26, model 2, stepping 1)";
        assert_eq!(processor_in(text).as_deref(), Some(expected));
        assert_eq!(processor_in("model name : Other\n").as_deref(), Some("Other"));
    }
}
