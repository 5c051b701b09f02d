//! The scenarios with servers under load, and how long each takes.
use std::time::Duration;

use crate::{
    effort::Effort,
    measure::{Counted, Pace},
    servers::{Contract, Peer, SEND_SIZE, Task},
};

mod hostile;
mod idle;
mod loaded;
mod record;
mod rounds;

use hostile::Siege;
pub use rounds::run;

/// The size of a small message, bytes.
const SMALL: usize = 64;
/// Connections that carry bulk data.
const STREAMS: usize = 4;
/// The size of one write of an upload, bytes.
const WRITE_SIZE: usize = 64 * 1024;
/// The number of short connections that are open at a time.
const ACCEPTS: usize = 16;
/// Rounds of arithmetic for a message, some 20 µs: one thread then cannot keep up with the load
/// generator.
const WORK: u32 = 20_000;
/// The number of active connections beside the idle connections.
const ACTIVE: usize = 16;

#[derive(Debug, Clone)]
struct Scenario {
    /// `group/what`. For a ladder, the first words of its messages to the user.
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// One server under one load.
    Loaded { task: Task, load: LoadKind },
    /// One server with a growing number of idle connections.
    Ladder(Vec<Step>),
    /// One benign client on one server under attack.
    Hostile(Siege),
}

#[derive(Debug, Clone, Copy)]
enum LoadKind {
    PingPong { connections: usize, size: usize, depth: usize },
    Upload,
    Download,
    Accepts,
}

impl LoadKind {
    fn counted(self) -> Counted {
        match self {
            LoadKind::PingPong { .. } => Counted::Messages,
            LoadKind::Upload | LoadKind::Download => Counted::Bytes,
            LoadKind::Accepts => Counted::Connections,
        }
    }
}

/// One number of idle connections, and the measurements with this number.
#[derive(Debug, Clone)]
struct Step {
    idle: usize,
    quiet: bool,
    active: bool,
    memory: bool,
}

impl Step {
    fn quiet_name(&self) -> String {
        format!("idle/{}", self.idle)
    }

    fn active_name(&self) -> String {
        format!("beside idle/{}", self.idle)
    }
}

/// How often and how long the scenarios are measured.
#[derive(Debug, Clone, Copy)]
struct Pacing {
    rounds: usize,
    loaded: Pace,
    /// The number of rounds that include the ladder, which takes longest.
    ladder_rounds: usize,
    active: Pace,
    quiet: Duration,
    /// The number of rounds with attacks.
    hostile_rounds: usize,
    hostile: Duration,
    /// The time in which 1,000 peers that read nothing fill all queues.
    zero_windows: Duration,
    calm: Calm,
}

/// How a scenario with attacks copes with other programs on the machine.
#[derive(Debug, Clone, Copy)]
struct Calm {
    /// The longest wait for a calm machine before a measurement.
    patience: Duration,
    /// The most measurements until one was calm.
    tries: usize,
}

fn pacing(effort: Effort) -> Pacing {
    let pace = |warm_up, slices, slice| Pace {
        warm_up: Duration::from_millis(warm_up),
        slices,
        slice: Duration::from_millis(slice),
    };
    match effort {
        Effort::Smoke => Pacing {
            rounds: 1,
            loaded: pace(10, 1, 60),
            ladder_rounds: 1,
            active: pace(10, 1, 40),
            quiet: Duration::from_millis(60),
            hostile_rounds: 1,
            hostile: Duration::from_millis(20),
            zero_windows: Duration::from_millis(20),
            calm: Calm { patience: Duration::ZERO, tries: 1 },
        },
        Effort::Quick => Pacing {
            rounds: 3,
            loaded: pace(40, 3, 70),
            ladder_rounds: 3,
            active: pace(40, 3, 60),
            quiet: Duration::from_millis(250),
            hostile_rounds: 1,
            hostile: Duration::from_millis(400),
            zero_windows: Duration::from_millis(2000),
            calm: Calm { patience: Duration::from_millis(500), tries: 1 },
        },
        Effort::Full => Pacing {
            rounds: 5,
            loaded: pace(200, 5, 250),
            ladder_rounds: 5,
            active: pace(200, 4, 250),
            quiet: Duration::from_millis(1500),
            hostile_rounds: 5,
            hostile: Duration::from_millis(2000),
            zero_windows: Duration::from_millis(3000),
            calm: Calm { patience: Duration::from_secs(5), tries: 3 },
        },
    }
}

