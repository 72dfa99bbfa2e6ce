//! Segmentations of the same subjects by all arms, beside the truth (the paper's Fig. 3).
//!
//! Truth is a solid outline, prediction a dashed one, so that they are told apart without colour.

use mtinet_domain::Arm;
use ndarray::{Array2, ArrayView2, s};

use super::contour::outlines;
use super::palette::{Paint, Stroke};
use super::pictures::{Picture, Pictures};
use super::svg::{Anchor, Font, Panel, Svg, number};
use super::{Figure, Group, missing, overlay_png, png};
use crate::report::results::StudyResults;

const COMPARISON: [Arm; 6] = [Arm::Unet, Arm::ResUnetPp, Arm::TransUnet, Arm::EiDdpm, Arm::MdFf, Arm::MtiNet];
const ABLATION: [Arm; 6] = [Arm::NoMdief, Arm::NoSpe, Arm::NoSpa, Arm::NoTim, Arm::NoTdd, Arm::MtiNet];
const SYNERGY: [Arm; 4] = [Arm::SegOnly, Arm::SegReg, Arm::SegCls, Arm::MtiNet];

/// Side of a cell.
const CELL: f64 = 121.0;
const GAP: f64 = 6.0;
const LEFT: f64 = 104.0;
const LINE: f64 = 13.0;
const ROW: f64 = CELL + 24.0;
/// Pixels along the longer side of an embedded image; more would not be seen in a cell.
const MOST_PIXELS: usize = 256;

/// Yellow and sky blue of Okabe and Ito over black, which is seen on any grey.
pub(super) const TRUTH: [u8; 3] = [0xf0, 0xe4, 0x42];
pub(super) const PREDICTION: [u8; 3] = [0x56, 0xb4, 0xe9];

pub(super) fn group(results: &StudyResults, pictures: &Pictures) -> Group {
    let title = "Figure 3. Segmentations";
    let present = |arms: &[Arm]| -> Vec<Arm> {
        arms.iter().copied().filter(|arm| results.spec.arms.contains(arm)).collect()
    };
    if !results.spec.arms.iter().any(|arm| arm.tasks().seg) {
        return Group { title, introduction: String::new(), figures: Vec::new() };
    }
    let mut introduction = pictures.problems.join(" ");
    if pictures.shown.is_empty() && introduction.is_empty() {
        introduction = "No trial has segmented a subject with tumour yet.".to_owned();
    }
    let blocks = [
        ("comparison", "Segmentation: comparison", present(&COMPARISON)),
        ("ablation", "Segmentation: ablation", present(&ABLATION)),
        ("synergy", "Segmentation: task combinations", present(&SYNERGY)),
    ];
    let figures = blocks
        .into_iter()
        .enumerate()
        // MTI-Net stands in every block; alone it is shown once.
        .filter(|(place, (_, _, arms))| !arms.is_empty() && (*place == 0 || arms.len() > 1))
        .filter(|_| !pictures.shown.is_empty())
        .map(|(_, (name, title, arms))| figure(results, pictures, name, title, &arms))
        .collect();
    Group { title, introduction, figures }
}

fn figure(results: &StudyResults, pictures: &Pictures, name: &str, title: &str, arms: &[Arm]) -> Figure {
    let name = format!("segmentation-{name}");
    let phases: Vec<&str> = pictures.shown.iter().map(|picture| picture.phase.as_str()).collect();
    let phase = phases.first().copied().filter(|first| phases.iter().all(|phase| phase == first));
    let shown = |key: &mtinet_domain::TrialKey| {
        arms.contains(&key.arm)
            && Some(&key.seed) == results.spec.seeds.first()
            && pictures.shown.iter().any(|picture| picture.chosen.fold == key.fold)
    };
    let keys: Vec<_> = results.trials.iter().map(|trial| trial.key).filter(shown).collect();
    let gaps = missing(results, |key| keys.contains(&key));
    let done = |key: &mtinet_domain::TrialKey| {
        results.trials.iter().any(|trial| trial.key == *key && trial.summary().is_some())
    };
    Figure {
        caption: format!(
            "Phase {}, each subject's slice with the largest lesion, from its held-out fold and the first seed. Solid \
             yellow outline: truth; dashed blue outline: prediction. The first column shows the whole slice with the \
             part that the others enlarge; the patient's right is on the left. DSC is that of the slice shown. Subjects \
             are spread evenly from the worst to the best mean DSC over all arms, within each class.",
            phase.unwrap_or("that the truth was drawn on")
        ),
        title: title.to_owned(),
        from: keys.into_iter().filter(done).collect(),
        missing: gaps,
        panels: vec![panel(results, pictures, &name, title, arms)],
        numbers: None,
        pairs: false,
        png: overlay_png::draw(results, &pictures.shown.iter().collect::<Vec<_>>(), arms).map(|(_, png)| png),
        name,
    }
}

