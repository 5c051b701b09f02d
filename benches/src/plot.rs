//! Draws a report as SVG files. Text stays text, and each file has its own background.

use std::{
    error, fs,
    path::{Path, PathBuf},
};

use plotters::{
    coord::Shift,
    prelude::{DrawingArea, IntoDrawingArea, SVGBackend, Text},
    style::text_anchor::{HPos, VPos},
};

use crate::{
    report::{Distribution, Figure, LIMIT, Metric, Report},
    table::{self, group, what},
};

mod bars;
mod lines;
mod scale;
mod style;

pub type Error = Box<dyn error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The width of every plot, pixels.
const WIDTH: i32 = 960;
/// The height of title and subtitle, pixels.
const HEAD: i32 = 58;
const MARGIN: i32 = 10;
const LINE_PANEL_HEIGHT: i32 = 270;

/// A plot for which the report has figures.
pub struct Plot {
    /// The name of the file without its ending.
    pub name: String,
    /// The title, which is also the alternative text of the image.
    pub title: String,
    /// The groups of scenarios that the plot shows.
    groups: Vec<String>,
    subtitle: String,
    panels: Panels,
}

enum Panels {
    Bars(Vec<bars::Panel>),
    Lines { panels: Vec<lines::Panel>, columns: i32, height: i32 },
}

/// Draws every plot for which the report has figures, and returns the files.
pub fn write_all(report: &Report, dir: &Path) -> Result<Vec<PathBuf>, Error> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    let mut files = Vec::new();
    for plot in plots(report) {
        let path = dir.join(format!("{}.svg", plot.name));
        fs::write(&path, svg(&plot, &report.machine.processor)?)
            .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        files.push(path);
    }
    Ok(files)
}

impl Plot {
    /// Returns the group beside whose tables the plot stands: the first of its groups that the
    /// report has.
    pub fn place<'a>(&self, of_report: &'a [String]) -> Option<&'a String> {
        self.groups.iter().find_map(|group| of_report.iter().find(|other| *other == group))
    }
}

/// Returns the plots for which the report has figures.
pub fn plots(report: &Report) -> Vec<Plot> {
    let mut plots: Vec<Plot> =
        [cpu_per_message(report), beside_idle(report), bulk(report), quiet(report)]
            .into_iter()
            .flatten()
            .collect();
    let scenarios = report.distributions.iter().map(|d| group(&d.scenario));
    plots.extend(table::in_order(scenarios).iter().filter_map(|group| latency(report, group)));
    plots
}

/// Server CPU for a message, as a ratio to the limit.
fn cpu_per_message(report: &Report) -> Option<Plot> {
    let groups = ["echo", "pipelined"];
    let scenarios = scenarios(report, &groups, Metric::CpuPerMessage);
    let panels = scenarios.iter().filter_map(|scenario| {
        let limit = report.figure(scenario, LIMIT, Metric::CpuPerMessage)?;
        let bars = of_scenario(report, scenario, Metric::CpuPerMessage)
            .filter_map(|figure| ratio_bar(figure, limit));
        let axis = format!("CPU, {LIMIT} = 1 ({} µs)", table::number(limit.median()));
        bar_panel(scenario.clone(), axis, bars, Some(1.0))
    });
    some(Plot {
        name: "cpu-per-message".to_owned(),
        title: "Server CPU for one message".to_owned(),
        groups: groups.map(str::to_owned).to_vec(),
        subtitle: format!(
            "User and system time, against {LIMIT} in the same round. Median of the rounds; the \
             thin line is lowest to highest. Lower is better."
        ),
        panels: Panels::Bars(panels.collect()),
    })
}

