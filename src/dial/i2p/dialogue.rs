//! The client's side of SAM 3.1: first HELLO, and then the requests that create a session, connect
//! or accept.
//!
//! The dialogue is a pure state machine: it takes bytes, and returns bytes, its end or an error.
//! The machine has no socket, no clock and no lock, and any thread may drive it. The machine asks
//! for one line at a time and never takes a byte beyond it: the bytes that the peer sends behind the
//! line belong to the connection.
//!
//! [`Goal`] says what the dialogue is for, and [`Dialogue::outcome`] returns its results. Private
//! keys pass through the dialogue, and appear in no `Debug` text and no error.

use std::{fmt, io};

use super::{
    destination::{PrivateKey, address_of},
    error::{SamError, SamResult},
    reply::Reply,
};
use crate::{
    address::{I2pHash, NetAddr},
    dial::machine::{Machine, Outgoing, Want},
};

/// The longest line in bytes, its end included. A longer line is [`SamError::LineTooLong`].
pub(crate) const LONGEST_LINE: usize = 64 * 1024;

/// The signature type Ed25519, as in Core. SAM's own default is DSA-SHA1, an old algorithm.
const SIGNATURE_TYPE: u8 = 7;

/// The purpose of a dialogue.
#[derive(Clone)]
pub(crate) enum Goal {
    /// Creates a session of this name. The session lasts as long as the socket.
    Session { id: String, key: SessionKey, tunnels: Tunnels },
    /// Connects a stream to this address, in the session of this name.
    Connect { session: String, to: I2pHash },
    /// Receives the next peer that connects to the session of this name.
    Accept { session: String },
}

/// The key of a session.
#[derive(Clone)]
pub(crate) enum SessionKey {
    /// A new key. The session has its own address, which ends with the session.
    Transient,
    /// This key.
    Persistent(PrivateKey),
    /// A key that the bridge generates first.
    ToBeMade,
}

/// The number and the length of tunnels in each direction. With `None`, the router chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnels {
    pub(crate) inbound_quantity: Option<u8>,
    pub(crate) outbound_quantity: Option<u8>,
    pub(crate) inbound_length: Option<u8>,
    pub(crate) outbound_length: Option<u8>,
}

/// The results of a dialogue so far.
#[derive(Clone, Default)]
pub(crate) struct Outcome {
    /// The key that the bridge generated, either on request or for a transient session.
    pub(crate) key: Option<PrivateKey>,
    /// The address of the peer that connected.
    pub(crate) peer: Option<NetAddr>,
}

pub(crate) struct Dialogue {
    goal: Goal,
    stage: Stage,
    out: Outgoing,
    line: Vec<u8>,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello,
    DestGenerate,
    SessionCreate,
    NamingLookup,
    StreamConnect,
    StreamAccept,
    /// The bridge listens for this client. The dialogue stops here until [`Dialogue::await_peer`].
    Listening,
    AwaitPeer,
    Done,
}

impl Stage {
    /// Returns the name of the request of this stage.
    fn request(self) -> &'static str {
        match self {
            Stage::Hello => "HELLO",
            Stage::DestGenerate => "DEST GENERATE",
            Stage::SessionCreate => "SESSION CREATE",
            Stage::NamingLookup => "NAMING LOOKUP",
            Stage::StreamConnect => "STREAM CONNECT",
            Stage::StreamAccept | Stage::Listening | Stage::AwaitPeer | Stage::Done => {
                "STREAM ACCEPT"
            }
        }
    }
}

impl Dialogue {
    pub(crate) fn new(goal: Goal) -> Dialogue {
        let mut out = Outgoing::default();
        out.set(b"HELLO VERSION MIN=3.1 MAX=3.1\n".to_vec());
        Dialogue { goal, stage: Stage::Hello, out, line: Vec::new(), outcome: Outcome::default() }
    }

