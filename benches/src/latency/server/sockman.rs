//! The server on sockman with its default options.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, SendQueue, Service, SockMan,
    SocketsThreads,
    error::{ConnectError, ConnectErrorKind},
    helpers::SendQueueLimits,
};

use super::{CONNECT_BEGINS, CONNECT_TIMEOUT, Options, ReplyBy, Server, Stamp};
use crate::cores;

pub struct SockmanServer {
    address: SocketAddr,
    sockman: SockMan,
    handler: Arc<Handler>,
    threads: Option<SocketsThreads>,
    worker: Option<JoinHandle<()>>,
    connects: Vec<JoinHandle<Result<(), ConnectError>>>,
}

struct Handler {
    reply_by: ReplyBy,
    connections: Mutex<HashMap<ConnectionId, Arc<Connection>>>,
    first: OnceLock<Arc<Connection>>,
    /// The channel to the worker; `None` ends the worker.
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    came_to_send: Stamp,
}

struct Request {
    connection: Arc<Connection>,
    bytes: Vec<u8>,
}

struct Connection {
    /// Sends at once, and keeps the bytes that the kernel does not accept.
    queue: SendQueue,
    /// Bytes that the socket thread has to send.
    for_loop: Mutex<Vec<u8>>,
    has_for_loop: AtomicBool,
    request: RequestState,
}

/// Whether the worker has a request of this connection, and whether the receive hook has paused
/// reading meanwhile: only then does the connection need a wake.
#[derive(Default)]
struct RequestState(AtomicU8);

impl RequestState {
    const NONE: u8 = 0;
    const AT_WORKER: u8 = 1;
    const AT_WORKER_AND_MORE_CAME: u8 = 2;

    fn begin(&self) {
        self.0.store(RequestState::AT_WORKER, Ordering::SeqCst);
    }

    fn may_read(&self) -> bool {
        if self.0.load(Ordering::SeqCst) == RequestState::NONE {
            return true;
        }
        let more_came = RequestState::AT_WORKER_AND_MORE_CAME;
        let was_at_worker = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
            (state != RequestState::NONE).then_some(more_came)
        });
        was_at_worker.is_err()
    }

    /// Ends the request. Returns `true` if the connection needs a wake.
    fn end(&self) -> bool {
        self.0.swap(RequestState::NONE, Ordering::SeqCst) == RequestState::AT_WORKER_AND_MORE_CAME
    }
}

impl Connection {
    fn queue_for_loop(&self, sockman: &SockMan, bytes: &[u8]) {
        self.for_loop.lock().extend_from_slice(bytes);
        self.has_for_loop.store(true, Ordering::Release);
        sockman.wake(self.queue.id());
    }
}

impl Handler {
    fn connection(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.connections.lock().get(&id).cloned()
    }

    fn close(&self, sockman: &SockMan, id: ConnectionId) {
        self.connections.lock().remove(&id);
        sockman.close_connection(id);
    }
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let connection = Arc::new(Connection {
            queue: SendQueue::new(id, SendQueueLimits::default()),
            for_loop: Mutex::default(),
            has_for_loop: AtomicBool::new(false),
            request: RequestState::default(),
        });
        self.first.get_or_init(|| Arc::clone(&connection));
        self.connections.lock().insert(id, connection);
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| {
            connection.has_for_loop.load(Ordering::Acquire) || connection.queue.has_queued()
        })
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| {
            connection.request.may_read() && !connection.queue.is_above_high_mark()
        })
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.came_to_send.set();
        let Some(connection) = self.connection(id) else { return NextRecv::Skip };
        let sent = if connection.has_for_loop.swap(false, Ordering::AcqRel) {
            let bytes = std::mem::take(&mut *connection.for_loop.lock());
            connection.queue.push(sockman, &bytes).is_ok()
        } else {
            connection.queue.drain(sockman).is_ok()
        };
        if !sent {
            self.close(sockman, id);
        }
        NextRecv::Proceed
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let Some(connection) = self.connection(id) else { return };
        if self.reply_by == ReplyBy::Callback {
            if connection.queue.push(sockman, data).is_err() {
                self.close(sockman, id);
            }
            return;
        }
        connection.request.begin();
        if let Some(requests) = &*self.requests.lock() {
            // The worker runs as long as this sender exists.
            let _ = requests.send(Request { connection, bytes: data.to_vec() });
        }
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.close(sockman, id);
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        self.close(sockman, id);
    }
}

