//! Version 2 of the transport (BIP 324): keys, garbage, then encrypted packets.
//!
//! A state machine without sockets and threads. It takes received bytes, and returns bytes to send
//! and the contents of packets. The crate `bip324` does the cryptography. This module keeps the
//! state between the pieces of a stream, which may have any size.

use std::{error::Error, fmt};

use bip324::{
    CipherSession, GarbageResult, Handshake, InboundCipher, Initialized, OutboundCipher,
    ReceivedGarbage, ReceivedKey, Role, SentKey, SentVersion, VersionResult,
};
use bitcoin::p2p::Magic;

use super::{SessionId, V1_PREFIX, VERSION_COMMAND, v1::MAX_MESSAGE_LENGTH};

/// The length of a public key on the wire.
const KEY: usize = 64;
/// The length of the encrypted length in front of each packet.
const LENGTH: usize = bip324::NUM_LENGTH_BYTES;
/// The flag of a decoy.
const IGNORE: u8 = 0x80;
/// The most bytes of a packet besides the payload: flags, name, authentication tag.
const MAX_OVERHEAD: usize = 1 + 13 + 16;
/// The most garbage that this node sends. Garbage only hides the length of the first packet, and
/// BIP 324 allows 4095 bytes. A version 1 node such as bcoin counts every 24 undecodable bytes as a
/// fault and bans the sender at the tenth. With more garbage, this node would be banned before it
/// could fall back to version 1.
const MAX_OUR_GARBAGE: usize = 128;
/// The most bytes of a handshake. BIP 324 allows decoys of any length before the version packet,
/// but no honest peer needs more.
const MAX_HANDSHAKE: usize = 256 * 1024;

// The states of `bip324` borrow the garbage, the node's and the peer's, that the first packet
// authenticates.
self_cell::self_cell!(
    struct AwaitingKey {
        owner: Vec<u8>,
        #[not_covariant]
        dependent: SentKeyState,
    }
);
type SentKeyState<'a> = Option<Handshake<SentKey<'a>>>;

self_cell::self_cell!(
    struct AwaitingVersion {
        owner: Vec<u8>,
        #[not_covariant]
        dependent: ReceivedGarbageState,
    }
);
type ReceivedGarbageState<'a> = Option<Handshake<ReceivedGarbage<'a>>>;

enum State {
    Key(AwaitingKey),
    Garbage(Handshake<SentVersion>),
    /// Contains the length of the packet that is being received, once it is known.
    Version(AwaitingVersion, Option<usize>),
    Over,
}

/// A handshake, which ends with the version packets.
pub(super) struct V2Handshake {
    state: State,
    /// Received bytes that are not used yet.
    buffer: Vec<u8>,
    received: usize,
    /// The peer has sent a key, which shows that it knows version 2.
    pub(super) has_key: bool,
}

/// The result of a handshake.
pub(super) struct Established {
    pub(super) session_id: SessionId,
    pub(super) inbound: V2Receiver,
    pub(super) outbound: OutboundCipher,
    /// The received bytes that follow the handshake.
    pub(super) rest: Vec<u8>,
}

impl V2Handshake {
    /// Begins a handshake. Returns the handshake with the bytes to send at once, which are this
    /// node's key and garbage.
    pub(super) fn begin(
        magic: Magic,
        role: Role,
        random: impl Fn() -> u64,
    ) -> Result<(V2Handshake, Vec<u8>), V2Error> {
        let length = usize::try_from(random()).unwrap_or(0) % (MAX_OUR_GARBAGE + 1);
        let mut garbage = Vec::with_capacity(length + size_of::<u64>());
        while garbage.len() < length {
            garbage.extend_from_slice(&random().to_le_bytes());
        }
        garbage.truncate(length);

        let handshake = Handshake::<Initialized>::new(magic.to_bytes(), role)?;
        let mut out = vec![0; Handshake::<Initialized>::send_key_len(Some(&garbage))];
        let awaiting = AwaitingKey::try_new(garbage, |garbage| {
            handshake.send_key(Some(garbage), &mut out).map(Some)
        })?;
        let state = State::Key(awaiting);
        let handshake = V2Handshake { state, buffer: Vec::new(), received: 0, has_key: false };
        Ok((handshake, out))
    }

