//! The ends of both streams, and what [`ConnectionInfo::hung_up`] says about them.
//!
//! Runs on the test's thread. The model's mutex is not held during calls into the library.
//!
//! [`ConnectionInfo::hung_up`]: sockman::stats::ConnectionInfo::hung_up

use sockman::{ConnectionId, SockMan, stats::HangUp};

use crate::{
    model::{Way, bytes},
    world::World,
};

/// The most bytes that a peer sends just before it ends its stream.
const LAST_WORDS: u64 = 2000;

impl World {
    /// Ends both streams of a connection at once, while the peer's last bytes are unread: the peer
    /// half-closes, and so does the embedder.
    pub(crate) fn end_both(&self, sockman: &SockMan) {
        let Some(id) = self.any_open() else { return };
        {
            let mut model = self.model.lock();
            let length = model.choices.size(LAST_WORDS);
            let Some(record) = model.connections.get(&id) else { return };
            let (key, has_more) = (record.key, record.wants_to_send() || record.write_shut);
            let Some(player) = model.player(key).filter(|player| !player.has_fin && !has_more)
            else {
                return;
            };
            let Some(peer) = &player.peer else { return };
            let data = bytes(key, Way::In, player.sent, player.sent + length);
            let Ok(sent) = peer.send(&data) else { return };
            peer.shutdown_write();
            player.arrivals.push((player.sent, self.network.elapsed() + self.latency));
            player.sent += sent as u64;
            player.has_fin = true;
            model.say(|| format!("  peer {key} sends {sent} bytes and half-closes"));
            model.count("both sides ended their streams at once");
        }
        self.shutdown_write_of(sockman, id);
    }

    /// Asks how a connection has ended. With `is_at_rest`, the socket thread has taken every event.
    /// Returns the connection if it is broken.
    pub(crate) fn ask_how_it_ended(
        &self,
        sockman: &SockMan,
        is_at_rest: bool,
    ) -> Option<ConnectionId> {
        let id = self.any_open()?;
        let fd = self.model.lock().connections.get(&id)?.fd;
        let probe = self.network.probe(fd)?;
        let info = sockman.connection_info(id);
        let mut model = self.model.lock();
        let number = model.number(id);
        // The library closes a connection that finishes, before it reports the end.
        let finishes = model.connections.get(&id).is_some_and(|record| record.finish.is_some());
        model.require(info.is_some() || finishes, || {
            format!("connection {number} is open, but has no information (G2)")
        });
        let info = info?;
        model.say(|| format!("  connection {number} has ended: {:?}", info.hung_up));
        let record = model.connections.get(&id)?;
        let (key, write_shut) = (record.key, record.write_shut);
        let is_known = self.reports_ends || record.eof_reported;
        let player = model.player(key);
        let (calls_failed, has_fin) =
            player.map_or((true, false), |player| (player.calls_failed, player.has_fin));
        let calls_failed = calls_failed || model.streams_fail;
        let is_over = probe.has_end && probe.is_send_shut;
        match info.hung_up {
            Some(HangUp::InOrder) => {
                // A reset that comes after both ends breaks nothing.
                let is_right = is_over && (!probe.is_broken || (write_shut && has_fin));
                let is_hidden = model.errors_are_hidden;
                model.require(is_right || is_hidden, || {
                    format!(
                        "connection {number} was reset or goes on, but `hung_up` is in order (G6)"
                    )
                });
                if probe.has_data {
                    model.count("a connection had ended in order while data waited");
                }
            }
            Some(_) => {
                model.require(probe.is_broken || calls_failed, || {
                    format!("`hung_up` of connection {number} is an error without a cause (G6)")
                });
                model.count("a broken connection was asked how it had ended");
                return Some(id);
            }
            None => {
                let is_over = probe.is_broken || (is_over && is_known);
                let is_news = is_at_rest && probe.is_watched && is_over;
                model.require(!is_news, || {
                    format!("the loop sleeps, but `hung_up` of connection {number} is unset (G6)")
                });
            }
        }
        None
    }
}