    /// Returns the name of the request that the bridge has not answered yet.
    pub(crate) fn request(&self) -> &'static str {
        self.stage.request()
    }

    /// Returns whether the last request has been sent, so that only its reply is missing.
    pub(crate) fn has_asked_to_accept(&self) -> bool {
        self.stage == Stage::StreamAccept && self.out.is_sent()
            || matches!(self.stage, Stage::Listening | Stage::AwaitPeer | Stage::Done)
    }

    /// Begins to wait for the peer after the bridge listens. The wait has no time limit.
    pub(crate) fn await_peer(&mut self) {
        if self.stage == Stage::Listening {
            self.stage = Stage::AwaitPeer;
        }
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Takes a part of a line, with its line feed if it is the last part.
    fn received_part(&mut self, part: &[u8]) -> Result<(), SamError> {
        let text = part.strip_suffix(b"\n").unwrap_or(part);
        if self.line.len() + text.len() >= LONGEST_LINE {
            return Err(SamError::LineTooLong { request: self.request() });
        }
        self.line.extend_from_slice(text);
        if text.len() == part.len() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        self.received_line(&line)
    }

    fn received_line(&mut self, line: &[u8]) -> Result<(), SamError> {
        if self.stage == Stage::AwaitPeer {
            return self.received_peer(line);
        }
        let malformed = SamError::Malformed { request: self.request() };
        let reply = Reply::parse(line).ok_or(malformed)?;
        let unexpected = SamError::UnexpectedReply { request: self.request() };
        let (first, second) = match self.stage {
            Stage::Hello => ("HELLO", "REPLY"),
            Stage::DestGenerate => ("DEST", "REPLY"),
            Stage::SessionCreate => ("SESSION", "STATUS"),
            Stage::NamingLookup => ("NAMING", "REPLY"),
            _ => ("STREAM", "STATUS"),
        };
        if !reply.is(first, second) {
            return Err(unexpected);
        }
        match reply.result() {
            Some(SamResult::Ok) => {}
            // This reply is the only one that has no result on success.
            None if self.stage == Stage::DestGenerate => {}
            None => return Err(unexpected),
            Some(result) => {
                return Err(SamError::Refused { request: self.request(), result });
            }
        }
        self.go_on(&reply)
    }

    /// Proceeds to the next stage after a reply that reports success.
    ///
    /// # Errors
    ///
    /// The reply lacks a value, or a value is damaged.
    fn go_on(&mut self, reply: &Reply) -> Result<(), SamError> {
        let request = self.request();
        let value = |key| reply.value(key).ok_or(SamError::UnexpectedReply { request });
        match self.stage {
            Stage::Hello => self.after_hello(),
            Stage::DestGenerate => {
                let key = PrivateKey::from_base64(value("PRIV")?)?;
                self.create_session(Some(&key));
                self.outcome.key = Some(key);
            }
            Stage::SessionCreate => {
                if matches!(&self.goal, Goal::Session { key: SessionKey::Transient, .. }) {
                    self.outcome.key = Some(PrivateKey::from_base64(value("DESTINATION")?)?);
                }
                self.enter(Stage::Done, String::new());
            }
            Stage::NamingLookup => {
                let destination = value("VALUE")?;
                // The destination is sent on unchanged. The check ensures that the destination
                // cannot end the line or begin another word.
                address_of(destination)?;
                let Goal::Connect { session, .. } = &self.goal else {
                    return Err(SamError::UnexpectedReply { request });
                };
                let connect =
                    format!("STREAM CONNECT ID={session} DESTINATION={destination} SILENT=false\n");
                self.enter(Stage::StreamConnect, connect);
            }
            Stage::StreamConnect => self.enter(Stage::Done, String::new()),
            Stage::StreamAccept => self.enter(Stage::Listening, String::new()),
            Stage::Listening | Stage::AwaitPeer | Stage::Done => {}
        }
        Ok(())
    }

    fn after_hello(&mut self) {
        match &self.goal {
            Goal::Session { key: SessionKey::ToBeMade, .. } => {
                let request = format!("DEST GENERATE SIGNATURE_TYPE={SIGNATURE_TYPE}\n");
                self.enter(Stage::DestGenerate, request);
            }
            Goal::Session { key: SessionKey::Persistent(key), .. } => {
                let key = key.clone();
                self.create_session(Some(&key));
            }
            Goal::Session { key: SessionKey::Transient, .. } => self.create_session(None),
            Goal::Connect { to, .. } => {
                let request = format!("NAMING LOOKUP NAME={to}\n");
                self.enter(Stage::NamingLookup, request);
            }
            Goal::Accept { session } => {
                let request = format!("STREAM ACCEPT ID={session} SILENT=false\n");
                self.enter(Stage::StreamAccept, request);
            }
        }
    }

    /// Requests the session. `None` requests a transient session.
    fn create_session(&mut self, key: Option<&PrivateKey>) {
        let Goal::Session { id, tunnels, .. } = &self.goal else { return };
        let destination = match key {
            Some(key) => key.to_base64(),
            None => format!("TRANSIENT SIGNATURE_TYPE={SIGNATURE_TYPE}"),
        };
        let request = format!(
            "SESSION CREATE STYLE=STREAM ID={id} DESTINATION={destination} \
             i2cp.leaseSetEncType=4,0{tunnels}\n"
        );
        self.enter(Stage::SessionCreate, request);
    }

    /// Takes the line with a peer's destination, or with the end of the session in its place.
    fn received_peer(&mut self, line: &[u8]) -> Result<(), SamError> {
        let request = self.request();
        let malformed = || SamError::Malformed { request };
        if line.starts_with(b"STREAM ") {
            let reply = Reply::parse(line).ok_or_else(malformed)?;
            return Err(match reply.result() {
                Some(result) if result != SamResult::Ok => SamError::Refused { request, result },
                _ => SamError::UnexpectedReply { request },
            });
        }
        let text = std::str::from_utf8(line).map_err(|_| malformed())?;
        // Later versions of SAM append ports.
        let destination = text.split([' ', '\r']).next().unwrap_or_default();
        self.outcome.peer = Some(address_of(destination).map_err(|_| malformed())?);
        self.enter(Stage::Done, String::new());
        Ok(())
    }

    fn enter(&mut self, stage: Stage, request: String) {
        self.stage = stage;
        self.out.set(request.into_bytes());
    }
}

