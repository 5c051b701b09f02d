//! The end of a run. The faults stop. Then everything must be delivered, the loop must be quiet,
//! and no descriptor may be left.
//!
//! Runs on the test's thread. Takes the model's mutex for a moment.

use std::{sync::Arc, time::Duration};

use sockman::testing::unused_sessions;

use crate::{
    Simulation,
    model::{Finish, Phase},
};

/// How long nothing may change before a run counts as settled. This time is longer than the longest
/// back-off, the longest connect and every latency.
const SETTLING: Duration = Duration::from_secs(4);
const ROUND: Duration = Duration::from_millis(100);
/// A run that has not settled after this many rounds never does.
const MOST_ROUNDS: usize = 2000;
const IDLE: Duration = Duration::from_secs(2);

impl Simulation {
    pub(crate) fn settle(&mut self) {
        if self.has_failed() {
            return;
        }
        self.calm();
        self.deliver();
        self.check_delivered();
        self.world.end_outside();
        self.check_idle();
        self.close_everything();
    }

    /// Ends faults, pauses and refusals.
    fn calm(&mut self) {
        self.world.model.lock().say(|| "settle".to_owned());
        self.world.network.heal();
        self.world.network.set_descriptor_limit(None);
        let open = {
            let mut model = self.world.model.lock();
            model.is_wild = false;
            model.lasting = None;
            let open = model.open();
            for id in &open {
                if let Some(record) = model.connections.get_mut(id) {
                    record.recv_paused = false;
                    record.send_paused = false;
                    record.ask_hooks_again();
                }
            }
            open
        };
        let held: Vec<_> = self.world.held.lock().drain(..).collect();
        self.world.network.as_another_thread(|| {
            held.into_iter().for_each(|connection| self.world.activate(connection));
            open.into_iter().for_each(|id| self.sockman.wake(id));
        });
    }

    /// Runs rounds until nothing has changed for [`SETTLING`].
    fn deliver(&mut self) {
        let mut last = None;
        let mut still = Duration::ZERO;
        for _ in 0..MOST_ROUNDS {
            if self.has_failed() || still >= SETTLING {
                return;
            }
            self.world.peers_accept();
            self.world.proxies_act(true);
            self.world.bridge_acts(true);
            let peers = self.world.model.lock().peers.len();
            for at in 0..peers {
                if let Some(peer) = &self.world.model.lock().peers[at].peer {
                    peer.set_window(65_536);
                }
                self.world.receive(at, usize::MAX);
            }
            self.run_for(ROUND);
            self.world.read_all_outside();
            let now = {
                let model = self.world.model.lock();
                let received: u64 = model.connections.values().map(|record| record.received).sum();
                let sent: u64 = model.peers.iter().map(|player| player.received).sum();
                (received, sent, model.connections.len())
            };
            still = if last == Some(now) { still + ROUND } else { Duration::ZERO };
            last = Some(now);
        }
        self.world
            .model
            .lock()
            .violated("data is still on the way after 2000 rounds (G7)".to_owned());
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.world.network.elapsed() + time;
        while self.world.network.elapsed() < until && !self.has_failed() {
            if self.thread.is_none() {
                self.start();
            }
            let left = until.saturating_sub(self.world.network.elapsed());
            self.pass(left);
        }
    }

