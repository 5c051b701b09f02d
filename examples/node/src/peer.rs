//! The state of one peer: its connection, its unprocessed messages, and its data.
//!
//! The library keeps a [`Connection`] for each connection, which the socket thread alone uses. The
//! connection has a [`Peer`], which other threads use too: the message handler answers messages, and
//! a thread that prints the table of peers only reads. A thread that holds the lock `outgoing` may
//! take `activity` or the send queue's own lock. No other lock of a peer is held while another one
//! is taken.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bitcoin::{BlockHash, p2p::ServiceFlags};
use parking_lot::Mutex;
use sockman::{
    ConnectionId,
    address::Destination,
    stateful::{Link, Remote},
    stats::Direction,
};

use crate::{
    Allowance, Config,
    node::random,
    serving::Answer,
    targets::{Attempt, TargetNumber},
    transport::{self, Incoming, Message, Outgoing, SessionId, Start, TransportType},
};

/// The state of a connection that the socket thread alone uses.
pub(crate) struct Connection {
    pub(crate) peer: Arc<Peer>,
    /// The target that the peer is, if this side dialled.
    pub(crate) dialled: Option<TargetNumber>,
    pub(crate) incoming: Incoming,
    /// The last time that bytes arrived, or that this side did not read.
    pub(crate) received: Instant,
    /// The last time that the kernel took queued bytes, or that the queue was empty.
    pub(crate) sent: Instant,
    /// The last time that this side did not read.
    pub(crate) unread: Instant,
    /// When the peer must have sent its key of version 2 at the latest, if this side has sent one.
    key_due: Option<Instant>,
    /// When the handshake must be complete at the latest, if this node was too late to judge it at
    /// the first time-out.
    handshake_extension: Option<Instant>,
}

impl Connection {
    /// Returns the state of a new connection, and the bytes to send first. An outbound connection
    /// has an attempt.
    pub(crate) fn new(
        config: &Config,
        link: Link<'_, Connection>,
        attempt: Option<&Attempt>,
    ) -> (Connection, Vec<u8>) {
        let (direction, start) = match attempt {
            None => (Direction::Inbound, Start::Detect { with_v2: config.v2_transport }),
            Some(Attempt { with_v2: true, .. }) => (Direction::Outbound, Start::DialV2),
            Some(_) => (Direction::Outbound, Start::DialV1),
        };
        let (incoming, outgoing, greeting) = transport::begin(config.network.magic(), start);
        let now = Instant::now();
        let peer = Arc::new(Peer {
            remote: link.remote(),
            direction,
            them: link.them().clone(),
            since: now,
            connected_at: SystemTime::now(),
            nonce: random(),
            inbox: Inbox::new(config.max_receive_buffer),
            answer: Mutex::default(),
            transport: incoming.transport().map(OnceLock::from).unwrap_or_default(),
            outgoing: Mutex::new(outgoing),
            activity: Mutex::default(),
            conversation: Mutex::new(Conversation::new()),
            end: OnceLock::new(),
        });
        let connection = Connection {
            peer,
            dialled: attempt.map(|attempt| attempt.number),
            incoming,
            received: now,
            sent: now,
            unread: now,
            key_due: attempt
                .filter(|attempt| attempt.with_v2)
                .map(|attempt| now + config.v2_wait_for(&attempt.to)),
            handshake_extension: None,
        };
        (connection, greeting)
    }

    /// Returns whether the library may read from the peer. The library must not read while the
    /// peer's inbox is full or its send queue is above the high mark. Further bytes then stay in the
    /// kernel and at the peer.
    pub(crate) fn may_read(&self) -> bool {
        !self.peer.inbox.is_full() && !self.peer.remote.queue().is_above_high_mark()
    }

