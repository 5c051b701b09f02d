//! The handler under test. It records what it hears, and does what the peer's messages say.

use std::sync::{Arc, Condvar, Mutex};

use rustls::HandshakeKind;
use sockman::{ConnectionId, SockMan, address::Destination, error::ConnectError};
use sockman_rustls::{TlsError, TlsHandler, TlsLink, TlsRemote};
use sockman_test_support::DEADLINE;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Secured,
    HandshakeFailed(Failure),
    Data(Vec<u8>),
    End,
    Failed(Failure),
    Closed,
    ConnectFailed,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    Protocol(rustls::Error),
    Truncated,
    HandshakeTimeout,
    Socket,
    Closed,
}

impl Failure {
    fn of(error: &TlsError) -> Failure {
        match error {
            TlsError::Protocol(error) => Failure::Protocol(error.clone()),
            TlsError::Truncated => Failure::Truncated,
            TlsError::HandshakeTimeout => Failure::HandshakeTimeout,
            TlsError::Socket(_) => Failure::Socket,
            TlsError::Closed => Failure::Closed,
            error => panic!("{error}"),
        }
    }
}

/// What a handshake has agreed on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Agreed {
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) version: rustls::ProtocolVersion,
    pub(crate) kind: HandshakeKind,
    pub(crate) certificates: usize,
}

/// What the handler does when the peer ends its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnEnd {
    Finish,
    /// Writes a last message, and then finishes.
    AnswerAndFinish,
    /// Keeps its side open.
    Nothing,
}

pub(crate) struct Recorder {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    events: Vec<(ConnectionId, Event)>,
    agreed: Vec<Agreed>,
    remotes: Vec<TlsRemote<Value>>,
    /// How many bytes of long answers were taken.
    taken: usize,
    refuses: bool,
    on_end: Option<OnEnd>,
    pauses: bool,
    /// Whether a long answer goes on at the end of each turn, too.
    goes_on_in_each_turn: bool,
    /// How often room was reported in the turn that is under way.
    rooms: usize,
    at_second_room: Option<AtRoom>,
}

