//! The server and its [`Handler`], which runs on the socket thread only. The library keeps a
//! [`Client`] for each connection.
//!
//! A new template wakes all connections. Each of them then looks at the newest template.

use std::{
    error::Error,
    fmt, io, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectionId, Interrupt, NextRecv, Options, Service, SockMan, SocketsThreads,
    helpers::{Deadlines, SendQueueLimits},
    options::SocketOptions,
    stateful::{self, Handler},
};
use sockman_programs::listening;

use crate::{
    keys::AuthorityKeys,
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
/// The size of the kernel's send buffer, which holds the bytes that a client has not acknowledged.
/// Linux doubles the size, and packs small pieces together. Measured with a small buffer at the
/// client, it held 120 to 170 templates of about 200 bytes. With one template in 5 s, the server
/// notices after 10 to 14 minutes that a client is gone or reads nothing. Without this setting the
/// buffer grows: it then held 13,947 templates, most of a day. A larger receive buffer of the
/// client adds templates to both numbers.
const SEND_BUFFER: usize = 16 * 1024;
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

type Link<'a> = stateful::Link<'a, Client>;

struct Client {
    session: Session,
    setup: Setup,
    /// Why the server has closed the connection.
    reason: Option<String>,
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
    /// Closes the connection. The first reason counts.
    fn close(&mut self, link: Link<'_>, reason: impl fmt::Display) {
        self.reason.get_or_insert_with(|| format!("{reason:#}"));
        link.close();
    }

    fn push(&mut self, link: Link<'_>, bytes: &[u8]) {
        if let Err(error) = link.push(bytes) {
            self.close(link, error);
        }
    }

    fn is_setting_up(&self) -> bool {
        !matches!(self.session.stage(), Stage::Refused | Stage::Subscribed)
    }
}

/// The newest template, and the clients to which it was pushed immediately.
struct Newest {
    template: Arc<Template>,
    clients: usize,
    is_reported: bool,
}

struct Templates {
    config: Config,
    keys: AuthorityKeys,
    timers: Deadlines<Timer>,
    newest: Mutex<Newest>,
    observer: Box<dyn Fn(Event) + Send + Sync>,
}

impl Templates {
    fn received(&self, link: Link<'_>, client: &mut Client, progress: &Progress) {
        client.push(link, &progress.out);
        if progress.has_subscribed && !link.is_closed() {
            self.timers.clear(Timer::Setup(link.id()));
            (self.observer)(Event::Subscribed { id: link.id() });
        }
        // A close would send a reset if there are unread bytes, and a reset can overtake the answer.
        // So the client is read from until it closes or its setup time-out expires.
        if client.session.stage() == Stage::Refused {
            link.finish(client.setup.ends.saturating_duration_since(Instant::now()));
        }
    }

    /// Pushes the newest template to a client that lacks it, if earlier bytes are sent.
    fn offer(&self, link: Link<'_>, client: &mut Client) {
        let mut newest = self.newest.lock();
        let lacks = client.session.lacks(&newest.template);
        if lacks == 0 {
            return;
        }
        if link.queue().has_queued() {
            if lacks > self.config.max_missed {
                client.close(link, "the client does not read the templates sent to it");
            }
            return;
        }
        match client.session.push(&newest.template) {
            Ok(bytes) => client.push(link, &bytes),
            Err(fault) => client.close(link, fault),
        }
        newest.clients += 1;
    }

    fn setup_ended(&self, link: Link<'_>, client: &mut Client, now: Instant) {
        match client.setup.extend(now, self.config.setup_timeout) {
            Some(ends) => self.timers.set(link.sockman(), Timer::Setup(link.id()), ends),
            None => client.close(link, "the client did not subscribe to templates in time"),
        }
    }

    fn new_template(&self, sockman: &SockMan, now: Instant) {
        self.timers.set(sockman, Timer::NewTemplate, now + self.config.interval);
        let mut newest = self.newest.lock();
        let template = Arc::new(Template::new(newest.template.id + 1));
        *newest = Newest { template, clients: 0, is_reported: false };
        for id in sockman.connection_ids() {
            sockman.wake(id);
        }
        sockman.notify(); // The next pass reports the template.
    }

    /// Reports the newest template when all clients have looked at it.
    fn report(&self) {
        let mut newest = self.newest.lock();
        if !mem::replace(&mut newest.is_reported, true) {
            let (template, clients) = (newest.template.id, newest.clients);
            drop(newest);
            (self.observer)(Event::Pushed { template, clients });
        }
    }
}

impl Handler for Templates {
    type Connection = Client;

    fn accepted(&self, link: Link<'_>, _me: &Service, _them: &Service) -> Option<Client> {
        let ends = Instant::now() + self.config.setup_timeout;
        self.timers.set(link.sockman(), Timer::Setup(link.id()), ends);
        (self.observer)(Event::Connected { id: link.id() });
        let setup = Setup { ends, heard: None, is_extended: false };
        Some(Client { session: Session::new(&self.keys), setup, reason: None })
    }

    fn ready_to_send(&self, link: Link<'_>, client: &mut Client) -> NextRecv {
        if let Err(error) = link.drain() {
            client.close(link, error);
        }
        NextRecv::Proceed
    }

    fn got_data(&self, link: Link<'_>, client: &mut Client, data: &[u8]) {
        client.setup.heard = Some(Instant::now());
        match client.session.receive(data) {
            Ok(progress) => self.received(link, client, &progress),
            Err(fault) => client.close(link, fault),
        }
    }

    fn got_eof(&self, link: Link<'_>, client: &mut Client) {
        client.close(link, "the client closed the connection");
    }

    fn read_error(&self, link: Link<'_>, client: &mut Client, error: &io::Error) {
        client.close(link, error);
    }

    fn turn_completed(&self, link: Link<'_>, client: &mut Client) {
        self.offer(link, client);
        let now = Instant::now();
        if client.is_setting_up() && client.setup.ends <= now {
            self.setup_ended(link, client, now);
        }
    }

    fn closed(&self, _: &SockMan, id: ConnectionId, client: Client) {
        self.timers.clear(Timer::Setup(id));
        let stage = client.session.stage();
        // The refusal is the reason, whatever ended the connection after it.
        let refusal = (stage == Stage::Refused)
            .then(|| "the client's SetupConnection was refused".to_owned());
        let reason = refusal.or(client.reason).unwrap_or_default();
        let was_subscribed = stage == Stage::Subscribed;
        (self.observer)(Event::Disconnected { id, was_subscribed, reason });
    }

    fn loop_completed(&self, sockman: &SockMan) {
        self.report();
        let now = Instant::now();
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::NewTemplate => self.new_template(sockman, now),
                // The turn that follows receives what has arrived, and then looks at the time.
                Timer::Setup(id) => sockman.wake(id),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn queue_limits(&self) -> SendQueueLimits {
        LIMITS
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
        let newest = Newest { template: Arc::new(Template::new(1)), clients: 0, is_reported: true };
        let templates = Arc::new(Templates {
            config,
            keys,
            timers: Deadlines::new(),
            newest: Mutex::new(newest),
            observer: Box::new(observer),
        });
        let sockman = SockMan::with_state(Arc::clone(&templates), options)?;
        templates.timers.set(&sockman, Timer::NewTemplate, Instant::now() + interval);
        let socket = SocketOptions::default().send_buffer(SEND_BUFFER);
        let mut addresses = Vec::new();
        for address in &listen {
            addresses.push(listening::listen_with(&sockman, address, &socket)?);
        }
        let threads = Some(sockman.start_sockets_threads()?);
        Ok(Server { sockman, threads, listening: addresses })
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
