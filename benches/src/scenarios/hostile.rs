//! One benign echo client on a server that hostile connections attack.
//!
//! The server has a core of its own. The benign client and the attack share the core of the load,
//! and the attack has the lowest priority.
use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::{Calm, Pacing};
use crate::{
    cores::Cores,
    load::{Attack, Attacker, Benign, Force, Load, Tally},
    measure::{CoreTimes, Sample},
    report::Metric,
    server_process::{ServerProcess, Times},
    servers::{Contract, Peer, Task},
};

const TASK: Task = Task::of(Contract::Echo);
/// The time of the benign client alone, before the attack.
const WARM_UP: Duration = Duration::from_millis(20);
/// The share of the time that other programs may take from the server or from the attack.
const CALM: f64 = 0.1;
/// The time in which the cores are watched for other programs.
const LOOK: Duration = Duration::from_millis(50);

/// Where the attack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The server of the benign client.
    Same,
    /// Another server on the same core, with the lowest priority. The figures then show what the
    /// machine, the kernel and the client's own scheduling add.
    Other,
}

/// An attack, or none, and its target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Siege {
    pub(super) attack: Option<Attack>,
    pub(super) target: Target,
}

impl Siege {
    /// Returns all, in the order of the tables.
    pub(super) fn all() -> impl Iterator<Item = Siege> {
        let attacks = || [None].into_iter().chain(Attack::ALL.map(Some));
        let on = |target| move |attack| Siege { attack, target };
        attacks().map(on(Target::Same)).chain(attacks().skip(1).map(on(Target::Other)))
    }

    /// Returns the name of the scenario.
    pub(super) fn name(self) -> String {
        let group = match self.target {
            Target::Same => "hostile",
            Target::Other => "hostile elsewhere",
        };
        format!("{group}/{}", self.attack.map_or("quiet", Attack::name))
    }

    /// Returns the time of one measurement.
    pub(super) fn time(self, pacing: Pacing) -> Duration {
        match self.attack {
            Some(Attack::ZeroWindows) => pacing.zero_windows,
            _ => pacing.hostile,
        }
    }

    /// Returns whether a peer is measured. message-io cannot keep the contract: it spins until a
    /// peer reads.
    pub(super) fn takes(self, peer: Peer) -> bool {
        match self.target {
            Target::Same => matches!(
                peer,
                Peer::Sockman
                    | Peer::SockmanFirst
                    | Peer::SockmanEcho
                    | Peer::EpollC
                    | Peer::Tokio
                    | Peer::PollC
            ),
            Target::Other => peer == Peer::EpollC,
        }
    }
}

/// Measures until the machine was calm, and returns the least disturbed sample.
pub(super) fn run(peer: Peer, siege: Siege, pacing: Pacing, cores: Cores) -> io::Result<Sample> {
    let (time, Calm { patience, tries }) = (siege.time(pacing), pacing.calm);
    wait_for_calm(patience)?;
    let (mut sample, mut least) = measure(peer, siege, time, cores)?;
    for _ in 1..tries {
        if least <= CALM {
            break;
        }
        wait_for_calm(patience)?;
        let (again, disturbed) = measure(peer, siege, time, cores)?;
        if disturbed < least {
            (sample, least) = (again, disturbed);
        }
    }
    Ok(sample)
}

/// Waits while other programs use the cores, but not longer than `patience`.
fn wait_for_calm(patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let before = CoreTimes::read()?;
        // The use of the cores is measured over this time.
        thread::sleep(LOOK);
        if CoreTimes::read()?.busy_since(before) <= CALM {
            break;
        }
    }
    Ok(())
}

/// Returns a sample, and the share of the time in which other programs had a core that the server
/// or the attack needed.
fn measure(peer: Peer, siege: Siege, time: Duration, cores: Cores) -> io::Result<(Sample, f64)> {
    let server = ServerProcess::start(peer, TASK, Some(cores.server))?;
    let other = match siege.target {
        Target::Same => None,
        Target::Other => Some(ServerProcess::start_at_idle_priority(peer, TASK, cores.server)?),
    };
    let mut client = Benign::new(server.address)?;
    client.run(Instant::now() + WARM_UP, &mut Tally::new())?;

    let attacked = other.as_ref().unwrap_or(&server);
    let before = attacked.descriptors()?;
    let mut attacker = None;
    if let Some(attack) = siege.attack {
        attacker = Some((attack, Attacker::start(attacked.address, attack)?));
        attacked.wait_for_descriptors(before + attack.connections())?;
    }
    let attack_times = || match &attacker {
        Some((_, attacker)) => attacker.times(),
        None => Ok(Times::default()),
    };
    let times = || io::Result::Ok([server.times()?, attack_times()?, Times::of_this_thread()?]);
    let mut tally = Tally::new();
    let (times_before, start) = (times()?, Instant::now());
    if let Some((_, attacker)) = &attacker {
        attacker.begin()?;
    }
    client.run(start + time, &mut tally)?;
    let elapsed = start.elapsed().as_nanos() as f64;
    let times_after = times()?;
    let [of_server, of_attack, of_client] =
        std::array::from_fn(|i| times_after[i].since(times_before[i]));

    // The attack waits for the client, and in the other scenario a server for the other one.
    let attack_waited = of_attack.waited.saturating_sub(of_client.on_core);
    let server_waited = if siege.target == Target::Same { of_server.waited } else { 0 };
    let disturbed = attack_waited.max(server_waited) as f64 / elapsed;

    let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    let mut values = vec![
        (Metric::LatencyP50, micros(tally.round_trips.value_at_quantile(0.5))),
        (Metric::LatencyP99, micros(tally.round_trips.value_at_quantile(0.99))),
        (Metric::LatencyMax, micros(tally.round_trips.max())),
    ];
    if siege.target == Target::Same {
        values.push((Metric::PeakMemory, server.peak_memory()? as f64 / 1e6));
    }
    if let Some((attack, attacker)) = attacker {
        let force = attacker.end()?;
        match attack.force() {
            Force::None => {}
            Force::Messages => values.push((Metric::Rate, force)),
            Force::Connections => values.push((Metric::ConnectionRate, force)),
            Force::Bytes => values.push((Metric::Throughput, force / 1e9)),
        }
    }
    let sample = Sample {
        values,
        round_trips: tally.round_trips,
        server_share: of_server.on_core as f64 / elapsed,
        load_share: None,
    };
    Ok((sample, disturbed))
}
