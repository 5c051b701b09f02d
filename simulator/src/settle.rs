//! The end of a run: the faults stop, and then everything has to be delivered, the loop has to be
//! quiet, and nothing may be left behind.

use std::{sync::Arc, time::Duration};

use sockman::testing::unused_sessions;

use crate::{Simulation, model::Phase};

/// Longer than the longest back-off, the longest connect and every latency.
const SETTLING: Duration = Duration::from_secs(4);
const ROUND: Duration = Duration::from_millis(100);
/// Beyond these many rounds nothing moves any more.
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
        self.check_idle();
        self.close_everything();
    }

    /// Faults, pauses and refusals end.
    fn calm(&mut self) {
        self.world.model.lock().say(|| "settle".to_owned());
        self.world.network.heal();
        self.world.network.set_descriptor_limit(None);
        let open = {
            let mut model = self.world.model.lock();
            model.is_wild = false;
            let open = model.open();
            for id in &open {
                if let Some(record) = model.connections.get_mut(id) {
                    record.recv_paused = false;
                    record.send_paused = false;
                    record.heard();
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

    /// Rounds until nothing has moved for a while.
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
            let now = {
                let model = self.world.model.lock();
                let received: u64 = model.connections.values().map(|record| record.received).sum();
                let sent: u64 = model.peers.iter().map(|player| player.received).sum();
                (received, sent, model.connections.len())
            };
            still = if last == Some(now) { still + ROUND } else { Duration::ZERO };
            last = Some(now);
        }
        self.world.model.lock().violated("it never settles".to_owned());
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

    fn check_delivered(&self) {
        let mut model = self.world.model.lock();
        let mut missing = Vec::new();
        for (number, record) in model.connections.values().enumerate() {
            match record.phase {
                Phase::Attempt => missing.push(format!("connect {number} has no outcome (G9)")),
                Phase::PanicClosed => {
                    missing.push(format!("nobody told that {number} is closed (G12)"));
                }
                Phase::Quiet => {
                    missing.push(format!("{number} was left unactivated by the simulator"));
                }
                Phase::Closed | Phase::Open => {}
            }
            let player = model.peers.iter().find(|player| player.key == record.key);
            let Some(player) = player.filter(|_| record.phase == Phase::Open) else { continue };
            let has_ended = record.eof_told || record.error_told;
            // One whose queue cannot be sent any more stays above its mark, and is read no more.
            let is_over = player.has_fin || player.peer.is_none();
            if is_over && !has_ended && record.may_recv() {
                missing.push(format!("the end of {number} was never told (G5)"));
            }
            if player.was_rude || record.error_told || record.send_failed {
                continue;
            }
            if record.received != player.sent {
                missing.push(format!(
                    "{number} received {} of {} bytes (G5)",
                    record.received, player.sent
                ));
            }
            let has_queued = record.queue.as_ref().is_some_and(|queue| queue.has_queued());
            let to_send = if record.queue.is_some() { record.goal } else { record.sent };
            if record.wants_to_send() || has_queued {
                missing.push(format!("{number} has not sent everything (G6)"));
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

    /// With nothing to do, the loop runs for the sweep alone.
    fn check_idle(&mut self) {
        let before = self.world.model.lock().pass;
        self.run_for(IDLE);
        let passes = self.world.model.lock().pass - before;
        let allowed = if self.world.has_sweep { 2 * 20 + 4 } else { 4 };
        self.world
            .model
            .lock()
            .require(passes <= allowed, || format!("{passes} passes in two idle seconds (G7)"));
    }

    fn close_everything(&mut self) {
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
        // Transient sessions that nobody uses yet are kept.
        let kept = unused_sessions(&self.sockman);
        let (stats, left) =
            (self.sockman.stats(), self.world.network.descriptors().saturating_sub(kept));
        let mut model = self.world.model.lock();
        model.require(left == 0, || format!("{left} descriptors are left (G4, G14)"));
        model.require(stats.connections == 0, || format!("{} are left", stats.connections));
        model.require(stats.listeners == 0, || "a listener is left".to_owned());
    }
}
