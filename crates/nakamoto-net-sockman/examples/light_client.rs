//! A light client that prints what nakamoto reports, until Ctrl-C.
//!
//! `cargo run -p nakamoto-net-sockman --example light_client -- --network regtest --connect 127.0.0.1:18444 --root chain`

#![allow(clippy::print_stdout, reason = "a program prints")]

use std::{error::Error, net::SocketAddr, path::PathBuf, process, thread};

use nakamoto_client::{Client, Config, Network, traits::Handle};
use nakamoto_net_sockman::Reactor;

const USAGE: &str = "light_client [--network mainnet|testnet|signet|regtest] [--connect ADDRESS]… \
                     [--listen ADDRESS]… [--root FOLDER]";

struct Arguments {
    network: Network,
    connect: Vec<SocketAddr>,
    listen: Vec<SocketAddr>,
    root: PathBuf,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    use lexopt::{Arg::Long, ValueExt};

    let mut arguments = Arguments {
        network: Network::Signet,
        connect: Vec::new(),
        listen: Vec::new(),
        root: PathBuf::from("."),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("network") => {
                arguments.network = match parser.value()?.string()?.as_str() {
                    "mainnet" => Network::Mainnet,
                    "testnet" => Network::Testnet,
                    "signet" => Network::Signet,
                    "regtest" => Network::Regtest,
                    other => return Err(format!("{other} is not a network").into()),
                };
            }
            Long("connect") => arguments.connect.push(parser.value()?.parse()?),
            Long("listen") => arguments.listen.push(parser.value()?.parse()?),
            Long("root") => arguments.root = parser.value()?.into(),
            Long("help") => {
                println!("{USAGE}");
                process::exit(0);
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(arguments)
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { network, connect, listen, root } = arguments()?;
    let client = Client::<Reactor>::new()?;
    let handle = client.handle();
    let events = handle.events();

    // The program ends when the run ends. The signal ends the run.
    let ending = handle.clone();
    ctrlc::set_handler(move || {
        // An error means that the run has ended.
        let _ = ending.clone().shutdown();
    })?;
    // The channel ends with the last handle, and this thread then with the program.
    thread::spawn(move || events.iter().for_each(|event| println!("{event}")));

    client.run(Config { connect, listen, root, ..Config::new(network) })?;
    println!("the client has ended");
    Ok(())
}
