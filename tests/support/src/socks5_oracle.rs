//! The expected outcome for any bytes of a SOCKS5 proxy, computed from all bytes at once; and a run
//! of the library on the same bytes, which come in pieces over the network in memory.
//!
//! The fuzz target `socks5` and the test `socks5_bytes` share it.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use sockman::testing::{Ended, Network, Peer, SocketThreadByHand};
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, Options, Service, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, ConnectPhase},
    proxy::{Credentials, Proxy, ProxyError},
};

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Connected, with the remaining bytes, which are the destination's.
    Connected(Vec<u8>),
    NotSocks5(u8),
    NoAcceptableMethod,
    MethodNotOffered(u8),
    AuthenticationVersion(u8),
    CredentialsRejected(u8),
    Reply(u8),
    ReservedByte(u8),
    AddressType(u8),
    /// The proxy closed, or the connection broke, in this phase.
    BrokeOff(ConnectPhase),
    TimedOut(ConnectPhase),
}

/// The proxy's behaviour after its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Closes,
    FallsSilent,
}

/// Returns the expected outcome.
pub fn expected(bytes: &[u8], has_credentials: bool, end: End) -> Outcome {
    let mut rest = bytes;
    let mut phase = ConnectPhase::NegotiateWithProxy;
    match parse(&mut rest, has_credentials, &mut phase) {
        Some(Ok(())) => Outcome::Connected(rest.to_vec()),
        Some(Err(outcome)) => outcome,
        None if end == End::Closes => Outcome::BrokeOff(phase),
        None => Outcome::TimedOut(phase),
    }
}

/// Returns `None` if the bytes end too early.
fn parse(
    rest: &mut &[u8],
    has_credentials: bool,
    phase: &mut ConnectPhase,
) -> Option<Result<(), Outcome>> {
    macro_rules! require {
        ($holds:expr, $otherwise:expr) => {
            if !$holds {
                return Some(Err($otherwise));
            }
        };
    }
    let version = take(rest)?;
    require!(version == 5, Outcome::NotSocks5(version));
    match take(rest)? {
        0 => {}
        2 if has_credentials => {
            let version = take(rest)?;
            require!(version == 1, Outcome::AuthenticationVersion(version));
            let status = take(rest)?;
            require!(status == 0, Outcome::CredentialsRejected(status));
        }
        255 => return Some(Err(Outcome::NoAcceptableMethod)),
        method => return Some(Err(Outcome::MethodNotOffered(method))),
    }
    *phase = ConnectPhase::ProxyConnect;
    let version = take(rest)?;
    require!(version == 5, Outcome::NotSocks5(version));
    let code = take(rest)?;
    require!(code == 0, Outcome::Reply(code));
    let reserved = take(rest)?;
    require!(reserved == 0, Outcome::ReservedByte(reserved));
    let length = match take(rest)? {
        1 => 4,
        4 => 16,
        3 => usize::from(take(rest)?),
        kind => return Some(Err(Outcome::AddressType(kind))),
    };
    *rest = rest.get(length + 2..)?;
    Some(Ok(()))
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(*first)
}

pub const HOST: &str = "name.test";
pub const PORT: u16 = 8333;
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Handler {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    outcome: Option<Result<(), ConnectError>>,
    data: Vec<u8>,
    has_ended: bool,
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        false
    }
    fn event_connect_completed(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let before = self.seen.lock().unwrap().outcome.replace(outcome.map(drop));
        assert!(before.is_none(), "the outcome was reported twice");
    }
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, data: &[u8]) {
        let mut seen = self.seen.lock().unwrap();
        assert!(matches!(seen.outcome, Some(Ok(()))), "data came before the outcome");
        seen.data.extend_from_slice(data);
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {
        self.seen.lock().unwrap().has_ended = true;
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, id: ConnectionId, error: &io::Error) {
        panic!("unexpected read error on connection {id}: {error}");
    }
}

