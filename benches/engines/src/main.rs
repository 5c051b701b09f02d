//! Measures engines that others wrote, each on `sockman` and on tokio, under the same load: LDK's
//! `PeerManager`, and TLS with rustls. `benches/README.md` describes the method.
mod cases;
mod docs;
mod ldk;
mod load;
mod machine;
mod measure;
mod pattern;
mod server_process;
mod table;
mod tls;

use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

use cases::{Case, Counted, Peer, named};
use machine::Cores;
use measure::Pace;
use table::Figure;

const USAGE: &str = "\
engines-bench [OPTIONS]              measures LDK and TLS on sockman and on tokio, about 6 minutes
  --rounds N                         rounds; each measures every peer once (default 9)
  --only TEXT                        only the cases whose name contains TEXT: ldk-serves,
                                     ldk-receives, tls-echo, tls-upload, tls-download
  --docs DIRECTORY                   writes the tables into DIRECTORY/performance.md
  --smoke                            each measurement in a short form, whose figures mean nothing
engines-bench serve PEER CASE        runs one server; the program starts its servers this way";

const FULL: Pace =
    Pace { warm_up: Duration::from_millis(300), slices: 8, slice: Duration::from_millis(300) };
const SMOKE: Pace =
    Pace { warm_up: Duration::from_millis(50), slices: 2, slice: Duration::from_millis(100) };

struct Arguments {
    rounds: u32,
    only: String,
    docs_dir: Option<PathBuf>,
    is_smoke: bool,
}

/// What `serve` is asked for.
struct Server {
    peer: Peer,
    case: Case,
    core: Option<usize>,
    is_checked: bool,
}

enum Command {
    Measure(Arguments),
    Serve(Server),
    Help,
}

fn main() -> Result<(), Box<dyn Error>> {
    match command()? {
        Command::Measure(arguments) => run(&arguments),
        Command::Serve(server) => serve(&server),
        Command::Help => {
            println!("{USAGE}");
            Ok(())
        }
    }
}

fn command() -> Result<Command, Box<dyn Error>> {
    use lexopt::{
        Arg::{Long, Value},
        ValueExt,
    };

    let mut arguments =
        Arguments { rounds: 9, only: String::new(), docs_dir: None, is_smoke: false };
    let (mut core, mut is_checked, mut words) = (None, false, Vec::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rounds") => arguments.rounds = parser.value()?.parse()?,
            Long("only") => arguments.only = parser.value()?.string()?,
            Long("docs") => arguments.docs_dir = Some(parser.value()?.into()),
            Long("smoke") => arguments.is_smoke = true,
            Long("core") => core = Some(parser.value()?.parse()?),
            Long("checked") => is_checked = true,
            Long("help") => return Ok(Command::Help),
            Value(word) => words.push(word.string()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    if arguments.is_smoke && arguments.docs_dir.is_some() {
        return Err("the figures of a smoke run mean nothing, so they are not written".into());
    }
    if arguments.docs_dir.is_some() && !arguments.only.is_empty() {
        return Err("--docs writes the tables of all cases, so it excludes --only".into());
    }
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(Command::Measure(arguments)),
        ["serve", peer, case] => Ok(Command::Serve(Server {
            peer: named(&Peer::ALL, peer, Peer::command_name).ok_or("no such peer")?,
            case: named(&Case::ALL, case, Case::command_name).ok_or("no such case")?,
            core,
            is_checked,
        })),
        _ => Err(USAGE.into()),
    }
}

fn serve(server: &Server) -> Result<(), Box<dyn Error>> {
    if let Some(core) = server.core {
        machine::pin(core)?; // Before any other thread starts.
    }
    server_process::end_with_the_input();
    if server.case.is_ldk() {
        ldk::serve(server.peer)
    } else {
        tls::serve(server.case, server.peer, server.is_checked)
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (start, cores, machine) = (Instant::now(), Cores::choose()?, machine::describe());
    let (pace, rounds) = if arguments.is_smoke { (SMOKE, 1) } else { (FULL, arguments.rounds) };
    let cases: Vec<Case> = Case::ALL
        .into_iter()
        .filter(|case| case.command_name().contains(&arguments.only))
        .collect();
    if cases.is_empty() || rounds == 0 {
        return Err("there is nothing to measure".into());
    }
    println!("{machine}* The servers have core {}, the load has core {}", cores.server, cores.load);
    // The servers pin themselves, so they do not inherit the core of the load.
    machine::pin(cores.load)?;
    for &case in &cases {
        for &peer in case.peers() {
            let checked = measure::check(case, peer, cores);
            checked.map_err(|error| format!("{}: {case}: {error}", peer.command_name()))?;
        }
    }
    println!("The servers send and receive the right bytes");
    let mut figures = Vec::new();
    for round in 1..=rounds {
        println!("\nround {round} of {rounds}: server CPU, rate, share in %: server, load, others");
        for &case in &cases {
            figures.extend(measure_all(case, round, cores, pace)?);
        }
    }
    let (tables, seconds) = (table::tables(&figures), start.elapsed().as_secs());
    println!("\n{tables}");
    let others = figures.iter().map(|figure| figure.sample.disturbed_share).fold(0.0, f64::max);
    let others = format!("other programs took at most {:.0} % of a measurement", others * 100.0);
    println!("{rounds} rounds, {seconds} s; {others}");
    if let Some(docs_dir) = &arguments.docs_dir {
        let length = format!("* {rounds} rounds, {} minutes; {others}", seconds.div_ceil(60));
        docs::write(docs_dir, &format!("{tables}{machine}{length}\n"))?;
    }
    Ok(())
}

/// Measures each peer once. The order changes from round to round.
fn measure_all(
    case: Case,
    round: u32,
    cores: Cores,
    pace: Pace,
) -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut peers = case.peers().to_vec();
    let first = round as usize % peers.len();
    peers.rotate_left(first);
    let mut figures = Vec::new();
    for peer in peers {
        let sample = measure::measure(case, peer, cores, pace)
            .map_err(|error| format!("{}: {case}: {error}", peer.command_name()))?;
        let unit = if case.counted() == Counted::Bytes { "MB/s" } else { "messages/s" };
        println!(
            "  {case:<13} {:<15}{:>9.2} µs{:>10.0} {unit:<11}{:>4.0}{:>5.0}{:>5.0}",
            peer.command_name(),
            sample.cpu,
            sample.rate,
            sample.server_share * 100.0,
            sample.load_share * 100.0,
            sample.disturbed_share * 100.0,
        );
        figures.push(Figure { case, peer, round, sample });
    }
    Ok(figures)
}