fn panel(results: &StudyResults, pictures: &Pictures, name: &str, title: &str, arms: &[Arm]) -> Panel {
    let mut svg = Svg::default();
    let font = Font { size: 11.0, ..Font::TITLE };
    let column = |place: usize| LEFT + (CELL + GAP) * place as f64;
    let names = ["Whole slice", "Truth"].into_iter().chain(arms.iter().map(|arm| arm.label()));
    let names: Vec<Vec<String>> = names.map(|name| font.wrap(name, CELL, 4)).collect();
    let first_row = 12.0 + LINE * names.iter().map(Vec::len).max().unwrap_or(1) as f64;
    for (place, lines) in names.iter().enumerate() {
        for (line, text) in lines.iter().enumerate() {
            let y = first_row - 8.0 - LINE * (lines.len() - 1 - line) as f64;
            svg.text((column(place) + CELL / 2.0, y), Anchor::Middle, font, text);
        }
    }
    let mut words = Vec::new();
    for (place, picture) in pictures.shown.iter().enumerate() {
        let top = first_row + ROW * place as f64;
        row_label(&mut svg, results, picture, top);
        let images = Images::new(picture, &format!("{name}-{place}"));
        svg.raw(&images.definitions);
        images.overview(&mut svg, (column(0), top));
        images.crop(&mut svg, (column(1), top), None);
        let area = picture.truth.iter().filter(|&&pixel| pixel != 0).count();
        beneath(&mut svg, (column(1), top), &format!("{area} pixels"));
        for (place, arm) in arms.iter().enumerate() {
            let at = (column(place + 2), top);
            match picture.predicted.get(arm) {
                Some(Ok(mask)) => images.crop(&mut svg, at, Some(mask)),
                Some(Err(reason)) => gap(&mut svg, at, reason),
                None => gap(&mut svg, at, "no mask"),
            }
            if let Some(dsc) = picture.chosen.dsc.get(arm) {
                let empty = matches!(picture.predicted.get(arm), Some(Ok(mask)) if mask.iter().all(|&pixel| pixel == 0));
                let empty = if empty { ", nothing found" } else { "" };
                beneath(&mut svg, at, &format!("DSC {dsc:.1} %{empty}"));
                words.push(format!("{} {}: DSC {dsc:.1} %", picture.chosen.subject, arm.name()));
            }
        }
    }
    let size = (column(arms.len() + 2), first_row + ROW * pictures.shown.len() as f64);
    let mut panel = svg.panel(size, &format!("{title}. {}", words.join("; ")));
    panel.wide = true;
    panel
}

fn row_label(svg: &mut Svg, results: &StudyResults, picture: &Picture, top: f64) {
    let chosen = &picture.chosen;
    let class = results.dataset.classes.get(chosen.class).map_or("", String::as_str);
    let bold = Font { size: 11.0, ..Font::TITLE };
    let mut y = top + 14.0;
    // A long name without spaces is broken anywhere.
    let letters: Vec<char> = chosen.subject.chars().collect();
    for part in letters.chunks(14).take(3) {
        svg.text((2.0, y), Anchor::Start, bold, &part.iter().collect::<String>());
        y += 14.0;
    }
    let lines = Font::SMALL.wrap(class, LEFT - 6.0, 2);
    for line in
        lines.iter().cloned().chain([format!("slice {}", chosen.slice), format!("fold {}", chosen.fold)])
    {
        svg.text((2.0, y), Anchor::Start, Font::SMALL, &line);
        y += 14.0;
    }
}

fn beneath(svg: &mut Svg, (x, y): (f64, f64), text: &str) {
    svg.text((x + CELL / 2.0, y + CELL + 14.0), Anchor::Middle, Font::SMALL, text);
}

fn gap(svg: &mut Svg, (x, y): (f64, f64), reason: &str) {
    svg.rectangle((x, y), (CELL, CELL), "#e8e8e8");
    let font = Font { paint: Paint::Fixed("#222222"), ..Font::SMALL };
    for (line, text) in font.wrap(reason, CELL - 12.0, 7).iter().enumerate() {
        svg.text((x + 6.0, y + 18.0 + 14.0 * line as f64), Anchor::Start, font, text);
    }
}

/// The part of a slice that is enlarged, in pixels: rows and columns from the first, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Window {
    /// A square of the plane around the true lesion, three times its size, but at least a quarter of the slice.
    pub(super) fn around(picture: &Picture) -> Self {
        let (rows, columns) = picture.truth.dim();
        let [row_mm, column_mm] = picture.spacing.map(|mm| if mm > 0.0 { mm } else { 1.0 });
        let inside = || picture.truth.indexed_iter().filter(|(_, value)| **value != 0).map(|(at, _)| at);
        let span = |values: &dyn Fn() -> Vec<usize>| -> (usize, usize) {
            let values = values();
            (values.iter().min().copied().unwrap_or(0), values.iter().max().copied().unwrap_or(0))
        };
        let (first_row, last_row) = span(&|| inside().map(|at| at.0).collect());
        let (first_column, last_column) = span(&|| inside().map(|at| at.1).collect());
        let lesion = ((last_row - first_row + 1) as f64 * row_mm)
            .max((last_column - first_column + 1) as f64 * column_mm);
        let field = (rows as f64 * row_mm).min(columns as f64 * column_mm);
        let side = (lesion * 3.0).max(field / 4.0).min(field);
        let place = |middle: usize, mm: f64, all: usize| {
            let length = ((side / mm).round() as usize).clamp(1, all.max(1));
            ((middle + 1).saturating_sub(length / 2).min(all - length.min(all)), length)
        };
        let (row, rows) = place(usize::midpoint(first_row, last_row), row_mm, rows);
        let (column, columns) = place(usize::midpoint(first_column, last_column), column_mm, columns);
        Self { row, column, rows, columns }
    }

    pub(super) fn cut<'a, T>(&self, image: &'a Array2<T>) -> ArrayView2<'a, T> {
        image.slice(s![self.row..self.row + self.rows, self.column..self.column + self.columns])
    }
}

