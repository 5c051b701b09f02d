//! One client's conversation: the Noise handshake, then Stratum V2 frames.
//!
//! No sockets, no threads: bytes in; bytes to send, and what the client wants, out. Cryptography,
//! frames and messages are the reference implementation's crates.

use std::{fmt, time::Duration};

use binary_sv2::{GetSize, Serialize, Str0255, from_bytes};
use codec_sv2::{
    Decrypted, Handshake, MessageFrame, NoiseDecoder, NoiseEncoder, TransportDecryptState,
    TransportEncryptState,
};
use common_messages_sv2::{
    CHANNEL_BIT_SETUP_CONNECTION_ERROR, CHANNEL_BIT_SETUP_CONNECTION_SUCCESS,
    ERROR_CODE_SETUP_CONNECTION_PROTOCOL_VERSION_MISMATCH,
    ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_FEATURE_FLAGS,
    ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_PROTOCOL, MESSAGE_TYPE_SETUP_CONNECTION,
    MESSAGE_TYPE_SETUP_CONNECTION_ERROR, MESSAGE_TYPE_SETUP_CONNECTION_SUCCESS, Protocol,
    SetupConnection, SetupConnectionError, SetupConnectionSuccess,
};
use noise_sv2::{ELLSWIFT_ENCODING_SIZE, Responder};
use template_distribution_sv2::{
    CHANNEL_BIT_NEW_TEMPLATE, CHANNEL_BIT_SET_NEW_PREV_HASH, CoinbaseOutputConstraints,
    MESSAGE_TYPE_COINBASE_OUTPUT_CONSTRAINTS, MESSAGE_TYPE_NEW_TEMPLATE,
    MESSAGE_TYPE_SET_NEW_PREV_HASH,
};

use super::{keys::AuthorityKeys, templates::Template};

/// The version of the protocol.
const VERSION: u16 = 2;
/// The certificate that a client gets to see is valid for so long.
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(60 * 60);
/// What a client may send in one frame, encrypted. Whatever it has to say here is shorter; a frame
/// could announce 16 MiB.
const MAX_FRAME: usize = 64 * 1024;

// A session has one state for most of its life: the large one.
#[allow(clippy::large_enum_variant)]
enum State {
    /// Waits for the client's key.
    Handshake(Box<Responder>),
    Transport {
        decoder: NoiseDecoder,
        decrypt: TransportDecryptState,
        encrypt: TransportEncryptState,
    },
    /// After a fault.
    Over,
}

/// How far the client has come after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Handshake,
    SetupConnection,
    /// It may ask for templates.
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
}

/// What a piece of the stream led to.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// To be sent.
    pub(crate) out: Vec<u8>,
    /// The client is to have the current template, from now on.
    pub(crate) has_subscribed: bool,
    /// What is in `out` is the last that it gets.
    pub(crate) is_refused: bool,
}

/// Why a client is disconnected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Handshake(String),
    Frame(String),
    Oversized,
    OutOfTurn { message_type: u8 },
    Malformed { message_type: u8 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Handshake(error) => write!(f, "the handshake failed: {error}"),
            Fault::Frame(error) => write!(f, "a frame could not be decrypted: {error}"),
            Fault::Oversized => write!(f, "it sent a frame of more than {MAX_FRAME} bytes"),
            Fault::OutOfTurn { message_type } => {
                write!(f, "it sent a message of type {message_type:#04x} out of turn")
            }
            Fault::Malformed { message_type } => {
                write!(f, "it sent a malformed message of type {message_type:#04x}")
            }
        }
    }
}

impl Session {
    pub(crate) fn new(keys: &AuthorityKeys) -> Result<Session, Fault> {
        let responder =
            Responder::from_authority_kp(&keys.public(), &keys.secret(), CERTIFICATE_VALIDITY)
                .map_err(|error| Fault::Handshake(format!("{error:?}")))?;
        let state = State::Handshake(responder);
        Ok(Session { state, stage: Stage::Handshake, pending: Vec::new(), within_frame: 0 })
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes bytes off the wire. After a fault there is no going on.
    pub(crate) fn receive(&mut self, data: &[u8]) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        self.pending.extend_from_slice(data);
        let outcome = self.advance(&mut progress);
        if outcome.is_err() {
            self.state = State::Over;
        }
        outcome.map(|()| progress)
    }

