//! G8: in one pass each ready connection gets at most one turn and each listener accepts at most
//! one batch, so that a flooding peer starves no other. The sweep is off in all tests of this
//! module.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    sync::{Arc, Mutex, mpsc},
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, SendQueue, Service, SockMan,
    helpers::SendQueueLimits,
    testing::{Network, SocketThreadByHand},
};
use sockman_test_support::{DEADLINE, Event, Recorder, Running, eventually, without_sweep};

const BUFFER: usize = 4096;

/// The counts of the current pass, and the highest counts of any pass.
#[derive(Default)]
struct PassCounts {
    this_pass: HashMap<(ConnectionId, &'static str), usize>,
    accepted: usize,
    worst: usize,
    worst_accepted: usize,
    received: HashMap<ConnectionId, usize>,
}

/// Counts callbacks per pass. Sends a few bytes in each ready-to-send call, so that sending is
/// always due.
#[derive(Default)]
struct PassCounter {
    counts: Mutex<PassCounts>,
}

impl PassCounter {
    fn count(&self, id: ConnectionId, what: &'static str) {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.this_pass.entry((id, what)).or_default();
        *count += 1;
        let count = *count;
        counts.worst = counts.worst.max(count);
    }
}

impl EventHandler for PassCounter {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let mut counts = self.counts.lock().unwrap();
        counts.received.insert(id, 0);
        counts.accepted += 1;
        counts.worst_accepted = counts.worst_accepted.max(counts.accepted);
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        self.count(id, "ready to send");
        let _ = sockman.send_bytes(id, b"something");
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        assert!((1..=BUFFER).contains(&data.len()));
        self.count(id, "data");
        *self.counts.lock().unwrap().received.get_mut(&id).unwrap() += data.len();
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn event_io_loop_completed_for_one(&self, _: &SockMan, id: ConnectionId) {
        self.count(id, "completed");
    }
    fn event_io_loop_completed_for_all(&self, _: &SockMan) {
        let mut counts = self.counts.lock().unwrap();
        counts.this_pass.clear();
        counts.accepted = 0;
    }
}

fn small_buffer() -> sockman::Options {
    without_sweep().receive_buffer(BUFFER)
}

/// G8. In memory, no time passes: after 50 ms without a complete round of turns, as on a busy
/// machine, a pass polls and serves twice.
#[test]
fn in_one_pass_a_connection_gets_one_receive_buffer_and_one_ready_to_send() {
    const FLOOD: usize = 20 * BUFFER;
    let (network, handler) = (Network::new(), Arc::new(PassCounter::default()));
    network.set_window(2 * FLOOD);
    let options = small_buffer().sock_factory(network.factory());
    let sockman = SockMan::new(handler.clone(), options).unwrap();
    let bound = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let peers: Vec<_> = (0..3).map(|_| network.connect(&bound).unwrap()).collect();
    for peer in &peers {
        assert_eq!(peer.send(&[0xf1; FLOOD]).unwrap(), FLOOD);
    }
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    // Ends when the kernel has no more room for what the handler sends.
    thread.run_until_idle().unwrap();
    let counts = handler.counts.lock().unwrap();
    assert_eq!(counts.received.len(), 3);
    assert!(counts.received.values().all(|bytes| *bytes == FLOOD), "{:?}", counts.received);
    assert_eq!(counts.worst, 1);
}

/// G8: even if one peer has sent many bytes, the byte of another peer is received in the next pass.
#[cfg(target_os = "linux")]
#[test]
fn a_flooding_peer_does_not_delay_anothers_bytes() {
    use sockman_test_support::descriptors;

    // Holds the socket thread in a callback while the peers send.
    let (entered_sender, entered) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let recorder = Recorder::with_reaction(move |_, event| {
        if matches!(event, Event::Data(_, data) if data == b"stand still") {
            entered_sender.send(()).unwrap();
            let _ = gate.lock().unwrap().recv_timeout(DEADLINE);
        }
    });
    let running = Running::start(recorder.clone(), small_buffer());
    let mut holder = running.client();
    let mut flooding = running.client();
    let mut modest = running.client();
    let flooder = recorder.wait_for_accepted(1);
    let modest_id = recorder.wait_for_accepted(2);
    let descriptors = [&flooding, &modest]
        .map(|client| descriptors::of(running.address, Some(client.local_addr().unwrap())));
    for _ in 0..20 {
        let before = recorder.events().len();
        holder.write_all(b"stand still").unwrap();
        entered.recv_timeout(DEADLINE).unwrap();
        flooding.write_all(&[1; 40 * BUFFER]).unwrap();
        modest.write_all(b"?").unwrap();
        eventually("the kernel has the bytes", || {
            let waiting = |of, most| descriptors::bytes_waiting(of, most) == most;
            waiting(descriptors[1], 1) && waiting(descriptors[0], 6 * BUFFER)
        });
        go_on.send(()).unwrap();
        recorder.wait_for("the flood", |events| {
            let flooded = events[before..].iter().filter_map(|event| match event {
                Event::Data(id, data) if *id == flooder => Some(data.len()),
                _ => None,
            });
            (flooded.sum::<usize>() == 40 * BUFFER).then_some(())
        });
        let events = recorder.events();
        let since = &events[before..];
        let at = since.iter().position(|event| event.id() == Some(modest_id)).unwrap();
        let earlier = since[..at].iter().filter(|event| event.id() == Some(flooder)).count();
        // Both connections get a turn in the next pass. Either connection may come first.
        assert!(earlier <= 1, "{earlier} buffers of the flood came first");
    }
}

/// G8. In memory, no time passes: after 50 ms without a complete round of turns, as on a busy
/// machine, a pass polls and serves twice.
#[test]
fn a_listener_accepts_a_batch_per_pass_at_most() {
    for batch in [1, 4] {
        let (network, handler) = (Network::new(), Arc::new(PassCounter::default()));
        let options = small_buffer().accept_batch(batch).sock_factory(network.factory());
        let sockman = SockMan::new(handler.clone(), options).unwrap();
        let bound = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let clients: Vec<_> = (0..50).map(|_| network.connect(&bound).unwrap()).collect();
        // Without the sweep and without new clients, the listener must remember the clients left
        // over.
        let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        thread.run_until_idle().unwrap();
        assert_eq!(sockman.stats().accepted, 50);
        assert_eq!(handler.counts.lock().unwrap().worst_accepted, batch);
        drop(clients);
    }
}

/// G8: established connections get turns between the batches.
#[test]
fn connections_are_served_between_two_batches_of_accepts() {
    let recorder = Recorder::new();
    let options = without_sweep().accept_batch(1);
    let mut running = Running::start(recorder.clone(), options);
    let mut established = running.client();
    let id = recorder.wait_for_accepted(0);
    running.sockman.interrupt();
    running.threads.take().unwrap().join().unwrap();
    let clients: Vec<_> = (0..20).map(|_| running.client()).collect();
    established.write_all(b"!").unwrap();
    running.threads = Some(running.sockman.start_sockets_threads().unwrap());
    recorder.wait_for_accepted(20);
    recorder.wait_for_bytes(id, 1);
    let events = recorder.events();
    let data = events.iter().position(|event| matches!(event, Event::Data(..))).unwrap();
    let accepts_before = data - 1;
    assert!(accepts_before <= 2, "{accepts_before} accepts came before the data");
    drop(clients);
}

/// Echoes with a queue for each connection, and fills the queue of a connection that sends `fill`.
#[derive(Default)]
struct QueueingEcho {
    queues: Mutex<HashMap<ConnectionId, Arc<SendQueue>>>,
    blocked: Mutex<Option<mpsc::Sender<ConnectionId>>>,
}

impl QueueingEcho {
    fn queue(&self, id: ConnectionId) -> Arc<SendQueue> {
        Arc::clone(&self.queues.lock().unwrap()[&id])
    }
}

impl EventHandler for QueueingEcho {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let options = SendQueueLimits::new(500_000, 1_000_000, usize::MAX).unwrap();
        self.queues.lock().unwrap().insert(id, Arc::new(SendQueue::new(id, options)));
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let _ = self.queue(id).drain(sockman);
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        if data == b"fill" {
            self.queue(id).push(sockman, &vec![0; 20_000_000]).unwrap();
            if let Some(blocked) = &*self.blocked.lock().unwrap() {
                blocked.send(id).unwrap();
            }
        } else {
            self.queue(id).push(sockman, data).unwrap();
        }
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.queue(id).has_queued()
    }
}

