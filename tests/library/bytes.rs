//! G5: every byte arrives once and in order, and the end of the stream comes after the last byte.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use sockman::{ConnectionId, EventHandler, NextRecv, Options, Service, SockMan, error::SendError};
use sockman_test_support::{
    Event, RESET_AFTER_END, Recorder, Running, read_to_end, reset,
    tools::{Gate, Random, assert_no_spin, fill, run_passes, until, wait_until_hung_up},
    without_sweep,
};

fn buffer(bytes: usize) -> Options {
    without_sweep().receive_buffer(bytes)
}

fn data(id: ConnectionId, bytes: &[u8]) -> Event {
    Event::Data(id, bytes.to_vec())
}

/// Returns the events of `id` without the first event, which is `Accepted`. Data that arrived in
/// several events in a row is one event in the result.
fn reported(handler: &Recorder, id: ConnectionId) -> Vec<Event> {
    let mut reported: Vec<Event> = Vec::new();
    for event in handler.events_of(id).into_iter().skip(1) {
        match (reported.last_mut(), event) {
            (Some(Event::Data(_, before)), Event::Data(_, more)) => before.extend(more),
            (_, event) => reported.push(event),
        }
    }
    reported
}

/// A recorder that waits at the gate in `event_got_data` when the data is exactly `hold`.
fn holding(options: Options) -> (Arc<Recorder>, Arc<Gate>, Running) {
    let gate = Gate::new();
    let handler = Recorder::with_reaction({
        let gate = Arc::clone(&gate);
        move |_, event| {
            if matches!(event, Event::Data(_, data) if data == b"hold") {
                gate.hold();
            }
        }
    });
    let running = Running::start(handler.clone(), options);
    (handler, gate, running)
}

/// A connection whose data makes the socket thread wait at the gate.
struct Holder {
    stream: TcpStream,
    gate: Arc<Gate>,
}

impl Holder {
    fn new(handler: &Recorder, gate: Arc<Gate>, running: &Running) -> Holder {
        let stream = running.client();
        handler.wait_for_accepted(0);
        Holder { stream, gate }
    }

    /// Runs `meanwhile` while the socket thread is held, so that the thread sees all its effects at
    /// once.
    fn hold<R>(&mut self, meanwhile: impl FnOnce() -> R) -> R {
        self.stream.write_all(b"hold").unwrap();
        self.gate.wait_until_held();
        let result = meanwhile();
        self.gate.open();
        result
    }
}

/// Sends a stream of random bytes to each peer in pieces of random sizes, and expects such a stream
/// from the peer.
struct Streams {
    length: usize,
    peers: Mutex<HashMap<ConnectionId, Stream>>,
}

struct Stream {
    random: Random,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    received: usize,
    ended: bool,
}

impl EventHandler for Streams {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        them: &Service,
    ) -> bool {
        let seed = u64::from(them.port());
        let stream = Stream {
            random: Random::new(id.as_u64()),
            outgoing: Random::new(seed + 1).bytes(self.length),
            sent: 0,
            incoming: Random::new(seed).bytes(self.length),
            received: 0,
            ended: false,
        };
        self.peers.lock().unwrap().insert(id, stream);
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.peers.lock().unwrap()[&id].sent < self.length
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let mut peers = self.peers.lock().unwrap();
        let stream = peers.get_mut(&id).unwrap();
        let end = (stream.sent + stream.random.up_to(300_000)).min(self.length);
        let piece = &stream.outgoing[stream.sent..end];
        stream.sent += sockman.send_bytes(id, piece).unwrap();
        if stream.sent == self.length {
            sockman.shutdown_write(id).unwrap();
        }
        NextRecv::Proceed
    }

    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        let mut peers = self.peers.lock().unwrap();
        let stream = peers.get_mut(&id).unwrap();
        assert!(!stream.ended, "data came after the end");
        let end = stream.received + data.len();
        assert!(end <= self.length, "more bytes came than were sent");
        assert!(
            stream.incoming[stream.received..end] == *data,
            "the received bytes differ from those sent"
        );
        stream.received = end;
    }

    fn event_got_eof(&self, _: &SockMan, id: ConnectionId) {
        let mut peers = self.peers.lock().unwrap();
        let stream = peers.get_mut(&id).unwrap();
        assert!(!stream.ended, "the end was reported twice");
        assert_eq!(stream.received, self.length, "the end came before the last byte");
        stream.ended = true;
    }

    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, error: &io::Error) {
        panic!("unexpected read error: {error}");
    }
}

