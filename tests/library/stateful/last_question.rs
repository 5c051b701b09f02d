//! The send hook is asked once more at the end of a turn that has sent. These tests let the hook end
//! its connection there, let it panic there, and queue bytes after its answer. Every test runs on
//! every kernel, with the sweep off, and the clock stands still.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use sockman::{
    ConnectionId, NextRecv, Options, Service, SockMan,
    error::JoinError,
    options::PanicPolicy,
    stateful::{Handler, Link, Remote},
    sys::errors,
    testing::{Ended, Network, Peer, SocketThreadByHand},
};

const LINGER: Duration = Duration::from_secs(60);

type Reaction<R> = Box<dyn FnOnce(Link<'_, Value>, &mut Value) -> R + Send>;

/// The value of a connection.
struct Value {
    /// The connection's place in the order of the accepts.
    number: usize,
    /// How many bytes are left to send, besides the queue.
    left: usize,
    /// The pass of the ready-to-send call, if the hook was not asked since.
    sent_in: Option<usize>,
}

/// Sends what a closure adds. Connection 0 runs `at_last` in the last question of a turn, and
/// connection 1 runs `at_send` when it sends.
#[derive(Default)]
struct Answering {
    records: Mutex<Vec<(usize, &'static str)>>,
    remotes: Mutex<Vec<Remote<Value>>>,
    at_last: Mutex<Option<Reaction<bool>>>,
    at_send: Mutex<Option<Reaction<()>>>,
    ids: Mutex<Vec<ConnectionId>>,
    passes: AtomicUsize,
}

impl Answering {
    fn record(&self, number: usize, call: &'static str) {
        self.records.lock().unwrap().push((number, call));
    }

    fn remote(&self, number: usize) -> Remote<Value> {
        self.remotes.lock().unwrap()[number].clone()
    }
}

impl Handler for Answering {
    type Connection = Value;

    fn accepted(&self, link: Link<'_, Value>, _: &Service, _: &Service) -> Option<Value> {
        let mut remotes = self.remotes.lock().unwrap();
        remotes.push(link.remote());
        self.ids.lock().unwrap().push(link.id());
        Some(Value { number: remotes.len() - 1, left: 0, sent_in: None })
    }
    fn got_data(&self, _: Link<'_, Value>, value: &mut Value, _: &[u8]) {
        self.record(value.number, "data");
    }
    fn got_eof(&self, link: Link<'_, Value>, value: &mut Value) {
        self.record(value.number, "end");
        link.finish(LINGER);
    }
    fn should_try_to_send(&self, link: Link<'_, Value>, value: &mut Value) -> bool {
        // A question of a later pass is the one before a turn.
        if value.sent_in.take() == Some(self.passes.load(SeqCst)) {
            self.record(value.number, "last");
            let reaction = self.at_last.lock().unwrap().take_if(|_| value.number == 0);
            if let Some(react) = reaction {
                return react(link, value);
            }
        }
        value.left > 0 || link.queue().has_queued()
    }
    fn ready_to_send(&self, link: Link<'_, Value>, value: &mut Value) -> NextRecv {
        self.record(value.number, "sends");
        value.sent_in = Some(self.passes.load(SeqCst));
        while value.left > 0 && link.send(b"x").unwrap() > 0 {
            value.left -= 1;
        }
        link.drain().unwrap();
        let reaction = self.at_send.lock().unwrap().take_if(|_| value.number == 1);
        if let Some(react) = reaction {
            react(link, value);
        }
        NextRecv::Proceed
    }
    fn turn_completed(&self, _: Link<'_, Value>, value: &mut Value) {
        self.record(value.number, "turn");
    }
    fn loop_completed(&self, _: &SockMan) {
        self.passes.fetch_add(1, SeqCst);
    }
    fn closed_after_panic(&self, _: &SockMan, id: ConnectionId) {
        let number = self.ids.lock().unwrap().iter().position(|known| *known == id).unwrap();
        self.record(number, "panicked");
    }
    fn closed(&self, _: &SockMan, _: ConnectionId, value: Value) {
        self.record(value.number, "closed");
    }
}

struct Rig {
    network: Network,
    handler: Arc<Answering>,
    sockman: SockMan,
    thread: SocketThreadByHand,
    /// The peer of the connection under test, and the peer of another one.
    peers: [Peer; 2],
}

impl Rig {
    fn new(network: Network, options: Options) -> Rig {
        let handler = Arc::new(Answering::default());
        let options = options.sweep(None).sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::clone(&handler), options).unwrap();
        let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        let peers = [0, 1].map(|_| {
            let peer = network.connect(&here).unwrap();
            thread.run_until_idle().unwrap();
            peer
        });
        handler.records.lock().unwrap().clear();
        Rig { network, handler, sockman, thread, peers }
    }

    fn at_last(&self, react: impl FnOnce(Link<'_, Value>, &mut Value) -> bool + Send + 'static) {
        *self.handler.at_last.lock().unwrap() = Some(Box::new(react));
    }

    fn at_send(&self, react: impl FnOnce(Link<'_, Value>, &mut Value) + Send + 'static) {
        *self.handler.at_send.lock().unwrap() = Some(Box::new(react));
    }

    /// Gives both connections a byte to send, and a turn after the next poll. The turn has nothing
    /// to receive, so that it ends with the question on every kernel: some kernels have a
    /// connection read until nothing is left, which takes another turn.
    fn answer_both(&self) {
        for remote in &*self.handler.remotes.lock().unwrap() {
            remote.run(|_, value| value.left += 1).unwrap();
        }
    }

    /// Returns the calls for a connection, in their order.
    fn calls_of(&self, number: usize) -> Vec<&'static str> {
        let records = self.handler.records.lock().unwrap();
        records.iter().filter(|(of, _)| *of == number).map(|(_, call)| *call).collect()
    }

    /// Checks that the other connection was answered and goes on, and that the loop sleeps.
    #[track_caller]
    fn assert_the_other_goes_on(&mut self) {
        assert_eq!(self.peers[1].receive(), (b"x".to_vec(), None));
        self.handler.remote(1).run(|_, value| value.left += 1).unwrap();
        self.peers[1].send(b"data").unwrap();
        self.thread.run_until_idle().unwrap();
        assert_eq!(self.peers[1].receive(), (b"x".to_vec(), None));
        assert!(self.calls_of(1).contains(&"data"));
        // Less than the linger of a finish.
        let passes = self.thread.run_for(LINGER / 2).unwrap();
        assert!(passes < 5, "{passes} passes with nothing to do");
    }

    /// Checks that nothing is left of the connection under test.
    #[track_caller]
    fn assert_closed(&self, id: ConnectionId) {
        assert!(self.sockman.connection_info(id).is_none());
        assert_eq!(self.sockman.stats().connections, 1);
        assert!(self.handler.remote(0).is_closed());
    }

    fn id(&self) -> ConnectionId {
        self.handler.ids.lock().unwrap()[0]
    }
}

fn kernels() -> impl Iterator<Item = Network> {
    [Network::linux(), Network::bsd(), Network::macos()].into_iter()
}

/// Each kernel, with each answer of the hook.
fn kernels_and_answers() -> impl Iterator<Item = (Network, bool)> {
    kernels().map(|network| (network, true)).chain(kernels().map(|network| (network, false)))
}

/// The calls of a turn that sends and ends with the question, and the report of the end.
const TURN: [&str; 4] = ["sends", "turn", "last", "closed"];

/// G4: a hook that closes its connection in the last question is its last call, whatever it answers.
/// `closed` gives the value back.
#[test]
fn a_close_in_the_last_question_ends_the_connection() {
    for (network, answer) in kernels_and_answers() {
        let mut rig = Rig::new(network, Options::default());
        rig.at_last(move |link, _| {
            assert!(link.close());
            assert!(!link.close(), "the second close does nothing");
            answer
        });
        rig.answer_both();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.calls_of(0), TURN);
        assert_eq!(rig.peers[0].receive(), (b"x".to_vec(), Some(Ended::Eof)));
        rig.assert_closed(rig.id());
        rig.assert_the_other_goes_on();
        assert_eq!(rig.calls_of(0), TURN);
    }
}

/// G4: a hook that aborts its connection in the last question is its last call, whatever it answers.
/// The peer gets the reset.
#[test]
fn an_abort_in_the_last_question_resets_the_connection() {
    for (network, answer) in kernels_and_answers() {
        let mut rig = Rig::new(network, Options::default());
        rig.at_last(move |link, _| {
            assert!(link.abort());
            answer
        });
        rig.answer_both();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.calls_of(0), TURN);
        let (_, ended) = rig.peers[0].receive();
        assert_eq!(ended, Some(Ended::Error(errors::ECONNRESET)));
        rig.assert_closed(rig.id());
        rig.assert_the_other_goes_on();
        assert_eq!(rig.calls_of(0), TURN);
    }
}

