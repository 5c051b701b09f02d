//! Measures `sockman` against what people would use instead. `--help` says how to run it.
use std::{error::Error, fs, path::Path, process::ExitCode, time::Instant};

use cli::{Command, Settings};
use report::Report;

mod cli;
mod cores;
mod effort;
mod load;
mod machine;
mod measure;
mod report;
mod scenarios;
mod server_process;
mod servers;
mod summary;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    match cli::parse()? {
        Command::Help => {
            print!("{}", cli::HELP);
            Ok(())
        }
        Command::Serve { peer, task, core } => servers::serve(peer, task, core),
        Command::Hold { to } => load::hold(to),
        Command::Run(settings) => measure_all(&settings),
    }
}

fn measure_all(settings: &Settings) -> Result<(), Box<dyn Error>> {
    // Before anything is measured: a run of minutes shall not end with a directory that is not ours.
    fs::create_dir_all(&settings.out)
        .map_err(|e| format!("cannot create {}: {e}", settings.out.display()))?;
    let start = Instant::now();
    let mut report = Report {
        machine: machine::describe(),
        mode: settings.effort.name().into(),
        seconds: 0.0,
        figures: Vec::new(),
        distributions: Vec::new(),
        not_measured: Vec::new(),
        shares: Vec::new(),
    };
    let only = |scenario: &str| settings.wants(scenario);

    // The parts of the suite, one after the other.
    scenarios::run(settings.effort, &only, &settings.peers, &mut report)?;

    report.seconds = start.elapsed().as_secs_f64();
    if report.figures.is_empty() && report.not_measured.is_empty() {
        return Err("no scenario has that in its name; see --help".into());
    }
    let results = write(&report, &settings.out)?;
    print!("{}", summary::text(&report));
    println!("{:.0} s; results are in {results}", report.seconds);
    Ok(())
}

/// What was found out, and where it is kept.
fn write(report: &Report, out: &Path) -> Result<String, Box<dyn Error>> {
    let path = out.join("results.json");
    let text = serde_json::to_string_pretty(report)?;
    fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path.display().to_string())
}
