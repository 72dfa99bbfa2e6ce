//! What happened, the newest line last.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::frame::{Drawn, Scene};
use super::panel::{lines, panel};
use super::text::{clock, cut, fit};
use crate::dashboard::state::{Entry, Show};

/// Columns of a trial's name.
const TRIAL: usize = 19;

/// Draws the screen.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    let Scene { model, ui, look, .. } = scene;
    let title = Line::from(vec![
        Span::styled("Events", look.strong()),
        Span::styled(format!("  {}", ui.show.word()), look.accent()),
    ]);
    let right = match &ui.pinned {
        Some(_) => Line::styled("scrolled back; End follows", look.warning()),
        None => Line::styled("newest last", look.dim()),
    };
    let inner = panel(buffer, area, title, right, look);
    let filter_row = ui.editing || !ui.events_filter.is_empty();
    if filter_row {
        filter(buffer, Rect { height: 1, ..inner }, scene, &ui.events_filter);
    }
    let top = u16::from(filter_row);
    let list = Rect {
        x: inner.x + 1,
        y: inner.y + top,
        width: inner.width.saturating_sub(2),
        height: inner.height.saturating_sub(top),
    };
    drawn.offsets.page = list.height as usize;
    let wanted = ui.events_filter.to_lowercase();
    let newest = model.study.journal().newest(ui.show, &wanted);
    let shown = newest.skip_while(|entry| ui.pinned.is_some_and(|pin| entry.seq > pin));
    let mut told: Vec<Line> =
        shown.take(list.height as usize).map(|entry| line(entry, scene, list.width as usize, true)).collect();
    told.reverse();
    if told.is_empty() {
        let words = match (wanted.is_empty(), ui.show) {
            (false, _) => "no event holds this text",
            (true, Show::Problems) => "no problems so far",
            (true, _) => "nothing has happened yet",
        };
        told.push(Line::styled(words, look.dim()));
    }
    lines(buffer, list, &told);
}

/// The last events in a panel of their own.
pub fn recent(buffer: &mut Buffer, area: Rect, scene: Scene<'_>) {
    let inner = panel(buffer, area, Line::styled("Events", scene.look.strong()), Line::default(), scene.look);
    let list = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let newest = scene.model.study.journal().newest(Show::Main, "").take(list.height as usize);
    let mut told: Vec<Line> = newest.map(|entry| line(entry, scene, list.width as usize, true)).collect();
    told.reverse();
    lines(buffer, list, &told);
}

/// The filter that is being written, or was.
pub fn filter(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, text: &str) {
    let look = scene.look;
    let mut spans = vec![Span::styled(" /", look.accent()), Span::raw(text.to_owned())];
    if scene.ui.editing {
        spans.push(Span::styled(" ", look.selected()));
    } else {
        spans.push(Span::styled("  Esc clears", look.dim()));
    }
    buffer.set_line(area.x, area.y, &Line::from(spans), area.width);
}

/// An event in a line.
pub fn line(entry: &Entry, scene: Scene<'_>, width: usize, with_trial: bool) -> Line<'static> {
    let Scene { model, look, now_ms, .. } = scene;
    let time = clock(entry.time_ms, model.clock(now_ms), look);
    let style = look.level(entry.level);
    let mut spans = vec![
        Span::styled(fit(&time, 11, look), look.dim()),
        Span::styled(format!("{} ", look.level_sign(entry.level)), style),
    ];
    // What is about the whole study has the trial's room as well.
    if let Some(key) = entry.trial.filter(|_| with_trial) {
        spans.push(Span::styled(fit(&key.to_string(), TRIAL, look), look.dim()));
        spans.push(Span::raw(" "));
    }
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::styled(cut(&entry.text, width.saturating_sub(used), look), style));
    Line::from(spans)
}
