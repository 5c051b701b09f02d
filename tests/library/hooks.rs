//! G6: the hooks pause either direction of a connection, and a wake, an event or the sweep resumes
//! it.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, OnceLock, Weak},
    thread,
    time::Duration,
};

use sockman::{ConnectionId, EventHandler, NextRecv, Options, Service, SockMan, error::SendError};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, reset,
    tools::{Random, Spy, TempDir, fill, run_passes, until, wait_until_hung_up},
    without_sweep,
};

fn ready_count(handler: &Recorder, id: ConnectionId) -> usize {
    handler.count(|event| *event == Event::ReadyToSend(id))
}

fn data_count(handler: &Recorder, id: ConnectionId) -> usize {
    handler.count(|event| matches!(event, Event::Data(of, _) if *of == id))
}

/// Writes until the kernel's buffers of both sides are full, and returns the number of bytes
/// written.
fn stuff(stream: &mut TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut total = 0;
    let mut full = 0;
    // The receiver's window may open a little after the first refusal.
    while full < 50 {
        match stream.write(&[7; 65536]) {
            Ok(bytes) => (total, full) = (total + bytes, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                full += 1;
                thread::yield_now();
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    total
}

/// G6: while reading is paused, the library makes no receive, even if the buffer is full and many
/// wakes come.
#[test]
fn paused_reads_wait_for_a_wake_and_then_deliver_everything() {
    let handler = Recorder::new();
    let spy = Spy::default();
    let running =
        Running::start(handler.clone(), without_sweep().sock_factory(Arc::new(spy.clone())));
    handler.pause_all_recv(true);
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    let length = stuff(&mut client);
    for _ in 0..5 {
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
    }
    assert_eq!(spy.receives(), 0);
    assert_eq!(data_count(&handler, id), 0);

    handler.pause_all_recv(false);
    running.sockman.wake(id);
    assert_eq!(handler.wait_for_bytes(id, length).len(), length);

    // A pause in the middle of the stream has the same effect.
    handler.pause_recv(id, true);
    run_passes(&running.sockman, 1);
    let before = spy.receives();
    let more = stuff(&mut client);
    run_passes(&running.sockman, 2);
    assert_eq!(spy.receives(), before);
    handler.pause_recv(id, false);
    running.sockman.wake(id);
    assert_eq!(handler.wait_for_bytes(id, length + more).len(), length + more);
}

/// G6: while reading is paused, the end of the stream and errors wait, too.
#[test]
fn eof_is_not_reported_while_reads_are_paused() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    handler.pause_all_recv(true);
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    client.write_all(b"last words").unwrap();
    drop(client);
    for _ in 0..3 {
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
    }
    assert_eq!(handler.events_of(id).len(), 1);
    handler.pause_all_recv(false);
    running.sockman.wake(id);
    handler.wait_for_eof(id);
    assert_eq!(handler.received(id), b"last words");
}

/// G6: without a wake, the sweep asks the hook again.
#[test]
fn a_changed_answer_takes_effect_at_the_sweep_without_a_wake() {
    let handler = Recorder::of_everything(|_, _| {});
    let options = Options::default().sweep(Some(Duration::from_millis(5)));
    let running = Running::start(handler.clone(), options);
    handler.pause_all_recv(true);
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    client.write_all(b"waits").unwrap();
    let sweeps = running.sockman.stats().sweeps;
    until("some sweeps", || running.sockman.stats().sweeps > sweeps + 3);
    assert_eq!((data_count(&handler, id), ready_count(&handler, id)), (0, 0));

    handler.pause_all_recv(false);
    assert_eq!(handler.wait_for_bytes(id, 5), b"waits");
    handler.want_to_send(id, true);
    handler.wait_for_event("ready to send", |event| *event == Event::ReadyToSend(id));
}

/// G6: each of a thousand wakes takes effect.
#[test]
fn a_changed_answer_takes_effect_on_wake() {
    let handler = Recorder::of_everything(|_, _| {});
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    for round in 0..500 {
        // Lets the socket thread finish what the last round left.
        run_passes(&running.sockman, 1);
        handler.want_to_send(id, true);
        running.sockman.wake(id);
        handler.wait_for("ready to send", |events| {
            let count = events.iter().filter(|event| **event == Event::ReadyToSend(id)).count();
            (count > round).then_some(())
        });
        handler.want_to_send(id, false);
        let before = ready_count(&handler, id);
        assert_eq!(before, round + 1, "ready-to-send was called again without a reason");
        handler.pause_recv(id, true);
        client.write_all(b"x").unwrap();
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
        assert_eq!(handler.received(id).len(), round);
        handler.pause_recv(id, false);
        running.sockman.wake(id);
        handler.wait_for_bytes(id, round + 1);
    }
}

/// Answers its hooks at random, and logs each question and each event.
struct Moody {
    random: Mutex<Random>,
    log: Mutex<Vec<Logged>>,
    /// The number of bytes that each connection still has to send.
    queued: Mutex<HashMap<ConnectionId, usize>>,
    ended: Mutex<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logged {
    Pass,
    MaySend(ConnectionId, bool),
    MayRecv(ConnectionId, bool),
    Ready(ConnectionId),
    Received(ConnectionId),
}

impl Moody {
    fn note(&self, logged: Logged) {
        self.log.lock().unwrap().push(logged);
    }

    fn perhaps(&self) -> bool {
        self.random.lock().unwrap().up_to(3) > 1
    }
}

impl EventHandler for Moody {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.queued.lock().unwrap().insert(id, 0);
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let answer = self.perhaps();
        self.note(Logged::MaySend(id, answer));
        answer
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        let answer = self.perhaps();
        self.note(Logged::MayRecv(id, answer));
        answer
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.note(Logged::Ready(id));
        let mut queued = self.queued.lock().unwrap();
        let queued = queued.get_mut(&id).unwrap();
        // The send fails after the peer has closed with unread bytes. A receive reports the closed
        // connection later.
        *queued -= sockman.send_bytes(id, &vec![1; *queued]).unwrap_or(0);
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        self.note(Logged::Received(id));
        *self.queued.lock().unwrap().get_mut(&id).unwrap() += data.len();
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.note(Logged::Received(id));
        sockman.close_connection(id);
        *self.ended.lock().unwrap() += 1;
    }

    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        self.note(Logged::Received(id));
        sockman.close_connection(id);
        *self.ended.lock().unwrap() += 1;
    }

    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        self.note(Logged::Pass);
    }
}

