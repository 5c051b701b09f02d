//! Tests of the node with bcoin, a Bitcoin node in JavaScript, in both directions.
//!
//! The tests need bcoin, which `real/fixtures/bcoin/install.sh` installs. All traffic stays on
//! 127.0.0.1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bitcoin::{BlockHash, Network, blockdata::constants::genesis_block, p2p::ServiceFlags};
use sockman::stats::Direction;
use sockman_node::{
    BlockStore, Chain, Config, Event, Node, TransportType,
    testing::{DEADLINE, Events, mine_block, start, write_blocks},
};
use sockman_test_support::{program::Process, tools::TempDir};

const AGENT: &str = "/bcoin:v1.0.2/";
/// The address that receives the mined coins: a key hash of zeros, with bcoin's prefix for regtest.
const NOBODY: &str = "rb1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqce7sck";
/// More headers than one message holds.
const BLOCKS: usize = 2100;
/// The pause between two requests for bcoin's state.
const LOOK: Duration = Duration::from_millis(50);

#[test]
fn our_node_dials_bcoin_and_syncs_its_headers() {
    let bcoin = Bcoin::start(None);
    bcoin.mine(BLOCKS);
    let mut config = Config::new(Network::Regtest);
    config.connect.push(bcoin.address.into());
    let (node, events) = start(config, Chain::new(Network::Regtest));

    // bcoin supports only version 1 of the transport. The node tries version 2 first.
    assert_handshake(&events, Direction::Outbound);
    assert_eq!(node.peers()[0].transport, TransportType::V1);
    assert_synced(&node, &events, BLOCKS, bcoin.tip());
    assert_pings_both_ways(&bcoin, &events);

    // bcoin announces a new block by itself.
    bcoin.mine(1);
    assert_synced(&node, &events, BLOCKS + 1, bcoin.tip());
    node.stop().unwrap();
}

#[test]
fn bcoin_dials_our_listener_and_we_sync_its_headers() {
    // bcoin keeps only outbound peers that claim to have blocks.
    let mut config = Config { services: ServiceFlags::NETWORK, ..Config::new(Network::Regtest) };
    config.listen.push("127.0.0.1:0".parse().unwrap());
    let (node, events) = start(config, Chain::new(Network::Regtest));
    let listening = node.listening().remove(0).to_socket_addr().unwrap();

    let bcoin = Bcoin::start(Some(listening));
    assert_handshake(&events, Direction::Inbound);
    assert_pings_both_ways(&bcoin, &events);
    bcoin.mine(BLOCKS);
    assert_synced(&node, &events, BLOCKS, bcoin.tip());
    node.stop().unwrap();
}

/// bcoin requests blocks by `getblocks`, as older nodes do.
#[test]
fn bcoin_syncs_blocks_from_us() {
    let folder = TempDir::new();
    let mut parent = genesis_block(Network::Regtest).header;
    for height in 1..=600 {
        let mut block = mine_block(&parent, height, None, 0);
        // No block of this chain signals for witnesses, so bcoin accepts none.
        block.txdata[0].input[0].witness.clear();
        parent = block.header;
        write_blocks(&folder.path(""), &[block]);
    }
    let store = BlockStore::open(&folder.path(""), Network::Regtest).unwrap();
    let chain = store.chain().clone();
    let mut config = Config { blocks: Some(Arc::new(store)), ..Config::new(Network::Regtest) };
    config.listen.push("127.0.0.1:0".parse().unwrap());
    let (node, _) = start(config, chain);
    let listening = node.listening().remove(0).to_socket_addr().unwrap();

    let bcoin = Bcoin::start(Some(listening));
    let deadline = Instant::now() + DEADLINE;
    while bcoin.tip() != parent.block_hash() {
        assert!(Instant::now() < deadline, "bcoin is at {}", bcoin.rpc("getblockcount", "[]"));
        thread::park_timeout(LOOK);
    }
    node.stop().unwrap();
}

fn assert_handshake(events: &Events, expected: Direction) {
    let direction = events.wait_for("a connection", |event| match event {
        Event::Connected { direction, .. } => Some(*direction),
        _ => None,
    });
    assert_eq!(direction, expected);
    let version = events.wait_for("the handshake", |event| match event {
        Event::Handshake { version, .. } => Some(version.clone()),
        _ => None,
    });
    assert_eq!((version.agent.as_str(), version.protocol), (AGENT, 70015));
}