/// G5
#[test]
fn large_transfers_both_ways_at_once_arrive_whole_and_in_order() {
    const CLIENTS: usize = 3;
    const LENGTH: usize = 2 << 20;

    for options in [buffer(1000), without_sweep()] {
        let handler = Arc::new(Streams { length: LENGTH, peers: Mutex::default() });
        let running = Running::start(handler.clone(), options);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let mut reading = running.client();
                let mut writing = reading.try_clone().unwrap();
                let seed = u64::from(reading.local_addr().unwrap().port());
                scope.spawn(move || {
                    let mut random = Random::new(seed + 2);
                    let bytes = Random::new(seed).bytes(LENGTH);
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (piece, more) = rest.split_at(random.up_to(200_000).min(rest.len()));
                        writing.write_all(piece).unwrap();
                        rest = more;
                    }
                    writing.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || {
                    let expected = Random::new(seed + 1).bytes(LENGTH);
                    assert!(
                        read_to_end(&mut reading) == expected,
                        "the received bytes differ from those sent"
                    );
                });
            }
        });
        until("all streams have ended", || {
            let peers = handler.peers.lock().unwrap();
            peers.len() == CLIENTS && peers.values().all(|stream| stream.ended)
        });
        for id in handler.peers.lock().unwrap().keys() {
            let info = running.sockman.connection_info(*id).unwrap();
            assert_eq!((info.bytes_sent, info.bytes_received), (LENGTH as u64, LENGTH as u64));
        }
    }
}

/// G5
#[test]
fn data_before_eof_is_delivered_first() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    let mut random = Random::new(1);
    for round in 0..300 {
        let bytes = if round % 10 == 0 { random.up_to(200_000) } else { random.up_to(100) };
        let bytes = random.bytes(bytes);
        let mut client = running.client();
        client.write_all(&bytes).unwrap();
        // A half-close and a drop are both an orderly close.
        if round % 2 == 0 {
            client.shutdown(Shutdown::Write).unwrap();
        } else {
            drop(client);
        }
        let id = handler.wait_for_accepted(round);
        handler.wait_for_eof(id);
        assert_eq!(reported(&handler, id), [Event::Data(id, bytes), Event::Eof(id)]);
        running.sockman.close_connection(id);
    }
}

/// G5: an empty stream has an end, too.
#[test]
fn eof_without_data_is_reported() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..50 {
        drop(running.client());
        let id = handler.wait_for_accepted(round);
        handler.wait_for_eof(id);
        assert_eq!(reported(&handler, id), [Event::Eof(id)]);
    }
}

/// G5: data and FIN in one event cause no further edge, so a short receive must not clear
/// `readable`.
#[test]
fn data_and_fin_in_one_event_are_both_reported() {
    let (handler, gate, running) = holding(without_sweep());
    let mut holder = Holder::new(&handler, gate, &running);
    for round in 0..200 {
        // In even rounds the connection has received before; in odd rounds this is its first event.
        let mut client = running.client();
        let id = handler.wait_for_accepted(round + 1);
        if round % 2 == 0 {
            client.write_all(b"first").unwrap();
            handler.wait_for_bytes(id, 5);
        }
        holder.hold(|| {
            client.write_all(b"last").unwrap();
            drop(client);
        });
        handler.wait_for_eof(id);
        let bytes: &[u8] = if round % 2 == 0 { b"firstlast" } else { b"last" };
        assert_eq!(reported(&handler, id), [data(id, bytes), Event::Eof(id)]);
        running.sockman.close_connection(id);
    }
}