    /// Returns the reason to disconnect a peer that exceeded a time-out, if it did. Corresponds to
    /// Bitcoin Core's `InactivityCheck`.
    pub(crate) fn overdue(&mut self, limits: &Config, now: Instant) -> Option<&'static str> {
        let (is_established, ping) = {
            let conversation = self.peer.conversation.lock();
            (conversation.is_established, conversation.ping.under_way)
        };
        let longer = |since: Instant, limit| now.saturating_duration_since(since) > limit;
        let (peer, unread) = (Arc::clone(&self.peer), self.unread);
        let is_unanswered = |sent: Instant| {
            // A pong cannot arrive while this side does not read.
            longer(sent.max(unread), limits.inactivity_timeout) && peer.inbox.has_processed(sent)
        };
        if self.incoming.is_without_key() && self.key_due.is_some_and(|due| now > due) {
            Some("the peer did not answer in version 2 of the transport")
        } else if !is_established
            && longer(peer.since, limits.handshake_timeout)
            && peer.inbox.has_processed(peer.since)
            && !self.was_held_up(limits.handshake_timeout, now)
        {
            Some("the peer did not complete the handshake in time")
        } else if longer(self.sent, limits.inactivity_timeout) {
            Some("the peer does not receive the bytes sent to it")
        } else if longer(self.received, limits.inactivity_timeout) {
            Some("the peer has been silent for too long")
        } else if ping.is_some_and(|(_, sent)| is_unanswered(sent)) {
            Some("the peer did not answer a ping in time")
        } else {
            None
        }
    }

    /// Returns whether the peer has more time for its handshake. If bytes came in only after the
    /// time-out, this node was late, perhaps because its process was stopped, and the peer could
    /// not go on. It then gets the time-out once more.
    fn was_held_up(&mut self, timeout: Duration, now: Instant) -> bool {
        let last_received = self.peer.activity.lock().last_received;
        let was_heard_late =
            last_received.is_some_and(|at| at.saturating_duration_since(self.peer.since) > timeout);
        match self.handshake_extension {
            Some(ends) => now <= ends,
            None => was_heard_late && now <= *self.handshake_extension.insert(now + timeout),
        }
    }
}

/// The state of a peer that every thread may use.
pub(crate) struct Peer {
    /// Reaches the connection and its send queue.
    pub(crate) remote: Remote<Connection>,
    pub(crate) direction: Direction,
    pub(crate) them: Destination,
    /// The time of the connection, on the clock that time-outs use.
    pub(crate) since: Instant,
    /// The time of the connection as wall-clock time.
    pub(crate) connected_at: SystemTime,
    /// The nonce in this node's `version` message, by which the node detects that it has dialled
    /// itself.
    pub(crate) nonce: u64,
    /// Incoming messages that are complete and not processed.
    pub(crate) inbox: Inbox,
    /// The answer to the last message, if it is not complete. Used by the message handler.
    pub(crate) answer: Mutex<Option<Answer>>,
    /// The transport, once its version is known. Written by the socket thread.
    pub(crate) transport: OnceLock<(TransportType, Option<SessionId>)>,
    /// Written by every thread that sends.
    pub(crate) outgoing: Mutex<Outgoing>,
    /// Written by the socket thread; a thread that sends writes `last_sent`.
    pub(crate) activity: Mutex<Activity>,
    /// Written by the message handler; other threads only read it.
    pub(crate) conversation: Mutex<Conversation>,
    /// Written by the first thread that closes the connection.
    end: OnceLock<End>,
}

/// The reason for a close, and what the connection had carried.
pub(crate) struct End {
    pub(crate) reason: String,
    /// The peer is the reason, not this side.
    pub(crate) is_of_peer: bool,
    bytes: Bytes,
}

/// The bytes received and sent.
pub(crate) type Bytes = (u64, u64);

impl Peer {
    pub(crate) fn id(&self) -> ConnectionId {
        self.remote.id()
    }

    /// Closes the connection for a reason of this side. Any thread may do so. The first reason
    /// counts, and [`Connman`](crate::connman::Connman) reports it.
    pub(crate) fn disconnect(&self, reason: &str) {
        self.close(reason.to_owned(), false);
    }

    /// Closes the connection for a reason of the peer.
    pub(crate) fn give_up(&self, reason: impl Into<String>) {
        self.close(reason.into(), true);
    }

    fn close(&self, reason: String, is_of_peer: bool) {
        let _ = self.end.set(End { reason, is_of_peer, bytes: self.open_bytes() });
        self.remote.close();
    }

    /// Returns the reason for the close. `None` if the connection is open, or if the node closed it
    /// with all others.
    pub(crate) fn end(&self) -> Option<&End> {
        self.end.get()
    }

    /// Returns the bytes received and sent, also after the close.
    pub(crate) fn bytes(&self) -> Bytes {
        self.end.get().map_or_else(|| self.open_bytes(), |end| end.bytes)
    }

    fn open_bytes(&self) -> Bytes {
        self.remote.info().map_or((0, 0), |info| (info.bytes_received, info.bytes_sent))
    }
}

/// The times of a peer's last activity, for `getpeerinfo`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Activity {
    pub(crate) last_received: Option<Instant>,
    pub(crate) last_sent: Option<Instant>,
}

