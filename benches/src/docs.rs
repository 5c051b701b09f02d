//! Writes the figures of a run into the documentation. People write the prose of the pages by hand;
//! this module writes their figures, so that no figure is copied.
//!
//! | File | What this module writes |
//! |---|---|
//! | `docs/performance.md`, `benches/RESULTS.md` | the text between markers |
//! | `docs/performance/tables.md` | the whole file: all tables, all plots, where a peer is better |
//! | `docs/performance/*.svg` | the plots |
//! | `docs/performance/figures.json` | the data set from which all the others are made |
//!
//! A marker is a line `<!-- NAME -->`. The module replaces the text from a marker to `<!-- end
//! -->`:
//!
//! | Marker | What this module writes |
//! |---|---|
//! | `machine` | the machine, the versions and the length of the run |
//! | `overview` | a table of the figures that decide between libraries |
//! | `hostile` | a table of the scenarios with hostile connections |
//! | `targets` | each target, and what this run reached |
//! | `not measured` | what could not be measured, and why |
//! | `plot: NAME` | the image `NAME.svg`, if the run has figures for it |
//!
//! The raw results of a run stay in the run's own directory.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    data_set,
    plot::{self, Plot},
    report::{Machine, Report, is_hostile},
    table,
};

/// The directory of the generated files, beside the first page.
const DIRECTORY: &str = "performance";
/// The tables, in that directory.
const TABLES: &str = "tables.md";
/// The data set, in that directory.
const FIGURES: &str = "figures.json";
/// The whole report of a run, in the directory of the run.
const RESULTS: &str = "results.json";
const END: &str = "<!-- end -->";

/// A page whose prose is written by hand.
struct Page {
    /// Relative to the directory of the documentation.
    path: &'static str,
    /// The path from the page to [`DIRECTORY`], with a slash at its end.
    to_plots: &'static str,
}

const PAGES: [Page; 2] = [
    Page { path: "performance.md", to_plots: "performance/" },
    Page { path: "../benches/RESULTS.md", to_plots: "../docs/performance/" },
];

#[derive(Debug)]
pub enum Error {
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    Results {
        path: PathBuf,
        source: serde_json::Error,
    },
    Plots(plot::Error),
    /// The markers of a page are wrong.
    Page {
        page: &'static str,
        line: usize,
        what: String,
    },
    /// The report is of a smoke run, whose figures mean nothing.
    Smoke,
}

/// Writes the pages, the tables, the plots and the data set, and returns the files. `docs_dir` is
/// the directory `docs` of a checkout. Everything is made from the text of the data set, so
/// [`read_results`] of that file gives the same files again.
pub fn write(report: &Report, docs_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    if report.mode == "smoke" {
        return Err(Error::Smoke);
    }
    let directory = docs_dir.join(DIRECTORY);
    let figures = figures_file(docs_dir);
    let results = |source| Error::Results { path: figures.clone(), source };
    let text = data_set::write(report).map_err(results)?;
    let report = &data_set::read(&text).map_err(results)?;

    // All pages are filled in before the first file is written, so an error changes no file.
    let mut pages = Vec::new();
    for page in &PAGES {
        let path = docs_dir.join(page.path);
        let before = fs::read_to_string(&path).map_err(file("read", &path))?;
        pages.push((path, fill_in(page, &before, report)?));
    }

    let mut files = plot::write_all(report, &directory).map_err(Error::Plots)?;
    remove_other_plots(&directory, &files)?;
    pages.push((directory.join(TABLES), tables(report)));
    pages.push((figures, text));
    for (path, text) in pages {
        fs::write(&path, text).map_err(file("write", &path))?;
        files.push(path);
    }
    Ok(files)
}

/// Writes the report as `results.json` into this directory, and makes the directory if needed.
pub fn write_results(report: &Report, directory: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(directory).map_err(file("create", directory))?;
    let path = directory.join(RESULTS);
    let results = |source| Error::Results { path: path.clone(), source };
    let text = serde_json::to_string_pretty(report).map_err(results)?;
    fs::write(&path, text + "\n").map_err(file("write", &path))?;
    Ok(path)
}

