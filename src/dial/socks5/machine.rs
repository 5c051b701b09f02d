//! The client's side of SOCKS5: greeting, user name and password, the request, the reply.
//!
//! The negotiation is a pure state machine: it takes bytes, and returns bytes, its end or an error.
//! The machine has no socket, no clock and no lock, and any thread may drive it. The machine never
//! asks for a byte beyond the reply, because the bytes that the destination sends behind the reply
//! belong to the connection.
//!
//! Sources: [RFC 1928], [RFC 1929], and [Tor's extensions] for the replies from 0xF0 on. The
//! destination is always sent as text (address type DOMAINNAME), so that the proxy resolves it.
//!
//! [RFC 1928]: https://www.rfc-editor.org/rfc/rfc1928
//! [RFC 1929]: https://www.rfc-editor.org/rfc/rfc1929
//! [Tor's extensions]: https://spec.torproject.org/socks-extensions.html

use std::io;

use super::{Credentials, ProxyError, Socks5Reply};
use crate::{
    address::MAX_NAME_BYTES,
    dial::{
        ConnectPhase,
        machine::{Machine, Outgoing, Want},
    },
};

/// The version of the protocol.
const VERSION: u8 = 0x05;
/// The version of the user name and password negotiation.
const AUTHENTICATION_VERSION: u8 = 0x01;

const METHOD_NONE: u8 = 0x00;
const METHOD_USER_AND_PASSWORD: u8 = 0x02;
const METHOD_NONE_ACCEPTABLE: u8 = 0xff;

const COMMAND_CONNECT: u8 = 0x01;
const RESERVED: u8 = 0x00;

const ADDRESS_IPV4: u8 = 0x01;
const ADDRESS_NAME: u8 = 0x03;
const ADDRESS_IPV6: u8 = 0x04;

const STATUS_SUCCESS: u8 = 0x00;

/// The length of a port in bytes.
const PORT: usize = 2;

/// Why a negotiation failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The proxy does not behave like a SOCKS5 proxy, or refuses to serve this client.
    Proxy(ProxyError),
    /// The proxy works, but it could not connect to the destination.
    Destination(Socks5Reply),
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Failure {
        Failure::Proxy(error)
    }
}

/// One negotiation.
pub(crate) struct Socks5 {
    credentials: Option<Credentials>,
    request: Vec<u8>,
    state: State,
    /// The bytes to send in this state.
    out: Outgoing,
    /// The number of bytes that were received in this state.
    received: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The machine offers the methods. The proxy's choice comes next.
    Greeting,
    /// The machine sends the credentials. The proxy's answer to the credentials comes next.
    Authentication,
    /// The machine sends the request. The version, the reply, the reserved byte and the address
    /// type come next.
    Request,
    /// The reply is a success. The length of the bound name comes next.
    BoundName,
    /// The reply is a success. The next bytes are the bound address and port, as many as this
    /// number.
    Bound(usize),
    Done,
}

impl Socks5 {
    /// Creates the machine that asks for `host`. The caller has checked that `host` has 1 to 255
    /// bytes; a longer host would be cut off.
    pub(crate) fn new(host: &str, port: u16, credentials: Option<Credentials>) -> Socks5 {
        let host = &host.as_bytes()[..host.len().min(MAX_NAME_BYTES)];
        let mut request = Vec::with_capacity(host.len() + 7);
        request.extend([VERSION, COMMAND_CONNECT, RESERVED, ADDRESS_NAME]);
        push_with_length(&mut request, host);
        request.extend(port.to_be_bytes());
        let mut out = Outgoing::default();
        out.set(match credentials {
            None => vec![VERSION, 1, METHOD_NONE],
            Some(_) => vec![VERSION, 2, METHOD_NONE, METHOD_USER_AND_PASSWORD],
        });
        Socks5 { credentials, request, state: State::Greeting, out, received: 0 }
    }

    /// Returns what the proxy has to do next.
    pub(crate) fn phase(&self) -> ConnectPhase {
        match self.state {
            State::Greeting | State::Authentication => ConnectPhase::NegotiateWithProxy,
            _ => ConnectPhase::ProxyConnect,
        }
    }

