//! A service that reports each call, and asks for what the test says. It checks nakamoto's contract:
//! which calls may follow which.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    fmt, io,
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    thread::{self, JoinHandle},
};

use crossbeam_channel as chan;
use nakamoto_net::{
    Disconnect, Io, Link, LocalTime, Publisher, Reactor as _, Service, StateMachine, Waker as _,
    error::Error,
};
use nakamoto_net_sockman::{Reactor, Waker};
use sockman::{ConnectOptions, Options, SockMan};
use sockman_test_support::{DEADLINE, tools};

/// Why the service disconnects a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) &'static str);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl From<Reason> for Disconnect<Reason> {
    fn from(reason: Reason) -> Disconnect<Reason> {
        Disconnect::StateMachine(reason)
    }
}

pub(crate) type Request = Io<Vec<u8>, String, Reason>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Dial(io::ErrorKind),
    Connection(io::ErrorKind),
    Service(Reason),
}

/// A call of the reactor. `tick` is not reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Initialized,
    Attempted(SocketAddr),
    Connected { peer: SocketAddr, me: SocketAddr, link: Link },
    Received(SocketAddr, Vec<u8>),
    Disconnected(SocketAddr, Ended),
    TimerExpired,
    Command,
}

impl Call {
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Call::Attempted(peer)
            | Call::Connected { peer, .. }
            | Call::Received(peer, _)
            | Call::Disconnected(peer, _) => Some(*peer),
            Call::Initialized | Call::TimerExpired | Call::Command => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Attempted,
    Connected,
}

/// The service. It is not `Send`, and borrows the reaction.
pub(crate) struct Script<'a> {
    calls: chan::Sender<Call>,
    reaction: &'a mut dyn FnMut(&Call) -> Vec<Request>,
    requests: VecDeque<Request>,
    peers: HashMap<SocketAddr, State>,
    time: Option<LocalTime>,
    _not_send: Rc<()>,
}

impl<'a> Script<'a> {
    pub(crate) fn new(
        calls: chan::Sender<Call>,
        reaction: &'a mut dyn FnMut(&Call) -> Vec<Request>,
    ) -> Script<'a> {
        Script {
            calls,
            reaction,
            requests: VecDeque::new(),
            peers: HashMap::new(),
            time: None,
            _not_send: Rc::new(()),
        }
    }

    fn called(&mut self, call: Call) {
        self.requests.extend((self.reaction)(&call));
        let _ = self.calls.send(call);
    }
}

impl Iterator for Script<'_> {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }
}

impl StateMachine for Script<'_> {
    type Message = [u8];
    type Event = String;
    type DisconnectReason = Reason;

    fn initialize(&mut self, time: LocalTime) {
        assert_eq!(self.time.replace(time), None, "initialized twice");
        self.called(Call::Initialized);
    }

    fn tick(&mut self, time: LocalTime) {
        let before = self.time.replace(time).expect("a tick before the initialization");
        assert!(before <= time, "the time went back from {before:?} to {time:?}");
    }

    fn attempted(&mut self, peer: &SocketAddr) {
        assert_eq!(self.peers.insert(*peer, State::Attempted), None, "{peer} is known");
        self.called(Call::Attempted(*peer));
    }

    fn connected(&mut self, peer: SocketAddr, me: &SocketAddr, link: Link) {
        let expected = link.is_outbound().then_some(State::Attempted);
        assert_eq!(self.peers.insert(peer, State::Connected), expected, "{peer}");
        self.called(Call::Connected { peer, me: *me, link });
    }

    fn message_received(&mut self, peer: &SocketAddr, message: Cow<'_, [u8]>) {
        assert_eq!(self.peers.get(peer), Some(&State::Connected), "{peer}");
        self.called(Call::Received(*peer, message.into_owned()));
    }

    fn disconnected(&mut self, peer: &SocketAddr, reason: Disconnect<Reason>) {
        let known = self.peers.remove(peer).expect("the end of a peer that is not known");
        let ended = match reason {
            Disconnect::DialError(error) => {
                assert_eq!(known, State::Attempted);
                Ended::Dial(error.kind())
            }
            Disconnect::ConnectionError(error) => Ended::Connection(error.kind()),
            Disconnect::StateMachine(reason) => Ended::Service(reason),
        };
        self.called(Call::Disconnected(*peer, ended));
    }

    fn timer_expired(&mut self) {
        self.called(Call::TimerExpired);
    }
}

impl Service for Script<'_> {
    type Command = Vec<Request>;

    fn command_received(&mut self, requests: Vec<Request>) {
        self.requests.extend(requests);
        self.called(Call::Command);
    }
}

pub(crate) struct Events(pub(crate) chan::Sender<String>);

impl Publisher<String> for Events {
    fn publish(&mut self, event: String) {
        let _ = self.0.send(event);
    }
}

