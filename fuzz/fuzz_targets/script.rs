//! Fuzzes the loop with scripted sockets, whose `recv` and `send` have any outcomes and errors in
//! sequence, and then a permanent outcome. The loop must come to rest, and it must report EOF and
//! the read error at most once each.
#![no_main]

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use libfuzzer_sys::fuzz_target;
use sockman::testing::{Call, Network, Script, SocketThreadByHand};
use sockman::{ConnectionId, EventHandler, NextRecv, Options, Service, SockMan};

/// The permanent error at the end of a script.
const ECONNRESET: i32 = 104;
/// The most sends on one connection.
const MOST_SENDS: u32 = 40;

#[derive(Default)]
struct Handler {
    /// The numbers of EOFs and read errors.
    ends: Mutex<HashMap<ConnectionId, (u32, u32)>>,
    sends: Mutex<HashMap<ConnectionId, u32>>,
}

impl Handler {
    fn ends(&self, id: ConnectionId) -> (u32, u32) {
        self.ends.lock().unwrap().get(&id).copied().unwrap_or_default()
    }
}

impl EventHandler for Handler {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        true
    }
    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        // A script may accept every send, so the number of sends is limited.
        let mut sends = self.sends.lock().unwrap();
        let sends = sends.entry(id).or_default();
        *sends += 1;
        if *sends > MOST_SENDS {
            return NextRecv::Proceed;
        }
        match sockman.send_bytes(id, &[7; 50]) {
            Ok(0) | Err(_) => NextRecv::Proceed,
            Ok(_) => NextRecv::Skip,
        }
    }
    fn event_got_data(&self, _: &SockMan, id: ConnectionId, data: &[u8]) {
        assert!(!data.is_empty());
        assert_eq!(self.ends(id), (0, 0), "data after the end");
    }
    fn event_got_eof(&self, _: &SockMan, id: ConnectionId) {
        assert_eq!(self.ends(id), (0, 0), "an end after the end");
        self.ends.lock().unwrap().entry(id).or_default().0 += 1;
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        assert_eq!(self.ends(id).1, 0, "a second error");
        self.ends.lock().unwrap().entry(id).or_default().1 += 1;
        // Every second connection that ends is closed. The id must not decide which connection is
        // closed, because ids depend on earlier inputs.
        if self.ends.lock().unwrap().len() % 2 == 0 {
            assert!(sockman.close_connection(id));
        }
    }
}

fn script(bytes: &[u8]) -> Script {
    let mut script = Script::new();
    let error = |of: Call, by: u8| of.errors()[usize::from(by) % of.errors().len()];
    for op in bytes.chunks_exact(2) {
        script = match op[0] % 4 {
            0 => script.recv(vec![op[1]; usize::from(op[1]).max(1)]),
            1 => script.recv_error(error(Call::Recv, op[1])),
            2 => script.send(usize::from(op[1])),
            _ => script.send_error(error(Call::Send, op[1])),
        };
    }
    match bytes.first().map(|first| first % 4) {
        Some(0) => script.then_eof(),
        _ => script.then_error(ECONNRESET),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let network = Network::new();
    let handler = Arc::new(Handler::default());
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&handler) as Arc<dyn EventHandler>, options).unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    let (me, them) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let mut ids = Vec::new();
    for bytes in bytes.chunks(64).take(8) {
        let sock = network.scripted(script(bytes)).unwrap();
        ids.push(sockman.add_existing_connection(sock, &me, &them).unwrap().activate());
    }
    let passes = thread.run_until_idle().unwrap();
    assert!(
        passes <= 8 * (64 + MOST_SENDS as usize) + bytes.len() * 8,
        "{passes} passes for {} bytes",
        bytes.len()
    );
    for id in &ids {
        let (eofs, errors) = handler.ends(*id);
        assert!(eofs + errors > 0, "the end of {id} was not reported");
    }
    ids.iter().for_each(|id| {
        sockman.close_connection(*id);
    });
    thread.run_until_idle().unwrap();
    assert_eq!(network.descriptors(), 0);
});
