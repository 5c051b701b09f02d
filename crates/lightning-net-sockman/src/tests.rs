//! LDK's contract, call by call: a manager in place of LDK's records the calls of the driver. The
//! crate's package holds these tests, so they use nothing else of the workspace.

mod recorder;

use std::{
    cell::RefCell,
    collections::HashSet,
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use lightning::{
    bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey},
    ln::{msgs::SocketAddress, peer_handler::SocketDescriptor as _},
};
use sockman::{ConnectOptions, Options, SockMan, SocketsThreads, error::ConnectErrorKind};

use self::recorder::{Call, Recorder};
use crate::{Connection, Driver, SocketDescriptor, driver::RECEIVE_BUFFER, handler::QUEUE_LIMIT};

/// How long a test waits for an event. A passing test never waits that long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `done` returns true, for conditions that no event reports.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::yield_now();
    }
}

/// Waits until the loop has made `count` whole passes that began after this call.
fn run_passes(sockman: &SockMan, count: u64) {
    // The first pass may be under way already.
    for _ in 0..count + 1 {
        let before = sockman.stats().passes;
        sockman.notify();
        eventually("the loop makes a pass", || sockman.stats().passes > before);
    }
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Closes with a reset instead of an orderly end.
fn reset(stream: TcpStream) {
    socket2::Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A driver that listens, and its manager.
struct Running {
    manager: Arc<Recorder>,
    driver: Driver,
    address: std::net::SocketAddr,
    threads: Option<SocketsThreads>,
}

impl Running {
    fn start() -> Running {
        let manager = Arc::new(Recorder::default());
        let driver = Driver::over(Arc::clone(&manager), Options::default()).unwrap();
        let bound = driver.sockman().bind_and_start_listening("127.0.0.1:0").unwrap();
        let threads = driver.sockman().start_sockets_threads().unwrap();
        let address = bound.to_socket_addr().unwrap();
        Running { manager, driver, address, threads: Some(threads) }
    }

    /// Returns a client, and the descriptor that the manager got for it.
    fn client(&self) -> (TcpStream, SocketDescriptor) {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.set_write_timeout(Some(DEADLINE)).unwrap();
        let address = SocketAddress::from(client.local_addr().unwrap());
        let descriptor = self.manager.wait_for("the connection", |call| match call {
            Call::Inbound(descriptor, of) if of.as_ref() == Some(&address) => {
                Some(descriptor.clone())
            }
            _ => None,
        });
        (client, descriptor)
    }

    /// Waits until the library has reported the end of a connection, and everything after it.
    fn wait_for_end(&self, descriptor: &SocketDescriptor) {
        let sockman = self.driver.sockman();
        eventually("the connection is gone", || sockman.connection_info(descriptor.id()).is_none());
        run_passes(sockman, 3);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.driver.sockman().interrupt();
        let joined = self.threads.take().unwrap().join();
        if !thread::panicking() {
            joined.unwrap();
        }
    }
}

fn node_id(seed: u8) -> PublicKey {
    PublicKey::from_secret_key(&Secp256k1::new(), &SecretKey::from_slice(&[seed; 32]).unwrap())
}

fn disconnects(running: &Running, descriptor: &SocketDescriptor) -> usize {
    running.manager.count(|call| *call == Call::Disconnected(descriptor.clone()))
}

/// Contract: `socket_disconnected` comes once, as the last call, for each end that LDK did not cause.
#[test]
fn each_end_that_ldk_did_not_cause_is_reported_once() {
    let running = Running::start();
    let ends: [fn(&Driver, TcpStream, &SocketDescriptor); 3] = [
        |_, client, _| drop(client),
        |_, client, _| reset(client),
        |driver, _, descriptor| assert!(driver.sockman().close_connection(descriptor.id())),
    ];
    for end in ends {
        let (mut client, descriptor) = running.client();
        client.write_all(b"hello").unwrap();
        running.manager.wait_for_bytes(&descriptor, 5);
        end(&running.driver, client, &descriptor);
        running.manager.wait_for_call(&Call::Disconnected(descriptor.clone()));
        running.wait_for_end(&descriptor);
        assert_eq!(disconnects(&running, &descriptor), 1);
        let calls = running.manager.calls();
        let last = calls.iter().rfind(|call| **call != Call::Events);
        assert_eq!(last, Some(&Call::Disconnected(descriptor.clone())));
        assert_eq!(calls.last(), Some(&Call::Events), "the handlers have heard of the end");
    }
}

/// Contract: after an error of `read_event`, the connection ends, and no call names it.
#[test]
fn no_call_follows_an_error_of_ldk() {
    let running = Running::start();
    let (mut client, descriptor) = running.client();
    running.manager.state().refuse = true;
    client.write_all(b"bad").unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    let _ = client.write_all(b"more");
    drop(client);
    running.wait_for_end(&descriptor);
    let calls = running.manager.calls();
    let last = calls.iter().rfind(|call| **call != Call::Events);
    assert_eq!(last, Some(&Call::Read(descriptor.clone(), b"bad".to_vec())));
}

/// Contract: after an error of `write_buffer_space_avail`, the connection ends, and no call names it.
#[test]
fn no_call_follows_an_error_about_room() {
    let running = Running::start();
    let (mut client, mut descriptor) = running.client();
    while descriptor.send_data(&[1; 60_000], true) == 60_000 {}
    running.manager.state().refuse = true;
    read_to_end(&mut client);
    drop(client);
    running.wait_for_end(&descriptor);
    assert_eq!(running.manager.count(|call| *call == Call::Room(descriptor.clone())), 1);
    assert_eq!(disconnects(&running, &descriptor), 0);
}

/// Contract: a refused connection is closed, and no call names it again.
#[test]
fn a_refused_connection_is_closed_and_not_named_again() {
    let running = Running::start();
    running.manager.state().refuse = true;
    let (mut client, descriptor) = running.client();
    assert_eq!(read_to_end(&mut client), b"");
    let (ours, mut theirs) = pair();
    let connection = running.driver.setup_outbound(node_id(7), ours).unwrap();
    assert!(connection.wait_closed(DEADLINE));
    assert_eq!(read_to_end(&mut theirs), b"");
    running.wait_for_end(&descriptor);
    assert_eq!(running.manager.count(|call| matches!(call, Call::Disconnected(_))), 0);
}

/// Contract: `disconnect_socket` needs no `socket_disconnected`. LDK calls it on any thread, with
/// its lock held, right after it has sent its reason.
#[test]
fn what_ldk_said_last_goes_out_and_no_call_follows() {
    let running = Running::start();
    let (mut client, mut descriptor) = running.client();
    {
        let _lock = running.manager.lock.lock().unwrap();
        assert_eq!(descriptor.send_data(b"goodbye", true), 7);
        descriptor.disconnect_socket();
    }
    let _ = client.write_all(b"unread");
    assert_eq!(read_to_end(&mut client), b"goodbye");
    drop(client);
    running.wait_for_end(&descriptor);
    assert_eq!(disconnects(&running, &descriptor), 0);
    assert_eq!(running.manager.count(|call| matches!(call, Call::Read(..))), 0);
    assert_eq!(descriptor.send_data(b"late", true), 0);
}

/// A connected pair of streams.
fn pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Contract: LDK hears of a connection before its first bytes, also if they have arrived long ago.
#[test]
fn nothing_is_read_before_ldk_knows_the_connection() {
    let running = Running::start();
    for n in 0..50 {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"early").unwrap();
        let (address, their_node_id) = (SocketAddress::from(ours.peer_addr().unwrap()), node_id(7));
        let connection = match n % 2 {
            0 => running.driver.setup_inbound(ours).unwrap(),
            _ => running.driver.setup_outbound(their_node_id, ours).unwrap(),
        };
        if n % 2 == 1 {
            let mut first = [0; 5];
            theirs.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"first");
        }
        drop(theirs);
        assert!(connection.wait_closed(DEADLINE));
        let mut calls = running.manager.calls();
        calls.retain(|call| *call != Call::Events);
        let descriptor = match &calls[0] {
            Call::Inbound(descriptor, _) | Call::Outbound(descriptor, ..) => descriptor.clone(),
            call => panic!("the first call is {call:?}"),
        };
        assert_eq!(descriptor.id(), connection.id());
        let introduced = match n % 2 {
            0 => Call::Inbound(descriptor.clone(), Some(address)),
            _ => Call::Outbound(descriptor.clone(), their_node_id, Some(address)),
        };
        let read = Call::Read(descriptor.clone(), b"early".to_vec());
        assert_eq!(calls, [introduced, read, Call::Disconnected(descriptor)]);
        running.manager.state().calls.clear();
    }
}

