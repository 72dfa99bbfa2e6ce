//! One trial: facts, curves, and below them its attempts, its events or its log.

use mtinet_domain::event::{DEVICE_MEMORY, SPEED};
use mtinet_domain::trial::{AttemptEnd, TrialStatus};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::chart::{Plot, figure_label, loss_label, plot};
use super::facts;
use super::frame::{Drawn, Scene};
use super::panel::{lines, panel};
use super::text::{clock, cut, wrap};
use crate::dashboard::input::{Pane, Target};
use crate::dashboard::state::{
    COLUMNS, LogLine, Trial, end_words, figure, number, ranks_words, short_span, step_time,
};
use crate::report::{Curve, CurvePoint};

/// Most lines that the end of an attempt takes.
const MOST_WORDS: usize = 6;

/// From this width and height on all four curves are drawn.
const LARGE: (u16, u16) = (120, 34);

/// Draws the screen.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    let Some(trial) = scene.model.study.trial(scene.ui.trial) else { return };
    let width = usize::from(area.width.saturating_sub(4));
    let told = facts::lines(trial, scene, width, if area.height > 30 { 8 } else { 4 });
    let top = Rect { height: told.len() as u16 + 2, ..area };
    let inner = panel(buffer, top, facts::heading(trial, scene), facts::arm_label(trial, scene), scene.look);
    lines(buffer, Rect { x: inner.x + 1, width: inner.width - 2, ..inner }, &told);
    let rest = Rect { y: top.bottom(), height: area.height - top.height, ..area };
    let is_large = area.width >= LARGE.0 && area.height >= LARGE.1;
    let curves = Rect { height: (rest.height * 3 / 5).max(6).min(rest.height), ..rest };
    if is_large {
        let half = curves.height / 2;
        curves_beside(buffer, Rect { height: half, ..curves }, scene, trial, drawn);
        let lower = Rect { y: curves.y + half, height: curves.height - half, ..curves };
        pace_and_rate(buffer, lower, scene, trial);
    } else {
        curves_beside(buffer, curves, scene, trial, drawn);
    }
    let below = Rect { y: curves.bottom(), height: rest.height - curves.height, ..rest };
    if is_large {
        let left = Rect { width: below.width / 2, ..below };
        attempts_panel(buffer, left, scene, trial);
        let right = Rect { x: left.right(), width: below.width - left.width, ..below };
        // The attempts stand beside it: there is nothing to turn to.
        let pane = if scene.ui.pane == Pane::Attempts { Pane::Events } else { scene.ui.pane };
        pane_panel(buffer, right, scene, trial, pane, &[Pane::Events, Pane::Log], drawn);
    } else if below.height >= 3 {
        pane_panel(buffer, below, scene, trial, scene.ui.pane, &Pane::ALL, drawn);
    }
}

/// The training loss and the held-out metric side by side.
pub fn curves_beside(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, trial: Trial<'_>, drawn: &mut Drawn) {
    let left = Rect { width: area.width / 2, ..area };
    loss(buffer, left, scene, trial, drawn);
    held_out(buffer, Rect { x: left.right(), width: area.width - left.width, ..area }, scene, trial, drawn);
}

/// The same, one below the other.
pub fn curves_below(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, trial: Trial<'_>, drawn: &mut Drawn) {
    let upper = Rect { height: area.height / 2, ..area };
    loss(buffer, upper, scene, trial, drawn);
    let lower = Rect { y: upper.bottom(), height: area.height - upper.height, ..area };
    held_out(buffer, lower, scene, trial, drawn);
}

fn loss(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, trial: Trial<'_>, drawn: &mut Drawn) {
    let Scene { ui, look, .. } = scene;
    let curve = trial.result.curves.training();
    let mut names: Vec<&str> = curve.names().iter().map(String::as_str).collect();
    names.retain(|name| !matches!(*name, "learning_rate" | DEVICE_MEMORY));
    // The sum first; then its terms, in an order that does not depend on what was reported first; how fast it goes last.
    names.sort_by_key(|name| (*name != "loss", SPEED.contains(name), *name));
    let name = names.get(ui.loss % names.len().max(1)).copied().unwrap_or("loss");
    let (points, last) = series(curve, name);
    let mut title = vec![Span::styled(format!("training {}", name.replace('_', " ")), look.strong())];
    if let Some(last) = last {
        title.push(Span::raw(format!("  {}", number(last))));
    }
    let per = if trial.result.curves.epochs.len() < 2 { "per step" } else { "per epoch" };
    let axis = if ui.logarithmic { format!("log, {per}") } else { per.to_owned() };
    let inner = panel(buffer, area, Line::from(title), Line::styled(axis, look.dim()), look);
    let curve = Plot {
        points: &points,
        style: look.accent().remove_modifier(ratatui::style::Modifier::BOLD),
        logarithmic: ui.logarithmic,
        label: loss_label,
        empty: "nothing reported yet",
    };
    plot(buffer, inner, &curve, look);
    drawn.targets.push((area, Target::LossChart));
}

