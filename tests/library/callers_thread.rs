//! The loop on the caller's thread: `SockMan::run_sockets_thread` keeps the guarantees of
//! `start_sockets_threads` and `join`. The sweep is off in all tests of this module.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, ThreadId},
    time::Duration,
};

use sockman::{
    ConnectOptions, ConnectionId, EventHandler, Interrupt, Options, Service, SockMan, WeakSockMan,
    error::{ConnectErrorKind, RunError, StartError},
    sys::errors,
    testing::{Call, Network},
};
use sockman_test_support::{DEADLINE, Event, Recorder, without_sweep};

fn listening(handler: Arc<dyn EventHandler>, options: Options) -> (SockMan, SocketAddr) {
    let sockman = SockMan::new(handler, options).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    (sockman, bound.to_socket_addr().unwrap())
}

fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// An echo that remembers its thread. `quit` interrupts.
#[derive(Default)]
struct Echo {
    threads: Mutex<Vec<ThreadId>>,
}

impl EventHandler for Echo {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.threads.lock().unwrap().push(thread::current().id());
        sockman.send_bytes(id, data).unwrap();
        if data == b"quit" {
            sockman.interrupt();
        }
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        sockman.close_connection(id);
    }
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

/// G3, G14: the callbacks run on the calling thread, an interrupt in a callback ends the loop, and
/// the loop can be run and started again, with the same connections.
#[test]
fn the_loop_runs_on_the_calling_thread_and_can_run_again() {
    let echo = Arc::new(Echo::default());
    let (sockman, address) = listening(echo.clone(), without_sweep());
    let mut stream = client(address);
    for _ in 0..3 {
        // The bytes wait in the kernel until the loop runs.
        stream.write_all(b"quit").unwrap();
        sockman.run_sockets_thread().unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
    }
    assert_eq!(*echo.threads.lock().unwrap(), [thread::current().id(); 3]);
    let threads = sockman.start_sockets_threads().unwrap();
    stream.write_all(b"quit").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    threads.join().unwrap();
    assert_ne!(echo.threads.lock().unwrap()[3], thread::current().id());
    stream.write_all(b"quit").unwrap();
    sockman.run_sockets_thread().unwrap();
    assert_eq!(sockman.stats().accepted, 1);
}

/// G9, G14: an interrupt on another thread ends the loop.
#[test]
fn an_interrupt_on_another_thread_ends_the_loop() {
    let (sockman, address) = listening(Arc::new(Echo::default()), without_sweep());
    for _ in 0..20 {
        let interrupter = {
            let sockman = sockman.clone();
            thread::spawn(move || {
                let mut stream = client(address);
                stream.write_all(b"ping").unwrap();
                stream.read_exact(&mut [0; 4]).unwrap();
                sockman.interrupt();
            })
        };
        sockman.run_sockets_thread().unwrap();
        interrupter.join().unwrap();
    }
}

/// G14: the errors of a start. An interrupt that was set before is kept until its owner resets it.
#[test]
fn a_loop_that_was_interrupted_before_does_not_begin() {
    let shared = Interrupt::new();
    let echo = Arc::new(Echo::default());
    let options = without_sweep().interrupt(shared.clone());
    let (sockman, address) = listening(echo.clone(), options);
    let mut stream = client(address);
    stream.write_all(b"quit").unwrap();
    sockman.interrupt();
    for _ in 0..2 {
        let error = sockman.run_sockets_thread().unwrap_err();
        assert!(matches!(error, RunError::Interrupted), "{error}");
    }
    assert!(sockman.reset_interrupt());
    shared.interrupt();
    let error = sockman.run_sockets_thread().unwrap_err();
    assert!(matches!(error, RunError::Interrupted), "{error}");
    assert!(shared.is_interrupted() && echo.threads.lock().unwrap().is_empty());
    shared.reset();
    sockman.run_sockets_thread().unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
}

/// G14: the loop and the threads exclude each other, and the second one leaves the first one alone.
#[test]
fn two_loops_at_once_are_refused() {
    let (sockman, address) = listening(Arc::new(Echo::default()), without_sweep());
    let threads = sockman.start_sockets_threads().unwrap();
    let error = sockman.run_sockets_thread().unwrap_err();
    assert!(matches!(error, RunError::AlreadyStarted), "{error}");
    assert!(!threads.is_finished());
    sockman.interrupt();
    threads.join().unwrap();
    let other = {
        let sockman = sockman.clone();
        thread::spawn(move || {
            let mut stream = client(address);
            stream.write_all(b"ping").unwrap();
            // The answer shows that the loop runs.
            stream.read_exact(&mut [0; 4]).unwrap();
            let error = sockman.run_sockets_thread().unwrap_err();
            assert!(matches!(error, RunError::AlreadyStarted), "{error}");
            let error = sockman.start_sockets_threads().unwrap_err();
            assert!(matches!(error, StartError::AlreadyStarted), "{error}");
            assert!(!sockman.reset_interrupt());
            stream.write_all(b"quit").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
        })
    };
    sockman.run_sockets_thread().unwrap();
    other.join().unwrap();
}

