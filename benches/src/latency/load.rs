//! The client side: connections, and threads that keep a server busy.

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

/// A server that does not answer for this long is stuck.
pub const STUCK: Duration = Duration::from_secs(10);
const MESSAGE: [u8; 64] = [b'm'; 64];
/// The number of connections of the load that keeps a loop busy.
pub const BUSY_CONNECTIONS: usize = 16;

pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STUCK))?;
    Ok(stream)
}

/// Sends the bytes and waits for the same number of bytes.
pub fn exchange(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.read_exact(bytes)
}

/// Sends messages on sixteen connections without a pause, on its own thread. The drop ends it.
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

    /// Ends the load. Fails if the load had broken off earlier.
    pub fn end(mut self) -> io::Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the load panicked")))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            // The stream may be closed already.
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

    /// Sleeps for the next pause. The pauses are part of the load: the next wake finds the server
    /// asleep, at a random time.
    pub fn sleep(&mut self) {
        let fraction = self.random.fraction();
        thread::sleep(self.range.start + (self.range.end - self.range.start).mul_f64(fraction));
    }
}
