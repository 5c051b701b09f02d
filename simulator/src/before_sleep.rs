//! The check before the socket thread sleeps: no possible work is left.
//!
//! Runs on the test's thread. The model's mutex is not held during calls into the library.

use std::time::Duration;

use sockman::SockMan;

use crate::{faults::Lasting, model::Phase, world::World};

impl World {
    /// Checks, before the socket thread sleeps, that it has left nothing undone that it could do.
    pub(crate) fn check_before_sleep(&self, sockman: &SockMan) {
        if self.model.lock().is_interrupted || self.is_in_between() {
            return;
        }
        if self.model.lock().choices.once_in(8) {
            self.ask_how_it_ended(sockman, true);
        }
        let now = self.network.elapsed();
        let stats = sockman.stats();
        let (is_full, is_stopped) = (stats.connections >= self.cap, stats.listeners == 0);
        let listening = self.listening.lock().clone();
        let exhausted_at = self.network.exhausted_at();
        // The longest pause after a lack of buffers, plus one millisecond.
        let lacked_at = self.network.lacked_at();
        // The pause begins when the callbacks of the pass are over, so jumps in them come on top.
        let lacks = lacked_at.is_some_and(|at| {
            let jumps = self.model.lock().jumped_since(at);
            now <= at + Duration::from_millis(201) + jumps
        });
        // No event comes while every call of a kind would block.
        let would_block = self.model.lock().lasting.is_some_and(Lasting::would_block);
        let lacks = lacks || would_block;
        let mut left = Vec::new();
        if !lacks {
            left.extend(self.negotiations_left());
            left.extend(self.talks_left());
        }
        if self.network.blocked_accepts() > 0 {
            left.push("an accept blocked the socket thread (G9)".to_owned());
        }
        // A deadline that the embedder forgets hides the timers behind it.
        let forgets = self.model.lock().deadline.is_some_and(|deadline| deadline <= now);
        if !forgets && self.timers.next().is_some_and(|at| at < self.network.now()) {
            left.push("the loop sleeps beyond the end of a timer (G9)".to_owned());
        }
        let mut model = self.model.lock();
        for (number, record) in model.connections.values().enumerate() {
            if record.phase == Phase::Attempt && record.until.is_some_and(|until| until < now) {
                left.push(format!("the loop sleeps beyond the deadline of connect {number} (G9)"));
            }
            if record.phase != Phase::Open || lacks {
                continue;
            }
            let Some(probe) = self.network.probe(record.fd) else { continue };
            let is_expected =
                !record.recv_resumed_silently && !record.recv_rests && !record.error_reported;
            let has_news = (probe.has_data || probe.has_end) && !record.eof_reported;
            if record.may_recv() && is_expected && has_news {
                left.push(format!(
                    "the loop sleeps, but connection {number} has data or an end to receive (G6)"
                ));
            }
            // For a socket that the poller refused, only the read error is reported, and never room
            // to send.
            let is_reported =
                !record.send_resumed_silently && !record.send_rests && probe.is_watched;
            let can_send = probe.is_writable && is_reported;
            if record.wants_to_send() && record.may_send() && can_send {
                left.push(format!(
                    "the loop sleeps, but connection {number} has data and room to send (G6)"
                ));
            }
        }
        // A listener's longest back-off, plus one millisecond.
        let is_exhausted = exhausted_at.is_some_and(|at| now <= at + Duration::from_millis(1001));
        if !is_full && !is_exhausted && !is_stopped && !would_block {
            let listening = listening.iter().filter(|at| !self.is_released(at));
            for at in listening.filter(|at| self.network.waiting_at(at) > 0) {
                left.push(format!("the loop sleeps, but a client waits at {at} (G11)"));
            }
        }
        for what in left {
            model.violated(what);
        }
    }
}
