//! `docs/performance.md`: its prose is written by hand, its figures are put in by this module, so
//! that none is copied. What stands between `<!-- NAME -->` and `<!-- end -->` is replaced:
//!
//! | Marker | What it gets |
//! |---|---|
//! | `machine` | where and when the figures were taken |
//! | `legend` | how the tables are to be read |
//! | `targets` | what we mean to reach, and what this run reached |
//! | `beaten` | where a peer is better by more than a tie |
//! | `not measured` | what could not be measured, and why |
//! | `table: GROUP` | the tables of a group of scenarios |
//! | `other tables` | those of the groups that no other marker names |
//! | `plot: NAME` | `performance/NAME.svg`, if the run has what it draws |
//! | `other plots` | those that no other marker names |
//!
//! Beside the plots stands the data set that everything was drawn from. The raw results of a run
//! stay in the run's own directory.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    data_set,
    plot::{self, Plot},
    report::Report,
    table,
};

/// Beside the page, for what is generated whole.
const DIRECTORY: &str = "performance";
const PAGE: &str = "performance.md";
/// The data set, beside the plots.
const FIGURES: &str = "figures.json";
/// All that a run found out, in the directory of the run.
const RESULTS: &str = "results.json";
const END: &str = "<!-- end -->";

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
    /// The page is not as we expect it: the line, and what is wrong there.
    Page {
        line: usize,
        what: String,
    },
    /// A smoke run shows that the suite works; its figures say nothing.
    Smoke,
}

/// Writes the page, its plots and their data set under `docs_dir`; returns the files. All are made
/// from the text of the data set: [`read_results`] gives them again.
pub fn write(report: &Report, docs_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    if report.mode == "smoke" {
        return Err(Error::Smoke);
    }
    let directory = docs_dir.join(DIRECTORY);
    let figures = directory.join(FIGURES);
    let results = |source| Error::Results { path: figures.clone(), source };
    let text = data_set::write(report).map_err(results)?;
    let report = &data_set::read(&text).map_err(results)?;

    let page = docs_dir.join(PAGE);
    let before = fs::read_to_string(&page).map_err(file("read", &page))?;
    // Nothing is written if the page cannot be.
    let after = fill_in(&before, report)?;

    let mut files = plot::write_all(report, &directory).map_err(Error::Plots)?;
    remove_other_plots(&directory, &files)?;
    fs::write(&figures, text).map_err(file("write", &figures))?;
    files.push(figures);
    fs::write(&page, after).map_err(file("write", &page))?;
    files.push(page);
    Ok(files)
}

/// The report as `results.json` in this directory, which is made if need be.
pub fn write_results(report: &Report, directory: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(directory).map_err(file("create", directory))?;
    let path = directory.join(RESULTS);
    let results = |source| Error::Results { path: path.clone(), source };
    let text = serde_json::to_string_pretty(report).map_err(results)?;
    fs::write(&path, text + "\n").map_err(file("write", &path))?;
    Ok(path)
}

/// The report in the `results.json` of an earlier run, or in the data set of a page.
pub fn read_results(path: &Path) -> Result<Report, Error> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    let results = |source| Error::Results { path: path.to_owned(), source };
    data_set::read(&text).map_err(results)
}

