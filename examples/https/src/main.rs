//! An HTTPS server on sockman and rustls.
//!
//! ```text
//! cargo run --release -p sockman-https -- --cert cert.pem --key key.pem
//! curl --cacert cert.pem https://localhost:8443/
//! ```

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
use sockman_https::{
    Config, HttpsServer,
    demo::Demo,
    tls::{self, Clients, Files},
};

const HELP: &str = "\
An HTTPS server. GET / greets, GET /bytes/N sends N bytes, POST /echo sends back.

Options:
  --cert FILE              the server's certificate and those of its issuers, in PEM (required)
  --key FILE               the server's private key, in PEM (required)
  --listen ADDR            listen on ADDR; may be repeated (default 127.0.0.1:8443)
  --client-ca FILE         ask clients for a certificate that an authority in FILE has signed
  --require-client-cert    refuse clients without such a certificate
  --tls-1.3-only           refuse TLS 1.2
  --max-connections N      serve at most N clients at a time; others wait (default 256)
  --max-handshakes N       let at most N clients shake hands at a time; others are closed (default 256)
  --handshake-timeout SECONDS  close clients whose handshake takes longer (default 10)
  --idle-timeout SECONDS   close connections of idle clients after SECONDS (default 30)
  --workers N              answer requests on N threads (default 4)
  --help                   print this text

RUST_LOG=info prints a line for each client.
";

/// How often `run` checks whether the server still runs.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// The usual exit code of a program for bad arguments.
const BAD_ARGUMENTS: u8 = 2;

struct Arguments {
    config: Config,
    files: Files,
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
            let _ = writeln!(io::stderr(), "https: {error}\nTry --help for the list of options.");
            return ExitCode::from(BAD_ARGUMENTS);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "https: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let tls = Arc::new(tls::configuration(&arguments.files)?);
    let stop = Interrupt::new();
    let stopping = stop.clone();
    sockman_programs::signals::on_signal(move || stopping.interrupt())
        .map_err(|error| format!("cannot catch signals: {error}"))?;
    let server = HttpsServer::start(&arguments.config, tls, Arc::new(Demo))?;
    for address in server.listening() {
        say(&format!("listening on {address}"));
    }
    say("Ctrl-C stops the server");
    while server.is_running() && stop.sleep_for(LOOK_AROUND) {}

    say("stopping; requests that have begun are still answered");
    server.stop()?;
    say("stopped");
    Ok(())
}

fn parse() -> Result<Option<Arguments>, Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let (mut config, mut only_tls_1_3) = (Config::default(), false);
    let (mut certificate, mut key) = (None::<PathBuf>, None::<PathBuf>);
    let (mut client_ca, mut is_required) = (None::<PathBuf>, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("cert") => certificate = Some(parser.value()?.into()),
            Arg::Long("key") => key = Some(parser.value()?.into()),
            Arg::Long("listen") => config.listen.push(parser.value()?.parse()?),
            Arg::Long("client-ca") => client_ca = Some(parser.value()?.into()),
            Arg::Long("require-client-cert") => is_required = true,
            Arg::Long("tls-1.3-only") => only_tls_1_3 = true,
            Arg::Long("max-connections") => config.max_connections = parser.value()?.parse()?,
            Arg::Long("max-handshakes") => {
                config.tls = config.tls.max_handshakes(parser.value()?.parse()?);
            }
            Arg::Long("handshake-timeout") => {
                config.tls = config.tls.handshake_timeout(seconds(&mut parser)?);
            }
            Arg::Long("idle-timeout") => config.idle_timeout = seconds(&mut parser)?,
            Arg::Long("workers") => config.workers = parser.value()?.parse::<usize>()?.max(1),
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if config.listen.is_empty() {
        config.listen.push("127.0.0.1:8443".parse()?);
    }
    let clients = match (client_ca, is_required) {
        (None, false) => Clients::Anonymous,
        (None, true) => return Err("--require-client-cert needs --client-ca".into()),
        (Some(path), false) => Clients::Optional(path),
        (Some(path), true) => Clients::Required(path),
    };
    let certificate = certificate.ok_or("--cert is missing")?;
    let key = key.ok_or("--key is missing")?;
    let files = Files { certificate, key, clients, only_tls_1_3 };
    Ok(Some(Arguments { config, files }))
}

fn seconds(parser: &mut Parser) -> Result<Duration, lexopt::Error> {
    let seconds: NonZeroU64 = parser.value()?.parse()?;
    // A year is as good as more, and can be added to any time.
    Ok(Duration::from_secs(seconds.get().min(365 * 24 * 60 * 60)))
}

/// Prints a line to standard output. An error is ignored: the reader may have closed the pipe.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
