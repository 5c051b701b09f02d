//! Tests of the node with Bitcoin Knots, which is Bitcoin Core with additions: version 2 of the
//! transport (BIP 324) in both directions, the fallback to version 1, a sync of blocks from the node,
//! and Core's command-line client with the node's RPC.
//!
//! The tests need bitcoind, which `real/fixtures/bitcoind/install.sh` installs. All traffic stays
//! on 127.0.0.1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    process::Stdio,
};

use bitcoin::Network;
use data_encoding::HEXLOWER;
use real::bitcoind::{Bitcoind, Rpc};
use serde_json::{Value, json};
use sockman_node::BlockStore;
use sockman_test_support::{DEADLINE, program::Process, tools::TempDir};

/// The address that receives the mined coins: a key hash of zeros.
const NOBODY: &str = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202";
/// More headers than one message holds.
const BLOCKS: usize = 2100;
/// The blocks that the node serves, without those with spending transactions. An output of a coinbase
/// can be spent after 100 blocks.
const SERVED: usize = 150;
/// The fields of `getpeerinfo` that Bitcoin Core has and this node has not. These fields are about
/// addresses, blocks and transactions, which the node does not handle. Only Knots has the last
/// three fields.
const LEFT_OUT: [&str; 15] = [
    "addr_processed",
    "addr_rate_limited",
    "addr_relay_enabled",
    "addrlocal",
    "bytesrecv_per_msg",
    "bytessent_per_msg",
    "cpu_load",
    "inflight",
    "minfeefilter",
    "presynced_headers",
    "synced_blocks",
    "synced_headers",
    "forced_inbound",
    "last_block_announcement",
    "misbehavior_score",
];
const TEMPORARY: &str = env!("CARGO_TARGET_TMPDIR");

fn start(arguments: &[&str]) -> Bitcoind {
    Bitcoind::start(TEMPORARY, arguments)
}

struct OurNode {
    rpc: Rpc,
    listening: String,
    process: Process,
    _directory: TempDir,
}

impl OurNode {
    fn start(arguments: &[&str]) -> OurNode {
        let directory = TempDir::new();
        let cookie = directory.path("cookie");
        let child = real::node()
            .args(["--network", "regtest", "--listen", "127.0.0.1:0", "--rpc", "127.0.0.1:0"])
            .arg("--rpc-cookie")
            .arg(&cookie)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process::new(child);
        let after = |start: &'static str| {
            move |line: &str| {
                let rest = line.strip_prefix(start)?;
                Some(rest.split([',', ';']).next().unwrap().to_owned())
            }
        };
        let listening = process.wait_for_line("where it listens", after("listening on "));
        let rpc = process.wait_for_line("where its RPC is", after("the RPC server listens on "));
        let port = rpc.parse::<SocketAddr>().unwrap().port();
        let datadir = directory.path("datadir");
        fs::create_dir(&datadir).unwrap();
        let rpc = Rpc::new(TEMPORARY, port, cookie, datadir);
        OurNode { rpc, listening, process, _directory: directory }
    }

    fn end(mut self) {
        assert_eq!(self.rpc.text(&["stop"]), "sockman-node stopping");
        assert_eq!(self.process.wait_for_end().0, Some(0));
        assert!(!self.rpc.cookie().exists());
    }
}

/// Returns a check for one peer that has answered a ping.
fn one_peer(transport: &str, inbound: bool) -> impl Fn(&Value) -> bool {
    move |peers| {
        let peers = peers.as_array().unwrap();
        peers.len() == 1
            && peers[0]["transport_protocol_type"] == transport
            && peers[0]["inbound"] == inbound
            && peers[0]["pingtime"].as_f64().is_some()
    }
}

#[test]
fn we_dial_bitcoind_in_version_2_and_sync_its_headers() {
    let bitcoind = start(&[]);
    bitcoind.rpc.json(&["generatetoaddress", &BLOCKS.to_string(), NOBODY]);
    let node = OurNode::start(&["--connect", &bitcoind.address.to_string()]);

    let peers = node.rpc.wait_for(&["getpeerinfo"], one_peer("v2", false));
    assert!(peers[0]["subver"].as_str().unwrap().starts_with("/Satoshi:"), "{peers}");
    let theirs = bitcoind.rpc.wait_for(&["getpeerinfo"], one_peer("v2", true));
    assert!(theirs[0]["subver"].as_str().unwrap().starts_with("/sockman-node:"), "{theirs}");
    assert_eq!(theirs[0]["servicesnames"], json!(["P2P_V2"]));
    assert_eq!(theirs[0]["session_id"], peers[0]["session_id"]);
    assert_eq!(peers[0]["session_id"].as_str().unwrap().len(), 64);
    // The node has each field that Core has, except for the fields that are left out on purpose.
    let fields = |peers: &Value| -> BTreeSet<String> {
        peers[0].as_object().unwrap().keys().cloned().collect()
    };
    let missing: Vec<String> = fields(&theirs).difference(&fields(&peers)).cloned().collect();
    assert!(missing.iter().all(|field| LEFT_OUT.contains(&field.as_str())), "{missing:?}");
    node.rpc.wait_for(&["getblockcount"], |height| *height == BLOCKS);
    node.end();
    bitcoind.end();
}

