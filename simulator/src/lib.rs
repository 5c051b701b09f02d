//! A seeded simulator. The simulator runs a whole `SockMan` in one thread, over a network in memory
//! with a clock of its own. The simulated embedder, peers and kernel do anything that they are
//! allowed to do. One 64-bit seed decides everything.
//!
//! The simulator compares the events with a model, after each callback and each time the socket
//! thread goes to sleep. The model requires:
//!
//! * an id is registered before a callback names it, and is never named after its close, except for
//!   one report of its end;
//! * bytes arrive in order and complete, with at most one end and one error;
//! * no data comes while reading is paused, and no ready-to-send call comes while sending is
//!   paused;
//! * the socket thread does not sleep while it could do something, and makes no pass without a
//!   cause.
//!
//! At the end of a run the faults stop, and everything must be delivered.
//!
//! ```
//! let report = simulator::run(simulator::Kernel::Linux, 1).expect("the guarantees hold");
//! assert!(report.passes > 0);
//! ```

mod before_sleep;
mod bridge;
mod choices;
mod elsewhere;
mod faults;
mod handler;
mod handover;
mod hang_up;
mod kernel;
mod model;
mod proxies;
mod queues;
mod settle;
mod values;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use sockman::{
    Options, Service, SockMan,
    address::{Destination, NetAddr},
    error::JoinError,
    i2p::I2pOptions,
    options::{PanicPolicy, SELECT_TIMEOUT},
    proxy::Proxy,
    sys::errors,
    testing::{Call, Network, PeerListener, Point, SocketThreadByHand},
};

use crate::{
    choices::{Choices, Fate, SET_UP},
    faults::Lasting,
    handler::Embedder,
    model::{Model, Phase},
    values::WithValues,
    world::{Target, World},
};
pub use crate::{
    faults::{Failed, all_failures},
    kernel::Kernel,
    model::KINDS,
};

/// A run has 10 steps and fewer than this many more.
const MOST_STEPS: u64 = 160;
/// The most passes in a row that may have no visible cause. A mark from the thread's own callback,
/// a deadline and the second check after an interrupt each cause such a pass.
const QUIET_PASSES: usize = 6;
/// The most passes in a row between which the clock may stand still. A run moves fewer bytes, and has
/// fewer events.
const PASSES_AT_ONCE: usize = 100_000;
/// The most accepts that may fail in a pass without a pause of the listener, if each failure may
/// stand for one client that is gone.
const MOST_LOST_CLIENTS: u64 = 255;
/// The most runs for the shrinking of a failing seed.
const SHRINKS: usize = 1500;

/// The result of a run in which every guarantee held.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The number of steps.
    pub steps: u32,
    /// The number of passes of the socket thread.
    pub passes: u64,
    /// The number of events of each kind in [`KINDS`].
    pub counts: BTreeMap<&'static str, u64>,
    /// The failures of system calls that happened, of those that [`all_failures`] lists.
    pub failed: Vec<Failed>,
}

/// The error returned by [`run`] and [`run_bytes`]: a guarantee was broken.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The guarantee that was broken, and how.
    pub violation: String,
    /// The steps that lead to the failure. [`run`] shrinks them.
    pub steps: Vec<u32>,
    /// The events of these steps, one per line.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.violation)?;
        writeln!(f, "the steps that lead to the failure: {:?}", self.steps)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl std::error::Error for Failure {}

/// Runs one seed on one kernel. All runs of a seed on a kernel are the same.
///
/// # Errors
///
/// Fails if a guarantee is broken. The [`Failure`] contains the shrunk steps.
pub fn run(kernel: Kernel, seed: u64) -> Result<Report, Box<Failure>> {
    let all = BTreeSet::new();
    let run = simulate(kernel, Choices::seeded(seed, &all), false, u32::MAX);
    match run.violation {
        None => Ok(run.report),
        Some(violation) => Err(Box::new(shrink(kernel, seed, &violation, run.report.steps))),
    }
}

/// Runs with the bytes of a fuzzer in place of a seed. The run ends where the bytes end.
///
/// # Errors
///
/// Fails if a guarantee is broken. The [`Failure`] contains all steps, without shrinking.
pub fn run_bytes(bytes: &[u8]) -> Result<Report, Box<Failure>> {
    let run = simulate(Kernel::Linux, Choices::bytes(bytes), true, u32::MAX);
    match run.violation {
        None => Ok(run.report),
        Some(violation) => {
            let steps = (0..run.report.steps).collect();
            Err(Box::new(Failure { violation, steps, trace: run.trace }))
        }
    }
}

/// The outcome of one run, with its trace.
struct Run {
    violation: Option<String>,
    report: Report,
    trace: Vec<String>,
}

