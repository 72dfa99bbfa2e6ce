//! Training curves: losses and held-out metrics over steps, one line a trial.

use mtinet_domain::{Arm, TrialKey};

use super::axes::{Axis, Plot, words_panel};
use super::downsample::downsample;
use super::layout::{Entry, legend};
use super::palette::{Paint, Stroke, dash};
use super::svg::Panel;
use super::{Figure, Group};
use crate::report::results::{StudyResults, TrialResult};

/// A quantity of a trial by optimiser steps.
struct Line {
    trial: TrialKey,
    points: Vec<(f64, f64)>,
}

/// Panels in their order: whether held out, name, title, and the vertical axis with its unit.
const KNOWN: [(bool, &str, &str, &str); 11] = [
    (false, "loss", "Training loss", "weighted sum (no unit)"),
    (true, "dsc", "Held-out DSC", "DSC (%)"),
    (true, "iou", "Held-out IoU", "IoU (%)"),
    (true, "mae", "Held-out MAE", "MAE (raw intensity)"),
    (true, "accuracy", "Held-out accuracy", "slices right (%)"),
    (false, "seg", "Segmentation loss", "loss (no unit)"),
    (false, "reg", "Regression loss", "loss (no unit)"),
    (false, "cls", "Classification loss", "loss (no unit)"),
    (false, "tim", "Task interaction loss (TIM)", "loss (no unit)"),
    (false, "adv", "Adversarial loss", "loss (no unit)"),
    (false, "disc", "Discriminator loss (TDD)", "loss (no unit)"),
];

pub(super) fn group(results: &StudyResults) -> Group {
    let figures = results.spec.arms.iter().filter_map(|&arm| figure(results, arm)).collect::<Vec<_>>();
    let introduction = if figures.is_empty() {
        "No training curves: no trial has reported measurements.".to_owned()
    } else {
        "One line a trial. Losses are means over the steps of an epoch, or over windows of steps where a training is \
         shorter than two epochs; held-out metrics are measured as often as eval_every asks, and after the last step. \
         Nothing is chosen by them: the report's figures are those after the last step. Values that are not finite are \
         left out."
            .to_owned()
    };
    Group { title: "Training curves", introduction, figures }
}

fn figure(results: &StudyResults, arm: Arm) -> Option<Figure> {
    let styles = Styles::of(results, arm);
    // A segmentation baseline's one loss is the sum already.
    let same = |name: &str| name == "seg" && !arm.tasks().reg && !arm.tasks().cls;
    let known = KNOWN.iter().filter(|(held_out, name, ..)| *held_out || !same(name));
    let mut panels: Vec<Panel> = known
        .filter_map(|&(held_out, name, title, unit)| {
            let lines = lines(results, arm, held_out, name);
            (!lines.is_empty()).then(|| panel(title, unit, &lines, &styles))
        })
        .collect();
    if panels.is_empty() {
        return None;
    }
    panels.insert(0, styles.legend());
    let (drawn, not): (Vec<&TrialResult>, Vec<&TrialResult>) =
        results.of_arm(arm).partition(|trial| !trial.curves.is_empty());
    Some(Figure {
        name: format!("training-{}", arm.name()),
        title: format!("Training of {}", arm.label()),
        caption: "Long series are thinned to the lowest and highest value of each stretch.".to_owned(),
        from: drawn.iter().map(|trial| trial.key).collect(),
        missing: not
            .iter()
            .map(|trial| format!("{} {}, without measurements", trial.key, trial.outcome.word()))
            .collect(),
        panels,
        numbers: None,
        pairs: false,
        png: None,
    })
}

fn lines(results: &StudyResults, arm: Arm, held_out: bool, name: &str) -> Vec<Line> {
    let lines = results.of_arm(arm).map(|trial| {
        let curve = if held_out { &trial.curves.held_out } else { trial.curves.training() };
        let points = curve.series(name).into_iter().map(|point| (point.step as f64, point.value));
        let points: Vec<(f64, f64)> = points.filter(|(_, value)| value.is_finite()).collect();
        Line { trial: trial.key, points: downsample(&points) }
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn panel(title: &str, unit: &str, lines: &[Line], styles: &Styles) -> Panel {
    let all = || lines.iter().flat_map(|line| &line.points);
    // Zero is where training begins.
    let x = Axis::over("optimiser steps", all().map(|point| point.0).chain([0.0]));
    let y = Axis::over(unit, all().map(|point| point.1));
    let (Some(x), Some(y)) = (x, y) else { return words_panel(title, "no finite value") };
    let mut plot = Plot::new(title, x, y);
    for Line { trial, points } in lines {
        let (stroke, marker) = styles.of_trial(*trial);
        plot.line(points, stroke);
        // A marker on each of few points, else on the last alone, which tells lines apart without colour.
        let marked = if points.len() <= 12 { &points[..] } else { &points[points.len() - 1..] };
        plot.markers(marker, marked, stroke.paint, 3.0);
    }
    let lasts: Vec<String> = lines
        .iter()
        .filter_map(|line| Some(format!("{} {:.3}", line.trial, line.points.last()?.1)))
        .collect();
    plot.finish(&format!("{title} over optimiser steps; last values: {}", lasts.join(", ")))
}

/// How each trial's line looks: colour and marker by fold; dash by fold too, or by seed where there are several.
struct Styles {
    folds: Vec<u32>,
    seeds: Vec<u64>,
    trials: Vec<TrialKey>,
}

impl Styles {
    fn of(results: &StudyResults, arm: Arm) -> Self {
        Self {
            folds: results.spec.folds.indices(),
            seeds: results.spec.seeds.clone(),
            trials: results.of_arm(arm).map(|trial| trial.key).collect(),
        }
    }

    fn of_trial(&self, key: TrialKey) -> (Stroke, usize) {
        let fold = self.folds.iter().position(|&fold| fold == key.fold).unwrap_or(0);
        let seed = self.seeds.iter().position(|&seed| seed == key.seed).unwrap_or(0);
        let pattern = if self.seeds.len() > 1 { seed } else { fold };
        (Stroke { paint: Paint::Series(fold), width: 1.5, dash: dash(pattern) }, fold)
    }

    fn legend(&self) -> Panel {
        let entries: Vec<Entry> = self
            .trials
            .iter()
            .map(|&key| {
                let (stroke, marker) = self.of_trial(key);
                let seed = if self.seeds.len() > 1 { format!(", seed {}", key.seed) } else { String::new() };
                let text = format!("fold {}{seed}", key.fold);
                Entry { stroke: Some(stroke), marker: Some((marker, stroke.paint)), text }
            })
            .collect();
        legend(&entries)
    }
}
