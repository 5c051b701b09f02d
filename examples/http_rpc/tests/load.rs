//! Every request is answered under load. The sweep and the time-outs are off, so an answer that
//! needed one of these would never come.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{thread, time::Duration};

use sockman_http_rpc::Config;
use support::{Client, post, start};

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 500;

/// Each client keeps its connection. The client sends one request, or two at once, after the
/// answers to its last requests.
#[test]
fn every_one_of_many_requests_is_answered() {
    let idle_timeout = Duration::from_secs(24 * 60 * 60);
    let config = Config { max_connections: CONNECTIONS, idle_timeout, ..Config::default() };
    let (server, _) = start(Config { work_queue: 2 * CONNECTIONS, ..config });
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let mut client = Client::connect(&server);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let count = 1 + (number + round) % 2;
                    let body = round.to_string();
                    client.send(post("/", body.as_bytes()).repeat(count));
                    for _ in 0..count {
                        let answered = client.receive().expect("an answer");
                        assert_eq!((answered.status, answered.body), (200, body.clone().into()));
                    }
                }
            });
        }
    });
    server.stop().unwrap();
}

#[test]
fn the_defaults_match_the_documentation() {
    let config = Config::default();
    assert_eq!((config.max_connections, config.workers, config.work_queue), (16, 4, 64));
    assert_eq!(config.max_body, 32 * 1024 * 1024);
    assert_eq!([config.idle_timeout, config.drain_timeout], [Duration::from_secs(30); 2]);
}