/// G6. A pass that takes long, for example on a busy machine, asks and serves a connection twice.
/// `pass_tests` show how often.
#[test]
fn each_callback_follows_a_yes_of_its_hook_in_the_same_pass() {
    const CLIENTS: usize = 4;

    let handler = Arc::new(Moody {
        random: Mutex::new(Random::new(3)),
        log: Mutex::default(),
        queued: Mutex::default(),
        ended: Mutex::default(),
    });
    // The hooks say no without a later wake, so this test needs a sweep.
    let options = Options::default().sweep(Some(Duration::from_millis(1)));
    let running = Running::start(handler.clone(), options);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut stream = running.client();
            scope.spawn(move || {
                let mut random = Random::new(client as u64);
                for _ in 0..50 {
                    let bytes = random.up_to(100_000);
                    stream.write_all(&vec![1; bytes]).unwrap();
                    // The client reads a part of the reply, so that neither side blocks.
                    let read = random.up_to(bytes);
                    stream.read_exact(&mut vec![0; read]).unwrap();
                }
            });
        }
    });
    until("all connections have ended", || *handler.ended.lock().unwrap() == CLIENTS);
    let log = handler.log.lock().unwrap();
    assert!(log.iter().filter(|logged| matches!(logged, Logged::Ready(_))).count() > CLIENTS * 20);
    let mut passes = log.split(|logged| *logged == Logged::Pass);
    assert!(passes.all(|pass| {
        (0..pass.len()).all(|at| {
            let (before, now) = (&pass[..at], pass[at]);
            let said =
                |yes, no| before.iter().rev().find(|logged| **logged == yes || **logged == no);
            match now {
                Logged::Ready(id) => {
                    let yes = Logged::MaySend(id, true);
                    said(yes, Logged::MaySend(id, false)) == Some(&yes)
                }
                Logged::Received(id) => {
                    let yes = Logged::MayRecv(id, true);
                    said(yes, Logged::MayRecv(id, false)) == Some(&yes)
                }
                _ => true,
            }
        })
    }));
}

