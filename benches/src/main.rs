//! Measures `sockman` against what people would use instead.
mod effort;
mod instruments;
mod latency;
mod report;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let effort = match args.next().as_deref() {
        Some("--quick") => effort::Effort::Quick,
        Some("--full") => effort::Effort::Full,
        _ => effort::Effort::Smoke,
    };
    let filter = args.next().unwrap_or_default();
    let mut report = report::Report {
        machine: Default::default(),
        mode: String::new(),
        seconds: 0.0,
        figures: vec![],
        distributions: vec![],
        not_measured: vec![],
    };
    let begin = std::time::Instant::now();
    let only = |s: &str| s.contains(&filter);
    match args.next() {
        Some(suite) => instruments::run(effort, &only, suite.as_ref(), &mut report)?,
        None => latency::run(effort, &only, &mut report)?,
    }
    eprintln!("{:?} {:?}", begin.elapsed(), report.not_measured);
    std::fs::write("/tmp/latency-report.json", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}
