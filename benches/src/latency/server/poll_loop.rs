//! The shape of Bitcoin Core's socket handler: each pass asks every connection for its events,
//! builds the set for poll(2) from them, and waits for at most 50 ms. No other thread can wake the
//! poll.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use super::{CONNECT_BEGINS, CONNECT_TIMEOUT, Options, ReplyBy, Server, Stamp};
use crate::cores;

/// Bitcoin Core's `SELECT_TIMEOUT_MILLISECONDS`.
pub const POLL_TIMEOUT: Duration = Duration::from_millis(50);
const BUFFER: usize = 64 * 1024;

pub struct PollLoopServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// `Some` while no thread runs.
    connections: Option<Connections>,
    thread: Option<JoinHandle<(Connections, io::Result<()>)>>,
    worker: Option<JoinHandle<()>>,
    connects: Vec<JoinHandle<io::Result<TcpStream>>>,
}

struct Shared {
    reply_by: ReplyBy,
    interrupted: AtomicBool,
    first: OnceLock<Arc<Connection>>,
    came_to_send: Stamp,
}

struct Connections {
    listener: TcpListener,
    connections: Vec<Arc<Connection>>,
    /// The channel to the worker, which ends with this sender.
    requests: mpsc::Sender<Request>,
}

struct Request {
    connection: Arc<Connection>,
    bytes: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// Bytes that wait to be sent. The lock is held over a send, so that bytes keep their order.
    queue: Mutex<Vec<u8>>,
    /// The worker has a request of this connection.
    is_busy: AtomicBool,
}

impl Connection {
    /// Sends at once, and queues the bytes that the kernel does not accept.
    fn push(&self, bytes: &[u8]) -> io::Result<()> {
        let mut queue = self.queue.lock();
        let sent = if queue.is_empty() { send(&self.stream, bytes)? } else { 0 };
        queue.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn drain(&self) -> io::Result<()> {
        let mut queue = self.queue.lock();
        let sent = send(&self.stream, &queue)?;
        queue.drain(..sent);
        Ok(())
    }

    fn waits_for(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.is_busy.load(Ordering::SeqCst));
        flags.set(PollFlags::POLLOUT, !self.queue.lock().is_empty());
        flags
    }
}

fn send(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

impl Connections {
    fn handle_sockets(&mut self, shared: &Shared) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while !shared.interrupted.load(Ordering::SeqCst) {
            let mut set = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            set.extend(
                self.connections.iter().map(|c| PollFd::new(c.stream.as_fd(), c.waits_for())),
            );
            poll(&mut set, PollTimeout::try_from(POLL_TIMEOUT).map_err(io::Error::other)?)?;
            let ready: Vec<PollFlags> =
                set.iter().map(|entry| entry.revents().unwrap_or(PollFlags::empty())).collect();

            let mut closed = Vec::new();
            for (index, (connection, ready)) in self.connections.iter().zip(&ready[1..]).enumerate()
            {
                if self.handle(connection, *ready, &mut buffer, shared).is_err() {
                    closed.push(index);
                }
            }
            for index in closed.into_iter().rev() {
                self.connections.swap_remove(index);
            }
            if !ready[0].is_empty() {
                self.accept(shared)?;
            }
        }
        Ok(())
    }

    /// Handles one connection. The caller closes the connection after an error. EOF counts as an
    /// error.
    fn handle(
        &self,
        connection: &Arc<Connection>,
        ready: PollFlags,
        buffer: &mut [u8],
        shared: &Shared,
    ) -> io::Result<()> {
        if ready.contains(PollFlags::POLLOUT) {
            shared.came_to_send.set();
            connection.drain()?;
        }
        if !ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Ok(());
        }
        match (&connection.stream).read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) if shared.reply_by == ReplyBy::Callback => connection.push(&buffer[..count]),
            Ok(count) => {
                connection.is_busy.store(true, Ordering::SeqCst);
                let (connection, bytes) = (Arc::clone(connection), buffer[..count].to_vec());
                self.requests.send(Request { connection, bytes }).map_err(io::Error::other)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Accepts one connection in each pass, like Bitcoin Core.
    fn accept(&mut self, shared: &Shared) -> io::Result<()> {
        let (stream, _) = match self.listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            accepted => accepted?,
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (queue, is_busy) = (Mutex::default(), AtomicBool::new(false));
        let connection = Arc::new(Connection { stream, queue, is_busy });
        shared.first.get_or_init(|| Arc::clone(&connection));
        self.connections.push(connection);
        Ok(())
    }
}

fn work(options: Options, requests: mpsc::Receiver<Request>) {
    if let Some(core) = options.worker_core {
        // Without the pin, the figures would belong to another core. The run fails instead.
        if cores::pin(core).is_err() {
            return;
        }
    }
    for Request { connection, bytes } in requests {
        connection.is_busy.store(false, Ordering::SeqCst);
        if options.reply_by == ReplyBy::Loop {
            connection.queue.lock().extend_from_slice(&bytes);
        } else {
            // The I/O thread reads the error of a broken connection and closes it.
            let _ = connection.push(&bytes);
        }
    }
}

impl PollLoopServer {
    pub fn new(options: Options) -> io::Result<PollLoopServer> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (sender, requests) = mpsc::channel();
        let worker = Some(thread::spawn(move || work(options, requests)));
        let shared = Arc::new(Shared {
            reply_by: options.reply_by,
            interrupted: AtomicBool::new(false),
            first: OnceLock::new(),
            came_to_send: Stamp::new(),
        });
        let connections = Some(Connections { listener, connections: Vec::new(), requests: sender });
        let (thread, connects) = (None, Vec::new());
        Ok(PollLoopServer { address, shared, connections, thread, worker, connects })
    }
}

impl Server for PollLoopServer {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn start(&mut self) -> io::Result<()> {
        let mut connections = self.connections.take().ok_or(io::ErrorKind::AlreadyExists)?;
        self.shared.interrupted.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("poll".to_owned()).spawn(move || {
            let ended = connections.handle_sockets(&shared);
            (connections, ended)
        })?;
        self.thread = Some(thread);
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        self.shared.interrupted.store(true, Ordering::SeqCst);
        for connect in self.connects.drain(..) {
            match connect.join() {
                Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {}
                other => return Err(io::Error::other(format!("a connect ended with {other:?}"))),
            }
        }
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let (connections, ended) =
            thread.join().map_err(|_| io::Error::other("the loop panicked"))?;
        self.connections = Some(connections);
        ended
    }

    /// Each connect polls its socket until the timeout, like in Bitcoin Core.
    fn start_connects(&mut self, to: SocketAddr, count: usize) -> io::Result<()> {
        for _ in 0..count {
            self.connects
                .push(thread::spawn(move || TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)));
        }
        // The last connect enters the kernel meanwhile. The system reports no event for that.
        thread::sleep(CONNECT_BEGINS);
        Ok(())
    }

    fn queue(&self, bytes: &[u8]) -> io::Result<()> {
        let first = self.shared.first.get().ok_or(io::ErrorKind::NotConnected)?;
        first.queue.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn came_to_send(&self) -> Instant {
        self.shared.came_to_send.get()
    }
}

impl Drop for PollLoopServer {
    fn drop(&mut self) {
        // The measurement has already called `stop` and reported its error.
        let _ = self.stop();
        self.connections.take();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