/// A reactor that runs on a thread of its own. Dropping it ends the run.
pub(crate) struct Running {
    pub(crate) sockman: SockMan,
    pub(crate) waker: Waker,
    pub(crate) events: chan::Receiver<String>,
    /// Where the reactor listens.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) calls: chan::Receiver<Call>,
    pub(crate) commands: chan::Sender<Vec<Request>>,
    end: chan::Sender<()>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Running {
    /// Starts a reactor with one listener, and a service that asks for nothing by itself.
    pub(crate) fn start() -> Running {
        Running::reacting(|_| Vec::new())
    }

    pub(crate) fn reacting(
        reaction: impl FnMut(&Call) -> Vec<Request> + Send + 'static,
    ) -> Running {
        Running::with(Options::default(), 1, reaction)
    }

    pub(crate) fn with(
        options: Options,
        listeners: usize,
        mut reaction: impl FnMut(&Call) -> Vec<Request> + Send + 'static,
    ) -> Running {
        let (end, shutdown) = chan::bounded(1);
        let (listening, addresses) = chan::bounded(listeners + 1);
        let (commands, to_do) = chan::unbounded();
        let (called, calls) = chan::unbounded();
        let (published, events) = chan::unbounded();
        let connect = ConnectOptions::default();
        let mut reactor = Reactor::with_options(shutdown, listening, options, connect).unwrap();
        let (waker, sockman) = (reactor.waker(), reactor.sockman().clone());
        let thread = thread::spawn(move || {
            let service = Script::new(called, &mut reaction);
            let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)); listeners];
            reactor.run(&listen, service, Events(published), to_do)
        });
        let addresses = (0..listeners).map(|_| addresses.recv_timeout(DEADLINE).unwrap()).collect();
        let thread = Some(thread);
        Running { sockman, waker, events, addresses, calls, commands, end, thread }
    }

    /// Gives the service a command: to ask for these.
    pub(crate) fn ask(&self, requests: impl Into<Vec<Request>>) {
        self.commands.send(requests.into()).unwrap();
        self.waker.wake().unwrap();
    }

    /// Waits for a call for which `found` returns a value. Other calls are passed over.
    pub(crate) fn wait_for<T>(&self, what: &str, mut found: impl FnMut(&Call) -> Option<T>) -> T {
        let mut seen = Vec::new();
        loop {
            let Ok(call) = self.calls.recv_timeout(DEADLINE) else {
                panic!("waited in vain for {what}; the calls: {seen:?}");
            };
            if let Some(result) = found(&call) {
                return result;
            }
            seen.push(call);
        }
    }

    pub(crate) fn wait_for_call(&self, call: &Call) {
        self.wait_for(&format!("{call:?}"), |found| (found == call).then_some(()));
    }

    pub(crate) fn wait_for_end(&self, peer: SocketAddr) -> Ended {
        self.wait_for("the end of a peer", |call| match call {
            Call::Disconnected(of, ended) if *of == peer => Some(*ended),
            _ => None,
        })
    }

    /// Waits until a command has come back, so that all requests before it are carried out. Returns
    /// the calls that came until then.
    pub(crate) fn settle(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        self.ask([Io::Event("settled".to_owned())]);
        while self.events.recv_timeout(DEADLINE).unwrap() != "settled" {}
        calls.extend(self.calls.try_iter().filter(|call| *call != Call::Command));
        calls
    }

    /// Connects a client, and waits until the service knows it. Returns the service's name for it.
    pub(crate) fn client(&self) -> (TcpStream, SocketAddr) {
        let stream = client(self.addresses[0]);
        let peer = stream.local_addr().unwrap();
        let me = stream.peer_addr().unwrap();
        self.wait_for_call(&Call::Connected { peer, me, link: Link::Inbound });
        (stream, peer)
    }

    /// Connects the reactor to a listener of the test. Returns the listener's stream, and the
    /// service's name for the peer.
    pub(crate) fn dial(&self) -> (TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        self.ask([Io::Connect(peer)]);
        let (stream, me) = listener.accept().unwrap();
        tools::deadlines(&stream);
        self.wait_for_call(&Call::Attempted(peer));
        self.wait_for_call(&Call::Connected { peer, me, link: Link::Outbound });
        (stream, peer)
    }

    /// Ends the run, and returns what it returned.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        self.shut_down();
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn shut_down(&self) {
        let _ = self.end.try_send(());
        let _ = self.waker.wake();
    }

    /// Waits for the end of the run, and returns the message of the panic that ended it.
    pub(crate) fn wait_for_panic(mut self) -> String {
        let payload = self.thread.take().unwrap().join().unwrap_err();
        *payload.downcast::<String>().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shut_down();
        let outcome = thread.join();
        // If the test has failed already, the output shows the first panic.
        if !thread::panicking() {
            outcome.unwrap().unwrap();
        }
    }
}

/// Returns a plain blocking client with deadlines.
pub(crate) fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    tools::deadlines(&stream);
    stream
}
