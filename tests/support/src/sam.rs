//! A SAM bridge for tests without a network behind it: the test plays the peers. The bridge follows
//! a script, even against the protocol.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use data_encoding::{Encoding, Specification};
use sha2::{Digest, Sha256};
use sockman::{Service, address::NetAddr};

use super::DEADLINE;

/// The bridge's answer to a request.
#[derive(Debug, Clone)]
pub enum Play {
    /// Answers like a router.
    Properly,
    /// Answers like a router, with this text before the end of the line.
    Padded(String),
    /// Sends these bytes, and then nothing more.
    Say(Vec<u8>),
    /// Sends these bytes, and then closes.
    SayAndClose(Vec<u8>),
    Close,
    Silence,
    /// Sends a line that never ends.
    Endless,
}

pub struct Bridge {
    pub address: Service,
    inner: Arc<Inner>,
}

struct Inner {
    plan: Box<dyn Fn(&str) -> Play + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: Vec<String>,
    /// Streams that wait for a peer.
    accepting: Vec<TcpStream>,
    /// Streams connected to a peer, each with the destination that the client asked for.
    connected: Vec<(String, TcpStream)>,
    /// The control sockets of sessions, each with the session's name.
    sessions: Vec<(String, TcpStream)>,
    keys: u8,
}

/// Returns the base64 encoding of I2P.
pub fn base64() -> Encoding {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~");
    specification.padding = Some('=');
    specification.encoding().unwrap()
}

/// Returns a destination made from this number.
pub fn destination(number: u8) -> Vec<u8> {
    let mut bytes = vec![number; 391];
    bytes[384..387].copy_from_slice(&[5, 0, 4]);
    bytes
}

pub fn private_key(number: u8) -> Vec<u8> {
    let mut bytes = destination(number);
    bytes.extend([number ^ 0xff; 288]);
    bytes
}

pub fn address_of(destination: &[u8]) -> Service {
    Service::new(NetAddr::i2p(Sha256::digest(destination).into()), 0)
}

impl Bridge {
    pub fn start() -> Bridge {
        Bridge::planned(|_| Play::Properly)
    }