/// Calls `run_sockets_thread` of two `SockMan`s and `connect` in a callback, and interrupts.
struct Nested {
    other: SockMan,
    to: SocketAddr,
    ran: AtomicUsize,
}

impl EventHandler for Nested {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        for nested in [sockman, &self.other] {
            let error = nested.run_sockets_thread().unwrap_err();
            assert!(matches!(error, RunError::OnLibraryThread), "{error}");
        }
        // The thread is still the socket thread of this `SockMan`.
        let error = sockman.connect(self.to, &ConnectOptions::default()).unwrap_err();
        assert!(matches!(error.kind(), ConnectErrorKind::OnSocketThread), "{error}");
        self.ran.fetch_add(1, Ordering::SeqCst);
        sockman.interrupt();
        true
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
}

/// Misuse: in a callback the call is an error, for the same and for another `SockMan`. After the
/// loop, the calling thread is an ordinary thread again.
#[test]
fn a_loop_in_a_callback_is_refused() {
    let (other, to) = listening(Arc::new(Echo::default()), without_sweep());
    let nested = Arc::new(Nested { other, to, ran: AtomicUsize::new(0) });
    let (sockman, address) = listening(nested.clone(), without_sweep());
    for threads in [false, true] {
        let _client = client(address);
        if threads {
            sockman.start_sockets_threads().unwrap().join().unwrap();
        } else {
            sockman.run_sockets_thread().unwrap();
        }
    }
    assert_eq!(nested.ran.load(Ordering::SeqCst), 2);
    assert!(sockman.connect(to, &ConnectOptions::default()).is_ok());
}

/// G12: the panic of a callback is returned and does not unwind, nothing is lost, and the loop can
/// run again.
#[test]
fn a_panic_of_a_callback_is_returned() {
    let recorder = Recorder::with_reaction(|sockman, event| match event {
        Event::Data(_, data) if data == b"panic" => {
            std::panic::resume_unwind(Box::new("on purpose".to_owned()));
        }
        Event::Data(_, data) if data == b"quit" => sockman.interrupt(),
        _ => {}
    });
    let (sockman, address) = listening(recorder.clone(), without_sweep());
    let mut stream = client(address);
    stream.write_all(b"panic").unwrap();
    let error = sockman.run_sockets_thread().unwrap_err();
    assert!(error.to_string().contains("on purpose"), "{error}");
    let RunError::Panicked(panic) = error else { panic!("{error}") };
    assert_eq!(panic.message(), "on purpose");
    assert_eq!(sockman.stats().panics, 1);
    stream.write_all(b"quit").unwrap();
    sockman.run_sockets_thread().unwrap();
    assert_eq!(recorder.received(recorder.wait_for_accepted(0)), b"panicquit");
}

/// G14: a poller that fails ends the loop with its error.
#[test]
fn a_poller_that_fails_ends_the_loop() {
    let network = Network::new();
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(Arc::new(Echo::default()), options).unwrap();
    network.fail_next(Call::Poll, errors::EBADF);
    let error = sockman.run_sockets_thread().unwrap_err();
    let RunError::Poll(source) = error else { panic!("{error}") };
    assert_eq!(source.raw_os_error(), Some(errors::EBADF));
    assert!(sockman.start_sockets_threads().is_ok());
}

/// Timers: the loop sleeps until the deadline of the handler and no longer, on one thread alone.
#[test]
fn a_timer_ends_the_loop_of_a_program_with_one_thread() {
    struct Timer {
        sockman: OnceLock<WeakSockMan>,
        network: Network,
        at: std::time::Instant,
    }
    impl EventHandler for Timer {
        fn event_new_connection_accepted(
            &self,
            _: &SockMan,
            _: ConnectionId,
            _: &Service,
            _: &Service,
        ) -> bool {
            false
        }
        fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
        fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
        fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
        fn event_io_loop_completed_for_all(&self, _: &SockMan) {
            if self.network.now() >= self.at {
                self.sockman.get().unwrap().upgrade().unwrap().interrupt();
            }
        }
        fn next_deadline(&self) -> Option<std::time::Instant> {
            Some(self.at)
        }
    }
    let network = Network::new();
    let at = network.now() + Duration::from_secs(3600);
    let timer = Timer { sockman: OnceLock::new(), network: network.clone(), at };
    let timer = Arc::new(timer);
    let options = without_sweep().sock_factory(network.factory());
    let sockman = SockMan::new(timer.clone(), options).unwrap();
    timer.sockman.set(sockman.downgrade()).unwrap();
    sockman.run_sockets_thread().unwrap();
    assert_eq!(network.elapsed(), Duration::from_secs(3600));
    assert!(sockman.stats().passes < 10);
}

