//! Measures `sockman` against what people would use instead. `--help` says how to run it.
use std::{env, error::Error, fs, process::ExitCode, time::Instant};

use cli::{Command, Settings};
use report::Report;

mod cli;
mod cores;
mod data_set;
mod docs;
mod effort;
#[cfg(test)]
mod fixture;
mod instruments;
mod latency;
mod load;
mod machine;
mod measure;
mod plot;
mod random;
mod report;
mod scenarios;
mod server_process;
mod servers;
mod shares;
mod table;

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
        Command::Run(settings) => {
            let report = measure_all(&settings)?;
            show(&report, &settings)
        }
        Command::Redraw { results, settings } => show(&docs::read_results(&results)?, &settings),
    }
}

fn measure_all(settings: &Settings) -> Result<Report, Box<dyn Error>> {
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
        failures: 0,
    };
    let only = |scenario: &str| settings.wants(scenario);

    // The parts of the suite, one after the other.
    scenarios::run(settings.effort, &only, &settings.peers, &mut report)?;
    latency::run(settings.effort, &only, &mut report)?;
    instruments::run(settings.effort, &only, &env::current_exe()?, &mut report)?;

    report.seconds = start.elapsed().as_secs_f64();
    if report.figures.is_empty() && report.not_measured.is_empty() {
        return Err("no scenario has that in its name; see --help".into());
    }
    if let Some(earlier) = &settings.add {
        let earlier = docs::read_results(earlier)?;
        if earlier.mode != report.mode || earlier.machine.processor != report.machine.processor {
            return Err("--add: that run was of another kind, or on another machine".into());
        }
        report.add(earlier);
    }
    docs::write_results(&report, &settings.out)?;
    Ok(report)
}

/// The tables on the terminal, the plots beside the results, and the page if it is asked for.
fn show(report: &Report, settings: &Settings) -> Result<(), Box<dyn Error>> {
    let plots = plot::write_all(report, &settings.out)?;
    print!("{}{}", table::summary(report), shares::text(report));
    println!(
        "{:.0} s; results and {} plots are in {}",
        report.seconds,
        plots.len(),
        settings.out.display()
    );
    if let Some(docs) = &settings.docs {
        docs::write(report, docs)?;
        println!("{} has the figures of this run", docs.join("performance.md").display());
    }
    if report.failures > 0 {
        return Err(format!("{} measurements failed: see \"Not measured\"", report.failures).into());
    }
    Ok(())
}
