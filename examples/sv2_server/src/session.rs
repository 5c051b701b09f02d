//! One client's conversation: the Noise handshake, then Stratum V2 frames.
//!
//! No sockets, no threads: bytes in; bytes to send, and what the client wants, out. Cryptography,
//! frames and messages are the reference implementation's crates.

use std::{fmt, mem, ops::RangeInclusive, time::Duration};

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
/// The certificate that a client gets to see is valid for so long.
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(60 * 60);
/// The longest `SetupConnection`: 11 bytes of numbers, and five strings of up to 255.
const MAX_SETUP_FRAME: usize = frame_size(11 + 5 * 256);
/// The longest message after it, a `SubmitSolution`: 20 bytes of numbers, and a coinbase
/// transaction of up to 65,535 bytes behind its length. A header could announce 16 MiB.
const MAX_FRAME: usize = frame_size(20 + 2 + 65_535);

/// On the wire. The payload is encrypted in chunks, of which each has a code of its own.
const fn frame_size(payload: usize) -> usize {
    let chunks = payload.div_ceil(SV2_FRAME_PLAINTEXT_CHUNK_SIZE);
    ENCRYPTED_SV2_FRAME_HEADER_SIZE + payload + chunks * AEAD_MAC_LEN
}

#[allow(
    clippy::large_enum_variant,
    reason = "a session has one state for most of its life: the large one"
)]
enum State {
    /// Waits for the client's key. Before it comes, nothing is computed for a client.
    Handshake(AuthorityKeys),
    Transport {
        decoder: NoiseDecoder,
        decrypt: TransportDecryptState,
        encrypt: TransportEncryptState,
    },
    /// After a fault or a refusal.
    Over,
}

/// How far the client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Handshake,
    SetupConnection,
    /// It has been told why, and is told nothing more.
    Refused,
    /// It is to ask for templates.
    SetUp,
    /// It gets them.
    Subscribed,
}

pub(crate) struct Session {
    state: State,
    stage: Stage,
    /// Received; fewer bytes than the decoder asks for next.
    pending: Vec<u8>,
    /// So much of a frame that is not complete is with the decoder.
    within_frame: usize,
    /// From the template that was pushed first to the one that was pushed last. Some in between may
    /// have gone by.
    pushed: Option<RangeInclusive<u64>>,
}

/// What a piece of the stream led to.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// To be sent.
    pub(crate) out: Vec<u8>,
    /// The client is to have templates, from now on.
    pub(crate) has_subscribed: bool,
}

/// Why a client is disconnected.
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
                write!(f, "it announced a frame of more than {limit} bytes")
            }
            Fault::OutOfTurn { message_type } => {
                write!(f, "it sent a message of type {message_type:#04x} out of turn")
            }
            Fault::Malformed { message_type } => {
                write!(f, "it sent a malformed message of type {message_type:#04x}")
            }
            Fault::Over => write!(f, "its session is over"),
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

    /// Takes bytes off the wire. After a fault or a refusal there is no going on.
    pub(crate) fn receive(&mut self, data: &[u8]) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        let state = mem::replace(&mut self.state, State::Over);
        let mut bytes = mem::take(&mut self.pending);
        bytes.extend_from_slice(data);
        let mut rest = &bytes[..];
        self.state = self.advance(state, &mut rest, &mut progress)?;
        // Once for all frames: what is left over is moved to the front. A client that has sent
        // whole frames has no buffer.
        let taken = bytes.len() - rest.len();
        if taken < bytes.len() && self.stage != Stage::Refused {
            bytes.drain(..taken);
            self.pending = bytes;
        }
        Ok(progress)
    }

    /// Takes handshake and frames from the front of `rest`, as far as they are whole.
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
                            // Extensions are not spoken here; the standard says to pass over
                            // their messages.
                            if header.ext_type_without_channel_msg() == 0 {
                                let (kind, payload) = (header.msg_type(), frame.payload());
                                self.received(kind, payload, &mut encrypt, progress)?;
                            }
                            decrypt
                        }
                    };
                    // Whatever the client has sent behind it, the refusal stands.
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
        let responder =
            Responder::from_authority_kp(&keys.public(), &keys.secret(), CERTIFICATE_VALIDITY)
                .map_err(|error| Fault::Handshake(format!("{error:?}")))?;
        let (answer, transport) = Handshake::responder(responder)
            .step_1(client_key)
            .map_err(|error| Fault::Handshake(error.to_string()))?;
        progress.out.extend_from_slice(answer.payload());
        self.stage = Stage::SetupConnection;
        let (encrypt, decrypt) = transport.split();
        Ok(State::Transport { decoder: NoiseDecoder::new(), decrypt, encrypt })
    }

    /// Refuses a frame that is too long before `wanted`, its next bytes, are waited for.
    ///
    /// The decoder knows how long the frame is, but does not tell: what it asks for is never more
    /// than one chunk, 65,535 bytes. So the limit on `SetupConnection` is kept with the header
    /// already, and the later one, which is higher than a chunk, with the first chunk at the
    /// latest.
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
                // Other constraints would be for the templates to come: these have room for any.
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
            // Solutions, of which nothing can be made here, and requests for the transactions of
            // templates before it has asked for any.
            (_, Stage::SetUp | Stage::Subscribed)
                if message_type > MESSAGE_TYPE_SETUP_CONNECTION =>
            {
                log::debug!("passed over a message of type {message_type:#04x}");
                Ok(())
            }
            _ => Err(Fault::OutOfTurn { message_type }),
        }
    }

    /// Every request has an answer: a job declarator would wait for one for ever.
    fn answer(
        &self,
        RequestTransactionData { template_id }: RequestTransactionData,
        encrypt: &mut TransportEncryptState,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let encoding = |error: binary_sv2::Error| Fault::Encoding(error.to_string());
        let reason = match &self.pushed {
            Some(pushed) if template_id == *pushed.end() => {
                // There is nothing but the coinbase in the templates that are given out here.
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
            // One that went by is as stale as the ones around it.
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

    /// How many templates this client lacks, `newest` being the last one: 0 if it has that, or has
    /// not asked for any.
    pub(crate) fn lacks(&self, newest: &Template) -> u64 {
        match (self.stage, &self.pushed) {
            (Stage::Subscribed, Some(pushed)) => newest.id.saturating_sub(*pushed.end()),
            (Stage::Subscribed, None) => 1,
            _ => 0,
        }
    }

    /// What pushes a template to this client: the template, and that it is to be worked on.
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

/// The flags that are not supported, and the standard's code for the reason. Flags of 0 say that it
/// is not because of them.
fn why_refused(payload: &mut [u8]) -> Result<Option<(u32, &'static str)>, Fault> {
    let setup: SetupConnection<'_> = match from_bytes(payload) {
        Ok(setup) => setup,
        // One that the crates know nothing of.
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
        // Template distribution has no flags: each that it asks for is one too many.
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
