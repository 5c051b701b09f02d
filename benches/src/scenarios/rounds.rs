//! The order of a run. Each round has every scenario, and each scenario has one peer after the
//! other, so that compared figures were measured within seconds. The order of the peers changes.
use std::{
    error::Error,
    time::{Duration, Instant},
};

use super::{
    Kind, Pacing, Scenario, all, connects, hostile, idle, loaded, pacing, record::Recorder,
    takes_part,
};
use crate::{
    cores::{Cores, Pinned},
    effort::Effort,
    latency::raise_descriptor_limit,
    random::Random,
    report::{Metric, Report},
    servers::Peer,
};

/// Descriptors of a server beside those of its idle connections.
const OTHER_DESCRIPTORS: usize = 100;
/// The time besides the measurement, in which a process starts and connections are opened.
const OVERHEAD: Duration = Duration::from_millis(40);
/// The time besides the measurement for the ladder, whose 10,000 connections take longest.
const LADDER_OVERHEAD: Duration = Duration::from_millis(1500);

/// The time of 10,000 connects and of the end of their process.
const CONNECTS_TIME: Duration = Duration::from_millis(400);
/// The time besides an attack, in which processes start and connections are opened.
const HOSTILE_OVERHEAD: Duration = Duration::from_millis(300);

pub fn run(
    effort: Effort,
    many: Option<usize>,
    only: &dyn Fn(&str) -> bool,
    peers: &[Peer],
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let (scenarios, pacing) = (all(effort, many, only), pacing(effort));
    let cores = Cores::choose()?;
    if !scenarios.is_empty() && !cores.are_apart() {
        let why = "the machine has one core, which server and load share, so no figure is reliable";
        report.not_measured.push(format!("servers on a core of their own: {why}."));
    }
    let descriptors = raise_descriptor_limit()?;
    if let Some(count) = many {
        let needed = count.saturating_add(OTHER_DESCRIPTORS);
        if u64::try_from(needed)? > descriptors {
            return Err(format!(
                "--many {count} needs a limit of {needed} descriptors, and the hard limit here is \
                 {descriptors}: raise it (ulimit -Hn) or use a lower number"
            )
            .into());
        }
    }
    let _pinned = Pinned::to(cores.load)?;
    let mut progress = Progress::new(&scenarios, peers, pacing);
    let mut recorder = Recorder::new(report);
    // A peer affects the next one through the caches and through a core that has slept.
    let mut random = Random::new();
    for round in 0..pacing.rounds {
        for scenario in &scenarios {
            if !is_run(scenario, round, pacing) {
                continue;
            }
            let mut order: Vec<Peer> =
                peers.iter().copied().filter(|&peer| takes_part(peer, &scenario.kind)).collect();
            if order.is_empty() {
                continue;
            }
            random.shuffle(&mut order);
            for peer in order {
                measure_one(scenario, peer, pacing, cores, &mut recorder);
                progress.advance(scenario, pacing);
            }
            progress.show(round, scenario, &recorder);
        }
    }
    recorder.finish();
    Ok(())
}

fn is_run(scenario: &Scenario, round: usize, pacing: Pacing) -> bool {
    match scenario.kind {
        Kind::Loaded { .. } | Kind::Connects(_) => true,
        Kind::Ladder(_) => round < pacing.ladder_rounds,
        Kind::Hostile(_) => round < pacing.hostile_rounds,
    }
}

/// Measures one peer. A failure is recorded, and the other peers continue.
fn measure_one(
    scenario: &Scenario,
    peer: Peer,
    pacing: Pacing,
    cores: Cores,
    recorder: &mut Recorder<'_>,
) {
    let names = names(scenario);
    if !names.iter().all(|name| recorder.wants(peer, name)) {
        return;
    }
    let outcome = match &scenario.kind {
        Kind::Loaded { task, load } => loaded::run(peer, *task, *load, pacing.loaded, cores)
            .map(|sample| recorder.sample(&scenario.name, peer, &sample)),
        Kind::Ladder(steps) => idle::run(peer, steps, pacing, cores, recorder),
        Kind::Connects(count) => connects::run(peer, *count, pacing.connects, cores)
            .map(|cpu| recorder.value(&scenario.name, peer, Metric::CpuPerConnect, cpu)),
        Kind::Hostile(siege) => hostile::run(peer, *siege, pacing, cores)
            .map(|sample| recorder.sample(&scenario.name, peer, &sample)),
    };
    if let Err(error) = outcome {
        eprintln!("{}, {}: {error}", scenario.name, peer.name());
        recorder.failure(&scenario.name, &names, peer, &error.to_string());
    }
}

