//! Colours and sizes that all plots share.

use plotters::{
    prelude::{Color, IntoFont, RGBColor, TextStyle},
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    report::{LIMIT, SOCKMAN},
    table,
};

pub const FONT: &str = "system-ui, Helvetica, Arial, sans-serif";
/// The plots' own background, so that they can be read on a dark page too.
pub const PAPER: RGBColor = RGBColor(255, 255, 255);
pub const INK: RGBColor = RGBColor(34, 34, 34);
pub const FAINT_INK: RGBColor = RGBColor(96, 96, 96);
pub const GRID: RGBColor = RGBColor(226, 226, 226);
pub const AXIS: RGBColor = RGBColor(120, 120, 120);
/// Bars of all others: we are told apart by colour, they by their names.
pub const OTHER_BAR: RGBColor = RGBColor(176, 184, 192);

/// Font sizes, pixels.
pub const TITLE: i32 = 18;
pub const SUBTITLE: i32 = 12;
pub const PANEL_TITLE: i32 = 13;
pub const LABEL: i32 = 12;
/// Mean width of a character, as a share of the font's size. Wide enough for all fonts in [`FONT`].
const CHARACTER_WIDTH: f64 = 0.6;

/// From the palette of Okabe and Ito, which people with any kind of colour vision can tell apart.
pub fn colour(peer: &str) -> RGBColor {
    match peer {
        SOCKMAN => RGBColor(213, 94, 0),
        peer if table::is_sockman(peer) => RGBColor(230, 159, 0),
        LIMIT => RGBColor(0, 0, 0),
        "mio" => RGBColor(0, 114, 178),
        "tokio" => RGBColor(0, 158, 115),
        "message-io" => RGBColor(204, 121, 167),
        peer if table::is_poll(peer) => RGBColor(86, 180, 233),
        _ => RGBColor(128, 128, 128),
    }
}

/// The same, darker: letters are thinner than lines.
pub fn letter_colour(peer: &str) -> RGBColor {
    let RGBColor(red, green, blue) = colour(peer);
    let darker = |part: u8| part / 4 * 3;
    RGBColor(darker(red), darker(green), darker(blue))
}

pub fn bar_colour(peer: &str) -> RGBColor {
    if table::is_sockman(peer) { colour(peer) } else { OTHER_BAR }
}

/// Ours is drawn thicker.
pub fn stroke(peer: &str) -> u32 {
    if peer == SOCKMAN { 3 } else { 2 }
}

/// What the backend divides a font's size by.
const SIZE_OF_BACKEND: f64 = 1.24;

pub fn text(size: i32, colour: &RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    (FONT, f64::from(size) * SIZE_OF_BACKEND)
        .into_font()
        .color(&colour.to_rgba())
        .pos(Pos::new(horizontal, vertical))
}

/// About how wide a text will be. No font is at hand when an SVG is written.
pub fn width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * CHARACTER_WIDTH).ceil() as i32
}
