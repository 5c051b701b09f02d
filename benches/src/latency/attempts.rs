//! Thousands of unanswered connects at once on the I/O thread: how much they delay other
//! connections, and how late they end.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, Service, SockMan, SocketsThreads,
    address::Destination,
    error::{ConnectError, ConnectErrorKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Handle},
    sync::Notify,
};

use super::{
    Plan,
    black_hole::BlackHole,
    load::{self, STUCK},
    rounds::{self, Contestant, Slice},
    server::Peer,
};
use crate::{
    cores::{self, Cores},
    report::Report,
};

const COUNTS: [usize; 3] = [0, 500, 2000];
/// The interval of checks whether all connects have ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

fn echo_scenario(count: usize) -> String {
    format!("connects under way/an echo beside {count}")
}

fn lateness_scenario(count: usize) -> String {
    format!("connects under way/beyond the deadline, {count}")
}

pub fn run(
    plan: &Plan,
    cores: Cores,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let mut contestants = Vec::new();
    for count in COUNTS {
        let is_wanted = only(&echo_scenario(count)) || only(&lateness_scenario(count));
        for peer in [Peer::Sockman, Peer::Tokio].into_iter().filter(|_| is_wanted) {
            let time = plan.attempts;
            contestants.push(Contestant {
                peer: peer.name(),
                what: echo_scenario(count),
                slice: Box::new(move || {
                    let (echoes, late) = cores::on_a_thread(|| slice(peer, count, cores, time))?;
                    let mut slices = vec![Slice::new(echo_scenario(count), echoes)];
                    if count > 0 {
                        slices.push(Slice::new(lateness_scenario(count), late));
                    }
                    Ok(slices)
                }),
            });
        }
    }
    rounds::run(plan.rounds, contestants, only, report)
}

/// Returns the latencies of echoes meanwhile, and the time from each connect's deadline to its end.
fn slice(
    peer: Peer,
    count: usize,
    cores: Cores,
    time: Duration,
) -> io::Result<(Vec<Duration>, Vec<Duration>)> {
    let black_hole = BlackHole::new()?;
    cores::pin(cores.server)?;
    let dialler: Box<dyn Dialler> = match peer {
        Peer::Tokio => Box::new(TokioDialler::new()?),
        _ => Box::new(SockmanDialler::new()?),
    };
    cores::pin(cores.load)?;
    measure(&*dialler, count, black_hole.address()?, time)
}

/// Like `slice`, with connects to `to`, which must not answer.
pub(super) fn measure(
    dialler: &dyn Dialler,
    count: usize,
    to: SocketAddr,
    time: Duration,
) -> io::Result<(Vec<Duration>, Vec<Duration>)> {
    let client = load::connect(dialler.address())?;
    load::exchange(&client, &mut [1])?;
    let (begin, mut echoes) = (Instant::now(), Vec::new());
    for _ in 0..count {
        dialler.dial(to, time)?;
    }
    // Every connect is under way after this, on any thread. The system reports no event for that.
    thread::sleep(time / 4);
    // The echoes end before the first connect does.
    loop {
        let sent = Instant::now();
        load::exchange(&client, &mut [1])?;
        echoes.push(sent.elapsed());
        if begin.elapsed() > time * 3 / 4 {
            break;
        }
    }
    let patience = begin + time + STUCK;
    while dialler.ended_count() < count {
        if Instant::now() > patience {
            return Err(io::Error::other(format!(
                "connects had not ended {STUCK:?} after their deadline"
            )));
        }
        // The peers have no common event for the end of a connect, and a waiting thread would
        // disturb the echoes less than a busy one.
        thread::sleep(BETWEEN_LOOKS);
    }
    let late = dialler.ended().into_iter().collect::<Result<_, String>>();
    Ok((echoes, late.map_err(io::Error::other)?))
}

/// An echo server that also connects.
pub(super) trait Dialler {
    fn address(&self) -> SocketAddr;

    /// Starts a connect and returns at once.
    fn dial(&self, to: SocketAddr, timeout: Duration) -> io::Result<()>;

    fn ended_count(&self) -> usize;

    /// Returns for each ended connect the time since its deadline, or an error if the deadline did
    /// not end it.
    fn ended(&self) -> Vec<Result<Duration, String>>;
}

pub(super) type Ended = Mutex<Vec<Result<Duration, String>>>;

