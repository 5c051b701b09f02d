//! The orderly end of connections whose rate is limited.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sockman::{
    ConnectionId, NextRecv, Options, Service, SockMan,
    helpers::{RateLimit, RateLimiter},
    stateful::{Handler, Link},
    testing::{Ended, Network, Peer, SocketThreadByHand},
};

const BYTES: usize = 300_000;

/// Answers each byte with [`BYTES`] bytes, at 100,000 bytes a second.
struct Limited {
    network: Network,
    sending: RateLimiter,
}

impl Handler for Limited {
    type Connection = ();

    fn accepted(&self, _: Link<'_, ()>, _: &Service, _: &Service) -> Option<()> {
        Some(())
    }
    fn got_data(&self, link: Link<'_, ()>, (): &mut (), data: &[u8]) {
        for _ in data {
            link.enqueue(&[7; BYTES]).unwrap();
        }
    }
    fn should_try_to_send(&self, link: Link<'_, ()>, (): &mut ()) -> bool {
        link.queue().has_queued() && self.sending.allows(link.id(), self.network.now())
    }
    fn ready_to_send(&self, link: Link<'_, ()>, (): &mut ()) -> NextRecv {
        let now = self.network.now();
        let available = self.sending.available(link.id(), now);
        let drained = link.queue().drain_at_most(link.sockman(), available).unwrap();
        self.sending.take(link.sockman(), link.id(), drained.sent, now);
        NextRecv::Proceed
    }
    fn loop_completed(&self, sockman: &SockMan) {
        self.sending.resume(sockman, self.network.now());
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.sending.next()
    }
    fn closed(&self, _: &SockMan, id: ConnectionId, (): ()) {
        self.sending.remove(id);
    }
}

/// Lets a peer ask for an answer, ends the connection with `end`, and returns what the peer gets.
fn answer_before(end: impl FnOnce(&SockMan, ConnectionId)) -> (usize, Option<Ended>) {
    let network = Network::new();
    network.set_window(1 << 20);
    let limit = RateLimit::new(100_000, 50_000).unwrap();
    let handler = Limited { network: network.clone(), sending: RateLimiter::new().each(limit) };
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::with_state(Arc::new(handler), options).unwrap();
    let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let peer = network.connect(&at).unwrap();
    peer.send(b"x").unwrap();
    thread.run_until_idle().unwrap();
    end(&sockman, sockman.connection_ids()[0]);
    thread.run_for(Duration::from_secs(10)).unwrap();
    let (bytes, ended) = peer.receive();
    (bytes.len(), ended)
}

/// What a limit of the rate holds back is sent before the end of the stream.
#[test]
fn a_finish_sends_what_the_rate_limiter_holds_back() {
    let linger = Duration::from_secs(60);
    let finish = |sockman: &SockMan, id| assert!(sockman.finish_connection(id, linger));
    assert_eq!(answer_before(finish), (BYTES, Some(Ended::Eof)));
}

/// What a limit of the rate holds back is sent before a drain closes the connection.
#[test]
fn a_drain_sends_what_the_rate_limiter_holds_back() {
    let drain = |sockman: &SockMan, _| sockman.drain_and_stop(Duration::from_secs(60));
    assert_eq!(answer_before(drain), (BYTES, Some(Ended::Eof)));
}

/// A linger that is too short for the rate ends the connection all the same.
#[test]
fn a_finish_of_a_limited_connection_ends_with_its_linger() {
    let linger = Duration::from_secs(1);
    let finish = |sockman: &SockMan, id| assert!(sockman.finish_connection(id, linger));
    let (bytes, ended) = answer_before(finish);
    assert!(ended.is_some() && (50_000..BYTES).contains(&bytes), "{bytes} bytes, {ended:?}");
}

/// Sends a last message before the end of the stream, whichever call ends the connection.
#[derive(Default)]
struct Polite;

impl Handler for Polite {
    /// Whether the last message was sent.
    type Connection = bool;

    fn accepted(&self, link: Link<'_, bool>, _: &Service, _: &Service) -> Option<bool> {
        assert!(!link.is_finishing());
        Some(false)
    }
    fn got_data(&self, link: Link<'_, bool>, _: &mut bool, data: &[u8]) {
        link.enqueue(data).unwrap();
        link.finish(Duration::from_secs(60));
        assert!(link.is_finishing());
    }
    fn should_try_to_send(&self, link: Link<'_, bool>, is_sent: &mut bool) -> bool {
        link.queue().has_queued() || link.is_finishing() && !*is_sent
    }
    fn ready_to_send(&self, link: Link<'_, bool>, is_sent: &mut bool) -> NextRecv {
        if link.is_finishing() && !*is_sent {
            *is_sent = true;
            link.enqueue(b"goodbye").unwrap();
        }
        link.drain().unwrap();
        NextRecv::Proceed
    }
}

/// G5: the handler sees that a connection finishes, and what it sends then comes before the end.
#[test]
fn a_last_message_is_sent_before_the_end_whichever_call_ends_the_connection() {
    let linger = Duration::from_secs(60);
    type End<'a> = &'a dyn Fn(&SockMan, &Peer);
    let ends: [(End<'_>, &[u8]); 3] = [
        (&|_, peer| drop(peer.send(b"x, ")), b"x, goodbye"),
        (
            &|sockman, _| assert!(sockman.finish_connection(sockman.connection_ids()[0], linger)),
            b"goodbye",
        ),
        (&|sockman, _| sockman.drain_and_stop(linger), b"goodbye"),
    ];
    for (end, expected) in ends {
        let network = Network::new();
        let options = Options::default().sweep(None).sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::new(Polite), options).unwrap();
        let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
        let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        let peer = network.connect(&at).unwrap();
        thread.run_until_idle().unwrap();
        end(&sockman, &peer);
        thread.run_until_idle().unwrap();
        assert_eq!(peer.receive(), (expected.to_vec(), Some(Ended::Eof)));
    }
}
