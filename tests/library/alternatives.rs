//! A connect to several addresses (RFC 8305), over the doubles with their clock, and over loopback.
//! Both ways to connect give the same result.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::Duration,
};

use sockman::{
    ConnectOptions, ConnectionId, Interrupt, Service, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, ConnectFault},
    stats::HangUp,
    sys::errors,
    testing::{Call, Network, PeerListener, SocketThreadByHand},
};
use sockman_test_support::{
    DEADLINE, Event, Recorder, Running, blackhole::Blackhole, drivers::DRIVERS, without_sweep,
};

const MS: Duration = Duration::from_millis(1);

struct Rig {
    network: Network,
    recorder: Arc<Recorder>,
    sockman: SockMan,
    thread: SocketThreadByHand,
}

fn at(n: u16) -> Service {
    format!("10.0.0.9:{n}").parse().unwrap()
}

/// Options for a connect with these further addresses.
fn and(further: impl IntoIterator<Item = u16>) -> ConnectOptions {
    ConnectOptions::default()
        .timeout(Duration::from_secs(2))
        .alternatives(further.into_iter().map(at))
}

impl Rig {
    fn new() -> Rig {
        let (network, recorder) = (Network::new(), Recorder::new());
        let options = without_sweep().sock_factory(network.factory()).max_connections(1);
        let sockman = SockMan::new(recorder.clone(), options).unwrap();
        let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        Rig { network, recorder, sockman, thread }
    }

    fn silent(&self, addresses: impl IntoIterator<Item = u16>) {
        addresses.into_iter().for_each(|n| self.network.ignore(&at(n)));
    }

    fn listen(&self, n: u16) -> PeerListener {
        self.network.listen(&at(n)).unwrap()
    }

    fn run(&mut self, time: Duration) {
        self.thread.run_for(time).unwrap();
    }

    /// Returns the destination and the outcome that were reported.
    fn outcome(&self) -> Option<(Destination, bool)> {
        self.recorder.events().into_iter().find_map(|event| match event {
            Event::ConnectCompleted { to, outcome, .. } => Some((to, outcome.is_ok())),
            _ => None,
        })
    }

    fn connects(&self) -> u64 {
        self.network.calls(Call::Connect)
    }
}

fn errors(error: ConnectError) -> Vec<(u16, &'static str)> {
    let ConnectErrorKind::AllFailed { errors } = error.into_kind() else {
        panic!("the kind must be AllFailed")
    };
    let of_one = |error: ConnectError| {
        let port = error.to().unwrap().service().unwrap().port();
        let kind = match error.kind() {
            ConnectErrorKind::Refused { .. } => "refused",
            ConnectErrorKind::TimedOut { .. } => "timed out",
            ConnectErrorKind::Os { step: "socket", .. } => "socket",
            ConnectErrorKind::Os { step: "getsockname", .. } => "getsockname",
            ConnectErrorKind::NeedsProxy => "needs proxy",
            kind => panic!("{kind:?}"),
        };
        (port, kind)
    };
    errors.into_iter().map(of_one).collect()
}

/// The attempts begin 250 ms apart, each with the time that is left. The first that succeeds wins.
#[test]
fn silent_addresses_delay_the_next_by_a_quarter_of_a_second_each() {
    let mut rig = Rig::new();
    rig.silent([1, 2]);
    let listener = rig.listen(3);
    let id = rig.sockman.start_connect(at(1), &and([2, 3])).unwrap();
    rig.run(249 * MS);
    assert_eq!(rig.connects(), 1);
    rig.run(MS);
    rig.run(MS);
    assert_eq!(rig.connects(), 2);
    rig.run(248 * MS);
    assert_eq!((rig.connects(), rig.outcome()), (2, None));
    rig.run(2 * MS);
    assert_eq!(rig.connects(), 3);
    assert_eq!(rig.outcome(), Some((at(3).into(), true)));
    // The connection has the address that was reached, and works.
    let info = rig.sockman.connection_info(id).unwrap();
    assert_eq!(info.them, Destination::from(at(3)));
    let peer = listener.accept().unwrap();
    assert!(info.me.to_string().starts_with("10.0.0."), "{}", info.me);
    peer.send(b"hello").unwrap();
    rig.run(MS);
    assert_eq!(rig.recorder.received(id), b"hello");
    assert_eq!(rig.sockman.send_bytes(id, b"answer").unwrap(), 6);
    assert_eq!(peer.receive().0, b"answer");
    // The other attempts are over, and cost nothing.
    assert_eq!(rig.network.descriptors(), 1);
    assert_eq!(rig.network.registered_tokens().len(), 1);
    rig.run(Duration::from_secs(5));
    assert_eq!(rig.connects(), 3);
    assert_eq!(rig.recorder.events_of(id).len(), 2);
    assert!(rig.sockman.close_connection(id));
    rig.run(MS);
    assert_eq!(rig.network.descriptors(), 0);
}

