//! What there is to say about one trial, in lines.

use mtinet_domain::trial::TrialStatus;
use ratatui::text::{Line, Span};

use super::frame::Scene;
use super::text::{Parts, clock_ahead, cut, facts, facts_wrapped, wrap};
use crate::dashboard::state::{COLUMNS, Trial, figure, number, ranks_words, short_span, step_time};

/// From here on it is told that a running trial reports nothing: a step or an evaluation takes long, or it hangs.
const SILENT_MS: u64 = 60_000;

/// The heading of a trial's panel.
pub fn heading(trial: Trial<'_>, scene: Scene<'_>) -> Line<'static> {
    let look = scene.look;
    let (key, status) = (trial.result.key, trial.progress.status);
    Line::from(vec![
        Span::styled(format!("{key}  "), look.strong()),
        Span::styled(format!("{} {}", look.sign(status), status.word()), look.status(status)),
    ])
}

/// The network's full name.
pub fn arm_label(trial: Trial<'_>, scene: Scene<'_>) -> Line<'static> {
    Line::styled(trial.result.key.arm.label(), scene.look.dim())
}

/// Everything about a trial in at most `most` lines: where it stands, how fast it trains, what it measured, why it
/// waits.
pub fn lines(trial: Trial<'_>, scene: Scene<'_>, width: usize, most: usize) -> Vec<Line<'static>> {
    let all = [standing_parts(trial, scene), pace_parts(trial, scene), measured_parts(trial, scene)];
    let mut lines: Vec<Line> = all.into_iter().map(|parts| facts(parts, width, scene.look)).collect();
    lines.retain(|line| line.width() > 0);
    let room = most.saturating_sub(lines.len());
    lines.extend(why(trial, scene, width).into_iter().take(room));
    lines.truncate(most);
    lines
}

/// The same for a narrow column: as many lines as it takes.
pub fn stacked(trial: Trial<'_>, scene: Scene<'_>, width: usize, most: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for parts in [standing_parts(trial, scene), pace_parts(trial, scene), measured_parts(trial, scene)] {
        lines.extend(facts_wrapped(parts, width, scene.look));
    }
    let room = most.saturating_sub(lines.len());
    lines.extend(why(trial, scene, width).into_iter().take(room));
    lines.truncate(most);
    lines
}