/// Shrinks a failing run. Omits half of the steps, then a quarter, and so on, as long as a
/// guarantee is still broken without them.
fn shrink(kernel: Kernel, seed: u64, violation: &str, steps: u32) -> Failure {
    let mut left_out = BTreeSet::new();
    let mut kept: Vec<u32> = (0..steps).collect();
    let mut runs = 0;
    let mut length = kept.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < kept.len() && runs < SHRINKS {
            let mut without = left_out.clone();
            without.extend(kept.iter().skip(at).take(length));
            runs += 1;
            if simulate(kernel, Choices::seeded(seed, &without), false, steps).violation.is_some() {
                left_out = without;
                kept.drain(at..(at + length).min(kept.len()));
            } else {
                at += length;
            }
        }
        if length == 1 || runs >= SHRINKS {
            break;
        }
        length = length.div_ceil(2);
    }
    let last = simulate(kernel, Choices::seeded(seed, &left_out), true, steps);
    let violation = last.violation.unwrap_or_else(|| violation.to_owned());
    Failure { violation, steps: kept, trace: last.trace }
}

fn simulate(kernel: Kernel, choices: Choices, is_traced: bool, most_steps: u32) -> Run {
    let mut simulation = Simulation::new(kernel, choices, is_traced);
    simulation.most_steps = simulation.most_steps.min(most_steps);
    simulation.steps();
    simulation.settle();
    simulation.finish()
}

/// How far the accepts of a run are.
struct Accepts {
    tries: u64,
    /// How often something happened after which a listener ends its tries without a pause.
    cut_short: u64,
    /// How often a listener has paused.
    pauses: u64,
}

/// One run.
struct Simulation {
    world: Arc<World>,
    sockman: SockMan,
    thread: Option<SocketThreadByHand>,
    steps: u32,
    most_steps: u32,
    /// The number of passes in a row without a visible cause.
    quiet: usize,
    /// The number of passes in a row between which the clock stood still.
    at_once: usize,
}

impl Simulation {
    fn new(kernel: Kernel, choices: Choices, is_traced: bool) -> Simulation {
        let mut model = Model::new(choices, is_traced);
        model.choices.begin(SET_UP);
        let choices = &mut model.choices;
        let has_sweep = choices.once_in(2);
        let policy = choices.pick(&[PanicPolicy::CloseConnection, PanicPolicy::Stop]);
        let cap = choices.pick(&[usize::MAX, 3, 6, usize::MAX]).unwrap_or(usize::MAX);
        let batch = choices.pick(&[64, 1, 2]);
        let buffer = choices.pick(&[65_536, 64, 1000]);
        let window = choices.pick(&[65_536, 3000, 200, 16]).unwrap_or(65_536);
        let latency = choices.pick(&[0, 0, 1, 30]).unwrap_or(0);
        let most_steps = 10 + choices.below(MOST_STEPS) as u32;
        let policy = policy.unwrap_or_default();
        let has_own_timers = choices.once_in(2);
        let reuses_ports = choices.once_in(2);
        // No choice of its own, so that each seed leads to the run that it led to before.
        let keeps_values = most_steps % 3 == 0;

        let network = kernel.network();
        network.set_window(window);
        network.set_latency(Duration::from_millis(latency));
        let mut options = Options::default()
            .sweep(has_sweep.then_some(SELECT_TIMEOUT))
            .max_connections(cap)
            .panic_policy(policy)
            .reuse_port(reuses_ports)
            .sock_factory(network.factory());
        if let (Some(batch), Some(buffer)) = (batch, buffer) {
            options = options.accept_batch(batch).receive_buffer(buffer);
        }
        let (listeners, mut targets) = destinations(&network);
        let proxies = proxies(&network, &mut targets);
        let bridge = BRIDGE.parse().ok().and_then(|at| network.listen(&at).ok());
        if let Some(bridge) = &bridge {
            options = options.i2p(I2pOptions::new(bridge.address()));
            let to = Service::new(NetAddr::i2p([7; 32]), 0).into();
            targets.push(Target { to, proxy: None });
        }
        let latency = Duration::from_millis(latency);
        let mut world = World::new(network.clone(), model, policy, has_sweep, cap, targets);
        (world.latency, world.has_own_timers) = (latency, has_own_timers);
        world.keeps_values = keeps_values;
        world.reports_ends = kernel != Kernel::Windows;
        let world = Arc::new(world);
        *world.listeners.lock() = listeners;
        world.proxies.lock().listeners = proxies;
        world.bridge.lock().listener = bridge;
        let embedder = Arc::new(Embedder { world: Arc::clone(&world) });
        // The options are valid, and no system call has been made to fail yet.
        #[allow(clippy::expect_used)]
        let sockman = if keeps_values {
            world.model.lock().count("the embedder used the layer for values");
            SockMan::with_state(Arc::new(WithValues { embedder }), options)
        } else {
            SockMan::new(embedder, options)
        }
        .expect("the options are valid");
        let weak = sockman.downgrade();
        // Both references are weak, because the world owns the network and the handler owns the
        // world.
        let of_world = Arc::downgrade(&world);
        network.set_interleave(Some(Arc::new(move |point| {
            let (Some(world), Some(sockman)) = (of_world.upgrade(), weak.upgrade()) else {
                return false;
            };
            let acted = world.act_in_between(&sockman);
            if point == Point::Sleep && !acted {
                world.check_before_sleep(&sockman);
            }
            acted
        })));
        world.listen(&sockman);
        Simulation { world, sockman, thread: None, steps: 0, most_steps, quiet: 0, at_once: 0 }
    }

