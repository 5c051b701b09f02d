//! The message handler, which corresponds to Bitcoin Core's `PeerManager` on thread `msghand`.
//!
//! One thread serves all peers. It waits for a peer that has messages, takes one message of one peer
//! at a time, answers through the peer's send queue, and sends the pings. A slow answer delays other
//! answers, but not the socket thread. The handler takes the locks of the chain and of the peers
//! briefly, one at a time.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Instant,
};

use bitcoin::{
    BlockHash,
    block::Header,
    hashes::Hash,
    p2p::{
        message::{CommandString, NetworkMessage},
        message_blockdata::{GetHeadersMessage, Inventory},
        message_network::VersionMessage,
    },
};
use sockman::{Service, stats::Direction};

use crate::{
    Event,
    addresses::{self, MAX_ADDRESSES},
    chain::{Added, ChainError, MAX_HEADERS_PER_MESSAGE, now},
    connman::Connman,
    node::random,
    peer::{Conversation, Next, Peer, PeerVersion},
};

/// The version of the protocol that the node speaks, which includes `wtxidrelay` and `sendaddrv2`.
pub const PROTOCOL_VERSION: u32 = 70016;
/// The user agent in the node's `version` message.
pub const USER_AGENT: &str = concat!("/sockman-node:", env!("CARGO_PKG_VERSION"), "/");
/// The oldest protocol version that Bitcoin Core speaks to.
const MIN_PROTOCOL_VERSION: u32 = 31800;
/// Peers of this version and older ones know no `pong` (BIP 31).
const LAST_WITHOUT_PONG: u32 = 60000;
/// The protocol versions from which on a peer is sent `sendheaders` and `sendaddrv2`.
const SENDHEADERS_VERSION: u32 = 70012;
const SENDADDRV2_VERSION: u32 = 70016;
/// Bitcoin Core's limits for the contents of one message. A peer that exceeds one is disconnected.
pub(crate) const MAX_AGENT_LENGTH: usize = 256;
pub(crate) const MAX_INVENTORY: usize = 50_000;
/// The messages for which a node must offer `NODE_BLOOM`, which this node never does. Bitcoin Core
/// disconnects a peer that sends one (BIP 111).
const OF_BLOOM_FILTERS: [&str; 4] = ["filterload", "filteradd", "filterclear", "mempool"];

/// The reason to disconnect a peer.
pub(crate) type Fault = String;

/// A peer that has messages, or `None` to end the message handler. After one message a peer goes to
/// the end, so that no peer keeps the others waiting. Corresponds to Bitcoin Core's
/// `WakeMessageHandler`. [`Inbox`](crate::peer::Inbox) ensures that a peer waits at most once.
pub(crate) type Work = Option<Arc<Peer>>;

