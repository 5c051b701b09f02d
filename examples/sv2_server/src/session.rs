//! The protocol state of one client: the Noise handshake, then Stratum V2 frames.
//!
//! A [`Session`] takes received bytes, and returns bytes to send and whether the client has
//! subscribed. It uses no sockets and no threads. The crates of the reference implementation
//! provide cryptography, frames and messages.

use std::{
    fmt, mem,
    ops::RangeInclusive,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use binary_sv2::{B064K, GetSize, Seq064K, Serialize, Str0255, from_bytes};
use codec_sv2::{
    Decrypted, ENCRYPTED_SV2_FRAME_HEADER_SIZE, Handshake, MessageFrame, NoiseDecoder,
    NoiseEncoder, SV2_FRAME_PLAINTEXT_CHUNK_SIZE, TransportDecryptState, TransportEncryptState,
};
use common_messages_sv2::{
    CHANNEL_BIT_SETUP_CONNECTION_ERROR, CHANNEL_BIT_SETUP_CONNECTION_SUCCESS,
    ERROR_CODE_SETUP_CONNECTION_PROTOCOL_VERSION_MISMATCH,
    ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_FEATURE_FLAGS,
    ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_PROTOCOL, MESSAGE_TYPE_SETUP_CONNECTION,
    MESSAGE_TYPE_SETUP_CONNECTION_ERROR, MESSAGE_TYPE_SETUP_CONNECTION_SUCCESS, Protocol,
    SetupConnection, SetupConnectionError, SetupConnectionSuccess,
};
use noise_sv2::{AEAD_MAC_LEN, ELLSWIFT_ENCODING_SIZE, Responder};
use template_distribution_sv2::{
    CHANNEL_BIT_NEW_TEMPLATE, CHANNEL_BIT_REQUEST_TRANSACTION_DATA_ERROR,
    CHANNEL_BIT_REQUEST_TRANSACTION_DATA_SUCCESS, CHANNEL_BIT_SET_NEW_PREV_HASH,
    CoinbaseOutputConstraints, ERROR_CODE_REQUEST_TRANSACTION_DATA_STALE_TEMPLATE_ID,
    ERROR_CODE_REQUEST_TRANSACTION_DATA_TEMPLATE_ID_NOT_FOUND,
    MESSAGE_TYPE_COINBASE_OUTPUT_CONSTRAINTS, MESSAGE_TYPE_NEW_TEMPLATE,
    MESSAGE_TYPE_REQUEST_TRANSACTION_DATA, MESSAGE_TYPE_REQUEST_TRANSACTION_DATA_ERROR,
    MESSAGE_TYPE_REQUEST_TRANSACTION_DATA_SUCCESS, MESSAGE_TYPE_SET_NEW_PREV_HASH,
    RequestTransactionData, RequestTransactionDataError, RequestTransactionDataSuccess,
};

use crate::{keys::AuthorityKeys, templates::Template};

/// The version of the protocol.
const VERSION: u16 = 2;
/// How far the clock of a client may be behind this server's or ahead of it. The certificate that
/// the client receives is valid from this time ago, and for this time. The crate accepts only ten
/// seconds more, and clients that cannot set their clocks are common.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);
/// The size of the longest `SetupConnection`: 11 bytes of numbers, and five strings of up to 255
/// bytes with a length byte each.
const MAX_SETUP_FRAME: usize = frame_size(11 + 5 * 256);
/// The size of the longest later message, a `SubmitSolution`: 20 bytes of numbers, two bytes of
/// length, and a coinbase transaction of up to 65,535 bytes. A header could announce 16 MiB.
const MAX_FRAME: usize = frame_size(20 + 2 + 65_535);

/// Returns the size of an encrypted frame. The payload is encrypted in chunks, and each chunk has
/// its own authentication code.
const fn frame_size(payload: usize) -> usize {
    let chunks = payload.div_ceil(SV2_FRAME_PLAINTEXT_CHUNK_SIZE);
    ENCRYPTED_SV2_FRAME_HEADER_SIZE + payload + chunks * AEAD_MAC_LEN
}

#[allow(
    clippy::large_enum_variant,
    reason = "a session is in the large state for most of its life"
)]
enum State {
    /// Waits for the client's key. Nothing is computed for a client before its key arrives.
    Handshake(AuthorityKeys),
    Transport {
        decoder: NoiseDecoder,
        decrypt: TransportDecryptState,
        encrypt: TransportEncryptState,
    },
    /// The state after a fault or a refusal.
    Over,
}

