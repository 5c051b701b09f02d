//! The web page that shows the peers live. The page is read-only and is one file. Its server has
//! its own `SockMan`.
//!
//! A publisher thread sends events to every open page, and the state once a second and soon after
//! an event. The publisher pushes into the pages' send queues and never waits for a page. The list
//! of streams has a mutex, which the publisher and the server's threads take briefly.

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
    self as http, Answer, EventStream, HttpService, Response, Timers,
    parser::{Head, Request},
};
use sockman_https::{AnyServer, ServerError, tls::Files};
use sockman_node::{Control, PeerInfo};

use crate::methods;

const PAGE: &str = include_str!("page.html");
/// The page loads nothing from other hosts and sends nothing to them.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The time between two states without events.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest time from an event to the state that shows its effect. The cost of a state grows
/// with the number of peers, so all events within this time share one state.
const DELAY: Duration = Duration::from_millis(200);
/// The most open pages. A stream has no time-out, so one client could open streams until no other
/// client gets one. A new stream therefore ends the oldest one. The page of the ended stream
/// reconnects after a few seconds, which ends the oldest stream again: with too many pages, the
/// pages are served in turn. If new streams were refused instead, the first pages would keep their
/// places.
const MAX_STREAMS: usize = 48;
/// The most connections: the streams, and room for pages that load and for ended streams whose
/// client has not closed yet.
const MAX_CONNECTIONS: usize = MAX_STREAMS + 16;
/// The most lines that wait to be shown. Further lines are lost, so that the node does not wait.
const MAX_WAITING_LINES: usize = 1000;

/// The fields of `getpeerinfo` that the page shows.
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

/// The running page. Dropping it stops the page.
pub(crate) struct Web {
    server: Option<AnyServer>,
    lines: SyncSender<Line>,
    publisher: Option<JoinHandle<()>>,
}

/// An input of the publisher.
pub(crate) enum Line {
    Happened(String),
    End,
}

type Streams = Arc<Mutex<Vec<EventStream>>>;

impl Web {
    /// Starts the server and the publisher. With `tls`, the page is served over TLS.
    ///
    /// # Errors
    ///
    /// [`ServerError`], if an address cannot be bound, a thread cannot be started, or the files of
    /// `tls` cannot be used.
    pub(crate) fn start(
        listen: Vec<Service>,
        tls: Option<&Files>,
        network: &'static str,
        node: Control,
    ) -> Result<Web, ServerError> {
        let streams = Streams::default();
        let config =
            http::Config { listen, max_connections: MAX_CONNECTIONS, ..http::Config::default() };
        let scheme = if tls.is_some() { "https://" } else { "http://" };
        let page = Page { scheme, streams: Arc::clone(&streams) };
        let server = AnyServer::start(config, tls, Arc::new(page))?;
        let (lines, waiting) = sync_channel(MAX_WAITING_LINES);
        let publisher = Publisher { network, node, streams };
        let publisher = spawn(move || publisher.run(&waiting))?;
        Ok(Web { server: Some(server), lines, publisher: Some(publisher) })
    }

    pub(crate) fn listening(&self) -> &[Service] {
        self.server.as_ref().map_or(&[], AnyServer::listening)
    }

    pub(crate) fn scheme(&self) -> &'static str {
        self.server.as_ref().map_or("", AnyServer::scheme)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.server.as_ref().is_some_and(AnyServer::is_running)
    }

    /// Returns a sender of lines for the page.
    pub(crate) fn lines(&self) -> SyncSender<Line> {
        self.lines.clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.server.take().map(AnyServer::stop) {
            log::error!("the server of the web page did not stop cleanly: {error}");
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
    /// How the URLs of the page begin.
    scheme: &'static str,
    streams: Streams,
}

impl HttpService for Page {
    fn admit(&self, head: &Head) -> Result<(), Response> {
        if !is_numeric_or_local(head.host.as_deref().unwrap_or("localhost")) {
            let text = "Forbidden: use localhost or a numeric IP address in the URL.";
            return Err(Response::text(403, text));
        }
        // A foreign page could otherwise take the places of the streams and of the connections.
        if is_from_another_site(head, self.scheme) {
            return Err(Response::text(403, "Forbidden: a page of another site asks for this."));
        }
        let allowed: &[&str] = match &*head.path {
            "/" => &["GET", "HEAD"],
            "/events" => &["GET"],
            _ => return Err(Response::text(404, "Not found: the page is at /.")),
        };
        if !allowed.contains(&&*head.method) {
            let answer = Response::text(405, "Method not allowed: this page is read-only.");
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
        // The oldest stream is the first one.
        drop(streams.remove(0));
    }
}

/// Returns whether a Host header names an IP address or localhost. This prevents DNS rebinding: a
/// foreign page can make its own host name resolve to this machine and then read this page, which
/// it cannot do with an IP address.
fn is_numeric_or_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Returns whether a page of another origin made the request. A browser names the origin in some
/// requests for another one, and says "cross-site" in all of them. Other programs send neither
/// header. A link to this page may stand on any site.
fn is_from_another_site(head: &Head, own_scheme: &str) -> bool {
    let is_own = |origin: &str| {
        let host = head.host.as_deref().unwrap_or_default();
        let own = origin.split_at_checked(own_scheme.len());
        own.is_some_and(|(scheme, rest)| scheme == own_scheme && rest.eq_ignore_ascii_case(host))
    };
    let is_link = head.path == "/" && head.fetch_dest.as_deref() == Some("document");
    let is_foreign_fetch = |site: &str| !["same-origin", "none"].contains(&site) && !is_link;
    head.origin.as_deref().is_some_and(|origin| !is_own(origin))
        || head.fetch_site.as_deref().is_some_and(is_foreign_fetch)
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
            // The publisher checks this after every line, because lines may arrive without a pause.
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
                    // The streams keep their server alive, so they are dropped here.
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