    /// Takes received bytes, and appends to `out` the bytes to send. Returns the result once the
    /// handshake is complete.
    pub(super) fn receive(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Established>, V2Error> {
        self.received += data.len();
        self.buffer.extend_from_slice(data);
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Key(mut awaiting) => {
                    if self.is_of_another_network() {
                        return Err(V2Error::OtherNetwork);
                    }
                    let Some(key) = self.buffer.first_chunk::<KEY>().copied() else {
                        self.state = State::Key(awaiting);
                        return Ok(None);
                    };
                    self.buffer.drain(..KEY);
                    // Fails for bytes that begin with the magic of version 1.
                    self.state = State::Garbage(received_key(&mut awaiting, key, out)?);
                    self.has_key = true;
                }
                State::Garbage(handshake) => {
                    // The whole buffer is passed on: the end of the garbage is not known before.
                    let buffer = std::mem::take(&mut self.buffer);
                    if let Some(buffer) = self.received_garbage(handshake, buffer)? {
                        self.buffer = buffer;
                        return Ok(None);
                    }
                }
                State::Version(mut awaiting, length) => {
                    let Some(mut packet) = self.packet(&mut awaiting, length)? else {
                        return Ok(None);
                    };
                    match received_packet(&mut awaiting, &mut packet)? {
                        Some(session) => {
                            let session_id = *session.id();
                            let (inbound, outbound) = session.into_split();
                            let inbound = V2Receiver::new(inbound, is_decoy(&packet));
                            let rest = std::mem::take(&mut self.buffer);
                            let established = Established { session_id, inbound, outbound, rest };
                            return Ok(Some(established));
                        }
                        None => self.state = State::Version(awaiting, None),
                    }
                }
                State::Over => return Err(V2Error::OutOfStep),
            }
        }
    }

    /// Returns whether the peer speaks version 1. An inbound peer then belongs to another network,
    /// because version 1 of this network is recognised before a handshake begins. An outbound peer
    /// may belong to either.
    fn is_of_another_network(&self) -> bool {
        self.buffer.get(V1_PREFIX - VERSION_COMMAND.len()..V1_PREFIX) == Some(VERSION_COMMAND)
    }

    /// Searches `buffer` for the end of the garbage. Returns the buffer if the end has not arrived
    /// yet.
    fn received_garbage(
        &mut self,
        handshake: Handshake<SentVersion>,
        buffer: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, V2Error> {
        let mut used = 0;
        let mut failed = None;
        let mut unfinished = None;
        let awaiting = AwaitingVersion::new(buffer, |buffer| {
            match handshake.receive_garbage(buffer) {
                Ok(GarbageResult::FoundGarbage { handshake, consumed_bytes }) => {
                    used = consumed_bytes;
                    return Some(handshake);
                }
                Ok(GarbageResult::NeedMoreData(handshake)) => unfinished = Some(handshake),
                Err(error) => failed = Some(error),
            }
            None
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        if let Some(handshake) = unfinished {
            self.state = State::Garbage(handshake);
            return Ok(Some(awaiting.into_owner()));
        }
        self.buffer = awaiting.borrow_owner().get(used..).unwrap_or_default().to_vec();
        self.state = State::Version(awaiting, None);
        Ok(None)
    }

    /// Returns a whole packet without its length. Returns `None`, and restores the state, while the
    /// packet is incomplete.
    fn packet(
        &mut self,
        awaiting: &mut AwaitingVersion,
        length: Option<usize>,
    ) -> Result<Option<Vec<u8>>, V2Error> {
        let length = match (length, self.buffer.first_chunk::<LENGTH>().copied()) {
            (Some(length), _) => Some(length),
            (None, None) => None,
            (None, Some(bytes)) => {
                self.buffer.drain(..LENGTH);
                let length = awaiting.with_dependent_mut(|_, handshake| {
                    let handshake = handshake.as_mut().ok_or(V2Error::OutOfStep)?;
                    Ok::<_, V2Error>(handshake.decrypt_packet_len(bytes)?)
                })?;
                if length + self.received > MAX_HANDSHAKE {
                    return Err(V2Error::HandshakeTooLong);
                }
                Some(length)
            }
        };
        match length {
            Some(length) if self.buffer.len() >= length => {
                Ok(Some(self.buffer.drain(..length).collect()))
            }
            length => {
                // A placeholder takes the place of `awaiting`, which is only borrowed here.
                let unused = AwaitingVersion::new(Vec::new(), |_| None);
                let awaiting = std::mem::replace(awaiting, unused);
                self.state = State::Version(awaiting, length);
                Ok(None)
            }
        }
    }
}

/// Processes the peer's key, and appends this node's terminator and version packet to `out`.
fn received_key(
    awaiting: &mut AwaitingKey,
    key: [u8; KEY],
    out: &mut Vec<u8>,
) -> Result<Handshake<SentVersion>, V2Error> {
    awaiting.with_dependent_mut(|_, handshake| {
        let handshake = handshake.take().ok_or(V2Error::OutOfStep)?.receive_key(key)?;
        let mut version = vec![0; Handshake::<ReceivedKey<'_>>::send_version_len(None)];
        let handshake = handshake.send_version(&mut version, None)?;
        out.append(&mut version);
        Ok(handshake)
    })
}

/// Returns whether the flags in front of decrypted contents are those of a decoy.
fn is_decoy(plain: &[u8]) -> bool {
    plain.first().is_some_and(|flags| flags & IGNORE != 0)
}

/// Decrypts a packet of the handshake in place. Returns the session, or `None` if the packet is a
/// decoy. The crate takes a decoy with further flags, which BIP 324 reserves, for the version packet.
fn received_packet(
    awaiting: &mut AwaitingVersion,
    packet: &mut [u8],
) -> Result<Option<CipherSession>, V2Error> {
    awaiting.with_dependent_mut(|_, state| {
        let handshake = state.take().ok_or(V2Error::OutOfStep)?;
        match handshake.receive_version(packet)? {
            // The contents of the version packet are reserved for future extensions.
            VersionResult::Complete { cipher } => Ok(Some(cipher)),
            VersionResult::Decoy(handshake) => {
                *state = Some(handshake);
                Ok(None)
            }
        }
    })
}

/// Decrypts the packets after the handshake.
pub(super) struct V2Receiver {
    cipher: InboundCipher,
    /// Grows with the bytes that arrive, not by the length that a packet claims.
    partial: Vec<u8>,
    length: Option<usize>,
    /// Whether the next packet that is no decoy is the version packet.
    awaits_version: bool,
}

impl V2Receiver {
    fn new(cipher: InboundCipher, awaits_version: bool) -> V2Receiver {
        V2Receiver { cipher, partial: Vec::new(), length: None, awaits_version }
    }

    /// Takes received bytes, and passes the contents of each complete packet to `whole_contents`.
    /// Skips decoys.
    pub(super) fn receive(
        &mut self,
        mut data: &[u8],
        mut whole_contents: impl FnMut(Vec<u8>),
    ) -> Result<(), V2Error> {
        loop {
            let wanted = self.length.unwrap_or(LENGTH);
            let (now, later) = data.split_at((wanted - self.partial.len()).min(data.len()));
            self.partial.extend_from_slice(now);
            data = later;
            if self.partial.len() < wanted {
                return Ok(());
            }
            let bytes = std::mem::take(&mut self.partial);
            if self.length.take().is_some() {
                let (_, mut contents) = self.cipher.decrypt_to_vec(&bytes, None)?;
                // BIP 324 reserves the other flags and requires receivers to ignore them.
                if !contents.is_empty()
                    && contents.remove(0) & IGNORE == 0
                    && !std::mem::take(&mut self.awaits_version)
                {
                    whole_contents(contents);
                }
            } else if let Some(bytes) = bytes.first_chunk::<LENGTH>() {
                let length = self.cipher.decrypt_packet_len(*bytes);
                if length > MAX_MESSAGE_LENGTH + MAX_OVERHEAD {
                    return Err(V2Error::Oversized { length });
                }
                self.length = Some(length);
            }
        }
    }
}

/// The error returned when a stream cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum V2Error {
    Crypto(bip324::Error),
    HandshakeTooLong,
    Oversized {
        length: usize,
    },
    /// The peer speaks version 1; an inbound peer does so for another network.
    OtherNetwork,
    /// More bytes were passed in after an error.
    OutOfStep,
}

impl From<bip324::Error> for V2Error {
    fn from(error: bip324::Error) -> V2Error {
        V2Error::Crypto(error)
    }
}

impl fmt::Display for V2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            V2Error::Crypto(error) => write!(f, "v2 transport: {error}"),
            V2Error::HandshakeTooLong => {
                write!(f, "v2 transport: the peer's handshake is longer than {MAX_HANDSHAKE} bytes")
            }
            V2Error::Oversized { length } => write!(
                f,
                "v2 transport: the peer announced a packet of {length} bytes, over {}",
                MAX_MESSAGE_LENGTH + MAX_OVERHEAD
            ),
            V2Error::OtherNetwork => write!(f, "the peer speaks v1, possibly of another network"),
            V2Error::OutOfStep => write!(f, "v2 transport: the transport has failed before"),
        }
    }
}

impl Error for V2Error {}
