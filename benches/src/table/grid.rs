//! The figures of a group as grids: a row for each scenario, a column for each peer.

use super::{
    TIE,
    metric::number,
    names::{self, group, what},
};
use crate::report::{Distribution, Figure, LIMIT, Metric, Report};

/// The reference of the ratios in a table without [`LIMIT`].
const SECOND_CHOICE: &str = "tokio";
/// Two quantiles that differ by less are the same quantile, computed in two ways.
const SAME_QUANTILE: f64 = 1e-9;
/// A quantile with fewer samples beyond it depends on single samples, so it is not shown.
const SAMPLES_BEYOND: f64 = 5.0;

pub struct Grid {
    pub title: String,
    pub direction: &'static str,
    /// The peer to which the ratios are taken.
    pub reference: Option<String>,
    pub peers: Vec<String>,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub what: String,
    /// One cell for each peer.
    pub cells: Vec<Option<Cell>>,
}

pub struct Cell {
    pub median: String,
    /// The lowest and the highest round; `None` if there was only one round.
    pub spread: Option<(String, String)>,
    /// The ratios of the rounds differ by more than a tenth. Without a ratio, the figures of the
    /// rounds do.
    pub is_noisy: bool,
    pub ratio: Option<f64>,
    pub is_best: bool,
}

/// Returns one grid for each metric, then one for the tails of the distributions.
pub fn grids(report: &Report, of_group: &str) -> Vec<Grid> {
    let figures: Vec<&Figure> = (report.figures.iter())
        .filter(|f| group(&f.scenario) == of_group && f.median().is_finite())
        .collect();
    let mut metrics: Vec<Metric> = figures.iter().map(|f| f.metric).collect();
    metrics.sort_unstable();
    metrics.dedup();
    let mut grids: Vec<Grid> = (metrics.into_iter())
        .map(|metric| {
            let title = metric.title().to_owned();
            let of_metric: Vec<&Figure> =
                figures.iter().copied().filter(|f| f.metric == metric).collect();
            grid(title, metric, &of_metric)
        })
        .collect();
    let tails: Vec<Figure> = (report.distributions.iter())
        .filter(|d| group(&d.scenario) == of_group)
        .filter_map(tail)
        .collect();
    if !tails.is_empty() {
        let title = "latency, 99.9th percentile of all rounds together, µs".to_owned();
        grids.push(grid(title, Metric::LatencyP99, &tails.iter().collect::<Vec<_>>()));
    }
    grids
}

fn grid(title: String, metric: Metric, figures: &[&Figure]) -> Grid {
    let peers = names::peers_in_order(figures.iter().map(|f| f.peer.as_str()));
    let reference = [LIMIT, SECOND_CHOICE].into_iter().find(|r| peers.iter().any(|p| p == r));
    // In a table with one peer, every ratio would be 1.
    let reference = reference.filter(|_| peers.len() > 1).map(str::to_owned);
    let rows = names::in_order(figures.iter().map(|f| f.scenario.as_str())).into_iter();
    let rows: Vec<Row> = rows
        .map(|scenario| {
            let of_peers: Vec<Option<&Figure>> = (peers.iter())
                .map(|peer| {
                    figures.iter().copied().find(|f| f.scenario == scenario && &f.peer == peer)
                })
                .collect();
            Row {
                what: what(&scenario).to_owned(),
                cells: cells(metric, &of_peers, reference.as_deref()),
            }
        })
        .collect();
    Grid { title, direction: metric.direction(), reference, rows, peers }
}