fn bulk(report: &Report) -> Option<Plot> {
    let throughput = scenarios(report, &["upload", "download"], Metric::Throughput);
    let accept = scenarios(report, &["accept"], Metric::CpuPerConnection);
    let throughput = throughput.iter().filter_map(|scenario| {
        let bars = of_scenario(report, scenario, Metric::Throughput).filter_map(bar);
        bar_panel(scenario.clone(), "GB/s: higher is better".to_owned(), bars, None)
    });
    let accept = accept.iter().filter_map(|scenario| {
        let bars = of_scenario(report, scenario, Metric::CpuPerConnection).filter_map(bar);
        bar_panel(scenario.clone(), "µs of server CPU: lower is better".to_owned(), bars, None)
    });
    some(Plot {
        name: "bulk-and-accept".to_owned(),
        title: "Bulk transfers and short connections".to_owned(),
        groups: ["upload", "download", "accept"].map(str::to_owned).to_vec(),
        subtitle: "Median of the rounds; the thin line is lowest to highest.".to_owned(),
        panels: Panels::Bars(throughput.chain(accept).collect()),
    })
}

/// CPU, wake-ups and memory of idle connections.
fn quiet(report: &Report) -> Option<Plot> {
    let mut panels = Vec::new();
    for (metric, axis) in [
        (Metric::CpuPerSecond, "ms of CPU per second"),
        (Metric::WakeUps, "wake-ups per second"),
        (Metric::BytesPerConnection, "bytes for a connection, logarithmic"),
    ] {
        for scenario in scenarios(report, &["idle"], metric) {
            let bars = of_scenario(report, &scenario, metric).filter_map(bar);
            let title = format!("{} idle connections", with_commas(what(&scenario)));
            panels.extend(bar_panel(title, axis.to_owned(), bars, None).map(|mut panel| {
                panel.is_log = metric == Metric::BytesPerConnection;
                panel
            }));
        }
    }
    some(Plot {
        name: "quiet".to_owned(),
        title: "Idle connections".to_owned(),
        groups: vec!["idle".to_owned()],
        subtitle: "CPU, wake-ups and memory of the server. Median of the rounds. Lower is better."
            .to_owned(),
        panels: Panels::Bars(panels),
    })
}

/// CPU for a message against the number of idle connections beside it.
fn beside_idle(report: &Report) -> Option<Plot> {
    let scenarios = scenarios(report, &["beside idle"], Metric::CpuPerMessage);
    let figures = || {
        (report.figures.iter())
            .filter(|f| f.metric == Metric::CpuPerMessage && scenarios.contains(&f.scenario))
    };
    let mut numbers: Vec<f64> = scenarios.iter().filter_map(|s| idle_connections(s)).collect();
    numbers.sort_by(f64::total_cmp);
    let lines = table::peers_in_order(figures().map(|f| f.peer.as_str())).into_iter().map(|peer| {
        let mut points: Vec<(f64, f64)> = figures()
            .filter(|f| f.peer == peer)
            .filter_map(|f| Some((idle_connections(&f.scenario)?, f.median())))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        lines::Line { peer, points }
    });
    let panel = lines::Panel {
        title: String::new(),
        x_title: "idle connections (logarithmic; none at the left edge)",
        y_title: "µs of server CPU for one message (logarithmic)",
        x: scale::Scale::log_with_zero(&numbers),
        lines: lines.collect(),
        has_dots: true,
    };
    some(Plot {
        name: "beside-idle".to_owned(),
        title: "Active connections beside idle ones".to_owned(),
        groups: vec!["beside idle".to_owned()],
        subtitle: "Server CPU for one message of 16 active connections, beside idle connections. \
                   Median of the rounds. Lower is better."
            .to_owned(),
        panels: Panels::Lines { panels: vec![panel], columns: 1, height: 420 },
    })
}

