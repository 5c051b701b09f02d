//! Nakamoto's light client over `nakamoto-net-sockman`, against Bitcoin Knots, which is Bitcoin Core
//! with additions, and against the node of the examples.
//!
//! The test needs bitcoind, which `real/fixtures/bitcoind/install.sh` installs. All traffic stays on
//! 127.0.0.1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

use nakamoto_client::{Client, Config, Error, Event, Handle, Network, chan, traits::Handle as _};
use nakamoto_common::bitcoin::Script;
use nakamoto_net_sockman::{Reactor, Waker};
use real::bitcoind::Bitcoind;
use serde_json::Value;
use sockman_node::{BlockStore, Node};
use sockman_test_support::{DEADLINE, tools::TempDir};

/// More headers, and more filter headers, than one message holds.
const BLOCKS: u64 = 2100;
/// The script that receives most of the coins: a key hash of zeros.
const OTHERS: [u8; 22] = script(0);
/// The script that the client watches.
const WATCHED: [u8; 22] = script(7);

/// How long the client may take for all headers.
const PATIENCE: Duration = Duration::from_secs(600);

const fn script(byte: u8) -> [u8; 22] {
    let mut script = [byte; 22];
    (script[0], script[1]) = (0, 20);
    script
}

/// The options of a bitcoind that serves light clients.
const FILTERS: [&str; 2] = ["-blockfilterindex=1", "-peerblockfilters=1"];

/// Mines blocks, and waits until their filters are indexed.
fn mine(bitcoind: &Bitcoind, blocks: u64, to: &[u8]) {
    let script: String = to.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut left = blocks;
    while left > 0 {
        // The client of the RPC waits for a minute, in which a busy machine mines these.
        let count = left.min(100);
        let script = format!("raw({script})");
        bitcoind.rpc.text(&["generatetodescriptor", &count.to_string(), &script]);
        left -= count;
    }
    let is_indexed = |info: &Value| info["basic block filter index"]["synced"] == true;
    bitcoind.rpc.wait_for(&["getindexinfo"], is_indexed);
}

/// A light client that runs on a thread of its own.
struct LightClient {
    handle: Handle<Waker>,
    events: chan::Receiver<Event>,
    thread: JoinHandle<Result<(), Error>>,
}

impl LightClient {
    fn start(peer: SocketAddr, directory: &Path) -> LightClient {
        let client = Client::<Reactor>::new().unwrap();
        let mut handle = client.handle();
        handle.set_timeout(PATIENCE);
        let events = handle.events();
        let config = Config {
            connect: vec![peer],
            listen: Vec::new(),
            root: directory.to_owned(),
            ..Config::new(Network::Regtest)
        };
        let thread = thread::spawn(move || client.run(config));
        LightClient { handle, events, thread }
    }