    /// Checks that everything was delivered and reported.
    fn check_delivered(&self) {
        let mut model = self.world.model.lock();
        let mut missing = Vec::new();
        for (number, record) in model.connections.values().enumerate() {
            match record.phase {
                Phase::Attempt => missing.push(format!("connect {number} has no outcome (G9)")),
                Phase::PanicClosed => {
                    missing.push(format!(
                        "the close of connection {number} after a panic was not reported (G12)"
                    ));
                }
                Phase::Quiet => {
                    missing.push(format!("the simulator did not activate connection {number}"));
                }
                Phase::Leaving => missing.push(format!("connection {number} never leaves")),
                Phase::Closed | Phase::Open => {}
            }
            let player = model.peers.iter().find(|player| player.key == record.key);
            let is_open = record.phase == Phase::Open && record.finish.is_none();
            let Some(player) = player.filter(|_| is_open) else { continue };
            let has_ended = record.eof_reported || record.error_reported;
            // A connection whose queue can no longer be sent stays above its high mark, so it is no
            // longer read.
            let is_over = player.has_fin || player.peer.is_none();
            if is_over && !has_ended && record.may_recv() {
                missing.push(format!("the end of connection {number} was not reported (G5)"));
            }
            if player.may_reset || record.error_reported || record.send_failed {
                continue;
            }
            // A peer that is gone may leave no room for the bytes that a relay has queued for it.
            let other = record.relays_to.and_then(|to| model.connections.get(&to));
            let is_gone = other.is_some_and(|other| {
                model.peers.iter().any(|player| player.key == other.key && player.may_reset)
            });
            let is_held = is_gone && !record.may_recv();
            if record.received != player.sent && !is_held {
                missing.push(format!(
                    "connection {number} received {} of {} bytes (G5)",
                    record.received, player.sent
                ));
            }
            let has_queued = record.queue.as_ref().is_some_and(|queue| queue.has_queued());
            let to_send = if record.queue.is_some() { record.goal } else { record.sent };
            if record.wants_to_send() || has_queued {
                missing.push(format!("connection {number} has not sent everything (G6)"));
            } else if player.received != to_send && !record.write_shut {
                missing.push(format!(
                    "peer {} received {} of {to_send} bytes (G5)",
                    player.key, player.received
                ));
            }
        }
        for what in missing {
            model.violated(what);
        }
    }

    /// Checks that a loop with nothing to do makes passes only for the sweep.
    fn check_idle(&mut self) {
        let before = self.world.model.lock().completed;
        self.run_for(IDLE);
        let passes = self.world.model.lock().completed - before;
        let allowed = if self.world.has_sweep { 2 * 20 + 4 } else { 4 };
        self.world.model.lock().require(passes <= allowed, || {
            format!(
                "the loop made {passes} passes in two idle seconds; the limit is {allowed} (G7)"
            )
        });
    }

    /// Ends the run by `drain_and_stop`: the threads end by themselves, when the ends of all
    /// connections are reported.
    fn drain(&mut self) {
        self.world.model.lock().count("the server was drained");
        let (sockman, world) = (self.sockman.clone(), Arc::clone(&self.world));
        let until = world.network.elapsed() + ROUND;
        world.network.as_another_thread(|| sockman.drain_and_stop(ROUND));
        {
            let mut model = world.model.lock();
            for record in model.connections.values_mut() {
                let finish = Finish { until, goal: record.goal, is_cut: true };
                record.finish.get_or_insert(finish);
            }
        }
        for _ in 0..1000 {
            if self.has_failed() {
                return;
            }
            self.pass(ROUND);
            if self.thread.is_none() {
                break;
            }
        }
        let now = world.network.elapsed();
        let mut model = world.model.lock();
        model.require(self.thread.is_none(), || "the drain never ends (G9)".to_owned());
        model.require(now <= until, || format!("the drain ends at {now:?}, not at {until:?} (G9)"));
        let open = model.open();
        model.require(open.is_empty(), || format!("the drain left {} open", open.len()));
    }

    fn close_everything(&mut self) {
        let drains = self.world.model.lock().choices.once_in(3);
        if drains && !self.has_failed() {
            self.drain();
        }
        let ids = self.world.model.lock().in_phase(|phase| phase == Phase::Open);
        let stops_first = self.world.model.lock().choices.once_in(2);
        if stops_first {
            self.thread = None;
        }
        let world = Arc::clone(&self.world);
        world.network.as_another_thread(|| {
            ids.into_iter().for_each(|id| world.close(&self.sockman, id, false));
            self.sockman.stop_listening();
        });
        if !stops_first {
            self.run_for(ROUND);
        }
        // The library keeps unused transient sessions, and with each its descriptor.
        let kept = unused_sessions(&self.sockman);
        let (stats, left) =
            (self.sockman.stats(), self.world.network.descriptors().saturating_sub(kept));
        let mut model = self.world.model.lock();
        // A listener that another process keeps open would otherwise be reported again and again.
        let watched = self.world.network.registered_tokens().len().saturating_sub(kept);
        let is_excused = model.calls_failed;
        model.require(watched == 0 || is_excused, || {
            format!("a poller still watches {watched} sockets that were closed (G14)")
        });
        model.require(left == 0, || format!("{left} descriptors are left open (G4, G14)"));
        model.require(stats.connections == 0, || {
            format!("{} connections are left open (G4)", stats.connections)
        });
        model.require(stats.listeners == 0, || "a listener is left open (G14)".to_owned());
        drop(model);
        self.run_for(ROUND);
        self.world.model.lock().check_ends();
    }
}
