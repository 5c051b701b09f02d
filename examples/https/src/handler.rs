//! The server's [`TlsHandler`].
//!
//! All methods run on the socket thread. A worker answers each request, and hands the answer back
//! to the socket thread, which encrypts it. No lock is held while the service is called.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sockman::{ConnectionId, Service, SockMan, helpers::Deadlines};
use sockman_http_rpc::{
    Answer, HttpService, Response, ServiceTimers, Workers, is_allowed,
    parser::{Refused, Request},
};
use sockman_rustls::{TlsError, TlsHandler, TlsLink};

use crate::{
    Config,
    client::{Client, Phase},
    events,
};

/// How long a client may take to close its side after the end.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

type Link<'a> = TlsLink<'a, Client>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    Connection(ConnectionId),
    /// The stop waits no longer.
    Stop,
}

pub(crate) struct Https {
    /// For the jobs.
    me: Weak<Https>,
    service: Arc<dyn HttpService>,
    workers: Arc<Workers>,
    idle_timeout: Duration,
    max_body: usize,
    allow: Option<Vec<IpAddr>>,
    timers: Deadlines<Timer>,
    service_timers: ServiceTimers,
    /// The clients whose handshake is complete.
    clients: AtomicUsize,
    is_stopping: AtomicBool,
}

impl Https {
    pub(crate) fn new(
        config: &Config,
        service: Arc<dyn HttpService>,
        workers: Arc<Workers>,
    ) -> Arc<Https> {
        Arc::new_cyclic(|me| Https {
            me: me.clone(),
            service,
            workers,
            idle_timeout: config.idle_timeout,
            max_body: config.max_body,
            allow: config.allow.clone(),
            timers: Deadlines::new(),
            service_timers: ServiceTimers::default(),
            clients: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
        })
    }

    /// Ends the clients that wait for no answer at once, the others after their answers, and all of
    /// them at the deadline. Then the threads end. May be called from any thread.
    pub(crate) fn stop(&self, sockman: &SockMan, deadline: Instant) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.timers.set(sockman, Timer::Stop, deadline);
        for id in sockman.connection_ids() {
            sockman.wake(id);
        }
        sockman.notify();
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    fn set_timer(&self, link: &Link<'_>, client: &mut Client) {
        let until = Instant::now() + self.idle_timeout;
        client.until = Some(until);
        self.timers.set(link.sockman(), Timer::Connection(link.id()), until);
    }