impl Machine for Dialogue {
    type Error = SamError;

    fn wants(&self) -> Want<'_> {
        if !self.out.is_sent() {
            return Want::Send(self.out.rest());
        }
        match self.stage {
            Stage::Listening | Stage::Done => Want::Nothing,
            // The bytes behind a line may be the peer's.
            _ => Want::Line,
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.out.sent(bytes);
    }

    fn received(&mut self, bytes: &[u8]) -> Result<(), SamError> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.wants() == Want::Nothing {
                break;
            }
            self.received_part(part)?;
        }
        Ok(())
    }

    /// Returns the error. Some bridges report the reason in a last line without a line feed.
    fn broke_off(&mut self, source: Option<io::Error>) -> SamError {
        let line = std::mem::take(&mut self.line);
        if source.is_none() && !line.is_empty() {
            // A reply of success that was cut short does not count.
            let result = Reply::parse(&line).and_then(|reply| reply.result());
            if let Some(result) = result.filter(|result| *result != SamResult::Ok) {
                return SamError::Refused { request: self.request(), result };
            }
        }
        SamError::BrokeOff { request: self.request(), source }
    }
}

/// The `Debug` text omits the bytes to send, which may contain a private key.
impl fmt::Debug for Dialogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialogue").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// Prints the options of SESSION CREATE, with a space before each.
impl fmt::Display for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in [
            ("inbound.quantity", self.inbound_quantity),
            ("outbound.quantity", self.outbound_quantity),
            ("inbound.length", self.inbound_length),
            ("outbound.length", self.outbound_length),
        ] {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}
