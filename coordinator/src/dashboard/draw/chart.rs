//! A curve in a panel, in Braille dots: two by four to a character.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::look::Look;
use super::text::{cut, fit_right};
use crate::dashboard::state::number;

/// A curve to draw.
pub struct Plot<'a> {
    /// By x, ascending.
    pub points: &'a [(f64, f64)],
    /// The line.
    pub style: Style,
    /// Whether the vertical axis is logarithmic; needs positive values.
    pub logarithmic: bool,
    /// How a value is written at the axis.
    pub label: fn(f64) -> String,
    /// What is told where there are no points.
    pub empty: &'a str,
}

/// Bits of a Braille character by column and row of dots.
const DOTS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// Draws a curve with its axes.
pub fn plot(buffer: &mut Buffer, area: Rect, plot: &Plot<'_>, look: &Look) {
    let is_usable = |point: &&(f64, f64)| point.1.is_finite() && (!plot.logarithmic || point.1 > 0.0);
    let scaled = |value: f64| if plot.logarithmic { value.log10() } else { value };
    let points: Vec<(f64, f64)> =
        plot.points.iter().filter(is_usable).map(|(x, y)| (*x, scaled(*y))).collect();
    if area.width < 12 || area.height < 3 {
        return;
    }
    let Some(bounds) = Bounds::of(&points) else {
        let text = cut(plot.empty, area.width as usize, look);
        let x = area.x + (area.width.saturating_sub(text.chars().count() as u16)) / 2;
        buffer.set_string(x, area.y + area.height / 2, text, look.dim());
        return;
    };
    let value = |scaled: f64| if plot.logarithmic { 10f64.powf(scaled) } else { scaled };
    // A constant needs one label; several would be the same or differ in nothing that was measured.
    let rows: Vec<u16> =
        if bounds.is_flat { vec![(area.height - 1) / 2] } else { ticks(area.height - 1).collect() };
    let labels: Vec<(u16, String)> =
        rows.into_iter().map(|row| (row, (plot.label)(value(bounds.y_at(row, area.height - 1))))).collect();
    let margin = labels.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0) as u16;
    if area.width < margin + 6 {
        return;
    }
    let inner =
        Rect { x: area.x + margin + 1, width: area.width - margin - 1, height: area.height - 1, ..area };
    draw_axes(buffer, inner, &labels, margin, look);
    draw_steps(buffer, area, inner, &bounds, look);
    draw_line(buffer, inner, &points, &bounds, plot.style, look);
}

/// The rows that carry a label: the first, the last, and some between.
fn ticks(height: u16) -> impl Iterator<Item = u16> {
    let between = ((height - 1) / 3).max(1);
    (0..=between).map(move |tick| (tick * (height - 1) + between / 2) / between).take(height as usize)
}

struct Bounds {
    x: [f64; 2],
    y: [f64; 2],
    is_flat: bool,
}

impl Bounds {
    fn of(points: &[(f64, f64)]) -> Option<Self> {
        let first = points.first()?;
        let (mut low, mut high) = (first.1, first.1);
        for (_, y) in points {
            (low, high) = (low.min(*y), high.max(*y));
        }
        let is_flat = high - low < 1e-12;
        if is_flat {
            let room = (high.abs() * 0.05).max(1e-6);
            (low, high) = (low - room, high + room);
        }
        let end = points[points.len() - 1].0;
        Some(Self { x: [first.0, if end > first.0 { end } else { first.0 + 1.0 }], y: [low, high], is_flat })
    }

    /// The value in the middle of the first and last rows' dots, evenly in between.
    fn y_at(&self, row: u16, height: u16) -> f64 {
        if self.is_flat {
            return f64::midpoint(self.y[0], self.y[1]);
        }
        let share = f64::from(row) / f64::from((height - 1).max(1));
        self.y[1] - share * (self.y[1] - self.y[0])
    }

    /// The dot of a point.
    fn dot(&self, (x, y): (f64, f64), width: usize, height: usize) -> (isize, isize) {
        let across = (x - self.x[0]) / (self.x[1] - self.x[0]) * (width * 2 - 1) as f64;
        let down = (self.y[1] - y) / (self.y[1] - self.y[0]) * (height * 4 - 1) as f64;
        (across.round() as isize, down.round() as isize)
    }
}

fn draw_axes(buffer: &mut Buffer, inner: Rect, labels: &[(u16, String)], margin: u16, look: &Look) {
    let [vertical, tick, ..] = look.signs.axis;
    for row in 0..inner.height {
        buffer.set_string(inner.x - 1, inner.y + row, vertical, look.dim());
    }
    for (row, label) in labels {
        let text = fit_right(label, margin as usize, look);
        buffer.set_string(inner.x - 1 - margin, inner.y + row, text, look.dim());
        buffer.set_string(inner.x - 1, inner.y + row, tick, look.dim());
    }
}

