//! The node's RPC methods, which run on the RPC server's worker threads.
//!
//! Field names, error codes and most error texts are Bitcoin Core's, so that its command-line
//! client works with this node. Fields whose values the node does not know are left out.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bitcoin::{Network, blockdata::constants::genesis_block, p2p::ServiceFlags};
use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sockman::{address::Destination, stats::Direction};
use sockman_http_rpc::{
    Timers,
    rpc::{
        self, INVALID_PARAMETER, METHOD_NOT_FOUND, MISC_ERROR, Method, Methods, Params, RpcError,
        RpcResult,
    },
};
use sockman_node::{Control, PROTOCOL_VERSION, PeerInfo, USER_AGENT};

use crate::networks;

// These error codes are from Bitcoin Core's `src/rpc/protocol.h`.
const INVALID_PARAMS: i32 = -32602;
const CLIENT_NODE_ALREADY_ADDED: i32 = -23;
const CLIENT_NODE_NOT_ADDED: i32 = -24;
const CLIENT_NODE_NOT_CONNECTED: i32 = -29;
/// The version of Bitcoin Core whose answers these methods follow. Core's client checks the number.
const CORE_VERSION: u32 = 290_000;

const METHODS: &[Method] = &[
    ("addnode", &["node", "command", "v2transport"]),
    ("disconnectnode", &["address", "nodeid"]),
    ("getblockchaininfo", &[]),
    ("getblockcount", &[]),
    ("getconnectioncount", &[]),
    ("getnettotals", &[]),
    ("getnetworkinfo", &[]),
    ("getpeerinfo", &[]),
    ("help", &["command"]),
    ("ping", &[]),
    ("setnetworkactive", &["state"]),
    ("stop", &[]),
    ("uptime", &[]),
];

pub(crate) struct NodeMethods {
    node: Control,
    started: Instant,
}

impl NodeMethods {
    pub(crate) fn new(node: Control) -> NodeMethods {
        NodeMethods { node, started: Instant::now() }
    }

    fn network_info(&self) -> Value {
        let peers = self.node.peers();
        let inbound = peers.iter().filter(|peer| peer.direction == Direction::Inbound).count();
        let services = self.node.services();
        let addresses = self.node.listening();
        let addresses: Vec<Value> = addresses
            .iter()
            .filter(|address| networks::is_public(address.addr()))
            .map(|address| {
                json!({
                    "address": address.addr().to_string(),
                    "port": address.port(),
                    "score": 1,
                })
            })
            .collect();
        json!({
            "version": CORE_VERSION,
            "subversion": USER_AGENT,
            "protocolversion": PROTOCOL_VERSION,
            "localservices": format!("{:016x}", services.to_u64()),
            "localservicesnames": service_names(services),
            "localrelay": false,
            "timeoffset": 0,
            "networkactive": self.node.is_network_active(),
            "connections": peers.len(),
            "connections_in": inbound,
            "connections_out": peers.len() - inbound,
            "networks": networks::reachable(self.node.config()),
            "relayfee": 0.0,
            "incrementalfee": 0.0,
            "localaddresses": addresses,
            "warnings": [],
        })
    }

    /// Returns the answer to `getblockchaininfo`. A node without blocks counts headers in their
    /// place.
    fn blockchain_info(&self) -> Value {
        let (height, tip) = self.node.tip();
        let served = self.node.config().blocks.as_ref();
        let genesis = genesis_block(self.node.config().network).header.time;
        let now = since_epoch(SystemTime::now()).as_secs_f64();
        // Bitcoin Core computes the progress from transactions. This node computes it from the time
        // of its newest header.
        let progress = f64::from(tip.time - genesis) / (now - f64::from(genesis));
        json!({
            "chain": self.node.config().network.to_core_arg(),
            "blocks": served.map_or(height, |blocks| blocks.height()),
            "headers": height,
            "bestblockhash": tip.block_hash().to_string(),
            "difficulty": tip.difficulty_float(),
            "time": tip.time,
            "verificationprogress": progress.clamp(0.0, 1.0),
            "pruned": served.is_none(),
            "warnings": [],
        })
    }