/// A failure begins the next attempt at once. The errors of all attempts are reported in the order
/// of the addresses.
#[test]
fn a_failure_begins_the_next_attempt_at_once() {
    for driver in DRIVERS {
        let mut rig = Rig::new();
        let before = rig.network.elapsed();
        let error = if driver == DRIVERS[0] {
            rig.sockman.connect(at(1), &and([2, 3])).unwrap_err()
        } else {
            let id = rig.sockman.start_connect(at(1), &and([2, 3])).unwrap();
            rig.run(MS);
            assert_eq!(rig.outcome(), Some((at(1).into(), false)));
            rig.recorder.wait_for_outcome(id).unwrap_err()
        };
        assert!(rig.network.elapsed() - before <= MS);
        assert_eq!(error.fault(), ConnectFault::Destination);
        let text = error.to_string();
        for n in 1..=3 {
            assert!(text.contains(&at(n).to_string()), "{text}");
        }
        assert_eq!(errors(error), [(1, "refused"), (2, "refused"), (3, "refused")]);
        assert_eq!((rig.sockman.stats().connections, rig.network.descriptors()), (0, 0));
    }
}

/// A refusal of a later address does not end an earlier attempt that is still under way.
#[test]
fn a_slow_address_can_still_win_after_a_later_one_has_failed() {
    let mut rig = Rig::new();
    let _listener = rig.listen(1);
    rig.network.set_latency(300 * MS);
    rig.network.refuse(&at(2), errors::ECONNREFUSED);
    rig.sockman.start_connect(at(1), &and([2])).unwrap();
    rig.run(Duration::from_secs(1));
    assert_eq!(rig.outcome(), Some((at(1).into(), true)));
    assert_eq!((rig.connects(), rig.network.descriptors()), (2, 1));
}

/// One deadline covers all attempts. An attempt that had not begun has no error.
#[test]
fn one_deadline_covers_all_attempts() {
    let mut rig = Rig::new();
    rig.silent(1..=5);
    let options = and(2..=5).timeout(600 * MS);
    let id = rig.sockman.start_connect(at(1), &options).unwrap();
    rig.run(600 * MS - Duration::from_nanos(1));
    assert_eq!(rig.outcome(), None);
    rig.run(MS);
    let error = rig.recorder.wait_for_outcome(id).unwrap_err();
    let timed_out = [(1, "timed out"), (2, "timed out"), (3, "timed out")];
    assert_eq!(errors(error), timed_out);
    let before = rig.network.elapsed();
    let error = rig.sockman.connect(at(1), &options).unwrap_err();
    assert_eq!(rig.network.elapsed() - before, 600 * MS);
    assert_eq!(errors(error), timed_out);
    assert_eq!((rig.sockman.stats().connections, rig.network.descriptors()), (0, 0));
}

/// The delay can be set. RFC 8305 forbids less than 10 ms.
#[test]
fn the_delay_between_attempts_is_an_option() {
    for (delay, expected) in [(Duration::ZERO, 10 * MS), (10 * MS, 10 * MS), (400 * MS, 400 * MS)] {
        let mut rig = Rig::new();
        rig.silent([1]);
        let _listener = rig.listen(2);
        let before = rig.network.elapsed();
        let connection = rig.sockman.connect(at(1), &and([2]).attempt_delay(delay)).unwrap();
        assert_eq!(rig.network.elapsed() - before, expected);
        assert_eq!(connection.them(), &Destination::from(at(2)));
        drop(connection);
        rig.run(MS);
        assert_eq!(rig.network.descriptors(), 0);
    }
}