/// G3, G4: a closure that borrows, and is not `Send`, runs in each pass on the calling thread. A
/// notify of another thread before or during the closure is followed by a call, so nothing that the
/// other thread has put into a queue waits.
#[test]
fn a_closure_that_is_not_send_runs_in_each_pass() {
    const ROUNDS: usize = 1000;
    let (sockman, _) = listening(Arc::new(Echo::default()), without_sweep());
    let (sender, queue) = mpsc::channel();
    let (told, answers) = mpsc::channel();
    let other = {
        let sockman = sockman.clone();
        thread::spawn(move || {
            for number in 0..ROUNDS {
                sender.send(number).unwrap();
                sockman.notify();
                assert_eq!(answers.recv_timeout(DEADLINE).unwrap(), number);
            }
        })
    };
    let (me, taken) = (thread::current().id(), Rc::new(RefCell::new(Vec::new())));
    let mut calls = 0;
    sockman
        .run_sockets_thread_with(|sockman| {
            calls += 1;
            assert_eq!(thread::current().id(), me);
            for number in queue.try_iter() {
                taken.borrow_mut().push(number);
                let _ = told.send(number);
            }
            if taken.borrow().len() == ROUNDS {
                sockman.interrupt();
            }
        })
        .unwrap();
    other.join().unwrap();
    assert!(taken.borrow().iter().copied().eq(0..ROUNDS));
    assert_eq!(calls, sockman.stats().passes);
}

/// The closure gets what the callbacks of the pass before have put into a queue, before the loop
/// sleeps, and what it sends goes out. G12: its panic is returned, and the loop can run again.
#[test]
fn a_closure_answers_what_the_callbacks_have_queued() {
    let (queue, inputs) = mpsc::channel();
    let recorder = Recorder::with_reaction(move |_, event| {
        if let Event::Data(id, data) = event {
            queue.send((*id, data.clone())).unwrap();
        }
    });
    let (sockman, address) = listening(recorder, without_sweep());
    let mut stream = client(address);
    stream.write_all(b"panic").unwrap();
    let mut answer = |sockman: &SockMan| {
        for (id, data) in inputs.try_iter() {
            if data == b"panic" {
                std::panic::resume_unwind(Box::new("on purpose".to_owned()));
            }
            sockman.send_bytes(id, &data).unwrap();
            sockman.interrupt();
        }
    };
    let error = sockman.run_sockets_thread_with(&mut answer).unwrap_err();
    let RunError::Panicked(panic) = error else { panic!("{error}") };
    assert_eq!(panic.message(), "on purpose");
    stream.write_all(b"hello").unwrap();
    sockman.run_sockets_thread_with(&mut answer).unwrap();
    let mut received = [0; 5];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"hello");
}

/// I2P: the second thread is started, and has ended before the call returns.
#[cfg(feature = "i2p")]
#[test]
fn the_i2p_accept_thread_has_ended_when_the_loop_returns() {
    use sockman::i2p::{I2pOptions, I2pStatus};
    use sockman_test_support::tools::TempDir;

    struct Statuses {
        seen: Mutex<Vec<(I2pStatus, ThreadId)>>,
    }
    impl EventHandler for Statuses {
        fn event_new_connection_accepted(
            &self,
            _: &SockMan,
            _: ConnectionId,
            _: &Service,
            _: &Service,
        ) -> bool {
            false
        }
        fn event_got_data(&self, _: &SockMan, _: ConnectionId, _: &[u8]) {}
        fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
        fn event_got_permanent_read_error(&self, _: &SockMan, _: ConnectionId, _: &io::Error) {}
        fn event_i2p_status(&self, sockman: &SockMan, _: Option<&Service>, status: I2pStatus) {
            self.seen.lock().unwrap().push((status, thread::current().id()));
            // Misuse on the other thread of the library.
            let error = sockman.run_sockets_thread().unwrap_err();
            assert!(matches!(error, RunError::OnLibraryThread), "{error}");
            sockman.interrupt();
        }
    }
    let statuses = Arc::new(Statuses { seen: Mutex::default() });
    let directory = TempDir::new();
    // No bridge listens at this path, so the first attempt fails at once.
    let bridge = Service::unix(directory.path("bridge")).unwrap();
    let i2p = I2pOptions::new(bridge).key_file(directory.path("key")).accept_incoming(true);
    let sockman = SockMan::new(statuses.clone(), without_sweep().i2p(i2p)).unwrap();
    for round in 1..=2 {
        sockman.run_sockets_thread().unwrap();
        let seen = statuses.seen.lock().unwrap();
        assert_eq!(seen.len(), round);
        assert!(seen.iter().all(|(status, _)| matches!(status, I2pStatus::StopListening)));
        assert!(seen.iter().all(|(_, id)| *id != thread::current().id()));
    }
    // The thread is gone, so nothing but this test and the handle refers to the handler.
    drop(sockman);
    assert_eq!(Arc::strong_count(&statuses), 1);
}
