//! One client that behaves well, beside an attack: it sends a message, waits for the echo, pauses,
//! and sends the next one.
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{LONGEST, Load, Tally, connect};
use crate::random::Random;

/// The size of a message, bytes.
const SIZE: usize = 64;
/// The longest pause. Each pause has another random length, so that the messages come at any time
/// of the server's pass.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// The client counts as if it sent a message in each interval of this length, ns. A message that
/// takes longer delays the next ones, so the histogram gets their latencies too. Otherwise a second
/// in which one message waits would count as one sample, and a quiet second as more than a thousand.
const INTERVAL: u64 = 1_000_000;
/// The time after which a missing echo counts as a failure.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Benign {
    stream: TcpStream,
    random: Random,
}

impl Benign {
    pub fn new(to: SocketAddr) -> io::Result<Benign> {
        let stream: TcpStream = connect(to)?.into();
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Benign { stream, random: Random::new() })
    }
}

impl Load for Benign {
    /// Sends at least one message. The echo of the last one may come after the given time.
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        let mut echo = [0; SIZE];
        loop {
            // The pauses are part of the load: the messages come at random times.
            thread::sleep(LONGEST_PAUSE.mul_f64(self.random.fraction()));
            let message = [tally.messages as u8; SIZE];
            let sent_at = Instant::now();
            self.stream.write_all(&message)?;
            self.stream.read_exact(&mut echo)?;
            let took = u64::try_from(sent_at.elapsed().as_nanos()).unwrap_or(LONGEST);
            if echo != message {
                return Err(io::Error::other("the echo differs from the message that was sent"));
            }
            // The correction for coordinated omission.
            let took = took.min(tally.round_trips.high());
            tally.round_trips.record_correct(took, INTERVAL).map_err(io::Error::other)?;
            tally.messages += 1;
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}
