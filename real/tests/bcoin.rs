//! The node talks with bcoin, a Bitcoin node that others wrote, in both directions.
//!
//! Needs bcoin: `real/fixtures/bcoin/install.sh` installs it. All traffic stays on 127.0.0.1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
};

use bitcoin::{BlockHash, Network, p2p::ServiceFlags};
use sockman::stats::Direction;
use sockman_node::{
    Chain, Config, Event, Node, TransportType,
    testing::{DEADLINE, Events, start},
};
use sockman_test_support::program::Process;

const AGENT: &str = "/bcoin:v1.0.2/";
/// Where the mined coins go: a key hash of zeros, with the prefix that bcoin has for regtest.
const NOBODY: &str = "rb1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqce7sck";
/// More than one message of headers holds.
const BLOCKS: usize = 2100;

#[test]
fn our_node_dials_bcoin_and_syncs_its_headers() {
    let bcoin = Bcoin::start(None);
    bcoin.mine(BLOCKS);
    let mut config = Config::new(Network::Regtest);
    config.connect.push(bcoin.address.into());
    let (node, events) = start(config, Chain::new(Network::Regtest));

    // It knows only version 1 of the transport, and is dialled with version 2 first.
    assert_handshake(&events, Direction::Outbound);
    assert_eq!(node.peers()[0].transport, TransportType::V1);
    assert_synced(&node, &events, BLOCKS, bcoin.tip());
    assert_pings_both_ways(&bcoin, &events);

    // Not asked for: bcoin announces it.
    bcoin.mine(1);
    assert_synced(&node, &events, BLOCKS + 1, bcoin.tip());
    node.stop().unwrap();
}

#[test]
fn bcoin_dials_our_listener_and_we_sync_its_headers() {
    // bcoin keeps only those outbound peers that claim to have blocks.
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
    // Otherwise it pings every 30 seconds.
    bcoin.rpc("ping", "[]");
    events.wait_for("bcoin's ping", |event| matches!(event, Event::Pinged { .. }).then_some(()));
    let peers = bcoin.rpc("getpeerinfo", "[]");
    assert!(peers.contains("sockman-node"), "bcoin's peers are {peers}");
}

/// A bcoin on regtest, which keeps everything in memory.
struct Bcoin {
    address: SocketAddr,
    rpc_address: SocketAddr,
    _process: Process,
}

impl Bcoin {
    /// Starts one that dials `to` and nobody else, and waits until it listens.
    fn start(to: Option<SocketAddr>) -> Bcoin {
        let temporary = env!("CARGO_TARGET_TMPDIR");
        let bcoin = real::installed(temporary, "bcoin", "node_modules/bcoin/bin/node");
        let data = Path::new(temporary).with_file_name("bcoin").join("data");
        let preload = real::fixture("bcoin/preload.js");

        let [address, rpc_address] = free_addresses();
        // Port 1: nobody is there, and nobody else is dialled.
        let to = to.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        let child = Command::new("node")
            .arg("-r")
            .arg(preload)
            .arg(bcoin)
            .args(["--network=regtest", "--memory=true", "--no-wallet=true", "--workers=false"])
            .arg(format!("--prefix={}", data.display()))
            .args(["--listen=true", "--host=127.0.0.1", "--upnp=false", "--max-inbound=8"])
            .arg(format!("--port={}", address.port()))
            // Only told to peers. Without it, bcoin asks the internet for its address.
            .arg("--public-host=1.2.3.4")
            .arg(format!("--public-port={}", address.port()))
            .args(["--max-outbound=1", &format!("--nodes={to}"), &format!("--only={to}")])
            .arg("--http-host=127.0.0.1")
            .arg(format!("--http-port={}", rpc_address.port()))
            .args(["--log-level=debug", "--log-file=false"])
            .env("NODE_BACKEND", "js")
            // The preloaded script ends bcoin when this end is closed, that is, with the test.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node, which runs bcoin, is installed");
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

    /// What the result is, as JSON.
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
        let (result, _) = result.unwrap_or_else(|| panic!("bcoin answers {method} with {reply}"));
        result.to_owned()
    }
}

/// Two that are free now: bcoin wants to be told its ports.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners =
        [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("the address of a bound socket"))
}