/// G6
#[test]
fn a_reset_while_reads_are_paused_is_reported_when_they_resume() {
    let handler = Recorder::of_everything(|_, _| {});
    let running = Running::start(handler.clone(), without_sweep());
    let sockman = &running.sockman;
    for round in 0..50 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        handler.pause_recv(id, true);
        sockman.wake(id);
        run_passes(sockman, 1);
        assert_eq!(sockman.connection_info(id).unwrap().hung_up, None);
        if round % 2 == 0 {
            client.write_all(b"before").unwrap();
        }
        reset(client);
        wait_until_hung_up(sockman, id);
        for _ in 0..2 {
            sockman.wake(id);
            run_passes(sockman, 1);
        }
        let is_reported =
            |event: &Event| !matches!(event, Event::Accepted { .. } | Event::CompletedForOne(_));
        assert!(!handler.events_of(id).iter().any(is_reported));
        // The send may take the error from the socket. The library nevertheless reports the error.
        if round % 4 < 2 {
            assert!(matches!(
                sockman.send_bytes(id, b"x"),
                Err(SendError::Socket { id: of, .. }) if of == id
            ));
        }
        handler.pause_recv(id, false);
        sockman.wake(id);
        assert_eq!(handler.wait_for_read_error(id), ErrorKind::ConnectionReset);
        let before: &[u8] = if round % 2 == 0 { b"before" } else { b"" };
        assert_eq!(handler.received(id), before);
        run_passes(sockman, 1);
        let ends =
            |event: &Event| matches!(event, Event::Eof(of) | Event::ReadError(of, _) if *of == id);
        assert_eq!(handler.count(ends), 1);
        sockman.close_connection(id);
    }
}