    /// Handles the received bytes, until a request waits for its answer.
    fn advance(&self, link: &mut Link<'_>, client: &mut Client) {
        while client.phase == Phase::Reading {
            match client.parser.next(|head| self.service.admit(head)) {
                Ok(Some(request)) => self.hand_over(link, client, request),
                Ok(None) if client.has_ended => {
                    link.finish(LINGER);
                    return;
                }
                Ok(None) => {
                    if client.parser.take_continue() {
                        // A few bytes always fit, because no answer is under way.
                        let _ = link.write(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    return;
                }
                Err(Refused { response, to_head }) => {
                    self.begin_answer(link, client, response.to_bytes(false, to_head), false);
                }
            }
        }
    }

    /// Queues a request for the workers, or answers it with 503 if their queue is full.
    fn hand_over(&self, link: &mut Link<'_>, client: &mut Client, request: Request) {
        client.phase = Phase::Answering;
        client.until = None;
        let Some(https) = self.me.upgrade() else {
            link.close();
            return;
        };
        let (sockman, remote) = (link.sockman().downgrade(), link.remote());
        let (keep_alive, to_head) = (request.head.keep_alive, request.head.method == "HEAD");
        let is_http_1_0 = request.head.is_http_1_0;
        let job = move || {
            if remote.is_closed() {
                return;
            }
            let timers = https.service_timers.timers(&sockman);
            let answer = catch_unwind(AssertUnwindSafe(|| https.service.answer(request, &timers)));
            let (response, keep_alive) = match answer {
                Ok(Answer::Response(response)) => (response, keep_alive),
                Ok(Answer::Events(subscribe)) => {
                    if let Ok(stream) = events::begin(&https, remote, is_http_1_0) {
                        subscribe(stream);
                    }
                    return;
                }
                // The panic hook has reported the panic. The client still gets an answer.
                Err(_) => {
                    (Response::text(500, "The server failed to process this request."), false)
                }
            };
            let keep_alive = keep_alive && !https.is_stopping();
            let answer = response.to_bytes(keep_alive, to_head);
            // An error means that the client has gone.
            let _ = remote.run(move |link, client| {
                https.begin_answer(link, client, answer, keep_alive);
                https.advance(link, client);
            });
        };
        if !self.workers.submit(link.id(), job) {
            let response = Response::text(503, "The queue of requests is full. Try again later.");
            self.begin_answer(link, client, response.to_bytes(keep_alive, to_head), keep_alive);
        }
    }

    fn begin_answer(
        &self,
        link: &mut Link<'_>,
        client: &mut Client,
        answer: Vec<u8>,
        keep_alive: bool,
    ) {
        client.begin_answer(answer, keep_alive);
        self.go_on(link, client);
    }

    /// Begins an event stream. A client that has ended its stream, or that has sent more, gets none.
    pub(crate) fn begin_events(
        &self,
        link: &mut Link<'_>,
        client: &mut Client,
        head: Vec<u8>,
        unread: Arc<AtomicUsize>,
    ) {
        if client.has_ended || client.parser.is_within_request() || self.is_stopping() {
            link.finish(LINGER);
            return;
        }
        client.begin_events(head, unread);
        client.go_on(link);
        link.wake(); // The client is read again.
    }

    /// Ends an event stream, after what is left of it.
    pub(crate) fn end_events(&self, link: &mut Link<'_>, client: &mut Client, last: &[u8]) {
        if client.phase == Phase::Streaming {
            client.phase = Phase::Sending;
            client.add(last);
            self.go_on(link, client);
        }
    }

    /// Goes on with an answer.
    fn go_on(&self, link: &mut Link<'_>, client: &mut Client) {
        if client.phase == Phase::Streaming {
            client.go_on(link); // More may come, and there is no time-out.
            return;
        }
        self.set_timer(link, client);
        if !client.go_on(link) {
            return;
        }
        if client.keep_alive {
            client.phase = Phase::Reading;
            link.wake(); // The client is read again.
        } else {
            link.finish(LINGER);
        }
    }
}

impl TlsHandler for Https {
    type Connection = Client;

    fn admit(&self, _: &SockMan, _me: &Service, them: &Service) -> bool {
        let is_admitted = self.allow.as_ref().is_none_or(|allow| is_allowed(allow, them));
        if !is_admitted {
            log::debug!("refusing a client from {them}: its address is not allowed");
        }
        is_admitted
    }

    fn secured(&self, link: &mut Link<'_>) -> Option<Client> {
        if self.is_stopping() {
            return None;
        }
        let tls = link.tls();
        log::info!(
            "client {} from {}: {:?}, {:?}, handshake {:?}, protocol {:?}, {} certificates",
            link.id(),
            link.them(),
            tls.protocol_version(),
            tls.negotiated_cipher_suite().map(|suite| suite.suite()),
            tls.handshake_kind(),
            tls.alpn_protocol().map(String::from_utf8_lossy),
            tls.peer_certificates().map_or(0, <[_]>::len),
        );
        let mut client = Client::new(self.max_body);
        self.set_timer(link, &mut client);
        self.clients.fetch_add(1, Ordering::SeqCst);
        Some(client)
    }

    fn handshake_failed(&self, sockman: &SockMan, id: ConnectionId, error: &TlsError) {
        let them = sockman.connection_info(id).map(|info| info.them.to_string());
        log::info!("client {id} from {}: {error}", them.as_deref().unwrap_or("?"));
    }

    fn got_data(&self, link: &mut Link<'_>, client: &mut Client) {
        if client.phase == Phase::Streaming {
            link.close(); // A client of an event stream must not send anything more.
            return;
        }
        client.parser.receive(link.data());
        self.advance(link, client);
    }

    fn got_room(&self, link: &mut Link<'_>, client: &mut Client) {
        self.go_on(link, client);
        self.advance(link, client);
    }

    /// A client may end its stream after its last request. It still gets the answer.
    fn got_end(&self, link: &mut Link<'_>, client: &mut Client) {
        client.has_ended = true;
        if client.phase == Phase::Streaming {
            link.finish(LINGER); // It has nothing more to say, and takes no more events.
            return;
        }
        self.advance(link, client);
    }

    fn failed(&self, link: &mut Link<'_>, _: &mut Client, error: &TlsError) {
        log::info!("client {}: {error}", link.id());
    }

    /// A connection has one request at a time, so it stores at most one answer.
    fn should_try_to_recv(&self, client: &mut Client) -> bool {
        matches!(client.phase, Phase::Reading | Phase::Streaming)
    }

    fn turn_completed(&self, link: &mut Link<'_>, client: &mut Client) {
        let is_idle = client.phase == Phase::Reading && !client.parser.is_within_request();
        let is_late = client.until.is_some_and(|until| until <= Instant::now());
        if is_late && !is_idle {
            link.close(); // In the middle of a request, or of an answer.
        } else if is_late || self.is_stopping() && (is_idle || client.phase == Phase::Streaming) {
            link.finish(LINGER);
        }
    }

    fn closed(&self, sockman: &SockMan, id: ConnectionId, _: Client) {
        self.workers.withdraw(id);
        self.timers.clear(Timer::Connection(id));
        self.clients.fetch_sub(1, Ordering::SeqCst);
        if self.is_stopping() {
            sockman.notify(); // It may be the last one.
        }
    }

    fn loop_completed(&self, sockman: &SockMan) {
        let now = Instant::now();
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Connection(id) => sockman.wake(id), // Its turn looks at the time.
                Timer::Stop => sockman.drain_and_stop(Duration::ZERO),
            }
        }
        while let Some(number) = self.service_timers.take_due(now) {
            self.service.timer_ended(number);
        }
        if self.is_stopping() && self.clients.load(Ordering::SeqCst) == 0 {
            // Handshakes under way, and refused clients, get a moment.
            sockman.drain_and_stop(LINGER);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.service_timers.next()).min()
    }
}

