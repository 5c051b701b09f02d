//! The command line.

use std::{error::Error, net::IpAddr, path::PathBuf};

use bitcoin::Network;
use lexopt::{Arg, Parser, ValueExt};
use sockman::{Service, address::Destination, i2p::I2pOptions, proxy::Proxy};
use sockman_node::Config;

pub(crate) const HELP: &str = "\
A small Bitcoin node: handshake, pings, addresses, headers. It keeps nothing on disk.

Without arguments, two of them talk to each other in this process, and it ends.

Options:
  --listen ADDR          accept connections there; may be repeated; port 0: any free one
  --connect ADDR         connect there and stay connected; may be repeated
  --proxy PROXY          dial through this SOCKS5 proxy, which also resolves host names
  --onion PROXY          dial onion services through this one: Tor, mostly 127.0.0.1:9050
  --no-stream-isolation  do not ask the proxies for a circuit of its own for each peer
  --i2p-sam ADDR         dial I2P addresses through this router's SAM bridge, mostly 127.0.0.1:7656
  --i2p-key FILE         be known there by the key in this file, which is made if it is not there
  --i2p-accept           accept connections from I2P, too; needs --i2p-key
  --i2p-tunnel-length N  routers in each tunnel; 0 hides nothing, and is for tests
  --rpc ADDR             answer JSON-RPC there, as Bitcoin Core does; may be repeated
  --rpc-cookie FILE      write the password for it there (default .cookie)
  --rpc-allow IP         who may call it besides this machine; may be repeated
  --web ADDR             show the peers on a page there, for a browser on this machine
  --v1-only              do not speak the encrypted transport of BIP 324
  --network NAME         main (default), testnet4, signet or regtest
  --max-connections N    in both directions (default 125); addnode has 8 more
  --help                 this text

ADDR is IP:PORT, [IPv6]:PORT, or unix:/PATH; with --connect also NAME:PORT, and with --onion or
--proxy <56 characters>.onion:PORT, with --i2p-sam <52 characters>.b32.i2p:0. PROXY is IP:PORT,
[IPv6]:PORT, or unix:/PATH. The node runs until Ctrl-C; a second one ends it at once.
RUST_LOG=debug shows what sockman does.
";

pub(crate) enum Command {
    Demo,
    Help,
    Run(Box<Config>, Rpc),
}

/// What is served beside the node.
pub(crate) struct Rpc {
    pub(crate) listen: Vec<Service>,
    pub(crate) cookie: PathBuf,
    pub(crate) allow: Vec<IpAddr>,
    /// The page that shows the peers.
    pub(crate) web: Vec<Service>,
}

