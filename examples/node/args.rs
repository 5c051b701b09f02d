//! The command line.

use std::error::Error;

use bitcoin::Network;
use lexopt::{Arg, Parser, ValueExt};
use sockman::{Destination, Service};

use crate::node::Config;

pub(crate) const HELP: &str = "\
A small Bitcoin node: handshake, pings, addresses, headers. It keeps nothing on disk.

Without arguments, two of them talk to each other in this process, and it ends.

Options:
  --listen ADDR          accept connections there; may be repeated; port 0: any free one
  --connect ADDR         connect there and stay connected; may be repeated
  --network NAME         main (default), testnet4, signet or regtest
  --max-connections N    in both directions together (default 125)
  --help                 this text

ADDR is IP:PORT, [IPv6]:PORT, or unix:/PATH. The node runs until Ctrl-C.
RUST_LOG=debug shows what sockman does.
";

pub(crate) enum Command {
    Demo,
    Help,
    Run(Box<Config>),
}

/// # Errors
///
/// What is wrong with the arguments, for a person.
pub(crate) fn parse() -> Result<Command, Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let mut config = Config::new(Network::Bitcoin);
    let mut any = false;
    while let Some(arg) = parser.next()? {
        any = true;
        match arg {
            Arg::Long("listen") => config.listen.push(parser.value()?.parse_with(service)?),
            Arg::Long("connect") => config.connect.push(parser.value()?.parse_with(destination)?),
            Arg::Long("network") => config.network = parser.value()?.parse_with(network)?,
            Arg::Long("max-connections") => config.max_connections = parser.value()?.parse()?,
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if !any {
        return Ok(Command::Demo);
    }
    if config.listen.is_empty() && config.connect.is_empty() {
        return Err("there is nobody to talk to: give --listen or --connect".into());
    }
    if config.connect.len() > config.max_connections {
        return Err(format!(
            "--connect is given {} times, which is more than the {} of --max-connections",
            config.connect.len(),
            config.max_connections
        )
        .into());
    }
    Ok(Command::Run(Box::new(config)))
}

fn service(text: &str) -> Result<Service, Box<dyn Error + Send + Sync>> {
    Ok(text.parse()?)
}

fn destination(text: &str) -> Result<Destination, Box<dyn Error + Send + Sync>> {
    match text.parse()? {
        Destination::Name { .. } => {
            Err("host names are for proxies to resolve, which this example does without".into())
        }
        destination => Ok(destination),
    }
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