    /// Waits for an event for which `found` returns a value. The deadline begins anew with each
    /// event, because a busy machine may take long for thousands of them.
    fn wait_for<T>(&self, what: &str, mut found: impl FnMut(&Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        loop {
            let Ok(event) = self.events.recv_timeout(DEADLINE) else {
                let last = seen.len().saturating_sub(20);
                panic!("waited in vain for {what}; the last events: {:#?}", &seen[last..]);
            };
            if let Some(result) = found(&event) {
                return result;
            }
            seen.push(event.to_string());
        }
    }

    fn wait_for_negotiated(&self) {
        self.wait_for("a handshake", |event| {
            matches!(event, Event::PeerNegotiated { .. }).then_some(())
        });
    }

    /// Waits until the filters up to `height` have been checked, and the blocks that match have been
    /// received. Returns the heights of these blocks. Each filter has to be valid.
    fn wait_for_synced(&self, height: u64) -> BTreeSet<u64> {
        let mut matched = BTreeSet::new();
        self.wait_for("the filters", |event| {
            match event {
                Event::FilterProcessed { valid, height, .. } => assert!(valid, "{height}"),
                Event::BlockMatched { height, .. } => drop(matched.insert(*height)),
                _ => {}
            }
            matches!(event, Event::Synced { height: up_to, .. } if *up_to == height).then_some(())
        });
        matched
    }

    fn end(self) {
        self.handle.shutdown().unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn nakamoto_syncs_from_bitcoind_and_from_our_node_follows_and_reconnects_on_this_reactor() {
    let directory = TempDir::new();
    let client_directory = directory.path("client");
    std::fs::create_dir_all(&client_directory).unwrap();
    let mut bitcoind = Bitcoind::start(env!("CARGO_TARGET_TMPDIR"), &FILTERS);
    mine(&bitcoind, 1000, &OTHERS);
    mine(&bitcoind, 1, &WATCHED);
    mine(&bitcoind, BLOCKS - 1002, &OTHERS);
    mine(&bitcoind, 1, &WATCHED);

    // Syncs headers, filter headers and filters, and fetches the blocks that match.
    let client = LightClient::start(bitcoind.address, &client_directory);
    client.wait_for_negotiated();
    let tip = client.handle.wait_for_height(BLOCKS).unwrap();
    assert_eq!(tip.to_string(), bitcoind.rpc.text(&["getbestblockhash"]));
    client.handle.rescan(0.., [Script::from(WATCHED.to_vec())].into_iter()).unwrap();
    assert_eq!(client.wait_for_synced(BLOCKS), [1001, BLOCKS].into());
    let peers = bitcoind.rpc.json(&["getpeerinfo"]);
    assert!(
        peers.as_array().unwrap().len() == 1
            && peers[0]["subver"].as_str().unwrap().contains("nakamoto")
    );

    // Follows new blocks.
    mine(&bitcoind, 1, &OTHERS);
    assert_eq!(client.wait_for_synced(BLOCKS + 1), [].into());
    mine(&bitcoind, 1, &WATCHED);
    assert_eq!(client.wait_for_synced(BLOCKS + 2), [BLOCKS + 2].into());

    // Reconnects after bitcoind was away, and follows again.
    bitcoind.stop();
    client
        .wait_for("the end", |event| matches!(event, Event::PeerDisconnected { .. }).then_some(()));
    let refused = client.wait_for("a refused connect", |event| match event {
        Event::PeerConnectionFailed { error, .. } => Some(error.kind()),
        _ => None,
    });
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    bitcoind.start_again(&FILTERS);
    client.wait_for_negotiated();
    mine(&bitcoind, 2, &OTHERS);
    mine(&bitcoind, 1, &WATCHED);
    assert!(client.wait_for_synced(BLOCKS + 5).contains(&(BLOCKS + 5)));
    client.end();

    // The next client begins with what this one has stored.
    let client = LightClient::start(bitcoind.address, &client_directory);
    let ready = client.wait_for("the start", |event| match event {
        Event::Ready { tip, filter_tip } => Some((*tip, *filter_tip)),
        _ => None,
    });
    assert_eq!(ready, (BLOCKS + 5, BLOCKS + 5));
    client.wait_for_negotiated();
    client.end();
    let tip = bitcoind.rpc.text(&["getbestblockhash"]);
    bitcoind.stop();

    // A new client gets the same chain from a node of ours, which serves bitcoind's blocks.
    let node = serve(&bitcoind.blocks());
    let other_directory = directory.path("other-client");
    std::fs::create_dir_all(&other_directory).unwrap();
    let client =
        LightClient::start(node.listening()[0].to_socket_addr().unwrap(), &other_directory);
    client.wait_for_negotiated();
    assert_eq!(client.handle.wait_for_height(BLOCKS + 5).unwrap().to_string(), tip);
    client.handle.rescan(0.., [Script::from(WATCHED.to_vec())].into_iter()).unwrap();
    let matched = client.wait_for_synced(BLOCKS + 5);
    assert_eq!(matched, [1001, BLOCKS, BLOCKS + 2, BLOCKS + 5].into());
    client.end();
    node.stop().unwrap();
}

/// Starts a node of ours that serves these blocks.
fn serve(blocks: &Path) -> Node {
    let store = BlockStore::open(blocks, bitcoin::Network::Regtest).unwrap();
    let chain = store.chain().clone();
    let mut config = sockman_node::Config::new(bitcoin::Network::Regtest);
    config.listen.push("127.0.0.1:0".parse().unwrap());
    config.blocks = Some(store.into());
    Node::start(config, chain, |_| {}).unwrap()
}
