//! What happens at the clients' end: connections, and threads that keep a server busy.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::cores;
use crate::random::Random;

/// How long a client waits before it calls the server stuck.
pub const STUCK: Duration = Duration::from_secs(10);
const MESSAGE: [u8; 64] = [b'm'; 64];
/// Connections of the load that keeps a loop busy.
pub const BUSY_CONNECTIONS: usize = 16;

pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STUCK))?;
    Ok(stream)
}

/// Sends, and waits for as many bytes.
pub fn exchange(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.read_exact(bytes)
}

/// Echoes on sixteen connections, without pause, on a thread of its own. Ends when dropped.
pub struct Load {
    ends: Arc<AtomicBool>,
    streams: Vec<TcpStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Load {
    pub fn start(to: SocketAddr, core: usize) -> io::Result<Load> {
        let streams =
            (0..BUSY_CONNECTIONS).map(|_| connect(to)).collect::<io::Result<Vec<TcpStream>>>()?;
        let own = streams.iter().map(TcpStream::try_clone).collect::<io::Result<Vec<_>>>()?;
        let ends = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ends = Arc::clone(&ends);
            move || {
                cores::pin(core)?;
                let mut buffer = MESSAGE;
                while !ends.load(Ordering::Relaxed) {
                    for mut stream in &own {
                        stream.write_all(&MESSAGE)?;
                    }
                    for mut stream in &own {
                        stream.read_exact(&mut buffer)?;
                    }
                }
                Ok(())
            }
        });
        Ok(Load { ends, streams, thread: Some(thread) })
    }

    /// Says whether it was there to the end: a load that broke off loads nothing.
    pub fn end(mut self) -> io::Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("panicked"))),
            None => Ok(()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Pauses of random length.
pub struct Pauses {
    random: Random,
    range: Range<Duration>,
}

impl Pauses {
    pub fn new(range: Range<Duration>) -> Pauses {
        Pauses { random: Random::new(), range }
    }

    /// Sleeps for the next pause. It is part of the load: wake-ups are to find the server at rest, at
    /// times that follow no beat.
    pub fn sleep(&mut self) {
        let fraction = self.random.fraction();
        thread::sleep(self.range.start + (self.range.end - self.range.start).mul_f64(fraction));
    }
}
