//! Two Lightning nodes in one process: they shake hands, ping, and exchange custom messages.
//!
//! `cargo run -p lightning-net-sockman --example two_nodes`

#![allow(clippy::print_stdout, reason = "a program prints")]

use std::{
    collections::VecDeque,
    error::Error,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lightning::{
    bitcoin::secp256k1::PublicKey,
    io,
    ln::{
        msgs::{DecodeError, Init, LightningError},
        peer_handler::{
            CustomMessageHandler, ErroringMessageHandler, IgnoringMessageHandler, MessageHandler,
            PeerManager,
        },
        wire::{CustomMessageReader, Type},
    },
    sign::{EntropySource, KeysManager, NodeSigner, Recipient},
    types::features::{InitFeatures, NodeFeatures},
    util::{
        logger::{Level, Logger, Record},
        ser::{LengthLimitedRead, Writeable, Writer},
    },
};
use lightning_net_sockman::{Driver, SocketDescriptor};
use sockman::Options;

type Manager = PeerManager<
    SocketDescriptor,
    ErroringMessageHandler,
    IgnoringMessageHandler,
    IgnoringMessageHandler,
    Arc<Log>,
    Arc<Chat>,
    Arc<KeysManager>,
    IgnoringMessageHandler,
>;

/// A custom message: a line of text.
#[derive(Debug)]
struct Line(String);

/// Odd, so a node that does not know the type ignores it.
const LINE: u16 = 40_001;

impl Type for Line {
    fn type_id(&self) -> u16 {
        LINE
    }
}

impl Writeable for Line {
    fn write<W: Writer>(&self, writer: &mut W) -> Result<(), io::Error> {
        writer.write_all(self.0.as_bytes())
    }
}

/// The handler of the custom messages.
struct Chat {
    /// What the next `process_events` sends.
    pending: Mutex<VecDeque<(PublicKey, Line)>>,
    news: mpsc::Sender<String>,
}

impl Chat {
    fn send(&self, to: PublicKey, text: &str) {
        if let Ok(mut pending) = self.pending.lock() {
            pending.push_back((to, Line(text.to_owned())));
        }
    }
}

impl CustomMessageReader for Chat {
    type CustomMessage = Line;

    fn read<R: LengthLimitedRead>(
        &self,
        message_type: u16,
        buffer: &mut R,
    ) -> Result<Option<Line>, DecodeError> {
        if message_type != LINE {
            return Ok(None);
        }
        // A Lightning message has 65,535 bytes at most.
        let mut text = vec![0; usize::try_from(buffer.remaining_bytes()).unwrap_or(0)];
        buffer.read_exact(&mut text)?;
        Ok(Some(Line(String::from_utf8_lossy(&text).into_owned())))
    }
}

impl CustomMessageHandler for Chat {
    fn handle_custom_message(&self, line: Line, from: PublicKey) -> Result<(), LightningError> {
        if line.0 == "how are you?" {
            self.send(from, "fine"); // The driver processes events after each message.
        }
        let _ = self.news.send(line.0);
        Ok(())
    }
    fn get_and_clear_pending_msg(&self) -> Vec<(PublicKey, Line)> {
        self.pending.lock().map(|mut pending| pending.drain(..).collect()).unwrap_or_default()
    }
    fn peer_connected(&self, _: PublicKey, _: &Init, _inbound: bool) -> Result<(), ()> {
        let _ = self.news.send("connected".to_owned());
        Ok(())
    }
    fn peer_disconnected(&self, _: PublicKey) {
        let _ = self.news.send("disconnected".to_owned());
    }
    fn provided_node_features(&self) -> NodeFeatures {
        NodeFeatures::empty()
    }
    fn provided_init_features(&self, _: PublicKey) -> InitFeatures {
        InitFeatures::empty()
    }
}

struct Log(&'static str, mpsc::Sender<String>);

impl Logger for Log {
    fn log(&self, record: Record<'_>) {
        let text = record.args.to_string();
        if record.level >= Level::Warn {
            println!("{}: {text}", self.0);
        }
        if text.starts_with("Enqueueing message Pong") {
            let _ = self.1.send("a ping".to_owned());
        }
    }
}

struct Node {
    id: PublicKey,
    manager: Arc<Manager>,
    chat: Arc<Chat>,
    driver: Driver,
    news: mpsc::Receiver<String>,
}

impl Node {
    /// The seed of a real node is random, secret, and the same at each start.
    fn new(name: &'static str, seed: [u8; 32]) -> Result<Node, Box<dyn Error>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let keys = Arc::new(KeysManager::new(&seed, now.as_secs(), now.subsec_nanos(), true));
        let id = keys.get_node_id(Recipient::Node).map_err(|()| "the node has no key")?;
        let random = keys.get_secure_random_bytes();
        let (sender, news) = mpsc::channel();
        let chat = Arc::new(Chat { pending: Mutex::default(), news: sender.clone() });
        let handlers = MessageHandler {
            chan_handler: ErroringMessageHandler::new(), // A ChannelManager in a real node.
            route_handler: IgnoringMessageHandler {},
            onion_message_handler: IgnoringMessageHandler {},
            custom_message_handler: Arc::clone(&chat),
            send_only_message_handler: IgnoringMessageHandler {},
        };
        let (log, time) = (Arc::new(Log(name, sender)), u32::try_from(now.as_secs())?);
        let manager = Arc::new(PeerManager::new(handlers, time, &random, log, keys));
        let driver = Driver::new(Arc::clone(&manager), Options::default())?;
        Ok(Node { id, manager, chat, driver, news })
    }

    fn expect(&self, news: &str) -> Result<(), Box<dyn Error>> {
        while self.news.recv_timeout(Duration::from_secs(60))? != news {}
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (alice, bob) = (Node::new("alice", [1; 32])?, Node::new("bob", [2; 32])?);
    let bound = bob.driver.sockman().bind_and_start_listening("127.0.0.1:0")?;
    let alices_thread = alice.driver.sockman().start_sockets_threads()?;
    let bobs_thread = bob.driver.sockman().start_sockets_threads()?;

    let address = bound.to_socket_addr().ok_or("not an IP address")?;
    let connection = alice.driver.connect_outbound(bob.id, address)?;
    alice.expect("connected")?;
    bob.expect("connected")?;
    println!("the nodes have shaken hands");

    alice.manager.timer_tick_occurred(); // A real node does this every ten seconds.
    bob.expect("a ping")?;
    println!("bob has answered a ping");

    alice.chat.send(bob.id, "how are you?");
    alice.driver.notify();
    bob.expect("how are you?")?;
    alice.expect("fine")?;
    println!("the nodes have exchanged messages");

    bob.manager.disconnect_all_peers();
    alice.expect("disconnected")?;
    if !connection.wait_closed(Duration::from_secs(60)) {
        return Err("the connection is still open".into());
    }
    for (node, thread) in [(&alice, alices_thread), (&bob, bobs_thread)] {
        node.driver.sockman().interrupt();
        thread.join()?;
    }
    println!("the nodes have parted");
    Ok(())
}