/// Reads the report from the `results.json` of a run, or from a data set.
pub fn read_results(path: &Path) -> Result<Report, Error> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    let results = |source| Error::Results { path: path.to_owned(), source };
    data_set::read(&text).map_err(results)
}

/// Returns the path of the data set. `docs_dir` is the directory `docs` of a checkout.
pub fn figures_file(docs_dir: &Path) -> PathBuf {
    docs_dir.join(DIRECTORY).join(FIGURES)
}

/// Removes the plots of an earlier run for which this run has no figures.
fn remove_other_plots(directory: &Path, ours: &[PathBuf]) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(file("read", directory))? {
        let path = entry.map_err(file("read", directory))?.path();
        if path.extension().is_some_and(|e| e == "svg") && !ours.contains(&path) {
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    Ok(())
}

/// Returns the page with everything between markers replaced.
fn fill_in(page: &Page, before: &str, report: &Report) -> Result<String, Error> {
    let plots = plot::plots(report);
    let mut text = String::new();
    let mut open: Option<(usize, &str)> = None;
    for (number, line) in (1..).zip(before.lines()) {
        let wrong = |what: String| Error::Page { page: page.path, line: number, what };
        match (open, marker(line)) {
            (Some(_), _) if line.trim() == END => open = None,
            (Some(_), None) => continue,
            (Some((from, name)), Some(_)) => {
                return Err(wrong(format!("`{name}` of line {from} has no `{END}` of its own")));
            }
            (None, None) if line.trim() == END => {
                return Err(wrong(format!("`{END}` has no marker before it")));
            }
            (None, None) => {}
            (None, Some(name)) => {
                open = Some((number, name));
                let content = content(name, page, report, &plots)
                    .ok_or_else(|| wrong(format!("no such marker: `{name}`")))?;
                _ = writeln!(text, "{line}\n\n{}\n", content.trim());
                continue;
            }
        }
        _ = writeln!(text, "{line}");
    }
    match open {
        Some((line, name)) => {
            Err(Error::Page { page: page.path, line, what: format!("`{name}` has no `{END}`") })
        }
        None => Ok(text),
    }
}

/// Returns the name in a line that is a marker and nothing else.
fn marker(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    (name != "end").then_some(name)
}

/// Returns the text for a marker, or `None` if there is no marker of that name.
fn content(name: &str, page: &Page, report: &Report, plots: &[Plot]) -> Option<String> {
    const NONE: &str = "Not measured in this run.";
    Some(match name.split_once(": ") {
        Some(("plot", name)) => {
            let plot = plots.iter().find(|plot| plot.name == name);
            plot.map_or_else(|| NONE.to_owned(), |plot| image(plot, page.to_plots))
        }
        Some(_) => return None,
        None => match name {
            "machine" => machine(report),
            "hostile" => hostile(report).unwrap_or_else(|| NONE.to_owned()),
            "overview" => table::overview_markdown(report),
            "targets" => table::targets_markdown(&table::targets(report)),
            "not measured" => not_measured(report),
            _ => return None,
        },
    })
}

/// Returns the whole page of tables: a section for each group of scenarios, with its plots.
fn tables(report: &Report) -> String {
    let (groups, plots) = (table::groups(report), plot::plots(report));
    let mut text = format!(
        "# Benchmark: all tables\n\nThe benchmark suite writes this file. \
         [{FIGURES}]({FIGURES}) has each round. [benches/README.md](../../benches/README.md) \
         explains scenarios and peers, [benches/RESULTS.md](../../benches/RESULTS.md) the results; \
         [performance.md](../performance.md#the-machine) names the machine.\n\n{}\n",
        table::legend(),
    );
    for group in &groups {
        _ = writeln!(text, "\n## {group}\n");
        if is_hostile(group)
            && let Some(machine) = &report.hostile_machine
        {
            _ = writeln!(text, "{}\n", another_machine(machine));
        }
        for plot in plots.iter().filter(|plot| plot.place(&groups) == Some(group)) {
            _ = writeln!(text, "{}\n", image(plot, ""));
        }
        _ = writeln!(text, "{}", table::markdown(report, group).trim());
    }
    _ = writeln!(text, "\n## Where a peer is better\n\n{}", table::beaten_markdown(report).trim());
    _ = writeln!(text, "\n## Not measured\n\n{}", not_measured(report).trim());
    text
}

/// Returns the table of the scenarios with hostile connections, with their machine if it is not that
/// of the other scenarios.
fn hostile(report: &Report) -> Option<String> {
    let table = table::hostile_markdown(report)?;
    let machine = report.hostile_machine.as_ref().map(another_machine);
    Some(machine.map_or_else(|| table.clone(), |machine| format!("{table}\n{machine}")))
}

fn another_machine(machine: &Machine) -> String {
    let Machine { processor, cores, kernel, .. } = machine;
    format!("Measured on another machine: {processor}, {cores} cores, Linux {kernel}.")
}

fn image(plot: &Plot, to_plots: &str) -> String {
    format!("![{}]({to_plots}{}.svg)", plot.title, plot.name)
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!("* Processor: {}, {} cores\n", machine.processor, machine.cores);
    _ = writeln!(text, "* Linux {}, {}", machine.kernel, machine.rustc);
    let peers = machine.peers.iter().map(|(peer, version)| format!("{peer} {version}"));
    let peers = peers.collect::<Vec<_>>().join(", ");
    if !peers.is_empty() {
        _ = writeln!(text, "* Peers: {peers}");
    }
    _ = writeln!(text, "* A {} run, {:.0} minutes", report.mode, (report.seconds / 60.0).ceil());
    text
}

fn not_measured(report: &Report) -> String {
    if report.not_measured.is_empty() {
        return "Every scenario was measured.".to_owned();
    }
    report.not_measured.iter().map(|sentence| format!("* {sentence}\n")).collect()
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { what, path, source } => {
                write!(f, "cannot {what} {}: {source}", path.display())
            }
            Self::Results { path, source } => {
                write!(f, "{} is not a report of this suite: {source}", path.display())
            }
            Self::Plots(source) => write!(f, "cannot draw the plots: {source}"),
            Self::Page { page, line, what } => write!(f, "{page}, line {line}: {what}"),
            Self::Smoke => f.write_str(
                "the figures of a smoke run mean nothing: run without --smoke to write the pages",
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Results { source, .. } => Some(source),
            Self::Plots(source) => Some(&**source),
            Self::Page { .. } | Self::Smoke => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{fixture, instruments::scratch::Scratch};

    fn filled(page: &str) -> Result<String, String> {
        fill_in(&PAGES[0], page, &fixture::report()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_the_text_between_markers_is_replaced() {
        let page = "\
# Title
<!-- machine -->
old
<!-- end -->
Prose.
<!-- plot: quiet -->
<!-- end -->
";
        let once = filled(page).expect("the page is filled in");
        assert!(once.starts_with("# Title\n<!-- machine -->\n\n* Processor: Fixture"), "{once}");
        let plot = "\n<!-- end -->\nProse.\n<!-- plot: quiet -->\n\n![";
        assert!(once.contains(plot), "{once}");
        assert!(once.contains("](performance/quiet.svg)\n\n<!-- end -->\n"), "{once}");
        assert!(!once.contains("old"));
        assert_eq!(filled(&once).expect("it is filled in again"), once);
    }

    #[test]
    fn unclosed_and_unknown_markers_are_reported_with_their_line() {
        for (page, expected) in [
            ("<!-- machine -->\n<!-- targets -->\n", "line 2: `machine` of line 1 has no"),
            ("<!-- end -->\n", "line 1: `<!-- end -->` has no marker before it"),
            ("<!-- tables -->\n<!-- end -->\n", "line 1: no such marker: `tables`"),
            ("Prose.\n<!-- machine -->\n", "line 2: `machine` has no `<!-- end -->`"),
        ] {
            let error = filled(page).expect_err(expected);
            assert!(error.contains(expected), "{error}");
            assert!(error.starts_with("performance.md, "), "{error}");
        }
    }

    #[test]
    fn a_plot_without_figures_is_replaced_by_a_sentence() {
        let page = filled("<!-- plot: no-such-plot -->\n<!-- end -->\n");
        assert!(page.expect("it is filled in").contains("Not measured in this run."));
    }

    #[test]
    fn the_tables_have_every_group_and_every_plot_of_a_report_once() {
        let report = fixture::report();
        let tables = tables(&report);
        for group in table::groups(&report) {
            assert!(tables.contains(&format!("\n## {group}\n")), "{group}");
            assert!(tables.contains(table::markdown(&report, &group).trim()), "{group}");
        }
        for plot in plot::plots(&report) {
            assert_eq!(tables.matches(&image(&plot, "")).count(), 1, "{}", plot.name);
        }
        assert!(tables.contains(&report.not_measured[0]));
    }

    #[test]
    fn the_pages_of_this_checkout_take_a_full_report_and_have_no_figures_of_the_fixture() {
        for page in &PAGES {
            let path = docs_dir().join(page.path);
            let text = fs::read_to_string(path).expect("the page is read");
            assert!(!text.to_lowercase().contains("fixture"), "{}", page.path);
            fill_in(page, &text, &fixture::report()).expect("the page is filled in");
        }
    }

    #[test]
    fn a_smoke_run_writes_no_page() {
        let report = Report { mode: "smoke".to_owned(), ..fixture::report() };
        assert!(matches!(write(&report, Path::new("/nonexistent")), Err(Error::Smoke)));
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let directory = Scratch::new().expect("a directory is made");
        let path = write_results(&fixture::report(), directory.path()).expect("they are written");
        assert_eq!(read_results(&path).expect("they are read"), fixture::report());
    }

    fn docs_dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
    }

    /// Copies the pages of this checkout into a directory of their own. Returns this directory and
    /// the directory `docs` in it.
    fn copied_pages() -> (Scratch, PathBuf) {
        let scratch = Scratch::new().expect("a directory is made");
        let docs = scratch.path().join("docs");
        for directory in [&docs, &scratch.path().join("benches")] {
            fs::create_dir(directory).expect("a directory is made");
        }
        for page in &PAGES {
            fs::copy(docs_dir().join(page.path), docs.join(page.path)).expect("a page is copied");
        }
        (scratch, docs)
    }

    /// Returns the names and contents of all files that `write` writes.
    fn contents(docs_dir: &Path) -> BTreeMap<String, String> {
        let generated = fs::read_dir(docs_dir.join(DIRECTORY)).expect("the directory is read");
        let generated = generated.map(|entry| entry.expect("an entry is read").path());
        let files = generated.chain(PAGES.iter().map(|page| docs_dir.join(page.path)));
        let named = files.map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a file is read"))
        });
        named.collect()
    }

    #[test]
    fn a_data_set_gives_the_pages_and_the_plots_of_its_run_again() {
        let ((_first, first), (_second, second)) = (copied_pages(), copied_pages());
        write(&fixture::report(), &first).expect("the pages of a run are written");
        let report = read_results(&first.join(DIRECTORY).join(FIGURES));
        write(&report.expect("the data set is read"), &second).expect("its pages are written");
        assert_eq!(contents(&first), contents(&second));
    }

    #[test]
    fn the_pages_of_this_checkout_and_their_plots_match_the_data_set() {
        let report = read_results(&docs_dir().join(DIRECTORY).join(FIGURES)).expect("it is read");
        let (_scratch, again) = copied_pages();
        write(&report, &again).expect("the pages are written");
        let (kept, again) = (contents(&docs_dir()), contents(&again));
        assert_eq!(kept.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        for (name, text) in &kept {
            // `assert_eq` would print both files.
            assert!(
                *text == again[name],
                "{name} does not match the data set: \
                 run the suite with `--from docs/performance/{FIGURES} --docs docs`"
            );
        }
    }
}
