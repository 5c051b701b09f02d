//! [`HttpsServer`], which owns the threads.

use std::{
    error::Error,
    fmt, io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use sockman::{Options, Service, SockMan, SocketsThreads};
use sockman_http_rpc::{self as http, HttpService, Workers};
use sockman_rustls::{Tls, TlsSettings};

use crate::handler::Https;

/// The configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses to listen on.
    pub listen: Vec<Service>,
    /// The most connections at a time. At the limit, further clients wait in the kernel's backlog.
    /// Default: 256.
    pub max_connections: usize,
    /// The handshakes: their time-out, and the most at a time. Default: [`TlsSettings::default`].
    pub tls: TlsSettings,
    /// The number of worker threads. Default: 4.
    pub workers: usize,
    /// The most requests that wait for a worker. At the limit, a request is answered with 503.
    /// Default: 64.
    pub work_queue: usize,
    /// The longest body in bytes. A request with a longer one is answered with 413. Default: 1 MiB.
    pub max_body: usize,
    /// How long a client may take to send a whole request, or to take some of its answer. Then the
    /// connection ends. Default: 30 s.
    pub idle_timeout: Duration,
    /// How long [`HttpsServer::stop`] waits for answers under way. Default: 30 s.
    pub drain_timeout: Duration,
    /// The addresses, besides loopback, whose clients may connect. The connections of others are
    /// closed when they are accepted. With `None`, clients of every address may connect. Default:
    /// `None`.
    pub allow: Option<Vec<IpAddr>>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            max_connections: 256,
            tls: TlsSettings::default(),
            workers: 4,
            work_queue: 64,
            max_body: 1 << 20,
            idle_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            allow: None,
        }
    }
}

/// The limits of a server without TLS, and the default limits of the handshakes.
impl From<http::Config> for Config {
    fn from(config: http::Config) -> Config {
        Config {
            listen: config.listen,
            max_connections: config.max_connections,
            tls: TlsSettings::default(),
            workers: config.workers,
            work_queue: config.work_queue,
            max_body: config.max_body,
            idle_timeout: config.idle_timeout,
            drain_timeout: config.drain_timeout,
            allow: Some(config.allow),
        }
    }
}

/// A running server. Dropping it stops it: connections close, and unfinished answers are discarded.
pub struct HttpsServer {
    https: Arc<Https>,
    workers: Arc<Workers>,
    sockman: SockMan,
    /// `None` after the stop.
    threads: Option<SocketsThreads>,
    listening: Vec<Service>,
    drain_timeout: Duration,
}

impl HttpsServer {
    /// Starts to listen, and starts the threads.
    ///
    /// # Errors
    ///
    /// `tls` is refused, listening on an address failed, or a thread did not start. Nothing is left
    /// running.
    pub fn start(
        config: &Config,
        tls: Arc<ServerConfig>,
        service: Arc<dyn HttpService>,
    ) -> Result<HttpsServer, ServerError> {
        let workers = Workers::start(config.workers, config.work_queue)
            .map_err(|error| ServerError(format!("cannot start the worker threads: {error}")))?;
        let workers = Arc::new(workers);
        let https = Https::new(config, service, Arc::clone(&workers));
        let handler = Tls::server(Arc::clone(&https), tls, config.tls.clone());
        let handler = Arc::new(handler.map_err(ServerError::new)?);
        let options = Options::default().max_connections(config.max_connections).sweep(None);
        let sockman = SockMan::with_state(handler, options).map_err(ServerError::new)?;
        let (listening, drain_timeout) = (Vec::new(), config.drain_timeout);
        let mut server =
            HttpsServer { https, workers, sockman, threads: None, listening, drain_timeout };
        // From here on, an error drops the server, and the drop stops it.
        for address in &config.listen {
            let bound = sockman_programs::listening::listen(&server.sockman, address);
            server.listening.push(bound.map_err(ServerError::new)?);
        }
        server.threads = Some(server.sockman.start_sockets_threads().map_err(ServerError::new)?);
        Ok(server)
    }

    /// Returns the addresses on which the server listens, with the actual ports.
    pub fn listening(&self) -> &[Service] {
        &self.listening
    }

    /// Returns the number of connections, handshakes under way included.
    pub fn connections(&self) -> usize {
        self.sockman.stats().connections
    }

    /// Returns whether the socket thread runs. If it has failed, [`stop`](Self::stop) returns the
    /// reason.
    pub fn is_running(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| !threads.is_finished())
    }

    /// Stops the server. Idle clients get a `close_notify` at once, and the others after their
    /// answers, for which the call waits up to [`Config::drain_timeout`].
    ///
    /// # Errors
    ///
    /// The socket thread has panicked.
    pub fn stop(mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + self.drain_timeout;
        self.sockman.stop_listening();
        self.https.stop(&self.sockman, deadline);
        let joined = self.join();
        self.workers.stop(deadline);
        joined
    }

    fn join(&mut self) -> Result<(), ServerError> {
        self.threads.take().map_or(Ok(()), SocketsThreads::join).map_err(ServerError::new)
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.sockman.stop_listening();
        self.sockman.interrupt();
        if let Err(error) = self.join() {
            log::error!("{error}");
        }
        self.workers.stop(Instant::now());
    }
}

impl fmt::Debug for HttpsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsServer").field("listening", &self.listening).finish_non_exhaustive()
    }
}

/// The error returned by [`HttpsServer::start`] and [`HttpsServer::stop`].
#[derive(Debug)]
pub struct ServerError(String);

impl ServerError {
    #[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
    pub(crate) fn new(error: impl Error) -> ServerError {
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
