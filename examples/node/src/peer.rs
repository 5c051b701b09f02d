//! One peer: its send queue, the messages of it that wait to be processed, and what is known of
//! it.
//!
//! Three threads meet here. The fields say who writes them: the socket thread frames bytes and
//! watches the clock; the message handler talks; whoever prints a table reads. `outgoing` comes
//! before `activity` and the send queue's own; of the other locks, none is held while another is
//! taken.

use std::{
    collections::VecDeque,
    mem,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use bitcoin::p2p::ServiceFlags;
use parking_lot::Mutex;
use sockman::{
    ConnectionId, SendQueue, address::Destination, helpers::SendQueueLimits, stats::Direction,
};

use crate::{
    Config,
    node::random,
    targets::TargetNumber,
    transport::{self, Incoming, Message, Outgoing, Start},
};

pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    pub(crate) direction: Direction,
    pub(crate) them: Destination,
    /// Which of the targets it is, if this side dialled.
    pub(crate) dialled: Option<TargetNumber>,
    pub(crate) since: Instant,
    /// The same, for people.
    pub(crate) connected_at: SystemTime,
    /// In the `version` message, by which a node notices that it talks to itself.
    pub(crate) nonce: u64,
    /// Outgoing bytes.
    pub(crate) send: SendQueue,
    /// Incoming messages, whole but unread.
    pub(crate) inbox: Inbox,
    /// The socket thread writes these two.
    pub(crate) incoming: Mutex<Incoming>,
    pub(crate) activity: Mutex<Activity>,
    /// Whoever has something to say.
    pub(crate) outgoing: Mutex<Outgoing>,
    /// What has to leave before anything else: the beginning of a handshake.
    pub(crate) greeting: Vec<u8>,
    /// The message handler's; the others only read.
    pub(crate) conversation: Mutex<Conversation>,
}

/// What a peer may leave unsent: four of Bitcoin's largest messages.
const SEND_LIMIT: usize = 16_000_000;

impl Peer {
    pub(crate) fn new(
        config: &Config,
        id: ConnectionId,
        direction: Direction,
        them: &Destination,
        dialled: Option<TargetNumber>,
        start: Start,
    ) -> Peer {
        let now = Instant::now();
        let (incoming, outgoing, greeting) = transport::begin(config.network.magic(), start);
        let (low_mark, high_mark) = (config.max_send_buffer / 2, config.max_send_buffer.max(1));
        let limits = SendQueueLimits::new(low_mark, high_mark, SEND_LIMIT.max(high_mark))
            // Never: half of a number is below it, and 0 is below 1.
            .unwrap_or_default();
        Peer {
            id,
            direction,
            them: them.clone(),
            dialled,
            since: now,
            connected_at: SystemTime::now(),
            nonce: random(),
            send: SendQueue::new(id, limits),
            inbox: Inbox::new(config.max_receive_buffer),
            incoming: Mutex::new(incoming),
            outgoing: Mutex::new(outgoing),
            greeting,
            activity: Mutex::new(Activity {
                received: now,
                sent: now,
                last_received: None,
                last_sent: None,
            }),
            conversation: Mutex::default(),
        }
    }
}

/// When something last moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activity {
    /// Bytes arrived, or this side did not read.
    pub(crate) received: Instant,
    /// The kernel took queued bytes, or there were none.
    pub(crate) sent: Instant,
    /// What really came and went, for whoever asks.
    pub(crate) last_received: Option<Instant>,
    pub(crate) last_sent: Option<Instant>,
}

/// How far the conversation has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    /// The peer's `version`, once it came.
    pub(crate) version: Option<PeerVersion>,
    /// Both sides said `verack`: now anything may be talked about.
    pub(crate) is_established: bool,
    pub(crate) wants_addr_v2: bool,
    /// A peer gets one answer to `getaddr`, or it could map the network through us.
    pub(crate) addresses_told: bool,
    /// A `getheaders` of ours is on its way.
    pub(crate) headers_requested: bool,
    /// Headers that followed no known one, in a row.
    pub(crate) unconnected_headers: u32,
    pub(crate) ping: Ping,
}

/// What a peer said of itself in its `version` message.
#[derive(Debug, Clone)]
pub struct PeerVersion {
    /// The version of the protocol that it speaks.
    pub protocol: u32,
    /// The name and version of its program. Printable and short, whatever the peer sent.
    pub agent: String,
    /// What it offers.
    pub services: ServiceFlags,
    /// It wants to be told transactions.
    pub relays: bool,
    /// The height of its chain.
    pub start_height: i32,
    /// Its clock's, against this one, in seconds.
    pub time_offset: i64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ping {
    /// The one that waits for its `pong`: its nonce, and when it left.
    pub(crate) under_way: Option<(u64, Instant)>,
    /// When the last one left.
    pub(crate) last_sent: Option<Instant>,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) min_round_trip: Option<Duration>,
}

/// What a message costs beside its bytes: its place in the queue and the allocator's overhead.
/// Without it, a peer that sends empty messages would use several times the limit.
const OVERHEAD: usize = size_of::<Message>() + 16;

/// Messages that wait for the message handler.
///
/// Their bytes are bounded: from the limit on, [`is_full`](Inbox::is_full) says yes, and the
/// socket thread reads no more from this peer (its kernel and then the peer itself keep what it
/// has to say) until the handler has worked off half. One message, and one receive buffer, can go
/// beyond the limit.
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
    /// The handler's work list holds this peer. It is in there once at most.
    is_listed: bool,
}

/// What the handler gets out of an [`Inbox`].
#[derive(Debug)]
pub(crate) struct NextMessage {
    pub(crate) message: Message,
    /// There is room again: the socket thread, which had stopped to read, is to be woken.
    pub(crate) made_room: bool,
}

impl Inbox {
    fn new(limit: usize) -> Inbox {
        Inbox { limit, is_full: AtomicBool::new(false), waiting: Mutex::default() }
    }

    /// For `should_try_to_recv`, which is asked often: no lock.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting.lock().bytes
    }

    /// Adds a message. `true`: the peer is to be put on the work list.
    #[must_use]
    pub(crate) fn push(&self, message: Message) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.bytes += message.len() + OVERHEAD;
        waiting.messages.push_back(message);
        if waiting.bytes >= self.limit {
            self.is_full.store(true, Ordering::Release);
        }
        !mem::replace(&mut waiting.is_listed, true)
    }

    /// Takes the next message. `None`: there is none, or the peer must not have it processed now
    /// (`may_process`, asked under the lock); then it is off the work list.
    pub(crate) fn next(&self, may_process: impl FnOnce() -> bool) -> Option<NextMessage> {
        let mut waiting = self.waiting.lock();
        let next = if may_process() { waiting.messages.pop_front() } else { None };
        let Some(message) = next else {
            waiting.is_listed = false;
            return None;
        };
        waiting.bytes -= message.len() + OVERHEAD;
        let made_room = self.is_full() && waiting.bytes <= self.limit / 2;
        if made_room {
            self.is_full.store(false, Ordering::Release);
        }
        Some(NextMessage { message, made_room })
    }

    /// What kept `may_process` from saying yes is over. `true`: the peer is to be put back on the
    /// work list.
    #[must_use]
    pub(crate) fn resume(&self) -> bool {
        let mut waiting = self.waiting.lock();
        !waiting.messages.is_empty() && !mem::replace(&mut waiting.is_listed, true)
    }
}
