//! An HTTP/1.1 server on sockman, for programs that answer small requests. It does what Bitcoin
//! Core does in `httpserver.cpp`, with `SockMan` in place of libevent.
//!
//! | module | what it holds |
//! |---|---|
//! | [`parser`], [`chunked`], [`grammar`] | parsing of bytes into requests, without sockets |
//! | [`response`], [`events`] | whole answers, and streams of server-sent events |
//! | [`connection`] | the state of one client |
//! | [`handler`] | the [`Handler`](sockman::stateful::Handler), on the socket thread |
//! | [`workers`] | the threads that answer, and the bounded queue of requests for them |
//!
//! The socket thread parses a request and queues it for a worker. The worker computes the answer
//! and sends it itself. The client's next request is read only after that. For each client, the
//! server therefore stores at most one request, one answer, and the further bytes that one turn
//! received.

pub mod chunked;
mod connection;
pub(crate) mod events;
mod grammar;
pub(crate) mod handler;
pub mod parser;
pub(crate) mod response;
pub(crate) mod workers;

use std::{
    error::Error,
    fmt, io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use sockman::{
    Options, Service, SockMan, SocketsThreads, WeakSockMan, helpers::Deadlines,
    options::SocketOptions, stats::ConnectionInfo,
};

use self::{
    events::EventStream,
    handler::{Http, Timer},
    parser::{Head, Request},
    response::Response,
    workers::Workers,
};

/// How many bytes of an answer the kernel takes before it sends them. It reports room when half of
/// them are sent, so a client that takes a kilobyte a second does not look idle. By default, it
/// reports room when a third of its buffer is free, which can be more than a megabyte.
const UNSENT_IN_KERNEL: u32 = 64 * 1024;

/// The configuration of a server. The defaults of `work_queue`, `max_body` and `idle_timeout` are
/// Bitcoin Core's.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses to listen on.
    pub listen: Vec<Service>,
    /// The most connections at a time. At the limit, further clients wait in the kernel's backlog.
    /// Default: 16.
    pub max_connections: usize,
    /// The number of worker threads. Default: 4.
    pub workers: usize,
    /// The most requests that wait for a worker. At the limit, a request is answered with 503.
    /// Default: 64.
    pub work_queue: usize,
    /// The longest body in bytes. A request with a longer one is answered with 413. Default:
    /// 32 MiB.
    pub max_body: usize,
    /// How long a client may send no request, not go on with one (answered with 408), or not take
    /// its answer. A client goes on when it completes a head, sends a byte of a body that arrives
    /// at a kilobyte a second overall, or takes some of the answer. Default: 30 s. Values below
    /// one millisecond count as one millisecond.
    pub idle_timeout: Duration,
    /// How long [`Server::stop`] waits for answers in flight. The stop cuts off answers that take
    /// longer. Default: 30 s.
    pub drain_timeout: Duration,
    /// The addresses, besides loopback, whose clients may connect. The connections of others are
    /// closed when they are accepted. Default: empty.
    pub allow: Vec<IpAddr>,
    /// Sockman's sweep. The server does not depend on it. Default: `None`.
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

/// Implement this trait to answer requests.
pub trait HttpService: Send + Sync {
    /// Decides whether to go on with a request whose head has arrived. Called on the socket
    /// thread, so it must return quickly.
    ///
    /// # Errors
    ///
    /// Returns the answer to a refused request. The connection ends after that answer.
    fn admit(&self, head: &Head) -> Result<(), Response>;

    /// Answers a request. Called on a worker thread, and may take long.
    fn answer(&self, request: Request, timers: &Timers<'_>) -> Answer;

    /// Called on the socket thread when a timer set with [`Timers::set`] has expired.
    fn timer_ended(&self, number: u32) {
        let _ = number;
    }
}

/// The answer of a service to a request.
pub enum Answer {
    /// A whole answer.
    Response(Response),
    /// A stream of events, which is passed to this function. The stream lasts until it is dropped.
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

/// The service's own timers, identified by number.
pub struct Timers<'a> {
    timers: &'a Deadlines<Timer>,
    sockman: &'a WeakSockMan,
}

impl fmt::Debug for Timers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timers(..)")
    }
}

impl Timers<'_> {
    /// Sets a timer, or moves it if it is set.
    pub fn set(&self, number: u32, at: Instant) {
        // After the end of the server, no timer expires.
        if let Some(sockman) = self.sockman.upgrade() {
            self.timers.set(&sockman, Timer::Service(number), at);
        }
    }

    /// Clears a timer, if it is set.
    pub fn clear(&self, number: u32) {
        self.timers.clear(Timer::Service(number));
    }
}

