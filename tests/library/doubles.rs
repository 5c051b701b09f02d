//! The doubles of `sockman::testing`, as an embedder uses them: an echo server in memory, failures
//! of every kind, and a clock that the test moves.

use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, Options, Service, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, JoinError},
    options::SocketOptions,
    sys::errors,
    testing::{Call, Ended, Network, Script, SocketThreadByHand},
};
use sockman_test_support::Recorder;

/// Sends back as much as the kernel takes, and counts the ends and errors reported to it.
#[derive(Default)]
struct Echo {
    reported: Mutex<HashMap<ConnectionId, (u32, u32)>>,
    data: Mutex<Vec<u8>>,
    outcomes: Mutex<Vec<Result<(), String>>>,
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
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        self.data.lock().unwrap().extend(data);
        // The library reports a broken connection with a read error.
        let _ = sockman.send_bytes(id, data);
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.reported.lock().unwrap().entry(id).or_default().0 += 1;
        sockman.close_connection(id);
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        self.reported.lock().unwrap().entry(id).or_default().1 += 1;
        sockman.close_connection(id);
    }
    fn event_connect_completed(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        result: Result<&Service, ConnectError>,
    ) {
        let result = result.map(|_| ()).map_err(|error| format!("{:?}", error.kind()));
        self.outcomes.lock().unwrap().push(result);
    }
}

struct Rig {
    network: Network,
    echo: Arc<Echo>,
    sockman: SockMan,
    here: Service,
}

fn rig(options: Options) -> Rig {
    let (network, echo) = (Network::new(), Arc::new(Echo::default()));
    let options = options.sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&echo) as Arc<dyn EventHandler>, options).unwrap();
    let here = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    Rig { network, echo, sockman, here }
}

fn without_sweep() -> Options {
    Options::default().sweep(None)
}

/// G5, G7, G11: whatever error a call returns, nothing spins and no end is reported twice.
/// Afterwards everything works again and nothing has leaked.
#[test]
fn every_call_may_fail_with_every_error() {
    let mut cases = 0;
    for call in Call::ALL {
        for &errno in call.errors() {
            one_failure(*call, errno);
            cases += 1;
        }
    }
    assert!(cases > 100, "only {cases} cases ran");
}

fn one_failure(call: Call, errno: i32) {
    let what = format!("{call:?} fails with {errno}");
    let rig = rig(without_sweep().reuse_port(true));
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let peer = rig.network.connect(&rig.here).unwrap();
    thread.run_until_idle().unwrap();
    let listener = rig.network.listen(&"10.0.0.9:9".parse().unwrap()).unwrap();

    rig.network.fail_next(call, errno);
    // A blocking connect polls in a poller of its own, which would take the failure.
    let ended = match call {
        Call::Poll => thread.run_until_idle().map(drop),
        _ => exercise(&rig, &mut thread, &peer),
    };
    if call == Call::Poll && errno != EINTR {
        assert!(matches!(ended, Err(JoinError::Poll(_))), "{what}: {ended:?}");
        thread.stop();
        thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    } else {
        assert!(ended.is_ok(), "{what}: {ended:?}");
    }
    rig.network.heal();
    // Two seconds are longer than the longest pause of a listener.
    let passes = thread.run_for(Duration::from_secs(2)).unwrap();
    assert!(passes < 60, "{what}: {passes} passes");
    for (eofs, errors) in rig.echo.reported.lock().unwrap().values() {
        assert!(eofs + errors <= 1, "{what}: {eofs} ends and {errors} errors");
    }
    let next = rig.network.connect(&rig.here).unwrap();
    next.send(b"still there?").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(next.receive().0, b"still there?", "{what}");
    drop((peer, next, listener));
    rig.sockman.stop_listening();
    thread.run_for(Duration::from_secs(10)).unwrap();
    assert_eq!(rig.sockman.stats().connections, 0, "{what}");
    assert_eq!(rig.network.descriptors(), 0, "{what}");
}

const EINTR: i32 = errors::EINTR;
const ECONNREFUSED: i32 = errors::ECONNREFUSED;