/// Plots of an earlier run for which this one has no figures.
fn remove_other_plots(directory: &Path, ours: &[PathBuf]) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(file("read", directory))? {
        let path = entry.map_err(file("read", directory))?.path();
        if path.extension().is_some_and(|e| e == "svg") && !ours.contains(&path) {
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    Ok(())
}

/// The page with everything between markers replaced.
fn fill_in(page: &str, report: &Report) -> Result<String, Error> {
    let plots = plot::plots(report);
    let markers: Vec<&str> = page.lines().filter_map(marker).collect();
    if let Some(left_out) = left_out(&markers, report, &plots) {
        let what = format!("the page has no place for {left_out}");
        return Err(Error::Page { line: page.lines().count(), what });
    }

    let mut text = String::new();
    let mut open: Option<(usize, &str)> = None;
    for (number, line) in (1..).zip(page.lines()) {
        let wrong = |what: String| Error::Page { line: number, what };
        match (open, marker(line)) {
            (Some(_), _) if line.trim() == END => open = None,
            (Some(_), None) => continue,
            (Some((from, name)), Some(_)) => {
                return Err(wrong(format!("`{name}` of line {from} has no `{END}` before this")));
            }
            (None, None) if line.trim() == END => {
                return Err(wrong(format!("`{END}` without a beginning")));
            }
            (None, None) => {}
            (None, Some(name)) => {
                open = Some((number, name));
                let content = content(name, &markers, report, &plots)
                    .ok_or_else(|| wrong(format!("no such marker: `{name}`")))?;
                _ = writeln!(text, "{line}\n\n{}\n", content.trim());
                continue;
            }
        }
        _ = writeln!(text, "{line}");
    }
    match open {
        Some((line, name)) => Err(Error::Page { line, what: format!("`{name}` has no `{END}`") }),
        None => Ok(text),
    }
}

/// The name in a line that is a beginning and nothing else.
fn marker(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    (name != "end").then_some(name)
}

/// The first group of scenarios or plot that no marker takes.
fn left_out(markers: &[&str], report: &Report, plots: &[Plot]) -> Option<String> {
    let groups = (!markers.contains(&"other tables")).then(|| others(markers, report));
    let group = groups.and_then(|groups| groups.into_iter().next());
    if let Some(group) = group {
        return Some(format!("the tables of `{group}`"));
    }
    let plots = (!markers.contains(&"other plots")).then(|| other_plots(markers, plots));
    let plot = plots.and_then(|plots| plots.first().map(|plot| plot.name.clone()));
    plot.map(|plot| format!("the plot `{plot}`"))
}

/// `None` for a name that we do not know.
fn content(name: &str, markers: &[&str], report: &Report, plots: &[Plot]) -> Option<String> {
    const NONE: &str = "Not measured in this run.";
    let or_none = |text: String| if text.is_empty() { NONE.to_owned() } else { text };
    Some(match name.split_once(": ") {
        Some(("table", group)) => or_none(table::markdown(report, group)),
        Some(("plot", plot)) => {
            or_none(plots.iter().find(|p| p.name == plot).map(image).unwrap_or_default())
        }
        Some(_) => return None,
        None => match name {
            "machine" => machine(report),
            "legend" => table::legend().to_owned(),
            "targets" => table::targets_markdown(&table::targets(report)),
            "beaten" => table::beaten_markdown(report),
            "not measured" => not_measured(report),
            "other tables" => {
                let tables = others(markers, report);
                let tables = tables.iter().map(|group| {
                    format!("### {group}\n\n{}\n", table::markdown(report, group).trim())
                });
                tables.collect::<Vec<_>>().join("\n")
            }
            "other plots" => {
                let images: Vec<String> =
                    other_plots(markers, plots).into_iter().map(image).collect();
                images.join("\n\n")
            }
            _ => return None,
        },
    })
}

/// Groups that have no marker of their own.
fn others(markers: &[&str], report: &Report) -> Vec<String> {
    let mut groups = table::groups(report);
    groups.retain(|group| !markers.contains(&format!("table: {group}").as_str()));
    groups
}

fn other_plots<'a>(markers: &[&str], plots: &'a [Plot]) -> Vec<&'a Plot> {
    let has_marker = |plot: &&Plot| markers.contains(&format!("plot: {}", plot.name).as_str());
    plots.iter().filter(|plot| !has_marker(plot)).collect()
}

