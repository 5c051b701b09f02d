//! Two hundred connects at once through a SOCKS5 proxy that never answers: how late they end, and
//! how much they delay other connections. With sockman each connect blocks its own thread
//! (`connect`). With tokio each is a task.

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use sockman::{ConnectOptions, address::Destination, error::ConnectErrorKind, proxy::Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Plan,
    attempts::{self, Dialler, Ended, SockmanDialler, TokioDialler},
    rounds::{self, Contestant, Slice},
    server::Peer,
};
use crate::{
    cores::{self, Cores},
    report::Report,
};

const ATTEMPTS: usize = 200;
const ECHO: &str = "stalled proxy/an echo beside 200";
const LATENESS: &str = "stalled proxy/beyond the deadline, 200";

pub fn run(
    plan: &Plan,
    cores: Cores,
    only: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    if !only(ECHO) && !only(LATENESS) {
        return Ok(());
    }
    let time = plan.attempts;
    let contestants = [Peer::Sockman, Peer::Tokio]
        .into_iter()
        .map(|peer| Contestant {
            peer: peer.name(),
            what: ECHO.to_owned(),
            slice: Box::new(move || {
                let (echoes, late) = cores::on_a_thread(|| slice(peer, cores, time))?;
                Ok(vec![Slice::new(ECHO.to_owned(), echoes), Slice::new(LATENESS.to_owned(), late)])
            }),
        })
        .collect();
    rounds::run(plan.rounds, contestants, only, report)
}

fn slice(peer: Peer, cores: Cores, time: Duration) -> io::Result<(Vec<Duration>, Vec<Duration>)> {
    // The kernel completes the connections, and no program accepts them.
    let proxy = TcpListener::bind(("127.0.0.1", 0))?;
    socket2::SockRef::from(&proxy).listen(2 * ATTEMPTS as i32)?;
    cores::pin(cores.server)?;
    let dialler: Box<dyn Dialler> = match peer {
        Peer::Tokio => Box::new(Tasks { server: TokioDialler::new()?, ended: Arc::default() }),
        _ => Box::new(Threads { server: SockmanDialler::new()?, ended: Arc::default() }),
    };
    cores::pin(cores.load)?;
    attempts::measure(&*dialler, ATTEMPTS, proxy.local_addr()?, time)
}

struct Threads {
    server: SockmanDialler,
    ended: Arc<Ended>,
}

impl Dialler for Threads {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn dial(&self, to: SocketAddr, timeout: Duration) -> io::Result<()> {
        let options = ConnectOptions::default().proxy(Proxy::socks5(to)).timeout(timeout);
        let name = Destination::Name { host: "name.test".to_owned(), port: 80 };
        let (sockman, ended) = (self.server.sockman.clone(), Arc::clone(&self.ended));
        thread::Builder::new().spawn(move || {
            let deadline = Instant::now() + timeout;
            let outcome = sockman.connect(&name, &options);
            let late = Instant::now().saturating_duration_since(deadline);
            ended.lock().push(match outcome {
                Err(error) if matches!(error.kind(), ConnectErrorKind::TimedOut { .. }) => Ok(late),
                outcome => Err(format!("a connect ended with {outcome:?}")),
            });
        })?;
        Ok(())
    }

    fn ended_count(&self) -> usize {
        self.ended.lock().len()
    }

    fn ended(&self) -> Vec<Result<Duration, String>> {
        self.ended.lock().clone()
    }
}

struct Tasks {
    server: TokioDialler,
    ended: Arc<Ended>,
}

impl Dialler for Tasks {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn dial(&self, to: SocketAddr, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let ended = Arc::clone(&self.ended);
        self.server.handle.spawn(async move {
            let negotiate = async {
                let mut stream = tokio::net::TcpStream::connect(to).await?;
                stream.write_all(&[5, 1, 0]).await?;
                stream.read_exact(&mut [0; 2]).await
            };
            let outcome = tokio::time::timeout_at(deadline.into(), negotiate).await;
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
