//! A Stratum V2 server in the shape of a Template Provider, on sockman: it pushes templates to
//! everybody who asked for them.
//!
//! | module | what it is |
//! |---|---|
//! | [`session`] | one client's conversation, without sockets |
//! | [`templates`], [`keys`] | what is given out, and who gives it out |
//!
//! This module is the [`EventHandler`]. Everything runs on the socket thread: templates come by a
//! timer, and who does not take them falls behind and is let go of.

pub(crate) mod keys;
pub(crate) mod session;
pub(crate) mod templates;

use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectionId, ConnectionTable, Deadlines, EventHandler, NextRecv, Options, SendQueue,
    SendQueueOptions, Service, SockMan, SocketsThreads,
};

use self::{
    keys::AuthorityKeys,
    session::{Progress, Session, Stage},
    templates::Template,
};

/// Unsent bytes of one client. A template is a few hundred: who has left so many lying will not
/// work on them.
const MAX_UNSENT: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) listen: Vec<Service>,
    pub(crate) max_connections: usize,
    /// Between two templates.
    pub(crate) interval: Duration,
    /// For handshake and `SetupConnection` together.
    pub(crate) setup_timeout: Duration,
    /// Sockman's sweep. Nothing here depends on it.
    pub(crate) sweep: Option<Duration>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            max_connections: 1000,
            interval: Duration::from_secs(5),
            setup_timeout: Duration::from_secs(10),
            sweep: None,
        }
    }
}

/// What happened. Told on the socket thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Connected { id: ConnectionId },
    Subscribed { id: ConnectionId },
    Pushed { template: u64, clients: usize },
    Disconnected { id: ConnectionId, reason: String },
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

struct Handler {
    config: Config,
    keys: AuthorityKeys,
    clients: ConnectionTable<Client>,
    timers: Deadlines<Timer>,
    template: Mutex<Template>,
    observer: Box<dyn Fn(Event) + Send + Sync>,
}

impl Handler {
    fn disconnect(&self, sockman: &SockMan, id: ConnectionId, reason: &str) {
        sockman.close_connection(id);
        self.timers.clear(Timer::Setup(id));
        if self.clients.remove(id).is_some() {
            (self.observer)(Event::Disconnected { id, reason: reason.to_owned() });
        }
    }

    fn received(&self, sockman: &SockMan, id: ConnectionId, client: &Client, progress: &Progress) {
        if client.send.push(sockman, &progress.out, false).is_err() {
            return self.disconnect(sockman, id, "it does not take what it is sent");
        }
        if progress.is_refused {
            // The answer is on its way, and is short: the kernel has it.
            return self.disconnect(sockman, id, "its SetupConnection was refused");
        }
        if matches!(client.session.lock().stage(), Stage::SetUp | Stage::Subscribed) {
            self.timers.clear(Timer::Setup(id));
        }
        if progress.has_subscribed {
            (self.observer)(Event::Subscribed { id });
            let template = self.template.lock().clone();
            self.push(sockman, id, client, &template);
        }
    }

    fn push(&self, sockman: &SockMan, id: ConnectionId, client: &Client, template: &Template) {
        let pushed =
            client.session.lock().push(template).map_err(|fault| fault.to_string()).and_then(
                |out| client.send.push(sockman, &out, false).map_err(|error| error.to_string()),
            );
        if let Err(reason) = pushed {
            self.disconnect(sockman, id, &reason);
        }
    }

    fn new_template(&self, sockman: &SockMan, now: Instant) {
        self.timers.set(sockman, Timer::NewTemplate, now + self.config.interval);
        let template = {
            let mut template = self.template.lock();
            *template = Template::new(template.id + 1);
            template.clone()
        };
        let mut clients = 0;
        for (id, client) in self.clients.all() {
            if client.session.lock().stage() == Stage::Subscribed {
                clients += 1;
                self.push(sockman, id, &client, &template);
            }
        }
        (self.observer)(Event::Pushed { template: template.id, clients });
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
        let session = match Session::new(&self.keys) {
            Ok(session) => session,
            Err(fault) => {
                log::error!("no session: {fault}");
                return false;
            }
        };
        let marks = SendQueueOptions::default().limit(MAX_UNSENT).high_mark(MAX_UNSENT / 2);
        let send = SendQueue::new(id, marks);
        self.clients.insert(id, Client { send, session: Mutex::new(session) });
        self.timers.set(sockman, Timer::Setup(id), Instant::now() + self.config.setup_timeout);
        (self.observer)(Event::Connected { id });
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.clients.find(id).is_some_and(|client| client.send.has_queued())
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let Some(client) = self.clients.find(id) else { return NextRecv::Skip };
        if let Err(error) = client.send.drain(sockman) {
            self.disconnect(sockman, id, &error.to_string());
        }
        NextRecv::Proceed
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.clients.find(id).is_some_and(|client| !client.send.is_above_high_mark())
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let Some(client) = self.clients.find(id) else { return };
        let received = client.session.lock().receive(data);
        match received {
            Ok(progress) => self.received(sockman, id, &client, &progress),
            Err(fault) => self.disconnect(sockman, id, &fault.to_string()),
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
        self.disconnect(sockman, id, &error.to_string());
    }

    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        let now = Instant::now();
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::NewTemplate => self.new_template(sockman, now),
                Timer::Setup(id) => self.disconnect(sockman, id, "it did not set up in time"),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }
}

/// A running server. Dropping it stops it.
pub(crate) struct Server {
    sockman: SockMan,
    /// `None` once stopped.
    threads: Option<SocketsThreads>,
    listening: Vec<Service>,
}

impl Server {
    /// # Errors
    ///
    /// An address could not be listened on, or the thread not be started.
    pub(crate) fn start(
        config: Config,
        keys: AuthorityKeys,
        observer: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Server, Box<dyn Error>> {
        let options =
            Options::default().max_connections(config.max_connections).sweep(config.sweep);
        let (listen, interval) = (config.listen.clone(), config.interval);
        let handler = Arc::new(Handler {
            config,
            keys,
            clients: ConnectionTable::new(),
            timers: Deadlines::new(),
            template: Mutex::new(Template::new(1)),
            observer: Box::new(observer),
        });
        let sockman = SockMan::new(handler.clone(), options)?;
        handler.timers.set(&sockman, Timer::NewTemplate, Instant::now() + interval);
        let mut listening = Vec::new();
        for address in &listen {
            listening.push(sockman.bind_and_start_listening(address)?);
        }
        let threads = Some(sockman.start_sockets_threads()?);
        Ok(Server { sockman, threads, listening })
    }

    /// Where it listens, with the ports that it really got.
    pub(crate) fn listening(&self) -> &[Service] {
        &self.listening
    }

    /// # Errors
    ///
    /// The socket thread had panicked.
    pub(crate) fn stop(mut self) -> Result<(), Box<dyn Error>> {
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
