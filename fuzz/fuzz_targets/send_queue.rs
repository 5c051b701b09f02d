//! Fuzzes `SendQueue` against a plain model, with pushes, drains, and a peer that takes any amount.
//! All bytes must arrive in order, and the marks and the limit must hold. The sweep is off, so no
//! wake-up may be missing.
#![no_main]

use std::{
    io,
    sync::{Arc, OnceLock},
};

use libfuzzer_sys::fuzz_target;
use sockman::testing::{Network, SocketThreadByHand};
use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, SendQueue, Service, SockMan,
    helpers::{PushError, SendQueueLimits},
    options::More,
};

const HIGH: usize = 3000;
const LOW: usize = 1000;
const LIMIT: usize = 6000;

#[derive(Default)]
struct Handler {
    queue: OnceLock<SendQueue>,
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let limits = SendQueueLimits::new(LOW, HIGH, LIMIT).expect("low < high <= limit");
        self.queue.set(SendQueue::new(id, limits)).is_ok()
    }
    fn event_ready_to_send(&self, sockman: &SockMan, _: ConnectionId) -> NextRecv {
        if let Some(queue) = self.queue.get() {
            queue.drain(sockman).expect("the peer has not closed");
        }
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        self.queue.get().is_some_and(SendQueue::has_queued)
    }
    fn should_try_to_recv(&self, _: ConnectionId) -> bool {
        !self.queue.get().is_some_and(SendQueue::is_above_high_mark)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [family, window, ops @ ..] = bytes else { return };
    let network = Network::new();
    network.set_window((usize::from(*window) + 1) * 64);
    let handler = Arc::new(Handler::default());
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let options = options.receive_buffer(256);
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    let at = if family % 2 == 0 { "10.0.0.1:1" } else { "unix:/simulated" };
    let here = sockman.bind_and_start_listening(at).unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let peer = network.connect(&here).unwrap();
    thread.run_until_idle().unwrap();
    let queue = handler.queue.get().unwrap();

    let (mut pushed, mut arrived) = (Vec::new(), Vec::new());
    for op in ops.chunks_exact(2) {
        let size = usize::from(op[1]) * 13;
        match op[0] % 8 {
            0..=3 => {
                let data: Vec<u8> = (0..size).map(|at| (pushed.len() + at) as u8).collect();
                let before = queue.queued();
                let more = More::from(op[0] & 64 != 0);
                let result = match op[0] >> 4 & 3 {
                    0 | 1 => queue.push_with(&sockman, &data, more),
                    2 => queue.enqueue(&sockman, &data),
                    _ => queue.enqueue_shared(&sockman, &data.as_slice().into()),
                };
                match result {
                    Ok(()) => pushed.extend_from_slice(&data),
                    Err(PushError::Full { limit }) => {
                        assert_eq!(limit, LIMIT);
                        assert!(before + size > LIMIT, "refused a push that fits");
                        assert_eq!(queue.queued(), before, "queued part of a refused push");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            4 | 5 => arrived.extend(peer.receive_at_most(size).0),
            6 => {
                thread.run_until_idle().unwrap();
            }
            _ => {
                queue.drain(&sockman).unwrap();
            }
        }
        assert!(queue.queued() <= LIMIT);
        assert_eq!(queue.has_queued(), queue.queued() != 0);
        // Between the marks, `is_above_high_mark` keeps its value, so the value is not checked
        // there.
        assert!(queue.queued() < HIGH || queue.is_above_high_mark());
        assert!(queue.queued() > LOW || !queue.is_above_high_mark());
    }
    // The peer reads all bytes. All bytes must arrive without a sweep.
    loop {
        thread.run_until_idle().unwrap();
        let (data, ended) = peer.receive();
        assert_eq!(ended, None);
        if data.is_empty() {
            break;
        }
        arrived.extend(data);
    }
    assert!(!queue.has_queued(), "{} bytes wait for a wake-up", queue.queued());
    assert_eq!(arrived, pushed);
});
