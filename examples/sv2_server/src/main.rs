//! A Stratum V2 server on sockman. It pushes block templates to every client that subscribes.
//!
//! ```text
//! cargo run --release -p sockman-sv2-server -- --listen 127.0.0.1:8442 --key authority.key
//! ```
//!
//! `server.rs` holds the `Handler`, and `session.rs` the protocol state of one client.
//! `tests/support` holds a client.

use std::{
    error::Error,
    io::{self, Write},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use env_logger::Env;
use lexopt::{Arg, Parser, ValueExt};
use sockman_sv2_server::{AuthorityKeys, Config, Event, Server};

const HELP: &str = "\
A Stratum V2 server in the shape of a Template Provider. Its templates are made up.

Options:
  --listen ADDR        listen on ADDR; may be repeated (default 127.0.0.1:8442)
  --interval SECONDS   push a template every SECONDS (default 5)
  --max-connections N  serve at most N clients at a time; others wait (default 1000)
  --key FILE           read the authority's secret key, in base58, from FILE; if FILE
                       does not exist, create it with mode 600. Without --key, each
                       start uses a new key, and clients that were configured with
                       the last one refuse the server
  --help               print this text
";
/// The usual exit code of a program for bad arguments.
const BAD_ARGUMENTS: u8 = 2;
/// How often the printing loop checks whether the server still runs.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// The most events that wait to be printed. While standard output blocks, further events are
/// dropped: the server must neither block nor use more memory for them.
const MAX_WAITING_LINES: usize = 1000;

/// The most lines about subscribed clients within the period. Lines about other clients need
/// `RUST_LOG=sv2_server=debug`, because anybody could fill the disk with them.
const MAX_CLIENT_LINES: u32 = 20;
const CLIENT_LINES_PERIOD: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Arguments {
    config: Config,
    /// The path of the authority's key file.
    key: Option<PathBuf>,
}

/// The input of the printing loop.
enum Input {
    Event(Event),
    Signal,
}

fn main() -> ExitCode {
    // The default of `env_logger` is `error`, which would hide the warning about a readable key
    // file.
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
            let _ = writeln!(
                io::stderr(),
                "sv2_server: {error:#}\nTry --help for the list of options."
            );
            ExitCode::from(BAD_ARGUMENTS)
        }
    }
}

fn run(Arguments { config, key }: Arguments) -> Result<(), Box<dyn Error>> {
    let interrupt = config.interrupt.clone();
    let (sender, inputs) = sync_channel(MAX_WAITING_LINES);
    let (stop, wake) = (interrupt.clone(), sender.clone());
    sockman_programs::signals::on_signal(move || {
        stop.interrupt();
        let _ = wake.try_send(Input::Signal);
    })
    .map_err(|error| format!("cannot catch signals: {error}"))?;
    let keys = match key {
        Some(path) => AuthorityKeys::of_file(&path)
            .map_err(|error| format!("cannot use the key file {}: {error:#}", path.display()))?,
        None => AuthorityKeys::generate()?,
    };
    say(&format!("authority public key {}", keys.to_text()));
    let server = Server::start(config, keys, move |event| {
        let _ = sender.try_send(Input::Event(event));
    })?;
    for address in server.listening() {
        say(&format!("listening on {address}; Ctrl-C stops the server"));
    }
    let mut lines = Lines::default();
    // The loop also ends when the socket thread has failed. Then `stop` returns the reason.
    while !interrupt.is_interrupted() && server.is_running() {
        match inputs.recv_timeout(LOOK_AROUND) {
            Ok(Input::Event(event)) => lines.show(&event, Instant::now()),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Input::Signal) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    server.stop()?;
    say("stopped");
    Ok(())
}

/// The lines about events. Clients must not be able to fill the log.
#[derive(Default)]
struct Lines {
    /// The beginning of the period. `None` before the first line about a client.
    since: Option<Instant>,
    /// The number of lines about clients in this period.
    count: u32,
}

impl Lines {
    /// Prints the line of an event, or logs it at level `debug`.
    fn show(&mut self, event: &Event, now: Instant) {
        let line = in_words(event);
        let is_shown = match event {
            Event::Pushed { .. } => true,
            Event::Connected { .. } | Event::Disconnected { was_subscribed: false, .. } => false,
            Event::Subscribed { .. } | Event::Disconnected { .. } => self.may_show(now),
        };
        if is_shown {
            say(&line);
        } else {
            log::debug!("{line}");
        }
    }

    /// Returns whether one more line about a client may be printed. Says so when lines begin to be
    /// left out.
    fn may_show(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= CLIENT_LINES_PERIOD) {
            *self = Lines { since: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        if self.count == MAX_CLIENT_LINES + 1 {
            say("further lines about clients are left out; RUST_LOG=sv2_server=debug shows them");
        }
        self.count <= MAX_CLIENT_LINES
    }
}

fn in_words(event: &Event) -> String {
    match event {
        Event::Connected { id } => format!("client {id}: connected"),
        Event::Subscribed { id } => format!("client {id}: subscribed to templates"),
        Event::Pushed { template, clients } => {
            format!("template {template}: sent to {clients} clients")
        }
        Event::Disconnected { id, reason, .. } => format!("client {id}: disconnected: {reason}"),
    }
}

/// Parses the arguments. Returns `None` for `--help`.
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

/// Prints a line to standard output. An error is ignored: the reader may have closed the pipe.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