    fn has_failed(&self) -> bool {
        self.world.model.lock().violation.is_some()
    }

    fn steps(&mut self) {
        while self.steps < self.most_steps && !self.has_failed() {
            let step = self.steps;
            match self.world.model.lock().choices.begin(step) {
                Fate::Over => return,
                Fate::LeftOut => {
                    self.steps += 1;
                    continue;
                }
                Fate::Taken => {}
            }
            self.steps += 1;
            self.world.model.lock().say(|| format!("step {step}"));
            self.step();
        }
    }

    fn step(&mut self) {
        let what = self.world.model.lock().choices.below(8);
        match what {
            0..=4 => self.world.act_elsewhere(),
            5 | 6 => self.world.act_as_embedder(&self.sockman, false),
            _ => {}
        }
        if self.thread.is_none() {
            // Some steps happen while no thread runs.
            if self.world.model.lock().choices.once_in(3) {
                return;
            }
            self.start();
        }
        let (passes, time) = {
            let mut model = self.world.model.lock();
            let time = model.choices.pick(&[0, 0, 1_000, 60_000, 1_200_000]).unwrap_or(0);
            (1 + model.choices.below(4), Duration::from_micros(time))
        };
        for _ in 0..passes {
            self.pass(time);
        }
    }

    fn start(&mut self) {
        self.sockman.reset_interrupt();
        self.world.model.lock().is_interrupted = false;
        match SocketThreadByHand::start(&self.sockman, &self.world.network) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => self
                .world
                .model
                .lock()
                .violated(format!("the threads cannot be started again: {error} (G14)")),
        }
        self.world.model.lock().count("the threads were started again");
    }

    /// Runs one pass, which moves the clock by `time` at most.
    fn pass(&mut self, time: Duration) {
        let (before, accepts) = (self.progress(), self.failing_accepts());
        let discards = self.world.discards();
        let Some(thread) = &mut self.thread else { return };
        let passed = thread.pass_within(time);
        self.world.end_handovers(&self.sockman);
        let after = self.progress();
        self.check_accepts(accepts);
        match passed {
            Ok(true) => {}
            Ok(false) => return self.thread = None,
            Err(error) => {
                self.thread = None;
                let text = format!("the thread ended without an interrupt: {error:#}");
                let is_poll = matches!(error, JoinError::Poll(_));
                let mut model = self.world.model.lock();
                let has_cause = match error {
                    JoinError::Panicked(panic) => panic.into_payload().is::<handler::Panic>(),
                    JoinError::Poll(_) => model.poll_failed,
                    _ => false,
                };
                if !has_cause {
                    model.violated(text);
                } else if is_poll {
                    model.count("the poller failed");
                }
                return;
            }
        }
        // If the clock may not move, each pass returns at once. In this case, only a loop that
        // would not sleep is a sign of a spin.
        let wanted_to_sleep = self.thread.as_ref().is_some_and(SocketThreadByHand::is_idle);
        self.quiet =
            if before == after && !wanted_to_sleep && !discards { self.quiet + 1 } else { 0 };
        // The first step of a connect that waits has no visible effect. With a batch of one, each
        // such step takes a pass.
        let stands_still = before.3 == after.3;
        self.at_once = if stands_still { self.at_once + 1 } else { 0 };
        let (quiet, at_once) = (self.quiet, self.at_once);
        let mut model = self.world.model.lock();
        model.require(at_once <= PASSES_AT_ONCE, || {
            format!("the loop made {at_once} passes while the clock stood still (G7)")
        });
        let attempts = model.in_phase(|phase| phase == Phase::Attempt).len();
        model.require(quiet <= QUIET_PASSES + attempts, || {
            format!("the loop made {quiet} passes in a row without a cause (G7)")
        });
    }

    /// If every accept fails, returns that failure and how far the accepts are.
    fn failing_accepts(&self) -> Option<(Lasting, Accepts)> {
        let model = self.world.model.lock();
        let lasting = model.lasting.filter(|lasting| lasting.fails_accepts())?;
        let network = &self.world.network;
        // The failures of single calls are not counted.
        let tries = network.calls(Call::Accept).saturating_sub(network.faults_taken());
        let count = |kind| model.counts.get(kind).copied().unwrap_or(0);
        let cut_short = network.faults_taken()
            + count("a connection was accepted")
            + count("another process took a client")
            + count("the listeners were stopped");
        Some((lasting, Accepts { tries, cut_short, pauses: self.sockman.stats().accept_pauses }))
    }

    /// Checks, if all accepts failed, that a pass tried a listener a few times only, or that the
    /// listener pauses after the tries.
    fn check_accepts(&self, before: Option<(Lasting, Accepts)>) {
        let (Some((was, before)), Some((is, after))) = (before, self.failing_accepts()) else {
            return;
        };
        let tries = after.tries.saturating_sub(before.tries);
        let is_right = if was.forbids_accepts() {
            tries <= 4 * self.world.listening.lock().len() as u64
        } else {
            // Each failure may stand for one client that is gone, so the listener pauses after many
            // failures, unless something ends its tries before.
            let may_end = before.cut_short != after.cut_short || self.world.cap != usize::MAX;
            tries <= MOST_LOST_CLIENTS || before.pauses != after.pauses || may_end
        };
        self.world.model.lock().require(is_right || was != is, || {
            format!("a pass made {tries} accepts, although every accept fails (G7)")
        });
    }

    /// Returns several values. A pass that has a cause changes at least one of them.
    fn progress(&self) -> (u64, u64, u64, Duration) {
        let (stats, network) = (self.sockman.stats(), &self.world.network);
        let activity = self.world.model.lock().activity;
        // A client may be dropped without a callback.
        let events = stats.events + stats.accepted;
        (activity, events, network.faults_taken(), network.elapsed())
    }

    fn finish(mut self) -> Run {
        self.thread = None;
        self.world.network.set_interleave(None);
        let mut failed = self.world.network.faults_met();
        failed.sort_by_key(|(call, errno, lasts)| (*call as usize, *errno, *lasts));
        let mut model = self.world.model.lock();
        Run {
            violation: model.violation.take(),
            report: Report {
                steps: self.steps,
                passes: model.completed,
                counts: std::mem::take(&mut model.counts),
                failed,
            },
            trace: model.trace.take().unwrap_or_default(),
        }
    }
}

