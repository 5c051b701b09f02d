//! Limits that no other module tests, over the network in memory. `docs/limits.md` names the test
//! of each limit.

use std::{
    io::{self, IoSlice, Read},
    sync::{Arc, OnceLock},
    time::Duration,
};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Options, SendQueue, Service, SockMan,
    error::CreateError,
    helpers::SendQueueLimits,
    options::More,
    testing::{Network, Peer, SocketThreadByHand},
};
use sockman_test_support::{Recorder, Running, without_sweep};

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
        self.queue.set(SendQueue::new(id, SendQueueLimits::default())).is_ok()
    }
    fn event_ready_to_send(&self, sockman: &SockMan, _: ConnectionId) -> NextRecv {
        self.queue.get().unwrap().drain(sockman).unwrap();
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        self.queue.get().is_some_and(SendQueue::has_queued)
    }
}

struct Rig {
    handler: Arc<Handler>,
    sockman: SockMan,
    thread: SocketThreadByHand,
    peer: Peer,
}

/// Makes one connection whose peer has room for `window` bytes.
fn rig(window: usize) -> Rig {
    let network = Network::new();
    network.set_window(window);
    let handler = Arc::new(Handler::default());
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let peer = network.connect(&at).unwrap();
    thread.run_until_idle().unwrap();
    Rig { handler, sockman, thread, peer }
}

#[test]
fn options_out_of_range_are_refused() {
    for options in [
        Options::default().sweep(Some(Duration::from_micros(999))),
        Options::default().sweep(Some(Duration::ZERO)),
        Options::default().receive_buffer((1 << 30) + 1),
    ] {
        let refused = SockMan::new(Arc::new(Handler::default()), options).unwrap_err();
        assert!(matches!(refused, CreateError::InvalidOption(_)), "{refused}");
    }
}

#[test]
fn a_vectored_send_offers_1024_pieces_at_most() {
    let rig = rig(1 << 20);
    let pieces = [IoSlice::new(b"ab"); 1500];
    let id = rig.handler.queue.get().unwrap().id();
    assert_eq!(rig.sockman.send_vectored(id, &pieces).unwrap(), 2048);
    assert_eq!(rig.peer.receive().0.len(), 2048);
}

/// The limit of pieces: empty pieces do not count, wherever they stand. `Ok(0)` means "would block"
/// alone.
#[test]
fn empty_pieces_do_not_count() {
    let empty = || vec![IoSlice::new(b""); 1024];
    let data = || vec![IoSlice::new(b"ab")];
    let among: Vec<_> = (0..1500).flat_map(|_| [IoSlice::new(b""), IoSlice::new(b"ab")]).collect();
    for (pieces, sent) in [
        ([empty(), data()].concat(), 2),
        ([empty(), empty(), data(), empty()].concat(), 2),
        ([vec![IoSlice::new(b""); 1023], data()].concat(), 2),
        ([data(), empty(), data()].concat(), 4),
        (among, 2048),
        ([empty(), empty()].concat(), 0),
        (vec![], 0),
    ] {
        for more in [More::No, More::Follows] {
            let rig = rig(1 << 20);
            let id = rig.handler.queue.get().unwrap().id();
            assert_eq!(rig.sockman.send_with(id, &pieces, more).unwrap(), sent);
            assert_eq!(rig.peer.receive().0, b"ab".repeat(sent / 2));
        }
    }
}

/// The same over the kernel's own limit.
#[test]
fn empty_pieces_do_not_count_over_loopback() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    let among = (0..1500).flat_map(|_| [IoSlice::new(b""), IoSlice::new(b"ab")]);
    let pieces: Vec<_> = vec![IoSlice::new(b""); 3000].into_iter().chain(among).collect();
    assert_eq!(running.sockman.send_vectored(id, &pieces).unwrap(), 2048);
    client.read_exact(&mut [0; 2048]).unwrap();
}

/// The double refuses what the kernel refuses, and counts empty pieces as the kernel does.
#[test]
fn the_double_takes_1024_pieces_as_the_kernel_does() {
    let network = Network::new();
    let address = |text: &str| text.parse::<Service>().unwrap();
    let (sock, peer) = network.pair(&address("10.0.0.1:1"), &address("10.0.0.2:2")).unwrap();
    let pieces = vec![IoSlice::new(b""); 1024];
    assert_eq!(sock.send_vectored(&pieces, More::No).unwrap(), 0);
    let pieces = [pieces, vec![IoSlice::new(b"a")]].concat();
    let refused = sock.send_vectored(&pieces, More::No).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(sockman::sys::errors::EMSGSIZE), "EMSGSIZE");
    assert_eq!(sock.send_vectored(&pieces[1..], More::No).unwrap(), 1);
    assert_eq!(peer.receive().0, b"a");
}

#[test]
fn one_drain_offers_at_most_a_quarter_of_a_mebibyte() {
    let mut rig = rig(1);
    let queue = rig.handler.queue.get().unwrap();
    queue.push(&rig.sockman, &vec![7; 1_000_000]).unwrap();
    let queued = queue.queued();
    assert_eq!(queued, 999_999, "the peer had room for one byte");
    rig.peer.set_window(10_000_000);
    rig.thread.pass().unwrap();
    rig.thread.pass().unwrap();
    let drained = queued - queue.queued();
    assert!(drained == 256 * 1024 || drained == 512 * 1024, "{drained}");
    rig.thread.run_until_idle().unwrap();
    assert_eq!(rig.peer.receive().0.len(), 1_000_000);
}
