//! The whole study: the grid of trials, the selected one, and on a large terminal the leaderboard and the last events.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::frame::{Drawn, Scene};
use super::grid::{self, Shape};
use super::panel::{lines, panel};
use super::{events, facts, leaderboard, trial};

/// From this width on the selected trial stands beside the grid.
const WIDE: u16 = 130;
/// Least columns of the selected trial beside the grid.
const BESIDE: u16 = 46;
/// Rows of the selected trial below the grid, borders included.
const BELOW: u16 = 7;
/// Most lines of facts in a column of their own.
const COLUMN_FACTS: usize = 14;
/// Least rows of a curve with its border.
const CURVE: u16 = 5;

/// Draws the screen.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    let Some(shape) = Shape::of(scene) else {
        loading(buffer, area, scene);
        return;
    };
    if area.width < WIDE {
        let height = shape.height().min(area.height.saturating_sub(BELOW)).max(4);
        grid::draw(buffer, Rect { height, ..area }, scene, &shape, drawn);
        let below = Rect { y: area.y + height, height: area.height - height, ..area };
        selected(buffer, below, scene, drawn);
        return;
    }
    let width = shape.width().min(area.width - BESIDE).max(area.width / 2);
    let left = Rect { width, ..area };
    selected(buffer, Rect { x: area.x + width, width: area.width - width, ..area }, scene, drawn);
    let height = shape.height().min(area.height);
    // Fewer than these rows below the grid say nothing.
    let rest = if area.height - height < 5 { 0 } else { area.height - height };
    grid::draw(buffer, Rect { height: area.height - rest, ..left }, scene, &shape, drawn);
    if rest == 0 {
        return;
    }
    let below = Rect { y: area.bottom() - rest, height: rest, ..left };
    let arms = scene.model.study.spec().map_or(0, |spec| spec.arms.len()) as u16;
    let board = (arms + 3).min(rest);
    // Half a leaderboard is none: then the events have all the room.
    let board = if board < arms + 3 { 0 } else { board };
    if board > 0 {
        leaderboard::draw(buffer, Rect { height: board, ..below }, scene, &mut Drawn::default());
    }
    let rest = rest - board;
    if rest >= 3 {
        events::recent(buffer, Rect { y: below.y + board, height: rest, ..below }, scene);
    }
}

fn loading(buffer: &mut Buffer, area: Rect, scene: Scene<'_>) {
    let words = match scene.model.studies.is_empty() {
        true => "reading the study's events",
        false => "reading the study's events; s lists all studies",
    };
    let line = Line::styled(words, scene.look.dim());
    let x = area.x + (area.width.saturating_sub(line.width() as u16)) / 2;
    buffer.set_line(x, area.y + area.height / 2, &line, area.width);
}

/// The selected trial: facts, and below them curves where there is room.
fn selected(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    let Some(trial) = scene.model.study.trial(scene.ui.trial) else { return };
    if area.height < 3 {
        return;
    }
    let width = usize::from(area.width.saturating_sub(4));
    let is_column = width < 76 && area.height > 20;
    let most = usize::from(area.height - 2);
    let told = if is_column {
        facts::stacked(trial, scene, width, most.min(COLUMN_FACTS))
    } else {
        facts::lines(trial, scene, width, most)
    };
    let has_curves = !trial.result.curves.is_empty();
    let rest = area.height - 2 - told.len() as u16;
    let height = if has_curves && rest >= CURVE { area.height - rest } else { area.height };
    let heading = facts::heading(trial, scene);
    let label = facts::arm_label(trial, scene);
    let fits = heading.width() + label.width() + 6 <= usize::from(area.width);
    let top = Rect { height, ..area };
    let inner = panel(buffer, top, heading, if fits { label } else { Line::default() }, scene.look);
    lines(buffer, Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner }, &told);
    if height == area.height {
        return;
    }
    let room = Rect { y: top.bottom(), height: rest, ..area };
    if is_column && rest >= 2 * CURVE {
        trial::curves_below(buffer, room, scene, trial, drawn);
    } else {
        trial::curves_beside(buffer, room, scene, trial, drawn);
    }
}
