//! Fuzzes an outbound I2P attempt with a SAM bridge that sends any bytes to the session's control
//! socket and to the stream. The attempt must have one outcome by the deadline and leave no
//! descriptor. It must not succeed on fewer than the three lines that a stream needs, and must not
//! consume a byte after the third.
#![no_main]

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use sockman::testing::{Network, SocketThreadByHand};
use sockman::{
    ConnectOptions, ConnectionId, EventHandler, NextRecv, Options, Service, SockMan,
    address::{Destination, NetAddr},
    error::ConnectError,
    i2p::I2pOptions,
};

const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Handler {
    /// The outcome of the attempt, and the data received after it.
    heard: Mutex<(Option<Result<(), ConnectError>>, Vec<u8>)>,
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        false
    }
    fn event_connect_completed(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        if let Ok(me) = &outcome {
            assert!(matches!(me.addr(), NetAddr::I2p(_)));
        }
        let before = self.heard.lock().unwrap().0.replace(outcome.map(drop));
        assert!(before.is_none(), "the attempt has a second outcome");
    }
    fn should_try_to_send(&self, _: ConnectionId) -> bool {
        false
    }
    fn event_ready_to_send(&self, _: &SockMan, _: ConnectionId) -> NextRecv {
        NextRecv::Proceed
    }
    fn event_got_data(&self, _: &SockMan, _: ConnectionId, data: &[u8]) {
        self.heard.lock().unwrap().1.extend_from_slice(data);
    }
    fn event_got_eof(&self, _: &SockMan, _: ConnectionId) {}
    fn event_got_permanent_read_error(&self, _: &SockMan, id: ConnectionId, error: &io::Error) {
        panic!("connection {id}: {error}");
    }
}

// The first two bytes give the length of the part for the control socket. The third byte gives the
// length of the pieces, and whether the bridge closes at the end.
fuzz_target!(|input: &[u8]| {
    let [high, low, plan, bytes @ ..] = input else { return };
    let split = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
    let (to_control, to_stream) = bytes.split_at(split);
    let piece = usize::from(plan >> 1).max(1);
    let closes = plan & 1 != 0;

    let network = Network::new();
    let sam: Service = "10.0.0.9:7656".parse().unwrap();
    let listener = network.listen(&sam).unwrap();
    let handler = Arc::new(Handler::default());
    let options =
        Options::default().sweep(None).i2p(I2pOptions::new(sam)).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let to = Service::new(NetAddr::i2p([7; 32]), 0);
    let options = ConnectOptions::default().timeout(TIMEOUT);
    let id = sockman.start_connect(to, &options).unwrap();
    thread.run_until_idle().unwrap();

    let mut peers = Vec::new();
    for part in [to_control, to_stream] {
        let Some(peer) = listener.accept() else { break };
        for piece in part.chunks(piece) {
            // The send fails if the library has closed the connection. The outcome then shows the
            // reason.
            let _ = peer.send(piece);
            thread.run_until_idle().unwrap();
        }
        thread.run_until_idle().unwrap();
        peers.push(peer);
    }
    // Closes the last connection that the attempt has made.
    if let Some(peer) = peers.last().filter(|_| closes) {
        peer.shutdown_write();
        thread.run_until_idle().unwrap();
    }
    if handler.heard.lock().unwrap().0.is_none() {
        thread.run_for(TIMEOUT).unwrap();
    }
    let (outcome, data) = std::mem::take(&mut *handler.heard.lock().unwrap());
    let is_connected = outcome.expect("no outcome by the deadline").is_ok();
    let mut lines = to_stream.split_inclusive(|byte| *byte == b'\n');
    let needed: usize = lines.by_ref().take(3).map(<[u8]>::len).sum();
    let behind = to_stream.get(needed..).unwrap_or_default();
    if is_connected {
        let newlines = to_stream[..needed].iter().filter(|byte| **byte == b'\n').count();
        assert!(newlines == 3, "connected on {newlines} lines");
        assert_eq!(data, behind, "data after the third line");
    } else {
        assert!(data.is_empty());
    }
    sockman.close_connection(id);
    thread.run_until_idle().unwrap();
    drop(peers);
    drop(thread);
    drop(sockman);
    assert_eq!(network.descriptors(), 0, "descriptors are left open");
});
