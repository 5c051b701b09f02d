//! The ends of connections over loopback: `event_closed`, `finish_connection`, `abort_connection`
//! and `drain_and_stop`. The sweep is off.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, SendQueue, Service, SockMan,
    helpers::{ConnectionTable, SendQueueLimits},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, eventually, read_to_end, tools::TempDir, without_sweep,
};

const LINGER: Duration = DEADLINE;
const LENGTH: usize = 16 * 1024 * 1024;

/// Sends `LENGTH` bytes to each client that sends something, and then finishes.
#[derive(Default)]
struct Download {
    queues: ConnectionTable<SendQueue>,
    drains: AtomicBool,
    closed: Mutex<Vec<ConnectionId>>,
}

impl EventHandler for Download {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        id: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        let limits = SendQueueLimits::new(1, 2, LENGTH).unwrap();
        self.queues.insert(id, SendQueue::new(id, limits));
        true
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, _: &[u8]) {
        self.queues.find(id).unwrap().push(sockman, &vec![7; LENGTH]).unwrap();
        if self.drains.load(SeqCst) {
            sockman.drain_and_stop(LINGER);
        } else {
            assert!(sockman.finish_connection(id, LINGER));
        }
    }
    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.queues.find(id).is_some_and(|queue| queue.has_queued())
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let _ = self.queues.find(id).unwrap().drain(sockman);
        NextRecv::Proceed
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {
        panic!("the end is not reported while a connection finishes");
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {
        panic!("an error is not reported while a connection finishes");
    }
    fn event_closed(&self, _: &SockMan, id: ConnectionId) {
        self.queues.remove(id);
        self.closed.lock().unwrap().push(id);
    }
}

/// G5: the peer gets all bytes and then FIN, although it sends meanwhile what the library discards.
/// No reset destroys the end, whether the peer ends its stream before or after it reads.
#[test]
fn a_connection_that_finishes_loses_no_byte_although_the_peer_goes_on_to_send() {
    let download = Arc::new(Download::default());
    let running = Running::start(Arc::clone(&download) as Arc<dyn EventHandler>, without_sweep());
    for ends_first in [false, true] {
        let mut client = running.client();
        client.write_all(b"go").unwrap();
        let mut first = [0; 1000];
        client.read_exact(&mut first).unwrap();
        client.write_all(&[1; 100_000]).unwrap();
        if ends_first {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let rest = read_to_end(&mut client);
        assert_eq!(rest.len(), LENGTH - first.len());
        if !ends_first {
            client.write_all(b"after FIN").unwrap();
            assert_eq!(running.sockman.stats().connections, 1);
            client.shutdown(Shutdown::Write).unwrap();
        }
        eventually("the connection is closed", || running.sockman.stats().connections == 0);
        assert!(client.take_error().unwrap().is_none());
    }
    eventually("the ends are reported", || download.closed.lock().unwrap().len() == 2);
    assert!(download.queues.is_empty());
}

/// G9: a peer that neither reads nor ends is closed by the time-out alone, with the sweep off.
#[test]
fn a_connection_that_finishes_is_closed_in_time() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let mut client = running.client();
    let id = recorder.wait_for_accepted(0);
    assert!(running.sockman.finish_connection(id, Duration::from_millis(20)));
    assert_eq!(read_to_end(&mut client), b"");
    recorder.wait_for_closed(id);
    assert_eq!(recorder.events_of(id).len(), 1, "nothing but the accept is reported");
}

/// The reset reaches the peer, from a callback and from another thread, and no end comes before it.
#[test]
fn an_abort_is_a_reset_for_the_peer() {
    let recorder = Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, _) = event {
            assert!(sockman.abort_connection(*id));
        }
    });
    let running = Running::start(recorder.clone(), without_sweep());
    for (round, in_callback) in [true, false].into_iter().cycle().take(20).enumerate() {
        let mut client = running.client();
        let id = recorder.wait_for_accepted(round);
        if in_callback {
            client.write_all(b"x").unwrap();
        } else {
            assert!(running.sockman.abort_connection(id));
            assert!(!running.sockman.abort_connection(id));
        }
        let error = client.read(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        recorder.wait_for_closed(id);
    }
    // Outbound, before the activation, and with no thread running.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let new = running.sockman.connect(to, &ConnectOptions::default()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    assert!(running.sockman.abort_connection(new.id()));
    drop(new);
    let error = peer.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// A unix-domain peer reads the end of the stream instead of a reset.
#[cfg(unix)]
#[test]
fn an_abort_of_a_unix_socket_is_an_end_for_the_peer() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let directory = TempDir::new();
    let path = directory.path("abort");
    running.sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let id = recorder.wait_for_accepted(0);
    assert!(running.sockman.abort_connection(id));
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
    recorder.wait_for_closed(id);
}