/// G5: the urgent byte itself is not part of the stream.
#[test]
fn bytes_behind_an_urgent_byte_are_delivered_without_the_sweep() {
    let (handler, gate, running) = holding(without_sweep());
    let mut holder = Holder::new(&handler, gate, &running);
    let urgent = |client: &TcpStream| {
        socket2::SockRef::from(client).send_out_of_band(b"!").unwrap();
    };
    let before_and_after: [(&[u8], &[u8]); 4] =
        [(b"before", b"behind"), (b"", b"behind"), (b"before", b""), (b"b", b"b")];
    let mut accepted = 1;
    for round in 0..100 {
        for (before, behind) in before_and_after {
            let mut client = running.client();
            let id = handler.wait_for_accepted(accepted);
            accepted += 1;
            let mut send = || {
                client.write_all(before).unwrap();
                urgent(&client);
                client.write_all(behind).unwrap();
            };
            // In even rounds everything arrives in one event.
            if round % 2 == 0 {
                holder.hold(send);
            } else {
                send();
            }
            let expected = [before, behind].concat();
            assert_eq!(handler.wait_for_bytes(id, expected.len()), expected);
            // The connection gets another urgent byte, and then an end.
            client.write_all(b"more").unwrap();
            urgent(&client);
            drop(client);
            handler.wait_for_eof(id);
            let expected = [&expected[..], b"more"].concat();
            assert_eq!(reported(&handler, id), [Event::Data(id, expected), Event::Eof(id)]);
            running.sockman.close_connection(id);
        }
    }
}

/// G5: a receive that fills the buffer, or nearly fills it, leaves no data behind.
#[test]
fn a_message_of_about_the_buffers_size_is_delivered_without_the_sweep() {
    for size in [1, 2, 3, 16, 1000, 64 * 1024] {
        let handler = Recorder::new();
        let running = Running::start(handler.clone(), buffer(size));
        let mut random = Random::new(size as u64);
        let mut accepted = 0;
        for length in [1, size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 1] {
            if length == 0 {
                continue;
            }
            let bytes = random.bytes(length);
            for with_end in [false, true] {
                let mut client = running.client();
                let id = handler.wait_for_accepted(accepted);
                accepted += 1;
                client.write_all(&bytes).unwrap();
                if !with_end {
                    assert_eq!(handler.wait_for_bytes(id, length), bytes);
                    // The next message arrives, too.
                    client.write_all(&bytes).unwrap();
                    handler.wait_for_bytes(id, 2 * length);
                }
                drop(client);
                handler.wait_for_eof(id);
                let times = if with_end { 1 } else { 2 };
                assert_eq!(
                    reported(&handler, id),
                    [Event::Data(id, bytes.repeat(times)), Event::Eof(id)]
                );
                let too_long = |event: &Event| matches!(event, Event::Data(_, d) if d.len() > size);
                assert_eq!(handler.count(too_long), 0);
                running.sockman.close_connection(id);
            }
        }
    }
}