fn draw_steps(buffer: &mut Buffer, area: Rect, inner: Rect, bounds: &Bounds, look: &Look) {
    let [_, _, corner, horizontal] = look.signs.axis;
    let y = area.bottom() - 1;
    buffer.set_string(inner.x - 1, y, corner, look.dim());
    buffer.set_string(inner.x, y, horizontal.repeat(inner.width as usize), look.dim());
    let (from, to) = (format!(" {:.0} ", bounds.x[0]), format!(" {:.0}", bounds.x[1]));
    if from.len() + to.len() + 8 <= inner.width as usize {
        buffer.set_string(inner.x, y, &from, look.dim());
        let middle = " step ";
        let x = inner.x + (inner.width - middle.len() as u16) / 2;
        buffer.set_string(x, y, middle, look.dim());
        buffer.set_string(inner.right() - to.len() as u16, y, &to, look.dim());
    }
}

fn draw_line(
    buffer: &mut Buffer,
    inner: Rect,
    points: &[(f64, f64)],
    bounds: &Bounds,
    style: Style,
    look: &Look,
) {
    let (width, height) = (inner.width as usize, inner.height as usize);
    let mut cells = vec![0u8; width * height];
    let mut set = |x: isize, y: isize| {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if let Some(cell) = cells.get_mut(y / 4 * width + x / 2).filter(|_| x / 2 < width) {
            *cell |= DOTS[x % 2][y % 4];
        }
    };
    let dots = points.iter().map(|point| bounds.dot(*point, width, height));
    let mut before: Option<(isize, isize)> = None;
    for dot in dots {
        line(before.unwrap_or(dot), dot, &mut set);
        before = Some(dot);
    }
    for (place, bits) in cells.iter().enumerate().filter(|(_, bits)| **bits != 0) {
        let (x, y) = (inner.x + (place % width) as u16, inner.y + (place / width) as u16);
        let sign = if look.signs.is_unicode {
            char::from_u32(0x2800 + u32::from(*bits)).unwrap_or('*')
        } else {
            '*'
        };
        if let Some(cell) = buffer.cell_mut((x, y)) {
            cell.set_char(sign).set_style(style);
        }
    }
}

/// All dots of a straight line (Bresenham).
fn line(from: (isize, isize), to: (isize, isize), set: &mut impl FnMut(isize, isize)) {
    let (dx, dy) = ((to.0 - from.0).abs(), -(to.1 - from.1).abs());
    let (sx, sy) = ((to.0 - from.0).signum(), (to.1 - from.1).signum());
    let (mut x, mut y) = from;
    let mut error = dx + dy;
    loop {
        set(x, y);
        if (x, y) == to {
            return;
        }
        let twice = 2 * error;
        if twice >= dy {
            error += dy;
            x += sx;
        }
        if twice <= dx {
            error += dx;
            y += sy;
        }
    }
}

/// A range label for percentages and intensities.
pub fn figure_label(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A label for losses.
pub fn loss_label(value: f64) -> String {
    number(value)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn drawn(points: &[(f64, f64)], logarithmic: bool) -> String {
        let area = Rect::new(0, 0, 30, 6);
        let mut buffer = Buffer::empty(area);
        let look = Look::new(false, true, TimeZone::UTC);
        let curve =
            Plot { points, style: Style::new(), logarithmic, label: loss_label, empty: "nothing yet" };
        plot(&mut buffer, area, &curve, &look);
        let rows = (0..area.height).map(|y| {
            (0..area.width)
                .map(|x| buffer[(x, y)].symbol().to_owned())
                .collect::<String>()
                .trim_end()
                .to_owned()
        });
        rows.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_falling_line_goes_from_corner_to_corner() {
        let text = drawn(&[(0.0, 4.0), (100.0, 1.0)], false);
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].starts_with("4.000┤⠉") && rows[0].chars().count() < 15, "{text}");
        assert!(rows[4].starts_with("1.000┤  ") && rows[4].chars().count() == 30, "{text}");
        assert!(rows[5].contains(" 0 ") && rows[5].contains("step") && rows[5].ends_with("100"), "{text}");
    }

    #[test]
    fn nothing_one_point_and_bad_values_do_no_harm() {
        assert!(drawn(&[], false).contains("nothing yet"));
        assert!(drawn(&[(1.0, f64::NAN)], false).contains("nothing yet"));
        assert!(drawn(&[(5.0, 2.0)], false).contains('┤'));
        assert!(drawn(&[(1.0, 0.0), (2.0, -1.0)], true).contains("nothing yet"));
        let logarithmic = drawn(&[(1.0, 100.0), (2.0, 1.0)], true);
        assert!(logarithmic.contains("100.0┤") && logarithmic.contains("1.000┤"), "{logarithmic}");
    }
}
