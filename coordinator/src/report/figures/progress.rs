//! A trial's training at a glance, as an image: losses, held-out Dice with its moving average, seconds an epoch, learning
//! rate. What whoever comes from nnU-Net looks for in `progress.png`.

use mtinet_domain::event::{DEVICE_MEMORY, SPEED};

use super::axes::Axis;
use super::canvas::{BLACK, Canvas, LETTER};
use super::downsample::downsample;
use crate::report::curves::{Curve, CurvePoint, LearningCurves};

/// Under this name a curve holds seconds of training so far, beside what was measured.
pub const TRAIN_SECONDS: &str = "train_seconds";
const LEARNING_RATE: &str = "learning_rate";

/// Share of the value before in the moving average, as nnU-Net has it.
const MEMORY: f64 = 0.9;

/// A panel, and the drawing area within it.
const PANEL: (usize, usize) = (720, 460);
const LEFT: usize = 120;
const RIGHT: usize = 500;
const TOP: usize = 50;
const BOTTOM: usize = 380;
const TITLE: usize = 40;

const GRID: [u8; 3] = [0xdc; 3];
const SOFT: [u8; 3] = [0x55; 3];
/// Those of Okabe and Ito (2008), as far as they are seen on white, grey and black: as many as an arm has losses.
const SERIES: [[u8; 3]; 8] = [
    [0x00, 0x72, 0xb2],
    [0xd5, 0x5e, 0x00],
    [0x00, 0x9e, 0x73],
    [0xcc, 0x79, 0xa7],
    [0xe6, 0x9f, 0x00],
    [0x56, 0xb4, 0xe9],
    [0x77, 0x77, 0x77],
    [0x00, 0x00, 0x00],
];

/// Points of one name.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    /// Whether its points are marked, as few and single measurements are.
    marked: bool,
}

/// The figure; `None` where nothing was measured. `curves` hold [`TRAIN_SECONDS`] beside what was measured.
pub fn progress_png(trial: &str, curves: &LearningCurves) -> Option<Vec<u8>> {
    if curves.is_empty() {
        return None;
    }
    let scale = Scale::of(curves);
    let training = curves.training();
    let is_loss =
        |name: &str| !matches!(name, TRAIN_SECONDS | LEARNING_RATE | DEVICE_MEMORY) && !SPEED.contains(&name);
    let names = training.names().iter().filter(|name| is_loss(name));
    let mut losses: Vec<Line> = names.map(|name| line(name, &training.series(name), &scale)).collect();
    // The sum first, then its terms as they were reported.
    losses.sort_by_key(|line| line.name != "loss");
    let (held_out_title, held_out) = held_out(&curves.held_out, &scale);
    let time = Line { name: "seconds".to_owned(), points: seconds(training, &scale), marked: false };
    let rate = line("rate", &training.series(LEARNING_RATE), &scale);
    let mut canvas = Canvas::new(PANEL.0 * 2, TITLE + PANEL.1 * 2);
    canvas.text((16, 14), trial, BLACK);
    let panels = [
        ("Training losses", losses),
        (held_out_title, held_out),
        (scale.time_title, vec![time]),
        ("Learning rate", vec![rate]),
    ];
    for (place, (title, lines)) in panels.into_iter().enumerate() {
        let at = (PANEL.0 * (place % 2), TITLE + PANEL.1 * (place / 2));
        panel(&mut canvas, at, title, scale.label, &lines);
    }
    canvas.png()
}

/// The horizontal axis: epochs, or steps of a training that is shorter than two epochs.
struct Scale {
    label: &'static str,
    time_title: &'static str,
    steps: f64,
}

impl Scale {
    fn of(curves: &LearningCurves) -> Self {
        let last = curves.epochs.names().first().and_then(|name| curves.epochs.series(name).last().copied());
        match last {
            Some(CurvePoint { step, epoch, .. }) if curves.epochs.len() > 1 && epoch > 0 => Self {
                label: "epochs",
                time_title: "Seconds of an epoch",
                steps: (step as f64 / f64::from(epoch)).max(1.0),
            },
            _ => Self { label: "optimiser steps", time_title: "Seconds of a step", steps: 1.0 },
        }
    }

    fn at(&self, step: u64) -> f64 {
        step as f64 / self.steps
    }
}

fn line(name: &str, series: &[CurvePoint], scale: &Scale) -> Line {
    let points: Vec<(f64, f64)> = series.iter().map(|point| (scale.at(point.step), point.value)).collect();
    Line { name: name.replace('_', " "), points: downsample(&points), marked: false }
}

/// Dice and its moving average; of an arm that does not segment what it is measured by instead.
fn held_out(curve: &Curve, scale: &Scale) -> (&'static str, Vec<Line>) {
    let measures = [
        ("dsc", "Held-out DSC (%)"),
        ("accuracy", "Held-out accuracy (%)"),
        ("mae", "Held-out MAE (raw intensity)"),
    ];
    let measured = measures.iter().find(|(name, _)| !curve.series(name).is_empty());
    let &(name, title) = measured.unwrap_or(&measures[0]);
    let values = Line { marked: true, ..line(name, &curve.series(name), scale) };
    let mut average = None;
    let averaged = values.points.iter().map(|&(x, value)| {
        let next = average.map_or(value, |before: f64| MEMORY * before + (1.0 - MEMORY) * value);
        average = Some(next);
        (x, next)
    });
    let average = Line { name: "average".to_owned(), points: averaged.collect(), marked: false };
    (title, vec![values, average])
}