/// The stage of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The client's key is awaited.
    Handshake,
    /// The client's `SetupConnection` is awaited.
    SetupConnection,
    /// The setup was refused with a reason. Nothing more is sent to the client.
    Refused,
    /// The setup is done. The client's subscription is awaited.
    SetUp,
    /// The client gets templates.
    Subscribed,
}

pub(crate) struct Session {
    state: State,
    stage: Stage,
    /// Received bytes, fewer than the decoder needs next.
    pending: Vec<u8>,
    /// How many bytes of an incomplete frame the decoder has.
    within_frame: usize,
    /// The ids from the first pushed template to the last. The client may have missed some of these
    /// templates.
    pushed: Option<RangeInclusive<u64>>,
}

/// The result of receiving a piece of the stream.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The bytes to send.
    pub(crate) out: Vec<u8>,
    /// The client has subscribed with this piece.
    pub(crate) has_subscribed: bool,
}

/// A fault for which a client is disconnected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Handshake(String),
    Frame(String),
    Encoding(String),
    Oversized { limit: usize },
    OutOfTurn { message_type: u8 },
    Malformed { message_type: u8 },
    Over,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Handshake(error) => write!(f, "the handshake failed: {error}"),
            Fault::Frame(error) => write!(f, "a frame could not be decrypted: {error}"),
            Fault::Encoding(error) => write!(f, "a message could not be encoded: {error}"),
            Fault::Oversized { limit } => {
                write!(f, "the client announced a frame of more than {limit} bytes")
            }
            Fault::OutOfTurn { message_type } => {
                write!(f, "the client sent a message of type {message_type:#04x} out of turn")
            }
            Fault::Malformed { message_type } => {
                write!(f, "the client sent a malformed message of type {message_type:#04x}")
            }
            Fault::Over => write!(f, "the session has ended after an earlier fault or refusal"),
        }
    }
}