/// A picture's images, defined once and used in every cell.
struct Images<'a> {
    picture: &'a Picture,
    window: Window,
    definitions: String,
    id: String,
}

impl<'a> Images<'a> {
    fn new(picture: &'a Picture, id: &str) -> Self {
        let window = Window::around(picture);
        let image = |suffix: &str, pixels: Array2<u8>| {
            let uri = png::grey(&reduced(pixels)).map(|png| png::data_uri(&png)).unwrap_or_default();
            format!(
                "<image id=\"{id}-{suffix}\" width=\"{0}\" height=\"{0}\" preserveAspectRatio=\"none\" href=\"{uri}\"/>",
                number(CELL)
            )
        };
        let definitions = format!(
            "<defs>{}{}</defs>",
            image("whole", picture.image.clone()),
            image("part", window.cut(&picture.image).to_owned())
        );
        Self { picture, window, definitions, id: id.to_owned() }
    }

    /// The whole slice with a frame around the part that is enlarged.
    fn overview(&self, svg: &mut Svg, at: (f64, f64)) {
        let (rows, columns) = self.picture.image.dim();
        let scale = |value: usize, all: usize| CELL * value as f64 / all.max(1) as f64;
        let Window { row, column, rows: height, columns: width } = self.window;
        let (left, right) = (scale(column, columns), scale(column + width, columns));
        let (top, bottom) = (scale(row, rows), scale(row + height, rows));
        let mut inner = Svg::default();
        let frame = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
        inner.polyline(&frame, Stroke::solid(Paint::Fixed("#000000"), 2.6));
        inner.polyline(&frame, Stroke::solid(Paint::Fixed("#ffffff"), 1.2));
        svg.raw(&self.cell(at, "whole", inner.body()));
    }

    /// The enlarged part with the outline of the truth and of a prediction.
    fn crop(&self, svg: &mut Svg, at: (f64, f64), predicted: Option<&Array2<u8>>) {
        let mut inner = Svg::default();
        let mut draw = |mask: &Array2<u8>, stroke: Stroke| {
            let data = self.outline(mask);
            if !data.is_empty() {
                inner.stroke(&data, Stroke::solid(Paint::Fixed("#000000"), stroke.width + 1.4));
                inner.stroke(&data, stroke);
            }
        };
        draw(&self.picture.truth, Stroke::solid(Paint::Fixed("#f0e442"), 1.4));
        if let Some(mask) = predicted {
            draw(mask, Stroke { paint: Paint::Fixed("#56b4e9"), width: 1.6, dash: "4 3" });
        }
        svg.raw(&self.cell(at, "part", inner.body()));
    }

    fn cell(&self, (x, y): (f64, f64), image: &str, inner: &str) -> String {
        let (x, y, side) = (number(x), number(y), number(CELL));
        format!(
            "<svg x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\"><use href=\"#{}-{image}\"/>{inner}</svg>",
            self.id
        )
    }

    fn outline(&self, mask: &Array2<u8>) -> String {
        let Window { row: top, column: left, rows, columns } = self.window;
        let scale = |value: usize, first: usize, all: usize| {
            number((value as f64 - first as f64) * CELL / all.max(1) as f64)
        };
        let corner = |&(row, column): &(usize, usize)| {
            format!("{} {}", scale(column, left, columns), scale(row, top, rows))
        };
        // Of the whole mask: cut off at the window it would have edges that are none. The cell hides what is outside.
        outlines(mask)
            .iter()
            .map(|corners| format!("M{}z", corners.iter().map(corner).collect::<Vec<_>>().join("L")))
            .collect()
    }
}

/// The image with at most [`MOST_PIXELS`] pixels along a side: means of squares.
fn reduced(image: Array2<u8>) -> Array2<u8> {
    let (rows, columns) = image.dim();
    let factor = rows.max(columns).div_ceil(MOST_PIXELS);
    if factor <= 1 {
        return image;
    }
    Array2::from_shape_fn((rows.div_ceil(factor), columns.div_ceil(factor)), |(row, column)| {
        let (row, column) = (row * factor, column * factor);
        let square = image.slice(s![row..rows.min(row + factor), column..columns.min(column + factor)]);
        let sum: usize = square.iter().map(|&value| usize::from(value)).sum();
        (sum / square.len().max(1)) as u8
    })
}
