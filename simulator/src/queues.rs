//! The embedder's send queues: pushes, also on connections that are over, and relays, where one
//! connection is read only while the queue of another one has room.
//!
//! Runs on the test's thread. The model's mutex is not held during calls into the library.

use std::sync::Arc;

use sockman::{ConnectionId, SendQueue, SockMan, helpers::PushError};

use crate::{
    model::{Phase, Record, Way, bytes},
    world::{MOST_QUEUED, World},
};

impl World {
    /// Pushes `length` bytes into the queue of a connection.
    pub(crate) fn push(&self, sockman: &SockMan, id: ConnectionId, length: u64) {
        let (queue, data) = {
            let model = self.model.lock();
            let Some(record) = model.connections.get(&id) else { return };
            let Some(queue) = record.queue.clone() else { return };
            (queue, bytes(record.key, Way::Out, record.goal, record.goal + length))
        };
        let pushed = queue.push(sockman, &data);
        let mut model = self.model.lock();
        let number = model.number(id);
        // The trace omits the id, which differs each time that the seed runs.
        let outcome = match &pushed {
            Ok(()) => "taken",
            Err(PushError::Full { .. }) => "full",
            Err(_) => "broken or unknown",
        };
        model.say(|| format!("  push of {length} bytes on connection {number}: {outcome}"));
        let Some(record) = model.connections.get_mut(&id) else { return };
        match pushed {
            Ok(()) => {
                record.goal += length;
                record.send_rests = false;
                model.count("a queue took data");
            }
            Err(PushError::Full { .. }) => model.count("a queue was full"),
            Err(PushError::Send(_)) => {
                record.send_failed = true;
                model.count("a send failed");
            }
            Err(other) => model.violated(format!("a push returned an unexpected error: {other}")),
        }
    }

    /// Pushes on a connection that is closed, or whose queue holds bytes that the last drain could
    /// not send because the connection is broken.
    pub(crate) fn push_late(&self, sockman: &SockMan) {
        let (id, queue, is_closed) = {
            let mut model = self.model.lock();
            let is_late = |record: &Record| match (&record.queue, record.phase) {
                (Some(_), Phase::Closed) => true,
                (Some(queue), Phase::Open) => record.drain_failed && queue.has_queued(),
                _ => false,
            };
            let late = model.connections.iter().filter(|(_, record)| is_late(record));
            // Those with queued bytes come first, because a push into an empty queue sends at once.
            let mut late: Vec<_> = late.map(|(id, _)| *id).collect();
            let has_queued = |id: &ConnectionId| {
                let record = model.connections.get(id);
                let queue = record.and_then(|record| record.queue.as_ref());
                queue.is_some_and(|queue| queue.has_queued())
            };
            if late.iter().any(has_queued) {
                late.retain(has_queued);
            }
            let Some(id) = model.choices.pick(&late) else { return };
            let Some(record) = model.connections.get(&id) else { return };
            let Some(queue) = record.queue.clone() else { return };
            (id, queue, record.phase == Phase::Closed)
        };
        let has_queued = queue.has_queued();
        let pushed = queue.push(sockman, b"late");
        let mut model = self.model.lock();
        let number = model.number(id);
        model.say(|| format!("  late push on connection {number}"));
        model.require(matches!(pushed, Err(PushError::Send(_))), || {
            format!("connection {number} is closed or broken, but a push returns {pushed:?} (G5)")
        });
        model.count(match (is_closed, has_queued) {
            (true, true) => "a push found a closed connection behind queued bytes",
            (true, false) => "a push found a closed connection",
            (false, _) => "a push found a broken connection behind queued bytes",
        });
    }