/// Makes every call at least once. The result of each call reports its own failure.
fn exercise(
    rig: &Rig,
    thread: &mut SocketThreadByHand,
    peer: &sockman::testing::Peer,
) -> Result<(), JoinError> {
    let socket = SocketOptions::default().dscp(8);
    let other = rig.sockman.bind_and_start_listening_with("10.0.0.1:2", &socket);
    let to: Destination = "10.0.0.9:9".parse().unwrap();
    let options = ConnectOptions::default()
        .timeout(Duration::from_secs(1))
        .socket_options(socket)
        .bind((Ipv4Addr::new(10, 0, 0, 1), 0));
    if let Ok(connection) = rig.sockman.connect(&to, &options) {
        connection.activate();
    }
    let begun = rig.sockman.start_connect(&to, &options);
    let newcomer = rig.network.connect(other.as_ref().unwrap_or(&rig.here)).unwrap();
    peer.send(b"ping").unwrap();
    newcomer.send(b"pong").unwrap();
    thread.run_for(Duration::from_millis(10))?;
    newcomer.shutdown_write();
    thread.run_for(Duration::from_secs(2))?;
    assert_eq!(rig.echo.outcomes.lock().unwrap().len(), usize::from(begun.is_ok()));
    Ok(())
}

/// G9: a connect without an answer ends at its deadline, to the nanosecond. A refused connect ends
/// at once.
#[test]
fn a_silent_connect_times_out_and_a_refused_one_fails_at_once() {
    let rig = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let (silent, refusing): (Service, Service) =
        ("10.0.0.9:1".parse().unwrap(), "10.0.0.9:2".parse().unwrap());
    rig.network.ignore(&silent);
    rig.network.refuse(&refusing, ECONNREFUSED);
    let options = ConnectOptions::default().timeout(Duration::from_millis(1234));
    rig.sockman.start_connect(&silent, &options).unwrap();
    rig.sockman.start_connect(&refusing, &options).unwrap();
    thread.run_until_idle().unwrap();
    let refused = rig.echo.outcomes.lock().unwrap().pop().unwrap().unwrap_err();
    assert!(refused.starts_with("Refused"), "{refused}");
    thread.run_for(Duration::from_nanos(1_233_999_999)).unwrap();
    assert!(rig.echo.outcomes.lock().unwrap().is_empty());
    thread.run_for(Duration::from_nanos(1)).unwrap();
    let timed_out = rig.echo.outcomes.lock().unwrap().pop().unwrap().unwrap_err();
    assert!(timed_out.starts_with("TimedOut"), "{timed_out}");

    // The blocking connect takes the same virtual time as the attempt.
    let before = rig.network.elapsed();
    let blocked = rig.sockman.connect(&silent, &options);
    assert!(
        matches!(
            blocked.as_ref().map_err(ConnectError::kind),
            Err(ConnectErrorKind::TimedOut { .. })
        ),
        "{blocked:?}"
    );
    assert_eq!(rig.network.elapsed() - before, Duration::from_millis(1234));
}

/// G7: an idle second takes about twenty passes with the sweep, and one to three without it.
#[test]
fn an_idle_second_takes_twenty_passes_with_the_sweep_and_few_without() {
    for (options, passes) in [(Options::default(), 19..=23), (without_sweep(), 1..=3)] {
        let rig = rig(options);
        let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
        let _peer = rig.network.connect(&rig.here).unwrap();
        thread.run_until_idle().unwrap();
        let took = thread.run_for(Duration::from_secs(1)).unwrap();
        assert!(passes.contains(&(took as i32)), "an idle second took {took} passes");
    }
}

#[test]
fn latency_chunks_and_windows_are_applied() {
    let rig = rig(without_sweep());
    rig.network.set_latency(Duration::from_millis(30));
    rig.network.set_window(10);
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let peer = rig.network.connect(&rig.here).unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(peer.send(b"more than the window").unwrap(), 10);
    thread.run_for(Duration::from_millis(29)).unwrap();
    assert!(rig.echo.data.lock().unwrap().is_empty(), "the data must still be under way");
    thread.run_for(Duration::from_millis(1)).unwrap();
    assert_eq!(*rig.echo.data.lock().unwrap(), b"more than ");
    assert_eq!(peer.receive().0, b"", "the answer must still be under way");
    thread.run_for(Duration::from_millis(30)).unwrap();
    assert_eq!(peer.receive().0, b"more than ");
    peer.set_chunk(Some(3));
    peer.send(b"in pieces").unwrap();
    let turns = rig.sockman.stats().turns;
    thread.run_for(Duration::from_millis(40)).unwrap();
    assert!(rig.sockman.stats().turns - turns >= 3, "the data must arrive in at least three turns");
    assert!(rig.echo.data.lock().unwrap().ends_with(b"in pieces"));
}