impl Connman {
    /// Runs the message handler until it is told to end. Corresponds to Bitcoin Core's
    /// `ThreadMessageHandler`.
    pub(crate) fn handle_messages(&self, work: &Receiver<Work>) {
        let mut timer = Instant::now();
        loop {
            let now = Instant::now();
            // The timer comes before the peers, because there may always be one that waits.
            if now >= timer {
                timer = self.send_pings(false);
            }
            match work.recv_timeout(timer.saturating_duration_since(now)) {
                Ok(Some(peer)) => self.process_one(&peer),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(None) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Processes the next message of one peer.
    fn process_one(&self, peer: &Arc<Peer>) {
        if peer.remote.is_closed() {
            return;
        }
        // A peer that does not receive its replies gets no further replies.
        let may_process = || !peer.remote.queue().is_above_high_mark();
        let Some(next) = peer.inbox.next(may_process) else { return };
        let Next::Message { message, made_room } = next else {
            self.continue_answer(peer);
            return self.add_work(peer);
        };
        if made_room {
            peer.remote.wake();
        }
        let processed = message
            .decode(self.config.network.magic())
            .map_err(|error| format!("the peer sent a malformed message: {error}"))
            .and_then(|message| message.map_or(Ok(()), |message| self.process(peer, message)));
        match processed {
            Ok(()) => self.add_work(peer),
            Err(fault) => peer.give_up(fault),
        }
    }

    fn process(&self, peer: &Peer, message: NetworkMessage) -> Result<(), Fault> {
        log::trace!("peer {}: received {}", peer.id(), message.cmd());
        let (has_version, is_established) = {
            let conversation = peer.conversation.lock();
            (conversation.version.is_some(), conversation.is_established)
        };
        match message {
            NetworkMessage::Version(version) => self.got_version(peer, &version),
            _ if !has_version => Err(format!("the peer sent {} before version", message.cmd())),
            NetworkMessage::Verack => self.got_verack(peer),
            NetworkMessage::SendAddrV2 if !is_established => {
                peer.conversation.lock().wants_addr_v2 = true;
                Ok(())
            }
            // All other messages are ignored until the handshake is complete.
            _ if !is_established => Ok(()),
            NetworkMessage::Ping(nonce) => {
                self.reply(peer, NetworkMessage::Pong(nonce));
                self.tell(Event::Pinged { id: peer.id() });
                Ok(())
            }
            NetworkMessage::Pong(nonce) => self.got_pong(peer, nonce),
            NetworkMessage::GetAddr => self.got_get_addr(peer),
            NetworkMessage::Addr(list) => {
                let count = list.len();
                self.got_addresses(
                    peer,
                    count,
                    list.iter().filter_map(|(_, address)| addresses::from_addr(address)),
                )
            }
            NetworkMessage::AddrV2(list) => {
                let count = list.len();
                self.got_addresses(peer, count, list.iter().filter_map(addresses::from_addr_v2))
            }
            NetworkMessage::GetHeaders(request) => self.got_get_headers(peer, &request),
            NetworkMessage::GetBlocks(request) => self.got_get_blocks(peer, &request),
            NetworkMessage::Headers(headers) => self.got_headers(peer, &headers),
            NetworkMessage::Inv(inventory) => self.got_inventory(peer, &inventory),
            NetworkMessage::GetData(items) => self.got_get_data(peer, items),
            NetworkMessage::GetCFilters(request) => self.got_get_filters(peer, &request),
            NetworkMessage::GetCFHeaders(request) => self.got_get_filter_headers(peer, &request),
            NetworkMessage::GetCFCheckpt(request) => {
                self.got_get_filter_checkpoints(peer, &request)
            }
            NetworkMessage::Unknown { command, .. }
                if OF_BLOOM_FILTERS.contains(&command.as_ref()) =>
            {
                Err(format!("the peer sent {command}, which this node does not offer"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn reply(&self, peer: &Peer, message: NetworkMessage) {
        self.push_messages(peer, [message]);
    }

    fn got_version(&self, peer: &Peer, version: &VersionMessage) -> Result<(), Fault> {
        // Core's number is signed, so the upper half of the numbers is negative.
        if i32::try_from(version.version).is_err() || version.version < MIN_PROTOCOL_VERSION {
            return Err(format!(
                "the peer speaks protocol version {}, older than {MIN_PROTOCOL_VERSION}",
                version.version
            ));
        }
        if version.user_agent.len() > MAX_AGENT_LENGTH {
            return Err(format!(
                "the peer's user agent has {} bytes, more than {MAX_AGENT_LENGTH}",
                version.user_agent.len()
            ));
        }
        if self.is_self(peer, version.nonce) {
            return Err("the peer is this node itself".to_owned());
        }
        let known = PeerVersion {
            protocol: version.version,
            agent: printable(&version.user_agent),
            services: version.services,
            relays: version.relay,
            start_height: version.start_height,
            // The subtraction saturates, because the peer may send any number and the difference
            // can need 65 bits.
            time_offset: version.timestamp.saturating_sub(i64::from(now())),
        };
        if peer.conversation.lock().version.replace(known).is_some() {
            return Err("the peer sent a second version".to_owned());
        }
        let ours = (peer.direction == Direction::Inbound).then(|| version_message(self, peer));
        // BIP 155 requires `sendaddrv2` before `verack`.
        let v2 = (version.version >= SENDADDRV2_VERSION).then_some(NetworkMessage::SendAddrV2);
        let messages = ours.into_iter().chain(v2).chain([NetworkMessage::Verack]);
        self.push_messages(peer, messages);
        Ok(())
    }

    /// Returns whether this node dialled itself, so that both ends are in its table. Compares only
    /// handshakes that are not complete, as Bitcoin Core does: a peer could otherwise repeat the
    /// number on another network, and learn that both addresses belong to this node.
    fn is_self(&self, peer: &Peer, nonce: u64) -> bool {
        peer.direction == Direction::Inbound
            && self.peers().iter().any(|other| {
                other.direction == Direction::Outbound
                    && other.nonce == nonce
                    && !other.conversation.lock().is_established
            })
    }

    fn got_verack(&self, peer: &Peer) -> Result<(), Fault> {
        let version = {
            let mut conversation = peer.conversation.lock();
            if std::mem::replace(&mut conversation.is_established, true) {
                return Err("the peer sent a second verack".to_owned());
            }
            conversation.version.clone()
        };
        let Some(version) = version else {
            return Err("the peer sent verack before version".to_owned());
        };
        let (height, protocol) = (version.start_height, version.protocol);
        self.tell(Event::Handshake { id: peer.id(), took: peer.since.elapsed(), version });

        let mut messages = Vec::new();
        if protocol >= SENDHEADERS_VERSION {
            messages.push(NetworkMessage::SendHeaders);
        }
        if peer.direction == Direction::Outbound {
            messages.push(NetworkMessage::GetAddr);
        }
        let is_ahead = usize::try_from(height).is_ok_and(|height| height > self.height());
        if is_ahead || peer.direction == Direction::Outbound {
            messages.push(self.get_headers(peer));
        }
        messages.push(next_ping(&mut peer.conversation.lock()));
        self.push_messages(peer, messages);
        Ok(())
    }

    fn got_pong(&self, peer: &Peer, nonce: u64) -> Result<(), Fault> {
        let round_trip = {
            let mut conversation = peer.conversation.lock();
            // A peer that answers without a nonce is not waited for. Bitcoin Core does the same.
            if nonce == 0 {
                conversation.ping.under_way = None;
            }
            // Another nonce is no fault: the pong may be late.
            let Some((_, sent)) = conversation.ping.under_way.take_if(|(ours, _)| *ours == nonce)
            else {
                return Ok(());
            };
            let round_trip = sent.elapsed();
            let shortest = conversation
                .ping
                .min_round_trip
                .map_or(round_trip, |shortest| shortest.min(round_trip));
            conversation.ping.min_round_trip = Some(shortest);
            *conversation.ping.round_trip.insert(round_trip)
        };
        self.tell(Event::Pong { id: peer.id(), round_trip });
        Ok(())
    }

    fn got_get_addr(&self, peer: &Peer) -> Result<(), Fault> {
        let wants_addr_v2 = {
            let mut conversation = peer.conversation.lock();
            // Only inbound peers get an answer, as in Bitcoin Core. An outbound peer could
            // otherwise recognise this node by addresses that it sent earlier.
            if peer.direction == Direction::Outbound
                || std::mem::replace(&mut conversation.addresses_told, true)
            {
                return Ok(());
            }
            conversation.wants_addr_v2
        };
        let listening = self.listening.lock().clone();
        let services = self.config.advertised_services();
        let answer = {
            let addresses = self.addresses.lock();
            addresses.answer(&peer.them, &listening, services, wants_addr_v2)
        };
        if let Some(answer) = answer {
            self.reply(peer, answer);
        }
        Ok(())
    }

    fn got_addresses(
        &self,
        peer: &Peer,
        count: usize,
        services: impl Iterator<Item = Service>,
    ) -> Result<(), Fault> {
        if count > MAX_ADDRESSES {
            return Err(format!(
                "the peer sent {count} addresses in one message, more than {MAX_ADDRESSES}"
            ));
        }
        let (new, known) = {
            let mut addresses = self.addresses.lock();
            (addresses.learn(&peer.them, services), addresses.len())
        };
        if new > 0 {
            self.tell(Event::Addresses { id: peer.id(), new, known });
        }
        Ok(())
    }

    fn got_headers(&self, peer: &Peer, headers: &[Header]) -> Result<(), Fault> {
        if headers.len() > MAX_HEADERS_PER_MESSAGE {
            return Err(format!(
                "the peer sent {} headers in one message, more than {MAX_HEADERS_PER_MESSAGE}",
                headers.len()
            ));
        }
        let (added, height, tip) = {
            let mut chain = self.chain.lock();
            (chain.add(headers), chain.height(), chain.tip())
        };
        let new = match added {
            Ok(Added::New(new)) => new,
            Ok(Added::NothingNew) => 0,
            Ok(Added::LessWork) => {
                // Such headers cost the peer nothing if it repeats them.
                if !peer.conversation.lock().less_work_headers.take(Instant::now()) {
                    return Err("the peer kept sending headers of less work".to_owned());
                }
                0
            }
            // The peer announces a new block whose ancestors this node does not know yet.
            Err(ChainError::Unconnected) => return self.got_unconnected_headers(peer),
            Err(error) => return Err(format!("the peer sent {error}")),
        };
        let was_requested = {
            let mut conversation = peer.conversation.lock();
            // Other messages are no reason to reset these: a peer could send them in between.
            if new > 0 {
                conversation.unconnected_headers.reset();
                conversation.less_work_headers.reset();
            }
            std::mem::take(&mut conversation.headers_requested)
        };
        // If a full message had no new header, the peer is on a branch with less work.
        let more_to_come = new > 0 && headers.len() == MAX_HEADERS_PER_MESSAGE;
        if new > 0 || was_requested {
            self.tell(Event::Headers { id: peer.id(), new, height, tip, more_to_come });
        }
        if more_to_come {
            let request = self.get_headers(peer);
            self.reply(peer, request);
        }
        Ok(())
    }

    fn got_unconnected_headers(&self, peer: &Peer) -> Result<(), Fault> {
        {
            let mut conversation = peer.conversation.lock();
            if !conversation.unconnected_headers.take(Instant::now()) {
                return Err(format!("the peer kept sending {}", ChainError::Unconnected));
            }
        }
        let request = self.get_headers(peer);
        self.reply(peer, request);
        Ok(())
    }

    fn got_inventory(&self, peer: &Peer, inventory: &[Inventory]) -> Result<(), Fault> {
        if inventory.len() > MAX_INVENTORY {
            return Err(format!(
                "the peer announced {} items in one message, more than {MAX_INVENTORY}",
                inventory.len()
            ));
        }
        let news = {
            let chain = self.chain.lock();
            inventory.iter().any(|item| match item {
                Inventory::Block(hash) | Inventory::WitnessBlock(hash) => !chain.contains(hash),
                _ => false,
            })
        };
        if news {
            let request = self.get_headers(peer);
            self.reply(peer, request);
        }
        Ok(())
    }

    fn get_headers(&self, peer: &Peer) -> NetworkMessage {
        let locator = self.chain.lock().locator();
        peer.conversation.lock().headers_requested = true;
        NetworkMessage::GetHeaders(GetHeadersMessage {
            version: PROTOCOL_VERSION,
            ..GetHeadersMessage::new(locator, BlockHash::all_zeros())
        })
    }

    fn height(&self) -> usize {
        self.chain.lock().height()
    }

    /// Pings the peers whose ping is due, or every peer if that was requested. Returns the time of
    /// the next due ping. Any thread may call this method.
    pub(crate) fn send_pings(&self, is_requested: bool) -> Instant {
        let interval = self.config.ping_interval;
        let now = Instant::now();
        let mut next = now + interval;
        for peer in self.peers() {
            let ping = {
                let mut conversation = peer.conversation.lock();
                let Some(last) = conversation.ping.last_sent else { continue };
                let due = last + interval;
                if due > now && !is_requested {
                    next = next.min(due);
                    continue;
                }
                // A requested ping replaces a ping that waits for its pong.
                if conversation.ping.under_way.is_some() && !is_requested {
                    continue;
                }
                next_ping(&mut conversation)
            };
            self.reply(&peer, ping);
        }
        next
    }
}

fn next_ping(conversation: &mut Conversation) -> NetworkMessage {
    let (nonce, now) = (random().max(1), Instant::now());
    conversation.ping.last_sent = Some(now);
    let has_pong = conversation.version.as_ref().is_none_or(|it| it.protocol > LAST_WITHOUT_PONG);
    if let (false, Ok(command)) = (has_pong, CommandString::try_from_static("ping")) {
        return NetworkMessage::Unknown { command, payload: Vec::new() };
    }
    conversation.ping.under_way = Some((nonce, now));
    NetworkMessage::Ping(nonce)
}

/// Returns this node's `version` message. The dialling side sends it first, the other side answers
/// with its own.
pub(crate) fn version_message(connman: &Connman, peer: &Peer) -> NetworkMessage {
    // As in Bitcoin Core, this is the height of the blocks. Without blocks, it is that of the headers.
    let blocks = connman.config.blocks.as_ref();
    let height = blocks.map_or_else(|| connman.height(), |blocks| blocks.height());
    NetworkMessage::Version(VersionMessage {
        version: PROTOCOL_VERSION,
        ..VersionMessage::new(
            connman.config.advertised_services(),
            now().into(),
            // A host name does not fit into this field.
            addresses::in_version(peer.them.service().unwrap_or(&Service::UNIX_UNNAMED)),
            // This field is unused; Bitcoin Core leaves it empty as well.
            addresses::in_version(&Service::UNIX_UNNAMED),
            peer.nonce,
            USER_AGENT.to_owned(),
            i32::try_from(height).unwrap_or(i32::MAX),
        )
    })
}

/// Returns the user agent without characters that could control a terminal.
fn printable(agent: &str) -> String {
    agent.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect()
}