    /// Makes a relay of two connections, and sometimes of a third one whose bytes go to the first.
    pub(crate) fn make_relay(&self, sockman: &SockMan) {
        let mut model = self.model.lock();
        let is_free = |id: ConnectionId, record: &Record| {
            let can_send = record.queue.is_some() && !record.is_broken() && !record.write_shut;
            let is_target = model.connections.values().any(|other| other.relays_to == Some(id));
            let is_in_relay = is_target || record.relays_to.is_some();
            record.phase == Phase::Open && can_send && !is_in_relay
        };
        let free = model.connections.iter().filter(|(id, record)| is_free(**id, record));
        let mut free: Vec<ConnectionId> = free.map(|(id, _)| *id).collect();
        let wanted = if model.choices.once_in(2) { 3 } else { 2 };
        let mut chosen = Vec::new();
        while chosen.len() < wanted && !free.is_empty() {
            let at = model.choices.below(free.len() as u64) as usize;
            chosen.push(free.swap_remove(at));
        }
        let [first, second, others @ ..] = &*chosen else { return };
        let mut sides = vec![(*second, *first), (*first, *second)];
        sides.extend(others.iter().map(|id| (*id, *first)));
        for (from, to) in &sides {
            let gate = model.connections.get(to).and_then(|record| record.queue.clone());
            let Some(record) = model.connections.get_mut(from) else { continue };
            (record.gate, record.relays_to) = (gate, Some(*to));
        }
        for to in [first, second] {
            let from = sides.iter().filter(|(_, of)| of == to).map(|(from, _)| *from);
            if let Some(queue) = model.connections.get(to).and_then(|record| record.queue.clone()) {
                queue.resumes(from);
            }
        }
        let numbers: Vec<usize> = chosen.iter().map(|id| model.number(*id)).collect();
        model.say(|| format!("  connections {numbers:?} form a relay"));
        model.count("a relay was made");
        drop(model);
        chosen.into_iter().for_each(|id| self.wake(sockman, id));
    }

    /// Passes on data that came from `id`, as many bytes as the queue of the other side has room
    /// for.
    pub(crate) fn relay(&self, sockman: &SockMan, id: ConnectionId, received: usize) {
        let (to, length) = {
            let model = self.model.lock();
            let to = model.connections.get(&id).and_then(|record| record.relays_to);
            let Some(record) = to.and_then(|to| model.connections.get(&to)) else { return };
            let Some(queue) = record.queue.as_ref().filter(|_| record.phase == Phase::Open) else {
                return;
            };
            if record.write_shut || record.send_failed {
                return;
            }
            (to, received.min(MOST_QUEUED.saturating_sub(queue.queued())))
        };
        if let Some(to) = to.filter(|_| length > 0) {
            self.push(sockman, to, length as u64);
        }
    }

    /// Ends the relays whose other side can no longer be sent to. Such a queue never falls to its
    /// low mark, so the embedder wakes the side that was read for it.
    pub(crate) fn end_relays(&self, sockman: &SockMan) {
        let ended: Vec<ConnectionId> = {
            let mut model = self.model.lock();
            let is_over = |to: ConnectionId| {
                let record = model.connections.get(&to);
                record.is_none_or(|record| record.phase != Phase::Open || record.is_broken())
            };
            let relays = model.connections.iter();
            let ended = relays.filter(|(_, record)| record.relays_to.is_some_and(is_over));
            let ended: Vec<ConnectionId> = ended.map(|(id, _)| *id).collect();
            for id in &ended {
                if let Some(record) = model.connections.get_mut(id) {
                    (record.gate, record.relays_to) = (None, None);
                }
            }
            ended
        };
        for id in ended.into_iter().filter(|id| self.record_is(*id, Phase::Open)) {
            self.model.lock().count("a relay ended");
            self.wake(sockman, id);
        }
    }

    /// Drains the queue of a connection. Returns how many bytes were sent.
    pub(crate) fn drain(&self, sockman: &SockMan, id: ConnectionId, queue: &Arc<SendQueue>) -> u64 {
        let (before, was_above) = (queue.queued(), queue.is_above_high_mark());
        let failed = queue.drain(sockman).is_err();
        self.with_record(id, |record| {
            record.send_failed |= failed;
            // A drain of an empty queue makes no system call.
            if before > 0 {
                record.drain_failed = failed;
            }
        });
        let mut model = self.model.lock();
        let resumes = was_above && !queue.is_above_high_mark();
        let is_read_for = |record: &Record| record.relays_to == Some(id);
        if resumes && model.connections.values().any(is_read_for) {
            model.count("a drain resumed the other side of a relay");
        }
        (before - queue.queued()) as u64
    }
}
