//! The server: its [`EventHandler`]. Everything here runs on the socket thread.

use std::{
    error::Error,
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectionId, EventHandler, Interrupt, NextRecv, Options, SendQueue, Service, SockMan,
    SocketsThreads,
    helpers::{ConnectionTable, Deadlines, SendQueueLimits},
};

use crate::{
    keys::AuthorityKeys,
    listener,
    session::{Progress, Session, Stage},
    templates::Template,
};

/// The most that is read from a client at once. Its messages are short, and all that one piece asks
/// for is answered in one piece: of the shortest requests, 46 bytes each, 178 with 12 KiB.
const RECEIVE_BUFFER: usize = 8 * 1024;
/// Unsent bytes of one client: a template, a few hundred, and answers. From a quarter of it on the
/// client is not read from, so it is never full. What waits for long is stopped by its age.
const MAX_UNSENT: usize = 32 * 1024;

/// Reading pauses at a quarter of what a client may leave unsent.
const LIMITS: SendQueueLimits =
    match SendQueueLimits::new(MAX_UNSENT / 8, MAX_UNSENT / 4, MAX_UNSENT) {
        Ok(limits) => limits,
        #[allow(clippy::panic, reason = "evaluated when compiled")]
        Err(_) => panic!("low mark < high mark <= limit"),
    };
/// Templates that may come while an earlier one has not left for a client. A client is to take each
/// at once: one or two are a hitch in the network, after three its work has long been stale.
const MAX_MISSED: u64 = 3;
/// An interval of zero would never let the socket thread go.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// What a server is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses to listen on.
    pub listen: Vec<Service>,
    /// At the limit, clients wait until another one leaves.
    pub max_connections: usize,
    /// Between two templates. Less than a millisecond counts as one.
    pub interval: Duration,
    /// From the accept until the client has asked for templates, which the standard wants at once:
    /// for handshake, `SetupConnection` and `CoinbaseOutputConstraints` together. So long a refused
    /// client may take to close, too.
    pub setup_timeout: Duration,
    /// So many templates a client may let go by without taking the last one that it was sent.
    pub max_missed: u64,
    /// Set: the server ends.
    pub interrupt: Interrupt,
    /// Sockman's sweep. Nothing here depends on it.
    pub sweep: Option<Duration>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            max_connections: 1000,
            interval: Duration::from_secs(5),
            setup_timeout: Duration::from_secs(10),
            max_missed: MAX_MISSED,
            interrupt: Interrupt::new(),
            sweep: None,
        }
    }
}

/// What happened. Told on the socket thread: whoever listens must not keep it waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client is connected.
    Connected {
        /// The client.
        id: ConnectionId,
    },
    /// A client has asked for templates.
    Subscribed {
        /// The client.
        id: ConnectionId,
    },
    /// To so many clients at once; whoever has one under way gets it later, or a newer one.
    Pushed {
        /// The id of the template.
        template: u64,
        /// The number of clients.
        clients: usize,
    },
    /// A client is disconnected.
    Disconnected {
        /// The client.
        id: ConnectionId,
        /// The reason.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    NewTemplate,
    Setup(ConnectionId),
}

struct Client {
    send: SendQueue,
    session: Mutex<Session>,
}

impl Client {
    fn stage(&self) -> Stage {
        self.session.lock().stage()
    }
}

struct Handler {
    config: Config,
    keys: AuthorityKeys,
    clients: ConnectionTable<Client>,
    timers: Deadlines<Timer>,
    /// The newest.
    template: Mutex<Arc<Template>>,
    observer: Box<dyn Fn(Event) + Send + Sync>,
}

impl Handler {
    fn disconnect(&self, sockman: &SockMan, id: ConnectionId, reason: &str) {
        sockman.close_connection(id);
        self.timers.clear(Timer::Setup(id));
        let Some(client) = self.clients.remove(id) else { return };
        // However it went on from there.
        let is_refused = client.stage() == Stage::Refused;
        let reason = if is_refused { "its SetupConnection was refused" } else { reason };
        (self.observer)(Event::Disconnected { id, reason: reason.to_owned() });
    }

    fn received(&self, sockman: &SockMan, id: ConnectionId, client: &Client, progress: &Progress) {
        if let Err(error) = client.send.push(sockman, &progress.out) {
            return self.disconnect(sockman, id, &format!("{error:#}"));
        }
        if progress.has_subscribed {
            self.timers.clear(Timer::Setup(id));
            (self.observer)(Event::Subscribed { id });
        }
        self.send_next(sockman, id, client);
    }

    /// What there is to do for a client as soon as everything has left that was to be sent.
    fn send_next(&self, sockman: &SockMan, id: ConnectionId, client: &Client) {
        if client.send.has_queued() {
            return;
        }
        match client.stage() {
            // The end, behind the answer. To close here instead would be a reset, if there are
            // bytes that nobody has read, and a reset can overtake the answer. So the client is
            // read from until it closes, too, or its time is up.
            Stage::Refused => {
                if let Err(error) = sockman.shutdown_write(id) {
                    self.disconnect(sockman, id, &format!("{error:#}"));
                }
            }
            Stage::Subscribed => {
                let newest = Arc::clone(&self.template.lock());
                let lacks = client.session.lock().lacks(&newest);
                if lacks > 0 {
                    self.push(sockman, id, client, &newest);
                }
            }
            Stage::Handshake | Stage::SetupConnection | Stage::SetUp => {}
        }
    }

