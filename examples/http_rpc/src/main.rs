//! A JSON-RPC server on sockman, as Bitcoin Core has one on libevent.
//!
//! ```text
//! cargo run --release -p sockman-http-rpc
//! curl --user "$(cat .cookie)" --data '{"method": "uptime"}' http://127.0.0.1:8332/
//! ```
//!
//! Where to read on: `server/mod.rs` is the HTTP server, `server/handler.rs` the part of it that
//! sits on sockman; `rpc/mod.rs` is JSON-RPC; `methods.rs` is what can be called: among it a wallet
//! that locks itself again, by a timer on the socket thread.

use std::{
    error::Error,
    io::{self, Write},
    num::NonZeroU64,
    path::PathBuf,
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use lexopt::{Arg, Parser, ValueExt};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use sockman::Interrupt;
use sockman_http_rpc::{
    Config, Server,
    methods::Wallets,
    rpc::{Cookie, RpcService},
};

const HELP: &str = "\
A JSON-RPC server, as Bitcoin Core's: POST to /, with the user and password of the cookie file.

Options:
  --listen ADDR          listen there (default 127.0.0.1:8332); may be repeated
  --cookie FILE          write the cookie there (default .cookie)
  --allow IP             who may connect besides this machine; may be repeated
  --max-connections N    beyond them clients wait (default 16)
  --workers N            threads that answer (default 4)
  --idle-timeout SECONDS for clients that do nothing (default 30)
  --passphrase TEXT      unlocks the wallet (default: secret)
  --help                 this text

The methods are: echo, getwalletinfo, help, stop, uptime, wait, walletlock, walletpassphrase.
";

/// So often it is checked that the server still runs.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// What shells and other programs expect for arguments that make no sense.
const BAD_ARGUMENTS: u8 = 2;
/// What they expect of one that a signal ended.
const INTERRUPTED: i32 = 130;

struct Arguments {
    config: Config,
    cookie: PathBuf,
    passphrase: String,
}

fn main() -> ExitCode {
    env_logger::init();
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            say(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "http_rpc: {error}\nTry --help.");
            return ExitCode::from(BAD_ARGUMENTS);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "http_rpc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let stop = Interrupt::new();
    catch_signals(&stop)?;
    let methods = Wallets::new(&arguments.passphrase, stop.clone());
    let service = Arc::new(RpcService { cookie: Cookie::generate()?, methods });
    let server = Server::start(arguments.config, service.clone())?;
    let cookie_file = service
        .cookie
        .write(&arguments.cookie)
        .map_err(|error| format!("{}: {error}", arguments.cookie.display()))?;
    for address in server.listening() {
        say(&format!("listening on {address}"));
    }
    say(&format!("the cookie is in {}; Ctrl-C ends the server", arguments.cookie.display()));
    while server.is_running() && stop.sleep_for(LOOK_AROUND) {}

    say("ending: answers in flight finish");
    server.stop()?;
    drop(cookie_file);
    say("ended");
    Ok(())
}

/// The first one ends the server in order, the second at once.
fn catch_signals(stop: &Interrupt) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let stop = stop.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if stop.is_interrupted() {
                process::exit(INTERRUPTED);
            }
            stop.interrupt();
        }
    })?;
    Ok(())
}

fn parse() -> Result<Option<Arguments>, Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let mut config = Config::default();
    let (mut cookie, mut passphrase) = (PathBuf::from(".cookie"), "secret".to_owned());
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("listen") => config.listen.push(parser.value()?.parse()?),
            Arg::Long("cookie") => cookie = PathBuf::from(parser.value()?),
            Arg::Long("allow") => config.allow.push(parser.value()?.parse()?),
            Arg::Long("max-connections") => config.max_connections = parser.value()?.parse()?,
            Arg::Long("workers") => config.workers = parser.value()?.parse::<usize>()?.max(1),
            Arg::Long("idle-timeout") => {
                let seconds: NonZeroU64 = parser.value()?.parse()?;
                config.idle_timeout = Duration::from_secs(seconds.get());
            }
            Arg::Long("passphrase") => passphrase = parser.value()?.string()?,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if config.listen.is_empty() {
        config.listen.push("127.0.0.1:8332".parse()?);
    }
    Ok(Some(Arguments { config, cookie, passphrase }))
}

/// A line on standard output. Whoever does not want to read on may close it.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