/// G5: data that came before a reset is delivered first.
#[test]
fn a_reset_comes_after_the_data() {
    let rig = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let peer = rig.network.connect(&rig.here).unwrap();
    peer.send(b"last words").unwrap();
    peer.reset();
    thread.run_until_idle().unwrap();
    assert_eq!(*rig.echo.data.lock().unwrap(), b"last words");
    assert_eq!(rig.echo.reported.lock().unwrap().values().copied().collect::<Vec<_>>(), [(0, 1)]);
}

/// G11: without descriptors clients wait. The clients are accepted when descriptors are free again.
#[test]
fn clients_wait_without_descriptors_and_are_accepted_later() {
    let rig = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    rig.network.set_descriptor_limit(Some(rig.network.descriptors()));
    let peer = rig.network.connect(&rig.here).unwrap();
    peer.send(b"patience").unwrap();
    let passes = thread.run_for(Duration::from_secs(10)).unwrap();
    assert!(passes < 40, "{passes} passes in ten seconds");
    assert_eq!(rig.sockman.stats().connections, 0);
    assert!(rig.sockman.stats().accept_pauses >= 10);
    rig.network.set_descriptor_limit(None);
    thread.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(peer.receive(), (b"patience".to_vec(), None));
}

#[test]
fn scripted_sockets_follow_their_script() {
    let rig = rig(without_sweep().max_connections(3));
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let at = "10.0.0.2:2".parse().unwrap();
    let scripts = [
        (Script::new().recv(b"in ").recv_error(EINTR).recv(b"two").then_eof(), (1, 0)),
        (
            Script::new().recv_error(errors::EAGAIN).recv(b"!").then_error(errors::ECONNRESET),
            (0, 1),
        ),
        (Script::new().recv(b"?").then_no_room(), (0, 0)),
    ];
    let mut expected = Vec::new();
    for (script, reported) in scripts {
        let sock = rig.network.scripted(script).unwrap();
        let new = rig.sockman.add_existing_connection(sock, &at, &at).unwrap();
        expected.push((new.activate(), reported));
    }
    let beyond = rig.network.scripted(Script::new()).unwrap();
    let refused = rig.sockman.add_existing_connection(beyond, &at, &at);
    assert!(matches!(
        refused.as_ref().map_err(ConnectError::kind),
        Err(ConnectErrorKind::TooManyConnections { limit: 3 })
    ));
    thread.run_until_idle().unwrap();
    for (id, reported) in expected {
        let found = rig.echo.reported.lock().unwrap().get(&id).copied().unwrap_or_default();
        assert_eq!(found, reported, "{id}");
    }
    let mut data = rig.echo.data.lock().unwrap().clone();
    data.sort_unstable();
    let mut all = b"in two!?".to_vec();
    all.sort_unstable();
    assert_eq!(data, all);
}

#[test]
fn both_ends_may_half_close() {
    let rig = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let listener = rig.network.listen(&"10.0.0.9:9".parse().unwrap()).unwrap();
    let to = Destination::from(listener.address());
    let id = rig.sockman.connect(&to, &ConnectOptions::default()).unwrap().activate();
    let peer = listener.accept().unwrap();
    thread.run_until_idle().unwrap();
    rig.sockman.shutdown_write(id).unwrap();
    assert_eq!(peer.receive(), (Vec::new(), Some(Ended::Eof)));
    peer.send(b"I go on").unwrap();
    peer.shutdown_write();
    thread.run_until_idle().unwrap();
    assert_eq!(*rig.echo.data.lock().unwrap(), b"I go on");
    assert_eq!(rig.echo.reported.lock().unwrap()[&id], (1, 0));
}