    fn push(&self, sockman: &SockMan, id: ConnectionId, client: &Client, template: &Template) {
        let encoded = client.session.lock().push(template);
        let pushed = encoded.map_err(|fault| format!("{fault:#}")).and_then(|bytes| {
            client.send.push(sockman, &bytes).map_err(|error| format!("{error:#}"))
        });
        if let Err(reason) = pushed {
            self.disconnect(sockman, id, &reason);
        }
    }

    fn new_template(&self, sockman: &SockMan, now: Instant) {
        self.timers.set(sockman, Timer::NewTemplate, now + self.config.interval);
        let newest = {
            let mut template = self.template.lock();
            *template = Arc::new(Template::new(template.id + 1));
            Arc::clone(&template)
        };
        let mut clients = 0;
        for (id, client) in self.clients.all() {
            let lacks = client.session.lock().lacks(&newest);
            if lacks == 0 {
                continue;
            }
            if !client.send.has_queued() {
                clients += 1;
                self.push(sockman, id, &client, &newest);
            } else if lacks > self.config.max_missed {
                self.disconnect(sockman, id, "it does not take the templates that it is sent");
            }
        }
        (self.observer)(Event::Pushed { template: newest.id, clients });
    }
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _me: &Service,
        _them: &Service,
    ) -> bool {
        let session = Mutex::new(Session::new(&self.keys));
        self.clients.insert(id, Client { send: SendQueue::new(id, LIMITS), session });
        self.timers.set(sockman, Timer::Setup(id), Instant::now() + self.config.setup_timeout);
        (self.observer)(Event::Connected { id });
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.clients.find(id).is_some_and(|client| client.send.has_queued())
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let Some(client) = self.clients.find(id) else { return NextRecv::Skip };
        match client.send.drain(sockman) {
            Ok(_) => self.send_next(sockman, id, &client),
            Err(error) => self.disconnect(sockman, id, &format!("{error:#}")),
        }
        NextRecv::Proceed
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.clients.find(id).is_some_and(|client| !client.send.is_above_high_mark())
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let Some(client) = self.clients.find(id) else { return };
        if client.stage() == Stage::Refused {
            // Read, so that there is nothing unread when it is closed.
            return;
        }
        let received = client.session.lock().receive(data);
        match received {
            Ok(progress) => self.received(sockman, id, &client, &progress),
            Err(fault) => self.disconnect(sockman, id, &format!("{fault:#}")),
        }
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.disconnect(sockman, id, "it closed the connection");
    }

    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    ) {
        self.disconnect(sockman, id, &format!("{error:#}"));
    }

    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        let now = Instant::now();
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::NewTemplate => self.new_template(sockman, now),
                Timer::Setup(id) => {
                    self.disconnect(sockman, id, "it did not ask for templates in time");
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    sockman: SockMan,
    /// `None` once stopped.
    threads: Option<SocketsThreads>,
    listening: Vec<Service>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens, and starts the socket thread.
    ///
    /// # Errors
    ///
    /// An address could not be listened on, or the thread not be started.
    pub fn start(
        mut config: Config,
        keys: AuthorityKeys,
        observer: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Server, Box<dyn Error>> {
        config.interval = config.interval.max(SHORTEST_INTERVAL);
        let options = Options::default()
            .max_connections(config.max_connections)
            .interrupt(config.interrupt.clone())
            .receive_buffer(RECEIVE_BUFFER)
            .sweep(config.sweep);
        let (listen, interval) = (config.listen.clone(), config.interval);
        let handler = Arc::new(Handler {
            config,
            keys,
            clients: ConnectionTable::new(),
            timers: Deadlines::new(),
            template: Mutex::new(Arc::new(Template::new(1))),
            observer: Box::new(observer),
        });
        let sockman = SockMan::new(handler.clone(), options)?;
        handler.timers.set(&sockman, Timer::NewTemplate, Instant::now() + interval);
        let mut listening = Vec::new();
        for address in &listen {
            listening.push(listener::listen(&sockman, address)?);
        }
        let threads = Some(sockman.start_sockets_threads()?);
        Ok(Server { sockman, threads, listening })
    }

    /// Where it listens, with the ports that it really got.
    pub fn listening(&self) -> &[Service] {
        &self.listening
    }

    /// `false` once the interrupt was set, or the socket thread has failed, which
    /// [`stop`](Server::stop) tells of.
    pub fn is_running(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| !threads.is_finished())
    }

    /// Ends the server, and waits for its thread.
    ///
    /// # Errors
    ///
    /// The socket thread had panicked.
    pub fn stop(mut self) -> Result<(), Box<dyn Error>> {
        self.sockman.interrupt();
        match self.threads.take() {
            Some(threads) => Ok(threads.join()?),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.sockman.interrupt();
    }
}