    fn advance(&mut self, progress: &mut Progress) -> Result<(), Fault> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Handshake(responder) => {
                    let Some(key) = self.pending.first_chunk::<ELLSWIFT_ENCODING_SIZE>().copied()
                    else {
                        self.state = State::Handshake(responder);
                        return Ok(());
                    };
                    self.pending.drain(..key.len());
                    let (answer, transport) = Handshake::responder(responder)
                        .step_1(key)
                        .map_err(|error| Fault::Handshake(format!("{error:?}")))?;
                    progress.out.extend_from_slice(answer.payload());
                    let (encrypt, decrypt) = transport.split();
                    self.state =
                        State::Transport { decoder: NoiseDecoder::new(), decrypt, encrypt };
                    self.stage = Stage::SetupConnection;
                }
                State::Transport { mut decoder, decrypt, mut encrypt } => {
                    let wanted = decoder.writable_len();
                    if self.pending.len() < wanted {
                        self.state = State::Transport { decoder, decrypt, encrypt };
                        return Ok(());
                    }
                    // What it announces is known to the decoder alone: it is refused when it has
                    // sent more than it may, before it is buffered.
                    self.within_frame += wanted;
                    if self.within_frame > MAX_FRAME {
                        return Err(Fault::Oversized);
                    }
                    let piece: Vec<u8> = self.pending.drain(..wanted).collect();
                    if wanted > 0 {
                        decoder.writable().copy_from_slice(&piece);
                    }
                    let decrypted = decoder
                        .next_transport_frame(decrypt)
                        .map_err(|error| Fault::Frame(format!("{error:?}")))?;
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
                    self.state = State::Transport { decoder, decrypt, encrypt };
                }
                State::Over => return Err(Fault::Frame("it has failed already".to_owned())),
            }
        }
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
                let setup: SetupConnection<'_> =
                    from_bytes(payload).map_err(|_| Fault::Malformed { message_type })?;
                if let Some((flags, reason)) = why_refused(&setup) {
                    progress.is_refused = true;
                    let reason = Str0255::try_from(reason)
                        .map_err(|error| Fault::Frame(format!("{error:?}")))?;
                    let answer = SetupConnectionError { flags, error_code: reason };
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
                self.stage = Stage::Subscribed;
                progress.has_subscribed = true;
                Ok(())
            }
            // Solutions and requests for transactions: this server's templates hold none.
            (_, Stage::SetUp | Stage::Subscribed)
                if message_type > MESSAGE_TYPE_SETUP_CONNECTION =>
            {
                log::debug!("passed over a message of type {message_type:#04x}");
                Ok(())
            }
            _ => Err(Fault::OutOfTurn { message_type }),
        }
    }

    /// What pushes a template to this client: the template, and that it is to be worked on.
    pub(crate) fn push(&mut self, template: &Template) -> Result<Vec<u8>, Fault> {
        let State::Transport { encrypt, .. } = &mut self.state else {
            return Err(Fault::Frame("there is no session".to_owned()));
        };
        let mut out = Vec::new();
        let (kind, bit) = (MESSAGE_TYPE_NEW_TEMPLATE, CHANNEL_BIT_NEW_TEMPLATE);
        let new_template =
            template.new_template().map_err(|error| Fault::Frame(format!("{error:?}")))?;
        encode(encrypt, new_template, kind, bit, &mut out)?;
        let (kind, bit) = (MESSAGE_TYPE_SET_NEW_PREV_HASH, CHANNEL_BIT_SET_NEW_PREV_HASH);
        encode(encrypt, template.set_new_prev_hash(), kind, bit, &mut out)?;
        Ok(out)
    }
}

/// The flags that are not supported, and the standard's code for the reason.
fn why_refused(setup: &SetupConnection<'_>) -> Option<(u32, &'static str)> {
    if setup.protocol != Protocol::TemplateDistributionProtocol {
        Some((setup.flags, ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_PROTOCOL))
    } else if !(setup.min_version..=setup.max_version).contains(&VERSION) {
        Some((setup.flags, ERROR_CODE_SETUP_CONNECTION_PROTOCOL_VERSION_MISMATCH))
    } else if setup.flags != 0 {
        // Template distribution has none.
        Some((setup.flags, ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_FEATURE_FLAGS))
    } else {
        None
    }
}

fn encode<T: Serialize + GetSize>(
    encrypt: &mut TransportEncryptState,
    message: T,
    message_type: u8,
    is_channel_message: bool,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let frame = MessageFrame::from_message(message, message_type, 0, is_channel_message)
        .map_err(|error| Fault::Frame(format!("{error:?}")))?;
    let bytes = NoiseEncoder::new()
        .encode_transport(frame, encrypt)
        .map_err(|error| Fault::Frame(format!("{error:?}")))?;
    out.extend_from_slice(bytes.as_ref());
    Ok(())
}
