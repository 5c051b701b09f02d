//! `wake` and `SendQueue` from eight threads at once: no byte is lost, reordered or torn, and no
//! wake-up is lost in a million rounds. The sweep is off in all tests of this module, so that a
//! lost wake-up causes a wait without end.

use std::{
    collections::HashMap,
    io::{self, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, SendQueue, Service, SockMan, SocketsThreads,
    error::SendError,
    helpers::{PushError, SendQueueLimits},
    options::More,
};
use sockman_test_support::{
    DEADLINE, Recorder, Running, eventually, reset,
    tools::{run_passes, wait_until_hung_up},
    without_sweep, write_all,
};

const THREADS: usize = 8;

/// A handler that uses a `SendQueue` as the documentation describes.
struct Queueing {
    limits: SendQueueLimits,
    queues: RwLock<HashMap<ConnectionId, Arc<SendQueue>>>,
    accepted: mpsc::SyncSender<Arc<SendQueue>>,
}

impl Queueing {
    fn queue(&self, id: ConnectionId) -> Arc<SendQueue> {
        Arc::clone(&self.queues.read().unwrap()[&id])
    }
}

impl EventHandler for Queueing {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let queue = Arc::new(SendQueue::new(id, self.limits));
        self.queues.write().unwrap().insert(id, Arc::clone(&queue));
        self.accepted.send(queue).unwrap();
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let _ = self.queue(id).drain(sockman);
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.queue(id).push(sockman, data).unwrap();
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.queue(id).has_queued()
    }
    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        !self.queue(id).is_above_high_mark()
    }
}

/// A server whose sockets have small send buffers, so that they are often full.
struct Server {
    sockman: SockMan,
    address: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Arc<SendQueue>>>,
    _threads: SocketsThreads,
}

impl Server {
    fn start(limits: SendQueueLimits) -> Server {
        let (sender, accepted) = mpsc::sync_channel(100);
        let handler = Queueing { limits, queues: RwLock::default(), accepted: sender };
        let sockman = SockMan::new(Arc::new(handler), without_sweep()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Accepted sockets inherit the size of the buffer.
        socket2::SockRef::from(&listener).set_send_buffer_size(4096).unwrap();
        let address = listener.local_addr().unwrap();
        sockman.start_listening_on(listener).unwrap();
        let threads = sockman.start_sockets_threads().unwrap();
        Server { sockman, address, accepted: Mutex::new(accepted), _threads: threads }
    }

    /// Returns a client with a small receive buffer, and the queue of its connection.
    fn client(&self) -> (TcpStream, Arc<SendQueue>) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        (stream, self.accepted.lock().unwrap().recv_timeout(DEADLINE).unwrap())
    }
}

fn unlimited() -> SendQueueLimits {
    limited_to(usize::MAX)
}

/// Returns limits with the default high mark, or with `limit` as the high mark if it is lower.
fn limited_to(limit: usize) -> SendQueueLimits {
    let high_mark = limit.min(1_000_000);
    SendQueueLimits::new(high_mark / 2, high_mark, limit).unwrap()
}

fn read_exactly(mut stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Returns a message: its thread, its number, its length, and bytes that show if they are
/// misplaced.
fn message(thread: usize, number: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(thread).unwrap()];
    bytes.extend(number.to_be_bytes());
    bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
    bytes.extend((0..length).map(|at| body_byte(thread, number, at)));
    bytes
}

#[allow(clippy::cast_possible_truncation)]
fn body_byte(thread: usize, number: u32, at: usize) -> u8 {
    (thread as u32 * 31 + number * 7 + at as u32) as u8
}

/// Reads messages until each thread has sent `count`, and checks that they are whole and in order.
fn check_messages(reader: &mut impl Read, count: u32) {
    let mut next = [0; THREADS];
    let mut body = Vec::new();
    for _ in 0..u32::try_from(THREADS).unwrap() * count {
        let mut head = [0; 7];
        reader.read_exact(&mut head).unwrap();
        let thread = usize::from(head[0]);
        let number = u32::from_be_bytes(head[1..5].try_into().unwrap());
        assert_eq!(number, next[thread], "thread {thread}'s messages are reordered or torn");
        next[thread] += 1;
        body.resize(usize::from(u16::from_be_bytes(head[5..7].try_into().unwrap())), 0);
        reader.read_exact(&mut body).unwrap();
        for (at, byte) in body.iter().enumerate() {
            assert_eq!(*byte, body_byte(thread, number, at), "thread {thread}, message {number}");
        }
    }
    assert_eq!(next, [count; THREADS]);
}