/// The stream leaves in the last question, with what is queued and with what arrives later.
#[test]
fn a_stream_taken_out_in_the_last_question_is_whole() {
    for (network, answer) in kernels_and_answers() {
        let mut rig = Rig::new(network, Options::default());
        let parts = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&parts);
        rig.at_last(move |link, _| {
            link.enqueue(b"queued").unwrap();
            *kept.lock().unwrap() = Some(link.into_stream().unwrap());
            answer
        });
        rig.answer_both();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.calls_of(0), TURN);
        let parts = parts.lock().unwrap().take().unwrap();
        assert_eq!(parts.unsent, b"queued");
        let program = rig.network.taken_out(parts.stream).unwrap();
        program.send(b"on").unwrap();
        assert_eq!(rig.peers[0].receive(), (b"xon".to_vec(), None));
        rig.peers[0].send(b"answer").unwrap();
        assert_eq!(program.receive().0, b"answer");
        rig.assert_closed(rig.id());
        rig.assert_the_other_goes_on();
    }
}

/// What a hook adds before it finishes its connection in the last question.
#[derive(Debug, Clone, Copy)]
enum Adds {
    Nothing,
    OneByteOfItsOwn,
    OneQueuedByte,
}

/// A hook that finishes its connection in the last question ends the stream after everything that is
/// left to send, whatever it answers. The connection is closed when the peer ends its stream, too.
#[test]
fn a_finish_in_the_last_question_sends_the_rest_and_ends_the_stream() {
    for adds in [Adds::Nothing, Adds::OneByteOfItsOwn, Adds::OneQueuedByte] {
        for (network, answer) in kernels_and_answers() {
            let mut rig = Rig::new(network, Options::default());
            rig.at_last(move |link, value| {
                match adds {
                    Adds::Nothing => {}
                    Adds::OneByteOfItsOwn => value.left += 1,
                    Adds::OneQueuedByte => link.enqueue(b"x").unwrap(),
                }
                assert!(link.finish(LINGER));
                answer
            });
            rig.answer_both();
            rig.thread.run_until_idle().unwrap();
            let expected: &[u8] = if matches!(adds, Adds::Nothing) { b"x" } else { b"xx" };
            let received = rig.peers[0].receive();
            assert_eq!(received, (expected.to_vec(), Some(Ended::Eof)), "{adds:?}, {answer}");
            rig.assert_the_other_goes_on();
            assert!(!rig.calls_of(0).contains(&"closed"), "the peer has not ended its stream");
            rig.peers[0].shutdown_write();
            rig.thread.run_until_idle().unwrap();
            assert_eq!(rig.calls_of(0).last(), Some(&"closed"));
            assert!(!rig.calls_of(0).contains(&"end"), "nothing is delivered after a finish");
            rig.assert_closed(rig.id());
        }
    }
}

