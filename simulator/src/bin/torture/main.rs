//! The torture: two processes with a thousand connections between them over real loopback. Streams
//! of many lengths, with checksums, run in both directions. Connections are paused, half-closed and
//! reset, rude clients interfere, and for a time the server has no descriptors left.
//!
//! At the end every stream that was not cut short must have arrived whole. The server must have as
//! many descriptors and threads as before, and about as much memory. `--help` lists the options.
//! Needs Linux, because it reads `/proc` and listens on several loopback addresses. On Windows, it
//! runs without a limit of descriptors, and does not know what the process holds.
//!
//! `cargo run --release -p simulator --bin torture -- --seconds 300 --connections 1000 --seed 7`

#![allow(clippy::print_stdout, clippy::print_stderr)] // The program reports on the standard output.

mod process;
mod side;
mod stream;

use std::{
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use process::Held;
use side::Side;
use sockman::{EventHandler, Options, SockMan, address::Destination, options::SELECT_TIMEOUT};

const HELP: &str = "\
Sends checked streams between two processes over loopback. Fails if a stream is
damaged, or if descriptors, threads or memory are left over. Needs Linux; on
Windows, only the streams are checked.

Options:
  --seconds N        send streams for N seconds (default 60), and on a slow
                     machine until the server ran out of descriptors
  --connections N    keep N connections open at a time (default 1000)
  --seed S           derive the streams, pauses and resets from S (default 1);
                     even seeds sweep in the server, odd ones do not
  --client-of ADDRS  act as the client of a server at these addresses, separated
                     by commas, until the standard input closes; the server
                     starts its client with this option
  --help             print this text";

#[derive(Clone)]
struct Arguments {
    seconds: u64,
    connections: usize,
    seed: u64,
    /// The addresses of the server, if this is the client process.
    client_of: Vec<String>,
}

/// The number of listening addresses. One address has too few ports, because closed connections
/// keep their ports in TIME_WAIT.
const ADDRESSES: u8 = 8;
/// The time between two changes of pauses.
const BEAT: Duration = Duration::from_millis(20);
/// How long connections may take to finish after the time is over. Under Wine, whose server answers
/// one call at a time, the last ones take most of a minute.
const GRACE: Duration = Duration::from_secs(if cfg!(windows) { 240 } else { 60 });
/// How much resident memory may grow, in KiB. The allocator and the threads' stacks keep some
/// memory.
const KEPT_MEMORY: u64 = 64 * 1024;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(arguments) = parse()? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    // Both processes need more descriptors than the soft limit of some systems, 256.
    process::raise_limit()?;
    let violations =
        if arguments.client_of.is_empty() { serve(&arguments)? } else { dial(&arguments)? };
    let role = if arguments.client_of.is_empty() { "server" } else { "client" };
    for violation in violations.iter().take(20) {
        eprintln!("{role}: {violation}");
    }
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(seed: u64) -> Options {
    // Half of the seeds run without a sweep, because nothing may depend on the sweep.
    Options::default().sweep((seed % 2 == 0).then_some(SELECT_TIMEOUT))
}

/// Runs the server, which starts the client process. Returns the violations.
fn serve(arguments: &Arguments) -> Result<Vec<String>, Box<dyn Error>> {
    let before = Held::now()?;
    let side = Side::new(arguments.seed, Vec::new());
    let sockman =
        SockMan::new(Arc::clone(&side) as Arc<dyn EventHandler>, options(arguments.seed))?;
    let mut bound = Vec::new();
    for host in 1..=ADDRESSES {
        let at = format!("127.0.9.{host}:0");
        bound.push(sockman.bind_and_start_listening(&*at)?.to_string());
    }
    let threads = sockman.start_sockets_threads()?;
    let mut client = Command::new(std::env::current_exe()?)
        .args(["--client-of", &bound.join(",")])
        .args(["--seconds", &arguments.seconds.to_string()])
        .args(["--connections", &arguments.connections.to_string()])
        .args(["--seed", &arguments.seed.to_string()])
        .stdin(Stdio::piped())
        .spawn()?;

    let began = Instant::now();
    let whole = Duration::from_secs(arguments.seconds);
    let mut starving = Starving::plan(whole);
    // The client goes on until its standard input closes. On a slow machine, it has to go on for
    // longer than the given time, because the server has to run out of descriptors meanwhile.
    let mut going_on = client.stdin.take();
    while client.try_wait()?.is_none() {
        thread::sleep(BEAT);
        side.pause_some(&sockman);
        starving.apply(began.elapsed(), &sockman)?;
        let is_over = began.elapsed() >= whole && starving.is_over(&sockman);
        if is_over || began.elapsed() > whole + GRACE {
            going_on = None;
        }
        if began.elapsed() > whole + 3 * GRACE {
            client.kill()?;
        }
    }
    drop(going_on);
    process::raise_limit()?;
    side.resume_all(&sockman);
    let mut violations = side.violations();
    if !client.wait()?.success() {
        violations.push("the client process failed; see its messages".to_owned());
    }
    let deadline = Instant::now() + GRACE;
    while sockman.stats().connections > 0 && Instant::now() < deadline {
        thread::sleep(BEAT);
    }
    violations.extend(side.violations());
    let stats = sockman.stats();
    report("server", &side, &sockman);
    if stats.connections > 0 || side.open() > 0 {
        violations.push(format!("{} connections are left open", stats.connections));
    }
    if process::HAS_LIMIT && stats.accept_pauses == 0 {
        violations.push("descriptors never ran out, so exhaustion was not tested".to_owned());
    }
    if !starving.is_over(&sockman) {
        violations.push("no connection was accepted after descriptors ran out (G11)".to_owned());
    }
    violations.extend(idle(&sockman, &bound, arguments.seed)?);
    sockman.interrupt();
    threads.join()?;
    drop(sockman);
    violations.extend(before.compare(&Held::now()?));
    Ok(violations)
}

/// Runs the client process. Returns the violations.
fn dial(arguments: &Arguments) -> Result<Vec<String>, Box<dyn Error>> {
    let destinations: Result<Vec<Destination>, _> =
        arguments.client_of.iter().map(|at| at.parse()).collect();
    let side = Side::new(!arguments.seed, destinations?);
    let options = options(arguments.seed / 2);
    let sockman = SockMan::new(Arc::clone(&side) as Arc<dyn EventHandler>, options)?;
    let threads = sockman.start_sockets_threads()?;
    (0..arguments.connections).for_each(|_| side.connect(&sockman));
    let rude = thread::spawn({
        let addresses: Vec<SocketAddr> =
            arguments.client_of.iter().filter_map(|at| at.parse().ok()).collect();
        let (seed, side) = (arguments.seed, Arc::clone(&side));
        move || be_rude(&addresses, &side.is_over, seed)
    });
    let listening = thread::spawn({
        let side = Arc::clone(&side);
        move || {
            // The server says nothing. It closes the pipe when the time is over, or when it dies.
            let ended = std::io::stdin().read_to_end(&mut Vec::new());
            side.is_over.store(true, Ordering::Relaxed);
            ended
        }
    });
    while !side.is_over.load(Ordering::Relaxed) {
        thread::sleep(BEAT);
        side.pause_some(&sockman);
    }
    listening.join().map_err(|_| "the thread that waits for the server panicked")??;
    side.resume_all(&sockman);
    let deadline = Instant::now() + GRACE / 2;
    while sockman.stats().connections > 0 && Instant::now() < deadline {
        thread::sleep(BEAT);
    }
    let mut violations = side.violations();
    let left = sockman.stats().connections;
    if left > 0 {
        violations.push(format!("{left} connections are left open"));
    }
    report("client", &side, &sockman);
    let rudenesses = rude.join().map_err(|_| "the thread of the rude clients panicked")??;
    println!("rude clients: {rudenesses}");
    sockman.interrupt();
    threads.join()?;
    Ok(violations)
}

/// Runs the rude clients: plain sockets that reset, half-close first, never read, or send one byte
/// at a time. Returns the number of their connections.
fn be_rude(at: &[SocketAddr], is_over: &AtomicBool, seed: u64) -> std::io::Result<u64> {
    let mut chance = fastrand::Rng::with_seed(seed ^ 0x0070_0073);
    let mut count = 0;
    let mut silent = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let Some(to) = at.get(chance.usize(..at.len().max(1))) else { break };
        // The server may refuse a client while it has no descriptors and its backlog is full.
        let Ok(mut stream) = TcpStream::connect_timeout(to, Duration::from_secs(5)) else {
            continue;
        };
        count += 1;
        // The header announces a stream that is cut short, so the server does not judge it.
        let header = [[7_u8; 8].as_slice(), &100_000_u64.to_le_bytes(), &[1]].concat();
        stream.write_all(&header)?;
        match chance.u8(..4) {
            0 => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            }
            1 => stream.shutdown(std::net::Shutdown::Write)?,
            2 => silent.push(stream),
            _ => {
                for byte in 0..20 {
                    if stream.write_all(&[byte]).is_err() {
                        break;
                    }
                }
                stream.set_read_timeout(Some(Duration::from_millis(10)))?;
                let _ = stream.read(&mut [0; 100]);
            }
        }
        if silent.len() > 20 {
            silent.clear();
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(count)
}

/// The time in which the server runs out of descriptors. From the middle of the whole time on, the
/// server may have three quarters of the descriptors that it has at that moment. The number at that
/// moment may be a peak, which is never reached again. The limit stays for a quarter of the time, and
/// until an accept has found no descriptor.
struct Starving {
    from: Duration,
    to: Duration,
    stage: Stage,
}

enum Stage {
    Before,
    /// The limit is low.
    During,
    /// The limit is high again. The server had accepted this many connections then.
    After(u64),
}

impl Starving {
    fn plan(whole: Duration) -> Starving {
        Starving { from: whole / 2, to: whole * 3 / 4, stage: Stage::Before }
    }

    /// Lowers or raises the limit of descriptors.
    fn apply(&mut self, elapsed: Duration, sockman: &SockMan) -> std::io::Result<()> {
        let stats = sockman.stats();
        match self.stage {
            Stage::Before if elapsed >= self.from => {
                process::lower_limit()?;
                self.stage = Stage::During;
            }
            Stage::During if elapsed >= self.to && stats.accept_pauses > 0 => {
                process::raise_limit()?;
                self.stage = Stage::After(stats.accepted);
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether descriptors ran out, and connections were accepted afterwards.
    fn is_over(&self, sockman: &SockMan) -> bool {
        !process::HAS_LIMIT
            || matches!(self.stage, Stage::After(accepted) if sockman.stats().accepted > accepted)
    }
}

/// Checks G7: with a hundred quiet connections the loop makes passes only for the sweep.
fn idle(sockman: &SockMan, bound: &[String], seed: u64) -> Result<Vec<String>, Box<dyn Error>> {
    let mut quiet = Vec::new();
    for at in bound.iter().cycle().take(100) {
        quiet.push(TcpStream::connect(at)?);
    }
    let deadline = Instant::now() + GRACE;
    while sockman.stats().connections < quiet.len() && Instant::now() < deadline {
        thread::sleep(BEAT);
    }
    // When no event comes for a while, all bytes of the connections have been sent and received.
    let mut last = sockman.stats().events;
    loop {
        thread::sleep(BEAT * 10);
        let now = sockman.stats().events;
        if now == last {
            break;
        }
        last = now;
    }
    let (before, began) = (sockman.stats(), Instant::now());
    thread::sleep(Duration::from_secs(1));
    let after = sockman.stats();
    // On a slow machine, events of the time before may still come.
    let (passes, events) = (after.passes - before.passes, after.events - before.events);
    // There are twenty sweeps a second. On a busy machine the sleep may last longer than a second.
    let sweeps = if seed % 2 == 0 { (began.elapsed().as_millis() / 50) as u64 } else { 0 };
    println!("with 100 idle connections, the loop makes {passes} passes a second");
    drop(quiet);
    while sockman.stats().connections > 0 && Instant::now() < deadline {
        thread::sleep(BEAT);
    }
    let is_quiet = passes <= sweeps + events + 5;
    Ok((!is_quiet)
        .then(|| format!("the loop made {passes} passes in an idle second (G7)"))
        .into_iter()
        .collect())
}

fn report(role: &str, side: &Side, sockman: &SockMan) {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &side.counts;
    let stats = sockman.stats();
    println!(
        "{role}: streams: {} in order, {} cut by this side, {} cut by the peer, {} without a \
         header, {} refused; {} MB received, {} pauses; {} accepted, {} connected, \
         {} accept pauses, {} passes",
        count(&counts.in_order),
        count(&counts.cut_here),
        count(&counts.cut_there),
        count(&counts.headless),
        count(&counts.refused),
        count(&counts.bytes) / 1_000_000,
        count(&counts.pauses),
        stats.accepted,
        stats.connected,
        stats.accept_pauses,
        stats.passes,
    );
}

/// Returns `None` if help is requested.
fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    use lexopt::{Arg, ValueExt};

    let mut arguments =
        Arguments { seconds: 60, connections: 1000, seed: 1, client_of: Vec::new() };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("seconds") => arguments.seconds = parser.value()?.parse()?,
            Arg::Long("connections") => arguments.connections = parser.value()?.parse()?,
            Arg::Long("seed") => arguments.seed = parser.value()?.parse()?,
            Arg::Long("client-of") => {
                let text = parser.value()?.string()?;
                arguments.client_of = text.split(',').map(str::to_owned).collect();
            }
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}