/// Contract: without `continue_read` nothing is read, and a call without data changes that.
#[test]
fn reads_pause_until_ldk_continues_them() {
    let running = Running::start();
    let (mut client, mut descriptor) = running.client();
    assert_eq!(descriptor.send_data(&[], false), 0);
    client.write_all(b"waits").unwrap();
    let (mut other, others) = running.client();
    other.write_all(b"passes").unwrap();
    running.manager.wait_for_bytes(&others, 6);
    run_passes(running.driver.sockman(), 3);
    let has_read = |call: &Call| matches!(call, Call::Read(of, _) if *of == descriptor);
    assert_eq!(running.manager.count(has_read), 0);
    assert_eq!(descriptor.clone().send_data(&[], true), 0);
    assert_eq!(running.manager.wait_for_bytes(&descriptor, 5), b"waits");
}

/// Contract: room is reported after a partial send, when there is room, and only then.
#[test]
fn room_is_reported_after_a_partial_send_and_only_then() {
    let running = Running::start();
    let (mut client, mut descriptor) = running.client();
    let mut sent = 0;
    let before = loop {
        let (before, taken) = (rooms_now(&running), descriptor.send_data(&[7; 50_000], true));
        sent += taken;
        if taken < 50_000 {
            // The kernel may take some more. The peer stalls when it does not.
            run_passes(running.driver.sockman(), 3);
            if rooms_now(&running) == before {
                break before;
            }
        }
    };
    let mut left = vec![0; sent];
    client.read_exact(&mut left).unwrap();
    eventually("room is reported", || rooms_now(&running) == before + 1);
    assert_eq!(descriptor.send_data(b"all of it", true), 9);
    client.read_exact(&mut [0; 9]).unwrap();
    run_passes(running.driver.sockman(), 3);
    assert_eq!(rooms_now(&running), before + 1, "everything was taken");
}