/// A delay beyond the clock's range: an address is tried when the one before has failed, and only
/// then.
#[test]
fn without_end_to_the_delay_a_failure_begins_the_next_attempt() {
    for failing in [Destination::from(at(1)), "example.org:80".parse().unwrap()] {
        for driver in DRIVERS {
            let mut rig = Rig::new();
            let _listener = rig.listen(3);
            let options = and([2, 3]).attempt_delay(Duration::MAX);
            if driver == DRIVERS[0] {
                let connection = rig.sockman.connect(failing.clone(), &options).unwrap();
                assert_eq!(connection.them(), &Destination::from(at(3)));
            } else {
                rig.sockman.start_connect(failing.clone(), &options).unwrap();
                rig.run(MS);
                assert_eq!(rig.outcome(), Some((at(3).into(), true)));
            }
        }
    }
    let rig = Rig::new();
    rig.silent([1]);
    let _listener = rig.listen(2);
    rig.sockman.connect(at(1), &and([2]).attempt_delay(Duration::MAX)).unwrap_err();
    assert_eq!(rig.connects(), 1);
}

/// G4: a close ends every attempt, with the thread running and without, and no callback comes.
#[test]
fn a_close_ends_all_attempts() {
    let mut rig = Rig::new();
    rig.silent([1, 2]);
    let _listener = rig.listen(3);
    let id = rig.sockman.start_connect(at(1), &and([2, 3])).unwrap();
    rig.run(300 * MS);
    assert_eq!(rig.network.descriptors(), 2);
    assert!(rig.sockman.close_connection(id));
    rig.run(Duration::from_secs(3));
    assert_eq!((rig.connects(), rig.outcome(), rig.network.descriptors()), (2, None, 0));
    let Rig { thread, sockman, network, .. } = rig;
    thread.stop();
    let id = sockman.start_connect(at(1), &and([2, 3])).unwrap();
    assert!(sockman.close_connection(id));
    assert_eq!((sockman.stats().connections, network.descriptors()), (0, 0));
}

/// G9: an interrupt ends all attempts at once.
#[test]
fn an_interrupt_ends_all_attempts() {
    let mut rig = Rig::new();
    rig.silent([1, 2]);
    let cancel = Interrupt::new();
    let id = rig.sockman.start_connect(at(1), &and([2]).cancel(cancel.clone())).unwrap();
    rig.run(300 * MS);
    cancel.interrupt();
    rig.run(Duration::ZERO);
    let error = rig.recorder.wait_for_outcome(id).unwrap_err();
    assert!(matches!(error.kind(), ConnectErrorKind::Interrupted), "{error:?}");
    assert_eq!((rig.sockman.stats().connections, rig.network.descriptors()), (0, 0));
}

/// An address that cannot be dialled, and a lack of descriptors, fail their own attempt only.
#[test]
fn an_attempt_that_cannot_begin_does_not_end_the_others() {
    let mut rig = Rig::new();
    let _listener = rig.listen(2);
    let name = Destination::Name { host: "name.test".to_owned(), port: 7 };
    rig.network.fail_next(Call::Socket, errors::EMFILE);
    let options = ConnectOptions::default().alternatives([at(1), at(2)]);
    let connection = rig.sockman.connect(name.clone(), &options).unwrap();
    assert_eq!(connection.them(), &Destination::from(at(2)));
    drop(connection);
    rig.run(MS);

    rig.network.fail_next(Call::Socket, errors::EMFILE);
    let options = ConnectOptions::default().alternatives([at(3), at(4), at(3)]);
    let error = rig.sockman.connect(at(3), &options).unwrap_err();
    assert_eq!(error.fault(), ConnectFault::Host);
    assert_eq!(errors(error), [(3, "socket"), (4, "refused")]);
    let options = ConnectOptions::default().alternatives([name.clone()]);
    let other = Destination::Name { host: "other.test".to_owned(), port: 7 };
    let error = rig.sockman.start_connect(other, &options).unwrap_err();
    assert_eq!(error.fault(), ConnectFault::Caller);
    assert!(matches!(error.kind(), ConnectErrorKind::AllFailed { errors } if errors.len() == 2));
}

