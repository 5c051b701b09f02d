//! The server on top of [`SockMan`]: its [`EventHandler`].
//!
//! The hooks and events run on the socket thread, `finish` also on the workers. No lock is held
//! while sockman or the service is called, but a connection's own `reading`, which only the socket
//! thread takes.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use sockman::{ConnectionId, ConnectionTable, Deadlines, EventHandler, NextRecv, Service, SockMan};

use super::{
    Answer, Config, HttpService, Timers,
    connection::{Connection, Phase, Reading},
    events::EventStream,
    parser::{Head, Request},
    response::{Afterwards, Response},
    workers::Workers,
};

/// A client that has got its last answer has so long to close its side.
const LINGER: Duration = Duration::from_secs(1);
/// What it may send meanwhile.
const MAX_DISCARDED: usize = 1024 * 1024;

/// What the socket thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    Connection(ConnectionId),
    /// One of the service's own, with its number.
    Service(u32),
}

pub(crate) struct Handler {
    config: Config,
    service: Arc<dyn HttpService>,
    connections: ConnectionTable<Connection>,
    pub(super) timers: Deadlines<Timer>,
    workers: Arc<Workers>,
    is_draining: AtomicBool,
    /// Notified when the last connection is gone.
    drained: Condvar,
    drained_lock: Mutex<()>,
}