/// A connection that finishes already has more to send than the kernel takes in one turn. Its turns
/// end with work, and the last one ends the stream.
#[test]
fn a_connection_that_finishes_ends_its_stream_after_the_turn_that_sent_the_last_byte() {
    for network in kernels() {
        let mut rig = Rig::new(network, Options::default());
        rig.peers[0].set_window(2);
        rig.at_last(|link, value| {
            value.left += 9;
            link.finish(LINGER)
        });
        rig.answer_both();
        let mut received = 0;
        loop {
            rig.thread.run_until_idle().unwrap();
            let (bytes, ended) = rig.peers[0].receive();
            received += bytes.len();
            if ended.is_some() {
                assert_eq!(ended, Some(Ended::Eof));
                break;
            }
            assert!(!bytes.is_empty(), "the rest is not sent, after {received} bytes");
        }
        assert_eq!(received, 10);
        rig.assert_the_other_goes_on();
    }
}

/// G12: under `CloseConnection`, a panic in the last question closes that connection and is reported,
/// before the value comes back. The turns of the others go on.
#[test]
fn a_panic_in_the_last_question_closes_the_connection() {
    for network in kernels() {
        let options = Options::default().panic_policy(PanicPolicy::CloseConnection);
        let mut rig = Rig::new(network, options);
        rig.at_last(|_, _| panic!("as the test wants"));
        rig.answer_both();
        rig.thread.run_until_idle().unwrap();
        let calls = ["sends", "turn", "last", "panicked", "closed"];
        assert_eq!(rig.calls_of(0), calls);
        assert_eq!(rig.peers[0].receive(), (b"x".to_vec(), Some(Ended::Eof)));
        rig.assert_closed(rig.id());
        rig.assert_the_other_goes_on();
        assert_eq!(rig.calls_of(0), calls);
    }
}

