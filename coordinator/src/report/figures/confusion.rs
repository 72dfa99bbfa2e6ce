//! Confusion matrices of the arms that classify (the paper's Fig. 4), with a number in every cell.

use mtinet_domain::Arm;

use super::axes::words_panel;
use super::palette::{Paint, Stroke, ramp};
use super::svg::{Anchor, Font, Panel, Svg};
use super::{Figure, Group, missing};
use crate::report::results::StudyResults;

pub(super) fn group(results: &StudyResults) -> Group {
    let arms: Vec<Arm> = results.spec.arms.iter().copied().filter(|arm| arm.tasks().cls).collect();
    let figures = if arms.is_empty() { Vec::new() } else { vec![figure(results, &arms)] };
    Group { title: "Figure 4. Confusion matrices", introduction: String::new(), figures }
}

fn figure(results: &StudyResults, arms: &[Arm]) -> Figure {
    let done = results.trials.iter().filter(|trial| {
        arms.contains(&trial.key.arm) && trial.summary().is_some_and(|summary| summary.confusion.is_some())
    });
    Figure {
        name: "confusion".to_owned(),
        title: "Confusion matrices".to_owned(),
        caption: "Slices with tumour of the held-out folds, summed over folds and seeds. Rows are the truth, columns \
                  the prediction. Each cell: percent of its row (the darker, the more), and the number of slices."
            .to_owned(),
        from: done.map(|trial| trial.key).collect(),
        missing: missing(results, |key| arms.contains(&key.arm)),
        panels: arms.iter().map(|&arm| panel(results, arm)).collect(),
        numbers: None,
        pairs: false,
        png: None,
    }
}

/// Slices by true and predicted class, summed over the arm's trials.
fn counts(results: &StudyResults, arm: Arm) -> Vec<Vec<u64>> {
    let classes = results.dataset.classes.len();
    let mut counts = vec![vec![0; classes]; classes];
    for matrix in results.of_arm(arm).filter_map(|trial| trial.summary()?.confusion.as_ref()) {
        for (sums, row) in counts.iter_mut().zip(matrix) {
            sums.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
    }
    counts
}

fn panel(results: &StudyResults, arm: Arm) -> Panel {
    let classes = &results.dataset.classes;
    let counts = counts(results, arm);
    let gaps = missing(results, |key| key.arm == arm);
    if counts.iter().flatten().all(|&count| count == 0) {
        let words = if gaps.is_empty() { "no slice with tumour".to_owned() } else { gaps.join(", ") };
        return words_panel(arm.label(), &format!("no matrix; missing: {words}"));
    }
    let widest = classes.iter().map(|class| Font::NORMAL.width(class)).fold(0.0, f64::max);
    let (left, top) = (widest.min(150.0) + 34.0, 64.0);
    let side = ((342.0 - left) / classes.len().max(1) as f64).clamp(40.0, 90.0);
    let grid = side * classes.len() as f64;
    let size = ((left + grid + 8.0).max(350.0), top + grid + 46.0);

    let mut svg = Svg::default();
    svg.text((4.0, 16.0), Anchor::Start, Font::TITLE, arm.label());
    svg.text((left + grid / 2.0, 38.0), Anchor::Middle, Font::NORMAL, "predicted");
    svg.turned_text((14.0, top + grid / 2.0), Anchor::Middle, Font::NORMAL, -90, "true");
    let mut words = Vec::new();
    for (row, class) in classes.iter().enumerate() {
        let middle = top + side * (row as f64 + 0.5);
        svg.text((left - 6.0, middle + 4.0), Anchor::End, Font::NORMAL, &shortened(class, 150.0));
        let column = left + side * (row as f64 + 0.5);
        svg.text((column, 56.0), Anchor::Middle, Font::NORMAL, &shortened(class, side + 6.0));
        let all: u64 = counts[row].iter().sum();
        for (column, &count) in counts[row].iter().enumerate() {
            let share = (all > 0).then(|| count as f64 / all as f64);
            cell(&mut svg, (left + side * column as f64, top + side * row as f64), side, share, count);
            words.push(format!("{class} called {}: {} ({count})", classes[column], percent(share)));
        }
    }
    let (trials, done) = (results.of_arm(arm).count(), {
        let summaries = results.of_arm(arm).filter_map(|trial| trial.summary());
        summaries.filter(|summary| summary.confusion.is_some()).count()
    });
    let beneath = if gaps.is_empty() {
        format!("{done} of {trials} trials")
    } else {
        format!("{done} of {trials} trials; missing: {}", gaps.join(", "))
    };
    for (line, text) in Font::SMALL.wrap(&beneath, size.0 - 8.0, 2).iter().enumerate() {
        svg.text((4.0, top + grid + 20.0 + 14.0 * line as f64), Anchor::Start, Font::SMALL, text);
    }
    svg.panel(size, &format!("{}: {}. {beneath}", arm.label(), words.join("; ")))
}

fn cell(svg: &mut Svg, (x, y): (f64, f64), side: f64, share: Option<f64>, count: u64) {
    let (fill, text) = ramp(share.unwrap_or(0.0));
    svg.rectangle((x, y), (side, side), &fill);
    let corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)];
    svg.polyline(&corners, Stroke::solid(Paint::Soft, 0.8));
    let middle = (x + side / 2.0, y + side / 2.0);
    let large = Font { size: if side < 60.0 { 12.0 } else { 15.0 }, bold: true, paint: Paint::Fixed(text) };
    svg.text((middle.0, middle.1), Anchor::Middle, large, &percent(share));
    let small = Font { size: 11.0, bold: false, paint: Paint::Fixed(text) };
    svg.text((middle.0, middle.1 + 17.0), Anchor::Middle, small, &count.to_string());
}

/// A class without a slice has no share.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn shortened(text: &str, width: f64) -> String {
    if Font::NORMAL.width(text) <= width {
        return text.to_owned();
    }
    let room = (width / Font::NORMAL.width("x")) as usize;
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}