/// G4: another thread closes the id after the socket thread has checked for the close, and before
/// it reads the last byte of the proxy's reply. The connect completes, and no outcome is reported.
#[cfg(feature = "socks5")]
#[test]
fn a_connect_that_another_thread_closes_while_it_completes_is_not_reported() {
    use sockman::{proxy::Proxy, testing::Point};

    let rig = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    let listener = rig.network.listen(&"10.0.0.8:1080".parse().unwrap()).unwrap();
    let options = ConnectOptions::default().proxy(Proxy::socks5(listener.address()));
    let id = rig.sockman.start_connect("10.0.0.9:9", &options).unwrap();
    thread.run_until_idle().unwrap();
    let proxy = listener.accept().unwrap();
    // The proxy sends the method, and already the reply to a request that the library has not sent
    // yet.
    proxy.send(&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();

    let (network, closer) = (rig.network.clone(), rig.sockman.clone());
    let closed = Arc::new(Mutex::new(0));
    rig.network.set_interleave(Some(Arc::new({
        let closed = Arc::clone(&closed);
        move |point| {
            let closes = point == Point::Call(Call::Recv)
                && network.as_another_thread(|| closer.close_connection(id));
            *closed.lock().unwrap() += u32::from(closes);
            closes
        }
    })));
    thread.run_until_idle().unwrap();
    rig.network.set_interleave(None);
    assert_eq!(
        *closed.lock().unwrap(),
        1,
        "the other thread must close the id exactly once, during the step"
    );
    assert!(rig.echo.outcomes.lock().unwrap().is_empty());
    assert_eq!(rig.sockman.stats().connections, 0);
    assert!(proxy.receive().1.is_some(), "the proxy must see the end");
}

/// Answers as a SOCKS5 proxy whenever the program is about to sleep.
#[cfg(feature = "socks5")]
fn answer_as_proxy(network: &Network, at: &Service) {
    let proxy = network.listen(at).unwrap();
    let peers = Mutex::new(Vec::new());
    network.set_interleave(Some(Arc::new(move |point| {
        let mut peers = peers.lock().unwrap();
        while let Some(peer) = proxy.accept() {
            peers.push(peer);
        }
        point == sockman::testing::Point::Sleep
            && peers.iter().any(|peer| match peer.receive().0.as_slice() {
                [] => false,
                [_, _, 0] => peer.send(&[5, 0]).is_ok(),
                _ => peer.send(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80]).is_ok(),
            })
    })));
}

/// G11: a lack of memory or buffers that passes ends no connect, whichever call meets it. Both
/// drivers, a direct connect and one through a proxy, over TCP and over a unix-domain socket.
#[cfg(feature = "socks5")]
#[test]
fn a_lack_that_passes_does_not_end_a_connect() {
    use sockman::proxy::Proxy;

    let calls = [Call::Connect, Call::PeerAddress, Call::Register, Call::Send, Call::Recv];
    let faults = calls.iter().flat_map(|call| [(*call, errors::ENOBUFS), (*call, errors::ENOMEM)]);
    // connect(2): over TCP, the kernel lacks entries of a table. Over a unix-domain socket, the
    // backlog is full.
    for (call, errno) in faults.chain([(Call::Connect, errors::EAGAIN)]) {
        for (at, through) in [
            ("10.0.0.9:1080", true),
            ("unix:/proxy", true),
            ("10.0.0.9:1080", false),
            ("unix:/peer", false),
        ] {
            if call == Call::Register && errno == errors::ENOBUFS {
                continue; // `epoll_ctl(2)` does not list it.
            }
            let Rig { network, echo, sockman, .. } = rig(without_sweep());
            let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
            thread.run_until_idle().unwrap();
            network.set_latency(Duration::from_millis(1));
            let at: Service = at.parse().unwrap();
            answer_as_proxy(&network, &at);
            let (to, options) = if through {
                let options = ConnectOptions::default().proxy(Proxy::socks5(at.clone()));
                ("name.example:80".parse().unwrap(), options)
            } else {
                (Destination::from(&at), ConnectOptions::default())
            };
            let what = format!("{call:?} fails with {errno} on the way to {to} by {at}");
            network.fail_next(call, errno);
            sockman.start_connect(to.clone(), &options).expect(&what);
            thread.run_for(Duration::from_secs(1)).unwrap();
            assert_eq!(*echo.outcomes.lock().unwrap(), [Ok(())], "{what}");
            network.heal();
            network.fail_next(call, errno);
            let new = network.as_another_thread(|| sockman.connect(to, &options)).expect(&what);
            drop(new);
            // The closure has the proxy, which has the network.
            network.set_interleave(None);
        }
    }
}