/// The state of the conversation with a peer.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    /// The peer's `version`, once it has arrived.
    pub(crate) version: Option<PeerVersion>,
    /// The peer has sent `verack`: the handshake is complete.
    pub(crate) is_established: bool,
    pub(crate) wants_addr_v2: bool,
    /// The peer has had its one answer to `getaddr`. With more answers the peer could map the
    /// network.
    pub(crate) addresses_told: bool,
    /// The last block of a full answer to `getblocks`. After this block the node announces its last
    /// one, and the peer then requests more. Corresponds to Bitcoin Core's `m_continuation_block`.
    pub(crate) continuation: Option<BlockHash>,
    /// This node has sent `getheaders` and has no answer yet.
    pub(crate) headers_requested: bool,
    /// The `headers` messages that may still follow no known header. Only a new header resets it.
    pub(crate) unconnected_headers: Allowance,
    /// The `headers` messages that may still lead to no more work. Only a new header resets it.
    pub(crate) less_work_headers: Allowance,
    pub(crate) ping: Ping,
}

/// The `headers` messages of one kind that a peer may send without a new header, and the time after
/// which it may send as many again. An honest peer sends some: it announces a block whose ancestors
/// this node does not know yet, or a block that lost against another.
const MAX_USELESS_HEADERS: u32 = 10;
const USELESS_HEADERS_PERIOD: Duration = Duration::from_secs(10 * 60);

impl Conversation {
    fn new() -> Conversation {
        let useless_headers = Allowance::new(MAX_USELESS_HEADERS, USELESS_HEADERS_PERIOD);
        Conversation {
            version: None,
            is_established: false,
            wants_addr_v2: false,
            addresses_told: false,
            continuation: None,
            headers_requested: false,
            unconnected_headers: useless_headers,
            less_work_headers: useless_headers,
            ping: Ping::default(),
        }
    }
}

/// The contents of a peer's `version` message.
#[derive(Debug, Clone)]
pub struct PeerVersion {
    /// The version of the protocol that the peer speaks.
    pub protocol: u32,
    /// The user agent. The text is printable and has at most 256 characters, whatever the peer
    /// sent.
    pub agent: String,
    /// The services that the peer offers.
    pub services: ServiceFlags,
    /// Whether the peer wants transactions to be announced.
    pub relays: bool,
    /// The height of the peer's chain.
    pub start_height: i32,
    /// The peer's clock minus this node's clock, in seconds.
    pub time_offset: i64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ping {
    /// The nonce and the time of the ping that waits for its `pong`.
    pub(crate) under_way: Option<(u64, Instant)>,
    /// The time of the last ping.
    pub(crate) last_sent: Option<Instant>,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) min_round_trip: Option<Duration>,
}

/// The bytes that a message costs in addition to its own: its place in the queue and the
/// allocator's overhead. If they did not count, a peer could exceed the limit several times with
/// empty messages.
const OVERHEAD: usize = size_of::<Message>() + 16;

/// Messages that wait for the message handler.
///
/// The bytes of these messages are bounded. From the limit on, [`is_full`](Inbox::is_full) returns
/// `true`, and the socket thread does not read from this peer until the handler has processed half.
/// Further bytes stay in the kernel and then at the peer. One message and one receive buffer can
/// exceed the limit.
#[derive(Debug)]
pub(crate) struct Inbox {
    limit: usize,
    is_full: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    /// The bytes of the answer to the last message, if it is not complete. The message counts as
    /// being processed.
    unfinished: Option<usize>,
    /// The numbers of messages that were added, taken and processed.
    added: u64,
    taken: u64,
    processed: u64,
    /// The time-out that is being judged, and how many messages had been added when it was first
    /// exceeded.
    judged: Option<(Instant, u64)>,
    /// The handler's work list contains this peer. The list contains each peer at most once.
    is_listed: bool,
}

/// What the handler does next for a peer.
#[derive(Debug)]
pub(crate) enum Next {
    /// Process this message. If `made_room`, the inbox has room again, and the caller wakes the
    /// connection, which the socket thread had stopped reading.
    Message { message: Message, made_room: bool },
    /// Continue the answer to the last message.
    Answer,
}

impl Inbox {
    fn new(limit: usize) -> Inbox {
        Inbox { limit, is_full: AtomicBool::new(false), waiting: Mutex::default() }
    }

    /// Returns whether the inbox has reached its limit. Takes no lock, because
    /// `should_try_to_recv` calls it often.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Returns the number of waiting bytes, with those of an answer that is not complete.
    pub(crate) fn bytes(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.bytes + waiting.unfinished.unwrap_or_default()
    }