fn image(plot: &Plot) -> String {
    format!("![{}]({DIRECTORY}/{}.svg)", plot.title, plot.name)
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
        return "Everything in this list of scenarios was measured.".to_owned();
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
                write!(f, "{} is no report of this suite: {source}", path.display())
            }
            Self::Plots(source) => write!(f, "cannot draw the plots: {source}"),
            Self::Page { line, what } => write!(f, "{PAGE}, line {line}: {what}"),
            Self::Smoke => f.write_str(
                "the figures of a smoke run say nothing: run without --smoke to fill in the page",
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
        let mut report = fixture::report();
        report.figures.retain(|f| table::group(&f.scenario) == "pipelined");
        report.distributions.clear();
        fill_in(page, &report).map_err(|e| e.to_string())
    }

    #[test]
    fn what_stands_between_markers_is_replaced_and_nothing_else() {
        let page = "\
# Title
<!-- table: pipelined -->
old
<!-- end -->
Prose.
<!-- other plots -->
<!-- end -->
";
        let once = filled(page).expect("the page is filled in");
        assert!(once.starts_with("# Title\n<!-- table: pipelined -->\n\n**Server CPU"), "{once}");
        assert!(
            once.contains("\n<!-- end -->\nProse.\n<!-- other plots -->\n\n![Server"),
            "{once}"
        );
        assert!(!once.contains("old"));
        assert_eq!(filled(&once).expect("it is filled in again"), once);
    }

    #[test]
    fn a_page_with_no_place_for_a_table_or_a_plot_is_refused() {
        let error =
            filled("<!-- other plots -->\n<!-- end -->\n").expect_err("a table is left out");
        assert!(error.contains("no place for the tables of `pipelined`"), "{error}");
        let error =
            filled("<!-- other tables -->\n<!-- end -->\n").expect_err("a plot is left out");
        assert!(error.contains("no place for the plot `cpu-per-message`"), "{error}");
    }

    #[test]
    fn groups_without_a_marker_of_their_own_come_with_the_others() {
        let rest = "<!-- other tables -->\n<!-- end -->\n<!-- other plots -->\n<!-- end -->\n";
        assert!(filled(rest).expect("it is filled in").contains("### pipelined\n"));
    }

    #[test]
    fn markers_that_are_not_closed_or_not_known_are_told_with_their_line() {
        let rest = "<!-- other tables -->\n<!-- end -->\n<!-- other plots -->\n<!-- end -->\n";
        for (first, expected) in [
            ("<!-- machine -->\n", "line 2: `machine` of line 1 has no"),
            ("<!-- end -->\n", "line 1: `<!-- end -->` without a beginning"),
            ("<!-- tables -->\n<!-- end -->\n", "line 1: no such marker: `tables`"),
        ] {
            let error = filled(&format!("{first}{rest}")).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        let error = filled(&format!("{rest}<!-- machine -->\n")).expect_err("not closed");
        assert!(error.contains("line 5: `machine` has no `<!-- end -->`"), "{error}");
    }

    #[test]
    fn a_group_that_was_not_measured_says_so() {
        let rest = "<!-- other tables -->\n<!-- end -->\n<!-- other plots -->\n<!-- end -->\n";
        let page = filled(&format!("<!-- table: wake -->\n<!-- end -->\n{rest}"));
        assert!(page.expect("it is filled in").contains("Not measured in this run."));
    }

    #[test]
    fn the_page_of_the_documentation_takes_a_full_report_and_has_no_figures_of_fixtures() {
        let page = include_str!("../../docs/performance.md");
        assert!(!page.to_lowercase().contains("fixture"));
        let filled = fill_in(page, &fixture::report()).expect("the page is filled in");
        for group in table::groups(&fixture::report()) {
            assert!(filled.contains(table::markdown(&fixture::report(), &group).trim()), "{group}");
        }
    }

    #[test]
    fn a_smoke_run_fills_in_no_page() {
        let report = Report { mode: "smoke".to_owned(), ..fixture::report() };
        assert!(matches!(write(&report, Path::new("/nonexistent")), Err(Error::Smoke)));
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let directory = Scratch::new().expect("a directory is made");
        let path = write_results(&fixture::report(), directory.path()).expect("they are written");
        assert_eq!(read_results(&path).expect("they are read"), fixture::report());
    }

    /// A page with all that `write` fills in, in a directory of its own.
    fn page_alone(text: &str) -> Scratch {
        let directory = Scratch::new().expect("a directory is made");
        fs::write(directory.path().join(PAGE), text).expect("the page is written");
        directory
    }

    /// Names and contents of the page and of all that stands beside it.
    fn contents(docs_dir: &Path) -> BTreeMap<String, String> {
        let beside = fs::read_dir(docs_dir.join(DIRECTORY)).expect("the directory is read");
        let beside = beside.map(|entry| entry.expect("an entry is read").path());
        let files = beside.chain([docs_dir.join(PAGE)]);
        let named = files.map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a file is read"))
        });
        named.collect()
    }

    #[test]
    fn a_data_set_gives_the_page_and_the_plots_of_its_run_again() {
        let page = include_str!("../../docs/performance.md");
        let (first, second) = (page_alone(page), page_alone(page));
        write(&fixture::report(), first.path()).expect("the page of a run is written");
        let figures = first.path().join(DIRECTORY).join(FIGURES);
        let report = read_results(&figures).expect("the data set is read");
        write(&report, second.path()).expect("the page of the data set is written");
        assert_eq!(contents(first.path()), contents(second.path()));
    }

    #[test]
    fn the_page_of_the_documentation_and_its_plots_are_those_of_its_data_set() {
        let docs_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let report = read_results(&docs_dir.join(DIRECTORY).join(FIGURES)).expect("it is read");
        let again = page_alone(include_str!("../../docs/performance.md"));
        write(&report, again.path()).expect("the page is written");
        let (kept, again) = (contents(&docs_dir), contents(again.path()));
        assert_eq!(kept.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        for (name, text) in &kept {
            // Not `assert_eq`: it would print both files.
            assert!(
                *text == again[name],
                "{name} is not what the data set gives: \
                 run with `--from docs/performance/{FIGURES} --docs docs`"
            );
        }
    }
}