/// The distributions of a group, with a panel for each scenario.
fn latency(report: &Report, of: &str) -> Option<Plot> {
    let distributions = || report.distributions.iter().filter(move |d| group(&d.scenario) == of);
    let scenarios = table::in_order(distributions().map(|d| d.scenario.as_str()));
    let panels = scenarios.iter().map(|scenario| {
        let of_scenario = || distributions().filter(move |d| d.scenario == *scenario);
        let peers = table::peers_in_order(of_scenario().map(|d| d.peer.as_str())).into_iter();
        let lines = peers.filter_map(|peer| {
            let distribution = of_scenario().find(|d| d.peer == peer)?;
            let points = curve(distribution);
            (points.len() > 1).then_some(lines::Line { peer, points })
        });
        lines::Panel {
            title: what(scenario).to_owned(),
            x_title: "share of all samples that are not slower",
            y_title: "µs (logarithmic)",
            x: scale::Scale::nines(),
            lines: lines.collect(),
            has_dots: false,
        }
    });
    let panels: Vec<lines::Panel> = panels.filter(|panel| !panel.lines.is_empty()).collect();
    let columns = if panels.len() == 1 { 1 } else { 2 };
    some(Plot {
        name: format!("latency-{}", slug(of)),
        title: format!("Latency: {of}"),
        groups: vec![of.to_owned()],
        subtitle: "All rounds together. A line ends where too few samples lie beyond it. Lower is \
                   better."
            .to_owned(),
        panels: Panels::Lines { panels, columns, height: LINE_PANEL_HEIGHT },
    })
}

/// Returns the points from the median to the 99.9th percentile, as far as the samples support them.
pub fn curve(distribution: &Distribution) -> Vec<(f64, f64)> {
    let quantiles = distribution.quantiles.iter().copied();
    quantiles
        .filter(|(q, _)| {
            (0.499_999..=0.999_001).contains(q) && table::is_supported(distribution, *q)
        })
        .collect()
}

/// Returns `None` for a plot without any content.
fn some(mut plot: Plot) -> Option<Plot> {
    let is_empty = match &mut plot.panels {
        Panels::Bars(panels) => panels.is_empty(),
        Panels::Lines { panels, .. } => {
            panels.retain(|panel| panel.lines.iter().any(|line| !line.points.is_empty()));
            panels.is_empty()
        }
    };
    (!is_empty).then_some(plot)
}

fn scenarios(report: &Report, groups: &[&str], metric: Metric) -> Vec<String> {
    let of_metric = report.figures.iter().filter(|f| f.metric == metric);
    let scenarios = of_metric.map(|f| f.scenario.as_str());
    table::in_order(scenarios.filter(|scenario| groups.contains(&group(scenario))))
}

/// Returns the figures of a scenario in the order in which peers are shown.
fn of_scenario<'a>(
    report: &'a Report,
    scenario: &'a str,
    metric: Metric,
) -> impl Iterator<Item = &'a Figure> {
    let figures = report.figures.iter().filter(|f| f.scenario == scenario && f.metric == metric);
    let peers = table::peers_in_order(figures.map(|f| f.peer.as_str()));
    peers.into_iter().filter_map(move |peer| report.figure(scenario, &peer, metric))
}

fn bar(figure: &Figure) -> Option<bars::Bar> {
    let shown = |value| figure.metric.shown(value);
    figure.median().is_finite().then(|| bars::Bar {
        peer: figure.peer.clone(),
        value: shown(figure.median()),
        spread: (shown(figure.min()), shown(figure.max())),
    })
}

fn ratio_bar(figure: &Figure, limit: &Figure) -> Option<bars::Bar> {
    let ratios = table::ratio_by_rounds(figure, limit)?;
    let spread = (ratios.min(), ratios.max());
    Some(bars::Bar { peer: figure.peer.clone(), value: ratios.median(), spread })
}

fn bar_panel(
    title: String,
    axis: String,
    bars: impl Iterator<Item = bars::Bar>,
    mark: Option<f64>,
) -> Option<bars::Panel> {
    let bars: Vec<bars::Bar> = bars.collect();
    (!bars.is_empty()).then_some(bars::Panel { title, axis, bars, mark, is_log: false })
}

fn idle_connections(scenario: &str) -> Option<f64> {
    table::numbers(what(scenario)).last().map(|number| *number as f64)
}

/// Formats a plain number with separated thousands, which is easier to read in a title.
fn with_commas(what: &str) -> String {
    what.parse::<f64>().map_or_else(|_| what.to_owned(), table::number)
}