/// G5, G7
#[test]
fn eof_is_reported_once_while_the_embedder_continues_to_send() {
    const LENGTH: usize = 4 << 20;

    let bytes = Random::new(9).bytes(LENGTH);
    let sent = Arc::new(Mutex::new(0));
    let target: Arc<OnceLock<ConnectionId>> = Arc::default();
    let handler = Recorder::with_reaction({
        let (bytes, sent, target) = (bytes.clone(), Arc::clone(&sent), Arc::clone(&target));
        move |sockman, event| match event {
            // The pieces are small, so that sending the stream takes many passes.
            Event::ReadyToSend(id) if target.get() == Some(id) => {
                let mut sent = sent.lock().unwrap();
                let end = (*sent + 10_000).min(LENGTH);
                *sent += sockman.send_bytes(*id, &bytes[*sent..end]).unwrap();
            }
            _ => {}
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    let mut client = running.client();
    let id = handler.wait_for_accepted(0);
    target.set(id).unwrap();
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    handler.wait_for_eof(id);

    handler.want_to_send(id, true);
    running.sockman.wake(id);
    let mut received = vec![0; LENGTH];
    client.read_exact(&mut received).unwrap();
    assert!(received == bytes, "the received bytes differ from those sent");
    handler.want_to_send(id, false);
    for _ in 0..3 {
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
    }
    assert_no_spin(&running);
    assert_eq!(reported(&handler, id), [data(id, b"request"), Event::Eof(id)]);
    // Sending works until the close.
    assert_eq!(running.sockman.send_bytes(id, b"bye").unwrap(), 3);
    assert!(running.sockman.close_connection(id));
    assert_eq!(read_to_end(&mut client), b"bye");
}

/// G5: no thread sends, so only the socket itself knows of the reset.
#[test]
fn a_reset_after_eof_is_reported_once_as_a_read_error() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..100 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        client.write_all(b"x").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        handler.wait_for_eof(id);
        reset(client);
        handler.wait_for_read_error(id);
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
        let reported = reported(&handler, id);
        assert!(
            matches!(reported[..], [Event::Data(..), Event::Eof(_), Event::ReadError(..)]),
            "{reported:?}"
        );
        running.sockman.close_connection(id);
    }
}

/// G5: the send that meets the reset takes the error from the socket.
#[test]
fn a_reset_after_eof_is_reported_once_while_other_threads_send() {
    const ROUNDS: usize = 400;

    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    let mut random = Random::new(5);
    for round in 0..ROUNDS {
        let client = running.client();
        let id = handler.wait_for_accepted(round);
        client.shutdown(Shutdown::Write).unwrap();
        handler.wait_for_eof(id);
        let sending = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let sockman = &running.sockman;
                while sockman.send_bytes(id, b"x").is_ok() {
                    sending.store(true, Ordering::SeqCst);
                }
            });
            while !sending.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            for _ in 0..random.up_to(100) {
                std::hint::spin_loop();
            }
            reset(client);
            handler.wait_for_read_error(id);
            sender.join().unwrap();
        });
        run_passes(&running.sockman, 1);
        let reported = reported(&handler, id);
        assert!(matches!(reported[..], [Event::Eof(_), Event::ReadError(..)]), "{reported:?}");
        running.sockman.close_connection(id);
    }
}

/// G5: a peer that has closed in order answers later bytes with a reset.
#[test]
fn a_send_to_a_closed_peer_causes_one_read_error_after_eof() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..200 {
        let client = running.client();
        let id = handler.wait_for_accepted(round);
        drop(client);
        if round % 2 == 0 {
            handler.wait_for_eof(id);
        }
        until("sends fail", || running.sockman.send_bytes(id, b"x").is_err());
        handler.wait_for_read_error(id);
        run_passes(&running.sockman, 1);
        let reported = reported(&handler, id);
        assert!(matches!(reported[..], [Event::Eof(_), Event::ReadError(..)]), "{reported:?}");
        running.sockman.close_connection(id);
    }
}

/// G5: the peer's end and the reset come in one event. The reset came after the end, so both are
/// reported.
#[test]
fn an_end_and_the_reset_that_a_later_send_causes_are_both_reported() {
    let (handler, gate, running) = holding(without_sweep());
    let mut holder = Holder::new(&handler, gate, &running);
    for round in 0..50 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round + 1);
        holder.hold(|| {
            client.write_all(b"bye").unwrap();
            drop(client);
            until("sends fail", || running.sockman.send_bytes(id, b"x").is_err());
        });
        handler.wait_for_read_error(id);
        run_passes(&running.sockman, 1);
        let error = Event::ReadError(id, RESET_AFTER_END);
        assert_eq!(reported(&handler, id), [data(id, b"bye"), Event::Eof(id), error]);
        running.sockman.close_connection(id);
    }
}

/// G5
#[test]
fn a_reset_before_accept_is_reported_after_the_data() {
    let (handler, gate, running) = holding(without_sweep());
    let mut holder = Holder::new(&handler, gate, &running);
    for round in 0..50 {
        holder.hold(|| {
            let mut client = running.client();
            if round % 2 == 0 {
                client.write_all(b"data").unwrap();
            }
            reset(client);
        });
        let id = handler.wait_for_accepted(round + 1);
        assert_eq!(handler.wait_for_read_error(id), io::ErrorKind::ConnectionReset);
        run_passes(&running.sockman, 1);
        let error = Event::ReadError(id, io::ErrorKind::ConnectionReset);
        let expected = if round % 2 == 0 { vec![data(id, b"data"), error] } else { vec![error] };
        assert_eq!(reported(&handler, id), expected);
        running.sockman.close_connection(id);
    }
}

