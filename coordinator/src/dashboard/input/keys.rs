//! What each key does.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::command::{self, Asked};
use super::lists::visible_workers;
use super::ui::{Effect, Pane, Popup, Tab, Ui};
use crate::dashboard::state::{COLUMNS, Link, Model, leaderboard};

/// Takes a key in.
pub fn on_key(ui: &mut Ui, model: &Model, key: KeyEvent) -> Effect {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        match key.code {
            KeyCode::Char('c') => return Effect::Interrupt,
            KeyCode::Char('z') => return Effect::Suspend,
            _ => {}
        }
    }
    if ui.popup.is_some() {
        return in_popup(ui, model, key.code);
    }
    if ui.editing {
        in_filter(ui, key.code);
        return Effect::None;
    }
    match key.code {
        KeyCode::Char('q') => return Effect::Quit,
        KeyCode::Char('?') | KeyCode::F(1) => ui.popup = Some(Popup::Help),
        KeyCode::Char('s') => open_studies(ui, model),
        KeyCode::Char(digit @ '1'..='5') => ui.go(Tab::ALL[digit as usize - '1' as usize]),
        KeyCode::Tab => ui.go(ui.tab.step(1)),
        KeyCode::BackTab => ui.go(ui.tab.step(Tab::ALL.len() - 1)),
        KeyCode::Char('p') => return ask(ui, model, command::pause_or_resume(model)),
        KeyCode::Char('C') => return ask(ui, model, command::cancel_study(model)),
        KeyCode::Char('T') => return ask(ui, model, command::retry_all(model)),
        KeyCode::Char('/') if ui.filter().is_some() => ui.editing = true,
        KeyCode::Esc => {
            let cleared = ui.filter().is_some_and(|filter| !std::mem::take(filter).is_empty());
            if !cleared {
                ui.go(Tab::Overview);
            }
        }
        code => return on_screen(ui, model, code),
    }
    Effect::None
}

/// Asks whether a command is meant, or says why it makes no sense.
pub fn ask(ui: &mut Ui, model: &Model, asked: Asked) -> Effect {
    if model.link == Link::Recorded {
        return Effect::Tell("this is a recording: no coordinator runs that could be asked".to_owned());
    }
    match asked {
        Ok((command, question)) => {
            ui.popup = Some(Popup::Confirm { command, question });
            Effect::None
        }
        Err(why) => Effect::Tell(why),
    }
}

/// Closes the popup as the person answered.
pub fn answer(ui: &mut Ui, yes: bool) -> Effect {
    match ui.popup.take() {
        Some(Popup::Confirm { command, .. }) if yes => Effect::Send(command),
        _ => Effect::None,
    }
}

/// Follows the selected study of the list.
pub fn choose_study(ui: &mut Ui, model: &Model, index: usize) -> Effect {
    ui.popup = None;
    match model.studies.get(index) {
        Some(study) if model.id != Some(study.id) => {
            (ui.trial, ui.arm, ui.pinned, ui.pane_up) = (0, 0, None, 0);
            Effect::Follow(study.id)
        }
        _ => Effect::None,
    }
}

fn open_studies(ui: &mut Ui, model: &Model) {
    let present = model.studies.iter().position(|study| model.id == Some(study.id));
    ui.popup = Some(Popup::Studies(present.unwrap_or(0)));
}

fn in_popup(ui: &mut Ui, model: &Model, code: KeyCode) -> Effect {
    match (&mut ui.popup, code) {
        (Some(Popup::Confirm { .. }), KeyCode::Char('y' | 'Y')) => return answer(ui, true),
        // Anything else is no: a key that was meant for the screen below must not do harm.
        (Some(Popup::Confirm { .. }), _) => return answer(ui, false),
        (Some(Popup::Studies(selected)), KeyCode::Up | KeyCode::Char('k')) => {
            *selected = selected.saturating_sub(1);
        }
        (Some(Popup::Studies(selected)), KeyCode::Down | KeyCode::Char('j')) => {
            *selected = (*selected + 1).min(model.studies.len().saturating_sub(1));
        }
        (Some(Popup::Studies(selected)), KeyCode::Enter) => {
            let selected = *selected;
            return choose_study(ui, model, selected);
        }
        _ => ui.popup = None,
    }
    Effect::None
}