    fn add_node(&self, params: &Params<'_>) -> RpcResult {
        let to = self.destination(&params.required(0, Params::string)?)?;
        let command = params.required(1, Params::string)?;
        let speaks_v2 = self.node.config().v2_transport;
        let with_v2 = params.boolean(2)?.unwrap_or(speaks_v2);
        if with_v2 && !speaks_v2 {
            let message = "Error: v2transport requested but not enabled (see --v1-only)";
            return Err(RpcError::new(INVALID_PARAMETER, message));
        }
        if let (Some(needs), true) = (self.node.config().what_it_needs(&to), command != "remove") {
            return Err(RpcError::new(INVALID_PARAMETER, format!("{to} requires {needs}")));
        }
        match &*command {
            "add" if self.node.add_target(&to, with_v2) => Ok(Value::Null),
            "add" => Err(RpcError::new(CLIENT_NODE_ALREADY_ADDED, "Error: Node already added")),
            "remove" if self.node.remove_target(&to) => Ok(Value::Null),
            "remove" => {
                let message = "Error: Node could not be removed. It has not been added previously.";
                Err(RpcError::new(CLIENT_NODE_NOT_ADDED, message))
            }
            "onetry" => {
                self.node.try_once(&to, with_v2);
                Ok(Value::Null)
            }
            _ => {
                let message = "unknown command of addnode: use add, remove or onetry";
                Err(RpcError::new(MISC_ERROR, message))
            }
        }
    }

    /// Parses an address as the command line does. An address without a port gets the default port
    /// of the network.
    fn destination(&self, node: &str) -> Result<Destination, RpcError> {
        let port = default_port(self.node.config().network);
        let with_port = match node.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{port}"),
            Err(_) => format!("{node}:{port}"),
        };
        node.parse().or_else(|error| {
            with_port.parse().map_err(|_| RpcError::new(INVALID_PARAMETER, format!("{error}")))
        })
    }

    fn disconnect_node(&self, params: &Params<'_>) -> RpcResult {
        let address = params.string(0)?.filter(|address| !address.is_empty());
        let id = params.integer(1)?;
        let found = match (address, id) {
            (Some(address), None) => {
                self.node.disconnect(|peer| peer.address.to_string() == address)
            }
            (None, Some(id)) => self
                .node
                .disconnect(|peer| i64::try_from(peer.id.as_u64()).is_ok_and(|of| of == id)),
            _ => {
                let message = "Only one of address and nodeid should be provided.";
                return Err(RpcError::new(INVALID_PARAMS, message));
            }
        };
        if found {
            return Ok(Value::Null);
        }
        Err(RpcError::new(CLIENT_NODE_NOT_CONNECTED, "Node not found in connected nodes"))
    }
}

impl Methods for NodeMethods {
    fn parameters(&self, method: &str) -> Option<&'static [&'static str]> {
        METHODS.iter().find(|(name, _)| *name == method).map(|(_, parameters)| *parameters)
    }

    fn call(&self, method: &str, params: &Params<'_>, _: &Timers<'_>) -> RpcResult {
        match method {
            "addnode" => self.add_node(params),
            "disconnectnode" => self.disconnect_node(params),
            "getblockcount" => Ok(json!(self.node.height())),
            "getconnectioncount" => Ok(json!(self.node.peers().len())),
            "getnettotals" => Ok(totals(&self.node)),
            "getnetworkinfo" => Ok(self.network_info()),
            "getpeerinfo" => Ok(self.node.peers().iter().map(peer_info).collect()),
            "getblockchaininfo" => Ok(self.blockchain_info()),
            "help" => Ok(rpc::help(METHODS, params.string(0)?.as_deref())),
            "ping" => {
                self.node.ping_all();
                Ok(Value::Null)
            }
            "setnetworkactive" => {
                self.node.set_network_active(params.required(0, Params::boolean)?);
                Ok(json!(self.node.is_network_active()))
            }
            "stop" => {
                self.node.stop();
                Ok(json!("sockman-node stopping"))
            }
            "uptime" => Ok(json!(self.started.elapsed().as_secs())),
            _ => Err(RpcError::new(METHOD_NOT_FOUND, "Method not found")),
        }
    }
}

