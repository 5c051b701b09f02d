//! [`AnyServer`], for programs whose operator chooses between HTTP and HTTPS.

use std::sync::Arc;

use sockman::Service;
use sockman_http_rpc::{self as http, HttpService, Server};

use crate::{
    Config, HttpsServer, ServerError,
    tls::{self, Files},
};

/// A running server of HTTP, or of HTTPS. Dropping it stops it, as the drop of the server does.
#[derive(Debug)]
pub enum AnyServer {
    /// The clients speak HTTP.
    Http(Server),
    /// The clients speak HTTPS.
    Https(HttpsServer),
}

impl AnyServer {
    /// Starts a server of HTTPS if there are files for TLS, otherwise one of HTTP. Both have the
    /// limits in `config`.
    ///
    /// # Errors
    ///
    /// A file cannot be used, listening on an address failed, or a thread did not start. Nothing is
    /// left running.
    pub fn start(
        config: http::Config,
        files: Option<&Files>,
        service: Arc<dyn HttpService>,
    ) -> Result<AnyServer, ServerError> {
        let Some(files) = files else {
            let server = Server::start(config, service).map_err(ServerError::new)?;
            return Ok(AnyServer::Http(server));
        };
        let tls = tls::configuration(files).map_err(ServerError::new)?;
        let server = HttpsServer::start(&Config::from(config), Arc::new(tls), service)?;
        Ok(AnyServer::Https(server))
    }

    /// Returns the addresses on which the server listens, with the actual ports.
    pub fn listening(&self) -> &[Service] {
        match self {
            AnyServer::Http(server) => server.listening(),
            AnyServer::Https(server) => server.listening(),
        }
    }

    /// Returns `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self {
            AnyServer::Http(_) => "http",
            AnyServer::Https(_) => "https",
        }
    }

    /// Returns whether the socket thread runs. If it has failed, [`stop`](Self::stop) returns the
    /// reason.
    pub fn is_running(&self) -> bool {
        match self {
            AnyServer::Http(server) => server.is_running(),
            AnyServer::Https(server) => server.is_running(),
        }
    }

    /// Stops the server, after the answers under way.
    ///
    /// # Errors
    ///
    /// The socket thread has panicked.
    pub fn stop(self) -> Result<(), ServerError> {
        match self {
            AnyServer::Http(server) => server.stop().map_err(ServerError::new),
            AnyServer::Https(server) => server.stop(),
        }
    }
}
