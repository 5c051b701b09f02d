//! [`Reactor`], the face of this crate. The thread that calls `run` is the socket thread.

use std::{fmt, io, marker::PhantomData, mem, net::SocketAddr, panic, sync::Arc, time::Duration};

use crossbeam_channel as chan;
use nakamoto_net::{Disconnect, PeerId, Publisher, Service, error::Error};
use sockman::{ConnectOptions, Options, SockMan, error::CreateError, error::RunError};

use crate::{Waker, bridge::Bridge, session::Session};

/// How long the end of a [`run`](nakamoto_net::Reactor::run), and the end of a connection that the
/// service ends, may take to send what is queued.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Runs a nakamoto [`Service`], such as its light client, over a [`SockMan`].
///
/// The thread that calls [`run`](nakamoto_net::Reactor::run) does everything: it accepts, connects,
/// receives, sends, and calls the service. The service need not be `Send`, and may borrow.
///
/// `Id` is the service's name for a peer, as in [`nakamoto_net::Reactor`].
///
/// # Examples
///
/// ```no_run
/// use nakamoto_client::{Client, Config, Network, traits::Handle};
/// use nakamoto_net_sockman::Reactor;
///
/// let client = Client::<Reactor>::new()?;
/// let handle = client.handle();
/// let thread = std::thread::spawn(|| client.run(Config::new(Network::Signet)));
/// println!("the chain has {} blocks", handle.get_tip()?.0);
/// handle.shutdown()?;
/// # let _ = thread;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reactor<Id: PeerId = SocketAddr> {
    sockman: SockMan,
    bridge: Arc<Bridge>,
    connect: ConnectOptions,
    shutdown: chan::Receiver<()>,
    listening: chan::Sender<SocketAddr>,
    id: PhantomData<fn() -> Id>,
}

impl<Id: PeerId> Reactor<Id> {
    /// Creates a reactor with limits and other options, and with options for each connect, such as a
    /// proxy and a time-out. Nakamoto's `Client` calls [`new`](nakamoto_net::Reactor::new) in place
    /// of this function, and so has the defaults.
    ///
    /// A message on `shutdown`, and a [wake](Waker), end [`run`](nakamoto_net::Reactor::run).
    /// `listening` gets the address of each listener, unless the channel is full.
    ///
    /// The reactor overrides one of the options. [`Options::sweep`] becomes `None`, because the
    /// reactor wakes its loop where that is needed.
    ///
    /// # Errors
    ///
    /// [`CreateError`], as of [`SockMan::with_state`].
    ///
    /// # Examples
    ///
    /// ```
    /// # fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::net::SocketAddr;
    ///
    /// use nakamoto_net_sockman::Reactor;
    /// use sockman::{ConnectOptions, Options, proxy::Proxy};
    ///
    /// let (end, shutdown) = crossbeam_channel::bounded(1);
    /// let (listening, addresses) = crossbeam_channel::bounded(1);
    /// let tor: Proxy = "127.0.0.1:9050".parse()?;
    /// let options = Options::default().max_connections(50);
    /// let connect = ConnectOptions::default().proxy(tor.tor_stream_isolation());
    /// let reactor = Reactor::<SocketAddr>::with_options(shutdown, listening, options, connect)?;
    /// # drop((end, addresses, reactor));
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_options(
        shutdown: chan::Receiver<()>,
        listening: chan::Sender<SocketAddr>,
        options: Options,
        connect: ConnectOptions,
    ) -> Result<Reactor<Id>, CreateError> {
        let bridge = Arc::new(Bridge::new());
        let sockman = SockMan::with_state(Arc::clone(&bridge), options.sweep(None))?;
        Ok(Reactor { sockman, bridge, connect, shutdown, listening, id: PhantomData })
    }

    /// Returns the `SockMan` of this reactor, for statistics and states of connections.
    ///
    /// If the program closes a connection, the service is told. The service ignores a connection
    /// that the program makes, because it has not asked for it.
    #[must_use]
    pub fn sockman(&self) -> &SockMan {
        &self.sockman
    }

    fn listen(&self, addresses: &[SocketAddr]) -> io::Result<()> {
        for address in addresses {
            let bound = self.sockman.bind_and_start_listening(address)?;
            if let Some(bound) = bound.to_socket_addr() {
                // Nakamoto's client has a channel with one place. It must not block this thread.
                let _ = self.listening.try_send(bound);
            }
        }
        Ok(())
    }

    /// Closes everything, so that the next run begins anew.
    fn close_all(&self) {
        self.sockman.stop_listening();
        for id in self.sockman.connection_ids() {
            self.sockman.close_connection(id);
        }
        self.bridge.timers.clear();
        drop(self.bridge.take());
    }
}

impl<Id: PeerId> nakamoto_net::Reactor<Id> for Reactor<Id> {
    type Waker = Waker;

    fn new(
        shutdown: chan::Receiver<()>,
        listening: chan::Sender<SocketAddr>,
    ) -> Result<Reactor<Id>, io::Error> {
        let (options, connect) = (Options::default(), ConnectOptions::default());
        Ok(Reactor::with_options(shutdown, listening, options, connect)?)
    }

    /// Runs `service` until a message comes on the channel `shutdown`, which is noticed after a
    /// [wake](Waker).
    ///
    /// At the end, what is queued for the peers is sent, for one second at most. Then the
    /// connections and the listeners are closed. The service is not told.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if an address cannot be bound, or if the poller fails.
    ///
    /// # Panics
    ///
    /// Continues a panic of the service or of the publisher. Before that, everything is closed.
    fn run<S, E>(
        &mut self,
        listen_addrs: &[SocketAddr],
        service: S,
        publisher: E,
        commands: chan::Receiver<S::Command>,
    ) -> Result<(), Error>
    where
        S: Service<Id>,
        S::DisconnectReason: Into<Disconnect<S::DisconnectReason>>,
        E: Publisher<S::Event>,
    {
        let closed = CloseOnDrop(self);
        self.listen(listen_addrs)?;
        let mut session = Session::new(&self.bridge, &self.connect, service, publisher);
        let mut is_ending = false;
        let mut is_begun = false;
        let outcome = self.sockman.run_sockets_thread_with(|sockman| {
            if is_ending {
                drop(self.bridge.take());
                return;
            }
            if !mem::replace(&mut is_begun, true) {
                session.begin(sockman);
            }
            session.turn(sockman, &commands);
            if self.shutdown.try_recv().is_ok() {
                is_ending = true;
                session.end(sockman);
                sockman.drain_and_stop(LINGER);
            }
        });
        drop(closed);
        match outcome {
            Ok(()) => Ok(()),
            Err(RunError::Panicked(panic)) => panic::resume_unwind(panic.into_payload()),
            Err(error) => Err(Error::Io(error.into())),
        }
    }

    fn waker(&self) -> Waker {
        Waker { sockman: self.sockman.downgrade() }
    }
}

/// Closes everything at the end of a run, also after an error.
struct CloseOnDrop<'a, Id: PeerId>(&'a Reactor<Id>);

impl<Id: PeerId> Drop for CloseOnDrop<'_, Id> {
    fn drop(&mut self) {
        self.0.close_all();
    }
}

impl<Id: PeerId> fmt::Debug for Reactor<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("sockman", &self.sockman).finish_non_exhaustive()
    }
}
