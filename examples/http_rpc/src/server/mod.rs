//! An HTTP/1.1 server on sockman, for programs that answer small requests: what Bitcoin Core has
//! in `httpserver.cpp`, on top of `SockMan` in place of libevent.
//!
//! | module | what it is |
//! |---|---|
//! | [`parser`], [`chunked`] | bytes to requests, without sockets |
//! | [`response`], [`events`] | answers: whole ones, and streams of server-sent events |
//! | [`connection`] | one client: whose turn it is |
//! | [`handler`] | the [`EventHandler`](sockman::EventHandler), on the socket thread |
//! | [`workers`] | the threads that answer, and the bounded queue in front of them |
//!
//! A request goes round like this: the socket thread parses it and hands it to a worker; the worker
//! answers and sends the answer itself; only then is the client's next request read. What a client
//! can make the server keep is bounded by that: one request, one answer.

pub mod chunked;
mod connection;
pub(crate) mod events;
mod handler;
pub mod parser;
pub(crate) mod response;
mod workers;

use std::{
    error::Error,
    fmt, io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use sockman::{
    Options, Service, SockMan, SocketsThreads, helpers::Deadlines, stats::ConnectionInfo,
};

use self::{
    events::EventStream,
    handler::{Events, Handler, Timer},
    parser::{Head, Request},
    response::Response,
    workers::Workers,
};

/// What a server is to do. The sizes of queue and body and the idle time-out are Bitcoin Core's
/// defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses to listen on.
    pub listen: Vec<Service>,
    /// Default: 16. Beyond them clients wait in the kernel's backlog.
    pub max_connections: usize,
    /// Threads that answer. Default: 4.
    pub workers: usize,
    /// So many requests wait for a worker at most; then the answer is 503. Default: 64.
    pub work_queue: usize,
    /// In bytes. Default: 32 MiB. A longer one is answered with 413.
    pub max_body: usize,
    /// For a client that sends no request, does not go on with one (408), or does not take its
    /// answer. What counts as going on: that a head is complete; a byte of a body, as long as all
    /// of it comes at a kilobyte a second; that some of the answer is taken. Default: 30 s. At
    /// least a millisecond.
    pub idle_timeout: Duration,
    /// At the end, answers in flight may take so long. Default: 30 s. What takes longer is cut off.
    pub drain_timeout: Duration,
    /// Who may connect besides this machine itself; the others are answered with 403. Default:
    /// nobody.
    pub allow: Vec<IpAddr>,
    /// Sockman's sweep. Nothing here depends on it.
    pub sweep: Option<Duration>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            max_connections: 16,
            workers: 4,
            work_queue: 64,
            max_body: 32 * 1024 * 1024,
            idle_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            allow: Vec::new(),
            sweep: None,
        }
    }
}

/// What is served.
pub trait HttpService: Send + Sync {
    /// Whether to go on with a request of which only the head has arrived. On the socket thread:
    /// it must not take long.
    ///
    /// # Errors
    ///
    /// The answer; the connection ends with it.
    fn admit(&self, head: &Head) -> Result<(), Response>;

    /// Answers a request, on a worker thread, for as long as it takes.
    fn answer(&self, request: Request, timers: &Timers<'_>) -> Answer;

    /// A timer that was set with [`Timers::set`] has ended. On the socket thread.
    fn timer_ended(&self, number: u32) {
        let _ = number;
    }
}

/// How a service answers a request.
pub enum Answer {
    /// A whole answer.
    Response(Response),
    /// The client hears events from now on, as long as the stream is kept.
    Events(Box<dyn FnOnce(EventStream) + Send>),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Response(response) => f.debug_tuple("Response").field(response).finish(),
            Answer::Events(_) => f.write_str("Events(..)"),
        }
    }
}

/// The service's own timers, by number.
pub struct Timers<'a> {
    timers: &'a Deadlines<Timer>,
    sockman: &'a SockMan,
}

impl fmt::Debug for Timers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timers(..)")
    }
}

impl Timers<'_> {
    /// Starts the timer, or moves it.
    pub fn set(&self, number: u32, at: Instant) {
        self.timers.set(self.sockman, Timer::Service(number), at);
    }

    /// Stops the timer, if it runs.
    pub fn clear(&self, number: u32) {
        self.timers.clear(Timer::Service(number));
    }
}

/// A running server. Dropping it stops it: connections close, and answers that workers are at come
/// too late.
pub struct Server {
    handler: Arc<Handler>,
    workers: Arc<Workers>,
    sockman: SockMan,
    /// `None` once stopped.
    threads: Option<SocketsThreads>,
    listening: Vec<Service>,
    drain_timeout: Duration,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens, and starts the threads.
    ///
    /// # Errors
    ///
    /// An address could not be listened on, or a thread not be started; nothing is left running.
    pub fn start(config: Config, service: Arc<dyn HttpService>) -> Result<Server, ServerError> {
        let workers = Arc::new(Workers::start(config.workers, config.work_queue)?);
        let options =
            Options::default().max_connections(config.max_connections).sweep(config.sweep);
        let (listen, drain_timeout) = (config.listen.clone(), config.drain_timeout);
        let handler = Arc::new(Handler::new(config, service, Arc::clone(&workers)));
        let sockman = SockMan::new(Arc::new(Events(Arc::clone(&handler))), options)
            .map_err(ServerError::new)?;
        let mut server = Server {
            handler,
            workers,
            sockman,
            threads: None,
            listening: Vec::new(),
            drain_timeout,
        };
        // From here on, an error drops the server, which stops what has been started.
        for address in &listen {
            let bound =
                server.sockman.bind_and_start_listening(address).map_err(ServerError::new)?;
            server.listening.push(bound);
        }
        server.threads = Some(server.sockman.start_sockets_threads().map_err(ServerError::new)?);
        Ok(server)
    }

    /// Where it listens, with the ports that it really got.
    pub fn listening(&self) -> &[Service] {
        &self.listening
    }

    /// How many clients are connected now.
    pub fn connections(&self) -> usize {
        self.handler.connections()
    }

    /// What sockman knows of each of them.
    pub fn connection_infos(&self) -> Vec<ConnectionInfo> {
        self.handler.ids().filter_map(|id| self.sockman.connection_info(id)).collect()
    }

    /// `false`: its socket thread has ended, which is not meant to happen; [`stop`](Self::stop)
    /// says why.
    pub fn is_running(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| !threads.is_finished())
    }

    /// Idle connections close at once, answers in flight finish.
    ///
    /// # Errors
    ///
    /// The socket thread had panicked.
    pub fn stop(mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + self.drain_timeout;
        self.sockman.stop_listening();
        if self.is_running() {
            self.handler.drain(&self.sockman, deadline);
        }
        let stopped = self.stop_threads();
        if !self.workers.stop(deadline) {
            log::warn!("some requests are still being worked on; their answers reach nobody");
        }
        stopped
    }

    fn stop_threads(&mut self) -> Result<(), ServerError> {
        self.sockman.stop_listening();
        self.sockman.interrupt();
        let joined = self.threads.take().map_or(Ok(()), SocketsThreads::join);
        // Workers that are still at an answer hold the `SockMan`, and with it the sockets.
        self.handler.close_all(&self.sockman);
        joined.map_err(ServerError::new)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop_threads() {
            log::error!("{error}");
        }
        self.workers.stop(Instant::now());
    }
}

/// Why a server did not start, or did not end well.
#[derive(Debug)]
pub struct ServerError(String);

impl ServerError {
    fn new(error: impl Error) -> ServerError {
        ServerError(format!("{error:#}"))
    }
}

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> ServerError {
        ServerError::new(error)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ServerError {}
