//! Whole runs: their beginning, their end, their errors.

use std::{
    cell::Cell,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    thread,
};

use crossbeam_channel as chan;
use nakamoto_net::{Io, Link, Reactor as _, error::Error};
use nakamoto_net_sockman::Reactor;
use sockman_test_support::{DEADLINE, read_to_end};

use crate::script::{Call, Events, Request, Running, Script, client};

/// A reactor and its channels, for a run on the thread of the test.
struct Parts {
    reactor: Reactor,
    addresses: chan::Receiver<SocketAddr>,
    end: chan::Sender<()>,
}

fn parts() -> Parts {
    let (end, shutdown) = chan::bounded(1);
    let (listening, addresses) = chan::bounded(1);
    Parts { reactor: Reactor::new(shutdown, listening).unwrap(), addresses, end }
}

impl Parts {
    fn run(
        &mut self,
        listen: &[SocketAddr],
        reaction: &mut dyn FnMut(&Call) -> Vec<Request>,
    ) -> Result<(), Error> {
        let (called, _calls) = chan::unbounded();
        let (published, _events) = chan::unbounded();
        let service = Script::new(called, reaction);
        self.reactor.run(listen, service, Events(published), chan::never())
    }
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// G3, G14: the service runs on the calling thread, need not be `Send`, and may borrow from the
/// caller. The reactor can run again, and then begins anew. A channel of one place for two addresses
/// does not block it.
#[test]
fn a_service_that_borrows_runs_on_the_calling_thread_and_again() {
    let mut parts = parts();
    for round in 0..3 {
        // The run before left its second address, if the first one was taken in time.
        parts.addresses.try_iter().for_each(drop);
        let (me, received) = (thread::current().id(), Rc::new(Cell::new(0)));
        let (addresses, end) = (parts.addresses.clone(), parts.end.clone());
        let waker = parts.reactor.waker();
        let other = thread::spawn(move || {
            let mut stream = client(addresses.recv_timeout(DEADLINE).unwrap());
            stream.write_all(b"hello").unwrap();
            stream.read_exact(&mut [0; 1]).unwrap();
            end.send(()).unwrap();
            nakamoto_net::Waker::wake(&waker).unwrap();
            read_to_end(&mut stream)
        });
        let mut reaction = |call: &Call| {
            assert_eq!(thread::current().id(), me);
            if let Call::Received(peer, bytes) = call {
                received.set(received.get() + bytes.len());
                if received.get() == 5 {
                    return vec![Io::Write(*peer, vec![1])];
                }
            }
            Vec::new()
        };
        parts.run(&[any(), any()], &mut reaction).unwrap();
        assert_eq!(received.get(), 5, "round {round}");
        assert_eq!(other.join().unwrap(), b"");
        let stats = parts.reactor.sockman().stats();
        assert_eq!((stats.connections, stats.listeners), (0, 0));
    }
}

/// The end: what is queued at the shutdown goes out. Then the peer sees the end of the stream.
#[test]
fn what_is_queued_at_the_shutdown_goes_out() {
    const BYTES: usize = 200_000;
    let running = Running::start();
    let (mut stream, peer) = running.client();
    running.commands.send(vec![Io::Write(peer, vec![5; BYTES])]).unwrap();
    running.shut_down();
    assert_eq!(read_to_end(&mut stream).len(), BYTES);
    running.end().unwrap();
}

/// The end: a connect under way does not delay it, and the address is free afterwards.
#[test]
fn a_connect_under_way_does_not_delay_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::start();
    let address = running.addresses[0];
    running.commands.send(vec![Io::Connect(listener.local_addr().unwrap())]).unwrap();
    running.end().unwrap();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// Errors: an address that is taken is an error, and the other listeners are closed. The service is
/// not called.
#[test]
fn an_address_that_is_taken_ends_the_run() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut parts = parts();
    let mut reaction = |call: &Call| panic!("{call:?}");
    let error = parts.run(&[any(), taken.local_addr().unwrap()], &mut reaction).unwrap_err();
    let Error::Io(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let address = parts.addresses.recv_timeout(DEADLINE).unwrap();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// G12: a panic of the service ends the run, with everything closed, and goes on on the thread of the
/// caller.
#[test]
fn a_panic_of_the_service_goes_on() {
    let running = Running::reacting(|call| {
        if let Call::Received(..) = call {
            std::panic::resume_unwind(Box::new("on purpose".to_owned()));
        }
        Vec::new()
    });
    let (mut stream, _) = running.client();
    stream.write_all(b"panic").unwrap();
    assert_eq!(read_to_end(&mut stream), b"");
    assert_eq!(running.wait_for_panic(), "on purpose");
}

/// The beginning: what the service asks for in `initialize` is done.
#[test]
fn a_service_connects_when_it_is_initialized() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    let running = Running::reacting(move |call| match call {
        Call::Initialized => vec![Io::Connect(peer)],
        _ => Vec::new(),
    });
    let me = listener.accept().unwrap().1;
    running.wait_for_call(&Call::Connected { peer, me, link: Link::Outbound });
}