impl Handler {
    pub(crate) fn new(
        config: Config,
        service: Arc<dyn HttpService>,
        workers: Arc<Workers>,
    ) -> Handler {
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

    /// Any thread. Idle connections close, the others after the answer that they wait for. Returns
    /// when all are closed, or at the deadline.
    pub(crate) fn drain(&self, sockman: &SockMan, deadline: Instant) {
        self.is_draining.store(true, Ordering::SeqCst);
        for (id, _) in self.connections.all() {
            // The socket thread looks at each: it knows which of them are idle.
            sockman.wake(id);
        }
        let mut guard = self.drained_lock.lock();
        while !self.connections.is_empty() {
            if self.drained.wait_until(&mut guard, deadline).timed_out() {
                return;
            }
        }
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Any thread.
    pub(super) fn close(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
        if self.connections.remove(id).is_none() {
            return;
        }
        self.timers.clear(Timer::Connection(id));
        if self.connections.is_empty() {
            let _guard = self.drained_lock.lock();
            self.drained.notify_all();
        }
    }

    /// Socket thread. Goes on with what has arrived, as far as it is the client's turn.
    fn advance(
        self: &Arc<Self>,
        sockman: &SockMan,
        connection: &Arc<Connection>,
        reading: &mut Reading,
    ) {
        while connection.phase() == Phase::Reading && !connection.send.has_queued() {
            let next = reading.parser.next(|head| self.admit(connection, head));
            match next {
                Ok(Some(request)) => {
                    connection.note_for_resume(reading.parser.has_leftover() || reading.got_eof);
                    self.hand_over(sockman, connection, request);
                }
                Ok(None) if reading.got_eof => return self.close(sockman, connection.id),
                Ok(None) => {
                    if reading.parser.take_continue() {
                        let _ =
                            connection.send.push(sockman, b"HTTP/1.1 100 Continue\r\n\r\n", false);
                    }
                    return;
                }
                Err(response) => {
                    connection.set_phase(Phase::Answering);
                    self.finish(sockman, connection, &response, Afterwards::Close, false);
                    return;
                }
            }
        }
    }

    /// Before any of the body is waited for.
    fn admit(&self, connection: &Connection, head: &Head) -> Result<(), Response> {
        if !self.is_allowed(&connection.them) {
            return Err(Response::text(403, "This address may not connect here."));
        }
        self.service.admit(head)
    }

    fn is_allowed(&self, them: &Service) -> bool {
        match them.to_socket_addr() {
            // A unix-domain path has permissions of its own.
            None => true,
            Some(them) => {
                let ip = them.ip().to_canonical();
                ip.is_loopback() || self.config.allow.contains(&ip)
            }
        }
    }

    fn hand_over(
        self: &Arc<Self>,
        sockman: &SockMan,
        connection: &Arc<Connection>,
        request: Request,
    ) {
        connection.set_phase(Phase::Answering);
        let job = Job {
            handler: Arc::clone(self),
            sockman: sockman.clone(),
            connection: Arc::clone(connection),
        };
        let afterwards =
            if request.head.keep_alive { Afterwards::KeepAlive } else { Afterwards::Close };
        let to_head = request.head.method == "HEAD";
        if !self.workers.submit(move || job.run(request)) {
            let response = Response::text(503, "The queue of requests is full; come back later.");
            self.finish(sockman, connection, &response, afterwards, to_head);
        }
    }

    /// Sends the answer, from whichever thread has it, and passes the turn on.
    fn finish(
        &self,
        sockman: &SockMan,
        connection: &Connection,
        response: &Response,
        afterwards: Afterwards,
        to_head: bool,
    ) {
        let afterwards = if self.is_draining() { Afterwards::Close } else { afterwards };
        let bytes = response.encode(afterwards, to_head);
        connection.is_active();
        if connection.send.push(sockman, &bytes, false).is_err() {
            // It is closed or broken.
            return self.close(sockman, connection.id);
        }
        match afterwards {
            Afterwards::KeepAlive => connection.resume(sockman),
            Afterwards::Close => {
                connection.set_phase(Phase::Closing);
                self.linger_if_sent(sockman, connection);
            }
        }
    }

    /// After the last answer has left.
    fn linger_if_sent(&self, sockman: &SockMan, connection: &Connection) {
        if connection.send.has_queued() || !connection.begin_lingering() {
            return;
        }
        let _ = sockman.shutdown_write(connection.id);
        self.timers.set(sockman, Timer::Connection(connection.id), Instant::now() + LINGER);
        // Reading, which was paused, goes on: for the end.
        sockman.wake(connection.id);
    }

    fn timer_ended(&self, sockman: &SockMan, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.find(id) else { return };
        let limit = self.config.idle_timeout;
        // The timer is not moved with every byte: it looks when the last one was, and if that is
        // not long ago, it sleeps on.
        let ends = match connection.phase() {
            Phase::Answering | Phase::Streaming => now + limit,
            Phase::Reading | Phase::Closing => connection.quiet_since() + limit,
            Phase::Lingering => now,
        };
        if ends > now {
            return self.timers.set(sockman, Timer::Connection(id), ends);
        }
        let is_within_request = connection.reading.lock().parser.is_within_request();
        if connection.phase() == Phase::Reading
            && is_within_request
            && !connection.send.has_queued()
        {
            connection.set_phase(Phase::Answering);
            self.timers.set(sockman, Timer::Connection(id), now + limit);
            let response = Response::text(408, "The request took too long.");
            return self.finish(sockman, &connection, &response, Afterwards::Close, false);
        }
        self.close(sockman, id);
    }
}

/// A request on its way through a worker.
struct Job {
    handler: Arc<Handler>,
    sockman: SockMan,
    connection: Arc<Connection>,
}

impl Job {
    fn run(self, request: Request) {
        let Job { handler, sockman, connection } = self;
        let afterwards =
            if request.head.keep_alive { Afterwards::KeepAlive } else { Afterwards::Close };
        let to_head = request.head.method == "HEAD";
        let is_http_1_0 = request.head.is_http_1_0;
        let timers = Timers { timers: &handler.timers, sockman: &sockman };
        let answer = catch_unwind(AssertUnwindSafe(|| handler.service.answer(request, &timers)));
        match answer {
            Ok(Answer::Response(response)) => {
                handler.finish(&sockman, &connection, &response, afterwards, to_head);
            }
            Ok(Answer::Events(subscribe)) => {
                let stream =
                    EventStream::begin(handler, sockman.downgrade(), connection, is_http_1_0);
                if let Ok(stream) = stream {
                    subscribe(stream);
                }
            }
            // The panic itself has been printed by the hook; the client is not left waiting.
            Err(_) => {
                let response = Response::text(500, "This request failed.");
                handler.finish(&sockman, &connection, &response, Afterwards::Close, to_head);
            }
        }
    }
}

/// The handler keeps itself in its jobs, so it needs to be an [`Arc`], which the trait's `&self` is
/// not.
pub(crate) struct Events(pub(crate) Arc<Handler>);

impl EventHandler for Events {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _me: &Service,
        them: &Service,
    ) -> bool {
        self.0.connections.insert(id, Connection::new(id, them, self.0.config.max_body));
        // After the entry: `drain` looks the other way round.
        if self.0.is_draining() {
            self.0.close(sockman, id);
            return false;
        }
        let idle = Instant::now() + self.0.config.idle_timeout;
        self.0.timers.set(sockman, Timer::Connection(id), idle);
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.0.connections.find(id).is_some_and(|connection| connection.send.has_queued())
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let Some(connection) = self.0.connections.find(id) else { return NextRecv::Skip };
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
            Phase::Lingering => {
                reading.discarded += data.len();
                if reading.discarded > MAX_DISCARDED {
                    self.0.close(sockman, id);
                }
            }
            // Who hears events has nothing more to ask.
            Phase::Streaming => self.0.close(sockman, id),
            Phase::Reading | Phase::Answering | Phase::Closing => {
                // Not for the head: who sends a byte now and then would never be timed out.
                if reading.parser.is_within_body() {
                    connection.is_active();
                }
                reading.parser.receive(data);
                self.0.advance(sockman, &connection, &mut reading);
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
        // A client may close its side behind its last request: the answer still reaches it.
        connection.note_for_resume(true);
        self.0.advance(sockman, &connection, &mut reading);
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        self.0.close(sockman, id);
    }

    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        let Some(connection) = self.0.connections.find(id) else { return };
        self.0.linger_if_sent(sockman, &connection);
        let mut reading = connection.reading.lock();
        self.0.advance(sockman, &connection, &mut reading);
        let ends = match connection.phase() {
            Phase::Reading => !connection.send.has_queued(),
            Phase::Streaming => true,
            Phase::Answering | Phase::Closing | Phase::Lingering => false,
        };
        if ends && self.0.is_draining() {
            self.0.close(sockman, id);
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
