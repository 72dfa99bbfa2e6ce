//! Arms x folds: one cell a trial.

use mtinet_domain::trial::TrialStatus;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::frame::{Drawn, Scene};
use super::panel::{first_shown, panel, scroll_bar};
use super::text::{bar, cut, fit};
use crate::dashboard::input::Target;
use crate::dashboard::state::{Column, Trial, number};
use unicode_width::UnicodeWidthStr as _;

/// Columns of a cell: fewer say nothing, more are wasted.
const CELL: (usize, usize) = (7, 26);

/// How the grid lies: rows are arms x seeds, columns are folds.
pub struct Shape {
    rows: usize,
    folds: Vec<u32>,
    label: usize,
    has_seeds: bool,
}

impl Shape {
    /// The shape of a study's grid.
    pub fn of(scene: Scene<'_>) -> Option<Self> {
        let spec = scene.model.study.spec()?;
        let has_seeds = spec.seeds.len() > 1;
        let arms = spec.arms.iter().map(|arm| arm.name().len()).max().unwrap_or(0);
        let seeds = spec.seeds.iter().map(|seed| seed.to_string().len() + 2).max().unwrap_or(0);
        let label = arms + if has_seeds { seeds } else { 0 };
        Some(Self { rows: spec.arms.len() * spec.seeds.len(), folds: spec.folds.indices(), label, has_seeds })
    }

    /// Rows with head and borders.
    pub fn height(&self) -> u16 {
        (self.rows + 3) as u16
    }

    /// The columns that it would like to have.
    pub fn width(&self) -> u16 {
        (self.label + 3 + self.folds.len() * (CELL.1 + 1)) as u16
    }
}

/// Draws the grid in a panel.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, shape: &Shape, drawn: &mut Drawn) {
    let Scene { model, ui, look, .. } = scene;
    let folds = shape.folds.len().max(1);
    let room = usize::from(area.height.saturating_sub(3));
    let (row, column) = (ui.trial / folds, ui.trial % folds);
    let first = first_shown(ui.offsets.grid, row, shape.rows, room);
    let inside = usize::from(area.width).saturating_sub(2 + shape.label + 2);
    let cell = (inside / folds).saturating_sub(1).clamp(CELL.0, CELL.1);
    let shown = (inside / (cell + 1)).clamp(1, folds);
    let first_fold = first_shown(ui.offsets.folds, column, folds, shown);
    (drawn.offsets.grid, drawn.offsets.folds, drawn.offsets.page) = (first, first_fold, room);
    let more = if shape.rows > room {
        format!("{}-{} of {} rows", first + 1, first + room, shape.rows)
    } else {
        String::new()
    };
    let counts = model.study.counts();
    let title = Line::from(vec![
        Span::styled("Trials", look.strong()),
        Span::styled(format!("  {} of {} done", counts.done, counts.all()), look.dim()),
    ]);
    let inner = panel(buffer, area, title, Line::styled(more, look.dim()), look);
    scroll_bar(buffer, area, first, room, shape.rows, look);
    let x = |place: usize| inner.x + 1 + (shape.label + 1 + place * (cell + 1)) as u16;
    for place in 0..shown {
        let head = format!("fold {}", shape.folds[first_fold + place]);
        let style = if first_fold + place == column { look.strong() } else { look.dim() };
        buffer.set_string(x(place), inner.y, fit(&head, cell, look), style);
    }
    for (y, row_at) in (inner.y + 1..inner.bottom()).zip(first..shape.rows) {
        let Some(trial) = model.study.trial(row_at * folds) else { break };
        let key = trial.result.key;
        let label = if shape.has_seeds { format!("{} s{}", key.arm, key.seed) } else { key.arm.to_string() };
        let style = if row_at == row { look.strong() } else { ratatui::style::Style::new() };
        buffer.set_string(inner.x + 1, y, fit(&label, shape.label, look), style);
        for place in 0..shown {
            let index = row_at * folds + first_fold + place;
            let Some(trial) = model.study.trial(index) else { break };
            let at = Rect { x: x(place), y, width: cell as u16, height: 1 };
            let line = cell_line(trial, scene, cell);
            buffer.set_line(at.x, y, &line, at.width);
            if index == ui.trial {
                buffer.set_style(at, look.selected());
            }
            drawn.targets.push((at, Target::Trial(index)));
        }
    }
}

/// What a cell of `width` columns says of a trial.
fn cell_line(trial: Trial<'_>, scene: Scene<'_>, width: usize) -> Line<'static> {
    let look = scene.look;
    let status = trial.progress.status;
    let sign = Span::styled(look.sign(status), look.status(status));
    let share = scene.model.study.fraction(trial.progress);
    let percent = format!("{:.0}%", (share * 100.0).floor());
    let text = match status {
        TrialStatus::Running if width >= 20 => return with_bar(trial, scene, width, share, &percent),
        TrialStatus::Running => {
            let loss = trial.progress.loss.map(|loss| format!(" {}", number(loss))).unwrap_or_default();
            format!("{percent}{loss}")
        }
        TrialStatus::Stopping => format!("{percent} stopping"),
        TrialStatus::Done => done_words(trial, width - 2),
        TrialStatus::Waiting if trial.result.attempts > 0 && share > 0.0 => format!("{percent} waiting"),
        TrialStatus::Waiting if trial.result.attempts > 0 => "waits again".to_owned(),
        status => status.word().to_owned(),
    };
    let style = match status {
        TrialStatus::Waiting | TrialStatus::Cancelled => look.dim(),
        TrialStatus::Failed => look.bad(),
        _ => ratatui::style::Style::new(),
    };
    // Where words do not fit, the sign alone says it.
    let text = if text.width() + 2 > width && matches!(status, TrialStatus::Stopping | TrialStatus::Waiting) {
        cut(text.split(' ').next_back().unwrap_or_default(), width - 2, look)
    } else {
        cut(&text, width - 2, look)
    };
    Line::from(vec![sign, Span::raw(" "), Span::styled(text, style)])
}

fn with_bar(trial: Trial<'_>, scene: Scene<'_>, width: usize, share: f64, percent: &str) -> Line<'static> {
    let look = scene.look;
    let loss = trial.progress.loss.map(number).unwrap_or_default();
    let failures = trial.result.failures;
    let again = if failures > 0 { format!(" !{failures}") } else { String::new() };
    let rest = format!(" {percent:>4} {loss:>6}");
    let mut spans = vec![Span::styled(
        format!("{} ", look.sign(TrialStatus::Running)),
        look.status(TrialStatus::Running),
    )];
    spans.extend(bar(share, width.saturating_sub(2 + rest.width() + again.width()), look.accent(), look));
    spans.push(Span::raw(rest));
    spans.push(Span::styled(again, look.warning()));
    Line::from(spans)
}

/// The figure that stands for a finished trial, and more where there is room.
fn done_words(trial: Trial<'_>, width: usize) -> String {
    let headline = Column::headline(trial.result.key.arm);
    let Some(value) = headline.metric.of_trial(trial.result) else { return "done".to_owned() };
    let short = if headline.label == "accuracy" { "acc" } else { headline.label };
    match width {
        0..=8 => format!("{value:.1}"),
        9..=11 => format!("{short} {value:.1}"),
        _ => format!("{short} {value:.2}"),
    }
}
