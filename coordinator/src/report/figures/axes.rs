//! Axes with round ticks, and the frame of a plot.

use super::palette::{Paint, Stroke, marker};
use super::svg::{Anchor, Font, Panel, Svg};

/// The size of a plot's panel.
pub(super) const SIZE: (f64, f64) = (350.0, 270.0);

/// A direction of a plot.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    label: String,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Over all finite values, to round numbers; `None` where there is no value.
    pub(super) fn over(label: &str, values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            return None;
        }
        if high - low <= high.abs().max(low.abs()) * 1e-9 {
            let room = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / 4.0);
        (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let count = ((high - low) / step).round() as usize;
        let ticks = (0..=count).map(|index| {
            let value = low + step * index as f64;
            // Rounding must not print a minus before zero.
            let value = if value.abs() < step / 2.0 { 0.0 } else { value };
            (value, format!("{value:.decimals$}"))
        });
        Some(Self { label: label.to_owned(), low, high, ticks: ticks.collect() })
    }

    /// Names at 0, 1, 2, ...
    pub(super) fn of_names(label: &str, names: &[String]) -> Self {
        let ticks = names.iter().enumerate().map(|(place, name)| (place as f64, name.clone())).collect();
        Self { label: label.to_owned(), low: -0.4, high: names.len() as f64 - 0.6, ticks }
    }

    /// Round values and how they are written.
    pub(super) fn ticks(&self) -> &[(f64, String)] {
        &self.ticks
    }

    pub(super) fn span(&self) -> (f64, f64) {
        (self.low, self.high)
    }
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A plot that is being drawn.
pub(super) struct Plot {
    pub(super) svg: Svg,
    title: String,
    x: Axis,
    y: Axis,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Plot {
    pub(super) fn new(title: &str, x: Axis, y: Axis) -> Self {
        Self::with_margin(title, x, y, 22.0)
    }

    /// With so much room on the right of the drawing area.
    pub(super) fn with_margin(title: &str, x: Axis, y: Axis, margin: f64) -> Self {
        let widest = y.ticks.iter().map(|(_, text)| Font::SMALL.width(text)).fold(0.0, f64::max);
        let mut plot = Self {
            svg: Svg::default(),
            title: title.to_owned(),
            x,
            y,
            left: 30.0 + widest,
            top: 30.0,
            right: SIZE.0 - margin,
            bottom: SIZE.1 - 44.0,
        };
        plot.frame();
        plot
    }

    fn frame(&mut self) {
        let grid = Stroke::solid(Paint::Grid, 1.0);
        self.svg.text((4.0, 16.0), Anchor::Start, Font::TITLE, &self.title);
        for (value, text) in self.y.ticks.clone() {
            let (_, y) = self.at((self.x.low, value));
            self.svg.line((self.left, y), (self.right, y), grid);
            self.svg.text((self.left - 5.0, y + 4.0), Anchor::End, Font::SMALL, &text);
        }
        let ticks = self.x.ticks.clone();
        let widest = ticks.iter().map(|(_, text)| Font::SMALL.width(text)).fold(0.0, f64::max) + 6.0;
        let room = (self.right - self.left) / ticks.len().max(1) as f64;
        // Labels that would touch are left out, evenly.
        let every = (widest / room).ceil().max(1.0) as usize;
        for (place, (value, text)) in ticks.into_iter().enumerate() {
            let (x, _) = self.at((value, self.y.low));
            self.svg.line((x, self.bottom), (x, self.bottom + 4.0), Stroke::solid(Paint::Ink, 1.0));
            if place % every == 0 {
                self.svg.text((x, self.bottom + 17.0), Anchor::Middle, Font::SMALL, &text);
            }
        }
        let corners = [(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)];
        self.svg.polyline(&corners, Stroke::solid(Paint::Ink, 1.0));
        let (middle_x, middle_y) =
            (f64::midpoint(self.left, self.right), f64::midpoint(self.top, self.bottom));
        let (x, y) = (self.x.label.clone(), self.y.label.clone());
        self.svg.text((middle_x, SIZE.1 - 8.0), Anchor::Middle, Font::NORMAL, &x);
        self.svg.turned_text((14.0, middle_y), Anchor::Middle, Font::NORMAL, -90, &y);
    }

    /// Where a value lies in the panel.
    pub(super) fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let share = |axis: &Axis, value: f64| (value - axis.low) / (axis.high - axis.low);
        (
            self.left + share(&self.x, x) * (self.right - self.left),
            self.bottom - share(&self.y, y) * (self.bottom - self.top),
        )
    }

    /// The right end of the drawing area.
    pub(super) fn right(&self) -> f64 {
        self.right
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], stroke: Stroke) {
        let points: Vec<(f64, f64)> = points.iter().map(|&point| self.at(point)).collect();
        self.svg.polyline(&points, stroke);
    }

    /// One shape for all points of a series: thousands of elements would make a page slow.
    pub(super) fn markers(&mut self, series: usize, points: &[(f64, f64)], paint: Paint, radius: f64) {
        let data: String = points.iter().map(|&point| marker(series, self.at(point), radius)).collect();
        self.svg.area(&data, paint, None);
    }

    /// A horizontal line over the whole width.
    pub(super) fn level(&mut self, y: f64, stroke: Stroke) {
        let (low, high) = self.x.span();
        self.line(&[(low, y), (high, y)], stroke);
    }

    pub(super) fn finish(self, label: &str) -> Panel {
        self.svg.panel(SIZE, label)
    }
}

/// A panel that says in words why there is no plot.
pub(super) fn words_panel(title: &str, words: &str) -> Panel {
    let mut svg = Svg::default();
    svg.text((4.0, 16.0), Anchor::Start, Font::TITLE, title);
    let lines = Font::NORMAL.wrap(words, SIZE.0 - 20.0, 12);
    for (place, line) in lines.iter().enumerate() {
        svg.text((4.0, 40.0 + 17.0 * place as f64), Anchor::Start, Font::NORMAL, line);
    }
    svg.panel((SIZE.0, 40.0 + 17.0 * lines.len() as f64), &format!("{title}: {words}"))
}