    /// Records the bytes that the rest of the answer to the last message keeps, or `None` if the
    /// answer is complete.
    pub(crate) fn set_unfinished(&self, bytes: Option<usize>) {
        self.waiting.lock().unfinished = bytes;
    }

    /// Returns whether every message has been processed that was here when this time-out, which
    /// counts from `since`, was first exceeded. The awaited message may be one of them, and the
    /// handler may be slow. Later messages do not count, so a flood gains the peer no time.
    pub(crate) fn has_processed(&self, since: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        let added = waiting.added;
        let judged = match waiting.judged {
            Some((of, added)) if of == since => added,
            _ => waiting.judged.insert((since, added)).1,
        };
        waiting.processed >= judged
    }

    /// Adds a message. Returns whether the caller must put the peer on the work list.
    #[must_use]
    pub(crate) fn push(&self, message: Message) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.bytes += message.len() + OVERHEAD;
        waiting.messages.push_back(message);
        waiting.added += 1;
        if waiting.bytes >= self.limit {
            self.is_full.store(true, Ordering::Release);
        }
        !mem::replace(&mut waiting.is_listed, true)
    }

    /// Takes the next message, unless the answer to the last one is not complete. Returns `None` if
    /// there is nothing to do, or if `may_process`, which runs under the lock, returns `false`. In
    /// both cases the peer is no longer on the work list.
    pub(crate) fn next(&self, may_process: impl FnOnce() -> bool) -> Option<Next> {
        let mut waiting = self.waiting.lock();
        if waiting.unfinished.is_some() {
            waiting.is_listed = may_process();
            return waiting.is_listed.then_some(Next::Answer);
        }
        // The handler asks for the next message after it has processed the last one.
        waiting.processed = waiting.taken;
        let next = if may_process() { waiting.messages.pop_front() } else { None };
        let Some(message) = next else {
            waiting.is_listed = false;
            return None;
        };
        waiting.taken += 1;
        waiting.bytes -= message.len() + OVERHEAD;
        let made_room = self.is_full() && waiting.bytes <= self.limit / 2;
        if made_room {
            self.is_full.store(false, Ordering::Release);
        }
        Some(Next::Message { message, made_room })
    }

    /// Resumes processing after `may_process` returned `false`. Returns whether the caller must put
    /// the peer back on the work list.
    #[must_use]
    pub(crate) fn resume(&self) -> bool {
        let mut waiting = self.waiting.lock();
        let is_idle = waiting.messages.is_empty() && waiting.unfinished.is_none();
        !is_idle && !mem::replace(&mut waiting.is_listed, true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test panics")]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_counts_only_when_the_messages_that_waited_are_processed() {
        let (inbox, since) = (Inbox::new(1000), Instant::now());
        assert!(inbox.has_processed(since), "nothing waits");
        let ping = since + Duration::from_secs(1);
        let add = || inbox.push(Message::V1(vec![0; 24]));
        assert!(add());
        assert!(!inbox.has_processed(ping), "the message waits");
        // A later message does not count.
        assert!(!add());
        assert!(inbox.next(|| true).is_some());
        assert!(!inbox.has_processed(ping), "the message is being processed");
        assert!(inbox.next(|| true).is_some());
        assert!(inbox.has_processed(ping));
    }

    #[test]
    fn an_answer_in_steps_comes_before_the_next_message_and_resumes_after_a_pause() {
        let (inbox, since) = (Inbox::new(1000), Instant::now());
        let add = || inbox.push(Message::V1(vec![0; 24]));
        assert!(add());
        assert!(matches!(inbox.next(|| true), Some(Next::Message { .. })));
        inbox.set_unfinished(Some(400));
        assert_eq!(inbox.bytes(), 400, "the rest of the answer counts");
        assert!(!add(), "the peer is on the work list");
        assert!(matches!(inbox.next(|| true), Some(Next::Answer)));
        assert!(!inbox.has_processed(since), "the message is not answered");
        assert!(!inbox.resume(), "the peer is on the work list");
        assert!(inbox.next(|| false).is_none());
        assert!(inbox.resume());
        assert!(!inbox.resume(), "the peer is on the work list once");
        assert!(matches!(inbox.next(|| true), Some(Next::Answer)));
        inbox.set_unfinished(None);
        assert!(matches!(inbox.next(|| true), Some(Next::Message { .. })));
        assert!(inbox.next(|| true).is_none());
        assert!(inbox.has_processed(since));
        assert!(!inbox.resume());
    }
}