impl Session {
    pub(crate) fn new(keys: &AuthorityKeys) -> Session {
        Session {
            state: State::Handshake(keys.clone()),
            stage: Stage::Handshake,
            pending: Vec::new(),
            within_frame: 0,
            pushed: None,
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes received bytes. After a fault or a refusal, every further call returns `Fault::Over`.
    pub(crate) fn receive(&mut self, data: &[u8]) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        let state = mem::replace(&mut self.state, State::Over);
        let mut bytes = mem::take(&mut self.pending);
        bytes.extend_from_slice(data);
        let mut rest = &bytes[..];
        self.state = self.advance(state, &mut rest, &mut progress)?;
        // The rest is moved to the front once for all frames. A client that has sent only whole
        // frames keeps no buffer.
        let taken = bytes.len() - rest.len();
        if taken < bytes.len() && self.stage != Stage::Refused {
            bytes.drain(..taken);
            self.pending = bytes;
        }
        Ok(progress)
    }

    /// Takes the handshake and whole frames from the front of `rest`.
    fn advance(
        &mut self,
        mut state: State,
        rest: &mut &[u8],
        progress: &mut Progress,
    ) -> Result<State, Fault> {
        loop {
            state = match state {
                State::Handshake(keys) => {
                    let Some((key, behind)) = rest.split_first_chunk() else {
                        return Ok(State::Handshake(keys));
                    };
                    *rest = behind;
                    self.handshake(&keys, *key, progress)?
                }
                State::Transport { mut decoder, decrypt, mut encrypt } => {
                    let wanted = decoder.writable_len();
                    self.check_size(wanted)?;
                    let Some((piece, behind)) = rest.split_at_checked(wanted) else {
                        return Ok(State::Transport { decoder, decrypt, encrypt });
                    };
                    *rest = behind;
                    self.within_frame += wanted;
                    decoder.writable().copy_from_slice(piece);
                    let decrypted = decoder
                        .next_transport_frame(decrypt)
                        .map_err(|error| Fault::Frame(error.to_string()))?;
                    let decrypt = match decrypted {
                        Decrypted::Incomplete(_, decrypt) => decrypt,
                        Decrypted::Frame(mut frame, decrypt) => {
                            self.within_frame = 0;
                            let header = frame.header();
                            // Extensions are not supported. The standard says to ignore their
                            // messages.
                            if header.ext_type_without_channel_msg() == 0 {
                                let (kind, payload) = (header.msg_type(), frame.payload());
                                self.received(kind, payload, &mut encrypt, progress)?;
                            }
                            decrypt
                        }
                    };
                    // After a refusal, the rest of the client's bytes is ignored.
                    if self.stage == Stage::Refused {
                        return Ok(State::Over);
                    }
                    State::Transport { decoder, decrypt, encrypt }
                }
                State::Over => return Err(Fault::Over),
            }
        }
    }

    fn handshake(
        &mut self,
        keys: &AuthorityKeys,
        client_key: [u8; ELLSWIFT_ENCODING_SIZE],
        progress: &mut Progress,
    ) -> Result<State, Fault> {
        let validity = CLOCK_TOLERANCE * 2;
        let responder = Responder::from_authority_kp(&keys.public(), &keys.secret(), validity)
            .map_err(|error| Fault::Handshake(format!("{error:?}")))?;
        // The crate makes the certificate valid from the time that it is given.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let valid_from = now.saturating_sub(CLOCK_TOLERANCE).as_secs();
        let valid_from = u32::try_from(valid_from).unwrap_or(u32::MAX);
        let (answer, transport) = Handshake::responder(responder)
            .step_1_with_now_rng(client_key, valid_from, &mut rand::thread_rng())
            .map_err(|error| Fault::Handshake(error.to_string()))?;
        progress.out.extend_from_slice(answer.payload());
        self.stage = Stage::SetupConnection;
        let (encrypt, decrypt) = transport.split();
        Ok(State::Transport { decoder: NoiseDecoder::new(), decrypt, encrypt })
    }

    /// Refuses a frame that is too long before its next `wanted` bytes are awaited.
    ///
    /// The decoder knows the length of the frame but does not report it: it asks for at most one
    /// chunk, 65,535 bytes. So a `SetupConnection` that is too long is refused at its header. The
    /// limit for later messages is larger than a chunk, so such a message is refused after its
    /// first chunk at the latest.
    fn check_size(&self, wanted: usize) -> Result<(), Fault> {
        let limit = match self.stage {
            Stage::Handshake | Stage::SetupConnection | Stage::Refused => MAX_SETUP_FRAME,
            Stage::SetUp | Stage::Subscribed => MAX_FRAME,
        };
        if self.within_frame + wanted > limit {
            return Err(Fault::Oversized { limit });
        }
        Ok(())
    }

    fn received(
        &mut self,
        message_type: u8,
        payload: &mut [u8],
        encrypt: &mut TransportEncryptState,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        match (message_type, self.stage) {
            (MESSAGE_TYPE_SETUP_CONNECTION, Stage::SetupConnection) => {
                if let Some((flags, reason)) = why_refused(payload)? {
                    self.stage = Stage::Refused;
                    let error_code = Str0255::try_from(reason)
                        .map_err(|error| Fault::Encoding(error.to_string()))?;
                    let answer = SetupConnectionError { flags, error_code };
                    let (kind, bit) =
                        (MESSAGE_TYPE_SETUP_CONNECTION_ERROR, CHANNEL_BIT_SETUP_CONNECTION_ERROR);
                    return encode(encrypt, answer, kind, bit, &mut progress.out);
                }
                self.stage = Stage::SetUp;
                let answer = SetupConnectionSuccess { used_version: VERSION, flags: 0 };
                let (kind, bit) =
                    (MESSAGE_TYPE_SETUP_CONNECTION_SUCCESS, CHANNEL_BIT_SETUP_CONNECTION_SUCCESS);
                encode(encrypt, answer, kind, bit, &mut progress.out)
            }
            (MESSAGE_TYPE_COINBASE_OUTPUT_CONSTRAINTS, Stage::SetUp | Stage::Subscribed) => {
                let _: CoinbaseOutputConstraints =
                    from_bytes(payload).map_err(|_| Fault::Malformed { message_type })?;
                // New constraints would apply to later templates. The made-up templates satisfy any
                // constraints.
                if self.stage == Stage::SetUp {
                    self.stage = Stage::Subscribed;
                    progress.has_subscribed = true;
                }
                Ok(())
            }
            (MESSAGE_TYPE_REQUEST_TRANSACTION_DATA, Stage::Subscribed) => {
                let request: RequestTransactionData =
                    from_bytes(payload).map_err(|_| Fault::Malformed { message_type })?;
                self.answer(request, encrypt, &mut progress.out)
            }
            // This arm ignores solutions, which are of no use for made-up templates, and requests
            // for transactions before the subscription.
            (_, Stage::SetUp | Stage::Subscribed)
                if message_type > MESSAGE_TYPE_SETUP_CONNECTION =>
            {
                log::debug!("ignored a message of type {message_type:#04x}");
                Ok(())
            }
            _ => Err(Fault::OutOfTurn { message_type }),
        }
    }

    /// Answers a request for transactions. Every request is answered, because a job declarator
    /// would wait for the answer without end.
    fn answer(
        &self,
        RequestTransactionData { template_id }: RequestTransactionData,
        encrypt: &mut TransportEncryptState,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let encoding = |error: binary_sv2::Error| Fault::Encoding(error.to_string());
        let reason = match &self.pushed {
            Some(pushed) if template_id == *pushed.end() => {
                // The made-up templates have no transaction besides the coinbase.
                let answer = RequestTransactionDataSuccess {
                    template_id,
                    excess_data: B064K::try_from(&[][..]).map_err(encoding)?,
                    transaction_list: Seq064K::new(Vec::new()).map_err(encoding)?,
                };
                let (kind, bit) = (
                    MESSAGE_TYPE_REQUEST_TRANSACTION_DATA_SUCCESS,
                    CHANNEL_BIT_REQUEST_TRANSACTION_DATA_SUCCESS,
                );
                return encode(encrypt, answer, kind, bit, out);
            }
            // A template that this client missed is as stale as the templates before and after it.
            Some(pushed) if pushed.contains(&template_id) => {
                ERROR_CODE_REQUEST_TRANSACTION_DATA_STALE_TEMPLATE_ID
            }
            _ => ERROR_CODE_REQUEST_TRANSACTION_DATA_TEMPLATE_ID_NOT_FOUND,
        };
        let error_code = Str0255::try_from(reason).map_err(encoding)?;
        let answer = RequestTransactionDataError { template_id, error_code };
        let (kind, bit) = (
            MESSAGE_TYPE_REQUEST_TRANSACTION_DATA_ERROR,
            CHANNEL_BIT_REQUEST_TRANSACTION_DATA_ERROR,
        );
        encode(encrypt, answer, kind, bit, out)
    }

    /// Returns how many templates this client lacks, up to `newest`. Returns 0 if it has not
    /// subscribed.
    pub(crate) fn lacks(&self, newest: &Template) -> u64 {
        match (self.stage, &self.pushed) {
            (Stage::Subscribed, Some(pushed)) => newest.id.saturating_sub(*pushed.end()),
            (Stage::Subscribed, None) => 1,
            _ => 0,
        }
    }

    /// Returns the two messages that push a template to this client: the template, and the
    /// `SetNewPrevHash` that activates it.
    pub(crate) fn push(&mut self, template: &Template) -> Result<Vec<u8>, Fault> {
        let State::Transport { encrypt, .. } = &mut self.state else { return Err(Fault::Over) };
        let mut out = Vec::new();
        let (kind, bit) = (MESSAGE_TYPE_NEW_TEMPLATE, CHANNEL_BIT_NEW_TEMPLATE);
        let new_template =
            template.new_template().map_err(|error| Fault::Encoding(error.to_string()))?;
        encode(encrypt, new_template, kind, bit, &mut out)?;
        let (kind, bit) = (MESSAGE_TYPE_SET_NEW_PREV_HASH, CHANNEL_BIT_SET_NEW_PREV_HASH);
        encode(encrypt, template.set_new_prev_hash(), kind, bit, &mut out)?;
        let first = self.pushed.as_ref().map_or(template.id, |pushed| *pushed.start());
        self.pushed = Some(first..=template.id);
        Ok(out)
    }
}

/// Returns the unsupported flags and the standard's code for the reason of a refusal, or `None` for
/// an acceptable setup. The flags are 0 if they are not the reason.
fn why_refused(payload: &mut [u8]) -> Result<Option<(u32, &'static str)>, Fault> {
    let setup: SetupConnection<'_> = match from_bytes(payload) {
        Ok(setup) => setup,
        // The crates do not know this protocol.
        Err(binary_sv2::Error::ValueIsNotAValidProtocol(_)) => {
            return Ok(Some((0, ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_PROTOCOL)));
        }
        Err(_) => return Err(Fault::Malformed { message_type: MESSAGE_TYPE_SETUP_CONNECTION }),
    };
    Ok(if setup.protocol != Protocol::TemplateDistributionProtocol {
        Some((0, ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_PROTOCOL))
    } else if !(setup.min_version..=setup.max_version).contains(&VERSION) {
        Some((0, ERROR_CODE_SETUP_CONNECTION_PROTOCOL_VERSION_MISMATCH))
    } else if setup.flags != 0 {
        // Template distribution has no flags, so every requested flag is unsupported.
        Some((setup.flags, ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_FEATURE_FLAGS))
    } else {
        None
    })
}

fn encode<T: Serialize + GetSize>(
    encrypt: &mut TransportEncryptState,
    message: T,
    message_type: u8,
    is_channel_message: bool,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let frame = MessageFrame::from_message(message, message_type, 0, is_channel_message)
        .map_err(|error| Fault::Encoding(error.to_string()))?;
    let bytes = NoiseEncoder::new()
        .encode_transport(frame, encrypt)
        .map_err(|error| Fault::Encoding(error.to_string()))?;
    out.extend_from_slice(bytes.as_ref());
    Ok(())
}
