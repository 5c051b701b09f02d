//! The server's [`Handler`] for [`SockMan`].
//!
//! All methods run on the socket thread. The workers run a [`Job`] for each request. No lock is held
//! while the service is called.

use std::{
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, NextRecv, Service, SockMan, WeakSockMan,
    helpers::{Deadlines, SendQueueLimits},
    stateful::{self, Handler, Remote},
};

use super::{
    Answer, Config, HttpService, Timers,
    connection::{Connection, Flight, LIMITS, Phase},
    events,
    parser::{Refused, Request},
    response::{Afterwards, Response},
    workers::Workers,
};

/// How long a client may take to close its side after its last answer.
const LINGER: Duration = Duration::from_secs(1);
/// The shortest and the longest idle time-out. The longest one can still be added to an `Instant`.
const IDLE_TIMEOUTS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(100 * 365 * 24 * 60 * 60));

type Link<'a> = stateful::Link<'a, Connection>;

/// The key of a timer. The timers expire on the socket thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    Connection(ConnectionId),
    /// A timer of the service, with its number.
    Service(u32),
    /// The stop waits no longer.
    Stop,
}

/// The handler. All connections share it.
pub(crate) struct Http {
    /// For the jobs.
    me: Weak<Http>,
    config: Config,
    service: Arc<dyn HttpService>,
    timers: Deadlines<Timer>,
    workers: Arc<Workers>,
    is_stopping: AtomicBool,
}

impl Http {
    pub(crate) fn new(
        mut config: Config,
        service: Arc<dyn HttpService>,
        workers: Arc<Workers>,
    ) -> Arc<Http> {
        config.idle_timeout = config.idle_timeout.clamp(IDLE_TIMEOUTS.0, IDLE_TIMEOUTS.1);
        let (timers, is_stopping) = (Deadlines::new(), AtomicBool::new(false));
        Arc::new_cyclic(|me| Http { me: me.clone(), config, service, timers, workers, is_stopping })
    }

    /// Ends idle connections, and the others after the answer that they wait for. Ends the threads
    /// when all connections are closed, or at the deadline. May be called from any thread.
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

    /// Goes on if a worker has sent its answer. Every method for one connection begins with this.
    fn catch_up(&self, link: Link<'_>, connection: &mut Connection) {
        if connection.phase != Phase::Answering {
            return;
        }
        let must_go_on = connection.has_more() || self.is_stopping();
        if connection.take_sent(must_go_on) {
            self.advance(link, connection);
            if must_go_on {
                // The receive hook may have said no, and the next answer may be awaited.
                link.wake();
            }
        }
    }

