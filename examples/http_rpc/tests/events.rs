//! Tests of the HTTP server's event streams: their content, their end, and slow clients.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    net::Shutdown,
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use sockman_http_rpc::{
    Answer, Config, EventStream, HttpService, Response, Server, Timers,
    parser::{Head, Request},
};
use support::{Client, DEADLINE, Gate, start_with, wait_until_all_are_gone};

/// Sends the streams to the test. The streams begin when the gate opens.
struct Streaming {
    streams: Mutex<mpsc::Sender<EventStream>>,
    asked: Gate,
    gate: Gate,
}

impl HttpService for Streaming {
    fn admit(&self, _: &Head) -> Result<(), Response> {
        Ok(())
    }

    fn answer(&self, _: Request, _: &Timers<'_>) -> Answer {
        self.asked.add();
        self.gate.wait_for(1);
        let sender = self.streams.lock().clone();
        Answer::Events(Box::new(move |stream| sender.send(stream).unwrap()))
    }
}

fn streaming() -> (Server, mpsc::Receiver<EventStream>) {
    let (server, service, streams) = gated_streaming();
    service.gate.add();
    (server, streams)
}

fn gated_streaming() -> (Server, Arc<Streaming>, mpsc::Receiver<EventStream>) {
    let (sender, streams) = mpsc::channel();
    let streaming =
        Streaming { streams: Mutex::new(sender), asked: Gate::default(), gate: Gate::default() };
    let service = Arc::new(streaming);
    (start_with(Config::default(), service.clone()), service, streams)
}

#[test]
fn a_client_that_leaves_before_its_events_begin_is_noticed() {
    let (server, service, streams) = gated_streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    service.asked.wait_for(1);
    // The client's end arrives while the server does not read. No further event reports this end.
    drop(client);
    let mut fence = Client::connect(&server);
    fence.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    service.asked.wait_for(2);
    drop(fence);
    service.gate.add();
    wait_until_all_are_gone(&server);
    drop(streams);
}

/// A client of events has nothing more to say. The end of its stream arrives while the worker owns
/// the connection, and no further event reports it.
#[test]
fn a_client_that_half_closed_before_its_events_begin_gets_none() {
    let (server, service, streams) = gated_streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    client.stream.shutdown(Shutdown::Write).unwrap();
    // The server sends the beginning of the answer when it has seen the end.
    assert_eq!(client.stream.peek(&mut [0]).unwrap(), 1);
    service.gate.add();
    client.read_to_end();
    wait_until_all_are_gone(&server);
    drop(streams);
}

#[test]
fn a_stream_that_begins_during_the_stop_does_not_delay_it() {
    let (server, service, streams) = gated_streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    service.asked.wait_for(1);
    let idle = Client::connect(&server).stream;
    let stopping = thread::spawn(move || server.stop());
    // The stop closes the idle connection, so the stop has begun after this line.
    Client::of(idle).read_to_end();
    service.gate.add();
    client.read_to_end();
    stopping.join().unwrap().unwrap();
    drop(streams);
}

#[test]
fn an_event_stream_carries_events_and_ends_in_order() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.0\r\n\r\n");
    let stream = streams.recv_timeout(DEADLINE).unwrap();
    stream.send("peers", "one\ntwo").unwrap();
    // A browser takes CR LF, CR and LF as the end of a line.
    stream.send("lines", "a\r\nb\rdata: c").unwrap();
    stream.send("empty", "").unwrap();
    drop(stream);
    let text = String::from_utf8(client.read_to_end()).unwrap();
    let (head, events) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(head.contains("Content-Type: text/event-stream"));
    assert_eq!(
        events,
        "event: peers\ndata: one\ndata: two\n\n\
         event: lines\ndata: a\ndata: b\ndata: data: c\n\n\
         event: empty\ndata: \n\n"
    );
}

#[test]
fn a_client_of_events_that_leaves_is_noticed() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let stream = streams.recv_timeout(DEADLINE).unwrap();
    drop(client);
    wait_until_all_are_gone(&server);
    stream.send("too", "late").unwrap_err();
}

#[test]
fn a_client_of_events_that_falls_behind_is_disconnected() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let stream = streams.recv_timeout(DEADLINE).unwrap();
    let data = "x".repeat(10_000);
    // The kernel's buffers take some megabytes. After that, the queue fills up to its limit.
    while stream.send("flood", &data).is_ok() {}
    assert_eq!(server.connections(), 0);
}

#[test]
fn one_event_may_exceed_the_limit_of_unread_bytes() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.0\r\n\r\n");
    let stream = streams.recv_timeout(DEADLINE).unwrap();
    let data = "x".repeat(10_000_000);
    stream.send("large", &data).unwrap();
    drop(stream);
    assert!(client.read_to_end().len() > data.len());
}

#[test]
fn streams_do_not_delay_the_stop() {
    let (server, streams) = streaming();
    let mut client = Client::connect(&server);
    client.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let _stream = streams.recv_timeout(DEADLINE).unwrap();
    server.stop().unwrap();
    client.read_to_end();
}
