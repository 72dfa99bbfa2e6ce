//! Agreement of predicted and true enhancement: a scatter and a Bland-Altman plot per arm and phase.
//!
//! After Bland and Altman, Lancet 1986: the difference against the mean of both, the bias, and the limits of agreement
//! bias ± 1.96 sample standard deviations. A point is a subject, because slices of one subject are not independent.

use mtinet_domain::Arm;
use mtinet_domain::metrics::MeanStd;

use super::axes::{Axis, Plot, words_panel};
use super::enhancement::{SubjectCurves, regressing, subject_curves};
use super::layout::{Entry, legend};
use super::palette::{Paint, Stroke};
use super::svg::{Anchor, Font, Panel};
use super::{Figure, Group, Numbers, missing};
use crate::report::results::StudyResults;

/// Standard deviations on either side of the bias that hold 95 % of normal differences.
const LIMIT: f64 = 1.96;

const IDENTITY: Stroke = Stroke { paint: Paint::Soft, width: 1.0, dash: "4 3" };
const BIAS: Stroke = Stroke { paint: Paint::Ink, width: 1.4, dash: "" };
const LIMITS: Stroke = Stroke { paint: Paint::Ink, width: 1.2, dash: "6 3" };

pub(super) fn group(results: &StudyResults) -> Group {
    let figures: Vec<Figure> = regressing(results).into_iter().map(|arm| figure(results, arm)).collect();
    let introduction = if figures.is_empty() {
        String::new()
    } else {
        "Each point is a subject of a held-out fold: the mean over its slices with tumour and over seeds, in the \
         scanner's raw units. First of each pair: predicted against true, with the line of identity. Second: the \
         difference predicted - true against the mean of both (Bland-Altman) with the bias and the 95 % limits of \
         agreement, bias ± 1.96 sample standard deviations."
            .to_owned()
    };
    Group { title: "Agreement of the enhancement regression", introduction, figures }
}

/// One subject in one phase.
struct Pair<'a> {
    subject: &'a str,
    class: usize,
    truth: f64,
    predicted: f64,
}

impl Pair<'_> {
    fn mean(&self) -> f64 {
        f64::midpoint(self.truth, self.predicted)
    }

    fn difference(&self) -> f64 {
        self.predicted - self.truth
    }
}

fn figure(results: &StudyResults, arm: Arm) -> Figure {
    let subjects = subject_curves(results, arm);
    let mut panels = vec![classes(results)];
    let mut rows = Vec::new();
    for (phase, name) in results.dataset.phases.iter().enumerate() {
        let pairs: Vec<Pair<'_>> = subjects.iter().filter_map(|(s, curves)| pair(s, curves, phase)).collect();
        if pairs.is_empty() {
            continue;
        }
        panels.push(scatter(name, &pairs));
        panels.push(bland_altman(name, &pairs));
        rows.push(row(name, &pairs));
    }
    let gaps = missing(results, |key| key.arm == arm);
    if rows.is_empty() {
        let words = if gaps.is_empty() { "no subject with a curve".to_owned() } else { gaps.join(", ") };
        panels = vec![words_panel(arm.name(), &format!("nothing to compare: {words}"))];
    }
    let done = results.of_arm(arm).filter(|trial| trial.summary().is_some() && trial.evaluation.is_some());
    Figure {
        name: format!("agreement-{}", arm.name()),
        title: format!("Predicted and true enhancement, {}", arm.label()),
        caption: format!(
            "{} subjects. Subjects beyond the limits of agreement say their name.",
            subjects.len()
        ),
        from: done.map(|trial| trial.key).collect(),
        missing: gaps,
        panels,
        numbers: (!rows.is_empty()).then(|| Numbers {
            header: [
                "Phase",
                "subjects",
                "bias",
                "SD of differences",
                "95 % limits of agreement",
                "MAE",
                "r",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows,
        }),
        pairs: true,
        png: None,
    }
}

fn pair<'a>(subject: &'a str, curves: &SubjectCurves, phase: usize) -> Option<Pair<'a>> {
    let (truth, predicted) = (*curves.truth.get(phase)?, *curves.predicted.get(phase)?);
    Some(Pair { subject, class: curves.class, truth, predicted })
}

fn classes(results: &StudyResults) -> Panel {
    let entries: Vec<Entry> = results
        .dataset
        .classes
        .iter()
        .enumerate()
        .map(|(class, name)| Entry {
            stroke: None,
            marker: Some((class, Paint::Series(class))),
            text: name.clone(),
        })
        .collect();
    legend(&entries)
}

fn points(plot: &mut Plot, pairs: &[Pair<'_>], place: impl Fn(&Pair<'_>) -> (f64, f64)) {
    let classes = pairs.iter().map(|pair| pair.class).max().map_or(0, |class| class + 1);
    for class in 0..classes {
        let of_class: Vec<(f64, f64)> = pairs.iter().filter(|pair| pair.class == class).map(&place).collect();
        plot.markers(class, &of_class, Paint::Series(class), 2.8);
    }
}

