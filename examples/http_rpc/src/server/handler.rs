//! The server's [`EventHandler`] for [`SockMan`].
//!
//! Hooks and events run on the socket thread. `finish` and `close` also run on the workers. The
//! lock `reading` of a connection, which only the socket thread takes, is held while requests are
//! queued for the workers or refused. The lock `answer` of a connection is held while a part of an
//! answer is sent. No other lock is held while sockman or the service is called.

use std::{
    io,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use sockman::{
    ConnectionId, EventHandler, NextRecv, Service, SockMan,
    helpers::{ConnectionTable, Deadlines},
};

use super::{
    Answer, Config, HttpService, Timers,
    connection::{ArrivingBody, Connection, Phase, Reading},
    events::EventStream,
    parser::{Refused, Request},
    response::{Afterwards, Response},
    workers::Workers,
};

/// How long a client may take to close its side after its last answer.
const LINGER: Duration = Duration::from_secs(1);
/// The lowest rate of a body in bytes a second. Without this limit, a client that sends a byte now
/// and then would keep its place without end.
const MIN_BODY_RATE: usize = 1024;
/// The library's default receive buffer.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The shortest and the longest idle time-out. The longest one can still be added to an `Instant`.
const IDLE_TIMEOUTS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(100 * 365 * 24 * 60 * 60));

/// The key of a timer. The timers expire on the socket thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    Connection(ConnectionId),
    /// A timer of the service, with its number.
    Service(u32),
}

/// The properties of a request that its answer depends on.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    afterwards: Afterwards,
    /// The request is a HEAD, so its answer has no body.
    to_head: bool,
    /// The socket thread must visit the connection after the answer even without a new event: it
    /// has received further bytes already, or the client has closed its side.
    must_revisit: bool,
}

pub(crate) struct Handler {
    config: Config,
    service: Arc<dyn HttpService>,
    connections: ConnectionTable<Connection>,
    pub(super) timers: Deadlines<Timer>,
    workers: Arc<Workers>,
    is_draining: AtomicBool,
    /// Notified when the last connection is removed.
    drained: Condvar,
    drained_lock: Mutex<()>,
}