/// G5 for queues: no message is lost, reordered or torn.
#[test]
fn pushes_of_eight_threads_arrive_whole_and_in_order() {
    const COUNT: u32 = 600;
    let server = Server::start(unlimited());
    let (client, queue) = server.client();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (server, queue) = (&server, &queue);
            scope.spawn(move || {
                for number in 0..COUNT {
                    // The lengths go from zero to more bytes than the socket holds.
                    let length = (number as usize * 37 + thread * 101) % 3000;
                    let will_send_more = number % 3 == 0 && number + 1 < COUNT;
                    let bytes = message(thread, number, length);
                    queue.push_with(&server.sockman, &bytes, More::from(will_send_more)).unwrap();
                }
            });
        }
        check_messages(&mut io::BufReader::new(&client), COUNT);
    });
    eventually("the queue is empty", || queue.queued() == 0);
    assert!(!queue.has_queued());
}

/// G5 for queues with a limit that is often reached: a refused push is refused whole.
#[test]
fn pushes_that_are_refused_and_tried_again_arrive_whole_and_in_order() {
    const COUNT: u32 = 300;
    let server = Server::start(limited_to(10_000));
    let (client, queue) = server.client();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (server, queue) = (&server, &queue);
            scope.spawn(move || {
                let deadline = Instant::now() + DEADLINE;
                for number in 0..COUNT {
                    let bytes = message(thread, number, (number as usize * 37) % 2000);
                    while let Err(error) = queue.push(&server.sockman, &bytes) {
                        assert!(matches!(error, PushError::Full { limit: 10_000 }), "{error}");
                        assert!(Instant::now() < deadline, "the queue was not drained in time");
                        thread::yield_now();
                    }
                }
            });
        }
        check_messages(&mut io::BufReader::new(&client), COUNT);
    });
}

/// G6, G9: a million pushes lose no wake-up. A lost wake-up would leave bytes in a queue that no
/// later wake drains. The test takes some ten seconds in a debug build.
#[test]
fn a_million_pushes_lose_no_wake_up() {
    const PUSHES: u32 = 1_000_000 / THREADS as u32;
    // The limit is small, so that the queue is often empty. Each push on an empty queue needs a
    // wake.
    let server = Server::start(limited_to(400));
    // The test uses two queues, so that the socket thread sleeps and wakes between the pushes.
    let clients = [server.client(), server.client()];
    thread::scope(|scope| {
        for (client, queue) in &clients {
            for thread in 0..THREADS / 2 {
                let server = &server;
                scope.spawn(move || {
                    let mut bytes = [u8::try_from(thread).unwrap(); 8];
                    for number in 0..PUSHES {
                        bytes[1..5].copy_from_slice(&number.to_be_bytes());
                        let mut since = None;
                        while let Err(error) = queue.push(&server.sockman, &bytes) {
                            assert!(matches!(error, PushError::Full { .. }), "{error}");
                            let since = *since.get_or_insert_with(Instant::now);
                            assert!(since.elapsed() < DEADLINE, "a wake-up was lost");
                            thread::yield_now();
                        }
                    }
                });
            }
            scope.spawn(move || {
                let mut next = [0; THREADS / 2];
                // The reads are smaller than the socket's buffer, so that the buffer is sometimes
                // full and sometimes empty.
                let mut reader = io::BufReader::with_capacity(2000, client);
                for _ in 0..PUSHES * THREADS as u32 / 2 {
                    let mut bytes = [0; 8];
                    reader.read_exact(&mut bytes).unwrap();
                    let thread = usize::from(bytes[0]);
                    assert_eq!(bytes[1..5], u32::to_be_bytes(next[thread]));
                    next[thread] += 1;
                }
            });
        }
    });
    assert!(server.sockman.stats().turns > 1000, "the socket thread was hardly ever woken");
    for (_, queue) in &clients {
        eventually("the queue is empty", || !queue.has_queued());
    }
}