fn scatter(phase: &str, pairs: &[Pair<'_>]) -> Panel {
    let title = format!("{phase}: predicted and true");
    let all = || pairs.iter().flat_map(|pair| [pair.truth, pair.predicted]);
    // One range for both axes, so that the line of identity is the diagonal.
    let (Some(x), Some(y)) =
        (Axis::over("true (raw intensity)", all()), Axis::over("predicted (raw)", all()))
    else {
        return words_panel(&title, "no finite value");
    };
    let (low, high) = x.span();
    let mut plot = Plot::new(&title, x, y);
    plot.line(&[(low, low), (high, high)], IDENTITY);
    points(&mut plot, pairs, |pair| (pair.truth, pair.predicted));
    plot.finish(&format!("{title} intensity of {} subjects", pairs.len()))
}

fn bland_altman(phase: &str, pairs: &[Pair<'_>]) -> Panel {
    let title = format!("{phase}: Bland-Altman");
    let stats = MeanStd::of(pairs.iter().map(Pair::difference));
    let limits = stats.and_then(limits);
    let lines = stats.iter().map(|stats| stats.mean).chain(limits.into_iter().flat_map(|(l, h)| [l, h]));
    let differences = pairs.iter().map(Pair::difference).chain(lines).chain([0.0]);
    let x = Axis::over("mean of true and predicted (raw intensity)", pairs.iter().map(Pair::mean));
    let y = Axis::over("predicted - true (raw)", differences);
    let (Some(x), Some(y), Some(stats)) = (x, y, stats) else {
        return words_panel(&title, "no finite value");
    };
    let mut plot = Plot::with_margin(&title, x, y, 66.0);
    plot.level(0.0, IDENTITY);
    level(&mut plot, stats.mean, BIAS, "bias");
    let mut words = format!("{title}: bias {}", signed(stats.mean));
    if let Some((low, high)) = limits {
        level(&mut plot, high, LIMITS, "+1.96 SD");
        level(&mut plot, low, LIMITS, "-1.96 SD");
        words.push_str(&format!(", limits of agreement {} to {}", signed(low), signed(high)));
    }
    points(&mut plot, pairs, |pair| (pair.mean(), pair.difference()));
    if let Some((low, high)) = limits {
        for pair in pairs.iter().filter(|pair| !(low..=high).contains(&pair.difference())) {
            name(&mut plot, pair);
        }
    }
    plot.finish(&words)
}

/// A horizontal line with its name and value beside its right end, where no point lies.
fn level(plot: &mut Plot, value: f64, stroke: Stroke, name: &str) {
    plot.level(value, stroke);
    let (_, y) = plot.at((0.0, value));
    let left = plot.right() + 5.0;
    let bold = Font { size: 11.0, bold: true, paint: Paint::Ink };
    plot.svg.text((left, y - 3.0), Anchor::Start, Font::SMALL, name);
    plot.svg.text((left, y + 10.0), Anchor::Start, bold, &signed(value));
}

/// A larger area around a point, over which the pointer shows the subject.
fn name(plot: &mut Plot, pair: &Pair<'_>) {
    let at = plot.at((pair.mean(), pair.difference()));
    let data = super::palette::marker(pair.class, at, 3.6);
    let words = format!("{}: {}", pair.subject, signed(pair.difference()));
    plot.svg.area(&data, Paint::Series(pair.class), Some(&words));
}

fn limits(stats: MeanStd) -> Option<(f64, f64)> {
    let deviation = stats.std?;
    Some((stats.mean - LIMIT * deviation, stats.mean + LIMIT * deviation))
}

fn row(phase: &str, pairs: &[Pair<'_>]) -> Vec<String> {
    let stats = MeanStd::of(pairs.iter().map(Pair::difference));
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let mae = mtinet_domain::metrics::mean(pairs.iter().map(|pair| pair.difference().abs()));
    vec![
        phase.to_owned(),
        pairs.len().to_string(),
        or_dash(stats.map(|stats| signed(stats.mean))),
        or_dash(stats.and_then(|stats| stats.std).map(|deviation| format!("{deviation:.1}"))),
        or_dash(stats.and_then(limits).map(|(low, high)| format!("{} to {}", signed(low), signed(high)))),
        or_dash(mae.map(|mae| format!("{mae:.1}"))),
        or_dash(correlation(pairs).map(|r| format!("{r:.2}"))),
    ]
}

/// Pearson's r; `None` where either side does not vary.
fn correlation(pairs: &[Pair<'_>]) -> Option<f64> {
    let truth = mtinet_domain::metrics::mean(pairs.iter().map(|pair| pair.truth))?;
    let predicted = mtinet_domain::metrics::mean(pairs.iter().map(|pair| pair.predicted))?;
    let sum = |of: &dyn Fn(&Pair<'_>) -> f64| pairs.iter().map(of).sum::<f64>();
    let both = sum(&|pair| (pair.truth - truth) * (pair.predicted - predicted));
    let spread = (sum(&|pair| (pair.truth - truth).powi(2))
        * sum(&|pair| (pair.predicted - predicted).powi(2)))
    .sqrt();
    (spread > 0.0).then(|| both / spread)
}

fn signed(value: f64) -> String {
    format!("{value:+.1}")
}
