//! Nodes for the tests: a `PeerManager` with small handlers that record what they hear.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use lightning::{
    bitcoin::secp256k1::PublicKey,
    io,
    ln::{
        msgs::{
            BaseMessageHandler, DecodeError, ErrorAction, Init, LightningError, MessageSendEvent,
            SendOnlyMessageHandler,
        },
        peer_handler::{
            CustomMessageHandler, ErroringMessageHandler, IgnoringMessageHandler, MessageHandler,
            PeerManager, SocketDescriptor as LdkDescriptor,
        },
        wire::{CustomMessageReader, Type},
    },
    sign::{KeysManager, NodeSigner, Recipient},
    types::features::{InitFeatures, NodeFeatures},
    util::{
        logger::{Level, Logger, Record},
        ser::{LengthLimitedRead, Writeable, Writer},
    },
};
use lightning_net_sockman::{Driver, SocketDescriptor};
use sockman::{Options, SocketsThreads};
use sockman_test_support::DEADLINE;

pub(crate) type Manager<D> = PeerManager<
    D,
    ErroringMessageHandler,
    IgnoringMessageHandler,
    IgnoringMessageHandler,
    Arc<Log>,
    Arc<Messages>,
    Arc<KeysManager>,
    Arc<Ends>,
>;

/// The custom messages of the tests.
#[derive(Debug)]
pub(crate) enum Message {
    Request { number: u32, bytes: u32 },
    Reply { number: u32, data: Vec<u8> },
}

const REQUEST: u16 = 32_769;
const REPLY: u16 = 32_771;

impl Type for Message {
    fn type_id(&self) -> u16 {
        match self {
            Message::Request { .. } => REQUEST,
            Message::Reply { .. } => REPLY,
        }
    }
}

impl Writeable for Message {
    fn write<W: Writer>(&self, writer: &mut W) -> Result<(), io::Error> {
        match self {
            Message::Request { number, bytes } => {
                writer.write_all(&number.to_be_bytes())?;
                writer.write_all(&bytes.to_be_bytes())
            }
            Message::Reply { number, data } => {
                writer.write_all(&number.to_be_bytes())?;
                writer.write_all(data)
            }
        }
    }
}

/// What a node has heard. It answers requests, and records replies.
#[derive(Default)]
pub(crate) struct Messages {
    state: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) connected: Vec<PublicKey>,
    pub(crate) disconnected: Vec<PublicKey>,
    /// The number of replies that this node has made.
    pub(crate) made: usize,
    /// The numbers of the replies that this node has got.
    pub(crate) replies: Vec<u32>,
    pending: VecDeque<(PublicKey, Message)>,
}

impl Messages {
    pub(crate) fn state(&self) -> MutexGuard<'_, Heard> {
        self.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Heard) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }

    pub(crate) fn wait_for(&self, what: &str, found: impl Fn(&Heard) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.state();
        while !found(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}");
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Queues a request, which the next `process_events` sends.
    pub(crate) fn request(&self, to: PublicKey, number: u32, bytes: u32) {
        self.state().pending.push_back((to, Message::Request { number, bytes }));
    }
}

impl CustomMessageReader for Messages {
    type CustomMessage = Message;

    fn read<R: LengthLimitedRead>(
        &self,
        message_type: u16,
        buffer: &mut R,
    ) -> Result<Option<Message>, DecodeError> {
        let mut bytes = vec![0; usize::try_from(buffer.remaining_bytes()).unwrap()];
        buffer.read_exact(&mut bytes)?;
        let (number, rest) = bytes.split_first_chunk().ok_or(DecodeError::ShortRead)?;
        let number = u32::from_be_bytes(*number);
        Ok(match message_type {
            REQUEST => {
                let bytes = rest.try_into().map_err(|_| DecodeError::ShortRead)?;
                Some(Message::Request { number, bytes: u32::from_be_bytes(bytes) })
            }
            REPLY => Some(Message::Reply { number, data: rest.to_vec() }),
            _ => None,
        })
    }
}

impl CustomMessageHandler for Messages {
    fn handle_custom_message(
        &self,
        message: Message,
        sender: PublicKey,
    ) -> Result<(), LightningError> {
        self.change(|heard| match message {
            Message::Request { number, bytes } => {
                let data = vec![number as u8; bytes as usize];
                heard.made += 1;
                heard.pending.push_back((sender, Message::Reply { number, data }));
            }
            Message::Reply { number, data } => {
                assert!(data.iter().all(|byte| *byte == number as u8), "reply {number} is damaged");
                heard.replies.push(number);
            }
        });
        Ok(())
    }

    fn get_and_clear_pending_msg(&self) -> Vec<(PublicKey, Message)> {
        self.state().pending.drain(..).collect()
    }

    fn peer_disconnected(&self, their_node_id: PublicKey) {
        self.change(|heard| heard.disconnected.push(their_node_id));
    }

    fn peer_connected(&self, their_node_id: PublicKey, _: &Init, _: bool) -> Result<(), ()> {
        self.change(|heard| heard.connected.push(their_node_id));
        Ok(())
    }

    fn provided_node_features(&self) -> NodeFeatures {
        NodeFeatures::empty()
    }

    fn provided_init_features(&self, _: PublicKey) -> InitFeatures {
        InitFeatures::empty()
    }
}

/// Asks LDK to end connections, as a channel manager does.
#[derive(Default)]
pub(crate) struct Ends {
    pending: Mutex<Vec<MessageSendEvent>>,
}

impl Ends {
    pub(crate) fn disconnect(&self, node_id: PublicKey, action: ErrorAction) {
        self.pending.lock().unwrap().push(MessageSendEvent::HandleError { node_id, action });
    }
}

