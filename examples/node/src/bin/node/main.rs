//! A small Bitcoin node on sockman: the program.
//!
//! ```text
//! cargo run --release -p sockman-node                 runs two nodes that talk to each other
//! cargo run --release -p sockman-node -- --connect 127.0.0.1:8333
//! cargo run --release -p sockman-node -- --listen 0.0.0.0:18444 --network regtest
//! cargo run --release -p sockman-node -- --help
//! ```
//!
//! The library (`src/lib.rs`) is the node, and its `src/connman.rs` implements `Handler`. In this
//! folder, `methods` has the RPC methods and `web` the page, each on its own `SockMan`.
//! `demo` runs two nodes in one process, `daemon` runs one node until it is stopped, and `report`
//! formats their output. `RUST_LOG=sockman=debug` shows the library's log.

mod args;
mod daemon;
mod demo;
mod methods;
mod networks;
mod report;
mod web;

use std::process::ExitCode;

use args::Command;

/// The usual exit code for invalid arguments.
const BAD_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    env_logger::init();
    let outcome = match args::parse() {
        Ok(Command::Help) => {
            report::say(args::HELP.trim_end());
            Ok(())
        }
        Ok(Command::Demo) => demo::run(),
        Ok(Command::Run(config, rpc, blocks)) => daemon::run(*config, &rpc, blocks.as_deref()),
        Err(error) => {
            report::complain(&format!("{error}\nTry --help for the list of options."));
            return ExitCode::from(BAD_ARGUMENTS);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
