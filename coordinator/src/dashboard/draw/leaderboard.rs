//! Arms side by side: mean and sample deviation over the folds that are finished so far, never without saying how many
//! those are.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::frame::{Drawn, Scene};
use super::panel::{first_shown, panel, scroll_bar};
use super::text::{cut, fit, fit_right};
use crate::dashboard::input::{Tab, Target};
use crate::dashboard::state::{COLUMNS, Row, leaderboard};
use crate::report::Cell;

/// Least columns for the ranges to be drawn.
const RANGE: usize = 24;

/// Draws the leaderboard in a panel.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    let Scene { model, ui, look, .. } = scene;
    let rows = leaderboard(&model.study, ui.by);
    let by = COLUMNS[ui.by];
    let title = Line::from(vec![
        Span::styled("Leaderboard", look.strong()),
        Span::styled(format!("  by {}", by.label), look.accent()),
    ]);
    let words = format!("mean {} sample std over finished folds", look.signs.plus_minus);
    let inner = panel(buffer, area, title, Line::styled(words, look.dim()), look);
    let room = usize::from(inner.height.saturating_sub(1));
    let is_screen = ui.tab == Tab::Leaderboard;
    let selected = ui.arm.min(rows.len().saturating_sub(1));
    let first = first_shown(ui.offsets.arms, selected, rows.len(), room);
    if is_screen {
        (drawn.offsets.arms, drawn.offsets.page) = (first, room);
    }
    scroll_bar(buffer, area, first, room, rows.len(), look);
    let arm = rows.iter().map(|row| row.arm.name().len()).max().unwrap_or(0);
    let head = 4 + arm + 2 + 6;
    let cell = ((inner.width as usize).saturating_sub(head) / COLUMNS.len()).saturating_sub(1).clamp(8, 18);
    header(buffer, inner, scene, head, arm, cell, drawn);
    let used = head + COLUMNS.len() * (cell + 1) + 2;
    let range = Rect {
        x: inner.x + used as u16,
        width: (inner.width as usize).saturating_sub(used + 1) as u16,
        ..inner
    };
    let best = best(&rows);
    for (y, place) in (inner.y + 1..inner.bottom()).zip(first..rows.len()) {
        let row = &rows[place];
        let line = row_line(row, place, arm, cell, &best, scene);
        buffer.set_line(inner.x, y, &line, inner.width);
        let whole = Rect { y, height: 1, ..inner };
        if usize::from(range.width) >= RANGE {
            draw_range(buffer, Rect { y, height: 1, ..range }, &rows, row, scene);
        }
        if is_screen {
            drawn.targets.push((whole, Target::Arm(place)));
            if place == selected {
                buffer.set_style(whole, look.selected());
            }
        }
    }
}

fn header(
    buffer: &mut Buffer,
    inner: Rect,
    scene: Scene<'_>,
    head: usize,
    arm: usize,
    cell: usize,
    drawn: &mut Drawn,
) {
    let look = scene.look;
    let words = format!("    {}  {}", fit("arm", arm, look), fit("folds", 6, look));
    buffer.set_string(inner.x, inner.y, words, look.dim());
    for (place, column) in COLUMNS.iter().enumerate() {
        let unit = if column.unit.is_empty() { String::new() } else { format!(" {}", column.unit) };
        let is_order = place == scene.ui.by;
        let sign = if is_order { "*" } else { "" };
        let text = fit_right(&format!("{sign}{}{unit}", column.label), cell, look);
        let x = inner.x + (head + place * (cell + 1)) as u16;
        let style = if is_order { look.accent() } else { look.dim() };
        buffer.set_string(x, inner.y, text, style);
        let at = Rect { x, y: inner.y, width: cell as u16, height: 1 };
        drawn.targets.push((at, Target::Column(place)));
    }
}