fn rooms_now(running: &Running) -> usize {
    running.manager.count(|call| matches!(call, Call::Room(_)))
}

/// G10: one send takes at most what the queue has room for.
#[test]
fn a_queue_takes_128_kibibytes_at_most() {
    let running = Running::start();
    let (mut client, mut descriptor) = running.client();
    let taken = descriptor.send_data(&[9; 1_000_000], true);
    assert_eq!(taken, QUEUE_LIMIT);
    client.read_exact(&mut vec![0; taken]).unwrap();
}

/// Contract: no report of room is lost, whenever the queue runs empty.
#[test]
fn no_report_of_room_is_lost() {
    let running = Running::start();
    let (mut client, descriptor) = running.client();
    let total = 100_000_000;
    running.manager.state().to_send = (0..total).map(|n| (n % 251) as u8).collect();
    let reader = thread::spawn(move || {
        let (mut buffer, mut count) = (vec![0; 1 << 20], 0);
        while count < total {
            let length = client.read(&mut buffer).unwrap();
            assert!(length > 0, "the stream ended after {count} bytes");
            for byte in &buffer[..length] {
                assert_eq!(usize::from(*byte), count % 251);
                count += 1;
            }
        }
    });
    {
        let _lock = running.manager.lock.lock().unwrap();
        running.manager.send_rest(&descriptor);
    }
    reader.join().unwrap();
    assert!(rooms_now(&running) >= total / QUEUE_LIMIT - 1);
}

