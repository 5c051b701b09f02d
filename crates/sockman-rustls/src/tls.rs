//! [`Tls`], which turns the callbacks of the layer `stateful` into those of a [`TlsHandler`]. Its
//! methods run on the socket thread, and `accepted` also on the I2P-accept thread. The timers have
//! a mutex, which no callback runs under.

use std::{
    any::Any,
    fmt, io, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use rustls::{Connection, ServerConfig, ServerConnection};
use sockman::{
    ConnectionId, NextRecv, Service, SockMan,
    address::Destination,
    error::ConnectError,
    helpers::Deadlines,
    stateful::{Handler, Link},
};

use crate::{
    ConfigError, Dial, Session, TlsError, TlsHandler, TlsLink, TlsSettings,
    session::{Handshake, Place, Stage},
    wire::Wire,
};

/// How often a turn reports room at most. Without this number, a handler that always has more to
/// write would keep the socket thread for as long as the kernel takes the bytes.
const ROOMS_PER_TURN: usize = 8;

/// How many bytes of room a turn reports at most, or one send buffer, if that is larger.
const BYTES_PER_TURN: usize = 512 * 1024;

/// The handler of a `SockMan` whose connections are TLS. Pass it to
/// [`SockMan::with_state`](sockman::SockMan::with_state).
///
/// Accepted connections become TLS servers, and connects with a [`Dial`] TLS clients.
/// A connection that comes in another way, such as a `start_connect` without a `Dial`, is closed.
///
/// # Examples
///
/// A server that answers each message with its length:
///
/// ```
/// use std::{error::Error, sync::Arc};
///
/// use rustls::ServerConfig;
/// use sockman::{Options, SockMan};
/// use sockman_rustls::{Tls, TlsHandler, TlsLink, TlsSettings};
///
/// struct Lengths;
///
/// impl TlsHandler for Lengths {
///     type Connection = ();
///
///     fn secured(&self, _: &mut TlsLink<'_, ()>) -> Option<()> {
///         Some(())
///     }
///     fn got_data(&self, link: &mut TlsLink<'_, ()>, (): &mut ()) {
///         let answer = format!("{}\n", link.data().len());
///         if link.write(answer.as_bytes()) != Ok(answer.len()) {
///             link.close(); // The client does not read.
///         }
///     }
/// }
///
/// fn serve(config: Arc<ServerConfig>) -> Result<(), Box<dyn Error>> {
///     let tls = Tls::server(Arc::new(Lengths), config, TlsSettings::default())?;
///     let sockman = SockMan::with_state(Arc::new(tls), Options::default().sweep(None))?;
///     sockman.bind_and_start_listening("0.0.0.0:4433")?;
///     Ok(sockman.run_sockets_thread()?)
/// }
/// ```
pub struct Tls<H> {
    handler: Arc<H>,
    server: Option<Arc<ServerConfig>>,
    settings: TlsSettings,
    /// When handshakes end at the latest.
    timers: Deadlines<ConnectionId>,
    handshakes: Arc<AtomicUsize>,
    refused: AtomicU64,
}

impl<H: TlsHandler> Tls<H> {
    /// Returns a handler for a `SockMan` that accepts TLS clients. It can also connect.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if `config` accepts early data, or if rustls refuses `config`.
    pub fn server(
        handler: Arc<H>,
        config: Arc<ServerConfig>,
        settings: TlsSettings,
    ) -> Result<Tls<H>, ConfigError> {
        if config.max_early_data_size > 0 {
            return Err(ConfigError::EarlyData);
        }
        ServerConnection::new(Arc::clone(&config)).map_err(ConfigError::Rustls)?;
        Ok(Tls::new(handler, Some(config), settings))
    }

    /// Returns a handler for a `SockMan` that only connects. A connection that it accepts is
    /// closed.
    #[must_use]
    pub fn client(handler: Arc<H>, settings: TlsSettings) -> Tls<H> {
        Tls::new(handler, None, settings)
    }

    fn new(handler: Arc<H>, server: Option<Arc<ServerConfig>>, settings: TlsSettings) -> Tls<H> {
        Tls {
            handler,
            server,
            settings,
            timers: Deadlines::new(),
            handshakes: Arc::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Returns the number of accepted connections that are in their handshake. Any thread may call
    /// this method.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Returns how many clients were closed because too many handshakes were under way. Any thread
    /// may call this method.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Makes the value of a connection whose handshake begins.
    fn begin(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        tls: Connection,
        place: Option<Place>,
    ) -> Session<H::Connection> {
        let until = self.settings.now() + self.settings.handshake_timeout;
        self.timers.set(sockman, id, until);
        Session {
            wire: Wire::new(tls, self.settings.send_buffer),
            stage: Stage::Handshaking(Handshake { until, _place: place }),
        }
    }

    /// Reports the end of the handshake, if it is complete.
    fn secure(&self, link: Link<'_, Session<H::Connection>>, session: &mut Session<H::Connection>) {
        let Session { wire, stage } = session;
        if !matches!(stage, Stage::Handshaking(_)) || wire.tls.is_handshaking() {
            return;
        }
        *stage = Stage::Over;
        self.timers.clear(link.id());
        match self.handler.secured(&mut TlsLink::new(link, wire)) {
            Some(value) => *stage = Stage::Open(value),
            None => drop(link.finish(self.settings.linger)),
        }
    }

    /// Delivers what was decrypted.
    fn deliver(
        &self,
        link: Link<'_, Session<H::Connection>>,
        session: &mut Session<H::Connection>,
    ) {
        let Session { wire, stage } = session;
        let Stage::Open(value) = stage else { return };
        while !is_ending(link) {
            let length = wire.received().len();
            if length == 0 {
                return;
            }
            self.handler.got_data(&mut TlsLink::new(link, wire), value);
            wire.consume(length);
        }
    }

    /// Reports the peer's `close_notify`.
    fn peer_ended(
        &self,
        link: Link<'_, Session<H::Connection>>,
        session: &mut Session<H::Connection>,
    ) {
        session.wire.peer_has_ended = true;
        if let Stage::Open(value) = &mut session.stage {
            if !is_ending(link) {
                self.handler.got_end(&mut TlsLink::new(link, &mut session.wire), value);
            }
        }
    }

    /// Reports an error, and ends the connection.
    #[allow(clippy::needless_pass_by_value, reason = "the callers make the error")]
    fn fail(
        &self,
        link: Link<'_, Session<H::Connection>>,
        session: &mut Session<H::Connection>,
        error: TlsError,
    ) {
        let Session { wire, stage } = session;
        let is_truncated = matches!(error, TlsError::Truncated);
        if !is_truncated {
            // An alert of rustls is queued, or nothing can be sent.
            wire.has_ended = true;
            wire.wants_room = false;
        }
        *stage = match mem::replace(stage, Stage::Over) {
            Stage::Open(value) if !is_truncated => Stage::Failed(value),
            Stage::Handshaking(_) => {
                self.timers.clear(link.id());
                self.handler.handshake_failed(link.sockman(), link.id(), &error);
                Stage::Over
            }
            stage => stage,
        };
        if let Stage::Open(value) | Stage::Failed(value) = stage {
            self.handler.failed(&mut TlsLink::new(link, wire), value, &error);
        }
        match error {
            TlsError::Socket(_) | TlsError::HandshakeTimeout => drop(link.close()),
            _ => drop(link.finish(self.settings.linger)),
        }
    }

    /// Does what follows each callback: ends this side's stream if that is due, and sends.
    fn settle(&self, link: Link<'_, Session<H::Connection>>, session: &mut Session<H::Connection>) {
        if link.is_closed() {
            return;
        }
        let wire = &mut session.wire;
        wire.end_if_finishing(link);
        if let Err(error) = wire.flush(link) {
            // Another thread may have closed the connection.
            if !link.is_closed() {
                self.fail(link, session, TlsError::Socket(error));
            }
        }
    }
}

/// Returns whether nothing more may be delivered.
fn is_ending<C>(link: Link<'_, C>) -> bool {
    link.is_closed() || link.is_finishing()
}

impl<H: TlsHandler> Handler for Tls<H> {
    type Connection = Session<H::Connection>;

    fn accepted(
        &self,
        link: Link<'_, Self::Connection>,
        me: &Service,
        them: &Service,
    ) -> Option<Self::Connection> {
        let Some(config) = &self.server else {
            log::error!("a client from {them} was closed: this handler only connects");
            return None;
        };
        if !self.handler.admit(link.sockman(), me, them) {
            return None;
        }
        let Some(place) = Place::take(&self.handshakes, self.settings.max_handshakes) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            log::debug!("a client from {them} was closed: too many handshakes are under way");
            return None;
        };
        match ServerConnection::new(Arc::clone(config)) {
            Ok(tls) => {
                Some(self.begin(link.sockman(), link.id(), Connection::Server(tls), Some(place)))
            }
            Err(error) => {
                log::error!("a client from {them} was closed: {error}");
                None
            }
        }
    }

    fn connected(
        &self,
        _: Link<'_, Self::Connection>,
        to: &Destination,
        _: &Service,
    ) -> Option<Self::Connection> {
        log::error!("the connection to {to} was closed: it was begun without a `Dial`");
        None
    }

    fn connected_with(
        &self,
        link: Link<'_, Self::Connection>,
        to: &Destination,
        me: &Service,
        value: Box<dyn Any + Send>,
    ) -> Option<Self::Connection> {
        match value.downcast::<Dial>() {
            Ok(dial) => {
                Some(self.begin(link.sockman(), link.id(), Connection::Client(dial.tls), None))
            }
            Err(_) => self.connected(link, to, me),
        }
    }

    fn connect_failed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        error: ConnectError,
    ) {
        self.handler.connect_failed(sockman, id, to, error);
    }

    fn got_data(
        &self,
        link: Link<'_, Self::Connection>,
        session: &mut Self::Connection,
        mut data: &[u8],
    ) {
        // After the peer's `close_notify`, rustls takes nothing more. After this side's, it must get
        // nothing more: in a debug build, it would panic at a fault of the peer. This side sends a
        // `close_notify` only when the connection finishes.
        while !data.is_empty() && !session.wire.peer_has_ended && !is_ending(link) {
            let fed = session.wire.feed(&mut data);
            self.secure(link, session);
            self.deliver(link, session);
            match fed {
                Ok(false) => {}
                Ok(true) => self.peer_ended(link, session),
                Err(error) if !is_ending(link) => self.fail(link, session, error),
                // The handler has ended the connection, and expects no report.
                Err(_) => {}
            }
        }
        self.settle(link, session);
    }

    /// The end of TCP's stream. The end of TLS's stream comes before it, or it is a truncation.
    fn got_eof(&self, link: Link<'_, Self::Connection>, session: &mut Self::Connection) {
        if !session.wire.peer_has_ended {
            session.wire.peer_has_ended = true;
            self.fail(link, session, TlsError::Truncated);
        }
        self.settle(link, session);
    }

    fn read_error(
        &self,
        link: Link<'_, Self::Connection>,
        session: &mut Self::Connection,
        error: &io::Error,
    ) {
        let error = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => error.kind().into(),
        };
        self.fail(link, session, TlsError::Socket(error));
    }

    fn should_try_to_send(
        &self,
        link: Link<'_, Self::Connection>,
        session: &mut Self::Connection,
    ) -> bool {
        session.wire.end_if_finishing(link);
        session.wire.tls.wants_write() || session.wire.is_stalled()
    }

    fn ready_to_send(
        &self,
        link: Link<'_, Self::Connection>,
        session: &mut Self::Connection,
    ) -> NextRecv {
        self.settle(link, session);
        let mut was_stalled = false;
        let rooms = (BYTES_PER_TURN / self.settings.send_buffer).clamp(1, ROOMS_PER_TURN);
        for _ in 0..rooms {
            let Session { wire, stage } = &mut *session;
            if !wire.is_stalled() || wire.tls.wants_write() || link.is_closed() {
                break;
            }
            (was_stalled, wire.wants_room) = (true, false);
            if let Stage::Open(value) = stage {
                self.handler.got_room(&mut TlsLink::new(link, wire), value);
            }
            self.settle(link, session);
        }
        if was_stalled && !session.wire.is_stalled() && !link.is_closed() {
            link.wake(); // The connection may be read again.
        }
        NextRecv::Proceed
    }

    fn should_try_to_recv(
        &self,
        _: Link<'_, Self::Connection>,
        session: &mut Self::Connection,
    ) -> bool {
        match &mut session.stage {
            Stage::Open(value) => {
                !session.wire.is_stalled() && self.handler.should_try_to_recv(value)
            }
            _ => true,
        }
    }

    fn turn_completed(&self, link: Link<'_, Self::Connection>, session: &mut Self::Connection) {
        match &mut session.stage {
            Stage::Handshaking(handshake) => {
                // The turn has received what had arrived.
                if handshake.until <= self.settings.now() && !link.is_finishing() {
                    self.fail(link, session, TlsError::HandshakeTimeout);
                }
            }
            Stage::Open(value) => {
                self.handler.turn_completed(&mut TlsLink::new(link, &mut session.wire), value);
                self.settle(link, session);
            }
            Stage::Failed(_) | Stage::Over => {}
        }
    }

    fn closed(&self, sockman: &SockMan, id: ConnectionId, session: Self::Connection) {
        match session.stage {
            Stage::Handshaking(_) => {
                self.timers.clear(id);
                self.handler.handshake_failed(sockman, id, &TlsError::Closed);
            }
            Stage::Open(value) | Stage::Failed(value) => self.handler.closed(sockman, id, value),
            Stage::Over => {}
        }
    }

    fn loop_completed(&self, sockman: &SockMan) {
        let now = self.settings.now();
        while let Some(id) = self.timers.take_due(now) {
            sockman.wake(id); // Its turn ends it.
        }
        self.handler.loop_completed(sockman);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.handler.next_deadline()).min()
    }
}

impl<H> fmt::Debug for Tls<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("settings", &self.settings)
            .field("handshakes", &self.handshakes.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