fn row_line(
    row: &Row,
    place: usize,
    arm: usize,
    cell: usize,
    best: &[Option<f64>; 4],
    scene: Scene<'_>,
) -> Line<'static> {
    let look = scene.look;
    let (done, all) = row.folds;
    let number = if row.mean(scene.ui.by).is_some() { format!("{:>2}", place + 1) } else { "  ".to_owned() };
    let folds = format!("{done}/{all}");
    let fold_style = if done == all { Style::new() } else { look.warning() };
    let mut spans = vec![
        Span::styled(format!(" {number} "), look.dim()),
        Span::styled(fit(row.arm.name(), arm, look), look.strong()),
        Span::raw("  "),
        Span::styled(fit(&folds, 6, look), fold_style),
    ];
    for (column, best) in best.iter().enumerate() {
        let is_best = row.mean(column).is_some() && row.mean(column) == *best;
        let style = match &row.cells[column] {
            Cell::Value(aggregate) if aggregate.over_folds.is_some() && is_best => {
                look.good().patch(look.strong())
            }
            Cell::Value(aggregate) if aggregate.over_folds.is_some() => Style::new(),
            _ => look.dim(),
        };
        spans.push(Span::styled(fit_right(&words(&row.cells[column], cell, scene), cell, look), style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

/// A mean and its deviation in at most `width` columns; the deviation gives way to fewer digits, then to nothing.
fn words(cell: &Cell, width: usize, scene: Scene<'_>) -> String {
    let look = scene.look;
    let Some(aggregate) = cell.value() else { return look.signs.dot.to_owned() };
    let Some(stats) = aggregate.over_folds else { return "-".to_owned() };
    let sign = look.signs.plus_minus;
    let with = |digits: usize| match stats.std {
        Some(std) => format!("{:.digits$} {sign} {std:.digits$}", stats.mean),
        None => format!("{:.digits$}", stats.mean),
    };
    let fits = [2, 1, 0].into_iter().map(with).find(|words| words.chars().count() <= width);
    cut(&fits.unwrap_or_else(|| format!("{:.1}", stats.mean)), width, look)
}

/// The best mean of each column among arms with the most finished folds: fewer folds are another test.
fn best(rows: &[Row]) -> [Option<f64>; 4] {
    let most = rows.iter().map(|row| row.folds.0).max().unwrap_or(0);
    std::array::from_fn(|column| {
        let means =
            rows.iter().filter(|row| row.folds.0 == most && most > 0).filter_map(|row| row.mean(column));
        if COLUMNS[column].metric.larger_is_better() {
            means.max_by(f64::total_cmp)
        } else {
            means.min_by(f64::total_cmp)
        }
    })
}

/// Mean and deviation of the column that orders, over the span of all arms.
fn draw_range(buffer: &mut Buffer, area: Rect, rows: &[Row], row: &Row, scene: Scene<'_>) {
    let (look, by) = (scene.look, scene.ui.by);
    let of = |row: &Row| {
        let stats = row.cells[by].value()?.over_folds?;
        let std = stats.std.unwrap_or(0.0);
        Some((stats.mean - std, stats.mean, stats.mean + std))
    };
    let Some((low, mean, high)) = of(row) else { return };
    let all: Vec<_> = rows.iter().filter_map(of).collect();
    let least = all.iter().map(|range| range.0).fold(f64::INFINITY, f64::min);
    let most = all.iter().map(|range| range.2).fold(f64::NEG_INFINITY, f64::max);
    if most - least < 1e-12 {
        return;
    }
    let last = f64::from(area.width - 1);
    let x = |value: f64| area.x + ((value - least) / (most - least) * last).round() as u16;
    let [start, line, middle, end] = look.signs.range;
    for at in x(low)..=x(high) {
        buffer.set_string(at, area.y, line, look.dim());
    }
    if x(high) > x(low) {
        buffer.set_string(x(low), area.y, start, look.dim());
        buffer.set_string(x(high), area.y, end, look.dim());
    }
    buffer.set_string(x(mean), area.y, middle, look.accent());
}