/// G12, G14: under `Stop`, a panic in the last question sets the interrupt and is the result of the
/// run. The next start sends what was left to send, and answers the other connection.
#[test]
fn a_panic_in_the_last_question_that_stops_the_thread_loses_nothing() {
    for network in kernels() {
        let mut rig = Rig::new(network, Options::default());
        rig.at_last(|_, value| {
            value.left += 1;
            panic!("as the test wants");
        });
        rig.answer_both();
        let Err(JoinError::Panicked(_)) = rig.thread.run_until_idle() else {
            panic!("the panic is not swallowed");
        };
        assert!(!rig.thread.pass().unwrap(), "the interrupt is set");
        assert_eq!(rig.calls_of(0).last(), Some(&"last"));
        rig.thread.stop();
        rig.thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.peers[0].receive(), (b"xx".to_vec(), None));
        rig.assert_the_other_goes_on();
        assert!(!rig.calls_of(0).contains(&"closed"));
    }
}

/// Checks that a byte that `add` adds to connection 0, when connection 1 sends after the last question
/// of connection 0 was answered with no, is sent at once.
#[track_caller]
fn assert_sent_later_in_the_slice(add: fn(&Remote<Value>)) {
    for network in kernels() {
        let mut rig = Rig::new(network, Options::default());
        let remote = rig.handler.remote(0);
        rig.at_send(move |_, _| add(&remote));
        rig.answer_both();
        let begin = rig.network.elapsed();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.network.elapsed(), begin, "no timer is needed");
        let records = rig.handler.records.lock().unwrap().clone();
        let last = records.iter().position(|record| *record == (0, "last")).unwrap();
        let sends = records.iter().position(|record| *record == (1, "sends")).unwrap();
        assert!(last < sends, "the question comes first: {records:?}");
        assert_eq!(rig.peers[0].receive(), (b"xx".to_vec(), None));
        rig.assert_the_other_goes_on();
    }
}

/// G6: an enqueue makes its connection sendable again, although the hook has just said no.
#[test]
fn what_another_connection_enqueues_after_the_last_question_is_sent() {
    assert_sent_later_in_the_slice(|remote| remote.enqueue(b"x").unwrap());
}

/// G6: a closure makes its connection sendable again, too.
#[test]
fn what_a_closure_adds_after_the_last_question_is_sent() {
    assert_sent_later_in_the_slice(|remote| remote.run(|_, value| value.left += 1).unwrap());
}

/// G6: a hook that enqueues in the last question, and says no, has its bytes sent.
#[test]
fn what_the_hook_itself_enqueues_in_the_last_question_is_sent() {
    for (network, answer) in kernels_and_answers() {
        let mut rig = Rig::new(network, Options::default());
        rig.at_last(move |link, _| {
            link.enqueue(b"x").unwrap();
            answer
        });
        rig.answer_both();
        let begin = rig.network.elapsed();
        rig.thread.run_until_idle().unwrap();
        assert_eq!(rig.network.elapsed(), begin, "no timer is needed");
        assert_eq!(rig.peers[0].receive(), (b"xx".to_vec(), None));
        rig.assert_the_other_goes_on();
    }
}