impl Handler {
    pub(crate) fn new(
        mut config: Config,
        service: Arc<dyn HttpService>,
        workers: Arc<Workers>,
    ) -> Handler {
        config.idle_timeout = config.idle_timeout.clamp(IDLE_TIMEOUTS.0, IDLE_TIMEOUTS.1);
        Handler {
            config,
            service,
            connections: ConnectionTable::new(),
            timers: Deadlines::new(),
            workers,
            is_draining: AtomicBool::new(false),
            drained: Condvar::new(),
            drained_lock: Mutex::new(()),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.all().into_iter().map(|(id, _)| id)
    }

    /// Closes idle connections, and the others after the answer that they wait for. Returns when
    /// all connections are closed, or at the deadline. May be called from any thread except the
    /// socket thread.
    pub(crate) fn drain(&self, sockman: &SockMan, deadline: Instant) {
        self.is_draining.store(true, Ordering::SeqCst);
        for id in self.ids() {
            // Only the socket thread knows which connections are idle.
            sockman.wake(id);
        }
        let mut guard = self.drained_lock.lock();
        while !self.connections.is_empty() {
            if self.drained.wait_until(&mut guard, deadline).timed_out() {
                return;
            }
        }
    }

    /// Closes the connections that remain after the socket thread has ended.
    pub(crate) fn close_all(&self, sockman: &SockMan) {
        for id in self.ids() {
            self.close(sockman, id);
        }
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Closes and removes a connection. May be called from any thread.
    pub(super) fn close(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
        if self.connections.remove(id).is_none() {
            return;
        }
        // A call that has not begun is dropped: nobody waits for its answer.
        self.workers.withdraw(id);
        self.timers.clear(Timer::Connection(id));
        if self.connections.is_empty() {
            let _guard = self.drained_lock.lock();
            self.drained.notify_all();
        }
    }

    /// Handles the received bytes while the connection is in the phase `Reading`. Called on the
    /// socket thread.
    fn advance(
        self: &Arc<Self>,
        sockman: &SockMan,
        connection: &Arc<Connection>,
        reading: &mut Reading,
    ) {
        while connection.phase() == Phase::Reading && !connection.send.has_queued() {
            match reading.parser.next(|head| self.service.admit(head)) {
                Ok(Some(request)) => {
                    reading.body = None;
                    reading.has_unanswered = reading.parser.has_leftover();
                    self.hand_over(sockman, connection, reading, request);
                }
                Ok(None) if reading.got_eof => return self.close(sockman, connection.id),
                Ok(None) => return self.want_more(sockman, connection, reading),
                Err(Refused { response, to_head }) => {
                    connection.pass_on(Phase::Answering);
                    let (afterwards, must_revisit) = (Afterwards::Close, false);
                    let in_flight = InFlight { afterwards, to_head, must_revisit };
                    return self.finish(sockman, connection, &response, in_flight);
                }
            }
        }
    }

    /// Prepares for more bytes: the received bytes hold no whole request.
    fn want_more(&self, sockman: &SockMan, connection: &Connection, reading: &mut Reading) {
        reading.has_unanswered = false;
        if connection.take_turned_away() {
            sockman.wake(connection.id);
        }
        if reading.parser.is_within_body() && reading.body.is_none() {
            // A complete head counts as activity. A part of one does not, or a client that sends a
            // byte now and then would never time out.
            connection.is_active();
            reading.body =
                Some(ArrivingBody { since: Instant::now(), received: 0, more_waits: false });
        }
        if reading.parser.take_continue() {
            // If this send fails, the next callback reports the error.
            let _ = connection.send.push(sockman, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Queues a request for the workers, or answers it with 503 if the queue is full.
    fn hand_over(
        self: &Arc<Self>,
        sockman: &SockMan,
        connection: &Arc<Connection>,
        reading: &Reading,
        request: Request,
    ) {
        if reading.is_far_ahead() && has_hung_up(sockman, connection.id) {
            return self.close(sockman, connection.id);
        }
        connection.expect_answer();
        let was_turned_away = connection.pass_on(Phase::Answering);
        if reading.got_eof {
            connection.begin_answer(sockman);
        }
        let keep_alive = request.head.keep_alive;
        let in_flight = InFlight {
            afterwards: if keep_alive { Afterwards::KeepAlive } else { Afterwards::Close },
            to_head: request.head.method == "HEAD",
            must_revisit: was_turned_away || reading.has_unanswered || reading.got_eof,
        };
        let job = Job {
            handler: Arc::clone(self),
            sockman: sockman.clone(),
            connection: Arc::clone(connection),
            in_flight,
        };
        if !self.workers.submit(connection.id, move || job.run(request)) {
            let response = Response::text(503, "The queue of requests is full. Try again later.");
            self.finish(sockman, connection, &response, in_flight);
        }
    }

    /// Sends the answer and sets the next phase. Called on the thread that owns the phase.
    fn finish(
        &self,
        sockman: &SockMan,
        connection: &Connection,
        response: &Response,
        in_flight: InFlight,
    ) {
        let afterwards = if self.is_draining() { Afterwards::Close } else { in_flight.afterwards };
        let bytes = response.encode(afterwards, in_flight.to_head);
        connection.is_active();
        if connection.send_answer(sockman, &bytes).is_err() {
            // The connection is closed or broken.
            return self.close(sockman, connection.id);
        }
        match afterwards {
            Afterwards::KeepAlive => {
                connection.resume(sockman, in_flight.must_revisit);
                // `drain` may have seen the connection before it was idle.
                if self.is_draining() {
                    sockman.wake(connection.id);
                }
            }
            Afterwards::Close => {
                connection.pass_on(Phase::Closing);
                self.linger_if_sent(sockman, connection);
            }
        }
    }

    /// Shuts down this side if the last answer has been sent. `keep_lingering` does the rest on the
    /// socket thread.
    fn linger_if_sent(&self, sockman: &SockMan, connection: &Connection) {
        if connection.send.has_queued() || !connection.begin_lingering() {
            return;
        }
        let _ = sockman.shutdown_write(connection.id);
        // Reading was paused. Reading must resume, so that the server notices the client's end.
        sockman.wake(connection.id);
    }

    /// Closes a lingering connection if the client has closed its side, otherwise sets the timer
    /// for it. Called on the socket thread.
    fn keep_lingering(&self, sockman: &SockMan, id: ConnectionId, reading: &mut Reading) {
        if reading.got_eof {
            self.close(sockman, id);
        } else if !reading.is_lingering {
            reading.is_lingering = true;
            self.set_timer(sockman, id, reading, Instant::now() + LINGER);
        }
    }

    /// Sets the timer of a connection.
    fn set_timer(&self, sockman: &SockMan, id: ConnectionId, reading: &mut Reading, at: Instant) {
        reading.timer_ends = at;
        self.timers.set(sockman, Timer::Connection(id), at);
    }

    /// Ends a connection if it is idle. Called on the socket thread while the server stops.
    fn end_if_idle(&self, sockman: &SockMan, connection: &Connection) {
        match connection.phase() {
            Phase::Reading if connection.send.has_queued() => {}
            // The kernel took the last answer longer ago than lingering would wait.
            Phase::Reading if connection.quiet_since().elapsed() > LINGER => {
                self.close(sockman, connection.id);
            }
            Phase::Reading => {
                connection.pass_on(Phase::Closing);
                self.linger_if_sent(sockman, connection);
            }
            Phase::Streaming => self.close(sockman, connection.id),
            Phase::Answering | Phase::Closing | Phase::Lingering => {}
        }
    }

    /// Handles the expired timer of a connection: sets it again, answers with 408 or closes. Called
    /// on the socket thread.
    fn timer_ended(&self, sockman: &SockMan, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.find(id) else { return };
        let mut reading = connection.reading.lock();
        let limit = self.config.idle_timeout;
        // The timer is not moved on every activity. When the timer expires, the server checks the
        // time of the last activity, and sets the timer again if that time is recent.
        let ends = match connection.phase() {
            Phase::Answering | Phase::Streaming => now + limit,
            Phase::Reading | Phase::Closing => {
                if self.takes_more(sockman, &connection) {
                    connection.is_active();
                }
                patience_ends(connection.quiet_since(), reading.body.as_ref(), limit)
            }
            Phase::Lingering if reading.is_lingering => reading.timer_ends,
            Phase::Lingering => return self.keep_lingering(sockman, id, &mut reading),
        };
        // The new end may have passed too. The timers return it when all data that came before has
        // been delivered.
        if ends > reading.timer_ends {
            return self.set_timer(sockman, id, &mut reading, ends);
        }
        if connection.phase() == Phase::Reading
            && reading.parser.is_within_request()
            && !connection.send.has_queued()
        {
            connection.pass_on(Phase::Answering);
            self.set_timer(sockman, id, &mut reading, now + limit);
            let response = Response::text(408, "The request did not arrive in time.");
            let (afterwards, to_head, must_revisit) = (Afterwards::Close, false, false);
            let in_flight = InFlight { afterwards, to_head, must_revisit };
            return self.finish(sockman, &connection, &response, in_flight);
        }
        self.close(sockman, id);
    }

    /// Returns whether the client has taken some of its answer. The kernel reports only a large
    /// amount of free room, and a slow client takes long to make that much.
    fn takes_more(&self, sockman: &SockMan, connection: &Connection) -> bool {
        let queued = connection.send.queued();
        // The next callback reports an error.
        queued > 0 && connection.send.drain(sockman).is_ok() && connection.send.queued() < queued
    }
}

/// Returns whether the connection has been reset, or is closed in both directions, even if nothing is
/// received from it.
fn has_hung_up(sockman: &SockMan, id: ConnectionId) -> bool {
    sockman.connection_info(id).is_some_and(|info| info.hung_up.is_some())
}

/// Returns whether clients from this address may connect.
fn is_allowed(allow: &[IpAddr], them: &Service) -> bool {
    match them.to_socket_addr() {
        // A unix-domain socket is protected by the permissions of its path.
        None => true,
        Some(them) => {
            let ip = them.ip().to_canonical();
            ip.is_loopback() || allow.iter().any(|allowed| allowed.to_canonical() == ip)
        }
    }
}

/// Returns the time at which the client times out if it sends nothing more.
fn patience_ends(quiet_since: Instant, body: Option<&ArrivingBody>, limit: Duration) -> Instant {
    let ends = quiet_since + limit;
    match body {
        None => ends,
        // The rate of a body counts only when everything that waits was received.
        Some(body) if body.more_waits => ends,
        Some(body) => {
            let for_bytes = Duration::from_secs((body.received / MIN_BODY_RATE) as u64);
            ends.min(body.since + limit + for_bytes)
        }
    }
}

/// The job of a worker: one request.
struct Job {
    handler: Arc<Handler>,
    sockman: SockMan,
    connection: Arc<Connection>,
    in_flight: InFlight,
}

impl Job {
    fn run(self, request: Request) {
        let Job { handler, sockman, connection, in_flight } = self;
        // The client has gone since this worker took the job.
        if handler.connections.find(connection.id).is_none() {
            return;
        }
        let is_http_1_0 = request.head.is_http_1_0;
        let timers = Timers { timers: &handler.timers, sockman: &sockman };
        let answer = catch_unwind(AssertUnwindSafe(|| handler.service.answer(request, &timers)));
        match answer {
            Ok(Answer::Response(response)) => {
                handler.finish(&sockman, &connection, &response, in_flight);
            }
            Ok(Answer::Events(subscribe)) => {
                let stream =
                    EventStream::begin(handler, sockman.downgrade(), connection, is_http_1_0);
                if let Ok(stream) = stream {
                    subscribe(stream);
                }
            }
            // The panic hook has reported the panic. The client still gets an answer.
            Err(_) => {
                let response = Response::text(500, "The server failed to process this request.");
                let in_flight = InFlight { afterwards: Afterwards::Close, ..in_flight };
                handler.finish(&sockman, &connection, &response, in_flight);
            }
        }
    }
}

/// The [`EventHandler`]. Jobs hold the handler, so its methods need an [`Arc`], and the trait's
/// `&self` gives none.
pub(crate) struct Events(pub(crate) Arc<Handler>);

impl EventHandler for Events {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _me: &Service,
        them: &Service,
    ) -> bool {
        // Refused here and not at the first request: a client that sends nothing would keep its place
        // until it times out.
        if !is_allowed(&self.0.config.allow, them) {
            log::debug!("refusing a client from {them}: its address is not allowed");
            return false;
        }
        self.0.connections.insert(id, Connection::new(id, self.0.config.max_body));
        // This check follows the insert, and `drain` sets the flag before it looks at the table. So
        // either this check sees the flag, or `drain` sees the connection.
        if self.0.is_draining() {
            self.0.close(sockman, id);
            return false;
        }
        if let Some(connection) = self.0.connections.find(id) {
            let idle = Instant::now() + self.0.config.idle_timeout;
            self.0.set_timer(sockman, id, &mut connection.reading.lock(), idle);
        }
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let connection = self.0.connections.find(id);
        connection
            .is_some_and(|connection| connection.send.has_queued() || connection.is_held_back())
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let Some(connection) = self.0.connections.find(id) else { return NextRecv::Skip };
        if !connection.send.has_queued() {
            // Nothing is received, so a reset is reported only here.
            if has_hung_up(sockman, id) {
                self.0.close(sockman, id);
            }
            return NextRecv::Proceed;
        }
        connection.is_active();
        if connection.send.drain(sockman).is_err() {
            self.0.close(sockman, id);
        } else {
            self.0.linger_if_sent(sockman, &connection);
        }
        NextRecv::Proceed
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.0.connections.find(id).is_some_and(|connection| connection.may_receive())
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let Some(connection) = self.0.connections.find(id) else { return };
        let mut reading = connection.reading.lock();
        match connection.phase() {
            // Discarded.
            Phase::Lingering => {}
            // A client of an event stream must not send anything more.
            Phase::Streaming => self.0.close(sockman, id),
            Phase::Reading | Phase::Answering | Phase::Closing => {
                if let Some(body) = &mut reading.body {
                    body.received += data.len();
                    body.more_waits = data.len() >= RECEIVE_BUFFER;
                    connection.is_active();
                }
                reading.parser.receive(data);
                if connection.note_arrival() {
                    reading.has_unanswered = true;
                } else {
                    self.0.advance(sockman, &connection, &mut reading);
                }
            }
        }
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        let Some(connection) = self.0.connections.find(id) else { return };
        let mut reading = connection.reading.lock();
        reading.got_eof = true;
        if matches!(connection.phase(), Phase::Streaming | Phase::Lingering) {
            return self.0.close(sockman, id);
        }
        // A client may close its side after its last request. The client still gets the answer.
        if connection.note_arrival() {
            connection.begin_answer(sockman);
        } else {
            self.0.advance(sockman, &connection, &mut reading);
        }
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        self.0.close(sockman, id);
    }

    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        let Some(connection) = self.0.connections.find(id) else { return };
        self.0.linger_if_sent(sockman, &connection);
        let mut reading = connection.reading.lock();
        let has_sent_or_left = reading.got_eof || reading.parser.unparsed() > 0;
        if connection.phase() == Phase::Streaming && has_sent_or_left {
            return self.0.close(sockman, id);
        }
        self.0.advance(sockman, &connection, &mut reading);
        if self.0.is_draining() {
            self.0.end_if_idle(sockman, &connection);
        }
        if connection.phase() == Phase::Lingering {
            self.0.keep_lingering(sockman, id, &mut reading);
        }
    }

    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        let now = Instant::now();
        while let Some(timer) = self.0.timers.take_due(now) {
            match timer {
                Timer::Connection(id) => self.0.timer_ended(sockman, id, now),
                Timer::Service(number) => self.0.service.timer_ended(number),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.0.timers.next()
    }
}

#[cfg(test)]
mod tests {
    use sockman::{
        Options,
        testing::{Network, SocketThreadByHand},
    };

    use super::{super::parser::Head, *};

    #[test]
    fn a_body_must_arrive_without_a_pause_and_at_a_minimum_rate() {
        let (limit, now) = (Duration::from_secs(30), Instant::now());
        assert_eq!(patience_ends(now, None, limit), now + limit);
        // A byte arrived just now, but few bytes arrived in a long time.
        let since = now - Duration::from_secs(20);
        let ends = |received| {
            patience_ends(now, Some(&ArrivingBody { since, received, more_waits: false }), limit)
        };
        assert_eq!(ends(0), since + limit);
        assert_eq!(ends(5 * MIN_BODY_RATE), since + limit + Duration::from_secs(5));
        // Many bytes arrived. With many bytes, only the time of the last byte counts.
        assert_eq!(ends(usize::MAX), now + limit);
        // More bytes wait, so the rate is not known.
        let body = ArrivingBody { since, received: 0, more_waits: true };
        assert_eq!(patience_ends(now, Some(&body), limit), now + limit);
    }

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
            let handler = Arc::new(Handler::new(config, Arc::new(Nothing), workers));
            let options = Options::default()
                .sweep(None)
                .max_connections(PLACES)
                .sock_factory(network.factory());
            let events = Arc::new(Events(Arc::clone(&handler)));
            let sockman = SockMan::new(events, options).unwrap();
            let here = sockman.bind_and_start_listening("10.0.0.1:80").unwrap();
            let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
            let silent: Vec<_> = (0..3 * PLACES).map(|_| network.connect(&here).unwrap()).collect();
            thread.run_until_idle().unwrap();
            let peer = silent.last().unwrap();
            let _ = peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            thread.run_until_idle().unwrap();
            (handler.connections(), silent.iter().filter(|peer| peer.receive().1.is_some()).count())
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