fn in_filter(ui: &mut Ui, code: KeyCode) {
    let mut is_done = false;
    if let Some(filter) = ui.filter() {
        match code {
            KeyCode::Char(c) => filter.push(c),
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Esc => {
                filter.clear();
                is_done = true;
            }
            KeyCode::Enter | KeyCode::Up | KeyCode::Down | KeyCode::Tab => is_done = true,
            _ => {}
        }
    }
    ui.editing &= !is_done;
    (ui.worker, ui.pinned) = (0, None);
}

fn on_screen(ui: &mut Ui, model: &Model, code: KeyCode) -> Effect {
    match ui.tab {
        Tab::Overview | Tab::Trial => on_trials(ui, model, code),
        Tab::Workers => on_workers(ui, model, code),
        Tab::Leaderboard => {
            on_leaderboard(ui, model, code);
            Effect::None
        }
        Tab::Events => {
            on_events(ui, model, code);
            Effect::None
        }
    }
}

fn on_trials(ui: &mut Ui, model: &Model, code: KeyCode) -> Effect {
    match code {
        KeyCode::Char('c') => return ask(ui, model, command::cancel_trial(model, ui.trial)),
        KeyCode::Char('z') => return ask(ui, model, command::pause_or_resume_trial(model, ui.trial)),
        KeyCode::Char('t') => return ask(ui, model, command::retry_trial(model, ui.trial)),
        KeyCode::Char('m') => ui.held_out += 1,
        KeyCode::Char('x') => ui.loss += 1,
        KeyCode::Char('g') => ui.logarithmic = !ui.logarithmic,
        _ if ui.tab == Tab::Overview => in_grid(ui, model, code),
        KeyCode::Left | KeyCode::Char('h') => select_trial(ui, model, -1),
        KeyCode::Right | KeyCode::Char('l') => select_trial(ui, model, 1),
        KeyCode::Char('v') => (ui.pane, ui.pane_up) = (Pane::next(ui.pane), 0),
        KeyCode::Up | KeyCode::Char('k') => ui.pane_up += 1,
        KeyCode::Down | KeyCode::Char('j') => ui.pane_up = ui.pane_up.saturating_sub(1),
        KeyCode::PageUp => ui.pane_up += 10,
        KeyCode::PageDown => ui.pane_up = ui.pane_up.saturating_sub(10),
        KeyCode::End => ui.pane_up = 0,
        _ => {}
    }
    Effect::None
}

fn in_grid(ui: &mut Ui, model: &Model, code: KeyCode) {
    let folds = folds(model) as isize;
    let page = ui.offsets.page.max(1) as isize;
    match code {
        KeyCode::Left | KeyCode::Char('h') => select_trial(ui, model, -1),
        KeyCode::Right | KeyCode::Char('l') => select_trial(ui, model, 1),
        KeyCode::Up | KeyCode::Char('k') => select_trial(ui, model, -folds),
        KeyCode::Down | KeyCode::Char('j') => select_trial(ui, model, folds),
        KeyCode::PageUp => select_trial(ui, model, -folds * page),
        KeyCode::PageDown => select_trial(ui, model, folds * page),
        KeyCode::Home => ui.trial = 0,
        KeyCode::End => ui.trial = trials(model).saturating_sub(1),
        KeyCode::Enter => ui.go(Tab::Trial),
        _ => {}
    }
}

