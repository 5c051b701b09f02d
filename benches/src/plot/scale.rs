//! Axes: the position of each value, and the ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::table::number;

/// The position of zero on a logarithmic axis, at its left edge.
const ZERO_AT: f64 = 250.0;

#[derive(Clone)]
pub struct Scale {
    kind: Kind,
    range: Range<f64>,
    /// The values of the ticks and their labels.
    ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Log,
    /// Logarithmic, with zero at [`ZERO_AT`].
    LogWithZero,
    /// For quantiles: logarithmic in the share above the quantile.
    Nines,
}

impl Scale {
    /// Returns a logarithmic scale around the values. The scale has ticks at 1, 2 and 5. A long
    /// range has ticks only at powers of ten. `None` if no value is above zero.
    pub fn log(values: impl Iterator<Item = f64>) -> Option<Self> {
        let positive = values.filter(|v| v.is_finite() && *v > 0.0);
        let (low, high) =
            positive.fold((f64::INFINITY, 0f64), |(low, high), v| (low.min(v), high.max(v)));
        if high <= 0.0 {
            return None;
        }
        let (low, high) = (low / 1.3, high * 1.3);
        let steps: &[f64] = if high / low > 300.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let (first, last) = (low.log10().floor(), high.log10().ceil());
        let mut ticks = Vec::new();
        let mut decade = first;
        while decade <= last {
            ticks.extend(steps.iter().map(|step| step * 10f64.powf(decade)));
            decade += 1.0;
        }
        // The range begins and ends with a tick.
        let start = ticks.iter().copied().filter(|t| *t <= low).fold(low / 10.0, f64::max);
        let end = ticks.iter().copied().filter(|t| *t >= high).fold(f64::INFINITY, f64::min);
        let end = if end.is_finite() { end } else { high };
        ticks.retain(|t| *t >= start && *t <= end);
        let ticks = ticks.into_iter().map(|t| (t, tick(t))).collect();
        Some(Self { kind: Kind::Log, range: start..end, ticks })
    }

    /// Returns a scale for numbers of connections that can be zero.
    pub fn log_with_zero(values: &[f64]) -> Self {
        let high = values.iter().copied().fold(0.0, f64::max).max(ZERO_AT * 2.0);
        let ticks = values.iter().map(|v| (*v, tick(*v))).collect();
        Self { kind: Kind::LogWithZero, range: 0.0..high, ticks }
    }

    /// Returns a scale from the median to the 99.9th percentile.
    pub fn nines() -> Self {
        let ticks = [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
        let ticks = ticks.map(|(at, name)| (at, name.to_owned())).to_vec();
        Self { kind: Kind::Nines, range: 0.5..0.999, ticks }
    }

    fn position(&self, value: f64) -> f64 {
        match self.kind {
            Kind::Log => value.max(f64::MIN_POSITIVE).ln(),
            Kind::LogWithZero => value.max(ZERO_AT).ln(),
            Kind::Nines => -(1.0 - value).max(f64::EPSILON).ln(),
        }
    }
}

/// Formats a tick without trailing zeros: ticks are round numbers.
fn tick(value: f64) -> String {
    let text = number(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, pixels: (i32, i32)) -> i32 {
        let (low, high) = (self.position(self.range.start), self.position(self.range.end));
        let share = (self.position(*value) - low) / (high - low);
        let length = f64::from(pixels.1 - pixels.0);
        pixels.0 + (share * length).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // The plots have no light lines between ticks.
        if hint.weight().allow_light_points() && hint.max_num_points() == 0 {
            return Vec::new();
        }
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(at, _)| at == value);
        tick.map_or_else(|| number(*value), |(_, name)| name.clone())
    }
}