/// G13: the kernel chooses the local address when a connect begins, which a lack delays.
#[test]
fn a_connect_that_a_lack_delayed_knows_its_own_address() {
    for errno in [errors::ENOBUFS, errors::ENOMEM, errors::EAGAIN] {
        let (network, recorder) = (Network::new(), Recorder::new());
        let options = without_sweep().sock_factory(network.factory());
        let sockman = SockMan::new(recorder.clone(), options).unwrap();
        let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        let listener = network.listen(&"10.0.0.9:1".parse().unwrap()).unwrap();
        network.fail_next(Call::Connect, errno);
        let id = sockman.start_connect(listener.address(), &ConnectOptions::default()).unwrap();
        thread.run_for(Duration::from_secs(1)).unwrap();
        let me = recorder.wait_for_outcome(id).unwrap();
        let peer = listener.accept().unwrap();
        assert_eq!((&me, network.calls(Call::Connect)), (&peer.remote_address(), 2));
        assert_eq!(sockman.connection_info(id).unwrap().me, me);
    }
}

/// G13: a connect that lacked buffers at first has no local address before its second try. The
/// address of the connection is reported, also if the question for the address lacks buffers.
#[test]
fn a_connect_that_lacked_buffers_reports_the_address_of_its_connection() {
    let Rig { network, echo, sockman, .. } = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let listener = network.listen(&"10.0.0.9:9".parse().unwrap()).unwrap();
    network.fail_next(Call::Connect, errors::ENOBUFS);
    let id = sockman.start_connect(listener.address(), &ConnectOptions::default()).unwrap();
    // The first question is whether the socket is connected to itself.
    for _ in 0..2 {
        network.fail_next(Call::LocalAddress, errors::ENOBUFS);
    }
    thread.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(*echo.outcomes.lock().unwrap(), [Ok(())]);
    let peer = listener.accept().unwrap();
    assert_eq!(sockman.connection_info(id).unwrap().me, peer.remote_address());
}

/// G7: a connection to a unix-domain path has no name of its own, also if the kernel lacked buffers
/// when the library asked for the name.
#[test]
fn a_unix_domain_connect_that_lacked_buffers_reports_that_it_has_no_name() {
    let Rig { network, sockman, .. } = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let listener = network.listen(&"unix:/peer".parse().unwrap()).unwrap();
    network.fail_next(Call::LocalAddress, errors::ENOBUFS);
    let id = sockman.start_connect(listener.address(), &ConnectOptions::default()).unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(sockman.connection_info(id).unwrap().me, Service::UNIX_UNNAMED);
}

/// G7, G9, G11: a lack that lasts ends a connect at its deadline, after few calls.
#[test]
fn a_connect_that_always_lacks_memory_ends_at_its_deadline() {
    for errno in [errors::ENOBUFS, errors::ENOMEM] {
        let Rig { network, echo, sockman, .. } = rig(without_sweep());
        let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        network.fail_always(Call::Connect, errno);
        let options = ConnectOptions::default().timeout(Duration::from_secs(2));
        sockman.start_connect("10.0.0.9:1", &options).unwrap();
        thread.run_for(Duration::from_secs(3)).unwrap();
        let outcomes = echo.outcomes.lock().unwrap();
        assert!(outcomes[0].as_ref().is_err_and(|error| error.contains("TimedOut")));
        assert!((5..=60).contains(&network.calls(Call::Connect)));
    }
}

