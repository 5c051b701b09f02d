//! Members of a chat. One after the other says a line, a fixed number of lines per second, and all
//! others hear it.
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{EVENTS, LONGEST, Load, Tally, closed_by_server, connect_stream, poll_until};

/// The size of a line with its end, bytes.
const LINE: usize = 64;
/// The most bytes that one read receives.
const BUFFER: usize = 64 * LINE;
/// The longest wait for the members that have not heard the last line of a slice.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Chat {
    poll: Poll,
    events: Events,
    members: Vec<Member>,
    buffer: Vec<u8>,
    /// The time between two lines.
    interval: Duration,
    /// When each line of the chat was said.
    said: Vec<Instant>,
    /// The number of members that have not heard a line, over all lines.
    not_heard: usize,
}

struct Member {
    stream: TcpStream,
    /// How many bytes of the next line have arrived.
    received: usize,
    /// The index of the next line that the member hears. It does not hear its own lines.
    next: usize,
}

impl Chat {
    pub fn new(to: SocketAddr, members: usize, lines_per_second: u32) -> io::Result<Chat> {
        let poll = Poll::new()?;
        let members = (0..members).map(|token| {
            let mut stream = connect_stream(to)?;
            poll.registry().register(&mut stream, Token(token), Interest::READABLE)?;
            Ok(Member { stream, received: 0, next: 0 })
        });
        let members = members.collect::<io::Result<_>>()?;
        Ok(Chat {
            poll,
            events: Events::with_capacity(EVENTS),
            members,
            buffer: vec![0; BUFFER],
            interval: Duration::from_secs(1) / lines_per_second,
            said: Vec::new(),
            not_heard: 0,
        })
    }

    fn say(&mut self) -> io::Result<()> {
        let mut line = [b'l'; LINE];
        line[LINE - 1] = b'\n';
        let speaker = self.said.len() % self.members.len();
        self.said.push(Instant::now());
        self.not_heard += self.members.len() - 1;
        // The connection has no unsent bytes, so its buffer has room for a line.
        self.members[speaker].stream.write_all(&line)
    }

    /// Waits for lines until the given time, or until all lines have been heard if `until_heard`.
    fn hear(&mut self, until: Instant, until_heard: bool, tally: &mut Tally) -> io::Result<()> {
        while !(until_heard && self.not_heard == 0)
            && poll_until(&mut self.poll, &mut self.events, until)?
        {
            for event in &self.events {
                let Token(token) = event.token();
                let members = self.members.len();
                let (member, buffer) = (&mut self.members[token], &mut self.buffer);
                self.not_heard -= member.hear(token, members, &self.said, buffer, tally)?;
            }
        }
        Ok(())
    }
}

impl Load for Chat {
    fn run(&mut self, until: Instant, tally: &mut Tally) -> io::Result<()> {
        let mut next = Instant::now();
        while next < until {
            self.say()?;
            next += self.interval;
            self.hear(next.min(until), false, tally)?;
        }
        // The lines of a slice are heard in this slice.
        self.hear(Instant::now() + PATIENCE, true, tally)?;
        if self.not_heard > 0 {
            let text = format!("{} members did not hear a line in {PATIENCE:?}", self.not_heard);
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

impl Member {
    /// Receives the available data, and returns the number of complete lines.
    fn hear(
        &mut self,
        own: usize,
        members: usize,
        said: &[Instant],
        buffer: &mut [u8],
        tally: &mut Tally,
    ) -> io::Result<usize> {
        let mut heard = 0;
        loop {
            let received = match self.stream.read(buffer) {
                Ok(0) => return Err(closed_by_server()),
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(e) => return Err(e),
            };
            self.received += received;
            let now = Instant::now();
            while self.received >= LINE {
                self.received -= LINE;
                heard += 1;
                self.note(own, members, said, now, tally)?;
            }
            // After a short read there is no more data for now: an event reports the next data.
            if received < buffer.len() {
                return Ok(heard);
            }
        }
    }

    fn note(
        &mut self,
        own: usize,
        members: usize,
        said: &[Instant],
        now: Instant,
        tally: &mut Tally,
    ) -> io::Result<()> {
        if self.next % members == own {
            self.next += 1;
        }
        let at = said
            .get(self.next)
            .ok_or_else(|| io::Error::other("a member heard a line that no other member said"))?;
        self.next += 1;
        tally.messages += 1;
        let took = u64::try_from((now - *at).as_nanos()).unwrap_or(LONGEST);
        tally.round_trips.saturating_record(took);
        Ok(())
    }
}