fn named(name: &str, value: String, scene: Scene<'_>) -> Vec<Span<'static>> {
    vec![Span::styled(format!("{name} "), scene.look.dim()), Span::raw(value)]
}

fn standing_parts(trial: Trial<'_>, scene: Scene<'_>) -> Parts {
    let Scene { model, look, now_ms, .. } = scene;
    let progress = trial.progress;
    let study = &model.study;
    let mut parts = Vec::new();
    if trial.result.attempts == 0 {
        parts.push(vec![Span::styled("has not begun", look.dim())]);
        return parts;
    }
    let total = study.train().and_then(|train| progress.total_steps(train, study.steps_per_epoch()));
    let of = total.map(|total| format!(" of {total:.0}")).unwrap_or_default();
    let percent = (study.fraction(progress) * 100.0).floor();
    parts.push(named("step", format!("{}{of} ({percent:.0} %)", progress.step), scene));
    if progress.epoch > 0 {
        parts.push(named("epoch", progress.epoch.to_string(), scene));
    }
    parts.push(named("attempt", trial.result.attempts.to_string(), scene));
    if progress.status == TrialStatus::Running {
        parts.push(vec![Span::raw(ranks_words(&trial.result.placements))]);
        if let Some(worker) = worker_name(trial, scene) {
            parts.push(named("on", worker, scene));
        }
    }
    if trial.result.failures > 0 {
        let words = match trial.result.failures {
            1 => "failed once".to_owned(),
            failures => format!("failed {failures} times"),
        };
        parts.push(vec![Span::styled(words, look.warning())]);
    }
    let silent = progress.heard_ms.map_or(0, |heard| model.clock(now_ms).saturating_sub(heard));
    if progress.status == TrialStatus::Running && silent > SILENT_MS {
        let words = format!("no report for {}", short_span(silent as f64 / 1000.0));
        parts.push(vec![Span::styled(words, look.warning())]);
    }
    let ran = trial.running_ms(model.clock(now_ms)) as f64 / 1000.0;
    parts.push(named("ran", short_span(ran), scene));
    parts
}

/// The name of the worker that rank 0 runs on, and how many others there are.
fn worker_name(trial: Trial<'_>, scene: Scene<'_>) -> Option<String> {
    let workers = scene.model.workers.as_ref()?;
    let mut ids: Vec<&str> = trial.result.placements.iter().map(|place| place.worker.0.as_str()).collect();
    ids.dedup();
    let name = workers.iter().find(|worker| Some(&worker.id.as_str()) == ids.first())?.name.clone();
    Some(if ids.len() > 1 { format!("{name} and {} more", ids.len() - 1) } else { name })
}

fn pace_parts(trial: Trial<'_>, scene: Scene<'_>) -> Parts {
    let Scene { model, look, now_ms, .. } = scene;
    let progress = trial.progress;
    let mut parts = Vec::new();
    if let Some(loss) = progress.loss {
        parts.push(named("loss", number(loss), scene));
    }
    if let Some(seconds) = progress.pace.step_seconds().filter(|seconds| *seconds > 0.0) {
        parts.push(named("step time", step_time(seconds), scene));
        if let Some(train) = model.study.train() {
            let samples = train.effective_batch() as f64 / seconds;
            parts.push(vec![Span::raw(format!("{samples:.0}")), Span::styled(" samples/s", look.dim())]);
        }
    }
    if let Some(rate) = progress.learning_rate {
        parts.push(named("learning rate", format!("{rate:.1e}"), scene));
    }
    if let Some((step, at_ms)) = progress.checkpoint {
        let ago = short_span(model.clock(now_ms).saturating_sub(at_ms) as f64 / 1000.0);
        let words = match progress.status {
            TrialStatus::Running => format!("step {step}, {ago} ago"),
            _ => format!("step {step}"),
        };
        parts.push(named("checkpoint", words, scene));
    }
    if let Some(train) = model.study.train()
        && let Some(seconds) = progress.seconds_left(train, model.study.steps_per_epoch())
    {
        parts.push(vec![Span::raw(short_span(seconds)), Span::styled(" left", look.dim())]);
    }
    parts
}

/// The figures of the held-out fold: the final ones, or those measured last.
fn measured_parts(trial: Trial<'_>, scene: Scene<'_>) -> Parts {
    let look = scene.look;
    let arm = trial.result.key.arm;
    let is_done = trial.result.summary().is_some();
    let mut parts = Vec::new();
    let mut at = None;
    for column in COLUMNS.iter().filter(|column| column.metric.applies_to(arm)) {
        let value = if is_done {
            column.metric.of_trial(trial.result)
        } else {
            let last = trial.result.curves.held_out.series(column.metric.name()).pop();
            at = last.map(|point| point.epoch).or(at);
            last.map(|point| point.value)
        };
        if let Some(value) = value {
            let unit = if column.unit.is_empty() { String::new() } else { format!(" {}", column.unit) };
            parts.push(named(column.label, format!("{}{unit}", figure(value)), scene));
        }
    }
    if !parts.is_empty() {
        let words = match (is_done, at) {
            (true, _) => "held-out fold, final".to_owned(),
            (false, Some(epoch)) => format!("held-out fold after epoch {epoch}"),
            (false, None) => "held-out fold".to_owned(),
        };
        parts.push(vec![Span::styled(words, look.dim())]);
    }
    parts
}

/// Why it does not run, and what bears on it.
fn why(trial: Trial<'_>, scene: Scene<'_>, width: usize) -> Vec<Line<'static>> {
    let Scene { model, look, now_ms, .. } = scene;
    let key = trial.result.key;
    let status = trial.progress.status;
    if matches!(status, TrialStatus::Done | TrialStatus::Cancelled) {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let reason = model.why(key).map(str::to_owned).or_else(|| {
        let at = trial.progress.retry_at_ms.filter(|_| status == TrialStatus::Waiting)?;
        Some(format!("tried again at {}", clock_ahead(at, now_ms, look)))
    });
    if let Some(reason) = reason {
        let label = match status {
            TrialStatus::Waiting => "waits: ",
            TrialStatus::Failed => "given up: ",
            _ => "",
        };
        let style = if status == TrialStatus::Failed { look.bad() } else { look.warning() };
        let words = wrap(&format!("{label}{reason}"), width, look);
        lines.extend(words.into_iter().map(|line| Line::styled(line, style)));
    }
    if let Some((_, explained)) = model.explained.as_ref().filter(|(of, _)| *of == key)
        && status != TrialStatus::Running
    {
        let details = explained.details.iter().map(|detail| cut(detail, width, look));
        lines.extend(details.map(|detail| Line::styled(detail, look.dim())));
    }
    lines
}
