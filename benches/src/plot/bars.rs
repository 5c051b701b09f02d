//! Panels with a bar for each peer: its name on the left, its figure on the right.

use plotters::{
    prelude::{Circle, Color, PathElement, Rectangle, Text},
    style::text_anchor::{HPos, VPos},
};

use super::{
    Area, Error,
    style::{self, AXIS, FAINT_INK, GRID, INK, LABEL, PANEL_TITLE},
};
use crate::{report::SOCKMAN, table::number};

pub struct Panel {
    pub title: String,
    pub axis: String,
    pub bars: Vec<Bar>,
    /// A line through all bars at the value of the reference.
    pub mark: Option<f64>,
    pub is_log: bool,
}

pub struct Bar {
    pub peer: String,
    pub value: f64,
    /// The lowest and the highest round.
    pub spread: (f64, f64),
}

const ROW: i32 = 19;
const BAR: i32 = 12;
const ABOVE: i32 = 28;
const BELOW: i32 = 26;
/// Space for the figure behind the longest bar.
const RIGHT: i32 = 62;

pub fn height(bars: usize) -> i32 {
    ABOVE + BELOW + ROW * i32::try_from(bars).unwrap_or(i32::MAX / ROW / 2)
}

pub fn draw(area: &Area<'_>, panel: &Panel) -> Result<(), Error> {
    let width = i32::try_from(area.dim_in_pixel().0)?;
    let names = panel.bars.iter().map(|bar| style::width(&bar.peer, LABEL)).max().unwrap_or(0);
    let left = names + 20;
    let full = f64::from(width - left - RIGHT);
    let highest = panel.bars.iter().map(|bar| bar.spread.1.max(bar.value)).fold(0.0, f64::max);
    // A logarithmic panel has dots on a line that begins at a power of ten, because the length of a
    // bar would mean nothing.
    let lowest = panel.bars.iter().map(|bar| bar.value).fold(f64::INFINITY, f64::min);
    let origin =
        if panel.is_log && lowest > 0.0 { 10f64.powf(lowest.log10().floor()) } else { 1.0 };
    let x = |value: f64| {
        let share = match panel.is_log {
            true => (value.max(origin) / origin).ln() / (highest.max(origin * 10.0) / origin).ln(),
            false if highest > 0.0 => value / highest,
            false => 0.0,
        };
        left + (share.clamp(0.0, 1.0) * full).round() as i32
    };

    let mark = panel.mark.filter(|mark| *mark <= highest);
    let title = style::text(PANEL_TITLE, &INK, HPos::Left, VPos::Top);
    area.draw(&Text::new(panel.title.clone(), (10, 6), title))?;
    let bottom = ABOVE + ROW * i32::try_from(panel.bars.len())?;
    for (i, bar) in panel.bars.iter().enumerate() {
        let middle = ABOVE + ROW * i32::try_from(i)? + ROW / 2;
        let ink = if bar.peer == SOCKMAN { style::colour(&bar.peer) } else { INK };
        let name = style::text(LABEL, &ink, HPos::Right, VPos::Center);
        area.draw(&Text::new(bar.peer.clone(), (left - 6, middle), name))?;
        let colour = style::bar_colour(&bar.peer);
        if panel.is_log {
            let line = [(left, middle), (x(bar.value), middle)];
            area.draw(&PathElement::new(line, GRID.stroke_width(2)))?;
            area.draw(&Circle::new((x(bar.value), middle), 5, colour.filled()))?;
        } else {
            let corners = [(left, middle - BAR / 2), (x(bar.value), middle + BAR / 2)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
        }
        let (low, high) = (x(bar.spread.0), x(bar.spread.1));
        if high > low {
            area.draw(&PathElement::new([(low, middle), (high, middle)], INK))?;
            for end in [low, high] {
                area.draw(&PathElement::new([(end, middle - 3), (end, middle + 3)], INK))?;
            }
        }
        let figure = style::text(LABEL, &ink, HPos::Left, VPos::Center);
        let end = x(bar.value).max(high).max(mark.map_or(0, x));
        let behind = end + if panel.is_log { 10 } else { 6 };
        area.draw(&Text::new(number(bar.value), (behind, middle), figure))?;
    }
    area.draw(&PathElement::new([(left, ABOVE), (left, bottom)], AXIS))?;
    if let Some(mark) = mark {
        area.draw(&PathElement::new([(x(mark), ABOVE - 2), (x(mark), bottom + 2)], FAINT_INK))?;
    }
    let axis = style::text(LABEL - 1, &FAINT_INK, HPos::Left, VPos::Top);
    area.draw(&Text::new(panel.axis.clone(), (left, bottom + 5), axis))?;
    Ok(())
}
