//! Version 2 of the transport (BIP 324): keys, garbage, then encrypted packets.
//!
//! No sockets, no threads: bytes in; bytes to send, and the contents of packets out. The
//! cryptography is the `bip324` crate's; here stands what has to be kept between two pieces of a
//! stream that comes in any pieces.

use std::{error::Error, fmt};

use bip324::{
    CipherSession, GarbageResult, Handshake, InboundCipher, Initialized, OutboundCipher,
    ReceivedGarbage, ReceivedKey, Role, SentKey, SentVersion, VersionResult,
};
use bitcoin::p2p::Magic;

use super::{SessionId, V1_PREFIX, VERSION_COMMAND, v1::MAX_MESSAGE_LENGTH};

/// A public key on the wire.
const KEY: usize = 64;
/// The encrypted length in front of each packet.
const LENGTH: usize = bip324::NUM_LENGTH_BYTES;
/// The flag of a decoy.
const IGNORE: u8 = 0x80;
/// What is in a packet besides the message's payload: flags, name, authentication tag.
const MAX_OVERHEAD: usize = 1 + 13 + 16;
/// Our garbage, whose only purpose is that the length of the first packet tells nothing. The
/// standard allows 4095 bytes. A node of version 1 such as bcoin counts every 24 bytes of nonsense,
/// and at the tenth bans whom it came from: with more, there would be nobody to fall back to.
const MAX_OUR_GARBAGE: usize = 128;
/// Decoys before the version packet may be as long as any packet; but nobody needs so many bytes
/// to say hello.
const MAX_HANDSHAKE: usize = 256 * 1024;

// The crate's states borrow the garbage that the first packet vouches for, ours and the peer's.
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
    /// With the length of the packet that is being received, once it is known.
    Version(AwaitingVersion, Option<usize>),
    Over,
}

/// The conversation up to and with the version packets.
pub(super) struct V2Handshake {
    state: State,
    /// Received and not yet used.
    buffer: Vec<u8>,
    received: usize,
    /// The peer has sent a key, and with it has shown that it knows version 2.
    pub(super) has_key: bool,
}

/// What a handshake leads to.
pub(super) struct Established {
    pub(super) session_id: SessionId,
    pub(super) inbound: V2Receiver,
    pub(super) outbound: OutboundCipher,
    /// What came behind the handshake already.
    pub(super) rest: Vec<u8>,
}

impl V2Handshake {
    /// Also what to send at once: our key, and garbage.
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

    /// Takes bytes off the wire; appends to `out` what is to be sent.
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
                    // Fails for what begins with the magic of version 1.
                    self.state = State::Garbage(received_key(&mut awaiting, key, out)?);
                    self.has_key = true;
                }
                State::Garbage(handshake) => {
                    // The rest of the buffer goes along: what is garbage in it shows only now.
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
                            let inbound = V2Receiver::new(inbound);
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

    /// Version 1 of this network has been told apart before.
    fn is_of_another_network(&self) -> bool {
        self.buffer.get(V1_PREFIX - VERSION_COMMAND.len()..V1_PREFIX) == Some(VERSION_COMMAND)
    }

    /// The buffer comes back if the garbage has no end yet.
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

    /// A whole packet, without its length; until then, the state is put back.
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
                // Swapped out and in again: `awaiting` is the caller's to move.
                let unused = AwaitingVersion::new(Vec::new(), |_| None);
                let awaiting = std::mem::replace(awaiting, unused);
                self.state = State::Version(awaiting, length);
                Ok(None)
            }
        }
    }
}

/// Appends our terminator and version packet to `out`.
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

/// `None`: a decoy.
fn received_packet(
    awaiting: &mut AwaitingVersion,
    packet: &mut [u8],
) -> Result<Option<CipherSession>, V2Error> {
    awaiting.with_dependent_mut(|_, state| {
        let handshake = state.take().ok_or(V2Error::OutOfStep)?;
        match handshake.receive_version(packet)? {
            // What is in the version packet is for extensions that do not exist yet.
            VersionResult::Complete { cipher } => Ok(Some(cipher)),
            VersionResult::Decoy(handshake) => {
                *state = Some(handshake);
                Ok(None)
            }
        }
    })
}

/// Packets, after the handshake.
pub(super) struct V2Receiver {
    cipher: InboundCipher,
    /// Grows with the bytes that arrive, never with the length that a packet claims.
    partial: Vec<u8>,
    length: Option<usize>,
}

impl V2Receiver {
    fn new(cipher: InboundCipher) -> V2Receiver {
        V2Receiver { cipher, partial: Vec::new(), length: None }
    }

    /// Hands on the contents of each packet that is complete and no decoy.
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
                // The other flags are for later, says BIP 324, and to be passed over.
                if !contents.is_empty() && contents.remove(0) & IGNORE == 0 {
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

/// Why a stream is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum V2Error {
    Crypto(bip324::Error),
    HandshakeTooLong,
    Oversized {
        length: usize,
    },
    /// It speaks version 1, of another network.
    OtherNetwork,
    /// It went on after an error.
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
            V2Error::HandshakeTooLong => write!(f, "v2 transport: its handshake does not end"),
            V2Error::Oversized { length } => {
                write!(f, "v2 transport: it announced a packet of {length} bytes")
            }
            V2Error::OtherNetwork => write!(f, "it does not speak this network's protocol"),
            V2Error::OutOfStep => write!(f, "v2 transport: it has failed already"),
        }
    }
}

impl Error for V2Error {}