/// The address of the SAM bridge.
const BRIDGE: &str = "10.0.0.9:7656";

/// Creates the destinations: listening peers on TCP and on a unix-domain path (two of them with
/// backlogs that are soon full), a silent address, an unreachable address, and addresses without a
/// listener.
fn destinations(network: &Network) -> (Vec<PeerListener>, Vec<Target>) {
    let texts = [
        "10.0.0.9:1",
        "10.0.0.9:2",
        "unix:/simulated/peer",
        "10.0.0.9:4",
        "10.0.0.9:5",
        "10.0.0.9:6",
        "unix:/simulated/no-listener",
    ];
    let all: Vec<Service> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    let mut listeners = Vec::new();
    for (at, backlog) in all.iter().zip([usize::MAX, 1, 2]) {
        if let Ok(listener) = network.listen(at) {
            listener.set_backlog(backlog);
            listeners.push(listener);
        }
    }
    if let [_, _, _, silent, unreachable, ..] = &*all {
        network.ignore(silent);
        network.refuse(unreachable, errors::EHOSTUNREACH);
    }
    let target = |to: Service| Target { to: to.into(), proxy: None };
    (listeners, all.into_iter().map(target).collect())
}

/// Creates the proxies, on TCP and on a unix-domain path. For each proxy, adds a host name as a
/// destination, with and without credentials.
fn proxies(network: &Network, targets: &mut Vec<Target>) -> Vec<PeerListener> {
    let mut listeners = Vec::new();
    for at in ["10.0.0.9:1080", "unix:/simulated/proxy"] {
        let Some(listener) = at.parse().ok().and_then(|at| network.listen(&at).ok()) else {
            continue;
        };
        let proxy = Proxy::socks5(listener.address());
        let to = Destination::Name { host: proxies::NAME.to_owned(), port: proxies::PORT };
        for proxy in [proxy.clone(), proxy.tor_stream_isolation()] {
            targets.push(Target { to: to.clone(), proxy: Some(proxy) });
        }
        listeners.push(listener);
    }
    listeners
}
