//! Measures `sockman` against its alternatives. `--help` shows how to run it.
use std::{env, error::Error, fs, process::ExitCode, time::Instant};

use cli::{Command, Settings};
use report::Report;

mod cli;
mod connects;
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
        Command::Connect { peer, core, ports } => connects::run(peer, core, &ports),
        Command::Attack { to, attack } => load::attack(to, attack),
        Command::EchoExample => servers::run_echo_example(),
        Command::Hold { to, from } => load::hold(to, from),
        Command::Run(settings) => {
            let report = measure_all(&settings)?;
            show(&report, &settings)
        }
        Command::Redraw { results, settings } => show(&docs::read_results(&results)?, &settings),
    }
}

fn measure_all(settings: &Settings) -> Result<Report, Box<dyn Error>> {
    // A run takes minutes, so an unusable directory has to be found before it.
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
    // A run takes minutes, so figures that cannot be added have to be found before it.
    let earlier = settings.earlier().map(|path| docs::read_results(&path)).transpose()?;
    earlier.as_ref().map_or(Ok(()), |earlier| report.can_add(earlier))?;
    let only = |scenario: &str| settings.wants(scenario);

    if settings.omits(report::HOSTILE) {
        report
            .not_measured
            .push(format!("{}: a quick run measures it only with --hostile.", report::HOSTILE));
    }
    let Settings { effort, many, peers, .. } = settings;
    scenarios::run(*effort, *many, &only, peers, &mut report)?;
    latency::run(settings.effort, &only, &mut report)?;
    instruments::run(settings.effort, &only, &env::current_exe()?, &mut report)?;

    report.seconds = start.elapsed().as_secs_f64();
    if report.figures.is_empty() && report.not_measured.is_empty() {
        return Err("no scenario has the text of --only in its name; see --help".into());
    }
    if let Some(earlier) = earlier {
        if settings.hostile {
            // The documentation has the length of the run that measured everything else.
            report.seconds = 0.0;
        }
        report.add(earlier)?;
    }
    docs::write_results(&report, &settings.out)?;
    Ok(report)
}

/// Prints the tables, draws the plots beside the results, and with `--docs` writes the
/// documentation.
fn show(report: &Report, settings: &Settings) -> Result<(), Box<dyn Error>> {
    let plots = plot::write_all(report, &settings.out)?;
    print!("{}{}", table::summary(report), shares::text(report));
    println!("measured on: {}", report.machine);
    println!(
        "{:.0} s; the results and {} plots are in {}",
        report.seconds,
        plots.len(),
        settings.out.display()
    );
    if let Some(docs) = &settings.docs {
        let files = docs::write(report, docs, settings.data_set.as_deref())?;
        println!("{} files of the documentation have the figures of this run", files.len());
    }
    if report.failures > 0 {
        return Err(format!("{} measurements failed: see \"Not measured\"", report.failures).into());
    }
    Ok(())
}
