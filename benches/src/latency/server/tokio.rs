//! The server on tokio with one thread: a task for each connection, which channels wake.

use std::{
    io, mem,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc as std_mpsc,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use parking_lot::Mutex;
use tokio::{
    io::AsyncReadExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::{Builder, Handle, Runtime},
    sync::{mpsc, oneshot, watch},
    task, time,
};

use super::{CONNECT_BEGINS, CONNECT_TIMEOUT, Options, ReplyBy, Server, Stamp};
use crate::cores;

/// The size of a buffer that holds far more than any request of these scenarios.
const BUFFER: usize = 4096;

pub struct TokioServer {
    address: SocketAddr,
    handle: Handle,
    /// `Some` while no thread runs.
    runtime: Option<Runtime>,
    thread: Option<JoinHandle<(Runtime, io::Result<()>)>>,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    reply_by: ReplyBy,
    first: OnceLock<mpsc::UnboundedSender<Vec<u8>>>,
    came_to_send: Stamp,
    /// The thread waits for the end of these connects before it ends.
    connects: Mutex<Vec<task::JoinHandle<io::Result<()>>>>,
}

struct Request {
    bytes: Vec<u8>,
    answer: Answer,
}

enum Answer {
    /// The worker sends the reply, and then lets the task continue to read.
    Sent(Arc<OwnedWriteHalf>, oneshot::Sender<io::Result<()>>),
    /// The task sends the reply.
    ToSend(oneshot::Sender<Vec<u8>>),
}

impl TokioServer {
    pub fn new(options: Options) -> io::Result<TokioServer> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            reply_by: options.reply_by,
            first: OnceLock::new(),
            came_to_send: Stamp::new(),
            connects: Mutex::default(),
        });
        // The tasks hold the senders of this channel, so the worker ends with the runtime.
        let (sender, requests) = std_mpsc::channel();
        runtime.spawn(accept(listener, Arc::clone(&shared), sender));
        Ok(TokioServer {
            address,
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            thread: None,
            stop: watch::Sender::new(false),
            shared,
            worker: Some(thread::spawn(move || work(options, requests))),
        })
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    requests: std_mpsc::Sender<Request>,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (sender, queue) = mpsc::unbounded_channel();
        // The task keeps a sender too, so that the queue does not end before the connection.
        shared.first.get_or_init(|| sender.clone());
        let (reader, writer) = stream.into_split();
        let connection = Connection {
            stream: Arc::new(writer),
            shared: Arc::clone(&shared),
            requests: requests.clone(),
        };
        tokio::spawn(async move {
            let _sender = sender;
            connection.serve(reader, queue).await
        });
    }
}

struct Connection {
    stream: Arc<OwnedWriteHalf>,
    shared: Arc<Shared>,
    requests: std_mpsc::Sender<Request>,
}

impl Connection {
    async fn serve(
        &self,
        mut reader: OwnedReadHalf,
        mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            tokio::select! {
                // tokio treats a short read as "empty", so there is no second read that would
                // block.
                count = reader.read(&mut buffer) => match count? {
                    0 => return Ok(()),
                    count => self.reply(&buffer[..count]).await?,
                },
                Some(bytes) = queue.recv() => {
                    self.shared.came_to_send.set();
                    send((*self.stream).as_ref(), &bytes).await?;
                }
            }
        }
    }

    async fn reply(&self, request: &[u8]) -> io::Result<()> {
        match self.shared.reply_by {
            ReplyBy::Callback => send((*self.stream).as_ref(), request).await,
            ReplyBy::Worker => {
                let (sender, sent) = oneshot::channel();
                self.ask(request, Answer::Sent(Arc::clone(&self.stream), sender))?;
                sent.await.map_err(io::Error::other)?
            }
            ReplyBy::Loop => {
                let (sender, reply) = oneshot::channel();
                self.ask(request, Answer::ToSend(sender))?;
                send((*self.stream).as_ref(), &reply.await.map_err(io::Error::other)?).await
            }
        }
    }

    fn ask(&self, request: &[u8], answer: Answer) -> io::Result<()> {
        let request = Request { bytes: request.to_vec(), answer };
        self.requests.send(request).map_err(|_| io::Error::other("the worker ended"))
    }
}

/// Sends all bytes. The task tries to send before it waits, because a socket with room needs no
/// wait.
async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn work(options: Options, requests: std_mpsc::Receiver<Request>) {
    if let Some(core) = options.worker_core {
        // Without the pin, the figures would belong to another core. The run fails instead.
        if cores::pin(core).is_err() {
            return;
        }
    }
    for Request { bytes, answer } in requests {
        // A send to a task fails if its connection is closed, which is not an error of the worker.
        match answer {
            Answer::Sent(stream, told) => {
                let sent = stream.try_write(&bytes).and_then(|sent| {
                    // The client waits for each reply, so the socket's buffer has room for a
                    // hundred bytes.
                    (sent == bytes.len()).then_some(()).ok_or(io::ErrorKind::WriteZero.into())
                });
                let _ = told.send(sent);
            }
            Answer::ToSend(reply) => {
                let _ = reply.send(bytes);
            }
        }
    }
}

impl Server for TokioServer {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn start(&mut self) -> io::Result<()> {
        let runtime = self.runtime.take().ok_or(io::ErrorKind::AlreadyExists)?;
        self.stop.send_replace(false);
        let mut stop = self.stop.subscribe();
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("tokio".to_owned()).spawn(move || {
            let ended = runtime.block_on(async {
                // The sender outlives the thread, so this returns only after the value changes.
                let _ = stop.wait_for(|stop| *stop).await;
                let connects = mem::take(&mut *shared.connects.lock());
                for connect in connects {
                    connect.await.map_err(io::Error::other)??;
                }
                Ok(())
            });
            (runtime, ended)
        })?;
        self.thread = Some(thread);
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.stop.send_replace(true);
        let (runtime, ended) =
            thread.join().map_err(|_| io::Error::other("tokio's thread panicked"))?;
        self.runtime = Some(runtime);
        ended
    }

    fn start_connects(&mut self, to: SocketAddr, count: usize) -> io::Result<()> {
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let (begun, mut stop) = (Arc::clone(&begun), self.stop.subscribe());
            let connect = self.handle.spawn(async move {
                begun.fetch_add(1, Ordering::SeqCst);
                tokio::select! {
                    connected = TcpStream::connect(to) => {
                        Err(io::Error::other(format!("a connect ended with {connected:?}")))
                    }
                    () = time::sleep(CONNECT_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
                    _ = stop.wait_for(|stop| *stop) => Ok(()),
                }
            });
            self.shared.connects.lock().push(connect);
        }
        while begun.load(Ordering::SeqCst) < count {
            thread::yield_now();
        }
        // The last connect enters the kernel meanwhile. The system reports no event for that.
        thread::sleep(CONNECT_BEGINS);
        Ok(())
    }

    fn queue(&self, bytes: &[u8]) -> io::Result<()> {
        let first = self.shared.first.get().ok_or(io::ErrorKind::NotConnected)?;
        first.send(bytes.to_vec()).map_err(|_| io::ErrorKind::NotConnected.into())
    }

    fn came_to_send(&self) -> Instant {
        self.shared.came_to_send.get()
    }
}

impl Drop for TokioServer {
    fn drop(&mut self) {
        // The measurement has already called `stop` and reported its error.
        let _ = self.stop();
        self.runtime.take();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