/// The node serves the files that one bitcoind has written. Another one, which knows no other node,
/// syncs from it. The filters are those that bitcoind computes: the last filter header commits to all
/// of them.
#[test]
fn bitcoind_syncs_headers_and_blocks_from_us() {
    let mut miner = start(&["-blockfilterindex=1"]);
    // Anybody can spend an output with this script. Each spending transaction is in a block of its
    // own, because bitcoind relays no such transaction.
    let script = "raw(51)";
    miner.rpc.json(&["generatetodescriptor", &SERVED.to_string(), script]);
    for height in ["1", "2", "3"] {
        let block = miner.rpc.json(&["getblock", &miner.rpc.text(&["getblockhash", height])]);
        let inputs = json!([{ "txid": block["tx"][0], "vout": 0 }]).to_string();
        let outputs = json!([{ NOBODY: 1 }, { "data": "00" }]).to_string();
        let spending = miner.rpc.text(&["createrawtransaction", &inputs, &outputs]);
        miner.rpc.json(&["generateblock", script, &json!([spending]).to_string()]);
    }
    let tip = miner.rpc.text(&["getbestblockhash"]);
    let height = SERVED + 3;
    let is_indexed = |info: &Value| info["basic block filter index"]["best_block_height"] == height;
    miner.rpc.wait_for(&["getindexinfo"], is_indexed);
    let filter = miner.rpc.json(&["getblockfilter", &tip]);
    miner.stop();

    let blocks = miner.blocks();
    let store = BlockStore::open(&blocks, Network::Regtest).unwrap();
    assert_eq!(store.height(), height);
    assert_eq!(HEXLOWER.encode(store.filter(height).unwrap()), filter["filter"]);
    assert_eq!(store.filter_header(height).unwrap().to_string(), filter["header"]);

    let node = OurNode::start(&["--blocks", blocks.to_str().unwrap()]);
    for transport in ["1", "0"] {
        let bitcoind =
            start(&[&format!("-connect={}", node.listening), &format!("-v2transport={transport}")]);
        let rpc = &bitcoind.rpc;
        rpc.wait_for(&["getblockcount"], |count| *count == height);
        assert_eq!(rpc.text(&["getbestblockhash"]), tip);
        let services = json!(["NETWORK", "WITNESS", "COMPACT_FILTERS", "P2P_V2"]);
        assert_eq!(rpc.json(&["getpeerinfo"])[0]["servicesnames"], services);
        bitcoind.end();
    }
    assert_eq!(node.rpc.json(&["getblockchaininfo"])["blocks"], height);
    node.end();
}

#[test]
fn bitcoind_dials_us_in_version_2() {
    let node = OurNode::start(&[]);
    let bitcoind = start(&[&format!("-addnode={}", node.listening)]);
    node.rpc.wait_for(&["getpeerinfo"], one_peer("v2", true));
    bitcoind.rpc.wait_for(&["getpeerinfo"], one_peer("v2", false));
    bitcoind.end();
    node.end();
}

#[test]
fn a_bitcoind_without_version_2_is_served_in_version_1() {
    let bitcoind = start(&["-v2transport=0"]);
    let node = OurNode::start(&["--connect", &bitcoind.address.to_string()]);
    node.rpc.wait_for(&["getpeerinfo"], one_peer("v1", false));
    bitcoind.rpc.wait_for(&["getpeerinfo"], one_peer("v1", true));
    node.end();
    bitcoind.end();
}

/// Inbound peers use all places for inbound connections. A place for the added node is still free.
#[test]
fn an_added_node_connects_although_all_inbound_places_are_taken() {
    let bitcoind = start(&[]);
    let node = OurNode::start(&["--max-connections", "1", "--v1-only"]);
    let _stranger = TcpStream::connect(&node.listening).unwrap();
    node.rpc.wait_for(&["getconnectioncount"], |count| *count == 1);
    let to = bitcoind.address.to_string();
    assert_eq!(
        node.rpc.error(&["addnode", &to, "add", "true"]),
        8,
        "the node supports only version 1"
    );
    node.rpc.text(&["addnode", &to, "add"]);
    node.rpc.wait_for(&["getconnectioncount"], |count| *count == 2);
    node.end();
    bitcoind.end();
}

