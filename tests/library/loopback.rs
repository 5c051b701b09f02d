//! The whole path, once: two `SockMan`s, an outbound and an inbound connection, bytes both ways.

use sockman::{ConnectOptions, Service, stats::Direction};
use sockman_test_support::{Event, Recorder, Running, without_sweep};

#[test]
fn two_sockmans_exchange_bytes_both_ways() {
    let server = Recorder::with_reaction(|sockman, event| {
        if let Event::Data(id, data) = event {
            sockman.send_bytes(*id, data).unwrap();
        }
    });
    let client = Recorder::new();
    let serving = Running::start(server.clone(), without_sweep());
    let dialling = Running::start(client.clone(), without_sweep());

    let to = Service::from(serving.address);
    let connection = dialling.sockman.connect(&to, &ConnectOptions::default()).unwrap();
    let id = connection.id();
    assert_eq!(connection.them(), &to);
    connection.activate();
    assert_eq!(dialling.sockman.send_bytes(id, b"there and back").unwrap(), 14);
    assert_eq!(client.wait_for_bytes(id, 14), b"there and back");

    let info = dialling.sockman.connection_info(id).unwrap();
    assert_eq!((info.bytes_sent, info.bytes_received), (14, 14));
    assert_eq!(info.direction, Direction::Outbound);
    let inbound = server.wait_for_accepted(0);
    assert_eq!(serving.sockman.connection_info(inbound).unwrap().them, info.me);

    assert!(dialling.sockman.close_connection(id));
    assert!(!dialling.sockman.close_connection(id));
    server.wait_for_eof(inbound);
}