/// Counts, for each connection, the wakes asked for and the wakes that the hook has seen.
struct Counting {
    ids: Mutex<Vec<ConnectionId>>,
    /// For each connection, in the order of acceptance: the rounds asked for, and the rounds that
    /// the hook has seen.
    asked: [AtomicU64; THREADS],
    seen: [AtomicU64; THREADS],
}

impl Counting {
    /// Returns the position of `id` in the order of acceptance.
    fn ordinal(&self, id: ConnectionId) -> usize {
        self.ids.lock().unwrap().iter().position(|known| *known == id).unwrap()
    }
}

impl EventHandler for Counting {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.ids.lock().unwrap().push(id);
        true
    }
    fn event_ready_to_send(&self, _: &SockMan, id: ConnectionId) -> NextRecv {
        let n = self.ordinal(id);
        self.seen[n].store(self.asked[n].load(Ordering::SeqCst), Ordering::SeqCst);
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        let n = self.ordinal(id);
        self.seen[n].load(Ordering::SeqCst) != self.asked[n].load(Ordering::SeqCst)
    }
}

/// G6, G9: of a million wakes none is lost. Each thread changes the answer of its connection's
/// hook, wakes the connection, and continues when the hook was asked. The test takes some ten
/// seconds in a debug build.
#[test]
fn a_million_wakes_lose_no_wake_up() {
    const ROUNDS: u64 = 1_000_000 / THREADS as u64;
    let handler = Arc::new(Counting {
        ids: Mutex::default(),
        asked: Default::default(),
        seen: Default::default(),
    });
    let running = Running::start(handler.clone(), without_sweep());
    let _clients: Vec<_> = (0..THREADS).map(|_| running.client()).collect();
    eventually("all clients are accepted", || handler.ids.lock().unwrap().len() == THREADS);
    let ids = handler.ids.lock().unwrap().clone();
    thread::scope(|scope| {
        for (n, id) in ids.into_iter().enumerate() {
            let (sockman, handler) = (&running.sockman, &handler);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    handler.asked[n].store(round, Ordering::SeqCst);
                    sockman.wake(id);
                    // Half of the threads wait in each round. The other threads do not wait, so
                    // that some of their wakes coincide.
                    if n % 2 == 0 || round % 4 == 0 || round == ROUNDS {
                        let deadline = Instant::now() + DEADLINE;
                        while handler.seen[n].load(Ordering::SeqCst) != round {
                            assert!(
                                Instant::now() < deadline,
                                "wake {round} of connection {n} was lost"
                            );
                            thread::yield_now();
                        }
                    }
                }
            });
        }
    });
}

/// Fills the socket, and then pushes `pushed` bytes. Returns the number of all bytes.
fn fill(server: &Server, queue: &SendQueue, pushed: usize) -> usize {
    // The socket counts as full when it takes nothing a hundred times in a row.
    let (mut refused, mut sent) = (0, 0);
    while refused < 100 {
        match server.sockman.send_bytes(queue.id(), &[0; 1000]).unwrap() {
            0 => refused += 1,
            bytes => (refused, sent) = (0, sent + bytes),
        }
    }
    queue.push(&server.sockman, &vec![0; pushed]).unwrap();
    sent + pushed
}

/// The marks: a queue that reached the high mark counts as above it until it falls to the low mark.
#[test]
fn the_queue_is_above_its_high_mark_until_it_falls_to_the_low_mark() {
    let server = Server::start(SendQueueLimits::new(40_000, 100_000, 16_000_000).unwrap());
    let (mut client, queue) = server.client();
    assert!(!queue.is_above_high_mark());
    fill(&server, &queue, 99_999);
    let queued = queue.queued();
    assert!(!queue.is_above_high_mark());
    queue.push(&server.sockman, &vec![0; 100_000 - queued]).unwrap();
    assert!(queue.is_above_high_mark());
    // The queue is drained in small steps. The queue counts as above the high mark until it falls
    // to the low mark, and no longer.
    let mut buffer = [0; 1000];
    let mut between = 0;
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline);
        // The queue only shrinks here, so its length before and after bounds its length at the
        // mark.
        let before = queue.queued();
        let above = queue.is_above_high_mark();
        let after = queue.queued();
        if after > 40_000 {
            assert!(above, "{before} {after}");
            between += u32::from(before < 100_000);
        } else if before <= 40_000 {
            // The mark is published after the length.
            eventually("the mark follows", || !queue.is_above_high_mark());
            break;
        }
        if after > 0 {
            client.read_exact(&mut buffer).unwrap();
        }
    }
    assert!(between > 0, "no length between the marks was seen");
    // The queue fills again, and is not above before it reaches the high mark.
    let queued = queue.queued();
    queue.push(&server.sockman, &vec![0; 90_000 - queued]).unwrap();
    assert!(!queue.is_above_high_mark());
    // The socket takes a little of each push until it is full.
    let deadline = Instant::now() + DEADLINE;
    while !queue.is_above_high_mark() {
        assert!(Instant::now() < deadline);
        let missing = 100_000_usize.saturating_sub(queue.queued());
        queue.push(&server.sockman, &vec![0; missing]).unwrap();
    }
    assert!(queue.queued() > 40_000);
}