/// G14: `join` returns after the last byte, and after the last report. A new client is refused.
#[test]
fn a_drain_sends_everything_before_join_returns() {
    let download = Arc::new(Download::default());
    download.drains.store(true, SeqCst);
    let mut running =
        Running::start(Arc::clone(&download) as Arc<dyn EventHandler>, without_sweep());
    let mut idle = running.client();
    let mut client = running.client();
    eventually("both are accepted", || running.sockman.stats().accepted == 2);
    client.write_all(b"go").unwrap();
    // The idle client reads the end at once and closes.
    assert_eq!(read_to_end(&mut idle), b"");
    drop(idle);
    let reader = thread::spawn(move || read_to_end(&mut client).len());
    running.threads.take().unwrap().join().unwrap();
    assert_eq!(reader.join().unwrap(), LENGTH);
    assert_eq!(download.closed.lock().unwrap().len(), 2);
    assert_eq!(running.sockman.stats().connections, 0);
    assert!(std::net::TcpStream::connect(running.address).is_err());
}

/// G9: at the deadline, `join` returns although a client neither reads nor ends.
#[test]
fn a_drain_ends_at_its_deadline() {
    let recorder = Recorder::new();
    let mut running = Running::start(recorder.clone(), without_sweep());
    let _client = running.client();
    let id = recorder.wait_for_accepted(0);
    running.sockman.drain_and_stop(Duration::from_millis(20));
    running.threads.take().unwrap().join().unwrap();
    assert_eq!(recorder.closed(), [id]);
}

/// G2, G4: the I2P-accept thread announces a peer while another thread closes it. The end is
/// reported once, whether the close comes before or after the announcement.
#[cfg(feature = "i2p")]
#[test]
fn the_end_of_a_peer_from_i2p_that_is_closed_while_it_is_announced_is_reported_once() {
    use sockman::i2p::I2pOptions;
    use sockman_test_support::sam::Bridge;

    const PEERS: u8 = 20;
    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let closed = Arc::new(AtomicBool::new(false));
    let recorder = Recorder::with_reaction(move |sockman, event| {
        if let Event::Accepted { id, .. } = event {
            let (sockman, id) = (sockman.clone(), *id);
            let closer = thread::spawn(move || assert!(sockman.close_connection(id)));
            if closed.fetch_xor(true, SeqCst) {
                closer.join().unwrap();
            }
        }
    });
    let i2p = I2pOptions::new(bridge.address.clone())
        .key_file(directory.path("key"))
        .accept_incoming(true);
    let running = Running::start(recorder.clone(), without_sweep().i2p(i2p));
    let _peers: Vec<_> = (0..PEERS).map(|number| bridge.peer_connects(number, b"")).collect();
    for number in 0..PEERS {
        recorder.wait_for_closed(recorder.wait_for_accepted(number.into()));
    }
    drop(running);
    assert_eq!(recorder.closed().len(), PEERS.into());
}

/// While a server ends, the I2P-accept thread accepts no more peers.
#[cfg(feature = "i2p")]
#[test]
fn a_drain_accepts_no_more_peers_from_i2p() {
    use sockman::i2p::{I2pOptions, I2pStatus};
    use sockman_test_support::sam::Bridge;

    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let recorder = Recorder::new();
    let i2p = I2pOptions::new(bridge.address.clone())
        .key_file(directory.path("key"))
        .accept_incoming(true);
    let mut running = Running::start(recorder.clone(), without_sweep().i2p(i2p));
    let client = running.client();
    let id = recorder.wait_for_accepted(0);
    recorder.wait_for_event("the listening", |event| {
        matches!(event, Event::I2p(_, I2pStatus::StartListening))
    });
    running.sockman.drain_and_stop(DEADLINE);
    let mut peer = bridge.peer_connects(1, b"");
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "the peer is not accepted");
    drop(client);
    running.threads.take().unwrap().join().unwrap();
    assert_eq!(recorder.closed(), [id]);
    assert_eq!(recorder.count(|event| matches!(event, Event::Accepted { .. })), 1);
}
