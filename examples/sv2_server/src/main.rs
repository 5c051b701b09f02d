//! A Stratum V2 server on sockman, which pushes block templates to everybody who asks.
//!
//! ```text
//! cargo run --release -p sockman-sv2-server -- --listen 127.0.0.1:8442 --key authority.key
//! ```
//!
//! Where to read on: `server.rs` is the part that sits on sockman, `session.rs` one client's
//! conversation. `tests/support` has a client.

use std::{
    error::Error,
    io::{self, Write},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    process::{self, ExitCode},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use env_logger::Env;
use lexopt::{Arg, Parser, ValueExt};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use sockman::Interrupt;
use sockman_sv2_server::{AuthorityKeys, Config, Event, Server};

const HELP: &str = "\
A Stratum V2 server in the shape of a Template Provider. Its templates are made up.

Options:
  --listen ADDR        listen there (default 127.0.0.1:8442); may be repeated
  --interval SECONDS   between two templates (default 5)
  --max-connections N  clients at once (default 1000); who comes beyond them waits
  --key FILE           the authority's secret key, in base58; made, for the owner
                       alone, if there is no such file. Without it, each start has
                       a new key, and clients that were given the one before refuse
                       the server
  --help               this text
";
/// What shells and other programs expect for arguments that make no sense.
const BAD_ARGUMENTS: u8 = 2;
/// What shells expect of a program that a signal ended.
const INTERRUPTED: i32 = 130;
/// So often it is checked that the server still runs.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Events that wait to be printed. While standard output blocks, the ones beyond it are lost: the
/// server must not stand still for it, nor grow.
const MAX_WAITING_LINES: usize = 1000;

#[derive(Default)]
struct Arguments {
    config: Config,
    /// The file with the authority's key.
    key: Option<PathBuf>,
}

/// What the printing loop waits for.
enum Input {
    Event(Event),
    Signal,
}

fn main() -> ExitCode {
    // Warnings too: a key file that others can read is worth one.
    env_logger::Builder::from_env(Env::default().default_filter_or("warn")).init();
    match parse() {
        Ok(None) => {
            say(HELP.trim_end());
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) => match run(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "sv2_server: {error:#}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "sv2_server: {error:#}\nTry --help.");
            ExitCode::from(BAD_ARGUMENTS)
        }
    }
}

fn run(Arguments { config, key }: Arguments) -> Result<(), Box<dyn Error>> {
    let interrupt = config.interrupt.clone();
    let (sender, inputs) = sync_channel(MAX_WAITING_LINES);
    catch_signals(interrupt.clone(), sender.clone())?;
    let keys = match key {
        Some(path) => AuthorityKeys::of_file(&path)
            .map_err(|error| format!("the key file {}: {error:#}", path.display()))?,
        None => AuthorityKeys::generate()?,
    };
    say(&format!("authority public key {}", keys.to_text()));
    let server = Server::start(config, keys, move |event| {
        let _ = sender.try_send(Input::Event(event));
    })?;
    for address in server.listening() {
        say(&format!("listening on {address}; Ctrl-C ends the server"));
    }
    // Until the interrupt, or until the socket thread fails, which `stop` tells of.
    while !interrupt.is_interrupted() && server.is_running() {
        match inputs.recv_timeout(LOOK_AROUND) {
            Ok(Input::Event(event)) => say(&in_words(&event)),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Input::Signal) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    server.stop()?;
    say("ended");
    Ok(())
}

/// The first SIGINT or SIGTERM ends the server, and tells the printing loop. The second one ends
/// the program at once.
fn catch_signals(interrupt: Interrupt, sender: SyncSender<Input>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for (number, _) in signals.forever().enumerate() {
            if number > 0 {
                process::exit(INTERRUPTED);
            }
            interrupt.interrupt();
            let _ = sender.try_send(Input::Signal);
        }
    })?;
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

/// `None`: help was asked for.
fn parse() -> Result<Option<Arguments>, Box<dyn Error>> {
    let mut parser = Parser::from_env();
    let Arguments { mut config, mut key } = Arguments::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("listen") => config.listen.push(parser.value()?.parse()?),
            Arg::Long("interval") => {
                let seconds: NonZeroU32 = parser.value()?.parse()?;
                config.interval = Duration::from_secs(seconds.get().into());
            }
            Arg::Long("max-connections") => {
                config.max_connections = parser.value()?.parse::<NonZeroUsize>()?.get();
            }
            Arg::Long("key") => key = Some(PathBuf::from(parser.value()?)),
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if config.listen.is_empty() {
        config.listen.push("127.0.0.1:8442".parse()?);
    }
    Ok(Some(Arguments { config, key }))
}

/// A line on standard output. Whoever does not want to read on may close it.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
