//! The command line.
use std::{
    error::Error,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use lexopt::prelude::*;

use crate::{
    docs,
    effort::Effort,
    load::Attack,
    report::{is_hostile, is_many},
    servers::{Contract, Peer, Task},
};

pub const HELP: &str = "\
Measures sockman against its alternatives, on this machine.

  cargo run --release --manifest-path benches/Cargo.toml -- [OPTIONS]

  --quick         measures less, in under 4 minutes (a full run takes under 40 minutes)
  --smoke         runs everything briefly, in half a minute; the figures mean nothing
  --hostile       runs only the scenarios with hostile connections, which a plain --quick omits;
                  with --docs, all other figures of the documentation stay
  --many N        runs only the scenarios with N idle connections, for example 100000, which need
                  as many descriptors in one process
  --only TEXT     runs only the scenarios whose name contains TEXT (echo, idle, wake/ …)
  --peers A,B     measures only these servers (the latencies have all their peers): epoll-c,
                  mio, tokio, message-io, poll-c, sockman, sockman-no-sweep, sockman-twice,
                  sockman-large-buffer, sockman-first, sockman-echo, tokio-direct
  --out DIR       writes results.json and the plots into DIR [benchmark-results]
  --docs DIR      also writes the documentation of a checkout, whose directory docs is DIR:
                  DIR/performance.md, DIR/performance/ and DIR/../benches/RESULTS.md
  --data-set NAME with --docs: replaces the data set DIR/performance/NAME of another machine, and
                  leaves the main one
  --add FILE      adds the figures of an earlier run for the scenarios that this run omits; only
                  figures of the same machine, kernel and compilers can be added
  --from FILE     measures nothing and shows an earlier run: a results.json or figures.json
  --help          prints this text

The suite starts itself in these forms. All end at the end of their standard input.

  serve PEER echo|sink|source|chat [--core N] [--send-size BYTES] [--work ROUNDS]
        [--more-listeners N]
                  runs one server, which prints `listening on 127.0.0.1:PORT`
  hold ADDRESS SOURCE
                  holds idle connections from SOURCE; reads their number, one number a line
  connect PEER [--core N] PORT...
                  connects to these ports; reads the number of connects, one number a line
  attack ADDRESS NAME
                  opens hostile connections to ADDRESS; attacks after the first line
  echo|sink|source PORT
                  runs examples/echo.rs
";

pub enum Command {
    Help,
    Run(Settings),
    Redraw {
        results: PathBuf,
        settings: Settings,
    },
    Serve {
        peer: Peer,
        task: Task,
        core: Option<usize>,
    },
    Hold {
        to: SocketAddr,
        from: Ipv4Addr,
    },
    Connect {
        peer: Peer,
        core: Option<usize>,
        ports: Vec<u16>,
    },
    Attack {
        to: SocketAddr,
        attack: Attack,
    },
    /// The example reads the arguments itself.
    EchoExample,
}

pub struct Settings {
    pub effort: Effort,
    pub only: Option<String>,
    /// Runs only the scenarios with hostile connections.
    pub hostile: bool,
    /// Runs only the scenarios with this many idle connections.
    pub many: Option<usize>,
    pub peers: Vec<Peer>,
    pub out: PathBuf,
    pub docs: Option<PathBuf>,
    /// The name of a data set of the documentation beside the main one.
    pub data_set: Option<String>,
    pub add: Option<PathBuf>,
}

impl Settings {
    /// Returns whether the user asked for a scenario of this name.
    pub fn wants(&self, scenario: &str) -> bool {
        if is_many(scenario) != self.many.is_some() {
            return false;
        }
        let is_asked = self.only.as_ref().is_none_or(|text| scenario.contains(text.as_str()));
        is_asked && if self.hostile { is_hostile(scenario) } else { !self.omits(scenario) }
    }

    /// Returns whether a scenario runs only if the user asks for it: a quick run has no time for
    /// attacks.
    pub fn omits(&self, scenario: &str) -> bool {
        let is_plain = !self.hostile && self.only.is_none() && self.many.is_none();
        is_plain && self.effort == Effort::Quick && is_hostile(scenario)
    }

    /// Returns the file of the earlier run to which the figures of this run are added.
    pub fn earlier(&self) -> Option<PathBuf> {
        let of_docs = || {
            let docs = self.docs.as_deref().filter(|_| self.hostile)?;
            let figures = docs::figures_file(docs, self.data_set.as_deref());
            // A new data set has only the figures of this run.
            (self.data_set.is_none() || figures.exists()).then_some(figures)
        };
        self.add.clone().or_else(of_docs)
    }
}

pub fn parse() -> Result<Command, Box<dyn Error>> {
    let mut settings = Settings {
        effort: Effort::Full,
        only: None,
        hostile: false,
        many: None,
        peers: Peer::ALL.to_vec(),
        out: "benchmark-results".into(),
        docs: None,
        data_set: None,
        add: None,
    };
    let mut from = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => settings.effort = Effort::Quick,
            Long("smoke") => settings.effort = Effort::Smoke,
            Long("hostile") => settings.hostile = true,
            Long("many") => settings.many = Some(parser.value()?.parse()?),
            Long("only") => settings.only = Some(parser.value()?.string()?),
            Long("peers") => {
                let names = parser.value()?.string()?;
                settings.peers = names.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            Long("out") => settings.out = parser.value()?.into(),
            Long("docs") => settings.docs = Some(parser.value()?.into()),
            Long("data-set") => settings.data_set = Some(parse_data_set(&mut parser)?),
            Long("add") => settings.add = Some(parser.value()?.into()),
            Long("from") => from = Some(parser.value()?.into()),
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(word) if word == "serve" => return parse_serve(parser),
            Value(word) if word == "connect" => return parse_connect(parser),
            Value(word) if word == "hold" => {
                let to = parser.value()?.parse()?;
                return Ok(Command::Hold { to, from: parser.value()?.parse()? });
            }
            Value(word) if word == "attack" => {
                let to = parser.value()?.parse()?;
                return Ok(Command::Attack { to, attack: parser.value()?.parse()? });
            }
            Value(word) if ["echo", "sink", "source"].iter().any(|mode| word == *mode) => {
                return Ok(Command::EchoExample);
            }
            other => return Err(format!("{}; see --help", other.unexpected()).into()),
        }
    }
    Ok(match from {
        None => Command::Run(settings),
        Some(results) => Command::Redraw { results, settings },
    })
}