/// The handler uses the marks in `should_try_to_recv`. It does not read from a peer until this peer
/// reads its replies. Without the sweep, the drain makes the library ask the hook again.
#[test]
fn the_server_does_not_read_from_a_peer_that_does_not_read_its_replies() {
    const BYTES: usize = 3_000_000;
    let server = Server::start(SendQueueLimits::new(10_000, 50_000, 16_000_000).unwrap());
    let (client, queue) = server.client();
    let mut writer = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || write_all(&mut writer, &vec![6; BYTES]));
        eventually("the queue is above its high mark", || queue.is_above_high_mark());
        let bytes = read_exactly(&client, BYTES);
        assert!(bytes.iter().all(|byte| *byte == 6));
    });
    assert!(!queue.is_above_high_mark());
}

/// The limit: a push that does not fit queues nothing.
#[test]
fn a_push_beyond_the_limit_is_refused_whole() {
    let server = Server::start(limited_to(100_000));
    let (mut client, queue) = server.client();
    let filled = fill(&server, &queue, 90_000);
    let error = queue.push(&server.sockman, &[1; 60_000]).unwrap_err();
    assert!(matches!(error, PushError::Full { limit: 100_000 }), "{error:?}");
    assert!(error.to_string().contains("100000"), "{error}");
    assert!(queue.queued() <= 90_000, "no byte of the refused push may be queued");
    // A push that fits exactly is accepted.
    let room = 100_000 - queue.queued();
    queue.push(&server.sockman, &vec![2; room]).unwrap();
    // An empty push always fits.
    queue.push(&server.sockman, b"").unwrap();
    // The peer never sees a byte of the refused push.
    let total = filled + room;
    let mut bytes = vec![9; total];
    client.read_exact(&mut bytes).unwrap();
    assert!(bytes[..total - room].iter().all(|byte| *byte == 0));
    assert!(bytes[total - room..].iter().all(|byte| *byte == 2));
    // The queue has room again, but a push larger than the limit never fits.
    eventually("the queue is empty", || !queue.has_queued());
    assert!(queue.push(&server.sockman, &vec![1; 100_001]).is_err());
    queue.push(&server.sockman, &vec![3; 100_000]).unwrap();
    client.read_exact(&mut bytes[..100_000]).unwrap();
}

/// After a close, `push` and `drain` return errors, and the bytes stay in the queue.
#[test]
fn after_a_close_push_and_drain_fail_and_the_queue_keeps_its_bytes() {
    let server = Server::start(unlimited());
    let (_client, queue) = server.client();
    fill(&server, &queue, 50_000);
    assert!(server.sockman.close_connection(queue.id()));
    let queued = queue.queued();
    assert!(queued > 0);
    let error = queue.drain(&server.sockman).unwrap_err();
    assert!(matches!(error, SendError::UnknownConnection(id) if id == queue.id()), "{error:?}");
    assert_eq!(queue.queued(), queued);
    // A push fails whether bytes are queued or not, and whether it would fit or not.
    for data in [&b"too late"[..], b"", &[0; 10_000]] {
        let error = queue.push(&server.sockman, data).unwrap_err();
        assert!(matches!(error, PushError::Send(SendError::UnknownConnection(_))), "{error:?}");
        assert_eq!(queue.queued(), queued);
    }
    let (_client, small) = server.client();
    let small = SendQueue::new(small.id(), limited_to(100));
    assert!(server.sockman.close_connection(small.id()));
    let error = small.push(&server.sockman, &[0; 101]).unwrap_err();
    assert!(matches!(error, PushError::Send(SendError::UnknownConnection(_))), "{error:?}");
    let (_client, empty) = server.client();
    assert!(server.sockman.close_connection(empty.id()));
    let error = empty.push(&server.sockman, b"too late").unwrap_err();
    assert!(matches!(error, PushError::Send(SendError::UnknownConnection(_))), "{error:?}");
    assert!(!empty.has_queued());
    assert!(empty.drain(&server.sockman).unwrap(), "draining an empty queue must succeed");
}