/// Seconds of an epoch or step, by their differences.
fn seconds(training: &Curve, scale: &Scale) -> Vec<(f64, f64)> {
    let mut before = (0.0, 0.0);
    let series = training.series(TRAIN_SECONDS);
    let points = series.iter().filter_map(|point| {
        let (x0, seconds0) = std::mem::replace(&mut before, (scale.at(point.step), point.value));
        let (x, seconds) = before;
        (x > x0).then(|| (x, (seconds - seconds0).max(0.0) / (x - x0)))
    });
    downsample(&points.collect::<Vec<_>>())
}

fn panel(canvas: &mut Canvas, (x0, y0): (usize, usize), title: &str, label: &str, lines: &[Line]) {
    canvas.text((x0 + 16, y0 + 16), title, BLACK);
    let finite =
        || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    // Zero is where training begins.
    let x = Axis::over(label, finite().map(|point| point.0).chain([0.0]));
    let (Some(x), Some(y)) = (x, Axis::over(title, finite().map(|point| point.1))) else {
        canvas.text((x0 + 16, y0 + TOP + LETTER), "not measured", SOFT);
        return;
    };
    let place = |value: f64, (low, high): (f64, f64), (from, to): (usize, usize)| {
        from as f64 + (value - low) / (high - low) * (to as f64 - from as f64)
    };
    let at = |(vx, vy): (f64, f64)| {
        (place(vx, x.span(), (x0 + LEFT, x0 + RIGHT)), place(vy, y.span(), (y0 + BOTTOM, y0 + TOP)))
    };
    for (value, text) in y.ticks() {
        let (_, y) = at((x.span().0, *value));
        canvas.line(((x0 + LEFT) as f64, y), ((x0 + RIGHT) as f64, y), 1.0, GRID);
        let width = text.chars().count() * LETTER;
        canvas.text(
            ((x0 + LEFT).saturating_sub(width + 6), (y as usize).saturating_sub(LETTER / 2)),
            text,
            SOFT,
        );
    }
    let widest = x.ticks().iter().map(|(_, text)| (text.len() + 1) * LETTER).max().unwrap_or(LETTER);
    let every = (widest * x.ticks().len()).div_ceil(RIGHT - LEFT).max(1);
    for (_, (value, text)) in x.ticks().iter().enumerate().filter(|(place, _)| place % every == 0) {
        let (x, _) = at((*value, y.span().0));
        canvas.line((x, (y0 + BOTTOM) as f64), (x, (y0 + BOTTOM + 5) as f64), 1.0, BLACK);
        canvas.text(((x as usize).saturating_sub(text.len() * LETTER / 2), y0 + BOTTOM + 10), text, SOFT);
    }
    let corner = at((x.span().0, y.span().0));
    canvas.line(corner, at((x.span().0, y.span().1)), 1.0, BLACK);
    canvas.line(corner, at((x.span().1, y.span().0)), 1.0, BLACK);
    let middle = x0 + usize::midpoint(LEFT, RIGHT) - label.len() * LETTER / 2;
    canvas.text((middle, y0 + BOTTOM + 10 + LETTER + 8), label, BLACK);
    for (series, line) in lines.iter().filter(|line| !line.points.is_empty()).enumerate() {
        draw(canvas, line, SERIES[series % SERIES.len()], &at);
        legend(
            canvas,
            (x0 + RIGHT + 16, y0 + TOP + series * (2 * LETTER + 12)),
            line,
            SERIES[series % SERIES.len()],
        );
    }
}

fn draw(canvas: &mut Canvas, line: &Line, colour: [u8; 3], at: &impl Fn((f64, f64)) -> (f64, f64)) {
    let points: Vec<(f64, f64)> =
        line.points.iter().filter(|point| point.1.is_finite()).map(|&point| at(point)).collect();
    for pair in points.windows(2) {
        canvas.line(pair[0], pair[1], 2.0, colour);
    }
    // A line of no length is a dot.
    for &point in points.iter().filter(|_| line.marked || points.len() == 1) {
        canvas.line(point, point, 8.0, colour);
    }
}

/// The name in its colour, and the last value below.
fn legend(canvas: &mut Canvas, (x, y): (usize, usize), line: &Line, colour: [u8; 3]) {
    canvas.line((x as f64, (y + 8) as f64), ((x + 22) as f64, (y + 8) as f64), 4.0, colour);
    canvas.text((x + 30, y), &line.name, BLACK);
    if let Some((_, value)) = line.points.last() {
        let text =
            if value.abs() < 1e-3 && *value != 0.0 { format!("{value:.2e}") } else { format!("{value:.3}") };
        canvas.text((x + 30, y + LETTER + 2), &text, SOFT);
    }
}
