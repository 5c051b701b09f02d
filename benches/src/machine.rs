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
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
