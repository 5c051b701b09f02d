//! The transport, which turns bytes on the wire into whole messages and back. Version 1 is plain,
//! version 2 (BIP 324) is encrypted.
//!
//! [`Incoming`] belongs to the socket thread. Every thread that sends uses [`Outgoing`]. The lock
//! of `Outgoing` is held across encrypting and queueing, because packets must leave in the order in
//! which they were encrypted.

mod short_ids;
mod v1;
mod v2;

use std::{error::Error, fmt};

use bip324::{OutboundCipher, PacketType, Role};
use bitcoin::{
    consensus::encode,
    p2p::{Magic, message::NetworkMessage},
};
use sockman::{helpers::PushError, options::More, stateful::Remote};

use self::{
    v1::{Framer, FramingError},
    v2::{V2Error, V2Handshake, V2Receiver},
};
use crate::{decoding, node::random};

/// The length of the beginning of every version 1 connection: the magic and the command of the
/// first message. A version 2 key begins with the same bytes once in 2^128 times.
const V1_PREFIX: usize = 16;
const VERSION_COMMAND: &[u8; 12] = b"version\0\0\0\0\0";

/// The transport of a connection; Bitcoin Core's `transport_protocol_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportType {
    /// The version is not known yet.
    #[default]
    Detecting,
    /// Version 1, which is not encrypted.
    V1,
    /// Version 2 (BIP 324), which is encrypted.
    V2,
}

impl TransportType {
    /// Returns Bitcoin Core's name of the transport.
    pub fn as_str(self) -> &'static str {
        match self {
            TransportType::Detecting => "detecting",
            TransportType::V1 => "v1",
            TransportType::V2 => "v2",
        }
    }
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// An inbound connection, whose first bytes decide the version. Without `with_v2`, the bytes
    /// must be of version 1.
    Detect {
        with_v2: bool,
    },
    DialV1,
    DialV2,
}

/// The receiving side.
pub(crate) struct Incoming {
    magic: Magic,
    state: State,
}

enum State {
    /// The bytes so far, which do not decide the version yet.
    Detecting(Vec<u8>),
    V1(Framer),
    // Boxed, because it has several hundred bytes of keys and lives only briefly.
    Handshake(Box<V2Handshake>),
    V2(Box<V2Receiver>, SessionId),
}

/// The identifier of a version 2 session. The operators of both ends can compare their identifiers.
/// The identifiers differ if there is a man in the middle.
pub type SessionId = [u8; 32];

/// The sending side.
pub(crate) enum Outgoing {
    /// The messages that wait until the version is known: the dialling side's `version`.
    Waiting(Vec<Vec<u8>>),
    V1,
    V2(Box<OutboundCipher>),
}

/// Returns both sides of a new connection, and the bytes to send first.
pub(crate) fn begin(magic: Magic, start: Start) -> (Incoming, Outgoing, Vec<u8>) {
    let (state, outgoing, out) = match start {
        Start::Detect { with_v2: true } => {
            (State::Detecting(Vec::new()), Outgoing::Waiting(Vec::new()), Vec::new())
        }
        Start::DialV2 => match V2Handshake::begin(magic, Role::Initiator, random) {
            Ok((handshake, out)) => {
                (State::Handshake(Box::new(handshake)), Outgoing::Waiting(Vec::new()), out)
            }
            Err(error) => {
                log::warn!("cannot begin a v2 handshake; v1 is used instead: {error}");
                (State::V1(Framer::new(magic)), Outgoing::V1, Vec::new())
            }
        },
        Start::DialV1 | Start::Detect { with_v2: false } => {
            (State::V1(Framer::new(magic)), Outgoing::V1, Vec::new())
        }
    };
    (Incoming { magic, state }, outgoing, out)
}

/// The results of a received piece of the stream, besides messages.
#[derive(Default)]
pub(crate) struct Progress {
    /// Bytes to send unchanged, before anything else.
    pub(crate) out: Vec<u8>,
    /// The new sending side, once the version is known.
    pub(crate) outgoing: Option<Outgoing>,
}

impl Incoming {
    /// Returns the transport and its session id, once the version is known.
    pub(crate) fn transport(&self) -> Option<(TransportType, Option<SessionId>)> {
        match self.state {
            State::Detecting(_) | State::Handshake(_) => None,
            State::V1(_) => Some((TransportType::V1, None)),
            State::V2(_, id) => Some((TransportType::V2, Some(id))),
        }
    }

    /// Returns whether this side has begun version 2 and the peer has sent no key. The peer may
    /// have sent nothing, an incomplete key, or a version 1 message, as a node does that greets
    /// inbound peers.
    pub(crate) fn is_without_key(&self) -> bool {
        matches!(&self.state, State::Handshake(handshake) if !handshake.has_key)
    }