/// G11, G13: a lack of buffers delays the question for the local address, and does not end the attempt
/// that has won. A lack that lasts ends the connect at its deadline.
#[test]
fn a_lack_of_buffers_does_not_end_the_attempt_that_has_won() {
    for driver in DRIVERS {
        let mut rig = Rig::new();
        let listener = rig.listen(2);
        // The check against a connection to itself asks first.
        (0..2).for_each(|_| rig.network.fail_next(Call::LocalAddress, errors::ENOBUFS));
        let me = if driver == DRIVERS[0] {
            rig.sockman.connect(at(1), &and([2])).unwrap().me().clone()
        } else {
            let id = rig.sockman.start_connect(at(1), &and([2])).unwrap();
            rig.run(100 * MS);
            rig.recorder.wait_for_outcome(id).unwrap();
            rig.sockman.connection_info(id).unwrap().me
        };
        assert_eq!(me, listener.accept().unwrap().remote_address());
        rig.network.fail_always(Call::LocalAddress, errors::ENOBUFS);
        let before = rig.network.elapsed();
        let error = if driver == DRIVERS[0] {
            rig.sockman.connect(at(1), &and([2])).unwrap_err()
        } else {
            rig.sockman.close_connection(rig.recorder.events()[0].id().unwrap());
            let id = rig.sockman.start_connect(at(1), &and([2])).unwrap();
            rig.run(Duration::from_secs(3));
            rig.recorder.wait_for_outcome(id).unwrap_err()
        };
        assert!(rig.network.elapsed() - before >= Duration::from_secs(2));
        assert_eq!(errors(error), [(1, "refused"), (2, "getsockname")]);
    }
}

/// G6: a reset that a send receives counts as a reset. Only on a unix-domain socket is a broken pipe an
/// orderly end, and the address of the connection says which socket was reached.
#[test]
fn a_broken_pipe_on_the_address_that_was_reached_is_a_reset() {
    let mut rig = Rig::new();
    let listener = rig.listen(2);
    let id = rig.sockman.start_connect(at(1), &and([2])).unwrap();
    rig.run(MS);
    let peer = listener.accept().unwrap();
    peer.shutdown_write();
    rig.run(MS);
    drop(peer);
    rig.sockman.send_bytes(id, b"x").unwrap();
    rig.sockman.send_bytes(id, b"y").unwrap_err();
    let hung_up = rig.sockman.connection_info(id).unwrap().hung_up;
    assert_eq!(hung_up, Some(HangUp::Error(ErrorKind::BrokenPipe)));
}

/// Over loopback: a full backlog answers nothing, and the second address is reached. The source
/// address and `into_stream` work as with one address.
#[test]
fn over_loopback_the_address_that_answers_wins() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let (blackhole, listener) = (Blackhole::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let options = ConnectOptions::default()
        .alternatives([listener.local_addr().unwrap()])
        .attempt_delay(10 * MS)
        .bind((Ipv4Addr::new(127, 0, 0, 44), 0))
        .timeout(DEADLINE);
    let ids: Vec<ConnectionId> = DRIVERS
        .iter()
        .map(|driver| {
            let to = Destination::from(blackhole.address);
            driver.connect(&running.sockman, &recorder, &to, &options).unwrap()
        })
        .collect();
    for id in ids {
        let (mut peer, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 44));
        assert_eq!(running.sockman.connection_info(id).unwrap().me, Service::from(from));
        std::io::Write::write_all(&mut peer, b"x").unwrap();
        recorder.wait_for_bytes(id, 1);
        drop(std::net::TcpStream::from(running.sockman.into_stream(id).unwrap()));
        assert_eq!(std::io::Read::read(&mut peer, &mut [0]).unwrap(), 0);
    }
}
