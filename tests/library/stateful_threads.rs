//! The layer `stateful` over loopback: remotes on many threads, and connections from I2P. The sweep
//! is off.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use sockman::{
    ConnectOptions, ConnectionId, Options, Service, SockMan,
    address::Destination,
    stateful::{Handler, Link, Remote, StreamParts},
};
use sockman_test_support::{Running, eventually, read_to_end, without_sweep};

/// An echo. The value counts the bytes.
#[derive(Default)]
struct Echo {
    remotes: Mutex<Vec<Remote<u64>>>,
    closed: Mutex<Vec<(ConnectionId, u64)>>,
}

impl Handler for Echo {
    type Connection = u64;

    fn accepted(&self, link: Link<'_, u64>, _: &Service, _: &Service) -> Option<u64> {
        self.remotes.lock().unwrap().push(link.remote());
        Some(0)
    }
    fn connected(&self, link: Link<'_, u64>, _: &Destination, _: &Service) -> Option<u64> {
        link.push(b"hello").unwrap();
        Some(1000)
    }
    fn got_data(&self, link: Link<'_, u64>, bytes: &mut u64, data: &[u8]) {
        *bytes += data.len() as u64;
        if link.push(data).is_err() {
            link.close();
        }
    }
    fn closed(&self, _: &SockMan, id: ConnectionId, bytes: u64) {
        self.closed.lock().unwrap().push((id, bytes));
    }
}

impl Echo {
    fn start(options: Options) -> (Arc<Echo>, Running) {
        let echo = Arc::new(Echo::default());
        let sockman = SockMan::with_state(Arc::clone(&echo), options).unwrap();
        let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
        let threads = Some(sockman.start_sockets_threads().unwrap());
        (echo, Running { sockman, address: bound.to_socket_addr().unwrap(), threads })
    }

    fn wait_for_remote(&self) -> Remote<u64> {
        eventually("a connection is accepted", || !self.remotes.lock().unwrap().is_empty());
        self.remotes.lock().unwrap()[0].clone()
    }
}