/// Runs the library and returns its outcome. The proxy sends each piece when the library has
/// handled all earlier ones.
pub fn run<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    has_credentials: bool,
    end: End,
) -> Outcome {
    let network = Network::new();
    let endpoint: Service = "10.0.0.9:1080".parse().unwrap();
    let listener = network.listen(&endpoint).unwrap();
    let handler = Arc::new(Handler::default());
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();

    let mut proxy = Proxy::socks5(endpoint);
    if has_credentials {
        proxy = proxy.credentials(Credentials::new("user", "password").unwrap());
    }
    let options = ConnectOptions::default().proxy(proxy).timeout(TIMEOUT);
    let to = Destination::Name { host: HOST.to_owned(), port: PORT };
    let id = sockman.start_connect(&to, &options).unwrap();
    thread.run_until_idle().unwrap();
    let peer = listener.accept().expect("the library must dial the proxy first");

    for piece in pieces {
        // The send fails if the library has closed the connection. The outcome then shows the
        // reason.
        let _ = peer.send(piece);
        thread.run_until_idle().unwrap();
    }
    let asked = peer.receive();
    match end {
        End::Closes => peer.shutdown_write(),
        End::FallsSilent => {}
    }
    thread.run_until_idle().unwrap();
    // Nothing more happens after an outcome, so the clock must not move.
    let elapsed = network.elapsed();
    if handler.seen.lock().unwrap().outcome.is_none() {
        thread.run_for(TIMEOUT).unwrap();
    }
    let outcome = outcome_of(&handler, network.elapsed() - elapsed, end);
    check_what_was_asked(&asked, &peer, has_credentials, &outcome);

    sockman.close_connection(id);
    thread.run_until_idle().unwrap();
    assert_eq!(
        (network.descriptors(), sockman.stats().connections),
        (0, 0),
        "a descriptor or a connection is left"
    );
    outcome
}

fn outcome_of(handler: &Handler, waited: Duration, end: End) -> Outcome {
    let mut seen = handler.seen.lock().unwrap();
    let Err(error) = seen.outcome.take().expect("an attempt must have an outcome") else {
        assert_eq!(seen.has_ended, end == End::Closes);
        return Outcome::Connected(std::mem::take(&mut seen.data));
    };
    assert!(seen.data.is_empty());
    match error.into_kind() {
        ConnectErrorKind::TimedOut { phase, after, .. } => {
            assert_eq!((after, waited), (TIMEOUT, TIMEOUT));
            Outcome::TimedOut(phase)
        }
        ConnectErrorKind::ProxyReplied { reply, .. } => Outcome::Reply(reply.code()),
        ConnectErrorKind::ProxyFailed { error, .. } => match error {
            ProxyError::NotSocks5 { found } => Outcome::NotSocks5(found),
            ProxyError::NoAcceptableMethod => Outcome::NoAcceptableMethod,
            ProxyError::MethodNotOffered { method } => Outcome::MethodNotOffered(method),
            ProxyError::AuthenticationVersion { found } => Outcome::AuthenticationVersion(found),
            ProxyError::CredentialsRejected { status } => Outcome::CredentialsRejected(status),
            ProxyError::ReservedByte { found } => Outcome::ReservedByte(found),
            ProxyError::AddressType { found } => Outcome::AddressType(found),
            ProxyError::BrokeOff { phase, source: None } => Outcome::BrokeOff(phase),
            other => panic!("unexpected fault: {other:?}"),
        },
        other => panic!("unexpected error: {other:?}"),
    }
}

/// Asserts that the proxy received the beginning of a client's correct dialogue, whatever the proxy
/// sent.
fn check_what_was_asked(
    (asked, ended): &(Vec<u8>, Option<Ended>),
    peer: &Peer,
    has_credentials: bool,
    outcome: &Outcome,
) {
    let greeting: &[u8] = if has_credentials { b"\x05\x02\x00\x02" } else { b"\x05\x01\x00" };
    let credentials = b"\x01\x04user\x08password";
    let request = [&b"\x05\x01\x00\x03\x09"[..], HOST.as_bytes(), &PORT.to_be_bytes()].concat();
    let without = [greeting, &request].concat();
    let with = [greeting, credentials, &request].concat();
    let is_dialogue = [&without, &with].iter().any(|whole| whole.starts_with(asked));
    assert!(is_dialogue && asked.starts_with(greeting), "the proxy was asked {asked:?}");
    if matches!(outcome, Outcome::Connected(_)) {
        assert!(
            *asked == without || *asked == with,
            "the library connected without a whole request"
        );
        assert_eq!(*ended, None);
    }
    assert!(peer.receive().0.is_empty(), "the library sent more bytes than the dialogue has");
}
