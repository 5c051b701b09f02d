//! The server and its [`EventHandler`]. The handler runs on the socket thread only. The locks serve
//! the trait's `&self` and are never contended.

use std::{
    error::Error,
    fmt, io, mem,
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

/// The most bytes that are read from a client at once. Messages are short. All requests of one
/// piece are answered together. A piece holds at most 178 requests, of 46 bytes each, and their
/// answers take 12 KiB.
const RECEIVE_BUFFER: usize = 8 * 1024;
/// The limit of the unsent bytes of one client: a template of a few hundred bytes, and answers.
/// From a quarter of it on, the client is not read from, so this limit is never reached. A client
/// that leaves bytes unsent for long misses templates and is disconnected for that.
const MAX_UNSENT: usize = 32 * 1024;

/// The marks of a send queue. Reading pauses at a quarter of `MAX_UNSENT`.
const LIMITS: SendQueueLimits =
    match SendQueueLimits::new(MAX_UNSENT / 8, MAX_UNSENT / 4, MAX_UNSENT) {
        Ok(limits) => limits,
        #[allow(clippy::panic, reason = "evaluated when compiled")]
        Err(_) => panic!("low mark < high mark <= limit"),
    };
/// The most templates that a client may miss while an earlier one is unsent. A client should take
/// each template at once. Missing one or two can be a short fault of the network. After three, the
/// client's work has long been stale.
const MAX_MISSED: u64 = 3;
/// The shortest interval. An interval of zero would keep the socket thread in its timer loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// The configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses to listen on.
    pub listen: Vec<Service>,
    /// The most clients at a time. At the limit, further clients wait until one leaves. Default:
    /// 1000.
    pub max_connections: usize,
    /// The time between two templates. Values below one millisecond count as one millisecond.
    /// Default: 5 s.
    pub interval: Duration,
    /// How long a client may take from the accept until it subscribes, that is for the handshake,
    /// `SetupConnection` and `CoinbaseOutputConstraints` together. The standard requires that a
    /// client subscribes at once. A refused client must close within the same time. Default: 10 s.
    pub setup_timeout: Duration,
    /// How many templates a client may miss while the last one sent to it waits in the send queue.
    /// Default: 3.
    pub max_missed: u64,
    /// Setting this interrupt stops the server.
    pub interrupt: Interrupt,
    /// Sockman's sweep. The server does not depend on it. Default: `None`.
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

/// An event of the server. The observer is called on the socket thread, and must return quickly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client has connected.
    Connected {
        /// The client.
        id: ConnectionId,
    },
    /// A client has subscribed to templates.
    Subscribed {
        /// The client.
        id: ConnectionId,
    },
    /// A template was pushed. A client that has not taken its last template gets this one or a
    /// newer one later.
    Pushed {
        /// The id of the template.
        template: u64,
        /// The number of clients to which it was pushed immediately.
        clients: usize,
    },
    /// A client is disconnected.
    Disconnected {
        /// The client.
        id: ConnectionId,
        /// Whether the client had subscribed.
        was_subscribed: bool,
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
    setup: Mutex<Setup>,
}

/// The time that a client has for its setup.
struct Setup {
    ends: Instant,
    /// When bytes last arrived.
    heard: Option<Instant>,
    is_extended: bool,
}

impl Setup {
    /// Returns the new end, once, if bytes were delivered after the end. Then this server was late,
    /// perhaps because its process was stopped, and the client could not go on.
    fn extend(&mut self, now: Instant, by: Duration) -> Option<Instant> {
        let was_held_up = self.heard.is_some_and(|heard| heard >= self.ends);
        if !was_held_up || mem::replace(&mut self.is_extended, true) {
            return None;
        }
        self.ends = now + by;
        Some(self.ends)
    }
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
    /// The newest template.
    template: Mutex<Arc<Template>>,
    observer: Box<dyn Fn(Event) + Send + Sync>,
}

impl Handler {
    fn disconnect(&self, sockman: &SockMan, id: ConnectionId, reason: &str) {
        sockman.close_connection(id);
        self.timers.clear(Timer::Setup(id));
        let Some(client) = self.clients.remove(id) else { return };
        // The refusal is the reason, whatever ended the connection after it.
        let stage = client.stage();
        let is_refused = stage == Stage::Refused;
        let was_subscribed = stage == Stage::Subscribed;
        let reason = if is_refused { "the client's SetupConnection was refused" } else { reason };
        (self.observer)(Event::Disconnected { id, was_subscribed, reason: reason.to_owned() });
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

    /// Takes the next step for a client whose send queue is empty.
    fn send_next(&self, sockman: &SockMan, id: ConnectionId, client: &Client) {
        if client.send.has_queued() {
            return;
        }
        match client.stage() {
            // A close would send a reset if there are unread bytes, and a reset can overtake the
            // answer. So this side is shut down, and the client is read from until it closes or its
            // setup time-out expires.
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

    fn setup_ended(&self, sockman: &SockMan, id: ConnectionId, now: Instant) {
        let Some(client) = self.clients.find(id) else { return };
        let extended = client.setup.lock().extend(now, self.config.setup_timeout);
        match extended {
            Some(ends) => self.timers.set(sockman, Timer::Setup(id), ends),
            None => {
                let reason = "the client did not subscribe to templates in time";
                self.disconnect(sockman, id, reason);
            }
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
                self.disconnect(sockman, id, "the client does not read the templates sent to it");
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
        let ends = Instant::now() + self.config.setup_timeout;
        let setup = Mutex::new(Setup { ends, heard: None, is_extended: false });
        self.clients.insert(id, Client { send: SendQueue::new(id, LIMITS), session, setup });
        self.timers.set(sockman, Timer::Setup(id), ends);
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
        client.setup.lock().heard = Some(Instant::now());
        if client.stage() == Stage::Refused {
            // The bytes are read and discarded, because unread bytes would turn the close into a
            // reset.
            return;
        }
        let received = client.session.lock().receive(data);
        match received {
            Ok(progress) => self.received(sockman, id, &client, &progress),
            Err(fault) => self.disconnect(sockman, id, &format!("{fault:#}")),
        }
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.disconnect(sockman, id, "the client closed the connection");
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
                Timer::Setup(id) => self.setup_ended(sockman, id, now),
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
    /// `None` after the stop.
    threads: Option<SocketsThreads>,
    listening: Vec<Service>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts to listen, and starts the socket thread.
    ///
    /// # Errors
    ///
    /// Listening on an address failed, or the thread did not start.
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

    /// Returns the addresses on which the server listens, with the actual ports.
    pub fn listening(&self) -> &[Service] {
        &self.listening
    }

    /// Returns whether the socket thread runs. The thread ends after the interrupt is set, or when
    /// it fails. After a failure, [`stop`](Server::stop) returns the reason.
    pub fn is_running(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| !threads.is_finished())
    }

    /// Stops the server and waits for its thread.
    ///
    /// # Errors
    ///
    /// The socket thread has panicked.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_heard_only_after_the_end_of_its_setup_gets_more_time_once() {
        let (ends, second) = (Instant::now(), Duration::from_secs(1));
        let setup = |heard| Setup { ends, heard, is_extended: false };
        assert_eq!(setup(None).extend(ends, second), None, "the client is silent");
        assert_eq!(setup(ends.checked_sub(second)).extend(ends, second), None);
        let mut held_up = setup(Some(ends + second));
        assert_eq!(held_up.extend(ends + second, second), Some(ends + 2 * second));
        held_up.heard = Some(ends + 3 * second);
        assert_eq!(held_up.extend(ends + 3 * second, second), None);
    }
}