/// G6: reads are paused and the send buffer is full, so only the error edge can report the reset.
#[test]
fn a_reset_makes_a_paused_writer_ready_to_send() {
    let failed = Arc::new(Mutex::new(Vec::new()));
    let handler = Recorder::of_everything({
        let failed = Arc::clone(&failed);
        move |sockman, event| {
            if let Event::ReadyToSend(id) = event {
                if sockman.send_bytes(*id, b"x").is_err() {
                    failed.lock().unwrap().push(*id);
                    sockman.close_connection(*id);
                }
            }
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..20 {
        let client = running.client();
        let id = handler.wait_for_accepted(round);
        handler.pause_recv(id, true);
        fill(&running.sockman, id, b'x');
        handler.want_to_send(id, true);
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
        reset(client);
        until("the send in the callback fails", || failed.lock().unwrap().contains(&id));
    }
}

/// G6: nothing was sent, so the receive waits for a wake.
#[test]
fn skip_with_nothing_sent_puts_the_receive_off_until_a_wake() {
    let handler = Recorder::of_everything(|_, _| {});
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    handler.pause_recv(id, true);
    client.write_all(b"data").unwrap();
    run_passes(&running.sockman, 2);

    handler.skip_recv(true);
    handler.want_to_send(id, true);
    handler.pause_recv(id, false);
    for _ in 0..3 {
        let before = ready_count(&handler, id);
        running.sockman.wake(id);
        run_passes(&running.sockman, 2);
        // The turn asked the send hook once, before anything else, and made no receive. No further
        // turn followed.
        assert_eq!(ready_count(&handler, id), before + 1);
        assert_eq!(data_count(&handler, id), 0);
    }
    handler.skip_recv(false);
    running.sockman.wake(id);
    assert_eq!(handler.wait_for_bytes(id, 4), b"data");
}

/// G6: nothing was sent, so the receive waits for an event.
#[test]
fn skip_with_nothing_sent_puts_the_receive_off_until_an_event() {
    let handler = Recorder::of_everything(|_, _| {});
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    handler.pause_recv(id, true);
    client.write_all(b"da").unwrap();
    run_passes(&running.sockman, 2);
    handler.skip_recv(true);
    handler.want_to_send(id, true);
    handler.pause_recv(id, false);
    running.sockman.wake(id);
    run_passes(&running.sockman, 2);
    assert_eq!(data_count(&handler, id), 0);
    handler.skip_recv(false);
    handler.want_to_send(id, false);
    client.write_all(b"ta").unwrap();
    assert_eq!(handler.wait_for_bytes(id, 4), b"data");
}

/// G6: something was sent, so the receive comes in the next pass.
#[test]
fn skip_with_something_sent_puts_the_receive_off_for_one_pass() {
    let this: Arc<OnceLock<Weak<Recorder>>> = Arc::default();
    let handler = Recorder::of_everything({
        let this = Arc::clone(&this);
        move |sockman, event| {
            if let Event::ReadyToSend(id) = event {
                assert_eq!(sockman.send_bytes(*id, b"x").unwrap(), 1);
                this.get().unwrap().upgrade().unwrap().want_to_send(*id, false);
            }
        }
    });
    this.set(Arc::downgrade(&handler)).unwrap();
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    handler.pause_recv(id, true);
    client.write_all(b"data").unwrap();
    run_passes(&running.sockman, 2);
    handler.skip_recv(true);
    handler.pause_recv(id, false);
    handler.want_to_send(id, true);
    running.sockman.wake(id);
    assert_eq!(handler.wait_for_bytes(id, 4), b"data");
    let events = handler.events();
    let ready = events.iter().position(|event| *event == Event::ReadyToSend(id)).unwrap();
    let data = events.iter().position(|event| matches!(event, Event::Data(..))).unwrap();
    let passes = events[ready..data].iter().filter(|event| **event == Event::CompletedForAll);
    assert_eq!(passes.count(), 1);
}

/// Queues its replies, and sends them only in `event_ready_to_send`. Never wakes.
#[derive(Default)]
struct Replier {
    queues: Mutex<HashMap<ConnectionId, VecDeque<u8>>>,
    /// The number of bytes in the reply to one byte of the request.
    times: usize,
}

impl EventHandler for Replier {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.queues.lock().unwrap().insert(id, VecDeque::new());
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        !self.queues.lock().unwrap()[&id].is_empty()
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let mut queues = self.queues.lock().unwrap();
        let queue = queues.get_mut(&id).unwrap();
        let sent = sockman.send_bytes(id, queue.make_contiguous()).unwrap();
        queue.drain(..sent);
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        let mut queues = self.queues.lock().unwrap();
        queues.get_mut(&id).unwrap().extend(data.repeat(self.times));
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        assert!(
            self.queues.lock().unwrap()[&id].is_empty(),
            "the client must read every reply before it ends"
        );
        sockman.close_connection(id);
    }

    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, error: &io::Error) {
        panic!("unexpected read error: {error}");
    }
}

/// G6: the replies are small, or they fill the socket many times.
#[test]
fn a_reply_queued_in_event_got_data_goes_out_without_the_sweep() {
    for (times, rounds) in [(1, 500), (1_000_000, 3)] {
        let handler = Arc::new(Replier { times, ..Replier::default() });
        let running = Running::start(handler.clone(), without_sweep());
        let mut client = running.client();
        for _ in 0..rounds {
            client.write_all(b"ping").unwrap();
            let mut reply = vec![0; 4 * times];
            client.read_exact(&mut reply).unwrap();
            assert!(reply.chunks(4).all(|chunk| chunk == b"ping"));
        }
        drop(client);
        until("the connection has ended", || running.sockman.stats().connections == 0);
    }
}

/// G6: the turn's only ready-to-send call came before the data.
#[test]
fn a_reply_queued_after_the_turns_ready_to_send_goes_out_without_the_sweep() {
    let this: Arc<OnceLock<Weak<Recorder>>> = Arc::default();
    let handler = Recorder::of_everything({
        let this = Arc::clone(&this);
        move |sockman, event| {
            let handler = this.get().unwrap().upgrade().unwrap();
            match event {
                // Nothing is queued before the data arrives.
                Event::ReadyToSend(id) if !handler.received(*id).is_empty() => {
                    sockman.send_bytes(*id, b"reply").unwrap();
                    handler.want_to_send(*id, false);
                }
                Event::ReadyToSend(id) => handler.want_to_send(*id, false),
                Event::Data(id, _) => handler.want_to_send(*id, true),
                _ => {}
            }
        }
    });
    this.set(Arc::downgrade(&handler)).unwrap();
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..50 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        handler.pause_recv(id, true);
        client.write_all(b"request").unwrap();
        run_passes(&running.sockman, 2);
        handler.want_to_send(id, true);
        handler.pause_recv(id, false);
        running.sockman.wake(id);
        let mut reply = [0; 5];
        client.read_exact(&mut reply).unwrap();
        running.sockman.close_connection(id);
    }
}

