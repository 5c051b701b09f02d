//! Panels with a line for each peer. The name of the peer stands at the end of its line.

use plotters::{
    prelude::{ChartBuilder, Circle, Color, LineSeries, PathElement, Text},
    style::text_anchor::{HPos, VPos},
};

use super::{
    Area, Error,
    scale::Scale,
    style::{self, AXIS, FAINT_INK, GRID, INK, LABEL, PANEL_TITLE},
};

pub struct Panel {
    pub title: String,
    pub x_title: &'static str,
    pub y_title: &'static str,
    pub x: Scale,
    pub lines: Vec<Line>,
    /// Draws each point as a dot, because there are few points and nothing was measured between
    /// them.
    pub has_dots: bool,
}

pub struct Line {
    pub peer: String,
    pub points: Vec<(f64, f64)>,
}

/// Heights of the title and of the axis below, pixels.
const ABOVE: i32 = 30;
const UNTITLED: i32 = 8;
const BELOW: i32 = 50;
const LEFT: i32 = 78;
/// The least distance between two names at the ends of lines.
const NAME_HEIGHT: i32 = LABEL + 2;
/// The distance between the end of a line and its name.
const LEADER: i32 = 18;

/// Draws nothing if no point lies above zero, because the axis is logarithmic.
pub fn draw(area: &Area<'_>, panel: &Panel) -> Result<(), Error> {
    let values = panel.lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
    let Some(y) = Scale::log(values) else { return Ok(()) };
    let names = panel.lines.iter().map(|line| style::width(&line.peer, LABEL)).max().unwrap_or(0);

    let title = style::text(PANEL_TITLE, &INK, HPos::Left, VPos::Top);
    area.draw(&Text::new(panel.title.clone(), (10, 6), title))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(if panel.title.is_empty() { UNTITLED } else { ABOVE })
        .margin_right(LEADER + names + 10)
        .x_label_area_size(BELOW)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(panel.x.clone(), y)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(AXIS)
        .max_light_lines(0)
        .label_style(style::text(LABEL, &INK, HPos::Center, VPos::Center))
        .axis_desc_style(style::text(LABEL, &FAINT_INK, HPos::Center, VPos::Center))
        .x_desc(panel.x_title)
        .y_desc(panel.y_title)
        .draw()?;

    // The lines of sockman come last, so that they lie above the others.
    let mut ends = Vec::new();
    let (others, ours): (Vec<&Line>, Vec<&Line>) =
        panel.lines.iter().partition(|line| !crate::table::is_sockman(&line.peer));
    for line in others.into_iter().chain(ours) {
        let colour = style::colour(&line.peer);
        let points = line.points.iter().copied().filter(|(_, y)| *y > 0.0);
        let last = points.clone().next_back();
        let stroke = colour.stroke_width(style::stroke(&line.peer));
        chart.draw_series(LineSeries::new(points.clone(), stroke))?;
        if panel.has_dots {
            chart.draw_series(points.map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        if let Some(last) = last {
            ends.push((line.peer.as_str(), chart.backend_coord(&last)));
        }
    }

    let bottom = chart.plotting_area().get_pixel_range().1.end;
    let (left, top) = area.get_base_pixel();
    let mut wanted: Vec<(&str, (i32, i32))> = ends;
    wanted.sort_by_key(|(_, (_, y))| *y);
    let ys: Vec<i32> = wanted.iter().map(|(_, (_, y))| *y).collect();
    for ((peer, end), y) in wanted.iter().zip(apart(&ys, NAME_HEIGHT, bottom)) {
        let colour = style::colour(peer);
        // The name stays close to the end of the line, even if the line ends early: a long leader
        // would look like data.
        let name_at = (end.0 + LEADER - left, y - top);
        let leader = [(end.0 + 5 - left, end.1 - top), (name_at.0 - 4, name_at.1)];
        area.draw(&PathElement::new(leader, colour.mix(0.6)))?;
        let style = style::text(LABEL, &style::letter_colour(peer), HPos::Left, VPos::Center);
        area.draw(&Text::new((*peer).to_owned(), name_at, style))?;
    }
    Ok(())
}

/// Moves sorted positions as little as needed to put `distance` between them, and none below
/// `bottom`.
fn apart(wanted: &[i32], distance: i32, bottom: i32) -> Vec<i32> {
    // Positions that touch form a group, which is spread around its mean.
    let mut groups: Vec<(f64, Vec<i32>)> = Vec::new();
    for &y in wanted {
        groups.push((f64::from(y), vec![y]));
        while let [.., (above, first), (below, second)] = groups.as_slice() {
            let reach = f64::from(distance) * count(first.len() + second.len()) / 2.0;
            if below - above >= reach {
                break;
            }
            let all: Vec<i32> = first.iter().chain(second).copied().collect();
            let mean = all.iter().map(|y| f64::from(*y)).sum::<f64>() / count(all.len());
            groups.truncate(groups.len() - 2);
            groups.push((mean, all));
        }
    }
    let mut placed: Vec<i32> = Vec::new();
    for (middle, members) in groups {
        let first = middle - f64::from(distance) * (count(members.len()) - 1.0) / 2.0;
        placed.extend((0..members.len()).map(|i| (first + f64::from(distance) * count(i)) as i32));
    }
    let mut limit = bottom;
    for y in placed.iter_mut().rev() {
        *y = (*y).min(limit);
        limit = *y - distance;
    }
    placed
}

fn count(of: usize) -> f64 {
    of as f64
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn names_that_overlap_are_moved_apart_and_others_stay() {
        assert_eq!(apart(&[10, 100, 104, 300], 14, 1000), [10, 95, 109, 300]);
        let crowded = apart(&[50, 50, 51, 52, 60], 14, 1000);
        assert!(crowded.windows(2).all(|pair| pair[1] - pair[0] >= 13), "{crowded:?}");
    }

    #[test]
    fn no_name_is_below_the_axis() {
        assert_eq!(apart(&[98, 99, 100], 14, 100), [72, 86, 100]);
    }
}
