//! A Lightning node that listens, connects to peers, and keeps the connections alive. It knows no
//! channels: a real node has a `ChannelManager` where this one has an `ErroringMessageHandler`.
//!
//! ```sh
//! cargo run -p lightning-net-sockman --example node -- --seed 1 --listen 127.0.0.1:9735
//! cargo run -p lightning-net-sockman --example node -- --seed 2 --peer NODE_ID@127.0.0.1:9735
//! cargo run -p lightning-net-sockman --example node -- \
//!     --tor 127.0.0.1:9050 --peer NODE_ID@…d.onion:9735
//! ```

#![allow(clippy::print_stdout, reason = "a program prints")]

use std::{
    error::Error,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lightning::{
    bitcoin::secp256k1::PublicKey,
    ln::{
        msgs::SocketAddress,
        peer_handler::{
            ErroringMessageHandler, IgnoringMessageHandler, MessageHandler, PeerManager,
        },
    },
    sign::{EntropySource, KeysManager, NodeSigner, Recipient},
    util::logger::{Level, Logger, Record},
};
use lightning_net_sockman::{Connection, Driver};
use sockman::{Interrupt, Options};

const USAGE: &str =
    "node [--seed NUMBER] [--listen ADDRESS]… [--peer NODE_ID@ADDRESS]… [--tor PROXY]";

/// How often LDK pings its peers, and ends those that do not answer.
const TICK: Duration = Duration::from_secs(10);

/// How long the node waits before it dials a peer again.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Arguments {
    seed: u8,
    listen: Vec<String>,
    peers: Vec<(PublicKey, SocketAddress)>,
    tor: Option<SocketAddr>,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    use lexopt::{Arg::Long, ValueExt};

    let mut arguments = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seed") => arguments.seed = parser.value()?.parse()?,
            Long("listen") => arguments.listen.push(parser.value()?.string()?),
            Long("tor") => arguments.tor = Some(parser.value()?.parse()?),
            Long("peer") => {
                let peer = parser.value()?.string()?;
                let (id, address) = peer.split_once('@').ok_or("a peer is NODE_ID@ADDRESS")?;
                let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
                arguments.peers.push((id.parse()?, address));
            }
            Long("help") => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(arguments)
}

struct Log;

impl Logger for Log {
    fn log(&self, record: Record<'_>) {
        if record.level >= Level::Debug {
            println!("{}: {}", record.level, record.args);
        }
    }
}

/// Connects to a peer, directly or through Tor.
fn connect(
    driver: &Driver,
    id: PublicKey,
    address: &SocketAddress,
    tor: Option<SocketAddr>,
) -> Result<Connection, Box<dyn Error>> {
    match tor {
        Some(tor) => Ok(driver.tor_connect_outbound(id, address, tor)?),
        None => Ok(driver.connect_outbound(id, address.to_string().parse()?)?),
    }
}

/// Keeps a connection to a peer, until the end of the program.
fn keep(
    driver: &Driver,
    stop: &Interrupt,
    id: PublicKey,
    address: &SocketAddress,
    tor: Option<SocketAddr>,
) {
    while !stop.is_interrupted() {
        match connect(driver, id, address, tor) {
            Ok(connection) => {
                println!("connected to {id} at {address}");
                while !connection.wait_closed(Duration::from_secs(1)) && !stop.is_interrupted() {}
                println!("the connection to {id} has ended");
            }
            Err(error) => println!("{id}: {error:#}"), // With the causes.
        }
        let _ = stop.sleep_for(RETRY);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // The seed of a real node is random, secret, and the same at each start.
    let seed = [arguments.seed; 32];
    let keys = Arc::new(KeysManager::new(&seed, now.as_secs(), now.subsec_nanos(), true));
    let id = keys.get_node_id(Recipient::Node).map_err(|()| "the node has no key")?;
    let random = keys.get_secure_random_bytes();
    let handlers = MessageHandler {
        chan_handler: ErroringMessageHandler::new(),
        route_handler: IgnoringMessageHandler {},
        onion_message_handler: IgnoringMessageHandler {},
        custom_message_handler: IgnoringMessageHandler {},
        send_only_message_handler: IgnoringMessageHandler {},
    };
    let time = u32::try_from(now.as_secs())?;
    let manager = Arc::new(PeerManager::new(handlers, time, &random, Arc::new(Log), keys));

    // One signal ends the socket thread, connects under way, and the waits of this program.
    let stop = Interrupt::new();
    let options = Options::default().interrupt(stop.clone());
    let driver = Driver::new(Arc::clone(&manager), options)?;
    println!("node {id}");
    for address in &arguments.listen {
        let bound = driver.sockman().bind_and_start_listening(address.as_str())?;
        println!("listening on {bound}");
    }
    let threads = driver.sockman().start_sockets_threads()?;
    let ender = stop.clone();
    ctrlc::set_handler(move || ender.interrupt())?;

    thread::scope(|scope| {
        for (id, address) in &arguments.peers {
            scope.spawn(|| keep(&driver, &stop, *id, address, arguments.tor));
        }
        while stop.sleep_for(TICK) {
            manager.timer_tick_occurred();
        }
    });
    manager.disconnect_all_peers();
    threads.join()?;
    Ok(())
}
