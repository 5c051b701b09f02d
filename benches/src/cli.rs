//! The command line.
use std::{error::Error, net::SocketAddr, path::PathBuf};

use lexopt::prelude::*;

use crate::{
    effort::Effort,
    servers::{Contract, Peer, SEND_SIZE, Task},
};

pub const HELP: &str = "\
Measures sockman against its alternatives, on this machine.

  cargo run --release --manifest-path benches/Cargo.toml -- [OPTIONS]

  --quick         measures less, in under 3 minutes (a full run takes about half an hour)
  --smoke         runs everything briefly, in about 10 seconds; the figures mean nothing
  --only TEXT     runs only the scenarios whose name contains TEXT (echo, idle, wake/ …)
  --peers A,B     measures only these servers (the latencies have all their peers): epoll-c,
                  mio, tokio, message-io, poll-c, sockman, sockman-no-sweep, sockman-twice,
                  sockman-large-buffer
  --out DIR       writes results.json and the plots into DIR [benchmark-results]
  --docs DIR      also writes the documentation of a checkout, whose directory docs is DIR:
                  DIR/performance.md, DIR/performance/ and DIR/../benches/RESULTS.md
  --add FILE      adds the figures of an earlier run for the scenarios that this run omits
  --from FILE     measures nothing and shows an earlier run: a results.json or figures.json
  --help          prints this text

The suite starts itself in these two forms. Both end at the end of their standard input.

  serve PEER echo|sink|source [--core N] [--send-size BYTES] [--work ROUNDS]
                  runs one server, which prints `listening on 127.0.0.1:PORT`
  hold ADDRESS    holds idle connections to ADDRESS; reads their number, one number a line
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
    /// Returns whether the user asked for a scenario of this name.
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