/// Returns the answer to `getnettotals`.
pub(crate) fn totals(node: &Control) -> Value {
    let (received, sent) = node.totals();
    json!({
        "totalbytesrecv": received,
        "totalbytessent": sent,
        "timemillis": since_epoch(SystemTime::now()).as_millis(),
        "uploadtarget": {
            "timeframe": 24 * 60 * 60,
            // 0 means no target.
            "target": 0,
            "target_reached": false,
            "serve_historical_blocks": true,
            "bytes_left_in_cycle": 0,
            "time_left_in_cycle": 0,
        },
    })
}

/// Returns a peer's entry in the answer to `getpeerinfo`. Times are in seconds, either since 1970
/// or of a ping.
pub(crate) fn peer_info(peer: &PeerInfo) -> Value {
    // The proxy resolves host names, so the network of a name is unknown here.
    let network =
        peer.address.service().map_or(networks::UNROUTABLE, |to| networks::name(to.addr()));
    let is_inbound = peer.direction == Direction::Inbound;
    let mut info = Map::new();
    let mut set = |name: &str, value: Value| drop(info.insert(name.to_owned(), value));
    set("id", json!(peer.id.as_u64()));
    set("addr", json!(peer.address.to_string()));
    set("addrbind", json!(peer.me.to_string()));
    set("network", json!(network));
    set("lastsend", json!(peer.last_sent.map_or(0, unix_time)));
    set("lastrecv", json!(peer.last_received.map_or(0, unix_time)));
    set("last_transaction", json!(0));
    set("last_block", json!(0));
    set("bytessent", json!(peer.bytes_out));
    set("bytesrecv", json!(peer.bytes_in));
    set("conntime", json!(since_epoch(peer.connected_at).as_secs()));
    set("timeoffset", json!(peer.version.as_ref().map_or(0, |version| version.time_offset)));
    for (name, time) in [
        ("pingtime", peer.round_trip),
        ("minping", peer.min_round_trip),
        ("pingwait", peer.ping_wait),
    ] {
        if let Some(time) = time {
            set(name, json!(time.as_secs_f64()));
        }
    }
    let version = peer.version.as_ref();
    let services = version.map_or(ServiceFlags::NONE, |version| version.services);
    set("services", json!(format!("{:016x}", services.to_u64())));
    set("servicesnames", service_names(services));
    set("relaytxes", json!(version.is_some_and(|version| version.relays)));
    set("version", json!(version.map_or(0, |version| version.protocol)));
    set("subver", json!(version.map_or("", |version| &version.agent)));
    set("inbound", json!(is_inbound));
    set("bip152_hb_to", json!(false));
    set("bip152_hb_from", json!(false));
    set("startingheight", json!(version.map_or(-1, |version| version.start_height)));
    set("permissions", json!([]));
    set("connection_type", json!(if is_inbound { "inbound" } else { "manual" }));
    set("transport_protocol_type", json!(peer.transport.as_str()));
    let session_id = peer.session_id.map(|id| HEXLOWER.encode(&id));
    set("session_id", json!(session_id.unwrap_or_default()));
    Value::Object(info)
}

fn default_port(network: Network) -> u16 {
    match network {
        Network::Bitcoin => 8333,
        Network::Testnet4 => 48333,
        Network::Signet => 38333,
        Network::Regtest => 18444,
        _ => 18333,
    }
}

fn service_names(services: ServiceFlags) -> Value {
    let names = [
        (ServiceFlags::NETWORK, "NETWORK"),
        (ServiceFlags::BLOOM, "BLOOM"),
        (ServiceFlags::WITNESS, "WITNESS"),
        (ServiceFlags::COMPACT_FILTERS, "COMPACT_FILTERS"),
        (ServiceFlags::NETWORK_LIMITED, "NETWORK_LIMITED"),
        (ServiceFlags::P2P_V2, "P2P_V2"),
    ];
    let bits = (0..u64::BITS).filter(|bit| services.to_u64() >> bit & 1 == 1);
    let name = |bit| {
        let known = names.iter().find(|(flag, _)| flag.to_u64() == 1_u64 << bit);
        known.map_or_else(|| format!("UNKNOWN[2^{bit}]"), |(_, name)| (*name).to_owned())
    };
    bits.map(name).collect()
}

/// Converts an [`Instant`] to seconds since 1970 by the current wall clock.
fn unix_time(moment: Instant) -> u64 {
    (since_epoch(SystemTime::now()).saturating_sub(moment.elapsed())).as_secs()
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
