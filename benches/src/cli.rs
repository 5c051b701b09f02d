//! The command line.
use std::{error::Error, net::SocketAddr, path::PathBuf};

use lexopt::prelude::*;

use crate::{
    effort::Effort,
    servers::{Contract, Peer, SEND_SIZE, Task},
};

pub const HELP: &str = "\
Measures sockman against what people would use instead, on this machine.

  cargo run --release --manifest-path benches/Cargo.toml -- [OPTIONS]

  --quick         under three minutes; without it, about 20 minutes
  --smoke         about ten seconds: it works, and the figures mean nothing
  --only TEXT     only scenarios whose name contains it (echo, idle, wake/ …)
  --peers A,B     of the servers (not of the latencies) only these: epoll-c, mio,
                  tokio, message-io, poll-c, sockman,
                  sockman-no-sweep, sockman-twice, sockman-large-buffer
  --out DIR       where results.json and plots go; benchmark-results if not given
  --docs DIR      also puts tables and plots into DIR/performance.md, and what they are
                  drawn from into DIR/performance/figures.json
  --add FILE      also has the figures of an earlier run, for scenarios that this one leaves out
  --from FILE     measures nothing: shows the results.json of an earlier run, or a
                  figures.json
  --help          this text

The suite runs itself in these two forms; both end when their standard input does:

  serve PEER echo|sink|source [--core N] [--send-size BYTES] [--work ROUNDS]
                  one server; prints `listening on 127.0.0.1:PORT`
  hold ADDRESS    idle connections; reads how many there shall be, a number a line
";

pub enum Command {
    Help,
    Run(Settings),
    Redraw { results: PathBuf, settings: Settings },
    Serve { peer: Peer, task: Task, core: Option<usize> },
    Hold { to: SocketAddr },
}

pub struct Settings {
    pub effort: Effort,
    pub only: Option<String>,
    pub peers: Vec<Peer>,
    pub out: PathBuf,
    pub docs: Option<PathBuf>,
    pub add: Option<PathBuf>,
}

impl Settings {
    /// Whether a scenario of this name is asked for.
    pub fn wants(&self, scenario: &str) -> bool {
        self.only.as_ref().is_none_or(|text| scenario.contains(text.as_str()))
    }
}

pub fn parse() -> Result<Command, Box<dyn Error>> {
    let mut settings = Settings {
        effort: Effort::Full,
        only: None,
        peers: Peer::ALL.to_vec(),
        out: "benchmark-results".into(),
        docs: None,
        add: None,
    };
    let mut from = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => settings.effort = Effort::Quick,
            Long("smoke") => settings.effort = Effort::Smoke,
            Long("only") => settings.only = Some(parser.value()?.string()?),
            Long("peers") => {
                let names = parser.value()?.string()?;
                settings.peers = names.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            Long("out") => settings.out = parser.value()?.into(),
            Long("docs") => settings.docs = Some(parser.value()?.into()),
            Long("add") => settings.add = Some(parser.value()?.into()),
            Long("from") => from = Some(parser.value()?.into()),
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(word) if word == "serve" => return parse_serve(parser),
            Value(word) if word == "hold" => {
                return Ok(Command::Hold { to: parser.value()?.parse()? });
            }
            other => return Err(format!("{}; see --help", other.unexpected()).into()),
        }
    }
    Ok(match from {
        None => Command::Run(settings),
        Some(results) => Command::Redraw { results, settings },
    })
}

fn parse_serve(mut parser: lexopt::Parser) -> Result<Command, Box<dyn Error>> {
    let peer = parser.value()?.parse()?;
    let contract: Contract = parser.value()?.parse()?;
    let (mut core, mut send_size, mut work) = (None, SEND_SIZE, 0);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("core") => core = Some(parser.value()?.parse()?),
            Long("send-size") => send_size = parser.value()?.parse()?,
            Long("work") => work = parser.value()?.parse()?,
            other => return Err(format!("{}; see --help", other.unexpected()).into()),
        }
    }
    Ok(Command::Serve { peer, task: Task { contract, send_size, work }, core })
}