fn on_workers(ui: &mut Ui, model: &Model, code: KeyCode) -> Effect {
    let workers = visible_workers(model, ui);
    ui.worker = ui.worker.min(workers.len().saturating_sub(1));
    match code {
        KeyCode::Char('d') => return ask(ui, model, command::drain(workers.get(ui.worker))),
        KeyCode::Char('r') => return ask(ui, model, command::readmit(workers.get(ui.worker))),
        KeyCode::Char('o') => (ui.problems_first, ui.worker) = (!ui.problems_first, 0),
        code => ui.worker = moved(ui.worker, workers.len(), ui.offsets.page, code),
    }
    Effect::None
}

fn on_leaderboard(ui: &mut Ui, model: &Model, code: KeyCode) {
    let columns = COLUMNS.len();
    let arms = model.study.spec().map_or(0, |spec| spec.arms.len());
    match code {
        KeyCode::Right | KeyCode::Char('o' | 'l') => ui.by = (ui.by + 1) % columns,
        KeyCode::Left | KeyCode::Char('h') => ui.by = (ui.by + columns - 1) % columns,
        KeyCode::Enter => {
            let rows = leaderboard(&model.study, ui.by);
            let first = rows
                .get(ui.arm)
                .and_then(|row| model.study.trials().position(|trial| trial.result.key.arm == row.arm));
            if let Some(first) = first {
                ui.trial = first;
                ui.go(Tab::Overview);
            }
        }
        code => ui.arm = moved(ui.arm, arms, ui.offsets.page, code),
    }
}

fn on_events(ui: &mut Ui, model: &Model, code: KeyCode) {
    let page = ui.offsets.page.saturating_sub(1).max(1) as isize;
    match code {
        KeyCode::Char('f') => (ui.show, ui.pinned) = (ui.show.next(), None),
        KeyCode::Up | KeyCode::Char('k') => scroll_events(ui, model, 1),
        KeyCode::Down | KeyCode::Char('j') => scroll_events(ui, model, -1),
        KeyCode::PageUp => scroll_events(ui, model, page),
        KeyCode::PageDown => scroll_events(ui, model, -page),
        KeyCode::Home => scroll_events(ui, model, isize::MAX),
        KeyCode::End => ui.pinned = None,
        _ => {}
    }
}

/// Moves the events' last line so many lines into the past.
pub fn scroll_events(ui: &mut Ui, model: &Model, up: isize) {
    let filter = ui.events_filter.to_lowercase();
    let shown: Vec<u64> = model.study.journal().newest(ui.show, &filter).map(|entry| entry.seq).collect();
    let at = ui.pinned.and_then(|pin| shown.iter().position(|seq| *seq <= pin)).unwrap_or(0);
    // The oldest line stays at the top of the screen, not at its bottom.
    let most = shown.len().saturating_sub(ui.offsets.page.max(1));
    let at = at.saturating_add_signed(up).min(most);
    ui.pinned = if at == 0 { None } else { shown.get(at).copied() };
}

/// Selects the trial so many places further.
pub fn select_trial(ui: &mut Ui, model: &Model, by: isize) {
    let last = trials(model).saturating_sub(1);
    match ui.trial.checked_add_signed(by) {
        Some(next) if next <= last => ui.trial = next,
        // A whole page further than there is: the same fold of the last or the first arm.
        _ if by.unsigned_abs() > folds(model) => {
            let column = ui.trial % folds(model);
            ui.trial = if by > 0 { last + 1 - folds(model) + column } else { column }.min(last);
        }
        _ => {}
    }
    ui.pane_up = 0;
}

/// The selection of a list after a key.
pub fn moved(at: usize, len: usize, page: usize, code: KeyCode) -> usize {
    let last = len.saturating_sub(1);
    match code {
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => at + 1,
        KeyCode::PageUp => at.saturating_sub(page.max(1)),
        KeyCode::PageDown => at + page.max(1),
        KeyCode::Home => 0,
        KeyCode::End => last,
        _ => at,
    }
    .min(last)
}

fn trials(model: &Model) -> usize {
    model.study.results().map_or(0, |results| results.trials.len())
}

/// Columns of the grid.
pub fn folds(model: &Model) -> usize {
    model.study.spec().map_or(1, |spec| spec.folds.indices().len().max(1))
}
