//! A Stratum V2 server on sockman, which pushes block templates to everybody who asks.
//!
//! ```text
//! cargo run --release --example sv2_server -- --listen 127.0.0.1:8442
//! ```
//!
//! Where to read on: `server/mod.rs` is the part that sits on sockman, `server/session.rs` one
//! client's conversation. `tests/sv2_server.rs` has a client.

mod server;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use lexopt::{Arg, Parser, ValueExt};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use server::{Config, Event, Server, keys::AuthorityKeys};

const HELP: &str = "\
A Stratum V2 server in the shape of a Template Provider. Its templates are made up.

Options:
  --listen ADDR       listen there (default 127.0.0.1:8442); may be repeated
  --interval SECONDS  between two templates (default 5)
  --help              this text
";
/// What shells and other programs expect for arguments that make no sense.
const BAD_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    env_logger::init();
    match parse() {
        Ok(None) => {
            say(HELP.trim_end());
            ExitCode::SUCCESS
        }
        Ok(Some(config)) => match run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "sv2_server: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "sv2_server: {error}\nTry --help.");
            ExitCode::from(BAD_ARGUMENTS)
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let keys = AuthorityKeys::generate()?;
    say(&format!("authority public key {}", keys.to_text()));
    let server = Server::start(config, keys, |event| say(&in_words(&event)))?;
    for address in server.listening() {
        say(&format!("listening on {address}; Ctrl-C ends the server"));
    }
    signals.forever().next();
    server.stop()?;
    say("ended");
    Ok(())
}

fn in_words(event: &Event) -> String {
    match event {
        Event::Connected { id } => format!("client {id}: connected"),
        Event::Subscribed { id } => format!("client {id}: wants templates"),
        Event::Pushed { template, clients } => format!("template {template}: {clients} clients"),
        Event::Disconnected { id, reason } => format!("client {id}: disconnected: {reason}"),
    }
}

fn parse() -> Result<Option<Config>, Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let mut config = Config::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("listen") => config.listen.push(parser.value()?.parse()?),
            Arg::Long("interval") => {
                config.interval = Duration::from_secs(parser.value()?.parse::<u64>()?.max(1));
            }
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if config.listen.is_empty() {
        config.listen.push("127.0.0.1:8442".parse()?);
    }
    Ok(Some(config))
}

/// A line on standard output. Whoever does not want to read on may close it.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
