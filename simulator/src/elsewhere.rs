//! The actions of the peers, the network and the kernel: anything that they are allowed to do.
//!
//! Runs on the test's thread. The model's mutex is held during calls to the doubles, which call no
//! code of the simulator.

use sockman::testing::Ended;

use crate::{
    model::{Phase, Player, Way, bytes},
    world::{MOST_BYTES, MOST_PEERS, World},
};

impl World {
    /// Performs a random action of a peer, the network or the kernel.
    pub(crate) fn act_elsewhere(&self) {
        let what = self.model.lock().choices.below(43);
        match what {
            0..=11 => self.peer_sends(),
            12..=19 => self.peer_receives(),
            20..=24 => self.peer_connects(),
            25 => self.end_a_peer(),
            26..=28 => self.peers_accept(),
            29 => self.shut_or_open_window(),
            30 => self.cut_pieces(),
            31 | 32 => self.fail_a_call(),
            33 => self.fail_for_long(),
            34 => self.limit_descriptors(),
            35..=37 => drop(self.proxies_act(false) | self.bridge_acts(false)),
            38 => self.other_holder_acts(),
            39 => self.jump(),
            40 => self.lack_several_times(),
            _ => self.peer_sends(),
        }
    }

    pub(crate) fn any_peer(&self) -> Option<usize> {
        let mut model = self.model.lock();
        let alive = (0..model.peers.len()).filter(|at| model.peers[*at].peer.is_some());
        let alive: Vec<usize> = alive.collect();
        model.choices.pick(&alive)
    }

    fn peer_connects(&self) {
        let to = {
            let mut model = self.model.lock();
            let listening = self.listening.lock();
            if model.peers.len() >= MOST_PEERS {
                return;
            }
            let at = model.choices.below(listening.len() as u64);
            listening.get(at as usize).cloned()
        };
        let Some(to) = to else { return };
        if let Ok(peer) = self.network.connect(&to) {
            let mut model = self.model.lock();
            model.say(|| format!("  peer {} connects to {to}", peer.key()));
            model.count("a peer connected");
            if self.is_released(&to) {
                model.count("a client came to a listener that only another process holds");
            }
            model.peers.push(Player::new(peer));
        }
    }

    /// Accepts the connections that the program has made to the peers' listeners.
    pub(crate) fn peers_accept(&self) {
        for listener in &*self.listeners.lock() {
            while let Some(peer) = listener.accept() {
                let mut model = self.model.lock();
                model.activity += 1;
                model.say(|| format!("  peer {} accepts", peer.key()));
                model.peers.push(Player::new(peer));
            }
        }
    }

    fn peer_sends(&self) {
        let Some(at) = self.any_peer() else { return };
        let mut model = self.model.lock();
        let length = model.choices.size(MOST_BYTES);
        let Some(player) = model.peers.get_mut(at) else { return };
        let Some(peer) = player.peer.as_ref().filter(|_| !player.has_fin) else { return };
        let data = bytes(player.key, Way::In, player.sent, player.sent + length);
        let sent = peer.send(&data);
        // A send takes the error of a reset. A later receive reports an end.
        player.saw_error |= sent.is_err();
        if let Ok(sent) = sent {
            player.arrivals.push((player.sent, self.network.elapsed() + self.latency));
            player.sent += sent as u64;
            let key = player.key;
            model.say(|| format!("  peer {key} sends {sent} bytes"));
            model.count("a peer sent");
        }
    }

    fn peer_receives(&self) {
        let Some(at) = self.any_peer() else { return };
        let limit = self.model.lock().choices.size(MOST_BYTES);
        self.receive(at, limit as usize);
    }

