//! The page that shows the peers live: read-only, one file, on a `SockMan` of its own.
//!
//! A thread of its own tells every open page what happened, and how things are: once a second, and
//! soon after something happened. It pushes into the pages' send queues, and never waits for one of
//! them.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sockman::Service;
use sockman_http_rpc::{
    self as http, Answer, EventStream, HttpService, Response, Server, ServerError, Timers,
    parser::{Head, Request},
};
use sockman_node::{Control, PeerInfo};

use crate::methods;

const PAGE: &str = include_str!("page.html");
/// Nothing from elsewhere, and nothing to elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Between two states while nothing happens.
const INTERVAL: Duration = Duration::from_secs(1);
/// From an event to the state that shows what it changed. A state costs as much as there are peers:
/// one has to do for all the events of that time.
const DELAY: Duration = Duration::from_millis(200);
/// Pages that are open at the same time. A stream has no time-out: whoever opened enough of them
/// would keep everybody else out. So the oldest one ends for a new one. Its page comes back after a
/// few seconds, for which the oldest one then ends: where there are too many, they take turns. To
/// refuse the new one instead would leave the place to whoever came first.
const MAX_STREAMS: usize = 48;
/// Room beside the streams, for pages that load, and for streams that have just ended and wait for
/// their client to close.
const MAX_CONNECTIONS: usize = MAX_STREAMS + 16;
/// Lines that wait to be shown; the ones beyond it are lost, before the node would stand still.
const MAX_WAITING_LINES: usize = 1000;

/// What the page shows of a peer, of what `getpeerinfo` tells.
const SHOWN: [&str; 9] = [
    "id",
    "inbound",
    "network",
    "addr",
    "transport_protocol_type",
    "subver",
    "pingtime",
    "bytesrecv",
    "bytessent",
];

/// The running page. Dropping it ends it.
pub(crate) struct Web {
    server: Option<Server>,
    lines: SyncSender<Line>,
    publisher: Option<JoinHandle<()>>,
}

/// What the publisher waits for.
pub(crate) enum Line {
    Happened(String),
    End,
}

type Streams = Arc<Mutex<Vec<EventStream>>>;

impl Web {
    /// # Errors
    ///
    /// An address could not be listened on, or a thread not be started.
    pub(crate) fn start(
        listen: Vec<Service>,
        network: &'static str,
        node: Control,
    ) -> Result<Web, ServerError> {
        let streams = Streams::default();
        let config =
            http::Config { listen, max_connections: MAX_CONNECTIONS, ..http::Config::default() };
        let server = Server::start(config, Arc::new(Page { streams: Arc::clone(&streams) }))?;
        let (lines, waiting) = sync_channel(MAX_WAITING_LINES);
        let publisher = Publisher { network, node, streams };
        let publisher = spawn(move || publisher.run(&waiting))?;
        Ok(Web { server: Some(server), lines, publisher: Some(publisher) })
    }

    pub(crate) fn listening(&self) -> &[Service] {
        self.server.as_ref().map_or(&[], Server::listening)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.server.as_ref().is_some_and(Server::is_running)
    }

    /// For whoever has something to show.
    pub(crate) fn lines(&self) -> SyncSender<Line> {
        self.lines.clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.server.take().map(Server::stop) {
            log::error!("{error}");
        }
        let _ = self.lines.send(Line::End);
        if let Some(publisher) = self.publisher.take() {
            let _ = publisher.join();
        }
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("web".to_owned()).spawn(run)
}

struct Page {
    streams: Streams,
}

impl HttpService for Page {
    fn admit(&self, head: &Head) -> Result<(), Response> {
        if !is_numeric_or_local(head.host.as_deref().unwrap_or("localhost")) {
            return Err(Response::text(403, "Ask by the number of the address, or as localhost."));
        }
        let allowed: &[&str] = match &*head.path {
            "/" => &["GET", "HEAD"],
            "/events" => &["GET"],
            _ => return Err(Response::text(404, "There is one page here, at /.")),
        };
        if !allowed.contains(&&*head.method) {
            let answer = Response::text(405, "This page is read-only.");
            return Err(answer.with_header("Allow", &allowed.join(", ")));
        }
        Ok(())
    }

    fn answer(&self, request: Request, _: &Timers<'_>) -> Answer {
        if request.head.path == "/events" {
            let streams = Arc::clone(&self.streams);
            return Answer::Events(Box::new(move |stream| add(&streams, stream)));
        }
        let page = Response::new(200, "text/html; charset=utf-8", PAGE.as_bytes().to_vec());
        Answer::Response(
            page.with_header("Content-Security-Policy", POLICY)
                .with_header("X-Content-Type-Options", "nosniff")
                .with_header("Cache-Control", "no-store"),
        )
    }
}

fn add(streams: &Streams, stream: EventStream) {
    let mut streams = streams.lock();
    streams.push(stream);
    if streams.len() > MAX_STREAMS {
        // They stand in the order in which they came.
        drop(streams.remove(0));
    }
}

/// A page from elsewhere can have its own name resolved to this machine, and then read what is
/// here as if it were its own. It cannot do that with a number.
fn is_numeric_or_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

struct Publisher {
    network: &'static str,
    node: Control,
    streams: Streams,
}

impl Publisher {
    fn run(&self, lines: &Receiver<Line>) {
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            // Also when lines come without pause.
            if now >= due {
                self.tell_state();
                due = now + INTERVAL;
            }
            match lines.recv_timeout(due.saturating_duration_since(now)) {
                Ok(Line::Happened(line)) => {
                    self.tell("happened", &line);
                    due = due.min(Instant::now() + DELAY);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Line::End) | Err(RecvTimeoutError::Disconnected) => {
                    // They hold the server that they belong to.
                    return self.streams.lock().clear();
                }
            }
        }
    }

    fn tell(&self, event: &str, data: &str) {
        self.streams.lock().retain(|stream| stream.send(event, data).is_ok());
    }

    fn tell_state(&self) {
        if !self.streams.lock().is_empty() {
            self.tell("state", &self.state());
        }
    }

    fn state(&self) -> String {
        let peers: Vec<_> = self.node.peers().iter().map(row).collect();
        let listening: Vec<_> = self.node.listening().iter().map(Service::to_string).collect();
        json!({
            "network": self.network,
            "height": self.node.height(),
            "peers": peers,
            "listening": listening,
            "totals": methods::totals(&self.node),
        })
        .to_string()
    }
}

fn row(peer: &PeerInfo) -> Value {
    let mut info = methods::peer_info(peer);
    if let Value::Object(fields) = &mut info {
        fields.retain(|name, _| SHOWN.contains(&name.as_str()));
    }
    info
}