/// The timers of a service that a server of another crate serves. The server calls
/// [`HttpService::timer_ended`] for those that have ended.
#[derive(Debug, Default)]
pub struct ServiceTimers {
    timers: Deadlines<Timer>,
}

impl ServiceTimers {
    /// Returns what [`HttpService::answer`] gets. `sockman` is the one whose handler calls
    /// [`next`](Self::next) and [`take_due`](Self::take_due).
    pub fn timers<'a>(&'a self, sockman: &'a WeakSockMan) -> Timers<'a> {
        Timers { timers: &self.timers, sockman }
    }

    /// Returns when the next timer ends. For the handler's `next_deadline`.
    pub fn next(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Takes a timer that has ended. For the handler's `loop_completed`.
    pub fn take_due(&self, now: Instant) -> Option<u32> {
        match self.timers.take_due(now)? {
            Timer::Service(number) => Some(number),
            // `Timers` sets no other timers.
            Timer::Connection(_) | Timer::Stop => None,
        }
    }
}

/// A running server. Dropping it stops it: connections close, and unfinished answers are discarded.
pub struct Server {
    http: Arc<Http>,
    workers: Arc<Workers>,
    sockman: SockMan,
    /// `None` after the stop.
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
    /// Starts to listen, and starts the threads.
    ///
    /// # Errors
    ///
    /// Listening on an address failed, or a thread did not start. Nothing is left running.
    pub fn start(config: Config, service: Arc<dyn HttpService>) -> Result<Server, ServerError> {
        let workers = Workers::start(config.workers, config.work_queue)
            .map_err(|error| ServerError(format!("cannot start the worker threads: {error}")))?;
        let workers = Arc::new(workers);
        let options =
            Options::default().max_connections(config.max_connections).sweep(config.sweep);
        let (listen, drain_timeout) = (config.listen.clone(), config.drain_timeout);
        let http = Http::new(config, service, Arc::clone(&workers));
        let sockman = SockMan::with_state(Arc::clone(&http), options).map_err(ServerError::new)?;
        let (threads, listening) = (None, Vec::new());
        let mut server = Server { http, workers, sockman, threads, listening, drain_timeout };
        let mut socket = SocketOptions::default();
        if cfg!(any(target_os = "linux", target_os = "android")) {
            socket = socket.notsent_lowat(UNSENT_IN_KERNEL);
        }
        // From here on, an error drops the server, and the drop stops it.
        for address in &listen {
            let bound = sockman_programs::listening::listen_with(&server.sockman, address, &socket)
                .map_err(ServerError::new)?;
            server.listening.push(bound);
        }
        server.threads = Some(server.sockman.start_sockets_threads().map_err(ServerError::new)?);
        Ok(server)
    }

    /// Returns the addresses on which the server listens, with the actual ports.
    pub fn listening(&self) -> &[Service] {
        &self.listening
    }

    /// Returns the number of connected clients.
    pub fn connections(&self) -> usize {
        self.sockman.stats().connections
    }

    /// Returns sockman's information about each connection.
    pub fn connection_infos(&self) -> Vec<ConnectionInfo> {
        let ids = self.sockman.connection_ids();
        ids.into_iter().filter_map(|id| self.sockman.connection_info(id)).collect()
    }

    /// Returns whether the socket thread runs. If it has failed, [`stop`](Self::stop) returns the
    /// reason.
    pub fn is_running(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| !threads.is_finished())
    }

    /// Stops the server. The stop closes idle connections immediately, and waits up to
    /// [`Config::drain_timeout`] for answers in flight.
    ///
    /// # Errors
    ///
    /// The socket thread has panicked.
    pub fn stop(mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + self.drain_timeout;
        self.sockman.stop_listening();
        self.http.stop(&self.sockman, deadline);
        let joined = self.join();
        if !self.workers.stop(deadline) {
            log::warn!(
                "some requests were not answered within {:?}; their answers are discarded",
                self.drain_timeout
            );
        }
        joined
    }

    /// Waits for the end of the socket thread.
    fn join(&mut self) -> Result<(), ServerError> {
        self.threads.take().map_or(Ok(()), SocketsThreads::join).map_err(ServerError::new)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.sockman.stop_listening();
        self.sockman.interrupt();
        if let Err(error) = self.join() {
            log::error!("{error}");
        }
        self.workers.stop(Instant::now());
    }
}

/// The error returned by [`Server::start`] and [`Server::stop`].
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