    /// Lets the peer at index `at` receive up to `limit` bytes.
    pub(crate) fn receive(&self, at: usize, limit: usize) {
        let mut model = self.model.lock();
        let Some(player) = model.peers.get(at) else { return };
        let Some(peer) = &player.peer else { return };
        let key = player.key;
        let (data, ended) = peer.receive_at_most(limit);
        if !data.is_empty() {
            model.say(|| format!("  peer {key} receives {} bytes", data.len()));
            model.count("a peer received");
            model.check_received(at, &data);
        }
        let Some(player) = model.peers.get_mut(at) else { return };
        let (received, is_unix) = (player.received, player.address.addr().is_unix());
        // An error is reported once. Later receives report an end.
        let saw_error = player.saw_error;
        match ended {
            None => {}
            Some(Ended::Eof) if !player.saw_eof => {
                player.saw_eof = true;
                let record = model.connections.values().find(|record| record.key == key);
                let Some(record) = record else { return };
                let sent = match &record.queue {
                    Some(queue) => record.goal - queue.queued() as u64,
                    None => record.sent,
                };
                let is_over = record.phase != Phase::Open && !record.goes_on;
                let has_ended = record.write_shut || record.finish.is_some() || is_over;
                let is_reset = record.is_aborted && !record.write_shut && record.finish.is_none();
                // If the library did not close the connection, its FIN came after everything.
                let now = self.network.elapsed();
                let whole = record.finish.filter(|finish| {
                    let by_library = now >= finish.until || record.phase != Phase::Open;
                    !finish.is_cut && !by_library && !model.calls_failed
                });
                let is_whole = whole.is_none_or(|finish| received >= finish.goal);
                if whole.is_some_and(|finish| finish.goal > 0) {
                    model.count("a peer read everything from a connection that finishes");
                }
                model.require(is_whole, || {
                    format!("peer {key} read the end after {received} bytes of {whole:?} (G5)")
                });
                model.require(!is_reset || is_unix || saw_error, || {
                    format!("peer {key} reads an end of a connection that was aborted")
                });
                model.require(has_ended, || {
                    format!("peer {key} reads an end that the program did not send (G5)")
                });
                model.require(received == sent, || {
                    format!("peer {key} reads the end after {received} of {sent} bytes (G5)")
                });
            }
            Some(Ended::Eof) => {}
            Some(Ended::Error(_)) => player.saw_error = true,
        }
    }

    fn end_a_peer(&self) {
        let Some(at) = self.any_peer() else { return };
        let mut model = self.model.lock();
        let how = model.choices.below(5);
        let Some(player) = model.peers.get_mut(at) else { return };
        let Some(peer) = player.peer.take() else { return };
        let key = player.key;
        let kind = match how {
            0 | 1 => {
                player.has_fin = true;
                peer.shutdown_write();
                player.peer = Some(peer);
                "a peer half-closed"
            }
            2 | 3 => {
                player.has_fin = true;
                // This close is a reset unless the peer has received all bytes.
                player.may_reset = true;
                drop(peer);
                "a peer closed"
            }
            _ => {
                player.may_reset = true;
                peer.reset();
                "a peer reset"
            }
        };
        model.say(|| format!("  peer {key}: {kind}"));
        model.count(kind);
    }

    fn shut_or_open_window(&self) {
        let Some(at) = self.any_peer() else { return };
        let mut model = self.model.lock();
        let window = model.choices.pick(&[65_536, 0, 100, 3000]).unwrap_or(65_536);
        let Some(peer) = model.peers.get(at).and_then(|player| player.peer.as_ref()) else {
            return;
        };
        peer.set_window(window);
        model.count(if window < 3000 {
            "a peer reduced its window"
        } else {
            "a peer opened its window"
        });
    }

    fn cut_pieces(&self) {
        let Some(at) = self.any_peer() else { return };
        let mut model = self.model.lock();
        let what = model.choices.below(4);
        let size = model.choices.size(2000) as usize;
        let player = model.peers.get_mut(at).filter(|player| !player.has_fin);
        let Some(player) = player else { return };
        let Some(peer) = player.peer.as_ref() else { return };
        player.is_delayed |= what < 2;
        let kind = match what {
            0 => {
                peer.set_chunk(Some(size.max(16)));
                "a peer's data was cut into pieces"
            }
            1 => {
                peer.send_urgent();
                "a peer sent an urgent byte"
            }
            _ => {
                peer.spurious_event();
                "a spurious event came"
            }
        };
        model.count(kind);
    }

    /// Lets the other holder of an adopted listener make it block, take the next client, or both.
    fn other_holder_acts(&self) {
        let listeners = self.shared_listeners.lock();
        let mut model = self.model.lock();
        let at = model.choices.below(listeners.len() as u64);
        let Some(listener) = listeners.get(at as usize) else { return };
        let how = model.choices.below(3);
        if how != 0 {
            listener.clear_nonblocking();
            model.count("another process made a listener block");
        }
        if how != 1 && listener.accept().is_some() {
            model.say(|| format!("  another process accepts at {}", listener.address()));
            model.count("another process took a client");
        }
    }

    fn limit_descriptors(&self) {
        let mut model = self.model.lock();
        let is_limited = model.choices.once_in(2);
        let spare = model.choices.below(2) as usize;
        let limit = is_limited.then(|| self.network.descriptors() + spare);
        self.network.set_descriptor_limit(limit);
        model.count(if is_limited {
            "descriptors ran out"
        } else {
            "descriptors were available again"
        });
    }
}