impl SockmanServer {
    pub fn new(options: Options) -> io::Result<SockmanServer> {
        let (sender, requests) = mpsc::channel();
        let handler = Arc::new(Handler {
            reply_by: options.reply_by,
            connections: Mutex::default(),
            first: OnceLock::new(),
            requests: Mutex::new(Some(sender)),
            came_to_send: Stamp::new(),
        });
        let sockman = SockMan::new(Arc::clone(&handler) as _, sockman::Options::default())
            .map_err(io::Error::other)?;
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = sockman.bind_and_start_listening(any_port).map_err(io::Error::other)?;
        let address = bound.to_socket_addr().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let worker = {
            let sockman = sockman.clone();
            thread::spawn(move || work(&sockman, options, requests))
        };
        let (threads, connects) = (None, Vec::new());
        Ok(SockmanServer { address, sockman, handler, threads, worker: Some(worker), connects })
    }
}

fn work(sockman: &SockMan, options: Options, requests: mpsc::Receiver<Request>) {
    if let Some(core) = options.worker_core {
        // Without the pin, the figures would belong to another core. The run fails instead.
        if cores::pin(core).is_err() {
            return;
        }
    }
    for Request { connection, bytes } in requests {
        // This precedes the reply, because the next request can come right after the reply.
        let must_wake = connection.request.end();
        if options.reply_by == ReplyBy::Loop {
            connection.queue_for_loop(sockman, &bytes);
            continue;
        }
        // The socket thread reports the error of a broken connection, and its callback closes it.
        let _ = connection.queue.push(sockman, &bytes);
        if must_wake {
            sockman.wake(connection.queue.id());
        }
    }
}

impl Server for SockmanServer {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn start(&mut self) -> io::Result<()> {
        self.threads = Some(self.sockman.start_sockets_threads().map_err(io::Error::other)?);
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        self.sockman.interrupt();
        for connect in self.connects.drain(..) {
            match connect.join() {
                Ok(Err(error)) if matches!(error.kind(), ConnectErrorKind::Interrupted) => {}
                other => return Err(io::Error::other(format!("a connect ended with {other:?}"))),
            }
        }
        match self.threads.take() {
            Some(threads) => threads.join().map_err(|e| io::Error::other(e.to_string())),
            None => Ok(()),
        }
    }

    fn start_connects(&mut self, to: SocketAddr, count: usize) -> io::Result<()> {
        let before = self.sockman.stats().connections;
        for _ in 0..count {
            let sockman = self.sockman.clone();
            let options = ConnectOptions::default().timeout(CONNECT_TIMEOUT);
            self.connects.push(thread::spawn(move || sockman.connect(to, &options).map(drop)));
        }
        while self.sockman.stats().connections < before + count {
            thread::yield_now();
        }
        // The last connect enters the kernel meanwhile. The system reports no event for that.
        thread::sleep(CONNECT_BEGINS);
        Ok(())
    }

    fn queue(&self, bytes: &[u8]) -> io::Result<()> {
        let first = self.handler.first.get().ok_or(io::ErrorKind::NotConnected)?;
        first.queue_for_loop(&self.sockman, bytes);
        Ok(())
    }

    fn came_to_send(&self) -> std::time::Instant {
        self.handler.came_to_send.get()
    }
}

impl Drop for SockmanServer {
    fn drop(&mut self) {
        // The measurement has already called `stop` and reported its error.
        let _ = self.stop();
        self.handler.requests.lock().take();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
