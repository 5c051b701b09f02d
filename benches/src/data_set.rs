//! The data set of the documentation, `docs/performance/figures.json`: the figures from which its
//! tables and plots are made, in a form that git can keep and `diff` can show.
//!
//! The file is JSON with one row in each line. A distribution keeps only the points that a plot
//! draws. Distributions share their quantiles: each row has the index of a grid. Numbers are not
//! rounded: a table that rounded them a second time would sometimes show another last digit.
//!
//! `docs::write` works from the text that [`write`] returns, not from the run. Therefore [`read`]
//! returns exactly the figures of the pages and the plots.

use std::{error, fmt, io};

use serde::{
    Deserialize, Serialize,
    de::{Error, IgnoredAny},
};
use serde_json::{Serializer, ser::Formatter};

use crate::{
    plot,
    report::{Distribution, Figure, Machine, Metric, OtherMachine, Report, Shares},
};

/// The fields of the object and the rows in each field begin a line. Deeper values do not.
const DEPTH_OF_ROWS: usize = 2;

#[derive(Serialize, Deserialize)]
struct DataSet {
    machine: Machine,
    mode: String,
    seconds: f64,
    not_measured: Vec<String>,
    failures: usize,
    /// Scenario, peer, metric, a sample for each round.
    figures: Vec<(String, String, Metric, Vec<f64>)>,
    /// Quantiles from 0 to 1.
    grids: Vec<Vec<f64>>,
    /// Scenario, peer, count, index of the grid, µs at the first quantiles of that grid.
    distributions: Vec<(String, String, u64, usize, Vec<f64>)>,
    /// Scenario, peer, the server's share of its core, the load's share of its core.
    shares: Vec<(String, String, f64, Option<f64>)>,
}

/// The fields that show which kind of file a text is.
#[derive(Deserialize)]
struct Kind {
    machine: Machine,
    /// Only a data set has this field. The `results.json` of a run does not.
    grids: Option<IgnoredAny>,
    /// Earlier versions of the suite wrote figures of a second machine into a file.
    hostile_machine: Option<Machine>,
}

/// The error of [`read`].
#[derive(Debug)]
pub enum ReadError {
    Json(serde_json::Error),
    /// The file has figures of two machines.
    TwoMachines(OtherMachine),
}

impl From<serde_json::Error> for ReadError {
    fn from(error: serde_json::Error) -> ReadError {
        ReadError::Json(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::TwoMachines(error) => error.fmt(f),
        }
    }
}

impl error::Error for ReadError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::TwoMachines(error) => Some(error),
        }
    }
}

/// Returns the data set of a report as text.
pub fn write(report: &Report) -> serde_json::Result<String> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Rows { depth: 0 });
    DataSet::of(report).serialize(&mut serializer)?;
    text.push(b'\n');
    String::from_utf8(text).map_err(Error::custom)
}

/// Reads a report from a data set, or from the `results.json` of a run. Fails if it has figures of
/// two machines.
pub fn read(text: &str) -> Result<Report, ReadError> {
    let kind = serde_json::from_str::<Kind>(text)?;
    if let Some(other) = kind.hostile_machine {
        kind.machine.same_as(&other).map_err(ReadError::TwoMachines)?;
    }
    Ok(match kind.grids {
        Some(_) => serde_json::from_str::<DataSet>(text)?.report()?,
        None => serde_json::from_str(text)?,
    })
}

impl DataSet {
    fn of(report: &Report) -> DataSet {
        let mut grids = Vec::new();
        let distributions = report.distributions.iter().map(|of| {
            let (quantiles, values): (Vec<f64>, Vec<f64>) = plot::curve(of).into_iter().unzip();
            let grid = index_of(&mut grids, quantiles);
            (of.scenario.clone(), of.peer.clone(), of.count, grid, values)
        });
        let distributions = distributions.collect();
        let figures = report
            .figures
            .iter()
            .map(|of| (of.scenario.clone(), of.peer.clone(), of.metric, of.samples.clone()));
        let shares = report
            .shares
            .iter()
            .map(|of| (of.scenario.clone(), of.peer.clone(), of.server, of.load));
        DataSet {
            machine: report.machine.clone(),
            mode: report.mode.clone(),
            seconds: report.seconds,
            not_measured: report.not_measured.clone(),
            failures: report.failures,
            figures: figures.collect(),
            grids,
            distributions,
            shares: shares.collect(),
        }
    }

    /// Fails if a distribution names a grid that does not exist, or has more values than the grid.
    fn report(self) -> serde_json::Result<Report> {
        let grids = self.grids;
        let distributions = self.distributions.into_iter().map(|row| {
            let (scenario, peer, count, grid, values) = row;
            let grid = grids.get(grid).filter(|grid| grid.len() >= values.len());
            let grid = grid.ok_or_else(|| {
                Error::custom(format!("the grid of {scenario}, {peer}, has too few quantiles"))
            })?;
            let quantiles = grid.iter().copied().zip(values).collect();
            Ok(Distribution { scenario, peer, count, quantiles })
        });
        let distributions = distributions.collect::<serde_json::Result<_>>()?;
        let figures = self.figures.into_iter().map(|(scenario, peer, metric, samples)| Figure {
            scenario,
            peer,
            metric,
            samples,
        });
        let shares = self.shares.into_iter().map(|(scenario, peer, server, load)| Shares {
            scenario,
            peer,
            server,
            load,
        });
        Ok(Report {
            machine: self.machine,
            mode: self.mode,
            seconds: self.seconds,
            figures: figures.collect(),
            distributions,
            not_measured: self.not_measured,
            failures: self.failures,
            shares: shares.collect(),
        })
    }
}