/// G9: a process that shares a listener may make it block and may take each client first. No accept
/// ever waits, and the clients that are left are accepted. With a batch of one, and with the default.
#[test]
fn no_accept_waits_on_a_listener_that_another_process_makes_block() {
    for batch in [1, 64] {
        let Rig { network, sockman, .. } = rig(without_sweep().accept_batch(batch));
        let other = network.listen(&"10.0.0.1:2".parse().unwrap()).unwrap();
        let here = sockman.start_listening_on(other.share().unwrap()).unwrap();
        let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        other.clear_nonblocking();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(network.connect(&here).unwrap());
        }
        thread.run_until_idle().unwrap();
        assert_eq!(sockman.stats().accepted, 3);

        // The other process takes the client after the event.
        clients.push(network.connect(&here).unwrap());
        let other = Arc::new(Mutex::new(Some(other)));
        let holder = Arc::clone(&other);
        network.set_interleave(Some(Arc::new(move |point| {
            if let (sockman::testing::Point::Call(Call::Accept), Some(other)) =
                (point, &*holder.lock().unwrap())
            {
                other.clear_nonblocking();
                drop(other.accept());
            }
            false
        })));
        let accepts = network.calls(Call::Accept);
        thread.run_until_idle().unwrap();
        network.set_interleave(None);
        assert_eq!((sockman.stats().accepted, network.blocked_accepts()), (3, 0));
        assert_eq!(network.calls(Call::Accept), accepts, "no client waits, so no accept is made");

        // The event of a later client is not missed.
        clients.push(network.connect(&here).unwrap());
        thread.run_until_idle().unwrap();
        assert_eq!((sockman.stats().accepted, network.blocked_accepts()), (4, 0));
        assert_eq!(sockman.stats().accept_pauses, 0);

        // The program's copy is closed, and the other process listens on.
        sockman.stop_listening();
        thread.run_until_idle().unwrap();
        assert!(network.connect(&here).is_ok());
        drop(other.lock().unwrap().take());
        assert!(network.connect(&here).is_err());
    }
}

/// G13, over the network in memory: a listener at the wildcard takes connections to each address of
/// its family and has that address as `me`. The program's own connects reach it at loopback only.
#[test]
fn a_listener_at_the_wildcard_takes_connections_to_each_address_of_its_family() {
    let rig = rig(without_sweep());
    let mut thread = SocketThreadByHand::start(&rig.sockman, &rig.network).unwrap();
    for (wildcard, to, elsewhere, loopback) in [
        ("0.0.0.0:8333", "10.0.0.7:8333", "[2001:db8::7]:8333", "127.0.0.1:8333"),
        ("[::]:8334", "[2001:db8::7]:8334", "10.0.0.7:8334", "[::1]:8334"),
    ] {
        rig.sockman.bind_and_start_listening(wildcard).unwrap();
        let to: Service = to.parse().unwrap();
        let _peer = rig.network.connect(&to).unwrap();
        thread.pass().unwrap();
        let id = *rig.sockman.connection_ids().last().unwrap();
        assert_eq!(rig.sockman.connection_info(id).unwrap().me, to);
        let refused = rig.network.connect(&elsewhere.parse().unwrap()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(errors::ECONNREFUSED));

        for (destination, is_reached) in [(&to, false), (&loopback.parse().unwrap(), true)] {
            rig.sockman.start_connect(destination, &ConnectOptions::default()).unwrap();
            while rig.echo.outcomes.lock().unwrap().is_empty() {
                thread.pass().unwrap();
            }
            let outcome = rig.echo.outcomes.lock().unwrap().remove(0);
            assert_eq!(outcome.is_ok(), is_reached, "{destination}: {outcome:?}");
        }
    }
}

/// G13, over the network in memory: a connect from the wildcard with a port has that port and the
/// address that the kernel chose.
#[test]
fn a_connect_from_the_wildcard_has_an_address() {
    let rig = rig(without_sweep());
    let to: Service = "10.0.0.2:8333".parse().unwrap();
    let _there = rig.network.listen(&to).unwrap();
    let options = ConnectOptions::default().bind((Ipv4Addr::UNSPECIFIED, 5555));
    let id = rig.sockman.connect(&to, &options).unwrap().activate();
    let me = rig.sockman.connection_info(id).unwrap().me;
    assert_eq!((me.port(), me.addr().is_unspecified()), (5555, false));
}
