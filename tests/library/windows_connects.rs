//! Connects through a proxy or a bridge on Windows, over the network in memory. The names of the
//! guarantees stand at each test. The sweep is off.

use std::time::Duration;

use sockman::{
    ConnectOptions, SockMan,
    address::Destination,
    error::ConnectErrorKind,
    i2p::I2pOptions,
    proxy::Proxy,
    testing::{Call, Network, Peer},
};
use sockman_test_support::{Recorder, eventually, tools::TempDir, without_sweep};

use crate::windows::sockman_on;

const PROXY: &str = "10.0.0.9:1080";

/// G7: a connect that waits for a proxy's answer has room to send, which the poller reports after each
/// receive that would block. The connect is not stepped by that.
#[test]
fn a_connect_that_waits_for_an_answer_is_not_stepped_by_room() {
    let network = Network::windows();
    let (recorder, sockman, mut thread) = sockman_on(&network);
    let proxy = network.listen(&PROXY.parse().unwrap()).unwrap();
    let options = ConnectOptions::default()
        .proxy(Proxy::socks5(proxy.address()))
        .timeout(Duration::from_secs(5));
    let id = sockman.start_connect("name.test:8333", &options).unwrap();
    for _ in 0..100 {
        thread.pass_within(Duration::from_millis(1)).unwrap();
    }
    let peer = proxy.accept().unwrap();
    assert!(network.calls(Call::Recv) <= 2, "{} receives", network.calls(Call::Recv));
    assert!(sockman.stats().events < 20, "{} events", sockman.stats().events);

    // The answers are taken all the same.
    assert!(!peer.receive().0.is_empty());
    peer.send(&[5, 0]).unwrap();
    thread.run_until_idle().unwrap();
    assert!(!peer.receive().0.is_empty());
    peer.send(&[5, 0, 0, 1, 1, 2, 3, 4, 0, 1]).unwrap();
    thread.run_until_idle().unwrap();
    recorder.wait_for_outcome(id).unwrap();
    peer.send(b"behind").unwrap();
    thread.run_until_idle().unwrap();
    assert_eq!(recorder.received(id), b"behind");
}

/// G7, G9: so it is in a connect that blocks its caller. The connect times out in time.
#[test]
fn a_blocking_connect_that_waits_for_an_answer_does_not_spin() {
    let network = Network::windows();
    let (_recorder, sockman, _thread) = sockman_on(&network);
    let proxy = network.listen(&PROXY.parse().unwrap()).unwrap();
    let options = ConnectOptions::default()
        .proxy(Proxy::socks5(proxy.address()))
        .timeout(Duration::from_secs(5));
    let before = network.elapsed();
    let error = network.as_another_thread(|| sockman.connect("name.test:8333", &options));
    let error = error.unwrap_err();
    assert!(matches!(error.kind(), ConnectErrorKind::TimedOut { .. }), "{error:?}");
    assert_eq!(network.elapsed() - before, Duration::from_secs(5));
    assert!(network.calls(Call::Recv) <= 2, "{} receives", network.calls(Call::Recv));
}

/// G7: the attempts of a connect to several addresses have one token. One that waits for an answer is
/// not stepped by the room that the poller reports while another one still connects.
#[test]
fn an_attempt_of_a_race_that_waits_for_an_answer_is_not_stepped_by_room() {
    let network = Network::windows();
    let (_recorder, sockman, mut thread) = sockman_on(&network);
    network.set_latency(Duration::from_millis(100));
    let proxy = network.listen(&PROXY.parse().unwrap()).unwrap();
    let options = ConnectOptions::default()
        .proxy(Proxy::socks5(proxy.address()))
        .alternatives([Destination::Name { host: "other.test".to_owned(), port: 8333 }])
        .attempt_delay(Duration::from_millis(150))
        .timeout(Duration::from_secs(5));
    sockman.start_connect("name.test:8333", &options).unwrap();
    for _ in 0..200 {
        thread.pass_within(Duration::from_millis(1)).unwrap();
    }
    let attempts: Vec<Peer> = std::iter::from_fn(|| proxy.accept()).collect();
    assert!(network.calls(Call::Connect) == 2 && attempts.len() == 1);
    assert!(network.calls(Call::Recv) <= 4, "{} receives", network.calls(Call::Recv));
}

/// G7: the I2P-accept thread that waits for the bridge's answer sleeps, although there is room to send.
#[test]
fn the_i2p_accept_thread_that_waits_for_an_answer_does_not_spin() {
    let (network, recorder, folder) = (Network::windows(), Recorder::new(), TempDir::new());
    network.set_blocking(true);
    let bridge = network.listen(&"10.0.0.9:7656".parse().unwrap()).unwrap();
    let i2p = I2pOptions::new(bridge.address()).key_file(folder.path("key")).accept_incoming(true);
    let options = without_sweep().i2p(i2p).sock_factory(network.factory());
    let sockman = SockMan::new(recorder.clone(), options).unwrap();
    let threads = sockman.start_sockets_threads().unwrap();
    let mut request = Vec::new();
    let mut peer = None;
    // The thread that reads the key file is looked at again and again on the network's clock.
    eventually("the request of the thread", || {
        network.advance(Duration::from_millis(10));
        peer = peer.take().or_else(|| bridge.accept());
        request.extend(peer.as_ref().map(|peer| peer.receive().0).unwrap_or_default());
        request.ends_with(b"\n")
    });
    for _ in 0..1000 {
        network.advance(Duration::from_millis(1));
        std::thread::yield_now();
    }
    assert!(network.calls(Call::Recv) < 10, "{} receives", network.calls(Call::Recv));
    sockman.interrupt();
    threads.join().unwrap();
}
