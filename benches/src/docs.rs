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
//! | `engines` | nothing: `benches/engines` writes this text |
//!
//! The figures of another machine are a data set of its own, in a directory beside the main one:
//! `docs/performance/NAME/figures.json`, with its tables and plots. Where the main data set has no
//! figures for a marker, the first other one that has them is used, and its machine is named.
//!
//! The raw results of a run stay in the run's own directory.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    data_set::{self, ReadError},
    plot::{self, Plot},
    report::{OtherMachine, Report},
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
/// The marker whose text the program in `benches/engines` writes.
const OF_ENGINES: &str = "engines";

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
    /// The figures of a file are from two machines.
    TwoMachines {
        path: PathBuf,
        source: OtherMachine,
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

/// All data sets of the documentation.
struct DataSets {
    main: Report,
    /// By the names of their directories.
    others: BTreeMap<String, Report>,
}

impl DataSets {
    /// Returns all data sets with the paths from [`DIRECTORY`] to their directories, the main one
    /// first.
    fn all(&self) -> impl Iterator<Item = (String, &Report)> {
        let others = self.others.iter().map(|(name, report)| (format!("{name}/"), report));
        [(String::new(), &self.main)].into_iter().chain(others)
    }
}

/// Writes the pages, the tables, the plots and the data sets, and returns the files. `docs_dir` is
/// the directory `docs` of a checkout. `name` is the data set that `report` replaces: `None` is the
/// main one. Everything is made from the texts of the data sets, so [`read_results`] of these files
/// gives the same files again.
pub fn write(report: &Report, docs_dir: &Path, name: Option<&str>) -> Result<Vec<PathBuf>, Error> {
    if report.mode == "smoke" {
        return Err(Error::Smoke);
    }
    let directory = docs_dir.join(DIRECTORY);
    let mut sets = DataSets { main: report.clone(), others: others(&directory)? };
    if let Some(name) = name {
        sets.main = read_results(&figures_file(docs_dir, None))?;
        sets.others.insert(name.to_owned(), report.clone());
    }
    let mut texts = Vec::new();
    for (to_set, report) in sets.all() {
        let path = directory.join(&to_set).join(FIGURES);
        let json = |source| Error::Results { path: path.clone(), source };
        texts.push((path.clone(), data_set::write(report).map_err(json)?));
    }
    let read = |(path, text): &(PathBuf, String)| data_set::read(text).map_err(wrong(path));
    let mut reports = texts.iter().map(read);
    sets.main = reports.next().transpose()?.unwrap_or(sets.main);
    for (of_name, read) in sets.others.values_mut().zip(reports) {
        *of_name = read?;
    }

    // All pages are filled in before the first file is written, so an error changes no file.
    let mut pages = Vec::new();
    for page in &PAGES {
        let path = docs_dir.join(page.path);
        let before = fs::read_to_string(&path).map_err(file("read", &path))?;
        pages.push((path, fill_in(page, &before, &sets)?));
    }

    let mut files = Vec::new();
    for (to_set, report) in sets.all() {
        let directory = directory.join(&to_set);
        let plots = plot::write_all(report, &directory).map_err(Error::Plots)?;
        remove_other_plots(&directory, &plots)?;
        files.extend(plots);
        pages.push((directory.join(TABLES), tables(report, &to_set)));
    }
    pages.extend(texts);
    for (path, text) in pages {
        fs::write(&path, text).map_err(file("write", &path))?;
        files.push(path);
    }
    Ok(files)
}

/// Reads the data sets in the directories of this directory.
fn others(directory: &Path) -> Result<BTreeMap<String, Report>, Error> {
    let mut others = BTreeMap::new();
    if !directory.exists() {
        return Ok(others);
    }
    for entry in fs::read_dir(directory).map_err(file("read", directory))? {
        let path = entry.map_err(file("read", directory))?.path();
        let figures = path.join(FIGURES);
        if let Some(name) = path.file_name().filter(|_| figures.is_file()) {
            others.insert(name.to_string_lossy().into_owned(), read_results(&figures)?);
        }
    }
    Ok(others)
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
    data_set::read(&text).map_err(wrong(path))
}

/// Returns the path of a data set, `None` for the main one. `docs_dir` is the directory `docs` of a
/// checkout.
pub fn figures_file(docs_dir: &Path, name: Option<&str>) -> PathBuf {
    docs_dir.join(DIRECTORY).join(name.unwrap_or_default()).join(FIGURES)
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
fn fill_in(page: &Page, before: &str, sets: &DataSets) -> Result<String, Error> {
    let mut text = String::new();
    let mut open: Option<(usize, &str)> = None;
    for (number, line) in (1..).zip(before.lines()) {
        let wrong = |what: String| Error::Page { page: page.path, line: number, what };
        match (open, marker(line)) {
            (Some(_), _) if line.trim() == END => open = None,
            (Some((_, OF_ENGINES)), None) => {}
            (Some(_), None) => continue,
            (Some((from, name)), Some(_)) => {
                return Err(wrong(format!("`{name}` of line {from} has no `{END}` of its own")));
            }
            (None, None) if line.trim() == END => {
                return Err(wrong(format!("`{END}` has no marker before it")));
            }
            (None, None) => {}
            (None, Some(OF_ENGINES)) => open = Some((number, OF_ENGINES)),
            (None, Some(name)) => {
                open = Some((number, name));
                let content = content(name, page, sets)
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
fn content(name: &str, page: &Page, sets: &DataSets) -> Option<String> {
    const NONE: &str = "Not measured in this run.";
    Some(match name.split_once(": ") {
        Some(("plot", name)) => {
            let mut plots = sets.all().filter_map(|(to_set, report)| {
                let plot = plot::plots(report).into_iter().find(|plot| plot.name == name)?;
                Some(image(&plot, &format!("{}{to_set}", page.to_plots)))
            });
            plots.next().unwrap_or_else(|| NONE.to_owned())
        }
        Some(_) => return None,
        None => match name {
            "machine" => machines(page, sets),
            "hostile" => hostile(sets).unwrap_or_else(|| NONE.to_owned()),
            "overview" => table::overview_markdown(&sets.main),
            "targets" => targets(sets),
            "not measured" => not_measured(&sets.main),
            _ => return None,
        },
    })
}

/// Returns the whole page of tables: a section for each group of scenarios, with its plots. `to_set`
/// is the path from [`DIRECTORY`] to the data set.
fn tables(report: &Report, to_set: &str) -> String {
    let (groups, plots) = (table::groups(report), plot::plots(report));
    let up = "../".repeat(to_set.matches('/').count());
    let mut text = format!(
        "# Benchmark: all tables\n\nThe benchmark suite writes this file. \
         [{FIGURES}]({FIGURES}) has each round. [benches/README.md]({up}../../benches/README.md) \
         explains scenarios and peers, [benches/RESULTS.md]({up}../../benches/RESULTS.md) the \
         results.\n\nMeasured on: {}.\n\n{}\n",
        report.machine,
        table::legend(),
    );
    for group in &groups {
        _ = writeln!(text, "\n## {group}\n");
        for plot in plots.iter().filter(|plot| plot.place(&groups) == Some(group)) {
            _ = writeln!(text, "{}\n", image(plot, ""));
        }
        _ = writeln!(text, "{}", table::markdown(report, group).trim());
    }
    _ = writeln!(text, "\n## Where a peer is better\n\n{}", table::beaten_markdown(report).trim());
    _ = writeln!(text, "\n## Not measured\n\n{}", not_measured(report).trim());
    text
}

/// Returns the table of the scenarios with hostile connections, with the machine if it is not that
/// of the main data set.
fn hostile(sets: &DataSets) -> Option<String> {
    sets.all().find_map(|(to_set, report)| {
        let table = table::hostile_markdown(report)?;
        let is_main = to_set.is_empty();
        let machine = &report.machine;
        Some(if is_main { table } else { format!("{table}\nMeasured on: {machine}.") })
    })
}

/// Returns the targets of the main data set, and those that the other data sets have measured.
fn targets(sets: &DataSets) -> String {
    let mut text = table::targets_markdown(&table::targets(&sets.main));
    for report in sets.others.values() {
        let mut measured = table::targets(report);
        measured.retain(table::Target::is_measured);
        let table = table::targets_markdown(&measured);
        _ = write!(text, "\nMeasured on: {}.\n\n{table}", report.machine);
    }
    text
}

fn image(plot: &Plot, to_plots: &str) -> String {
    format!("![{}]({to_plots}{}.svg)", plot.title, plot.name)
}

/// Returns the machine of the main data set, and the places of the others.
fn machines(page: &Page, sets: &DataSets) -> String {
    let mut text = machine(&sets.main);
    for (name, report) in &sets.others {
        let tables = format!("{}{name}/{TABLES}", page.to_plots);
        let groups = table::groups(report).join(", ");
        _ = writeln!(text, "* [{}]({tables}): {groups}", report.machine);
    }
    text
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

fn wrong(path: &Path) -> impl FnOnce(ReadError) -> Error {
    let path = path.to_owned();
    move |error| match error {
        ReadError::Json(source) => Error::Results { path, source },
        ReadError::TwoMachines(source) => Error::TwoMachines { path, source },
    }
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
            Self::TwoMachines { path, source } => write!(f, "{}: {source}", path.display()),
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
            Self::TwoMachines { source, .. } => Some(source),
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

    fn of_fixture() -> DataSets {
        DataSets { main: fixture::report(), others: BTreeMap::new() }
    }

    fn filled(page: &str) -> Result<String, String> {
        fill_in(&PAGES[0], page, &of_fixture()).map_err(|e| e.to_string())
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
    fn the_text_of_the_engines_stays() {
        let page = "A\n<!-- engines -->\n\n| 1 |\n\n<!-- end -->\nB\n";
        assert_eq!(filled(page).expect("the page is filled in"), page);
        let error = filled("<!-- engines -->\n").expect_err("the end is missing");
        assert!(error.contains("`engines` has no `<!-- end -->`"), "{error}");
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
        let tables = tables(&report, "");
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
            fill_in(page, &text, &of_fixture()).expect("the page is filled in");
        }
    }

    #[test]
    fn a_smoke_run_writes_no_page() {
        let report = Report { mode: "smoke".to_owned(), ..fixture::report() };
        assert!(matches!(write(&report, Path::new("/nonexistent"), None), Err(Error::Smoke)));
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

    /// The page that a person writes, beside the files of the data sets.
    const BY_HAND: &str = "performance/io-uring-and-options.md";

    /// Returns the paths and contents of all files that `write` writes.
    fn contents(docs_dir: &Path) -> BTreeMap<String, String> {
        let mut files: Vec<PathBuf> = PAGES.iter().map(|page| docs_dir.join(page.path)).collect();
        let mut directories = vec![docs_dir.join(DIRECTORY)];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("the directory is read") {
                let path = entry.expect("an entry is read").path();
                if path.is_dir() { directories.push(path) } else { files.push(path) }
            }
        }
        let named = files.into_iter().map(|path| {
            let name = path.strip_prefix(docs_dir).expect("it is in the directory");
            let text = fs::read_to_string(&path).expect("a file is read");
            (name.display().to_string(), text)
        });
        named.filter(|(name, _)| name != BY_HAND).collect()
    }

    #[test]
    fn a_data_set_gives_the_pages_and_the_plots_of_its_run_again() {
        let ((_first, first), (_second, second)) = (copied_pages(), copied_pages());
        write(&fixture::report(), &first, None).expect("the pages of a run are written");
        let report = read_results(&figures_file(&first, None));
        let report = report.expect("the data set is read");
        write(&report, &second, None).expect("its pages are written");
        assert_eq!(contents(&first), contents(&second));
    }

    #[test]
    fn the_pages_of_this_checkout_and_their_plots_match_the_data_set() {
        let (_scratch, again) = copied_pages();
        let read = |path: &Path| read_results(path).expect("a data set is read");
        write(&read(&figures_file(&docs_dir(), None)), &again, None).expect("it is written");
        for (name, report) in others(&docs_dir().join(DIRECTORY)).expect("they are read") {
            write(&report, &again, Some(&name)).expect("the pages are written");
        }
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

    #[test]
    fn another_machine_has_a_data_set_of_its_own_which_the_main_one_does_not_change() {
        let (_scratch, docs) = copied_pages();
        let of_groups = |is_asked: &dyn Fn(&str) -> bool, processor: &str| {
            let mut report = fixture::report();
            report.figures.retain(|f| is_asked(&f.scenario));
            report.machine.processor = processor.to_owned();
            report
        };
        let is_hostile = crate::report::is_hostile;
        let main = of_groups(&|scenario| !is_hostile(scenario), "First processor");
        let other = of_groups(&is_hostile, "Second processor");
        write(&main, &docs, None).expect("the main data set is written");
        write(&other, &docs, Some("second")).expect("another data set is written");
        write(&main, &docs, None).expect("the main data set is written again");
        let files = contents(&docs);
        for (file, expected) in [
            ("performance/tables.md", "Measured on: First processor, "),
            ("performance/second/tables.md", "Measured on: Second processor, "),
            ("performance/second/tables.md", "](../../../benches/README.md)"),
            ("performance.md", "* [Second processor, "),
            ("performance.md", "](performance/second/tables.md): hostile, "),
            ("performance.md", "| quiet | "),
            ("../benches/RESULTS.md", "Measured on: Second processor, "),
        ] {
            assert!(files[file].contains(expected), "{file} lacks {expected}");
        }
        assert!(!files["performance/figures.json"].contains("Second processor"));
        assert!(!files["performance/tables.md"].contains("## hostile"));
    }
}