    fn received_byte(&mut self, byte: u8) -> Result<(), Failure> {
        let at = self.received;
        self.received += 1;
        match (self.state, at) {
            (State::Greeting | State::Request, 0) if byte != VERSION => {
                return Err(ProxyError::NotSocks5 { found: byte }.into());
            }
            (State::Greeting, 1) => self.method_chosen(byte)?,
            (State::Authentication, 0) if byte != AUTHENTICATION_VERSION => {
                return Err(ProxyError::AuthenticationVersion { found: byte }.into());
            }
            (State::Authentication, 1) if byte == STATUS_SUCCESS => self.request(),
            (State::Authentication, 1) => {
                return Err(ProxyError::CredentialsRejected { status: byte }.into());
            }
            (State::Request, 1) => {
                if let Some(reply) = Socks5Reply::from_code(byte) {
                    return Err(Failure::Destination(reply));
                }
            }
            (State::Request, 2) if byte != RESERVED => {
                return Err(ProxyError::ReservedByte { found: byte }.into());
            }
            (State::Request, 3) => self.address_type(byte)?,
            (State::BoundName, _) => self.enter(State::Bound(usize::from(byte) + PORT)),
            (State::Bound(length), at) if at + 1 >= length => self.enter(State::Done),
            _ => {}
        }
        Ok(())
    }

    fn address_type(&mut self, byte: u8) -> Result<(), ProxyError> {
        let state = match byte {
            ADDRESS_IPV4 => State::Bound(4 + PORT),
            ADDRESS_IPV6 => State::Bound(16 + PORT),
            ADDRESS_NAME => State::BoundName,
            found => return Err(ProxyError::AddressType { found }),
        };
        self.enter(state);
        Ok(())
    }

    fn method_chosen(&mut self, method: u8) -> Result<(), ProxyError> {
        match (method, self.credentials.take()) {
            (METHOD_NONE, _) => self.request(),
            (METHOD_USER_AND_PASSWORD, Some(credentials)) => {
                self.enter(State::Authentication);
                let mut message = vec![AUTHENTICATION_VERSION];
                push_with_length(&mut message, credentials.username().as_bytes());
                push_with_length(&mut message, credentials.password().as_bytes());
                self.out.set(message);
            }
            (METHOD_NONE_ACCEPTABLE, _) => return Err(ProxyError::NoAcceptableMethod),
            (method, _) => return Err(ProxyError::MethodNotOffered { method }),
        }
        Ok(())
    }

    fn request(&mut self) {
        self.enter(State::Request);
        self.out.set(std::mem::take(&mut self.request));
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.out = Outgoing::default();
        self.received = 0;
    }
}

impl Machine for Socks5 {
    type Error = Failure;

    fn wants(&self) -> Want<'_> {
        if !self.out.is_sent() {
            return Want::Send(self.out.rest());
        }
        let wanted = match self.state {
            State::Greeting | State::Authentication => 2,
            State::Request => 4,
            State::BoundName => 1,
            State::Bound(length) => length,
            State::Done => return Want::Nothing,
        };
        Want::Receive(wanted - self.received)
    }

    fn sent(&mut self, bytes: usize) {
        self.out.sent(bytes);
    }

    /// Takes received bytes. Reports an error as soon as it can be known, because a proxy may break
    /// off in the middle of a bad reply.
    fn received(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for &byte in bytes {
            match self.wants() {
                Want::Nothing => break,
                _ => self.received_byte(byte)?,
            }
        }
        Ok(())
    }

    fn broke_off(&mut self, source: Option<io::Error>) -> Failure {
        ProxyError::BrokeOff { phase: self.phase(), source }.into()
    }
}

/// The `Debug` text omits the bytes to send, which contain the credentials.
impl std::fmt::Debug for Socks5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socks5").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Appends the length of `bytes` as one byte, and then `bytes` itself. The callers ensure that
/// `bytes` has at most 255 bytes.
fn push_with_length(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(bytes.len().to_le_bytes()[0]);
    out.extend_from_slice(bytes);
}