impl BaseMessageHandler for Ends {
    fn get_and_clear_pending_msg_events(&self) -> Vec<MessageSendEvent> {
        self.pending.lock().unwrap().drain(..).collect()
    }
    fn peer_disconnected(&self, _: PublicKey) {}
    fn provided_node_features(&self) -> NodeFeatures {
        NodeFeatures::empty()
    }
    fn provided_init_features(&self, _: PublicKey) -> InitFeatures {
        InitFeatures::empty()
    }
    fn peer_connected(&self, _: PublicKey, _: &Init, _: bool) -> Result<(), ()> {
        Ok(())
    }
}

impl SendOnlyMessageHandler for Ends {}

/// LDK's log, from the level Debug on.
#[derive(Default)]
pub(crate) struct Log {
    lines: Mutex<Vec<String>>,
}

impl Log {
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

impl Logger for Log {
    fn log(&self, record: Record<'_>) {
        if record.level >= Level::Debug {
            self.lines.lock().unwrap().push(record.args.to_string());
        }
    }
}

/// A node, without a network.
pub(crate) struct Node<D: LdkDescriptor> {
    pub(crate) id: PublicKey,
    pub(crate) manager: Arc<Manager<D>>,
    pub(crate) messages: Arc<Messages>,
    pub(crate) ends: Arc<Ends>,
    pub(crate) log: Arc<Log>,
}

impl<D: LdkDescriptor> Node<D> {
    /// Returns a node with a key of its own.
    pub(crate) fn new() -> Node<D> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);

        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        seed[4..8].copy_from_slice(&std::process::id().to_be_bytes());
        let keys = Arc::new(KeysManager::new(&seed, 1, 1, true));
        let id = keys.get_node_id(Recipient::Node).unwrap();
        let (messages, ends) = (Arc::<Messages>::default(), Arc::<Ends>::default());
        let log = Arc::<Log>::default();
        let handlers = MessageHandler {
            chan_handler: ErroringMessageHandler::new(),
            route_handler: IgnoringMessageHandler {},
            onion_message_handler: IgnoringMessageHandler {},
            custom_message_handler: Arc::clone(&messages),
            send_only_message_handler: Arc::clone(&ends),
        };
        let manager = PeerManager::new(handlers, 1, &seed, Arc::clone(&log), keys);
        Node { id, manager: Arc::new(manager), messages, ends, log }
    }

    pub(crate) fn wait_for_peer(&self, id: PublicKey) {
        self.messages.wait_for("a peer", |heard| heard.connected.contains(&id));
    }

    pub(crate) fn wait_for_end(&self, id: PublicKey) {
        self.messages.wait_for("the end of a peer", |heard| heard.disconnected.contains(&id));
    }

    /// Sends requests, and waits for the replies, which must come in order. The network of this
    /// node or of the peer calls `process_events`.
    pub(crate) fn exchange(&self, with: PublicKey, count: u32, bytes: u32, send: impl Fn()) {
        let before = self.messages.state().replies.len();
        for number in 0..count {
            self.messages.request(with, number, bytes);
        }
        send();
        let all = before + count as usize;
        self.messages.wait_for("the replies", |heard| heard.replies.len() >= all);
        let replies = self.messages.state().replies[before..].to_vec();
        assert_eq!(replies, (0..count).collect::<Vec<_>>());
    }
}

/// A node with a driver that listens.
pub(crate) struct Driven {
    pub(crate) node: Node<SocketDescriptor>,
    pub(crate) driver: Driver,
    pub(crate) address: SocketAddr,
    threads: Option<SocketsThreads>,
}

impl Driven {
    pub(crate) fn start() -> Driven {
        let node = Node::new();
        let driver = Driver::new(Arc::clone(&node.manager), Options::default()).unwrap();
        let bound = driver.sockman().bind_and_start_listening("127.0.0.1:0").unwrap();
        let threads = driver.sockman().start_sockets_threads().unwrap();
        let address = bound.to_socket_addr().unwrap();
        Driven { node, driver, address, threads: Some(threads) }
    }

    /// Connects to another node, and waits until both know each other.
    pub(crate) fn connect(&self, other: &Driven) -> lightning_net_sockman::Connection {
        let connection = self.driver.connect_outbound(other.node.id, other.address).unwrap();
        self.node.wait_for_peer(other.node.id);
        other.node.wait_for_peer(self.node.id);
        connection
    }

    /// Ends the connections, the listener and the thread.
    pub(crate) fn stop(&mut self) {
        self.node.manager.disconnect_all_peers();
        self.driver.sockman().drain_and_stop(DEADLINE);
        self.threads.take().unwrap().join().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.threads = Some(self.driver.sockman().start_sockets_threads().unwrap());
    }

    pub(crate) fn exchange(&self, with: PublicKey, count: u32, bytes: u32) {
        self.node.exchange(with, count, bytes, || self.driver.notify());
    }

    /// Waits until no connection is left, and LDK knows no peer.
    pub(crate) fn wait_until_alone(&self) {
        // The id goes first, then LDK hears of the end.
        sockman_test_support::eventually("no connection is left", || {
            let sockman = self.driver.sockman();
            sockman.connection_ids().is_empty() && self.node.manager.list_peers().is_empty()
        });
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.node.manager.disconnect_all_peers();
        self.driver.sockman().drain_and_stop(Duration::from_secs(1));
        let joined = self.threads.take().unwrap().join();
        if !std::thread::panicking() {
            joined.unwrap();
        }
    }
}