/// G5: a reset alone, and a reset in one event with the data before it.
#[test]
fn a_reset_is_reported_once_and_after_the_data() {
    let (handler, gate, running) = holding(without_sweep());
    let mut holder = Holder::new(&handler, gate, &running);
    for round in 0..100 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round + 1);
        let mut bytes = Vec::new();
        if round % 2 == 0 {
            client.write_all(b"first").unwrap();
            handler.wait_for_bytes(id, 5);
            bytes.extend_from_slice(b"first");
        }
        if round % 4 < 2 {
            holder.hold(|| {
                client.write_all(b"last").unwrap();
                reset(client);
            });
            bytes.extend_from_slice(b"last");
        } else {
            reset(client);
        }
        handler.wait_for_read_error(id);
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
        let mut expected = vec![Event::ReadError(id, io::ErrorKind::ConnectionReset)];
        if !bytes.is_empty() {
            expected.insert(0, Event::Data(id, bytes));
        }
        assert_eq!(reported(&handler, id), expected);
        running.sockman.close_connection(id);
    }
}

/// G5: the peer reads nothing and the send buffer is full, so the rest waits for room when the
/// reset comes.
#[test]
fn a_reset_in_the_middle_of_sending_is_reported_once() {
    let handler = Recorder::of_everything(|sockman, event| {
        if let Event::ReadyToSend(id) = event {
            // Sends until a send would block or fails.
            while sockman.send_bytes(*id, &[1; 65536]).is_ok_and(|sent| sent > 0) {}
        }
    });
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..20 {
        let client = running.client();
        let id = handler.wait_for_accepted(round);
        handler.want_to_send(id, true);
        running.sockman.wake(id);
        handler.wait_for_event("ready to send", |event| *event == Event::ReadyToSend(id));
        reset(client);
        assert_eq!(handler.wait_for_read_error(id), io::ErrorKind::ConnectionReset);
        until("sends fail", || running.sockman.send_bytes(id, b"x").is_err());
        run_passes(&running.sockman, 2);
        let ended =
            |event: &Event| matches!(event, Event::Eof(of) | Event::ReadError(of, _) if *of == id);
        assert_eq!(handler.count(ended), 1);
        // The connection still wants to send, and must not be asked again and again.
        if round == 0 {
            assert_no_spin(&running);
            handler.wait_for_accepted(30);
            return;
        }
        running.sockman.close_connection(id);
    }
}

/// G5: a send on another thread has taken the error, so the receive finds a plain end.
#[test]
fn a_reset_that_a_send_found_first_is_not_reported_as_eof() {
    let (handler, gate, running) = holding(without_sweep());
    let mut holder = Holder::new(&handler, gate, &running);
    for round in 0..50 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round + 1);
        holder.hold(|| {
            if round % 2 == 0 {
                client.write_all(b"data").unwrap();
            }
            reset(client);
            until("sends fail", || running.sockman.send_bytes(id, b"x").is_err());
        });
        assert_eq!(handler.wait_for_read_error(id), io::ErrorKind::ConnectionReset);
        run_passes(&running.sockman, 1);
        let error = Event::ReadError(id, io::ErrorKind::ConnectionReset);
        let expected = if round % 2 == 0 { vec![data(id, b"data"), error] } else { vec![error] };
        assert_eq!(reported(&handler, id), expected);
        running.sockman.close_connection(id);
    }
}

/// G5: the send of a turn takes the error from the socket, and the receive of the same turn finds a
/// plain end. The reset arrives, and the send finds it before the poller has reported it.
#[test]
fn a_reset_that_a_send_of_the_same_turn_found_is_not_reported_as_eof() {
    // The data fills the buffer, so `readable` stays latched until a receive would block. The pause
    // delays that receive to the turn in which the send hook comes first.
    let to_reset: Arc<Mutex<Option<TcpStream>>> = Arc::default();
    let this: Arc<OnceLock<Weak<Recorder>>> = Arc::default();
    let handler = Recorder::of_everything({
        let (to_reset, this) = (Arc::clone(&to_reset), Arc::clone(&this));
        move |sockman, event| match event {
            Event::Data(id, _) => this.get().unwrap().upgrade().unwrap().pause_recv(*id, true),
            Event::ReadyToSend(id) => {
                if let Some(client) = to_reset.lock().unwrap().take() {
                    reset(client);
                    while sockman.send_bytes(*id, b"x").is_ok() {}
                }
            }
            _ => {}
        }
    });
    this.set(Arc::downgrade(&handler)).unwrap();
    let running = Running::start(handler.clone(), buffer(4));
    for round in 0..20 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        run_passes(&running.sockman, 1);
        client.write_all(b"full").unwrap();
        handler.wait_for_bytes(id, 4);
        run_passes(&running.sockman, 1);

        *to_reset.lock().unwrap() = Some(client);
        handler.want_to_send(id, true);
        handler.pause_recv(id, false);
        running.sockman.wake(id);
        assert_eq!(handler.wait_for_read_error(id), io::ErrorKind::ConnectionReset);
        run_passes(&running.sockman, 1);
        assert_eq!(handler.count(|event| *event == Event::Eof(id)), 0);
        running.sockman.close_connection(id);
    }
}

