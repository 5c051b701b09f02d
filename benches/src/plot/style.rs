//! The colours and sizes of all plots.

use plotters::{
    prelude::{Color, IntoFont, RGBColor, TextStyle},
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    report::{LIMIT, SOCKMAN},
    table,
};

pub const FONT: &str = "system-ui, Helvetica, Arial, sans-serif";
/// The background, which makes the plots readable on a dark page too.
pub const PAPER: RGBColor = RGBColor(255, 255, 255);
pub const INK: RGBColor = RGBColor(34, 34, 34);
pub const FAINT_INK: RGBColor = RGBColor(96, 96, 96);
pub const GRID: RGBColor = RGBColor(226, 226, 226);
pub const AXIS: RGBColor = RGBColor(120, 120, 120);
/// The bars of all peers. Only sockman has a colour; the names distinguish the peers.
pub const OTHER_BAR: RGBColor = RGBColor(176, 184, 192);

/// Font sizes, pixels.
pub const TITLE: i32 = 18;
pub const SUBTITLE: i32 = 12;
pub const PANEL_TITLE: i32 = 13;
pub const LABEL: i32 = 12;
/// The mean width of a character as a share of the font's size, wide enough for all fonts in
/// [`FONT`].
const CHARACTER_WIDTH: f64 = 0.6;

/// Returns a colour from the palette of Okabe and Ito, which people with any kind of colour vision
/// can distinguish.
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

/// Returns the same colour, but darker: letters are thinner than lines.
pub fn letter_colour(peer: &str) -> RGBColor {
    let RGBColor(red, green, blue) = colour(peer);
    let darker = |part: u8| part / 4 * 3;
    RGBColor(darker(red), darker(green), darker(blue))
}

pub fn bar_colour(peer: &str) -> RGBColor {
    if table::is_sockman(peer) { colour(peer) } else { OTHER_BAR }
}

/// Returns the width of a line: sockman's is thicker.
pub fn stroke(peer: &str) -> u32 {
    if peer == SOCKMAN { 3 } else { 2 }
}

/// The backend divides the size of a font by this factor.
const SIZE_OF_BACKEND: f64 = 1.24;

pub fn text(size: i32, colour: &RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    (FONT, f64::from(size) * SIZE_OF_BACKEND)
        .into_font()
        .color(&colour.to_rgba())
        .pos(Pos::new(horizontal, vertical))
}

/// Estimates the width of a text. The writer of an SVG has no font to measure it with.
pub fn width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * CHARACTER_WIDTH).ceil() as i32
}