/// Bytes that a peer sends while it reads nothing come back whole, after its end of stream too.
#[test]
fn an_echo_with_back_pressure_loses_nothing() {
    const LENGTH: usize = 32 << 20;
    let (echo, running) = Echo::start(without_sweep());
    let mut client = running.client();
    let mut sender = client.try_clone().unwrap();
    let sender = thread::spawn(move || {
        sender.write_all(&vec![7; LENGTH]).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(read_to_end(&mut client).len(), LENGTH);
    sender.join().unwrap();
    eventually("the value is back", || echo.closed.lock().unwrap().len() == 1);
    assert_eq!(echo.closed.lock().unwrap()[0].1, LENGTH as u64);
}

/// The value comes back when the stream of its connection leaves: on another thread, in a closure on
/// the socket thread, and before the activation.
#[cfg(unix)]
#[test]
fn the_value_comes_back_when_the_stream_leaves() {
    let (echo, running) = Echo::start(without_sweep());
    let sockman = &running.sockman;
    let wait_for = |count: usize| {
        eventually("the value is back", || echo.closed.lock().unwrap().len() == count);
        echo.closed.lock().unwrap()[count - 1]
    };
    let mut client = running.client();
    let remote = echo.wait_for_remote();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let mut stream = TcpStream::from(sockman.into_stream(remote.id()).unwrap());
    stream.set_nonblocking(false).unwrap();
    assert_eq!(wait_for(1), (remote.id(), 1));
    assert!(remote.is_closed() && remote.push(b"y").is_err() && remote.run(|_, _| {}).is_err());
    client.write_all(b"y").unwrap();
    stream.read_exact(&mut [0]).unwrap();

    let _client = running.client();
    eventually("a connection is accepted", || echo.remotes.lock().unwrap().len() == 2);
    let remote = echo.remotes.lock().unwrap()[1].clone();
    let (sender, stream) = mpsc::channel();
    let take_out = move |link: Link<'_, u64>, bytes: &mut u64| {
        *bytes = 7;
        sender.send(link.sockman().into_stream(link.id())).unwrap();
        assert!(link.is_closed() && link.push(b"z").is_err());
    };
    remote.run(take_out).unwrap();
    let _stream = stream.recv().unwrap().unwrap();
    assert_eq!(wait_for(2), (remote.id(), 7));

    let (ours, _theirs) = UnixStream::pair().unwrap();
    let new = sockman.add_connection(ours).unwrap();
    let _stream = sockman.into_stream(new.id()).unwrap();
    let id = new.activate_with(9_u64).unwrap().id();
    assert_eq!(wait_for(3), (id, 9));
    assert_eq!(sockman.stats().connections, 0);
}

/// G5: what was queued leaves with the stream. Together with what the kernel has taken, it is what
/// was pushed. A thread that pushes meanwhile gets an error for what does not leave.
#[test]
fn what_was_queued_leaves_with_the_stream() {
    let (echo, running) = Echo::start(without_sweep());
    let mut client = running.client();
    let remote = echo.wait_for_remote();
    let pusher = {
        let remote = remote.clone();
        thread::spawn(move || {
            (0..).take_while(|n: &u64| remote.push(&n.to_be_bytes()).is_ok()).count()
        })
    };
    eventually("the kernel's buffers are full", || remote.queue().queued() > 100_000);
    let (sender, parts) = mpsc::channel();
    remote.run(move |link, _| drop(sender.send(link.into_stream()))).unwrap();
    let StreamParts { stream, unsent, .. } = parts.recv().unwrap().unwrap();
    let pushed = pusher.join().unwrap();
    assert!(!unsent.is_empty() && !remote.queue().has_queued());
    let mut stream = TcpStream::from(stream);
    stream.set_nonblocking(false).unwrap();
    let sender = thread::spawn(move || stream.write_all(&unsent).unwrap());
    let got = read_to_end(&mut client);
    sender.join().unwrap();
    let expected: Vec<u8> = (0..pushed as u64).flat_map(u64::to_be_bytes).collect();
    assert!(got == expected, "{} of {} bytes, or other bytes", got.len(), expected.len());
}

/// Eight threads push, wake and run closures. Each closure that was taken runs once or, after the
/// close, is dropped. No byte of a push is lost or mixed.
#[test]
fn remotes_on_eight_threads_lose_no_closure_and_no_byte() {
    const ROUNDS: usize = 500;
    let (echo, running) = Echo::start(without_sweep());
    let mut client = running.client();
    let remote = echo.wait_for_remote();
    let ran = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8_u8)
        .map(|n| {
            let (remote, ran) = (remote.clone(), Arc::clone(&ran));
            thread::spawn(move || {
                for _ in 0..ROUNDS {
                    remote.push(&[n; 16]).unwrap();
                    remote.wake();
                    let ran = Arc::clone(&ran);
                    remote
                        .run(move |_, bytes| {
                            *bytes += 1;
                            ran.fetch_add(1, SeqCst);
                        })
                        .unwrap();
                }
            })
        })
        .collect();
    let mut got = vec![0; 8 * ROUNDS * 16];
    client.read_exact(&mut got).unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(got.chunks(16).all(|piece| piece.iter().all(|byte| *byte == piece[0])));
    eventually("all closures have run", || ran.load(SeqCst) == 8 * ROUNDS);

    // A close races with closures. The answer of each is its run, or the end of its channel.
    let barrier = Arc::new(Barrier::new(9));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (remote, barrier) = (remote.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                let mut answers = 0_u64;
                loop {
                    let (sender, answer) = mpsc::channel();
                    let sent = remote.run(move |_, bytes| {
                        *bytes += 1;
                        let _ = sender.send(());
                    });
                    if sent.is_err() || answer.recv().is_err() {
                        return answers;
                    }
                    answers += 1;
                }
            })
        })
        .collect();
    barrier.wait();
    thread::yield_now();
    assert!(remote.close());
    let answers: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    eventually("the value is back", || echo.closed.lock().unwrap().len() == 1);
    let bytes = echo.closed.lock().unwrap()[0].1;
    assert_eq!(bytes, (8 * ROUNDS) as u64 + answers);
    assert_eq!(read_to_end(&mut client), b"");
}

/// Both ways to connect, and the closes of eight threads that race with the activation: each value
/// comes back once.
#[test]
fn values_of_connects_come_back_once_whoever_closes() {
    const ROUNDS: usize = 40;
    let (echo, running) = Echo::start(without_sweep());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = listener.local_addr().unwrap();
    let mut streams = Vec::new();
    for round in 0..ROUNDS {
        let new = running.sockman.connect(there, &ConnectOptions::default()).unwrap();
        let id = new.id();
        let closers: Vec<_> = (0..4)
            .map(|_| {
                let sockman = running.sockman.clone();
                thread::spawn(move || sockman.close_connection(id))
            })
            .collect();
        new.activate_with(round as u64).unwrap();
        let closed = closers.into_iter().map(|closer| closer.join().unwrap());
        assert_eq!(closed.filter(|closed| *closed).count(), 1);
        streams.push(listener.accept().unwrap().0);
        eventually("the value is back", || echo.closed.lock().unwrap().len() == round + 1);
        assert_eq!(echo.closed.lock().unwrap()[round], (id, round as u64));
    }
    let id = running.sockman.start_connect(there, &ConnectOptions::default()).unwrap();
    let mut stream = listener.accept().unwrap().0;
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    drop(stream);
    eventually("the value is back", || echo.closed.lock().unwrap().len() == ROUNDS + 1);
    assert_eq!(echo.closed.lock().unwrap()[ROUNDS], (id, 1000));
}