    /// Takes received bytes, and passes each message that they complete to `whole_message`.
    ///
    /// # Errors
    ///
    /// [`TransportError`], after which the stream cannot be decoded further.
    pub(crate) fn receive(
        &mut self,
        data: &[u8],
        mut whole_message: impl FnMut(Message),
    ) -> Result<Progress, TransportError> {
        let mut progress = Progress::default();
        let (held_back, rest);
        let mut data = data;
        if let State::Detecting(bytes) = &mut self.state {
            bytes.extend_from_slice(data);
            let Some(is_v1) = is_v1(self.magic, bytes) else { return Ok(progress) };
            held_back = std::mem::take(bytes);
            data = &held_back;
            self.state = if is_v1 {
                progress.outgoing = Some(Outgoing::V1);
                State::V1(Framer::new(self.magic))
            } else {
                let (handshake, out) = V2Handshake::begin(self.magic, Role::Responder, random)?;
                progress.out = out;
                State::Handshake(Box::new(handshake))
            };
        }
        if let State::Handshake(handshake) = &mut self.state {
            let Some(established) = handshake.receive(data, &mut progress.out)? else {
                return Ok(progress);
            };
            self.state = State::V2(Box::new(established.inbound), established.session_id);
            progress.outgoing = Some(Outgoing::V2(Box::new(established.outbound)));
            rest = established.rest;
            data = &rest;
        }
        match &mut self.state {
            State::V1(framer) => {
                framer.receive(data, |bytes| whole_message(Message::V1(bytes)))?;
            }
            State::V2(receiver, _) => {
                receiver.receive(data, |contents| whole_message(Message::V2(contents)))?;
            }
            State::Detecting(_) | State::Handshake(_) => {}
        }
        Ok(progress)
    }
}

/// Returns whether a stream that begins with `bytes` is version 1, or `None` if too few bytes have
/// arrived. According to BIP 324, the first byte that does not fit version 1 decides: the dialling
/// side may wait for an answer before it sends the rest of its key.
fn is_v1(magic: Magic, bytes: &[u8]) -> Option<bool> {
    let prefix = [&magic.to_bytes()[..], VERSION_COMMAND].concat();
    let fits = bytes.iter().zip(&prefix).all(|(byte, expected)| byte == expected);
    if fits && bytes.len() < V1_PREFIX { None } else { Some(fits) }
}

/// A whole message as it arrived. The socket thread does not decode it.
#[derive(Debug)]
pub(crate) enum Message {
    /// The header and the payload.
    V1(Vec<u8>),
    /// The name, in the form of version 2, and the payload.
    V2(Vec<u8>),
}

impl Message {
    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Message::V1(bytes) | Message::V2(bytes) => bytes.len(),
        }
    }

    /// Decodes the message. Returns `None` if its name is not valid or unknown, which is no error:
    /// such names are for extensions of the protocol.
    ///
    /// # Errors
    ///
    /// [`encode::Error`], if the message is malformed.
    pub(crate) fn decode(self, magic: Magic) -> Result<Option<NetworkMessage>, encode::Error> {
        let bytes = match self {
            Message::V1(bytes) => bytes,
            Message::V2(contents) => match short_ids::to_v1(magic, &contents) {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
        };
        decoding::decode(&bytes)
    }
}

impl Outgoing {
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, Outgoing::Waiting(_))
    }

    /// Sends or queues a message that has a version 1 header.
    ///
    /// # Errors
    ///
    /// The errors of [`Remote::push`].
    pub(crate) fn push<C>(
        &mut self,
        to: &Remote<C>,
        message: Vec<u8>,
        more: More,
    ) -> Result<(), PushError> {
        match self {
            // This node sends only its own `version` before the handshake, so the list stays short.
            Outgoing::Waiting(messages) => {
                messages.push(message);
                Ok(())
            }
            Outgoing::V1 => to.push_with(&message, more),
            Outgoing::V2(cipher) => {
                let contents = short_ids::to_v2(&message);
                let packet = cipher.encrypt_to_vec(&contents, PacketType::Genuine, None);
                to.push_with(&packet, more)
            }
        }
    }

    /// Applies the progress of the receiving side: sends its bytes, then switches to the new
    /// sending side and sends the messages that waited.
    ///
    /// # Errors
    ///
    /// The errors of [`Remote::push`].
    pub(crate) fn advance<C>(
        &mut self,
        to: &Remote<C>,
        progress: Progress,
    ) -> Result<(), PushError> {
        if !progress.out.is_empty() {
            to.push_with(&progress.out, progress.outgoing.is_some().into())?;
        }
        let Some(next) = progress.outgoing else { return Ok(()) };
        let before = std::mem::replace(self, next);
        let Outgoing::Waiting(messages) = before else { return Ok(()) };
        messages.into_iter().try_for_each(|message| self.push(to, message, More::No))
    }
}

/// The error returned when a stream cannot be decoded.
#[derive(Debug)]
pub(crate) enum TransportError {
    V1(FramingError),
    V2(V2Error),
}

impl From<FramingError> for TransportError {
    fn from(error: FramingError) -> TransportError {
        TransportError::V1(error)
    }
}

impl From<V2Error> for TransportError {
    fn from(error: V2Error) -> TransportError {
        TransportError::V2(error)
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransportError::V1(error) => error.fmt(f),
            TransportError::V2(error) => error.fmt(f),
        }
    }
}

impl Error for TransportError {}

#[cfg(test)]
mod tests;