fn held_out(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, trial: Trial<'_>, drawn: &mut Drawn) {
    let Scene { ui, look, .. } = scene;
    let arm = trial.result.key.arm;
    let of: Vec<_> = COLUMNS.iter().filter(|column| column.metric.applies_to(arm)).collect();
    let Some(column) = of.get(ui.held_out % of.len().max(1)) else { return };
    let (points, last) = series(&trial.result.curves.held_out, column.metric.name());
    let unit = if column.unit.is_empty() { String::new() } else { format!(" {}", column.unit) };
    let mut title = vec![Span::styled(format!("held-out {}", column.label), look.strong())];
    if let Some(last) = last {
        title.push(Span::raw(format!("  {}{unit}", figure(last))));
    }
    let inner = panel(buffer, area, Line::from(title), Line::default(), look);
    let never = scene.model.study.train().is_some_and(|train| train.eval_every == 0);
    let empty = if never { "measured at the end only" } else { "not measured yet" };
    let curve = Plot { points: &points, style: look.good(), logarithmic: false, label: figure_label, empty };
    plot(buffer, inner, &curve, look);
    drawn.targets.push((area, Target::HeldOutChart));
}

fn pace_and_rate(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, trial: Trial<'_>) {
    let look = scene.look;
    let left = Rect { width: area.width / 2, ..area };
    let right = Rect { x: left.right(), width: area.width - left.width, ..area };
    let mut title = vec![Span::styled("step time", look.strong())];
    if let Some(seconds) = trial.progress.pace.step_seconds() {
        title.push(Span::raw(format!("  {}", step_time(seconds))));
    }
    let inner = panel(buffer, left, Line::from(title), Line::default(), look);
    let points = trial.progress.pace.series();
    let curve = Plot {
        points: &points,
        style: look.warning().remove_modifier(ratatui::style::Modifier::BOLD),
        logarithmic: false,
        label: step_time,
        empty: "nothing reported yet",
    };
    plot(buffer, inner, &curve, look);
    let mut title = vec![Span::styled("learning rate", look.strong())];
    if let Some(rate) = trial.progress.learning_rate {
        title.push(Span::raw(format!("  {rate:.1e}")));
    }
    let inner = panel(buffer, right, Line::from(title), Line::default(), look);
    let (points, _) = series(&trial.result.curves.epochs, "learning_rate");
    let curve = Plot {
        points: &points,
        style: Style::new(),
        logarithmic: false,
        label: |rate| format!("{rate:.1e}"),
        empty: "known after the first epoch",
    };
    plot(buffer, inner, &curve, look);
}

fn series(curve: &Curve, name: &str) -> (Vec<(f64, f64)>, Option<f64>) {
    let points: Vec<CurvePoint> = curve.series(name);
    let last = points.last().map(|point| point.value);
    (points.into_iter().map(|point| (point.step as f64, point.value)).collect(), last)
}

fn attempts_panel(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, trial: Trial<'_>) {
    let inner =
        panel(buffer, area, Line::styled("Attempts", scene.look.strong()), Line::default(), scene.look);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let told = attempts(trial, scene, inner.width as usize);
    tail(buffer, inner, &told, 0);
}

/// The lower part, with the names of what it can show over it.
fn pane_panel(
    buffer: &mut Buffer,
    area: Rect,
    scene: Scene<'_>,
    trial: Trial<'_>,
    pane: Pane,
    choices: &[Pane],
    drawn: &mut Drawn,
) {
    let look = scene.look;
    let mut title = Vec::new();
    let mut x = area.x + 2;
    for choice in choices {
        let style = if *choice == pane { look.strong().patch(look.selected()) } else { look.dim() };
        let label = format!(" {} ", choice.label());
        let width = label.len() as u16;
        drawn.targets.push((Rect { x, y: area.y, width, height: 1 }, Target::Pane(*choice)));
        title.push(Span::styled(label, style));
        x += width;
    }
    let inner = panel(buffer, area, Line::from(title), Line::default(), look);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let width = inner.width as usize;
    let told = match pane {
        Pane::Attempts => attempts(trial, scene, width),
        Pane::Events => events(trial, scene, width),
        Pane::Log => log(trial, scene, width),
    };
    tail(buffer, inner, &told, scene.ui.pane_up);
}