/// A remote reports the connection as the `SockMan` does, until the close.
#[test]
fn a_remote_reports_its_connection_until_the_close() {
    let (echo, running) = Echo::start(without_sweep());
    let mut client = running.client();
    let remote = echo.wait_for_remote();
    client.write_all(b"four").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    // The answer may arrive before it is counted.
    eventually("the answer is counted", || remote.info().unwrap().bytes_sent == 4);
    let info = remote.info().unwrap();
    assert_eq!(Some(&info), running.sockman.connection_info(remote.id()).as_ref());
    assert_eq!(info.bytes_received, 4);
    // The socket thread keeps the connection in memory during the closure.
    let (sender, after_close) = mpsc::channel();
    let itself = remote.clone();
    let close = move |_: Link<'_, u64>, _: &mut u64| {
        assert!(itself.close());
        sender.send(itself.info()).unwrap();
    };
    remote.run(close).unwrap();
    assert_eq!(after_close.recv().unwrap(), None);
}

/// Peers from I2P are accepted on another thread. Their values reach the socket thread, and
/// closures that are sent before the connection is polled wait for it.
#[cfg(feature = "i2p")]
#[test]
fn values_of_peers_from_i2p_are_made_on_the_accept_thread_and_come_back() {
    use sockman::i2p::{I2pOptions, I2pStatus};
    use sockman_test_support::{
        sam::Bridge,
        tools::{TempDir, run_passes},
    };

    #[derive(Default)]
    struct FromI2p {
        listens: AtomicUsize,
        closed: Mutex<Vec<String>>,
        closes: Mutex<bool>,
    }
    impl Handler for FromI2p {
        type Connection = String;
        fn accepted(&self, link: Link<'_, String>, _: &Service, _: &Service) -> Option<String> {
            for word in ["one ", "two "] {
                link.remote().run(move |_, text| text.push_str(word)).unwrap();
            }
            // The socket thread takes the closures before the mark of the new connection.
            run_passes(link.sockman(), 2);
            if *self.closes.lock().unwrap() {
                link.close();
            }
            Some(format!("{} ", thread::current().name().unwrap()))
        }
        fn got_data(&self, _: Link<'_, String>, text: &mut String, data: &[u8]) {
            text.push_str(&String::from_utf8_lossy(data));
        }
        fn closed(&self, _: &SockMan, _: ConnectionId, text: String) {
            self.closed.lock().unwrap().push(text);
        }
        fn i2p_status(&self, _: &SockMan, _: Option<&Service>, status: I2pStatus) {
            if status == I2pStatus::StartListening {
                self.listens.fetch_add(1, SeqCst);
            }
        }
    }

    let (bridge, directory) = (Bridge::start(), TempDir::new());
    let i2p = I2pOptions::new(bridge.address.clone())
        .key_file(directory.path("key"))
        .accept_incoming(true);
    let handler = Arc::new(FromI2p::default());
    let sockman = SockMan::with_state(Arc::clone(&handler), without_sweep().i2p(i2p)).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    eventually("the bridge listens", || handler.listens.load(SeqCst) == 1);
    for n in 0..20 {
        *handler.closes.lock().unwrap() = n % 2 == 1;
        drop(bridge.peer_connects(200 + n, b"data"));
        let back = usize::from(n) + 1;
        eventually("the value is back", || handler.closed.lock().unwrap().len() == back);
    }
    for (n, text) in handler.closed.lock().unwrap().iter().enumerate() {
        let (thread, rest) = text.split_once(' ').unwrap();
        assert_ne!(thread, "net", "the accept thread made the value");
        assert_eq!(rest, if n % 2 == 1 { "" } else { "one two data" });
    }
    sockman.interrupt();
    threads.join().unwrap();
}

/// Dropped slowly, so that a pass drops only one closure.
struct Slow;

impl Drop for Slow {
    fn drop(&mut self) {
        thread::sleep(Duration::from_millis(2));
    }
}

/// A drain leaves no closure of a closed connection behind: a caller that waits for the end of its
/// channel does not wait for the next start.
#[test]
fn a_drain_drops_the_closures_that_are_left_over() {
    let (echo, mut running) = Echo::start(without_sweep());
    let _client = TcpStream::connect(running.address).unwrap();
    eventually("the client is accepted", || echo.remotes.lock().unwrap().len() == 1);
    let remote = echo.remotes.lock().unwrap().remove(0);
    let (began, (sender, answer)) = (Arc::new(Barrier::new(2)), mpsc::channel::<()>());
    let begins = Arc::clone(&began);
    remote
        .run(move |link, _| {
            begins.wait(); // The other closures are queued now.
            link.sockman().drain_and_stop(Duration::ZERO);
        })
        .unwrap();
    for _ in 0..20 {
        let held = (Slow, sender.clone());
        remote.run(move |_, _| drop(held)).unwrap();
    }
    drop(sender);
    began.wait();
    running.threads.take().unwrap().join().unwrap();
    assert_eq!(answer.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}