/// Sends from other threads, and queues the rest, under the lock that its hook takes.
#[derive(Default)]
struct Locked {
    queue: Mutex<VecDeque<u8>>,
    id: OnceLock<ConnectionId>,
}

impl Locked {
    fn push(&self, sockman: &SockMan, data: &[u8]) {
        let id = *self.id.get().unwrap();
        let mut queue = self.queue.lock().unwrap();
        let sent = if queue.is_empty() { sockman.send_bytes(id, data).unwrap() } else { 0 };
        queue.extend(&data[sent..]);
        // There is no wake, because the socket thread cannot have asked the hook between the send
        // and the queueing.
    }
}

impl EventHandler for Locked {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.id.set(id).unwrap();
        true
    }

    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        !self.queue.lock().unwrap().is_empty()
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let mut queue = self.queue.lock().unwrap();
        let sent = sockman.send_bytes(id, queue.make_contiguous()).unwrap();
        queue.drain(..sent);
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}

    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}

    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, error: &io::Error) {
        panic!("unexpected read error: {error}");
    }
}

/// Pushes bytes while the client reads. In some rounds the client reads only when the socket is
/// full.
fn push_and_read(handler: &Locked, sockman: &SockMan, mut client: impl Read + Send + 'static) {
    const ROUNDS: usize = 200;

    until("the connection is accepted", || handler.id.get().is_some());
    let (pushes, lengths) = std::sync::mpsc::channel::<usize>();
    let reader = thread::spawn(move || {
        let mut total = 0_usize;
        for length in lengths {
            let mut bytes = vec![0; length];
            client.read_exact(&mut bytes).unwrap();
            for byte in bytes {
                assert_eq!(usize::from(byte), total % 251);
                total += 1;
            }
        }
        total
    });
    let mut random = Random::new(11);
    let mut pushed = 0;
    for round in 0..ROUNDS {
        let mut kept_back = 0;
        loop {
            let length = random.up_to(if round % 3 == 0 { 200_000 } else { 5000 });
            let bytes: Vec<u8> =
                (pushed..pushed + length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            pushed += length;
            kept_back += length;
            handler.push(sockman, &bytes);
            if round % 50 > 0 || !handler.queue.lock().unwrap().is_empty() {
                break;
            }
        }
        pushes.send(kept_back).unwrap();
        if round % 10 == 0 {
            until("the queue is empty", || handler.queue.lock().unwrap().is_empty());
        }
    }
    drop(pushes);
    assert_eq!(reader.join().unwrap(), pushed);
}

/// G6: after a would-block on another thread, the edge makes the socket thread ask the hook,
/// although its own latch said "writable" all the time.
#[test]
fn bytes_queued_under_the_hooks_lock_go_out_without_a_wake() {
    let handler = Arc::new(Locked::default());
    let running = Running::start(handler.clone(), without_sweep());
    push_and_read(&handler, &running.sockman, running.client());
}

/// G6: the edge also makes the socket thread ask the hook on a unix-domain socket, whose buffer is
/// small.
#[cfg(unix)]
#[test]
fn bytes_queued_under_the_hooks_lock_go_out_on_a_unix_socket_without_a_wake() {
    let handler = Arc::new(Locked::default());
    let running = Running::start(handler.clone(), without_sweep());
    let dir = TempDir::new();
    let path = dir.path("sock");
    running.sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    push_and_read(&handler, &running.sockman, client);
}

/// G6: even if a blocked writer is woken often, each ready-to-send call finds room in the socket.
#[test]
fn a_full_socket_is_not_ready_to_send_until_the_peer_reads() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let handler = Recorder::of_everything({
        let sent = Arc::clone(&sent);
        move |sockman, event| {
            if let Event::ReadyToSend(id) = event {
                sent.lock().unwrap().push(fill(sockman, *id, b'x'));
            }
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    handler.want_to_send(id, true);
    let mut block = vec![0; 1 << 20];
    for _ in 0..5 {
        for _ in 0..3 {
            running.sockman.wake(id);
            run_passes(&running.sockman, 1);
        }
        let calls = sent.lock().unwrap().len();
        while sent.lock().unwrap().len() == calls {
            assert!(client.read(&mut block).unwrap() > 0);
        }
    }
    handler.want_to_send(id, false);
    run_passes(&running.sockman, 1);
    let sent = sent.lock().unwrap();
    assert!(sent.iter().all(|bytes| *bytes > 0), "{sent:?}");
}