fn cells(
    metric: Metric,
    figures: &[Option<&Figure>],
    reference: Option<&str>,
) -> Vec<Option<Cell>> {
    let present: Vec<&Figure> = figures.iter().copied().flatten().collect();
    let against = present.iter().copied().find(|f| Some(f.peer.as_str()) == reference);
    let best = best(metric, &present);
    (figures.iter())
        .map(|figure| {
            let figure = (*figure)?;
            let (low, high) = (metric.shown(figure.min()), metric.shown(figure.max()));
            let is_alone = figure.samples.len() < 2;
            let against = against.filter(|reference| reference.peer != figure.peer);
            let ratios = against.and_then(|reference| ratio_by_rounds(figure, reference));
            Some(Cell {
                median: number(metric.shown(figure.median())),
                spread: (!is_alone).then(|| (number(low), number(high))),
                is_noisy: is_spread(ratios.as_ref().unwrap_or(figure)),
                ratio: ratios.map(|ratios| ratios.median()),
                is_best: present.len() > 1 && best.is_some_and(|best| is_tie(metric, figure, best)),
            })
        })
        .collect()
}

/// Returns the figure with the best median.
pub fn best<'a>(metric: Metric, figures: &[&'a Figure]) -> Option<&'a Figure> {
    let by_median = |a: &&&Figure, b: &&&Figure| a.median().total_cmp(&b.median());
    let figures = figures.iter();
    let best = match metric.lower_is_better() {
        true => figures.min_by(by_median),
        false => figures.max_by(by_median),
    };
    best.copied()
}

/// Returns the ratio to another peer, round by round; `None` if it is not finite (against zero).
pub fn ratio(figure: &Figure, reference: &Figure) -> Option<f64> {
    figure.ratio_to(reference).filter(|ratio| ratio.is_finite())
}

/// Returns a figure whose samples are the ratios of the rounds.
pub fn ratio_by_rounds(figure: &Figure, reference: &Figure) -> Option<Figure> {
    ratio(figure, reference)?;
    let rounds = figure.samples.iter().zip(&reference.samples);
    Some(Figure { samples: rounds.map(|(a, b)| a / b).collect(), ..figure.clone() })
}

fn is_spread(figure: &Figure) -> bool {
    figure.max() - figure.min() > figure.median().abs() * 0.1
}

/// Returns by what factor `figure` is worse than `other`: above 1 if it is worse, and infinite if
/// `other` is zero and `figure` is not.
pub fn times_worse(metric: Metric, figure: &Figure, other: &Figure) -> f64 {
    let (worse, better) = if metric.lower_is_better() { (figure, other) } else { (other, figure) };
    ratio(worse, better)
        .unwrap_or_else(|| if worse.median() > better.median() { f64::INFINITY } else { 1.0 })
}

/// Returns whether `figure` is as good as `best`: the same when printed, or within [`TIE`].
pub fn is_tie(metric: Metric, figure: &Figure, best: &Figure) -> bool {
    let looks_the_same = number(figure.median()) == number(best.median());
    looks_the_same || times_worse(metric, figure, best) <= TIE
}

/// Returns the 99.9th percentile as a figure with one sample, so that a grid can show it.
fn tail(distribution: &Distribution) -> Option<Figure> {
    let value = quantile(distribution, 0.999)?;
    Some(Figure {
        scenario: distribution.scenario.clone(),
        peer: distribution.peer.clone(),
        metric: Metric::LatencyP99,
        samples: vec![value],
    })
}

/// Returns the value below which a share `q` of all samples lies; `None` if there are too few
/// samples.
pub fn quantile(distribution: &Distribution, q: f64) -> Option<f64> {
    let (at, value) = *distribution.quantiles.iter().find(|(at, _)| *at >= q - SAME_QUANTILE)?;
    // The next quantile in the report may be the maximum, which is not an estimate of `q`.
    let is_near = 1.0 - at >= (1.0 - q) / 2.0;
    (is_near && is_supported(distribution, q)).then_some(value)
}

/// Returns whether enough samples lie beyond the quantile `q`.
pub fn is_supported(distribution: &Distribution, q: f64) -> bool {
    let beyond = distribution.count as f64 * (1.0 - q);
    beyond >= SAMPLES_BEYOND - SAME_QUANTILE
}