/// After a send has failed, a push behind queued bytes fails too, with the same error.
#[test]
fn after_a_reset_that_a_drain_found_pushes_fail() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let client = running.client();
    let id = recorder.wait_for_accepted(0);
    recorder.pause_recv(id, true);
    running.sockman.wake(id);
    run_passes(&running.sockman, 1);
    let queue = SendQueue::new(id, unlimited());
    while !queue.has_queued() {
        queue.push(&running.sockman, &[0; 100_000]).unwrap();
    }
    let queued = queue.queued();
    reset(client);
    wait_until_hung_up(&running.sockman, id);
    let drained = queue.drain(&running.sockman).unwrap_err();
    let SendError::Socket { source: drained, .. } = drained else { panic!("{drained:?}") };
    for data in [&b"too late"[..], b""] {
        match queue.push(&running.sockman, data).unwrap_err() {
            PushError::Send(SendError::Socket { id: of, source }) => {
                assert_eq!((of, source.kind()), (id, drained.kind()));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(queue.queued(), queued);
    }
    assert!(running.sockman.close_connection(id));
    let error = queue.push(&running.sockman, b"x").unwrap_err();
    assert!(matches!(error, PushError::Send(SendError::UnknownConnection(_))), "{error:?}");
}

/// A handler that holds one lock during a send and the queueing of the rest. Its hook takes the
/// same lock. Never wakes.
struct Locking {
    queues: Mutex<HashMap<ConnectionId, Vec<u8>>>,
    accepted: mpsc::SyncSender<ConnectionId>,
}

impl EventHandler for Locking {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        self.queues.lock().unwrap().insert(id, Vec::new());
        self.accepted.send(id).unwrap();
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let mut queues = self.queues.lock().unwrap();
        let queue = queues.get_mut(&id).unwrap();
        let sent = sockman.send_bytes(id, queue).unwrap_or(0);
        queue.drain(..sent);
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        !self.queues.lock().unwrap()[&id].is_empty()
    }
}

/// G6: a sender needs no wake if it holds its hook's lock over both the send and the queueing,
/// because the edge comes after both. A send on another thread clears no latch, so the edge counts
/// although the latch is set.
#[test]
fn a_sender_that_holds_its_hooks_lock_needs_no_wake() {
    let (sender, accepted) = mpsc::sync_channel(1);
    let handler = Arc::new(Locking { queues: Mutex::default(), accepted: sender });
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = accepted.recv_timeout(DEADLINE).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..20 {
        let mut expected = 0;
        {
            let mut queues = handler.queues.lock().unwrap();
            let queue = queues.get_mut(&id).unwrap();
            assert!(queue.is_empty());
            // Sends until the socket is full, so that some bytes are left for the queue.
            loop {
                match running.sockman.send_bytes(id, &[4; 100_000]).unwrap() {
                    0 => break,
                    bytes => expected += bytes,
                }
            }
            queue.extend([4; 100_000]);
            expected += queue.len();
        }
        while expected > 0 {
            let bytes = client.read(&mut buffer).unwrap();
            assert_ne!(bytes, 0);
            expected -= bytes;
        }
        eventually("the queue is empty", || handler.queues.lock().unwrap()[&id].is_empty());
    }
}

/// An empty queue is below every allowed mark; otherwise reading would never resume.
#[test]
fn an_empty_queue_is_never_above_its_high_mark() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    SendQueueLimits::new(0, 0, 100).unwrap_err();
    let queue = SendQueue::new(id, SendQueueLimits::new(0, 1, 100).unwrap());
    queue.push(&running.sockman, b"taken at once").unwrap();
    assert!(!queue.is_above_high_mark());
    client.read_exact(&mut [0; 13]).unwrap();
}