#[cfg(test)]
mod tests {
    use sockman::Options;
    use sockman_rustls::Tls;

    use super::*;
    use crate::demo::Demo;

    /// Clients of an address that is not allowed are closed when they are accepted. By default,
    /// every address is allowed.
    #[test]
    fn an_address_that_is_not_allowed_is_not_admitted() {
        let none: Option<Vec<IpAddr>> = None;
        let this_machine = Some(Vec::new());
        let one_more = Some(vec!["192.0.2.1".parse().unwrap()]);
        for (allow, expected) in [
            (none, [true; 3]),
            (this_machine, [true, false, false]),
            (one_more, [true, true, false]),
        ] {
            let workers = Arc::new(Workers::start(0, 1).unwrap());
            let config = Config { allow, ..Config::default() };
            let https = Https::new(&config, Arc::new(Demo), workers);
            let tls = Tls::client(Arc::clone(&https), config.tls.clone());
            let sockman = SockMan::with_state(Arc::new(tls), Options::default()).unwrap();
            let me: Service = "10.0.0.1:443".parse().unwrap();
            let admits = |them: &str| https.admit(&sockman, &me, &them.parse().unwrap());
            assert_eq!(["127.0.0.1:5", "192.0.2.1:5", "192.0.2.2:5"].map(admits), expected);
        }
    }
}