#[test]
fn a_network_that_is_switched_off_has_no_peers_until_it_is_switched_on() {
    let bitcoind = start(&[]);
    let node = OurNode::start(&["--connect", &bitcoind.address.to_string()]);
    node.rpc.wait_for(&["getpeerinfo"], one_peer("v2", false));
    node.rpc.text(&["setnetworkactive", "false"]);
    assert_eq!(node.rpc.text(&["getconnectioncount"]), "0");
    // Inbound connections are refused.
    let mut stream = TcpStream::connect(&node.listening).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(node.rpc.text(&["getconnectioncount"]), "0");
    node.rpc.text(&["setnetworkactive", "true"]);
    node.rpc.wait_for(&["getpeerinfo"], one_peer("v2", false));
    node.end();
    bitcoind.end();
}

#[test]
fn bitcoin_cli_works_with_the_node() {
    let bitcoind = start(&[]);
    let node = OurNode::start(&[]);
    let to = bitcoind.address.to_string();
    let rpc = &node.rpc;
    assert_eq!(rpc.text(&["getconnectioncount"]), "0");
    assert!(rpc.text(&["uptime"]).parse::<u64>().unwrap() < 3600);

    rpc.text(&["addnode", &to, "add"]);
    assert_eq!(rpc.error(&["addnode", &to, "add"]), 23);
    let peers = rpc.wait_for(&["getpeerinfo"], one_peer("v2", false));
    // A connected peer is not dialled a second time.
    rpc.text(&["addnode", &to, "onetry"]);
    assert_eq!(rpc.text(&["getconnectioncount"]), "1");
    let info = rpc.json(&["getnetworkinfo"]);
    assert_eq!((&info["connections_out"], &info["networkactive"]), (&1.into(), &true.into()));
    assert_eq!(info["localservicesnames"], json!(["P2P_V2"]));
    let pongs = |peers: &Value| peers[0]["bytessent_per_msg"]["pong"].as_u64();
    let before = pongs(&bitcoind.rpc.json(&["getpeerinfo"]));
    rpc.text(&["ping"]);
    bitcoind.rpc.wait_for(&["getpeerinfo"], |peers| pongs(peers) > before);
    let netinfo = rpc.text(&["-netinfo", "4"]);
    // A peer on this machine counts as not publicly routable, as with Core.
    assert!(
        netinfo.contains("/Satoshi:") && netinfo.contains("ipv4    ipv6   cjdns     npr"),
        "{netinfo}"
    );
    assert!(netinfo.contains("Local addresses: n/a"), "{netinfo}");
    assert!(rpc.text(&["-getinfo"]).contains("Chain: regtest"));
    assert_eq!(rpc.text(&["help", "addnode"]), "addnode node command v2transport");
    let usage = rpc.command(&["getconnectioncount", "1"]);
    assert!(String::from_utf8_lossy(&usage.stderr).contains("usage: getconnectioncount"));
    let before = rpc.json(&["getnettotals"]);
    assert_eq!(before["uploadtarget"]["target"], 0);

    assert_eq!(rpc.error(&["-named", "addnode", &to, "node=x", "command=remove"]), 8);
    rpc.text(&["-named", "addnode", &to, "command=remove"]);
    assert_eq!(rpc.error(&["addnode", &to, "remove"]), 24);
    rpc.text(&["disconnectnode", "", &peers[0]["id"].to_string()]);
    assert_eq!(rpc.error(&["disconnectnode", &to]), 29);
    assert_eq!(
        rpc.error(&["disconnectnode", &to, "0"]),
        90,
        "the exit code is the low byte of 32602"
    );
    rpc.text(&["addnode", &to, "onetry", "false"]);
    rpc.wait_for(&["getpeerinfo"], one_peer("v1", false));
    rpc.text(&["disconnectnode", &to]);
    assert_eq!(rpc.text(&["getconnectioncount"]), "0");
    rpc.text(&["addnode", &to, "onetry"]);
    rpc.wait_for(&["getpeerinfo"], one_peer("v2", false));
    assert_eq!(rpc.error(&["addnode", "example.org", "add"]), 8, "the node resolves no names");
    assert_eq!(rpc.error(&["addnode", &to, "forget"]), 1);
    assert_eq!(rpc.text(&["setnetworkactive", "false"]), "false");
    assert_eq!(rpc.text(&["getconnectioncount"]), "0");
    let total = rpc.json(&["getnettotals"]);
    assert!(total["totalbytessent"].as_u64() > before["totalbytessent"].as_u64());
    assert_eq!(rpc.error(&["getblock", "x"]), 89, "the exit code is the low byte of 32601");
    node.end();
    bitcoind.end();
}