fn assert_synced(node: &Node, events: &Events, blocks: usize, bcoins_tip: BlockHash) {
    events.wait_for("bcoin's tip", |event| match event {
        Event::Headers { height, tip, .. } => {
            (*height == blocks && *tip == bcoins_tip).then_some(())
        }
        _ => None,
    });
    assert_eq!((node.height(), node.tip()), (blocks, bcoins_tip));
}

fn assert_pings_both_ways(bcoin: &Bcoin, events: &Events) {
    events.wait_for("bcoin's pong", |event| matches!(event, Event::Pong { .. }).then_some(()));
    // Without this call, bcoin pings every 30 seconds.
    bcoin.rpc("ping", "[]");
    events.wait_for("bcoin's ping", |event| matches!(event, Event::Pinged { .. }).then_some(()));
    let peers = bcoin.rpc("getpeerinfo", "[]");
    assert!(peers.contains("sockman-node"), "bcoin does not list the node: {peers}");
}

/// A bcoin process on regtest that keeps everything in memory.
struct Bcoin {
    address: SocketAddr,
    rpc_address: SocketAddr,
    _process: Process,
}

impl Bcoin {
    /// Starts a bcoin that dials only `to`, and waits until it listens.
    fn start(to: Option<SocketAddr>) -> Bcoin {
        let temporary = env!("CARGO_TARGET_TMPDIR");
        let bcoin = real::installed(temporary, "bcoin", "node_modules/bcoin/bin/node");
        let data = Path::new(temporary).with_file_name("bcoin").join("data");
        let preload = real::fixture("bcoin/preload.js");

        let [address, rpc_address] = free_addresses();
        // Nothing listens on port 1. bcoin dials no other address.
        let to = to.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        let child = Command::new("node")
            .arg("-r")
            .arg(preload)
            .arg(bcoin)
            .args(["--network=regtest", "--memory=true", "--no-wallet=true", "--workers=false"])
            .arg(format!("--prefix={}", data.display()))
            .args(["--listen=true", "--host=127.0.0.1", "--upnp=false", "--max-inbound=8"])
            .arg(format!("--port={}", address.port()))
            // bcoin uses this address only to announce itself to its peers. Without it, bcoin asks
            // the internet for one.
            .arg("--public-host=1.2.3.4")
            .arg(format!("--public-port={}", address.port()))
            .args(["--max-outbound=1", &format!("--nodes={to}"), &format!("--only={to}")])
            .arg("--http-host=127.0.0.1")
            .arg(format!("--http-port={}", rpc_address.port()))
            .args(["--log-level=debug", "--log-file=false"])
            .env("NODE_BACKEND", "js")
            // The preloaded script ends bcoin when this pipe closes, which is when the test ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start node, which runs bcoin; install nodejs");
        let mut process = Process::new(child);
        process.wait_for_line("bcoin to listen", |line| {
            line.contains("Pool server listening").then_some(())
        });
        Bcoin { address, rpc_address, _process: process }
    }

    fn mine(&self, blocks: usize) {
        self.rpc("generatetoaddress", &format!(r#"[{blocks},"{NOBODY}"]"#));
    }

    fn tip(&self) -> BlockHash {
        self.rpc("getbestblockhash", "[]").trim_matches('"').parse().unwrap()
    }

    /// Calls a method of bcoin's RPC, and returns the result as JSON.
    fn rpc(&self, method: &str, parameters: &str) -> String {
        let body = format!(r#"{{"id":1,"method":"{method}","params":{parameters}}}"#);
        let mut stream = TcpStream::connect(self.rpc_address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.rpc_address,
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let result = reply.split_once(r#"{"result":"#).map(|(_, result)| result);
        let result = result.and_then(|result| result.rsplit_once(r#","error":null"#));
        let (result, _) = result.unwrap_or_else(|| panic!("bcoin answered {method} with: {reply}"));
        result.to_owned()
    }
}

/// Returns two addresses with free ports. bcoin cannot choose its ports itself.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2]
        .map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("cannot bind a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has no address"))
}