/// What the handler does when room is reported, instead of going on with its answer.
pub(crate) type AtRoom = Box<dyn FnOnce(&mut TlsLink<'_, Value>, &mut Value) + Send>;

/// The value of a connection.
#[derive(Default)]
pub(crate) struct Value {
    /// The long answer: how many bytes it has, and how many of them were taken.
    answer: usize,
    taken: usize,
}

impl Value {
    /// Returns how many bytes of the long answer were taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Writes as much of the long answer as there is room for. Returns how many bytes were taken.
    pub(crate) fn write_more(&mut self, link: &mut TlsLink<'_, Value>) -> usize {
        let mut block = vec![0; 100_000];
        let before = self.taken;
        while self.taken < self.answer {
            let length = block.len().min(self.answer - self.taken);
            for (at, byte) in block[..length].iter_mut().enumerate() {
                *byte = byte_at(self.taken + at);
            }
            let Ok(taken) = link.write(&block[..length]) else { break };
            self.taken += taken;
            if taken < length {
                break;
            }
        }
        self.taken - before
    }
}

/// The byte at a position of a long answer.
pub(crate) fn byte_at(position: usize) -> u8 {
    (position % 251) as u8
}

impl Recorder {
    pub(crate) fn new() -> Arc<Recorder> {
        Arc::new(Recorder { state: Mutex::default(), changed: Condvar::new() })
    }

    /// Sets what the handler does when a turn reports room for the second time.
    pub(crate) fn at_second_room(&self, act: AtRoom) {
        self.state.lock().unwrap().at_second_room = Some(act);
    }

    /// Returns whether a turn has reported room twice since
    /// [`at_second_room`](Recorder::at_second_room).
    pub(crate) fn had_second_room(&self) -> bool {
        self.state.lock().unwrap().at_second_room.is_none()
    }

    pub(crate) fn go_on_in_each_turn(&self) {
        self.state.lock().unwrap().goes_on_in_each_turn = true;
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.state.lock().unwrap().events.iter().map(|(_, event)| event.clone()).collect()
    }

    pub(crate) fn events_of(&self, id: ConnectionId) -> Vec<Event> {
        let state = self.state.lock().unwrap();
        state.events.iter().filter(|(of, _)| *of == id).map(|(_, event)| event.clone()).collect()
    }

    /// Takes the events, with all data in one piece.
    pub(crate) fn take(&self) -> Vec<Event> {
        let mut taken: Vec<Event> = Vec::new();
        for (_, event) in self.state.lock().unwrap().events.drain(..) {
            match (taken.last_mut(), event) {
                (Some(Event::Data(before)), Event::Data(data)) => before.extend(data),
                (_, event) => taken.push(event),
            }
        }
        taken
    }

    pub(crate) fn agreed(&self) -> Vec<Agreed> {
        self.state.lock().unwrap().agreed.clone()
    }

    pub(crate) fn taken(&self) -> usize {
        self.state.lock().unwrap().taken
    }

    pub(crate) fn remote(&self) -> TlsRemote<Value> {
        self.state.lock().unwrap().remotes.last().unwrap().clone()
    }

    pub(crate) fn refuse(&self) {
        self.state.lock().unwrap().refuses = true;
    }

    pub(crate) fn on_end(&self, on_end: OnEnd) {
        self.state.lock().unwrap().on_end = Some(on_end);
    }

    pub(crate) fn pause(&self, pauses: bool) {
        self.state.lock().unwrap().pauses = pauses;
    }

    pub(crate) fn wait_for(&self, what: &str, count: usize, wanted: impl Fn(&Event) -> bool) {
        let state = self.state.lock().unwrap();
        let missing = |state: &mut State| {
            state.events.iter().filter(|(_, event)| wanted(event)).count() < count
        };
        let (state, waited) = self.changed.wait_timeout_while(state, DEADLINE, missing).unwrap();
        assert!(!waited.timed_out(), "waited in vain for {what}: {:?}", state.events);
    }

    fn record(&self, id: ConnectionId, event: Event) {
        let mut state = self.state.lock().unwrap();
        let is_over = |(of, event): &(ConnectionId, Event)| {
            *of == id && matches!(event, Event::Closed | Event::HandshakeFailed(_))
        };
        assert!(!state.events.iter().any(is_over), "{event:?} of {id} comes after the last call");
        state.events.push((id, event));
        self.changed.notify_all();
    }

    fn go_on(&self, link: &mut TlsLink<'_, Value>, value: &mut Value) {
        let taken = value.write_more(link);
        self.state.lock().unwrap().taken += taken;
    }
}

/// The time of a finish. Longer than a test takes.
pub(crate) const LINGER: std::time::Duration = std::time::Duration::from_secs(600);

impl TlsHandler for Recorder {
    type Connection = Value;

    fn secured(&self, link: &mut TlsLink<'_, Value>) -> Option<Value> {
        self.record(link.id(), Event::Secured);
        let tls = link.tls();
        let agreed = Agreed {
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            version: tls.protocol_version().unwrap(),
            kind: tls.handshake_kind().unwrap(),
            certificates: tls.peer_certificates().map_or(0, <[_]>::len),
        };
        let mut state = self.state.lock().unwrap();
        state.agreed.push(agreed);
        state.remotes.push(link.remote());
        (!state.refuses).then(Value::default)
    }

    fn handshake_failed(&self, _: &SockMan, id: ConnectionId, error: &TlsError) {
        self.record(id, Event::HandshakeFailed(Failure::of(error)));
    }

    /// The first byte of a record says what to do.
    fn got_data(&self, link: &mut TlsLink<'_, Value>, value: &mut Value) {
        let data = link.data().to_vec();
        self.record(link.id(), Event::Data(data.clone()));
        let text = String::from_utf8_lossy(&data[1..]).into_owned();
        match data[0] {
            b'e' => assert_eq!(link.write(&data[1..]), Ok(data.len() - 1)),
            b'f' => assert!(link.finish(LINGER)),
            b'c' => assert!(link.close()),
            // A long answer, and then a finish if an `f` follows.
            b'a' => {
                value.answer += text.trim_end_matches('f').parse::<usize>().unwrap();
                self.go_on(link, value);
                if text.ends_with('f') {
                    link.finish(LINGER);
                }
            }
            _ => {}
        }
        assert!(link.is_closed() || link.data() == data, "the data stays until the return");
    }

    fn got_room(&self, link: &mut TlsLink<'_, Value>, value: &mut Value) {
        assert!(!link.is_closed(), "room is reported after the close");
        let act = {
            let mut state = self.state.lock().unwrap();
            state.rooms += 1;
            if state.rooms == 2 { state.at_second_room.take() } else { None }
        };
        match act {
            Some(act) => act(link, value),
            None => self.go_on(link, value),
        }
    }

    fn got_end(&self, link: &mut TlsLink<'_, Value>, _: &mut Value) {
        self.record(link.id(), Event::End);
        let on_end = self.state.lock().unwrap().on_end.unwrap_or(OnEnd::Finish);
        if on_end == OnEnd::AnswerAndFinish {
            link.write(b"the rest").unwrap();
        }
        if on_end != OnEnd::Nothing {
            link.finish(LINGER);
        }
    }

    fn failed(&self, link: &mut TlsLink<'_, Value>, _: &mut Value, error: &TlsError) {
        self.record(link.id(), Event::Failed(Failure::of(error)));
    }

    fn should_try_to_recv(&self, _: &mut Value) -> bool {
        !self.state.lock().unwrap().pauses
    }

    fn turn_completed(&self, link: &mut TlsLink<'_, Value>, value: &mut Value) {
        let goes_on = {
            let mut state = self.state.lock().unwrap();
            state.rooms = 0;
            state.goes_on_in_each_turn
        };
        if goes_on {
            self.go_on(link, value);
        }
    }

    fn closed(&self, _: &SockMan, id: ConnectionId, _: Value) {
        self.record(id, Event::Closed);
    }

    fn connect_failed(&self, _: &SockMan, id: ConnectionId, _: &Destination, _: ConnectError) {
        self.record(id, Event::ConnectFailed);
    }
}
