//! The scenarios with servers under load, and how long each takes.
use std::time::Duration;

use crate::{
    effort::Effort,
    measure::{Counted, Pace},
    report::MANY,
    servers::{Contract, Peer, SEND_SIZE, Task},
};

mod connects;
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
/// The members of a chat, in a smoke run and otherwise.
const FEW_MEMBERS: usize = 200;
const MEMBERS: usize = 2000;
/// How many lines all members of a chat say together.
const LINES_PER_SECOND: u32 = 50;
/// Connects that are started at once, in a smoke run and otherwise.
const FEW_CONNECTS: usize = 500;
const CONNECTS: usize = 10_000;
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
    /// One client that starts this many connects at once.
    Connects(usize),
    /// One benign client on one server under attack.
    Hostile(Siege),
}

#[derive(Debug, Clone, Copy)]
enum LoadKind {
    PingPong { connections: usize, size: usize, depth: usize },
    Upload,
    Download,
    Accepts,
    Chat { members: usize },
}

impl LoadKind {
    fn counted(self) -> Counted {
        match self {
            LoadKind::PingPong { .. } | LoadKind::Chat { .. } => Counted::Messages,
            LoadKind::Upload | LoadKind::Download => Counted::Bytes,
            LoadKind::Accepts => Counted::Connections,
        }
    }
}

/// One number of idle connections, and the measurements with this number.
#[derive(Debug, Clone)]
struct Step {
    idle: usize,
    /// Whether `--many` asked for this step.
    is_many: bool,
    quiet: bool,
    active: bool,
    memory: bool,
}

impl Step {
    fn quiet_name(&self) -> String {
        format!("{}idle/{}", self.prefix(), self.idle)
    }

    fn active_name(&self) -> String {
        format!("{}beside idle/{}", self.prefix(), self.idle)
    }

    fn prefix(&self) -> String {
        if self.is_many { format!("{MANY} ") } else { String::new() }
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
    /// How often many connects are started in a round.
    connects: usize,
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
            connects: 1,
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
            connects: 1,
            hostile_rounds: 1,
            hostile: Duration::from_millis(400),
            zero_windows: Duration::from_millis(2000),
            calm: Calm { patience: Duration::from_millis(500), tries: 1 },
        },
        Effort::Full => Pacing {
            rounds: 5,
            loaded: pace(100, 4, 250),
            ladder_rounds: 5,
            active: pace(100, 4, 250),
            quiet: Duration::from_millis(1000),
            connects: 3,
            hostile_rounds: 5,
            hostile: Duration::from_millis(1500),
            zero_windows: Duration::from_millis(3000),
            calm: Calm { patience: Duration::from_secs(5), tries: 3 },
        },
    }
}

/// Returns every scenario of a run whose name passes the filter.
fn all(effort: Effort, many: Option<usize>, only: &dyn Fn(&str) -> bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let mut add = |name: String, contract, send_size, load| {
        let task = Task { send_size, ..Task::of(contract) };
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
    let members = if effort == Effort::Smoke { FEW_MEMBERS } else { MEMBERS };
    let chat = format!("chat/{members} members, {LINES_PER_SECOND} lines per second");
    add(chat, Contract::Chat, SEND_SIZE, LoadKind::Chat { members });
    let load = LoadKind::PingPong { connections: ACTIVE, size: SMALL, depth: 1 };
    for more_listeners in listeners(effort) {
        let task = Task { more_listeners, ..Task::of(Contract::Echo) };
        let name = format!("beside listeners/{more_listeners}");
        scenarios.push(Scenario { name, kind: Kind::Loaded { task, load } });
    }
    let load = LoadKind::PingPong { connections: 64, size: SMALL, depth: 1 };
    let task = Task { work: WORK, ..Task::of(Contract::Echo) };
    let kind = Kind::Loaded { task, load };
    scenarios.push(Scenario { name: "two threads/64 × 64 B and some work".into(), kind });
    let connects = if effort == Effort::Smoke { FEW_CONNECTS } else { CONNECTS };
    let name = format!("start connects/{connects} at once");
    scenarios.push(Scenario { name, kind: Kind::Connects(connects) });
    scenarios.retain(|scenario| only(&scenario.name));

    let mut steps = many.map_or_else(|| ladder(effort), ladder_to);
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

/// Returns the numbers of listeners to which no client connects, beside the server's own.
fn listeners(effort: Effort) -> Vec<usize> {
    if effort == Effort::Smoke { vec![1, 100] } else { vec![1, 100, 10_000] }
}

fn ladder(effort: Effort) -> Vec<Step> {
    let step = |idle, quiet, active, memory| Step { idle, is_many: false, quiet, active, memory };
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

fn ladder_to(many: usize) -> Vec<Step> {
    let step = |idle, memory| Step { idle, is_many: true, quiet: true, active: true, memory };
    vec![step(0, false), step(many, true)]
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
    if let Kind::Connects(_) = kind {
        return crate::connects::PEERS.contains(&peer);
    }
    if let Kind::Ladder(steps) = kind
        && steps.iter().any(|step| step.is_many)
    {
        return [
            Peer::Sockman,
            Peer::SockmanNoSweep,
            Peer::SockmanFirst,
            Peer::EpollC,
            Peer::Tokio,
        ]
        .contains(&peer);
    }
    let task = match kind {
        Kind::Loaded { task, .. } => *task,
        _ => Task::of(Contract::Echo),
    };
    if !peer.keeps(task.contract) || task.contract == Contract::Chat {
        return peer.keeps(task.contract);
    }
    if task.more_listeners > 0 {
        return matches!(peer, Peer::Sockman | Peer::Tokio);
    }
    let works = task.work > 0;
    match peer {
        Peer::Sockman => true,
        Peer::SockmanNoSweep => matches!(kind, Kind::Ladder(_)),
        Peer::SockmanTwice => works,
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
        let names: Vec<String> = all(Effort::Full, None, &|_| true)
            .into_iter()
            .filter(|scenario| !takes_part(Peer::SockmanFirst, &scenario.kind))
            .map(|scenario| scenario.name)
            .collect();
        let others = [
            "upload",
            "download",
            "beside listeners",
            "start connects",
            "chat",
            "two threads",
            "hostile elsewhere",
        ];
        for name in &names {
            assert!(others.iter().any(|other| name.starts_with(other)), "{name}");
        }
    }
}
