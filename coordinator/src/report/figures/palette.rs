//! Colours, dashes and markers that are told apart without seeing colour.
//!
//! The colours are those of Okabe and Ito (2008), without their yellow, which is too faint on white for a line. No two
//! series differ by colour alone: dash pattern or marker differ too.

use super::svg::number;

/// What a stroke or an area is painted with. The page's style sheet exchanges all but [`Paint::Fixed`] where the reader
/// asks for a dark page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    /// Text and axes.
    Ink,
    /// Text of less weight.
    Soft,
    /// Lines of the grid.
    Grid,
    /// The colour of a series, by its number.
    Series(usize),
    /// The same on any ground.
    Fixed(&'static str),
}

const SERIES: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES: [&str; 6] = ["", "7 3", "2 2", "9 3 2 3", "4 2", "12 3 2 3 2 3"];

impl Paint {
    pub(super) fn colour(self) -> &'static str {
        match self {
            Self::Ink => "#1a1a1a",
            Self::Soft => "#555555",
            Self::Grid => "#dcdcdc",
            Self::Series(number) => SERIES[number % SERIES.len()],
            Self::Fixed(colour) => colour,
        }
    }

    /// The end of its class's name in the page's style sheet.
    pub(super) fn class(self) -> Option<String> {
        match self {
            Self::Ink => Some("ink".to_owned()),
            Self::Soft => Some("soft".to_owned()),
            Self::Grid => Some("grid".to_owned()),
            Self::Series(number) => Some(format!("s{}", number % SERIES.len())),
            Self::Fixed(_) => None,
        }
    }
}

/// The dash pattern of a series; none for the first.
pub(super) fn dash(series: usize) -> &'static str {
    DASHES[series % DASHES.len()]
}

/// A line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stroke {
    pub(super) paint: Paint,
    pub(super) width: f64,
    pub(super) dash: &'static str,
}

impl Stroke {
    pub(super) const fn solid(paint: Paint, width: f64) -> Self {
        Self { paint, width, dash: "" }
    }
}

/// The outline of the marker of a series around a point, as path data.
pub(super) fn marker(series: usize, (x, y): (f64, f64), radius: f64) -> String {
    let r = number(radius);
    let d = number(radius * 2.0);
    match series % 6 {
        // A circle out of two arcs.
        0 => format!("M{} {}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", number(x - radius), number(y)),
        1 => polygon(x, y, radius * 1.25, &[(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)]),
        2 => polygon(x, y, radius * 0.95, &[(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
        3 => polygon(x, y, radius * 1.3, &[(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]),
        4 => polygon(x, y, radius * 1.25, &[(0.0, 1.0), (0.95, -0.75), (-0.95, -0.75)]),
        _ => polygon(x, y, radius * 1.2, &PLUS),
    }
}

const PLUS: [(f64, f64); 12] = [
    (-0.3, -1.0),
    (0.3, -1.0),
    (0.3, -0.3),
    (1.0, -0.3),
    (1.0, 0.3),
    (0.3, 0.3),
    (0.3, 1.0),
    (-0.3, 1.0),
    (-0.3, 0.3),
    (-1.0, 0.3),
    (-1.0, -0.3),
    (-0.3, -0.3),
];

fn polygon(x: f64, y: f64, radius: f64, corners: &[(f64, f64)]) -> String {
    let corners: Vec<String> = corners
        .iter()
        .map(|(dx, dy)| format!("{} {}", number(x + dx * radius), number(y + dy * radius)))
        .collect();
    format!("M{}z", corners.join("L"))
}

/// A ramp from white to dark blue whose luminance falls all the way, and the colour of text that can be read on it;
/// `share` from 0 to 1.
pub(super) fn ramp(share: f64) -> (String, &'static str) {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let (light, dark) = ([247.0, 251.0, 255.0], [8.0, 48.0, 107.0]);
    let channel = |index: usize| (light[index] + (dark[index] - light[index]) * share) as u8;
    let fill = format!("#{:02x}{:02x}{:02x}", channel(0), channel(1), channel(2));
    (fill, if share > 0.5 { "#ffffff" } else { "#111111" })
}
