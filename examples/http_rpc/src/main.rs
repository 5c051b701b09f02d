//! A JSON-RPC server on sockman, like Bitcoin Core's server on libevent.
//!
//! ```text
//! cargo run --release -p sockman-http-rpc
//! curl --user "$(cat .cookie)" --data '{"method": "uptime"}' http://127.0.0.1:8332/
//! ```
//!
//! `server/mod.rs` holds the HTTP server, and `server/handler.rs` holds its `EventHandler`.
//! `rpc/mod.rs` implements JSON-RPC. `methods.rs` holds the methods, among them those of a wallet
//! that a timer on the socket thread locks again.

use std::{
    error::Error,
    io::{self, Write},
    num::NonZeroU64,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use lexopt::{Arg, Parser, ValueExt};
use sockman::Interrupt;
use sockman_http_rpc::{
    Config, Server,
    methods::Wallets,
    rpc::{Cookie, RpcService},
};

const HELP: &str = "\
A JSON-RPC server like Bitcoin Core's.
Send requests as POST to /, with the user and the password from the cookie file.

Options:
  --listen ADDR          listen on ADDR; may be repeated (default 127.0.0.1:8332)
  --cookie FILE          write the cookie to FILE (default .cookie)
  --allow IP             accept requests from IP, besides loopback; may be repeated
  --max-connections N    serve at most N clients at a time; others wait (default 16)
  --workers N            answer requests on N threads (default 4)
  --idle-timeout SECONDS close connections of idle clients after SECONDS (default 30)
  --passphrase TEXT      unlock the wallet with TEXT (default secret)
  --help                 print this text

The methods are: echo, getwalletinfo, help, stop, uptime, wait, walletlock, walletpassphrase.
";

/// How often `run` checks whether the server still runs.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// The usual exit code of a program for bad arguments.
const BAD_ARGUMENTS: u8 = 2;

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
            let _ =
                writeln!(io::stderr(), "http_rpc: {error}\nTry --help for the list of options.");
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
    let stopping = stop.clone();
    sockman_programs::signals::on_signal(move || stopping.interrupt())
        .map_err(|error| format!("cannot catch signals: {error}"))?;
    let methods = Wallets::new(&arguments.passphrase, stop.clone());
    let service = Arc::new(RpcService { cookie: Cookie::generate()?, methods });
    let server = Server::start(arguments.config, service.clone())?;
    let cookie_file = service.cookie.write(&arguments.cookie).map_err(|error| {
        format!("cannot write the cookie to {}: {error}", arguments.cookie.display())
    })?;
    for address in server.listening() {
        say(&format!("listening on {address}"));
    }
    say(&format!("the cookie is in {}; Ctrl-C stops the server", arguments.cookie.display()));
    while server.is_running() && stop.sleep_for(LOOK_AROUND) {}

    say("stopping; requests that have begun are still answered");
    server.stop()?;
    drop(cookie_file);
    say("stopped");
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

/// Prints a line to standard output. An error is ignored: the reader may have closed the pipe.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
