//! What a click and the wheel do.

use crossterm::event::{KeyCode, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Position;

use super::keys::{answer, choose_study, folds, moved, scroll_events, select_trial};
use super::lists::visible_workers;
use super::ui::{Effect, Popup, Tab, Target, Ui};
use crate::dashboard::state::Model;

/// Lines that one notch of the wheel moves a list by.
const NOTCH: isize = 3;

/// Takes a click or a turn of the wheel in.
pub fn on_mouse(ui: &mut Ui, model: &Model, event: MouseEvent) -> Effect {
    match event.kind {
        MouseEventKind::Down(MouseButton::Left) => {
            let at = Position::new(event.column, event.row);
            // What was drawn later lies above.
            let hit = ui.targets.iter().rev().find(|(area, _)| area.contains(at)).map(|(_, target)| *target);
            click(ui, model, hit)
        }
        MouseEventKind::ScrollUp => {
            wheel(ui, model, -1);
            Effect::None
        }
        MouseEventKind::ScrollDown => {
            wheel(ui, model, 1);
            Effect::None
        }
        _ => Effect::None,
    }
}

fn click(ui: &mut Ui, model: &Model, hit: Option<Target>) -> Effect {
    if ui.popup.is_some() {
        return match hit {
            Some(Target::Yes) => answer(ui, true),
            Some(Target::Study(index)) => choose_study(ui, model, index),
            _ => answer(ui, false),
        };
    }
    match hit {
        Some(Target::Tab(tab)) => ui.go(tab),
        // A second click on a trial opens it.
        Some(Target::Trial(index)) if ui.trial == index && ui.tab == Tab::Overview => ui.go(Tab::Trial),
        Some(Target::Trial(index)) => (ui.trial, ui.pane_up) = (index, 0),
        Some(Target::Worker(index)) => ui.worker = index,
        Some(Target::Arm(index)) => ui.arm = index,
        Some(Target::Column(index)) => ui.by = index,
        Some(Target::Pane(pane)) => (ui.pane, ui.pane_up) = (pane, 0),
        Some(Target::LossChart) => ui.loss += 1,
        Some(Target::HeldOutChart) => ui.held_out += 1,
        Some(Target::Study(_) | Target::Yes | Target::No) | None => {}
    }
    Effect::None
}

fn wheel(ui: &mut Ui, model: &Model, down: isize) {
    if let Some(popup) = &mut ui.popup {
        if let Popup::Studies(selected) = popup {
            let last = model.studies.len().saturating_sub(1);
            *selected = selected.saturating_add_signed(down).min(last);
        }
        return;
    }
    let by = |at: usize, len: usize| {
        let code = if down > 0 { KeyCode::PageDown } else { KeyCode::PageUp };
        moved(at, len, NOTCH.unsigned_abs(), code)
    };
    match ui.tab {
        Tab::Overview => select_trial(ui, model, down * folds(model) as isize),
        Tab::Trial => ui.pane_up = ui.pane_up.saturating_add_signed(-down * NOTCH),
        Tab::Workers => ui.worker = by(ui.worker, visible_workers(model, ui).len()),
        Tab::Leaderboard => ui.arm = by(ui.arm, model.study.spec().map_or(0, |spec| spec.arms.len())),
        Tab::Events => scroll_events(ui, model, -down * NOTCH),
    }
}
