//! Measures how long a connect to an unanswering address continues after its cancel.

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use sockman::{ConnectOptions, Interrupt, SockMan, error::ConnectErrorKind};
use tokio::{runtime::Builder, sync::Notify};

use crate::cores::{self, Cores};

use super::{
    Plan,
    black_hole::BlackHole,
    rounds::{self, Contestant, Slice},
    server::{CONNECT_TIMEOUT, Peer},
};
use crate::report::Report;

const SCENARIO: &str = "connect cancel/one connect";
/// The time from the start of a connect until it certainly waits.
const BEGINS: Duration = Duration::from_millis(1);

pub fn run(
    plan: &Plan,
    cores: Cores,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    if !only(SCENARIO) {
        return Ok(());
    }
    let mut contestants = Vec::new();
    for peer in Peer::ALL {
        if peer == Peer::PollLoop && !plan.waits_for_time_outs {
            report.not_measured.push(format!(
                "{SCENARIO}, {}: nothing cancels it before its timeout of {} s; only a full run \
                 waits for that.",
                peer.name(),
                CONNECT_TIMEOUT.as_secs()
            ));
            continue;
        }
        let time = plan.connect;
        contestants.push(Contestant {
            peer: peer.name(),
            what: SCENARIO.to_owned(),
            slice: Box::new(move || {
                let latencies = cores::on_a_thread(|| slice(peer, cores, time))?;
                Ok(vec![Slice::new(SCENARIO, latencies)])
            }),
        });
    }
    rounds::run(plan.rounds, contestants, only, report)
}

/// Makes connects on the I/O core, which the other core cancels.
trait Connector: Send {
    /// Blocks until the connect has ended as expected, and returns when it ended.
    fn connect(&mut self, to: SocketAddr) -> io::Result<Instant>;
}

type Cancel = Box<dyn Fn() + Send>;

fn slice(peer: Peer, cores: Cores, time: Duration) -> io::Result<Vec<Duration>> {
    let black_hole = BlackHole::new()?;
    let to = black_hole.address()?;
    let (mut connector, cancel) = connector(peer)?;
    let (begin, begun) = mpsc::channel::<()>();
    let (end, ended) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let pinned = cores::pin(cores.server);
            for () in begun {
                let ended_at = match &pinned {
                    Ok(()) => connector.connect(to),
                    Err(error) => Err(io::Error::other(error.to_string())),
                };
                if end.send(ended_at).is_err() {
                    return;
                }
            }
        });
        cores::pin(cores.load)?;
        let mut latencies = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time {
            begin.send(()).map_err(io::Error::other)?;
            // The connect is under way after this. The system reports no event for that.
            thread::sleep(BEGINS);
            let cancelled = Instant::now();
            cancel();
            let ended_at: Instant = ended.recv().map_err(io::Error::other)??;
            let latency = ended_at.checked_duration_since(cancelled);
            latencies
                .push(latency.ok_or_else(|| {
                    io::Error::other("the connect ended before it was cancelled")
                })?);
        }
        // This ends the thread, and so the scope.
        drop(begin);
        Ok(latencies)
    })
}

fn connector(peer: Peer) -> io::Result<(Box<dyn Connector>, Cancel)> {
    Ok(match peer {
        Peer::Sockman => {
            let cancel = Interrupt::new();
            let connector = SockmanConnector { sockman: sockman()?, cancel: cancel.clone() };
            (Box::new(connector), Box::new(move || cancel.interrupt()))
        }
        Peer::Tokio => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let cancel = Arc::new(Notify::new());
            let connector = TokioConnector { runtime, cancel: Arc::clone(&cancel) };
            (Box::new(connector), Box::new(move || cancel.notify_one()))
        }
        Peer::PollLoop => (Box::new(PollConnector), Box::new(|| ())),
    })
}

struct SockmanConnector {
    sockman: SockMan,
    cancel: Interrupt,
}

fn sockman() -> io::Result<SockMan> {
    SockMan::new(Arc::new(NoEvents), sockman::Options::default()).map_err(io::Error::other)
}

impl Connector for SockmanConnector {
    fn connect(&mut self, to: SocketAddr) -> io::Result<Instant> {
        let options =
            ConnectOptions::default().timeout(CONNECT_TIMEOUT).cancel(self.cancel.clone());
        let ended = self.sockman.connect(to, &options);
        let ended_at = Instant::now();
        self.cancel.reset();
        match ended {
            Err(error) if matches!(error.kind(), ConnectErrorKind::Interrupted) => Ok(ended_at),
            other => Err(io::Error::other(format!("the connect ended with {other:?}"))),
        }
    }
}

struct TokioConnector {
    runtime: tokio::runtime::Runtime,
    cancel: Arc<Notify>,
}

impl Connector for TokioConnector {
    fn connect(&mut self, to: SocketAddr) -> io::Result<Instant> {
        self.runtime.block_on(async {
            tokio::select! {
                connected = tokio::time::timeout(
                    CONNECT_TIMEOUT,
                    tokio::net::TcpStream::connect(to),
                ) => Err(io::Error::other(format!("the connect ended with {connected:?}"))),
                () = self.cancel.notified() => Ok(Instant::now()),
            }
        })
    }
}

/// Bitcoin Core's connect: one poll of the socket until the timeout.
struct PollConnector;

impl Connector for PollConnector {
    fn connect(&mut self, to: SocketAddr) -> io::Result<Instant> {
        match TcpStream::connect_timeout(&to, CONNECT_TIMEOUT) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Instant::now()),
            other => Err(io::Error::other(format!("the connect ended with {other:?}"))),
        }
    }
}

/// A handler without events: the `SockMan` only connects, and all its connects fail.
struct NoEvents;

impl sockman::EventHandler for NoEvents {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: sockman::ConnectionId,
        _: &sockman::Service,
        _: &sockman::Service,
    ) -> bool {
        false
    }

    fn event_ready_to_send(&self, _: &SockMan, _: sockman::ConnectionId) -> sockman::NextRecv {
        sockman::NextRecv::Skip
    }

    fn event_got_data(&self, _: &SockMan, _: sockman::ConnectionId, _: &[u8]) {}

    fn event_got_eof(&self, _: &SockMan, _: sockman::ConnectionId) {}

    fn event_got_permanent_read_error(&self, _: &SockMan, _: sockman::ConnectionId, _: &io::Error) {
    }
}
