//! A `PeerManager` with a handler for the messages of this benchmark.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lightning::{
    bitcoin::secp256k1::PublicKey,
    io,
    ln::{
        msgs::{DecodeError, ErrorAction, Init, LightningError},
        peer_handler::{
            CustomMessageHandler, ErroringMessageHandler, IgnoringMessageHandler, MessageHandler,
            PeerManager, SocketDescriptor,
        },
        wire::{CustomMessageReader, Type},
    },
    sign::{KeysManager, NodeSigner, Recipient},
    types::features::{InitFeatures, NodeFeatures},
    util::{
        logger::{Logger, Record},
        ser::{LengthLimitedRead, Writeable, Writer},
    },
};

use crate::pattern;

pub type Manager<D> = PeerManager<
    D,
    ErroringMessageHandler,
    IgnoringMessageHandler,
    IgnoringMessageHandler,
    Arc<Silence>,
    Arc<Messages>,
    Arc<KeysManager>,
    IgnoringMessageHandler,
>;

const REQUEST: u16 = 32_769;
const REPLY: u16 = 32_771;

/// A message whose data are those of the pattern, from its number on.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    kind: u16,
    number: u32,
    /// The bytes of data, at most [`pattern::LONGEST`].
    length: u32,
    /// The bytes of data of the reply to this message.
    reply: u32,
}

impl Message {
    pub fn request(number: u32, length: u32, reply: u32) -> Message {
        Message { kind: REQUEST, number, length, reply }
    }
}

impl Type for Message {
    fn type_id(&self) -> u16 {
        self.kind
    }
}

impl Writeable for Message {
    fn write<W: Writer>(&self, writer: &mut W) -> Result<(), io::Error> {
        writer.write_all(&self.number.to_be_bytes())?;
        writer.write_all(&self.reply.to_be_bytes())?;
        writer.write_all(pattern::at(self.number.into(), self.length as usize))
    }
}

/// The message handler: it answers requests, and counts replies.
#[derive(Debug, Default)]
pub struct Messages {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<(PublicKey, Message)>,
    /// The number that the next reply has.
    replies: u32,
}

impl Messages {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under this lock ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request, which the next `process_events` sends.
    pub fn send(&self, to: PublicKey, request: Message) {
        self.state().pending.push((to, request));
    }

    /// Returns the number of replies that have come.
    pub fn replies(&self) -> u32 {
        self.state().replies
    }
}

impl CustomMessageReader for Messages {
    type CustomMessage = Message;

    /// Checks the data: LDK ends the connection after an error.
    fn read<R: LengthLimitedRead>(
        &self,
        kind: u16,
        buffer: &mut R,
    ) -> Result<Option<Message>, DecodeError> {
        if kind != REQUEST && kind != REPLY {
            return Ok(None);
        }
        let (mut number, mut reply) = ([0; 4], [0; 4]);
        buffer.read_exact(&mut number)?;
        buffer.read_exact(&mut reply)?;
        let (number, reply) = (u32::from_be_bytes(number), u32::from_be_bytes(reply));
        let mut data = vec![0; buffer.remaining_bytes() as usize];
        buffer.read_exact(&mut data)?;
        if !pattern::is_at(number.into(), &data) || reply as usize > pattern::LONGEST {
            return Err(DecodeError::InvalidValue);
        }
        Ok(Some(Message { kind, number, length: data.len() as u32, reply }))
    }
}

impl CustomMessageHandler for Messages {
    fn handle_custom_message(
        &self,
        message: Message,
        sender: PublicKey,
    ) -> Result<(), LightningError> {
        let Message { kind, number, reply, .. } = message;
        let mut state = self.state();
        if kind == REQUEST {
            let reply = Message { kind: REPLY, number, length: reply, reply: 0 };
            state.pending.push((sender, reply));
        } else if number == state.replies {
            state.replies += 1;
        } else {
            let err = format!("reply {number} came, and {} was expected", state.replies);
            return Err(LightningError { err, action: ErrorAction::DisconnectPeer { msg: None } });
        }
        Ok(())
    }

    fn get_and_clear_pending_msg(&self) -> Vec<(PublicKey, Message)> {
        std::mem::take(&mut self.state().pending)
    }

    fn peer_disconnected(&self, _: PublicKey) {}

    fn peer_connected(&self, _: PublicKey, _: &Init, _: bool) -> Result<(), ()> {
        Ok(())
    }

    fn provided_node_features(&self) -> NodeFeatures {
        NodeFeatures::empty()
    }

    fn provided_init_features(&self, _: PublicKey) -> InitFeatures {
        InitFeatures::empty()
    }
}

/// A log that keeps nothing.
#[derive(Debug)]
pub struct Silence;

impl Logger for Silence {
    fn log(&self, _: Record<'_>) {}
}

/// A node without a network.
pub struct Node<D: SocketDescriptor> {
    pub id: PublicKey,
    pub manager: Arc<Manager<D>>,
    pub messages: Arc<Messages>,
}

impl<D: SocketDescriptor> Node<D> {
    /// Returns a node whose key is made of a number.
    pub fn new(number: u8) -> std::io::Result<Node<D>> {
        let seed = [number; 32];
        let keys = Arc::new(KeysManager::new(&seed, 1, 1, true));
        let id = keys.get_node_id(Recipient::Node);
        let id = id.map_err(|()| std::io::Error::other("the node has no key"))?;
        let messages = Arc::<Messages>::default();
        let handlers = MessageHandler {
            chan_handler: ErroringMessageHandler::new(),
            route_handler: IgnoringMessageHandler {},
            onion_message_handler: IgnoringMessageHandler {},
            custom_message_handler: Arc::clone(&messages),
            send_only_message_handler: IgnoringMessageHandler {},
        };
        let manager = PeerManager::new(handlers, 1, &seed, Arc::new(Silence), keys);
        Ok(Node { id, manager: Arc::new(manager), messages })
    }
}