thread_local! {
    /// What a send of this thread waits for after it has queued its bytes.
    static AFTER_ENQUEUE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Called in `send_data`, between the queue and the note that LDK waits for room.
pub(crate) fn after_enqueue() {
    let wait = AFTER_ENQUEUE.with(|slot| slot.borrow_mut().take());
    wait.into_iter().for_each(|wait| wait());
}

/// Contract: no report of room is lost if the socket thread empties the queue right after another
/// thread has filled it.
#[test]
fn room_is_reported_although_the_queue_is_empty_already() {
    let running = Running::start();
    let (mut client, mut descriptor) = running.client();
    let (sockman, id) = (running.driver.sockman().clone(), descriptor.id());
    let reader = thread::spawn(move || {
        client.read_exact(&mut vec![0; QUEUE_LIMIT]).unwrap();
        client
    });
    let is_sent = move || {
        eventually("the queue is empty", || {
            sockman.connection_info(id).is_some_and(|info| info.bytes_sent == QUEUE_LIMIT as u64)
        });
        run_passes(&sockman, 3);
    };
    AFTER_ENQUEUE.with(|slot| *slot.borrow_mut() = Some(Box::new(is_sent)));
    assert_eq!(descriptor.send_data(&[4; 2 * QUEUE_LIMIT], true), QUEUE_LIMIT);
    running.manager.wait_for_call(&Call::Room(descriptor));
    drop(reader.join().unwrap());
}

/// G6: a reset ends a connection that LDK does not read, although nothing is queued for it.
#[test]
fn a_reset_ends_a_paused_connection() {
    let running = Running::start();
    let (client, mut descriptor) = running.client();
    descriptor.send_data(&[], false);
    reset(client);
    running.manager.wait_for_call(&Call::Disconnected(descriptor));
}

/// Contract: `process_events` follows each call, at most once in a pass, and never an idle pass.
#[test]
fn events_are_processed_once_in_a_pass_with_something_to_process() {
    let running = Running::start();
    let clients: Vec<_> = (0..20).map(|_| running.client()).collect();
    for (client, _) in &clients {
        (&mut &*client).write_all(b"ping").unwrap();
    }
    for (_, descriptor) in &clients {
        running.manager.wait_for_bytes(descriptor, 4);
    }
    let sockman = running.driver.sockman();
    run_passes(sockman, 3);
    let events = || running.manager.count(|call| *call == Call::Events);
    let (idle, passes) = (events(), sockman.stats().passes);
    assert_eq!(running.manager.calls().last(), Some(&Call::Events));
    assert!(idle as u64 <= passes, "{idle} calls in {passes} passes");
    run_passes(sockman, 5);
    assert_eq!(events(), idle, "nothing has happened");
    running.driver.notify();
    eventually("the events are processed", || events() == idle + 1);
}

/// Contract: `read_event` gets about 4 KiB.
#[test]
fn one_read_has_four_kibibytes_at_most() {
    let running = Running::start();
    let (mut client, descriptor) = running.client();
    client.write_all(&[3; 100_000]).unwrap();
    running.manager.wait_for_bytes(&descriptor, 100_000);
    let longest = running.manager.calls().into_iter().map(|call| match call {
        Call::Read(_, data) => data.len(),
        _ => 0,
    });
    assert_eq!(longest.max(), Some(RECEIVE_BUFFER));
}

/// Contract: descriptors are equal only within one connection, also of two drivers.
#[test]
#[allow(clippy::mutable_key_type, reason = "the hash depends on the id alone")]
fn descriptors_are_equal_if_they_name_one_connection() {
    let (first, second) = (Running::start(), Running::start());
    let mut all = HashSet::new();
    for running in [&first, &second, &first, &second] {
        let (client, descriptor) = running.client();
        assert_eq!(descriptor, descriptor.clone());
        assert!(all.iter().all(|other| *other != descriptor));
        assert!(all.insert(descriptor.clone()));
        assert!(!all.insert(descriptor.clone()));
        drop(client);
        running.wait_for_end(&descriptor);
    }
    assert_eq!(all.len(), 4);
}

/// Contract: all threads may send while the socket thread calls LDK, and LDK's lock is held.
#[test]
fn all_threads_may_send_under_the_lock_of_ldk() {
    let running = Running::start();
    let (client, descriptor) = running.client();
    let (mut reading, mut writing) = (client.try_clone().unwrap(), client);
    let (senders, messages) = (4, 2_000);
    thread::scope(|scope| {
        for _ in 0..senders {
            scope.spawn(|| {
                for _ in 0..messages {
                    let (mut descriptor, mut left) = (descriptor.clone(), 100);
                    while left > 0 {
                        let _lock = running.manager.lock.lock().unwrap();
                        left -= descriptor.send_data(&vec![5; left], true);
                    }
                }
            });
        }
        scope.spawn(move || writing.write_all(&[6; 1_000_000]).unwrap());
        reading.read_exact(&mut vec![0; senders * messages * 100]).unwrap();
    });
    running.manager.wait_for_bytes(&descriptor, 1_000_000);
}

/// The outcome of a connect comes once, on the socket thread, and works under LDK's lock.
#[test]
fn the_outcome_of_a_connect_is_reported_once() {
    let running = Running::start();
    let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let open = peer.local_addr().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (sender, outcomes) = mpsc::channel();
    let options = ConnectOptions::default();
    for to in [open, closed] {
        let _lock = running.manager.lock.lock().unwrap();
        let sender = sender.clone();
        let tell = move |outcome| sender.send((to, outcome)).unwrap();
        if let Err(error) = running.driver.start_connect_outbound(node_id(3), to, &options, tell) {
            panic!("{error:#}");
        }
    }
    drop(sender);
    let mut connection: Option<Connection> = None;
    for (to, outcome) in outcomes {
        match outcome {
            Ok(made) if to == open => connection = Some(made),
            Err(error) if to == closed => {
                assert!(matches!(error.kind(), ConnectErrorKind::Refused { .. }), "{error:#}");
            }
            outcome => panic!("{to}: {outcome:?}"),
        }
    }
    let connection = connection.unwrap();
    let mut stream = peer.accept().unwrap().0;
    let mut first = [0; 5];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first");
    assert!(!connection.is_closed());
    drop(stream);
    assert!(connection.wait_closed(DEADLINE));
}

/// A handle reports the end, also if the driver goes without a thread.
#[test]
fn a_handle_outlives_its_driver() {
    let manager = Arc::new(Recorder::default());
    let driver = Driver::over(manager, Options::default()).unwrap();
    let weak = driver.downgrade();
    let (ours, _theirs) = pair();
    let connection = driver.setup_inbound(ours).unwrap();
    assert!(!connection.is_closed());
    assert!(weak.upgrade().is_some());
    drop(driver);
    assert!(connection.wait_closed(DEADLINE));
    assert!(weak.upgrade().is_none());
}