/// # Errors
///
/// What is wrong with the arguments, for a person.
pub(crate) fn parse() -> Result<Command, Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let mut config = Config::new(Network::Bitcoin);
    let (mut proxy, mut onion_proxy) = (None, None);
    let mut isolated = true;
    let (mut sam, mut key, mut tunnel_length) = (None, None, None);
    let mut accepts = false;
    let (mut rpc_cookie, mut rpc_allow) = (None, Vec::new());
    let (mut rpc_listen, mut web): (Vec<Service>, Vec<Service>) = (Vec::new(), Vec::new());
    let mut any = false;
    while let Some(arg) = parser.next()? {
        any = true;
        match arg {
            Arg::Long("listen") => config.listen.push(parser.value()?.parse_with(service)?),
            Arg::Long("connect") => config.connect.push(parser.value()?.parse_with(destination)?),
            Arg::Long("proxy") => proxy = Some(parser.value()?.parse_with(service)?),
            Arg::Long("onion") => onion_proxy = Some(parser.value()?.parse_with(service)?),
            Arg::Long("no-stream-isolation") => isolated = false,
            Arg::Long("i2p-sam") => sam = Some(parser.value()?.parse_with(service)?),
            Arg::Long("i2p-key") => key = Some(PathBuf::from(parser.value()?)),
            Arg::Long("i2p-accept") => accepts = true,
            Arg::Long("i2p-tunnel-length") => tunnel_length = Some(parser.value()?.parse()?),
            Arg::Long("rpc") => rpc_listen.push(parser.value()?.parse_with(service)?),
            Arg::Long("rpc-cookie") => rpc_cookie = Some(PathBuf::from(parser.value()?)),
            Arg::Long("rpc-allow") => rpc_allow.push(parser.value()?.parse()?),
            Arg::Long("web") => web.push(parser.value()?.parse_with(service)?),
            Arg::Long("v1-only") => config.v2_transport = false,
            Arg::Long("network") => config.network = parser.value()?.parse_with(network)?,
            Arg::Long("max-connections") => config.max_connections = parser.value()?.parse()?,
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if !any {
        return Ok(Command::Demo);
    }
    if accepts && key.is_none() {
        return Err("--i2p-accept requires --i2p-key: without a persistent key there is no address to connect to".into());
    }
    if sam.is_none() && (accepts || key.is_some() || tunnel_length.is_some()) {
        return Err("--i2p-key, --i2p-accept and --i2p-tunnel-length need --i2p-sam".into());
    }
    if rpc_listen.is_empty() && (rpc_cookie.is_some() || !rpc_allow.is_empty()) {
        return Err("--rpc-cookie and --rpc-allow need --rpc".into());
    }
    // It asks for no password.
    let is_local = |to: &Service| to.to_socket_addr().is_none_or(|to| to.ip().is_loopback());
    if let Some(to) = web.iter().find(|to| !is_local(to)) {
        return Err(format!("--web {to}: the page is for this machine alone, as 127.0.0.1").into());
    }
    config.i2p = sam.map(|sam| i2p(sam, key, accepts, tunnel_length));
    let is_alone = config.listen.is_empty() && config.connect.is_empty() && !accepts;
    // By RPC it can be told whom to dial.
    if is_alone && rpc_listen.is_empty() {
        return Err("there is nobody to talk to: give --listen or --connect".into());
    }
    config.proxy = proxy.map(|endpoint| socks5(endpoint, isolated));
    config.onion_proxy = onion_proxy.map(|endpoint| socks5(endpoint, isolated));
    for to in &config.connect {
        // Better told now than at every attempt to connect.
        if let Some(needs) = config.what_it_needs(to) {
            return Err(format!("--connect {to} needs {needs}").into());
        }
    }
    if config.connect.len() > config.max_connections {
        return Err(format!(
            "--connect is given {} times, which is more than the {} of --max-connections",
            config.connect.len(),
            config.max_connections
        )
        .into());
    }
    let cookie = rpc_cookie.unwrap_or_else(|| PathBuf::from(".cookie"));
    let rpc = Rpc { listen: rpc_listen, cookie, allow: rpc_allow, web };
    Ok(Command::Run(Box::new(config), rpc))
}

fn service(text: &str) -> Result<Service, Box<dyn Error + Send + Sync>> {
    Ok(text.parse()?)
}

fn destination(text: &str) -> Result<Destination, Box<dyn Error + Send + Sync>> {
    Ok(text.parse()?)
}

fn i2p(sam: Service, key: Option<PathBuf>, accepts: bool, tunnel_length: Option<u8>) -> I2pOptions {
    let mut options = I2pOptions::new(sam).accept_incoming(accepts);
    if let Some(key) = key {
        options = options.key_file(key);
    }
    if let Some(length) = tunnel_length {
        options = options.tunnel_length(length, length);
    }
    options
}

fn socks5(endpoint: Service, isolated: bool) -> Proxy {
    let proxy = Proxy::socks5(endpoint);
    if isolated { proxy.tor_stream_isolation() } else { proxy }
}

fn network(text: &str) -> Result<Network, &'static str> {
    match text {
        "main" => Ok(Network::Bitcoin),
        "testnet4" => Ok(Network::Testnet4),
        "signet" => Ok(Network::Signet),
        "regtest" => Ok(Network::Regtest),
        _ => Err("the networks are main, testnet4, signet and regtest"),
    }
}