/// Returns every scenario of a run whose name passes the filter.
fn all(effort: Effort, only: &dyn Fn(&str) -> bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let mut add = |name: String, contract, send_size, load| {
        let task = Task { contract, send_size, work: 0 };
        scenarios.push(Scenario { name, kind: Kind::Loaded { task, load } });
    };
    for (connections, size) in echoes(effort) {
        let load = LoadKind::PingPong { connections, size, depth: 1 };
        let name = format!("echo/{connections} × {}", size_name(size));
        add(name, Contract::Echo, SEND_SIZE, load);
    }
    if effort > Effort::Smoke {
        let load = LoadKind::PingPong { connections: 16, size: SMALL, depth: 16 };
        add("pipelined/16 × 64 B × 16 deep".into(), Contract::Echo, SEND_SIZE, load);
    }
    let upload = format!("upload/64 KiB writes, {STREAMS} connections");
    add(upload, Contract::Sink, SEND_SIZE, LoadKind::Upload);
    for send_size in [256 * 1024, 64 * 1024] {
        let name = format!("download/{} sends", size_name(send_size));
        add(name, Contract::Source, send_size, LoadKind::Download);
    }
    let accept = "accept/connect + echo 1 byte + reset";
    add(accept.into(), Contract::Echo, SEND_SIZE, LoadKind::Accepts);
    let load = LoadKind::PingPong { connections: 64, size: SMALL, depth: 1 };
    let task = Task { contract: Contract::Echo, send_size: SEND_SIZE, work: WORK };
    let kind = Kind::Loaded { task, load };
    scenarios.push(Scenario { name: "two threads/64 × 64 B and some work".into(), kind });
    scenarios.retain(|scenario| only(&scenario.name));

    let mut steps = ladder(effort);
    for step in &mut steps {
        step.quiet &= only(&step.quiet_name());
        step.active &= only(&step.active_name());
        step.memory &= step.quiet;
    }
    steps.retain(|step| step.quiet || step.active);
    if !steps.is_empty() {
        scenarios.push(Scenario { name: "idle connections".into(), kind: Kind::Ladder(steps) });
    }
    let sieges = Siege::all().filter(|siege| only(&siege.name()));
    scenarios
        .extend(sieges.map(|siege| Scenario { name: siege.name(), kind: Kind::Hostile(siege) }));
    scenarios
}

/// Returns the numbers of connections and the sizes of messages, in bytes.
fn echoes(effort: Effort) -> Vec<(usize, usize)> {
    const KIB: usize = 1024;
    match effort {
        Effort::Smoke => vec![(64, SMALL)],
        Effort::Quick => vec![(1, SMALL), (64, SMALL), (1000, SMALL), (64, 16 * KIB)],
        Effort::Full => {
            let sizes = [SMALL, 4 * KIB, 16 * KIB];
            sizes.iter().flat_map(|&size| [1, 64, 1000].map(|n| (n, size))).collect()
        }
    }
}

fn ladder(effort: Effort) -> Vec<Step> {
    let step = |idle, quiet, active, memory| Step { idle, quiet, active, memory: quiet && memory };
    if effort == Effort::Smoke {
        return vec![step(0, true, true, false), step(200, true, true, false)];
    }
    vec![
        step(0, true, true, false),
        step(1_000, true, true, false),
        step(5_000, false, true, false),
        // Enough connections that pages and buffers of the process itself do not matter.
        step(10_000, true, true, true),
    ]
}

fn size_name(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) }
}

/// Returns whether a peer is measured in a scenario. The variant without a sweep differs only on
/// idle servers, and two threads help only if one is too slow. The first program only echoes.
fn takes_part(peer: Peer, kind: &Kind) -> bool {
    if let Kind::Hostile(siege) = kind {
        return siege.takes(peer);
    }
    let works = matches!(kind, Kind::Loaded { task, .. } if task.work > 0);
    match peer {
        Peer::Sockman => true,
        Peer::SockmanNoSweep => matches!(kind, Kind::Ladder(_)),
        Peer::SockmanTwice => works,
        Peer::SockmanFirst => match kind {
            Kind::Loaded { task, .. } => task.contract == Contract::Echo && !works,
            _ => true,
        },
        Peer::SockmanEcho => false,
        Peer::SockmanLargeBuffer => matches!(kind, Kind::Loaded { load: LoadKind::Upload, .. }),
        _ => !works,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_is_a_peer_in_every_scenario_that_only_echoes() {
        let names: Vec<String> = all(Effort::Full, &|_| true)
            .into_iter()
            .filter(|scenario| !takes_part(Peer::SockmanFirst, &scenario.kind))
            .map(|scenario| scenario.name)
            .collect();
        let others = ["upload", "download", "two threads", "hostile elsewhere"];
        for name in &names {
            assert!(others.iter().any(|other| name.starts_with(other)), "{name}");
        }
    }
}
