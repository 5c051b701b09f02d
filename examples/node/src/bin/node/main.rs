//! A small Bitcoin node on sockman.
//!
//! ```text
//! cargo run --release -p sockman-node                       two nodes talk to each other, and end
//! cargo run --release -p sockman-node -- --connect 127.0.0.1:8333
//! cargo run --release -p sockman-node -- --listen 0.0.0.0:18444 --network regtest
//! cargo run --release -p sockman-node -- --help
//! ```
//!
//! Where to read on: the library, `src/lib.rs`, says how the node is built, and `src/connman.rs` is
//! the part that sits on sockman. Here, `methods.rs` is its RPC and `web.rs` its page, each on a
//! `SockMan` of its own. The other files only start it: `demo` for two nodes in one process,
//! `daemon` for one that runs until it is told to end, `report` for what they print.
//! `RUST_LOG=sockman=debug` shows what happens underneath.

mod args;
mod daemon;
mod demo;
mod methods;
mod networks;
mod report;
mod web;

use std::process::ExitCode;

use args::Command;

/// What shells and other programs expect for arguments that make no sense.
const BAD_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    env_logger::init();
    let outcome = match args::parse() {
        Ok(Command::Help) => {
            report::say(args::HELP.trim_end());
            Ok(())
        }
        Ok(Command::Demo) => demo::run(),
        Ok(Command::Run(config, rpc)) => daemon::run(*config, &rpc),
        Err(error) => {
            report::complain(&format!("{error}\nTry --help."));
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
