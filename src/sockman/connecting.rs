//! The methods of [`SockMan`] that connect.
//!
//! The methods run on the caller's thread. [`connect`](SockMan::connect) blocks it.

use std::any::Any;

use super::SockMan;
#[cfg(doc)]
use crate::event_handler::EventHandler;
#[cfg(feature = "testing")]
use crate::sys::Sock;
use crate::{
    address::{Destination, Service},
    dial::{ConnectError, ConnectOptions},
    engine::{
        connect::{self, NewConnection},
        connection::ConnectionId,
    },
    error::NotStarted,
};

impl SockMan {
    /// Connects to `to`. Blocks the calling thread until the connect has succeeded, failed, timed
    /// out or been interrupted.
    ///
    /// Before [`NewConnection::activate`], the connection is not polled, and no callback names its
    /// id. The embedder registers the id before it calls `activate`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]. On the socket thread, which calls most callbacks, the kind of the error is
    /// [`ConnectErrorKind::OnSocketThread`](crate::error::ConnectErrorKind::OnSocketThread).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::ConnectOptions;
    ///
    /// let connection = sockman.connect("127.0.0.1:8333", &ConnectOptions::default())?;
    /// println!("connection {} from {}", connection.id(), connection.me());
    /// // Put connection.id() into your own table here. Then:
    /// connection.activate();
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect<E>(
        &self,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
    ) -> Result<NewConnection, ConnectError>
    where
        ConnectError: From<E>,
    {
        connect::connect(self, &to.try_into()?, options)
    }

    /// Calls [`connect`](SockMan::connect), then `register` with the id and this side's address,
    /// then [`activate`](NewConnection::activate). This method is Core's `ConnectAndMakeId`, except
    /// that the registration comes before the first callback.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]. If the call fails, `register` was not called.
    ///
    /// # Panics
    ///
    /// If `register` panics. In that case the connection is closed, and no callback names it.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::{ConnectOptions, helpers::ConnectionTable};
    ///
    /// let table = ConnectionTable::new();
    /// let options = ConnectOptions::default();
    /// let id = sockman.connect_and_make_id("127.0.0.1:8333", &options, |id, me| {
    ///     table.insert(id, format!("outbound from {me}"));
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "ConnectAndMakeId")]
    pub fn connect_and_make_id<E>(
        &self,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
        register: impl FnOnce(ConnectionId, &Service),
    ) -> Result<ConnectionId, ConnectError>
    where
        ConnectError: From<E>,
    {
        let connection = self.connect(to, options)?;
        let id = connection.id();
        register(id, connection.me());
        connection.activate();
        Ok(id)
    }

    /// Makes a connection from a socket that other code has connected, such as a test double.
    /// Core's `TestOnlyAddExistentConnection`. Feature `testing`.
    ///
    /// As after [`connect`](SockMan::connect), [`NewConnection::activate`] begins the polling.
    ///
    /// # Errors
    ///
    /// [`ConnectErrorKind::TooManyConnections`]. If the call fails, the socket is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::{Service, testing::Network};
    ///
    /// let network = Network::new();
    /// let me: Service = "10.0.0.1:8333".parse()?;
    /// let them: Service = "10.0.0.2:8333".parse()?;
    /// let (sock, peer) = network.pair(&me, &them)?;
    /// let id = sockman.add_existing_connection(sock, &me, &them)?.activate();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`ConnectErrorKind::TooManyConnections`]: crate::error::ConnectErrorKind::TooManyConnections
    #[doc(alias = "TestOnlyAddExistentConnection")]
    #[cfg(feature = "testing")]
    pub fn add_existing_connection(
        &self,
        sock: Box<dyn Sock>,
        me: &Service,
        them: &Service,
    ) -> Result<NewConnection, ConnectError> {
        crate::engine::handover::add_existing(self, sock, me, them)
    }

    /// Begins to connect to `to` and returns at once, with the id that the connection will have.
    /// The socket thread completes the connect.
    ///
    /// Use this method in callbacks, and for thousands of connects at once. Each
    /// [`connect`](SockMan::connect) would block a thread.
    ///
    /// [`event_connect_completed`](EventHandler::event_connect_completed) reports the outcome once,
    /// within [`ConnectOptions::timeout`], or at once when the interrupt of
    /// [`ConnectOptions::cancel`] is set. No other callback names the id before the outcome.
    ///
    /// The outcome may be reported before this call has returned. An embedder that would keep
    /// attempts by id in a table passes a value to
    /// [`start_connect_with`](SockMan::start_connect_with) instead, which comes back with the
    /// outcome.
    ///
    /// Until the outcome, the id can be closed but not sent to. A close ends the attempt, and no
    /// callback reports the close.
    ///
    /// While no thread runs, only the kernel advances the attempt, and its outcome waits for the
    /// next start. An interrupt ends the threads but not the attempt.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the connect fails at once. In that case `event_connect_completed` is not
    /// called.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: sockman::SockMan) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::ConnectOptions;
    ///
    /// for address in ["192.0.2.1:8333", "192.0.2.2:8333"] {
    ///     let id = sockman.start_connect(address, &ConnectOptions::default())?;
    ///     println!("connecting to {address} as connection {id}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_connect<E>(
        &self,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
    ) -> Result<ConnectionId, ConnectError>
    where
        ConnectError: From<E>,
    {
        connect::start_connect(self, &to.try_into()?, options, (), |()| None)
            .map_err(|(error, ())| error)
    }

    /// Works as [`start_connect`](SockMan::start_connect), and keeps `value` until the outcome, for
    /// example what the connection is for.
    /// [`event_connect_completed_with`](EventHandler::event_connect_completed_with) reports the
    /// outcome and gives the value back, so the embedder needs no table of attempts. With
    /// [`stateful::Handler`](crate::stateful::Handler), the value can become the connection's value.
    ///
    /// If the id is closed before the outcome, `close_connection` drops the value, on the thread
    /// that closes, and no callback comes. If the last handle of the `SockMan` is dropped, the
    /// value is dropped with it. No lock is held during the drop of a value.
    ///
    /// # Errors
    ///
    /// [`NotStarted`], with the error and the value, if the connect fails at once. In that case no
    /// callback comes.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f(sockman: &sockman::SockMan) {
    /// use sockman::{ConnectOptions, error::NotStarted};
    ///
    /// struct Peer {
    ///     name: String,
    /// }
    ///
    /// let peer = Peer { name: "alice".to_owned() };
    /// let options = ConnectOptions::default();
    /// match sockman.start_connect_with("192.0.2.1:8333", &options, peer) {
    ///     Ok(id) => println!("connecting as connection {id}"),
    ///     Err(NotStarted { error, value, .. }) => println!("{}: {error:#}", value.name),
    /// }
    /// # }
    /// ```
    pub fn start_connect_with<E, V>(
        &self,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
        value: V,
    ) -> Result<ConnectionId, NotStarted<V>>
    where
        ConnectError: From<E>,
        V: Any + Send,
    {
        let to = match to.try_into() {
            Ok(to) => to,
            Err(error) => return Err(NotStarted::new(error.into(), value)),
        };
        connect::start_connect(self, &to, options, value, |value| Some(Box::new(value)))
            .map_err(|(error, value)| NotStarted::new(error, value))
    }
}