/// Returns the names of the scenarios in the report.
fn names(scenario: &Scenario) -> Vec<String> {
    match &scenario.kind {
        Kind::Loaded { .. } | Kind::Connects(_) | Kind::Hostile(_) => vec![scenario.name.clone()],
        Kind::Ladder(steps) => {
            steps.iter().flat_map(|step| [step.quiet_name(), step.active_name()]).collect()
        }
    }
}

/// The progress of the run and the estimate of the remaining time.
struct Progress {
    start: Instant,
    rounds: usize,
    expected: Duration,
    done: Duration,
}

impl Progress {
    fn new(scenarios: &[Scenario], peers: &[Peer], pacing: Pacing) -> Progress {
        let mut expected = Duration::ZERO;
        for round in 0..pacing.rounds {
            for scenario in scenarios.iter().filter(|s| is_run(s, round, pacing)) {
                let taking = peers.iter().filter(|&&peer| takes_part(peer, &scenario.kind));
                expected += taking.map(|_| cost(scenario, pacing)).sum::<Duration>();
            }
        }
        let (start, done) = (Instant::now(), Duration::ZERO);
        Progress { start, rounds: pacing.rounds, expected, done }
    }

    fn advance(&mut self, scenario: &Scenario, pacing: Pacing) {
        self.done += cost(scenario, pacing);
    }

    fn show(&self, round: usize, scenario: &Scenario, recorder: &Recorder<'_>) {
        let elapsed = self.start.elapsed().as_secs_f64();
        let left = self.expected.saturating_sub(self.done).as_secs_f64();
        let seconds = left * elapsed / self.done.as_secs_f64().max(f64::EPSILON);
        // For a ladder, the last step is shown.
        let shown = names(scenario).into_iter().rev().map(|name| recorder.latest(&name));
        let latest = shown.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        eprintln!(
            "round {}/{}, about {seconds:.0} s left: {}: {latest}",
            round + 1,
            self.rounds,
            scenario.name
        );
    }
}

/// Returns the expected duration. The real durations correct the estimate during the run.
fn cost(scenario: &Scenario, pacing: Pacing) -> Duration {
    match &scenario.kind {
        Kind::Loaded { .. } => pacing.loaded.total() + OVERHEAD,
        Kind::Connects(_) => CONNECTS_TIME * u32::try_from(pacing.connects).unwrap_or(u32::MAX),
        Kind::Hostile(siege) => siege.time(pacing) + HOSTILE_OVERHEAD,
        Kind::Ladder(steps) => {
            let quiet = steps.iter().filter(|step| step.quiet).map(|_| pacing.quiet);
            let active = steps.iter().filter(|step| step.active).map(|_| pacing.active.total());
            quiet.chain(active).sum::<Duration>() + LADDER_OVERHEAD
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The latencies and the instruments take some ten minutes of a full run, and one of a quick one.
    #[test]
    fn a_full_run_takes_less_than_40_minutes_and_a_quick_one_less_than_4() {
        for (effort, most) in [(Effort::Full, 40 - 10), (Effort::Quick, 4 - 1)] {
            let is_quick = effort == Effort::Quick;
            let scenarios =
                all(effort, None, &|name| !(is_quick && crate::report::is_hostile(name)));
            let progress = Progress::new(&scenarios, &Peer::ALL, pacing(effort));
            let expected = progress.expected.as_secs() / 60;
            assert!(expected < most, "{expected} minutes");
        }
    }
}