/// The end of some lines, or what lies `up` lines before it.
fn tail(buffer: &mut Buffer, area: Rect, told: &[Line<'_>], up: usize) {
    let room = area.height as usize;
    let end = told.len() - up.min(told.len().saturating_sub(room));
    lines(buffer, area, &told[end.saturating_sub(room)..end]);
}

fn attempts(trial: Trial<'_>, scene: Scene<'_>, width: usize) -> Vec<Line<'static>> {
    let Scene { model, look, now_ms, .. } = scene;
    if trial.result.history.is_empty() {
        return vec![Line::styled("no attempt yet", look.dim())];
    }
    let clock_ms = model.clock(now_ms);
    let each = trial.result.history.iter().flat_map(|attempt| {
        let end_ms = attempt.ended_ms.unwrap_or(clock_ms);
        let took = short_span(end_ms.saturating_sub(attempt.started_ms) as f64 / 1000.0);
        let from = attempt.resumed_at.map(|step| format!(" from step {step}")).unwrap_or_default();
        let (words, style) = match &attempt.end {
            None => (format!("{} running", look.sign(TrialStatus::Running)), look.accent()),
            Some(end) => (end_words(end), end_style(end, scene)),
        };
        let head = format!(
            "{:>2}  {}  {:>7}  {}{from}  ",
            attempt.number,
            clock(attempt.started_ms, clock_ms, look),
            took,
            ranks_words(&attempt.placements),
        );
        // The cause of a failure is what is looked for here: it is told in full, as far as a screen has room.
        let columns = head.chars().count();
        let told = wrap(&words, width.saturating_sub(columns).max(20), look).into_iter().take(MOST_WORDS);
        told.enumerate().map(move |(row, words)| {
            let before = if row == 0 { head.clone() } else { " ".repeat(columns) };
            Line::from(vec![Span::raw(before), Span::styled(words, style)])
        })
    });
    each.collect()
}

fn end_style(end: &AttemptEnd, scene: Scene<'_>) -> Style {
    match end {
        AttemptEnd::Completed => scene.look.good(),
        AttemptEnd::Failed(_) | AttemptEnd::Unfit { .. } => scene.look.bad(),
        AttemptEnd::WorkerLost { .. } => scene.look.warning(),
        _ => scene.look.dim(),
    }
}

fn events(trial: Trial<'_>, scene: Scene<'_>, width: usize) -> Vec<Line<'static>> {
    let mut told: Vec<Line> = scene
        .model
        .study
        .journal()
        .of_trial(trial.result.key)
        .map(|entry| super::events::line(entry, scene, width, false))
        .collect();
    told.reverse();
    if told.is_empty() {
        told.push(Line::styled("nothing has happened yet", scene.look.dim()));
    }
    told
}

/// What the trainers write, as far as the coordinator keeps it; else where it lies.
fn log(trial: Trial<'_>, scene: Scene<'_>, width: usize) -> Vec<Line<'static>> {
    let Scene { model, look, .. } = scene;
    let key = trial.result.key;
    if let Some((_, kept)) = model.log.as_ref().filter(|(of, kept)| *of == key && !kept.is_empty()) {
        let several = kept.iter().any(|line| line.rank > 0);
        let line = |line: &LogLine| {
            let rank = if several { format!("{:>2} ", line.rank) } else { String::new() };
            let text = cut(&line.text.replace('\t', "    "), width.saturating_sub(rank.len()), look);
            Line::from(vec![Span::styled(rank, look.dim()), Span::raw(text)])
        };
        return kept.iter().map(line).collect();
    }
    let study = model.id.map(|id| id.to_string()).unwrap_or_default();
    let words = format!(
        "No line of the trainers' logs has come. On the workers they lie in \
         WORK_DIR/study-{study}-NAME/{}-{}-{}/ATTEMPT/rankN.log. How an attempt ended is under Attempts.",
        key.arm, key.fold, key.seed
    );
    wrap(&words, width, look).into_iter().map(|line| Line::styled(line, look.dim())).collect()
}