/// G5: this side ends its stream. The peer continues to send, and then ends its stream, too.
#[test]
fn after_a_half_close_everything_still_arrives() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..50 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        let sent = fill(&running.sockman, id, b'x');
        running.sockman.shutdown_write(id).unwrap();
        // The second half-close does nothing.
        running.sockman.shutdown_write(id).unwrap();
        assert_eq!(read_to_end(&mut client).len(), sent);
        client.write_all(b"still here").unwrap();
        assert_eq!(handler.wait_for_bytes(id, 10), b"still here");
        client.write_all(b", bye").unwrap();
        drop(client);
        handler.wait_for_eof(id);
        running.sockman.wake(id);
        run_passes(&running.sockman, 1);
        assert_eq!(reported(&handler, id), [data(id, b"still here, bye"), Event::Eof(id)]);
        running.sockman.close_connection(id);
    }
}

/// G5: the peer ends its stream before this side does.
#[test]
fn a_half_close_that_follows_the_peers_half_close_ends_the_connection_in_order() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..50 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        client.shutdown(Shutdown::Write).unwrap();
        handler.wait_for_eof(id);
        assert_eq!(running.sockman.send_bytes(id, b"reply").unwrap(), 5);
        running.sockman.shutdown_write(id).unwrap();
        assert_eq!(read_to_end(&mut client), b"reply");
        drop(client);
        wait_until_hung_up(&running.sockman, id);
        run_passes(&running.sockman, 1);
        assert_eq!(reported(&handler, id), [Event::Eof(id)]);
        running.sockman.close_connection(id);
    }
}

/// G5: a send after this side's own half-close fails, which is not the peer's fault.
#[test]
fn a_send_after_a_half_close_does_not_turn_eof_into_an_error() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    for peer_first in [false, true] {
        let client = running.client();
        let id = handler.wait_for_accepted(usize::from(peer_first));
        if peer_first {
            client.shutdown(Shutdown::Write).unwrap();
            handler.wait_for_eof(id);
        }
        running.sockman.shutdown_write(id).unwrap();
        assert!(matches!(
            running.sockman.send_bytes(id, b"x"),
            Err(SendError::Socket { id: of, .. }) if of == id
        ));
        drop(client);
        handler.wait_for_eof(id);
        wait_until_hung_up(&running.sockman, id);
        run_passes(&running.sockman, 2);
        assert_eq!(reported(&handler, id), [Event::Eof(id)]);
    }
}

/// G5: a reset is reported after this side's own half-close, too.
#[test]
fn a_reset_after_a_half_close_is_reported_once() {
    let handler = Recorder::new();
    let running = Running::start(handler.clone(), without_sweep());
    for round in 0..50 {
        let mut client = running.client();
        let id = handler.wait_for_accepted(round);
        running.sockman.shutdown_write(id).unwrap();
        assert_eq!(read_to_end(&mut client), b"");
        reset(client);
        if round % 2 == 0 {
            // The send fails because of the reset or because of this side's half-close.
            let _ = running.sockman.send_bytes(id, b"x");
        }
        assert_eq!(handler.wait_for_read_error(id), io::ErrorKind::ConnectionReset);
        run_passes(&running.sockman, 1);
        assert_eq!(reported(&handler, id).len(), 1);
        running.sockman.close_connection(id);
    }
}
