//! Event streams over TLS: their content, their end, and slow clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod support;

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use sockman_http_rpc::{
    Answer, EventStream, HttpService, MAX_UNREAD, Response, Timers,
    parser::{Head, Request},
};
use sockman_https::{Config, HttpsServer};
use sockman_test_support::{DEADLINE, eventually};
use support::{Client, Pki, config, start};

/// Sends the streams to the test, when the test allows it.
struct Streaming {
    streams: Mutex<mpsc::Sender<EventStream>>,
    asked: mpsc::Sender<()>,
    may_begin: Mutex<mpsc::Receiver<()>>,
}

impl HttpService for Streaming {
    fn admit(&self, _: &Head) -> Result<(), Response> {
        Ok(())
    }

    fn answer(&self, _: Request, _: &Timers<'_>) -> Answer {
        self.asked.send(()).unwrap();
        self.may_begin.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        let sender = self.streams.lock().unwrap().clone();
        Answer::Events(Box::new(move |stream| sender.send(stream).unwrap()))
    }
}

struct World {
    pki: Pki,
    server: HttpsServer,
    streams: mpsc::Receiver<EventStream>,
    asked: mpsc::Receiver<()>,
    begin: mpsc::Sender<()>,
}

impl World {
    fn new(config: &Config) -> World {
        let pki = Pki::new();
        let ((sender, streams), (asking, asked)) = (mpsc::channel(), mpsc::channel());
        let (begin, may_begin) = mpsc::channel();
        let (streaming, may_begin) = (Mutex::new(sender), Mutex::new(may_begin));
        let service = Streaming { streams: streaming, asked: asking, may_begin };
        let server = start(&pki, config, Arc::new(service));
        World { pki, server, streams, asked, begin }
    }

    /// Returns a client that has asked for events, which may not begin yet.
    fn ask(&self, request: &str) -> Client {
        let mut client = Client::new(&self.pki, &self.server);
        client.0.write_all(request.as_bytes()).unwrap();
        self.asked.recv_timeout(DEADLINE).unwrap();
        client
    }

    /// Returns a client of a stream, and the stream.
    fn stream(&self, request: &str) -> (Client, EventStream) {
        let client = self.ask(request);
        self.begin.send(()).unwrap();
        (client, self.streams.recv_timeout(DEADLINE).unwrap())
    }

    fn wait_until_all_are_gone(&self) {
        eventually("all connections are gone", || self.server.connections() == 0);
    }
}

const REQUEST: &str = "GET /events HTTP/1.1\r\nHost: x\r\n\r\n";
/// The answer has no chunks.
const REQUEST_1_0: &str = "GET /events HTTP/1.0\r\n\r\n";

/// Reads up to the `close_notify`. A truncation is an error.
fn read_to_end(client: &mut Client) -> String {
    let mut text = String::new();
    client.0.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_stream_carries_events_and_ends_in_order() {
    let world = World::new(&config());
    let (mut client, stream) = world.stream(REQUEST_1_0);
    stream.send("peers", "one\ntwo").unwrap();
    stream.send("empty", "").unwrap();
    drop(stream);
    let text = read_to_end(&mut client);
    let (head, events) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/event-stream"), "{head}");
    assert_eq!(events, "event: peers\ndata: one\ndata: two\n\nevent: empty\ndata: \n\n");

    let (mut client, stream) = world.stream(REQUEST);
    stream.send("a", "b").unwrap();
    drop(stream);
    let text = read_to_end(&mut client);
    assert!(text.contains("\r\nTransfer-Encoding: chunked\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n12\r\nevent: a\ndata: b\n\n\r\n0\r\n\r\n"), "{text}");
    drop(client);
    world.wait_until_all_are_gone();
}

/// A stream has no time-out, whether events come or not.
#[test]
fn a_quiet_stream_outlives_the_idle_time_out() {
    let config = Config { idle_timeout: Duration::from_millis(100), ..config() };
    let world = World::new(&config);
    let (mut client, stream) = world.stream(REQUEST_1_0);
    // A client that sends nothing is closed when its time is over, and it began later.
    let mut silent = Client::new(&world.pki, &world.server);
    assert_eq!(read_to_end(&mut silent), "");
    drop(silent);
    eventually("the silent client is gone", || world.server.connections() == 1);
    stream.send("late", "news").unwrap();
    drop(stream);
    assert!(read_to_end(&mut client).ends_with("event: late\ndata: news\n\n"));
}

/// With a `close_notify`, and without.
#[test]
fn a_client_of_events_that_leaves_is_noticed() {
    let world = World::new(&config());
    for is_polite in [true, false] {
        let (mut client, stream) = world.stream(REQUEST);
        if is_polite {
            let tls = client.0.get_mut();
            tls.conn.send_close_notify();
            tls.flush().unwrap();
        }
        drop(client);
        world.wait_until_all_are_gone();
        stream.send("too", "late").unwrap_err();
    }
}

/// The end of the client's stream comes while the worker has the request.
#[test]
fn a_client_that_leaves_before_its_events_begin_is_noticed() {
    let world = World::new(&config());
    let mut client = world.ask(REQUEST);
    let tls = client.0.get_mut();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    drop(client);
    world.begin.send(()).unwrap();
    let stream = world.streams.recv_timeout(DEADLINE).unwrap();
    world.wait_until_all_are_gone();
    stream.send("too", "late").unwrap_err();
}

#[test]
fn a_client_of_events_that_sends_more_is_disconnected() {
    let world = World::new(&config());
    let (mut client, stream) = world.stream(REQUEST);
    client.0.write_all(REQUEST.as_bytes()).unwrap();
    world.wait_until_all_are_gone();
    stream.send("too", "late").unwrap_err();
    // The second request came together with the first one.
    let _client = world.ask(&REQUEST.repeat(2));
    world.begin.send(()).unwrap();
    let stream = world.streams.recv_timeout(DEADLINE).unwrap();
    world.wait_until_all_are_gone();
    stream.send("too", "late").unwrap_err();
}

#[test]
fn a_client_of_events_that_falls_behind_is_disconnected() {
    let world = World::new(&config());
    let (_client, stream) = world.stream(REQUEST);
    let data = "x".repeat(10_000);
    // The kernel's buffers take some megabytes. After that, the events wait, up to the limit.
    while stream.send("flood", &data).is_ok() {}
    assert_eq!(world.server.connections(), 0);
}

/// One event may exceed the limit of unread bytes, and arrives whole.
#[test]
fn a_large_event_arrives_whole() {
    let world = World::new(&config());
    let (mut client, stream) = world.stream(REQUEST_1_0);
    let data = "x".repeat(40 * MAX_UNREAD);
    stream.send("large", &data).unwrap();
    drop(stream);
    assert!(read_to_end(&mut client).ends_with(&format!("event: large\ndata: {data}\n\n")));
}

/// The clients of streams get a `close_notify`, also one whose stream begins during the stop.
#[test]
fn streams_do_not_delay_the_stop() {
    let world = World::new(&config());
    let (mut first, stream) = world.stream(REQUEST);
    let mut second = world.ask(REQUEST);
    let World { server, begin, .. } = world;
    let stopping = std::thread::spawn(move || server.stop().unwrap());
    read_to_end(&mut first);
    begin.send(()).unwrap();
    read_to_end(&mut second);
    drop((first, second));
    stopping.join().unwrap();
    stream.send("too", "late").unwrap_err();
}