/// Returns the index of the grid that begins with these quantiles. If these quantiles continue a
/// grid, the grid is extended.
fn index_of(grids: &mut Vec<Vec<f64>>, quantiles: Vec<f64>) -> usize {
    let known =
        grids.iter().position(|grid| grid.starts_with(&quantiles) || quantiles.starts_with(grid));
    let Some(index) = known else {
        grids.push(quantiles);
        return grids.len() - 1;
    };
    if quantiles.len() > grids[index].len() {
        grids[index] = quantiles;
    }
    index
}

/// Writes JSON without spaces, with a line for each field and for each row.
struct Rows {
    /// How many objects and arrays are open.
    depth: usize,
}

impl Rows {
    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        if self.depth <= DEPTH_OF_ROWS {
            writer.write_all(b"\n")?;
        }
        self.depth -= 1;
        writer.write_all(bracket)
    }

    fn begin<W: ?Sized + io::Write>(&self, writer: &mut W, is_first: bool) -> io::Result<()> {
        if !is_first {
            writer.write_all(b",")?;
        }
        if self.depth <= DEPTH_OF_ROWS {
            writer.write_all(b"\n")?;
        }
        Ok(())
    }
}

impl Formatter for Rows {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.begin(writer, is_first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.begin(writer, is_first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, table};

    /// Returns a report with all that a run can have: the fixture has no shares and one grid.
    fn report() -> Report {
        let mut report = fixture::report();
        let shares = |peer: &str, load| Shares {
            scenario: "echo/1 × 64 B".to_owned(),
            peer: peer.to_owned(),
            server: 0.75,
            load,
        };
        report.shares = vec![shares("tokio", Some(0.5)), shares("mio", None)];
        let few = Distribution {
            scenario: "wake/idle loop".to_owned(),
            peer: "mio's waker alone".to_owned(),
            count: 100,
            quantiles: (0..10).map(|i| (f64::from(i) / 10.0, f64::from(i))).collect(),
        };
        report.distributions.push(few);
        report
    }

    #[test]
    fn a_data_set_has_the_whole_run_except_the_points_that_no_plot_draws() {
        let text = write(&report()).expect("it is written");
        let read = read(&text).expect("it is read");
        let mut drawn = report();
        for distribution in &mut drawn.distributions {
            let points = distribution.quantiles.len();
            distribution.quantiles = plot::curve(distribution);
            assert!(distribution.quantiles.len() < points, "{distribution:?}");
        }
        assert_eq!(read, drawn);
        assert_eq!(write(&read).expect("it is written again"), text);
    }

    #[test]
    fn the_results_json_of_a_run_is_read_too() {
        let text = serde_json::to_string_pretty(&report()).expect("it is written");
        assert_eq!(read(&text).expect("it is read"), report());
    }

    #[test]
    fn a_data_set_gives_the_same_tables_as_its_run() {
        let run = report();
        let read = read(&write(&run).expect("it is written")).expect("it is read");
        assert_eq!(table::summary(&read), table::summary(&run));
        for group in table::groups(&run) {
            assert_eq!(table::markdown(&read, &group), table::markdown(&run, &group));
        }
    }

    #[test]
    fn every_row_is_a_line() {
        let report = report();
        let text = write(&report).expect("it is written");
        let [first, .., last] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert_eq!((first, last), ("{", "}"));
        let rows = text.lines().filter(|line| line.starts_with("[\"")).count();
        let expected = report.figures.len() + report.distributions.len() + report.shares.len();
        assert_eq!(rows, expected);
        assert!(text.contains("\n[\"echo/1 × 64 B\",\"mio\",0.75,null]\n"), "{text}");
    }

    #[test]
    fn a_distribution_with_fewer_points_shares_the_grid_of_one_with_more() {
        let mut grids = Vec::new();
        assert_eq!(index_of(&mut grids, vec![0.5]), 0);
        assert_eq!(index_of(&mut grids, vec![0.6, 0.7]), 1);
        assert_eq!(index_of(&mut grids, vec![0.5, 0.9, 0.99]), 0);
        assert_eq!(index_of(&mut grids, vec![0.5, 0.9]), 0);
        assert_eq!(grids, [vec![0.5, 0.9, 0.99], vec![0.6, 0.7]]);
    }

    #[test]
    fn a_row_without_its_grid_is_an_error() {
        let text = write(&report()).expect("it is written");
        let (before, rest) = text.split_once("\"grids\":[").expect("a grid");
        let (_, after) = rest.split_once("\n],").expect("the end of the grids");
        let error = read(&format!("{before}\"grids\":[\n],{after}")).expect_err("no grid");
        assert!(error.to_string().contains("has too few quantiles"), "{error}");
    }

    #[test]
    fn a_file_with_figures_of_two_machines_is_refused_and_the_error_says_what_differs() {
        let text = write(&report()).expect("it is written");
        let other = r#"{"processor":"another","cores":2,"kernel":"","rustc":"","peers":{}}"#;
        let mixed = text.replacen('{', &format!("{{\n\"hostile_machine\":{other},"), 1);
        let error = read(&mixed).expect_err("it has two machines");
        let ReadError::TwoMachines(other) = &error else { panic!("{error}") };
        assert_eq!(other.differences[0].property, "processor");
        assert_eq!(other.differences[0].theirs, "another");
    }
}
