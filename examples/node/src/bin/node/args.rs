//! The command line: its help text, and its conversion to a [`Command`].

use std::{error::Error, net::IpAddr, path::PathBuf};

use bitcoin::Network;
use lexopt::{Arg, Parser, ValueExt};
use sockman::{Service, address::Destination, i2p::I2pOptions, proxy::Proxy};
use sockman_https::tls::Files;
use sockman_node::Config;

pub(crate) const HELP: &str = "\
Runs a small Bitcoin node: handshake, pings, addresses, headers. It can serve blocks and filters
from files, and keeps no data on disk.

Without options, two nodes in this process talk to each other, and the program ends by itself.
With options, the node runs until Ctrl-C. A second Ctrl-C ends the program at once.

Usage: node [OPTIONS]

Options:
  --listen ADDR          accept connections on ADDR (repeatable; port 0 picks a free port)
  --connect ADDR         connect to ADDR and stay connected (repeatable)
  --proxy PROXY          connect through this SOCKS5 proxy, which also resolves host names
  --onion PROXY          connect to onion services through this Tor proxy, often 127.0.0.1:9050
  --no-stream-isolation  do not request a separate Tor circuit for each connection
  --i2p-sam SAM          connect to I2P peers through this SAM bridge, often 127.0.0.1:7656
  --i2p-key FILE         read the key of the node's I2P address from FILE; create a missing FILE
  --i2p-accept           accept connections from I2P (needs --i2p-key)
  --i2p-tunnel-length N  use N routers in each I2P tunnel (0 gives no anonymity, for tests only)
  --blocks PATH          serve the blocks in PATH and their filters: a folder with blk*.dat files of
                         Bitcoin Core or *.block files with one block each, or one such file
  --rpc ADDR             answer JSON-RPC as Bitcoin Core does on ADDR (repeatable)
  --rpc-cookie FILE      write the RPC user and password to FILE (default: .cookie)
  --rpc-allow IP         accept RPC calls from IP in addition to this machine (repeatable)
  --web ADDR             show the peers on a web page on ADDR, for this machine only (repeatable)
  --tls-cert FILE        serve RPC and the page over TLS, with the certificates in FILE (PEM)
  --tls-key FILE         the private key of --tls-cert (PEM)
  --v1-only              do not speak the encrypted transport of BIP 324
  --network NAME         join main (default), testnet4, signet or regtest
  --max-connections N    allow N connections, in and out (default: 125), and 8 more for addnode
  --help                 print this text

ADDR, PROXY and SAM are IP:PORT, [IPv6]:PORT or unix:/PATH. --connect also accepts
  NAME:PORT                     with --proxy
  <56 characters>.onion:PORT    with --onion or --proxy
  <52 characters>.b32.i2p:0     with --i2p-sam

RUST_LOG=sockman=debug in the environment shows what the library does.
";

pub(crate) enum Command {
    Demo,
    Help,
    /// The path is that of the blocks to serve.
    Run(Box<Config>, Box<Rpc>, Option<PathBuf>),
}

/// The options of the RPC server and of the web page.
pub(crate) struct Rpc {
    pub(crate) listen: Vec<Service>,
    pub(crate) cookie: PathBuf,
    pub(crate) allow: Vec<IpAddr>,
    /// The addresses of the web page.
    pub(crate) web: Vec<Service>,
    /// The certificate of both. `None` means without TLS.
    pub(crate) tls: Option<Files>,
}

/// Parses the arguments of the program.
///
/// # Errors
///
/// An error that explains to the user what is wrong with the arguments.
pub(crate) fn parse() -> Result<Command, Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let mut config = Config::new(Network::Bitcoin);
    let (mut proxy, mut onion_proxy) = (None, None);
    let mut isolated = true;
    let (mut sam, mut key, mut tunnel_length) = (None, None, None);
    let mut accepts = false;
    let mut blocks = None;
    let (mut rpc_cookie, mut rpc_allow) = (None, Vec::new());
    let (mut rpc_listen, mut web): (Vec<Service>, Vec<Service>) = (Vec::new(), Vec::new());
    let (mut certificate, mut tls_key) = (None, None);
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
            Arg::Long("blocks") => blocks = Some(PathBuf::from(parser.value()?)),
            Arg::Long("rpc") => rpc_listen.push(parser.value()?.parse_with(service)?),
            Arg::Long("rpc-cookie") => rpc_cookie = Some(PathBuf::from(parser.value()?)),
            Arg::Long("rpc-allow") => rpc_allow.push(parser.value()?.parse()?),
            Arg::Long("web") => web.push(parser.value()?.parse_with(service)?),
            Arg::Long("tls-cert") => certificate = Some(PathBuf::from(parser.value()?)),
            Arg::Long("tls-key") => tls_key = Some(PathBuf::from(parser.value()?)),
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
        let message = "--i2p-accept requires --i2p-key: without a persistent key there is no \
                       address to connect to";
        return Err(message.into());
    }
    if sam.is_none() && (accepts || key.is_some() || tunnel_length.is_some()) {
        return Err("--i2p-key, --i2p-accept and --i2p-tunnel-length require --i2p-sam".into());
    }
    if rpc_listen.is_empty() && (rpc_cookie.is_some() || !rpc_allow.is_empty()) {
        return Err("--rpc-cookie and --rpc-allow require --rpc".into());
    }
    let tls = match (certificate, tls_key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(Files { certificate, key, ..Files::default() }),
        _ => return Err("--tls-cert and --tls-key require each other".into()),
    };
    if tls.is_some() && rpc_listen.is_empty() && web.is_empty() {
        return Err("--tls-cert and --tls-key require --rpc or --web".into());
    }
    // The page requires no password, so it is for this machine only.
    let is_local = |to: &Service| to.to_socket_addr().is_none_or(|to| to.ip().is_loopback());
    if let Some(to) = web.iter().find(|to| !is_local(to)) {
        return Err(format!(
            "--web {to}: the page has no password and is for this machine only; use 127.0.0.1"
        )
        .into());
    }
    config.i2p = sam.map(|sam| i2p(sam, key, accepts, tunnel_length));
    let is_alone = config.listen.is_empty() && config.connect.is_empty() && !accepts;
    // With RPC, a client can add addresses to dial.
    if is_alone && rpc_listen.is_empty() {
        return Err("the node would have no peers: use --listen or --connect".into());
    }
    config.proxy = proxy.map(|endpoint| socks5(endpoint, isolated));
    config.onion_proxy = onion_proxy.map(|endpoint| socks5(endpoint, isolated));
    for to in &config.connect {
        // Reported here, because otherwise every attempt to connect would fail.
        if let Some(needs) = config.what_it_needs(to) {
            return Err(format!("--connect {to} requires {needs}").into());
        }
    }
    if config.connect.len() > config.max_connections {
        return Err(format!(
            "--connect is given {} times, but --max-connections is {}",
            config.connect.len(),
            config.max_connections
        )
        .into());
    }
    let cookie = rpc_cookie.unwrap_or_else(|| PathBuf::from(".cookie"));
    let rpc = Rpc { listen: rpc_listen, cookie, allow: rpc_allow, web, tls };
    Ok(Command::Run(Box::new(config), Box::new(rpc), blocks))
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
        _ => Err("unknown network: use main, testnet4, signet or regtest"),
    }
}