    /// Handles the received bytes, if no earlier answer is under way.
    fn advance(&self, link: Link<'_>, connection: &mut Connection) {
        while connection.phase == Phase::Reading && !link.queue().has_queued() {
            match connection.parser.next(|head| self.service.admit(head)) {
                Ok(Some(request)) => self.hand_over(link, connection, request),
                Ok(None) if connection.got_eof => connection.close(link),
                Ok(None) => {
                    if connection.parser.is_within_body() {
                        connection.begin_body();
                    }
                    if connection.parser.take_continue() {
                        // If this send fails, the next callback reports the error.
                        let _ = link.push(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    return;
                }
                Err(Refused { response, to_head }) => {
                    connection.send_answer(link, &response.encode(Afterwards::Close, to_head));
                }
            }
        }
    }

    /// Queues a request for the workers, or answers it with 503 if the queue is full.
    fn hand_over(&self, link: Link<'_>, connection: &mut Connection, request: Request) {
        connection.body = None;
        connection.phase = Phase::Answering;
        if connection.is_held_back() && has_hung_up(link) {
            return connection.close(link);
        }
        if connection.got_eof {
            connection.begin_answer(link);
        }
        let Some(http) = self.me.upgrade() else { return connection.close(link) };
        let to_head = request.head.method == "HEAD";
        let keep_alive = request.head.keep_alive;
        let (sockman, remote) = (link.sockman().downgrade(), link.remote());
        let flight = Arc::clone(&connection.flight);
        let job = Job { http, sockman, remote, flight, to_head, keep_alive };
        if !self.workers.submit(link.id(), move || job.run(request)) {
            let response = Response::text(503, "The queue of requests is full. Try again later.");
            connection.send_answer(link, &response.encode(self.afterwards(keep_alive), to_head));
        }
    }

    fn afterwards(&self, keep_alive: bool) -> Afterwards {
        if keep_alive && !self.is_stopping() { Afterwards::KeepAlive } else { Afterwards::Close }
    }

    /// Sends what is queued. The kernel reports only a larger amount of free room, so the time-out of
    /// a client that takes little calls this method too.
    fn drain(&self, link: Link<'_>, connection: &mut Connection) {
        let before = link.queue().queued();
        if link.drain().is_err() {
            return connection.close(link);
        }
        if link.queue().queued() < before {
            connection.is_active();
        }
        self.advance(link, connection);
    }

    /// Ends a connection that waits for no answer. The library closes it when the client has closed
    /// its side, and `LINGER` after the last activity at the latest. A close at once would reset the
    /// connection if the client had sent more, and the reset could overtake the answer.
    fn end(&self, link: Link<'_>, connection: &mut Connection) {
        connection.phase = Phase::Ended;
        self.timers.clear(Timer::Connection(link.id()));
        link.finish(LINGER.saturating_sub(connection.quiet_since.elapsed()));
    }

    /// Sets the timer of a connection.
    fn set_timer(&self, link: Link<'_>, connection: &mut Connection, at: Instant) {
        connection.timer_ends = at;
        self.timers.set(link.sockman(), Timer::Connection(link.id()), at);
    }

    /// Handles the expired timer of a connection: sets it again, answers with 408 or closes.
    fn timer_ended(&self, link: Link<'_>, connection: &mut Connection, now: Instant) {
        let limit = self.config.idle_timeout;
        // The timer is not moved on every activity. When the timer expires, the server checks the
        // time of the last activity, and sets the timer again if that time is recent.
        let ends = match connection.phase {
            Phase::Answering | Phase::Streaming => now + limit,
            Phase::Reading | Phase::Closing => {
                self.drain(link, connection);
                connection.patience_ends(limit)
            }
            Phase::Ended => return,
        };
        // The new end may have passed too. The timers return it when all data that came before has
        // been delivered.
        if ends > connection.timer_ends {
            return self.set_timer(link, connection, ends);
        }
        let is_within_request = connection.parser.is_within_request() && !link.queue().has_queued();
        if connection.phase == Phase::Reading && is_within_request {
            self.set_timer(link, connection, now + limit);
            let response = Response::text(408, "The request did not arrive in time.");
            connection.send_answer(link, &response.encode(Afterwards::Close, false));
        } else {
            connection.close(link);
        }
    }
}

impl Handler for Http {
    type Connection = Connection;

    fn accepted(&self, link: Link<'_>, _me: &Service, them: &Service) -> Option<Connection> {
        // Refused here and not at the first request: a client that sends nothing would keep its place
        // until it times out.
        if !is_allowed(&self.config.allow, them) {
            log::debug!("refusing a client from {them}: its address is not allowed");
            return None;
        }
        let idle = Instant::now() + self.config.idle_timeout;
        self.timers.set(link.sockman(), Timer::Connection(link.id()), idle);
        Some(Connection::new(self.config.max_body, idle))
    }

    fn should_try_to_send(&self, link: Link<'_>, connection: &mut Connection) -> bool {
        link.queue().has_queued() || connection.is_held_back()
    }

    fn ready_to_send(&self, link: Link<'_>, connection: &mut Connection) -> NextRecv {
        self.catch_up(link, connection);
        // Nothing is received from a client that is held back, so a reset is reported only here.
        if connection.is_held_back() && has_hung_up(link) {
            connection.close(link);
        } else {
            self.drain(link, connection);
        }
        NextRecv::Proceed
    }

    fn should_try_to_recv(&self, link: Link<'_>, connection: &mut Connection) -> bool {
        self.catch_up(link, connection);
        connection.may_receive(link)
    }

    fn got_data(&self, link: Link<'_>, connection: &mut Connection, data: &[u8]) {
        self.catch_up(link, connection);
        connection.receive(data);
        self.advance(link, connection);
    }

    fn got_eof(&self, link: Link<'_>, connection: &mut Connection) {
        connection.got_eof = true;
        self.catch_up(link, connection);
        self.advance(link, connection);
        // A client may close its side after its last request. The client still gets the answer.
        if connection.phase == Phase::Answering {
            connection.begin_answer(link);
        }
    }

    fn turn_completed(&self, link: Link<'_>, connection: &mut Connection) {
        self.catch_up(link, connection);
        let (is_stopping, is_sent) = (self.is_stopping(), !link.queue().has_queued());
        match connection.phase {
            Phase::Closing if is_sent => self.end(link, connection),
            Phase::Reading if is_sent && is_stopping => self.end(link, connection),
            // A client of an event stream must not send anything more.
            Phase::Streaming if is_stopping || connection.has_more() => connection.close(link),
            _ => {}
        }
        let now = Instant::now();
        if connection.timer_ends <= now {
            self.timer_ended(link, connection, now);
        }
    }

    fn closed(&self, sockman: &SockMan, id: ConnectionId, _: Connection) {
        // A call that has not begun is dropped: nobody waits for its answer.
        self.workers.withdraw(id);
        self.timers.clear(Timer::Connection(id));
        if self.is_stopping() {
            sockman.notify(); // It may be the last one.
        }
    }

    fn loop_completed(&self, sockman: &SockMan) {
        let now = Instant::now();
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                // The turn that follows receives what has arrived, and then looks at the time.
                Timer::Connection(id) => sockman.wake(id),
                Timer::Service(number) => self.service.timer_ended(number),
                Timer::Stop => sockman.drain_and_stop(Duration::ZERO),
            }
        }
        if self.is_stopping() && sockman.stats().connections == 0 {
            sockman.drain_and_stop(Duration::ZERO);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn queue_limits(&self) -> SendQueueLimits {
        LIMITS
    }
}

/// Returns whether the connection has been reset, or is closed in both directions, even if nothing is
/// received from it.
fn has_hung_up(link: Link<'_>) -> bool {
    link.info().is_some_and(|info| info.hung_up.is_some())
}

/// Returns whether clients from this address may connect: those of this machine, and those of the
/// addresses in `allow`.
pub fn is_allowed(allow: &[IpAddr], them: &Service) -> bool {
    match them.to_socket_addr() {
        // A unix-domain socket is protected by the permissions of its path.
        None => true,
        Some(them) => {
            let ip = them.ip().to_canonical();
            ip.is_loopback() || allow.iter().any(|allowed| allowed.to_canonical() == ip)
        }
    }
}

/// The job of a worker: one request.
struct Job {
    http: Arc<Http>,
    /// A job that takes long keeps no socket open.
    sockman: WeakSockMan,
    remote: Remote<Connection>,
    flight: Arc<Flight>,
    keep_alive: bool,
    /// The request is a HEAD, so its answer has no body.
    to_head: bool,
}

impl Job {
    fn run(self, request: Request) {
        let Job { http, sockman, remote, flight, keep_alive, to_head } = self;
        // The client has gone since this worker took the job.
        if remote.is_closed() {
            return;
        }
        let is_http_1_0 = request.head.is_http_1_0;
        let timers = Timers { timers: &http.timers, sockman: &sockman };
        let answer = catch_unwind(AssertUnwindSafe(|| http.service.answer(request, &timers)));
        let answer = match answer {
            Ok(Answer::Response(response)) => response.encode(http.afterwards(keep_alive), to_head),
            Ok(Answer::Events(subscribe)) => {
                if let Ok(stream) = events::begin(&remote, &flight, is_http_1_0) {
                    subscribe(stream);
                }
                return;
            }
            // The panic hook has reported the panic. The client still gets an answer.
            Err(_) => Response::text(500, "The server failed to process this request.")
                .encode(Afterwards::Close, to_head),
        };
        match flight.send(&answer, |bytes| remote.push(bytes)) {
            Ok(true) => remote.wake(),
            Ok(false) => {}
            Err(_) => drop(remote.close()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sockman::{
        Options,
        testing::{Network, SocketThreadByHand},
    };

    use super::{super::parser::Head, *};

    struct Nothing;

    impl HttpService for Nothing {
        fn admit(&self, _: &Head) -> Result<(), Response> {
            Err(Response::text(404, "nothing"))
        }
        fn answer(&self, _: Request, _: &Timers<'_>) -> Answer {
            Answer::Response(Response::empty(204))
        }
    }

    /// Clients of an address that is not allowed cannot take the places of others, not even by
    /// sending nothing. The test uses a network in memory, because over loopback every peer is
    /// allowed.
    #[test]
    fn an_address_that_is_not_allowed_is_refused_at_the_accept() {
        const PLACES: usize = 4;
        let allowed = |allow: &[&str]| {
            let network = Network::new();
            let workers = Arc::new(Workers::start(0, 1).unwrap());
            let allow = allow.iter().map(|ip| ip.parse().unwrap()).collect();
            let config = Config { allow, ..Config::default() };
            let http = Http::new(config, Arc::new(Nothing), workers);
            let options = Options::default()
                .sweep(None)
                .max_connections(PLACES)
                .sock_factory(network.factory());
            let sockman = SockMan::with_state(http, options).unwrap();
            let here = sockman.bind_and_start_listening("10.0.0.1:80").unwrap();
            let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
            let silent: Vec<_> = (0..3 * PLACES).map(|_| network.connect(&here).unwrap()).collect();
            thread.run_until_idle().unwrap();
            let peer = silent.last().unwrap();
            let _ = peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            thread.run_until_idle().unwrap();
            let connections = sockman.stats().connections;
            (connections, silent.iter().filter(|peer| peer.receive().1.is_some()).count())
        };
        assert_eq!(allowed(&[]), (0, 3 * PLACES));
        // The address of the peers of this network.
        assert_eq!(allowed(&["10.0.0.1"]).0, PLACES);
    }

    #[test]
    fn loopback_and_listed_addresses_are_allowed() {
        let allow = ["192.0.2.1".parse().unwrap(), "::ffff:192.0.2.2".parse().unwrap()];
        let cases = [
            ("127.0.0.1:5", true),
            ("[::1]:5", true),
            ("[::ffff:127.0.0.1]:5", true),
            ("192.0.2.1:5", true),
            ("[::ffff:192.0.2.1]:5", true),
            ("192.0.2.2:5", true),
            ("192.0.2.3:5", false),
            ("[2001:db8::1]:5", false),
            ("unix:/run/x", true),
        ];
        for (them, expected) in cases {
            assert_eq!(is_allowed(&allow, &them.parse().unwrap()), expected, "{them}");
        }
    }
}