pub(super) struct SockmanDialler {
    address: SocketAddr,
    pub(super) sockman: SockMan,
    handler: Arc<Echo>,
    threads: Option<SocketsThreads>,
}

#[derive(Default)]
struct Echo {
    /// The deadlines of the connects, in the order of their ids.
    deadlines: Mutex<Vec<(ConnectionId, Instant)>>,
    ended: Ended,
}

impl EventHandler for Echo {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }

    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }

    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        // If the kernel does not accept the byte, the client times out.
        let _ = sockman.send_bytes(id, data);
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        sockman.close_connection(id);
    }

    fn event_connect_completed(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let now = Instant::now();
        let deadlines = self.deadlines.lock();
        let found = deadlines.binary_search_by_key(&id, |(id, _)| *id);
        let late = match (outcome, found) {
            (Err(error), Ok(place))
                if matches!(error.kind(), ConnectErrorKind::TimedOut { .. }) =>
            {
                Ok(now.saturating_duration_since(deadlines[place].1))
            }
            (outcome, _) => Err(format!("a connect ended with {outcome:?}")),
        };
        self.ended.lock().push(late);
    }
}

impl SockmanDialler {
    pub(super) fn new() -> io::Result<SockmanDialler> {
        let handler = Arc::new(Echo::default());
        let sockman = SockMan::new(Arc::clone(&handler) as _, sockman::Options::default())?;
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = sockman.bind_and_start_listening(any_port).map_err(io::Error::other)?;
        let address = bound.to_socket_addr().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let threads = Some(sockman.start_sockets_threads().map_err(io::Error::other)?);
        Ok(SockmanDialler { address, sockman, handler, threads })
    }
}

impl Dialler for SockmanDialler {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn dial(&self, to: SocketAddr, timeout: Duration) -> io::Result<()> {
        let options = ConnectOptions::default().timeout(timeout);
        let deadline = Instant::now() + timeout;
        let id = self.sockman.start_connect(to, &options).map_err(io::Error::other)?;
        self.handler.deadlines.lock().push((id, deadline));
        Ok(())
    }

    fn ended_count(&self) -> usize {
        self.handler.ended.lock().len()
    }

    fn ended(&self) -> Vec<Result<Duration, String>> {
        self.handler.ended.lock().clone()
    }
}

impl Drop for SockmanDialler {
    fn drop(&mut self) {
        // The drop ends the thread and waits for it.
        drop(self.threads.take());
    }
}

pub(super) struct TokioDialler {
    address: SocketAddr,
    pub(super) handle: Handle,
    end: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    ended: Arc<Ended>,
}

impl TokioDialler {
    pub(super) fn new() -> io::Result<TokioDialler> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let end = Arc::new(Notify::new());
        let ends = Arc::clone(&end);
        let thread = thread::Builder::new().spawn(move || {
            runtime.spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        // The buffer is longer than a message, so tokio sees each read as short.
                        let mut buffer = [0; 64];
                        stream.set_nodelay(true)?;
                        loop {
                            match stream.read(&mut buffer).await? {
                                0 => return io::Result::Ok(()),
                                count => stream.write_all(&buffer[..count]).await?,
                            }
                        }
                    });
                }
            });
            runtime.block_on(ends.notified());
        })?;
        Ok(TokioDialler { address, handle, end, thread: Some(thread), ended: Arc::default() })
    }
}

impl Dialler for TokioDialler {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn dial(&self, to: SocketAddr, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let ended = Arc::clone(&self.ended);
        self.handle.spawn(async move {
            let connect = tokio::net::TcpStream::connect(to);
            let outcome = tokio::time::timeout_at(deadline.into(), connect).await;
            let late = Instant::now().saturating_duration_since(deadline);
            ended.lock().push(match outcome {
                Err(_) => Ok(late),
                Ok(outcome) => Err(format!("a connect ended with {outcome:?}")),
            });
        });
        Ok(())
    }

    fn ended_count(&self) -> usize {
        self.ended.lock().len()
    }

    fn ended(&self) -> Vec<Result<Duration, String>> {
        self.ended.lock().clone()
    }
}

impl Drop for TokioDialler {
    fn drop(&mut self) {
        self.end.notify_one();
        if let Some(thread) = self.thread.take() {
            // After a panic in the thread, the connects would not have ended.
            let _ = thread.join();
        }
    }
}