fn slug(text: &str) -> String {
    let plain = text.replace(|c: char| !c.is_ascii_alphanumeric(), " ");
    plain.split_whitespace().collect::<Vec<_>>().join("-").to_lowercase()
}

/// Draws a plot, with the machine of the figures in its upper right corner.
fn svg(plot: &Plot, machine: &str) -> Result<String, Error> {
    let cells = layout(plot);
    let bottom = cells.iter().map(|cell| cell.top + cell.height).max().unwrap_or(0);
    let mut text = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(bottom + MARGIN)?);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&style::PAPER)?;
        let title = style::text(style::TITLE, &style::INK, HPos::Left, VPos::Top);
        area.draw(&Text::new(plot.title.clone(), (MARGIN * 2, 12), title))?;
        let subtitle = style::text(style::SUBTITLE, &style::FAINT_INK, HPos::Left, VPos::Top);
        area.draw(&Text::new(plot.subtitle.clone(), (MARGIN * 2, 36), subtitle))?;
        let corner = style::text(style::SUBTITLE, &style::FAINT_INK, HPos::Right, VPos::Top);
        area.draw(&Text::new(machine.to_owned(), (WIDTH - MARGIN * 2, 14), corner))?;
        let cells = cells.iter().map(|cell| {
            let Cell { left, top, width, height } = *cell;
            area.clone().shrink((left, top), (width, height))
        });
        match &plot.panels {
            Panels::Bars(panels) => {
                panels.iter().zip(cells).try_for_each(|(panel, cell)| bars::draw(&cell, panel))?;
            }
            Panels::Lines { panels, .. } => {
                panels.iter().zip(cells).try_for_each(|(panel, cell)| lines::draw(&cell, panel))?;
            }
        }
        area.present()?;
    }
    Ok(text)
}

#[derive(Clone, Copy)]
struct Cell {
    left: i32,
    top: i32,
    width: i32,
    height: i32,
}

/// Places the panels row by row. A row is as high as its highest panel.
fn layout(plot: &Plot) -> Vec<Cell> {
    let (columns, heights): (i32, Vec<i32>) = match &plot.panels {
        Panels::Bars(panels) => {
            (3, panels.iter().map(|panel| bars::height(panel.bars.len())).collect())
        }
        Panels::Lines { panels, columns, height } => (*columns, vec![*height; panels.len()]),
    };
    let width = (WIDTH - 2 * MARGIN) / columns;
    let mut cells = Vec::new();
    let mut top = HEAD;
    for row in heights.chunks(usize::try_from(columns).unwrap_or(1)) {
        let height = row.iter().copied().max().unwrap_or(0);
        let mut left = MARGIN;
        for _ in row {
            cells.push(Cell { left, top, width, height });
            left += width;
        }
        top += height;
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn every_peer_with_cpu_and_every_distribution_is_named_in_a_plot_as_text() {
        let report = fixture::report();
        let drawn: Vec<String> = plots(&report)
            .iter()
            .map(|plot| svg(plot, "a machine").expect("a plot is drawn"))
            .collect();
        let drawn = drawn.concat();
        let cpu = report.figures.iter().filter(|f| f.metric == Metric::CpuPerMessage);
        let names = cpu.map(|f| f.peer.as_str());
        for name in names.chain(report.distributions.iter().map(|d| what(&d.scenario))) {
            assert!(drawn.contains(name), "{name} is in no plot");
        }
        assert_eq!(drawn.matches("a machine").count(), plots(&report).len());
    }

    #[test]
    fn an_empty_report_draws_nothing() {
        let mut report = fixture::report();
        report.figures.clear();
        report.distributions.clear();
        assert!(plots(&report).is_empty());
    }

    #[test]
    fn names_of_files_are_plain() {
        assert_eq!(slug("interrupt → join"), "interrupt-join");
        assert_eq!(slug("queued → on the wire"), "queued-on-the-wire");
    }
}
