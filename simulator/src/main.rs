//! Runs the simulator over many seeds, and prints how often each kind of event happened. Prints the
//! steps and the trace of a seed that fails. `--help` lists the options.
//!
//! `cargo run --release -p simulator -- --seeds 100000`

#![allow(clippy::print_stdout)] // The program reports on the standard output.

use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use simulator::{Failed, KINDS, Kernel, Report};

const HELP: &str = "\
Runs a whole SockMan over a network in memory. A 64-bit seed decides each run.
Fails if a guarantee is broken. With 10000 seeds or more, also fails if some kind
of event, or an errno of a system call, never happened.

Options:
  --seeds N      run N seeds (default 10000)
  --from M       begin with seed M (default 0)
  --seed S       run seed S alone
  --kernel K      run on the kernel linux, bsd, macos or windows (default linux)
  --threads T    run on T threads (default: one for each processor)
  --help         print this text";

#[derive(Clone, Copy)]
struct Arguments {
    from: u64,
    seeds: u64,
    threads: usize,
    kernel: Kernel,
}

#[derive(Default)]
struct Total {
    steps: u64,
    passes: u64,
    counts: BTreeMap<&'static str, u64>,
    failed: HashSet<Failed>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(arguments) = parse()? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    let began = Instant::now();
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let failed = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                let mut own = Total::default();
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match simulator::run(arguments.kernel, seed) {
                        Ok(report) => {
                            own.add(&report);
                        }
                        Err(failure) => {
                            failed.store(true, Ordering::Relaxed);
                            println!(
                                "seed {seed} fails after {} seeds: {failure}",
                                seed - arguments.from
                            );
                        }
                    }
                }
                let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                total.merge(own);
            });
        }
    });
    if failed.load(Ordering::Relaxed) {
        return Ok(ExitCode::FAILURE);
    }
    let total = total.into_inner()?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds on {} in {seconds:.1} s: {:.0} a second; {} steps, {} passes",
        arguments.seeds,
        arguments.kernel,
        arguments.seeds as f64 / seconds,
        total.steps,
        total.passes
    );
    let mut never = 0;
    for kind in KINDS {
        let count = total.counts.get(kind).copied().unwrap_or(0);
        println!("{count:>12}  {kind}");
        never += usize::from(count == 0 && arguments.kernel.reaches(kind));
    }
    let failures = simulator::all_failures();
    let missing: Vec<_> = failures.iter().filter(|failed| !total.failed.contains(failed)).collect();
    println!(
        "{} of {} failures of system calls, by call, errno, and whether every call failed",
        failures.len() - missing.len(),
        failures.len()
    );
    // A short run may miss some kinds of events.
    if never + missing.len() > 0 && arguments.seeds >= 10_000 {
        println!("{never} kinds of events never happened, so the run does not test them");
        missing.iter().for_each(|failed| println!("{failed:?} never happened"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.merge(Total {
            steps: u64::from(report.steps),
            passes: report.passes,
            counts: report.counts.clone(),
            failed: report.failed.iter().copied().collect(),
        });
    }

    fn merge(&mut self, other: Total) {
        self.steps += other.steps;
        self.passes += other.passes;
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.failed.extend(other.failed);
    }
}

/// Returns `None` if help is requested.
fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    use lexopt::{Arg, ValueExt};

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments = Arguments { from: 0, seeds: 10_000, threads, kernel: Kernel::Linux };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("seeds") => arguments.seeds = parser.value()?.parse()?,
            Arg::Long("from") => arguments.from = parser.value()?.parse()?,
            Arg::Long("threads") => arguments.threads = parser.value()?.parse()?,
            Arg::Long("seed") => {
                arguments.from = parser.value()?.parse()?;
                arguments.seeds = 1;
            }
            Arg::Long("kernel") => arguments.kernel = parser.value()?.parse()?,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}