    /// Starts a bridge that asks `plan` at each request.
    pub fn planned(plan: impl Fn(&str) -> Play + Send + Sync + 'static) -> Bridge {
        crate::limits::make_room_for_all_tests();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Service::from(listener.local_addr().unwrap());
        let state = Mutex::new(State { keys: 1, ..State::default() });
        let inner = Arc::new(Inner { plan: Box::new(plan), state, changed: Condvar::new() });
        let bridge = Bridge { address, inner: Arc::clone(&inner) };
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let inner = Arc::clone(&inner);
                thread::spawn(move || inner.serve(stream));
            }
        });
        bridge
    }

    /// Waits until `found` returns a value, and returns the value.
    fn wait<T>(&self, what: &str, mut found: impl FnMut(&mut State) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.inner.state.lock().unwrap();
        loop {
            if let Some(found) = found(&mut state) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}: {:#?}", state.requests);
            state = self.inner.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Returns the requests so far that begin with `prefix`.
    pub fn requests(&self, prefix: &str) -> Vec<String> {
        let state = self.inner.state.lock().unwrap();
        state.requests.iter().filter(|line| line.starts_with(prefix)).cloned().collect()
    }

    pub fn wait_for_request(&self, prefix: &str, count: usize) {
        self.wait(prefix, |state| {
            let found = state.requests.iter().filter(|line| line.starts_with(prefix)).count();
            (found >= count).then_some(())
        });
    }

    /// Acts as a peer that connects. The bridge announces the peer, and the peer's first bytes come
    /// in the segment of the announcement.
    pub fn peer_connects(&self, number: u8, first: &[u8]) -> TcpStream {
        let mut stream = self.wait("STREAM ACCEPT", |state| {
            (!state.accepting.is_empty()).then(|| state.accepting.remove(0))
        });
        let mut bytes = base64().encode(&destination(number)).into_bytes();
        bytes.push(b'\n');
        bytes.extend(first);
        stream.write_all(&bytes).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends this line to a stream that waits for a peer.
    pub fn say_to_accepting(&self, line: &str) {
        let mut stream = self.wait("STREAM ACCEPT", |state| {
            (!state.accepting.is_empty()).then(|| state.accepting.remove(0))
        });
        stream.write_all(line.as_bytes()).unwrap();
    }

    /// Returns the peer's side of a connect.
    pub fn connected(&self) -> TcpStream {
        let (_, stream) = self.wait("STREAM CONNECT", |state| state.connected.pop());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Returns the number of sessions whose control sockets are open.
    pub fn sessions(&self) -> usize {
        let mut state = self.inner.state.lock().unwrap();
        state.sessions.retain(|(_, control)| {
            control.set_nonblocking(true).unwrap();
            let is_open = !matches!(control.peek(&mut [0]), Ok(0));
            control.set_nonblocking(false).unwrap();
            is_open
        });
        state.sessions.len()
    }

    /// Ends every session, as a router does that stops.
    pub fn end_sessions(&self) {
        let mut state = self.inner.state.lock().unwrap();
        for (_, control) in state.sessions.drain(..) {
            let _ = control.shutdown(std::net::Shutdown::Both);
        }
        for stream in state.accepting.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Inner {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_owned();
            let play = (self.plan)(&line);
            // Whoever waits for an accept finds its stream too, so both are stored together.
            let is_kept = line.starts_with("STREAM ACCEPT") && matches!(play, Play::Properly);
            if !is_kept {
                self.state.lock().unwrap().requests.push(line.clone());
                self.changed.notify_all();
            }
            let answer = match play {
                Play::Properly => self.answer(&line),
                Play::Padded(text) => format!("{}{text}\n", self.answer(&line).trim_end()),
                Play::Say(bytes) => {
                    let _ = writer.write_all(&bytes);
                    let _ = std::io::copy(&mut reader, &mut std::io::sink());
                    return;
                }
                Play::SayAndClose(bytes) => {
                    let _ = writer.write_all(&bytes);
                    return;
                }
                Play::Close => return,
                Play::Silence => {
                    let _ = std::io::copy(&mut reader, &mut std::io::sink());
                    return;
                }
                Play::Endless => {
                    while writer.write_all(&[b'x'; 4096]).is_ok() {}
                    return;
                }
            };
            // Stores the session before the reply, because the next request may come on another
            // connection.
            if line.starts_with("SESSION CREATE") {
                let session = (value(&line, "ID").to_owned(), writer.try_clone().unwrap());
                self.state.lock().unwrap().sessions.push(session);
                self.changed.notify_all();
            }
            let mut state = self.state.lock().unwrap();
            if is_kept {
                state.requests.push(line.clone());
                self.changed.notify_all();
            }
            // The answer fits the buffers of the sockets, so the lock is held for a moment.
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
            let is_ok = answer.contains("RESULT=OK");
            let kept = writer.try_clone().unwrap();
            if line.starts_with("STREAM ACCEPT") && is_ok {
                // The session may have ended since the reply was made.
                if !state.sessions.iter().any(|(id, _)| id == value(&line, "ID")) {
                    let _ = kept.shutdown(std::net::Shutdown::Both);
                    return;
                }
                state.accepting.push(kept);
            } else if line.starts_with("STREAM CONNECT") && is_ok {
                state.connected.push((value(&line, "DESTINATION").to_owned(), kept));
            } else {
                continue;
            }
            self.changed.notify_all();
            if line.starts_with("STREAM") {
                return;
            }
        }
    }

    fn answer(&self, line: &str) -> String {
        let mut state = self.state.lock().unwrap();
        let mut make_key = || {
            state.keys += 1;
            private_key(state.keys)
        };
        if line.starts_with("HELLO") {
            "HELLO REPLY RESULT=OK VERSION=3.1\n".to_owned()
        } else if line.starts_with("DEST GENERATE") {
            let key = make_key();
            let (public, private) = (base64().encode(&key[..391]), base64().encode(&key));
            format!("DEST REPLY PUB={public} PRIV={private}\n")
        } else if line.starts_with("SESSION CREATE") {
            let key = match value(line, "DESTINATION") {
                "TRANSIENT" => base64().encode(&make_key()),
                key => key.to_owned(),
            };
            format!("SESSION STATUS RESULT=OK DESTINATION={key}\n")
        } else if line.starts_with("NAMING LOOKUP") {
            let name = value(line, "NAME");
            let found = (0..=255)
                .find(|number| address_of(&destination(*number)).addr().to_string() == name);
            match found {
                Some(number) => {
                    let value = base64().encode(&destination(number));
                    format!("NAMING REPLY RESULT=OK NAME={name} VALUE={value}\n")
                }
                None => format!("NAMING REPLY RESULT=KEY_NOT_FOUND NAME={name}\n"),
            }
        } else {
            let is_known = state.sessions.iter().any(|(id, _)| id == value(line, "ID"));
            let result = if is_known { "OK" } else { "INVALID_ID" };
            format!("STREAM STATUS RESULT={result}\n")
        }
    }
}

/// Returns the value of a key in a line.
fn value<'a>(line: &'a str, key: &str) -> &'a str {
    let words = line.split(' ');
    let mut values = words.filter_map(|word| word.split_once('='));
    values.find(|(found, _)| *found == key).map_or("", |(_, value)| value)
}

/// Returns a plan that answers the first request that begins with `prefix` by `play`, and all
/// others like a router.
pub fn once(prefix: &'static str, play: Play) -> impl Fn(&str) -> Play + Send + Sync + 'static {
    let (sender, receiver) = mpsc::channel();
    sender.send(play).unwrap();
    let receiver = Mutex::new(receiver);
    move |line| {
        if !line.starts_with(prefix) {
            return Play::Properly;
        }
        receiver.lock().unwrap().try_recv().unwrap_or(Play::Properly)
    }
}

/// A time-out that is far longer than any dialogue here, and short enough to wait for.
pub const SOON: Duration = Duration::from_millis(150);