/// G8, G10: the bytes that the blocked writer has queued stay in its own queue.
#[test]
fn a_writer_whose_peer_reads_nothing_does_not_disturb_a_hundred_others() {
    let (blocked_sender, blocked) = mpsc::channel();
    let handler = Arc::new(QueueingEcho::default());
    *handler.blocked.lock().unwrap() = Some(blocked_sender);
    let running = Running::start(handler.clone(), without_sweep());
    let mut stuck = running.client();
    stuck.write_all(b"fill").unwrap();
    let id = blocked.recv_timeout(DEADLINE).unwrap();
    let mut others: Vec<_> = (0..100).map(|_| running.client()).collect();
    // The stuck connection finds its socket full in the first round.
    let mut round = |message: &[u8]| {
        for other in &mut others {
            other.write_all(message).unwrap();
        }
        for other in &mut others {
            let mut back = vec![0; message.len()];
            other.read_exact(&mut back).unwrap();
            assert_eq!(back, message);
        }
    };
    round(b"first");
    let (before, queued) = (running.sockman.stats(), handler.queue(id).queued());
    assert!(queued > 0);
    for _ in 0..20 {
        round(b"and again and again");
    }
    let after = running.sockman.stats();
    // The stuck connection takes part in no pass, so all turns belong to the others. Each message
    // costs one turn, or two turns if the hook is asked for the reply in the next pass.
    let turns = after.turns - before.turns;
    assert!(turns <= 2 * 20 * 100 + 10, "{turns} turns");
    assert_eq!(handler.queue(id).queued(), queued, "the stuck queue must not shrink");

    // The stuck connection continues when its peer reads.
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    while bytes < 20_000_000 {
        bytes += stuck.read(&mut buffer).unwrap();
    }
    assert_eq!(bytes, 20_000_000);
    eventually("the queue is empty", || !handler.queue(id).has_queued());
}