/// The name becomes the name of a directory.
fn parse_data_set(parser: &mut lexopt::Parser) -> Result<String, Box<dyn Error>> {
    let name = parser.value()?.string()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(format!("{name:?} is no name of a data set: use letters, digits and -").into());
    }
    Ok(name)
}

fn parse_serve(mut parser: lexopt::Parser) -> Result<Command, Box<dyn Error>> {
    let peer = parser.value()?.parse()?;
    let contract: Contract = parser.value()?.parse()?;
    let (mut core, mut task) = (None, Task::of(contract));
    while let Some(argument) = parser.next()? {
        match argument {
            Long("core") => core = Some(parser.value()?.parse()?),
            Long("send-size") => task.send_size = parser.value()?.parse()?,
            Long("work") => task.work = parser.value()?.parse()?,
            Long("more-listeners") => task.more_listeners = parser.value()?.parse()?,
            other => return Err(format!("{}; see --help", other.unexpected()).into()),
        }
    }
    Ok(Command::Serve { peer, task, core })
}

fn parse_connect(mut parser: lexopt::Parser) -> Result<Command, Box<dyn Error>> {
    let peer = parser.value()?.parse()?;
    let (mut core, mut ports) = (None, Vec::new());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("core") => core = Some(parser.value()?.parse()?),
            Value(port) => ports.push(port.parse()?),
            other => return Err(format!("{}; see --help", other.unexpected()).into()),
        }
    }
    Ok(Command::Connect { peer, core, ports })
}
