//! What lies over the screen: help, a question, the studies to choose from.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget as _};

use super::frame::{Drawn, Scene};
use super::panel::{first_shown, lines, panel, scroll_bar};
use super::text::{clock, fit, fit_right, wrap};
use crate::dashboard::input::{Popup, Target};

/// Every key, by screen.
const HELP: [(&str, &[(&str, &str)]); 5] = [
    (
        "Everywhere",
        &[
            ("1-5 Tab", "turn to a screen"),
            ("s", "another study"),
            ("p", "pause or resume the study"),
            ("C", "cancel the study"),
            ("T", "retry all that failed"),
            ("Esc", "clear filter; overview"),
            ("q", "leave; what runs goes on"),
        ],
    ),
    (
        "Overview and Trial",
        &[
            ("arrows", "select a trial"),
            ("Enter", "open it"),
            ("c  t  z", "cancel, retry, pause it"),
            ("x  m", "next loss, next metric"),
            ("g", "logarithmic loss axis"),
            ("v", "attempts, events, log"),
        ],
    ),
    ("Workers", &[("/  o", "filter, problems first"), ("d  r", "drain (or undo), readmit")]),
    ("Leaderboard", &[("sideways", "order by another metric"), ("Enter", "show the arm's trials")]),
    ("Events", &[("f", "main, all, problems"), ("/", "filter by text"), ("End", "follow the newest")]),
];

/// Draws what lies over the screen, where something does.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    match &scene.ui.popup {
        None => {}
        Some(Popup::Help) => help(buffer, area, scene),
        Some(Popup::Confirm { question, .. }) => confirm(buffer, area, scene, question, drawn),
        Some(Popup::Studies(selected)) => studies(buffer, area, scene, *selected, drawn),
    }
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height }
}

fn over(buffer: &mut Buffer, area: Rect, title: Line<'_>, right: Line<'_>, scene: Scene<'_>) -> Rect {
    Clear.render(area, buffer);
    let inner = panel(buffer, area, title, right, scene.look);
    Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner }
}

fn help(buffer: &mut Buffer, area: Rect, scene: Scene<'_>) {
    let look = scene.look;
    let section = |(name, keys): &(&str, &[(&str, &str)])| {
        let mut told = vec![Line::styled((*name).to_owned(), look.strong())];
        told.extend(keys.iter().map(|(key, what)| {
            Line::from(vec![Span::styled(fit(key, 10, look), look.accent()), Span::raw((*what).to_owned())])
        }));
        told.push(Line::default());
        told
    };
    let left: Vec<Line> = HELP[..2].iter().flat_map(section).collect();
    let mut right: Vec<Line> = HELP[2..].iter().flat_map(section).collect();
    right.push(Line::styled("The mouse selects and scrolls.", look.dim()));
    right.push(Line::styled("What changes something asks first.", look.dim()));
    let height = left.len().max(right.len()) as u16 + 2;
    let place = centred(area, 100, height);
    let close = Line::styled("any key closes", look.dim());
    let inner = over(buffer, place, Line::styled("Keys", look.strong()), close, scene);
    let half = inner.width / 2 + 1;
    lines(buffer, Rect { width: half, ..inner }, &left);
    lines(buffer, Rect { x: inner.x + half, width: inner.width - half, ..inner }, &right);
}

fn confirm(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, question: &str, drawn: &mut Drawn) {
    let look = scene.look;
    let width = area.width.min(66);
    let words = wrap(question, usize::from(width) - 4, look);
    let place = centred(area, width, words.len() as u16 + 5);
    let title = Line::styled("Please confirm", look.warning());
    let inner = over(buffer, place, title, Line::default(), scene);
    let mut told: Vec<Line> = vec![Line::default()];
    for (row, line) in words.into_iter().enumerate() {
        told.push(if row == 0 { Line::styled(line, look.strong()) } else { Line::raw(line) });
    }
    lines(buffer, inner, &told);
    let y = inner.bottom() - 1;
    let (yes, no) = (" y  yes ", " n  no ");
    let at = inner.x + (inner.width - (yes.len() + no.len() + 4) as u16) / 2;
    buffer.set_string(at, y, yes, look.warning().patch(look.selected()));
    let yes_area = Rect { x: at, y, width: yes.len() as u16, height: 1 };
    let no_area = Rect { x: at + yes.len() as u16 + 4, y, width: no.len() as u16, height: 1 };
    buffer.set_string(no_area.x, y, no, look.selected());
    drawn.targets.push((yes_area, Target::Yes));
    drawn.targets.push((no_area, Target::No));
}

fn studies(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, selected: usize, drawn: &mut Drawn) {
    let Scene { model, look, now_ms, .. } = scene;
    let all = &model.studies;
    let place =
        centred(area, 76, (all.len() as u16).saturating_add(3).min(area.height.saturating_sub(4)).max(4));
    let hint = Line::styled("Enter follows one", look.dim());
    let inner = over(buffer, place, Line::styled("Studies", look.strong()), hint, scene);
    if all.is_empty() {
        lines(buffer, inner, &[Line::styled("no list of studies yet", look.dim())]);
        return;
    }
    let name = (inner.width as usize).saturating_sub(5 + 12 + 10 + 12 + 2);
    let head = format!(
        "{}  {}{}{}{}",
        fit_right("no", 3, look),
        fit("name", name, look),
        fit("state", 12, look),
        fit("done", 10, look),
        "submitted"
    );
    buffer.set_string(inner.x, inner.y, head, look.dim());
    let room = usize::from(inner.height.saturating_sub(1));
    let first = first_shown(0, selected, all.len(), room);
    scroll_bar(buffer, place, first, room, all.len(), look);
    for (y, index) in (inner.y + 1..inner.bottom()).zip(first..all.len()) {
        let study = &all[index];
        let line = Line::from(vec![
            Span::raw(format!(
                "{}  {}",
                fit_right(&study.id.to_string(), 3, look),
                fit(&study.name, name, look)
            )),
            Span::styled(fit(&study.status, 12, look), look.study(&study.status)),
            Span::raw(fit(&format!("{}/{}", study.done.0, study.done.1), 10, look)),
            Span::styled(clock(study.submitted_ms, now_ms, look), look.dim()),
        ]);
        let row = Rect { y, height: 1, ..inner };
        buffer.set_line(row.x, y, &line, row.width);
        if index == selected {
            buffer.set_style(row, look.selected());
        }
        drawn.targets.push((row, Target::Study(index)));
    }
}
