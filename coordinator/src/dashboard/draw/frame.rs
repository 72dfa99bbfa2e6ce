//! What every screen has: the study and how far it is, the screens to choose from, the keys.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::look::Look;
use super::panel::lines;
use super::text::{bar, clock_ahead, cut, wrap};
use super::{events, leaderboard, overview, popup, trial, workers};
use crate::dashboard::input::{Offsets, Tab, Target, Ui};
use crate::dashboard::state::{Counts, Link, Model, NoticeKind, short_span};
use mtinet_domain::trial::TrialStatus;

/// The smallest terminal with room for a screen.
const SMALLEST: (u16, u16) = (60, 16);
/// A notice stays for this long.
const NOTICE_MS: u64 = 8000;

/// What a frame is made of.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// What is known.
    pub model: &'a Model,
    /// What is selected.
    pub ui: &'a Ui,
    /// Colours and signs.
    pub look: &'a Look,
    /// The time, milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What a frame leaves for keys and the mouse.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// First rows that were shown.
    pub offsets: Offsets,
    /// Where what lies.
    pub targets: Vec<(Rect, Target)>,
}

/// Draws a frame.
pub fn draw(frame: &mut Frame<'_>, scene: Scene<'_>) -> Drawn {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let mut drawn = Drawn { offsets: scene.ui.offsets, targets: Vec::new() };
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(buffer, area, scene);
        return drawn;
    }
    title(buffer, Rect { height: 1, ..area }, scene);
    progress(buffer, Rect { y: area.y + 1, height: 1, ..area }, scene);
    tabs(buffer, Rect { y: area.y + 2, height: 1, ..area }, scene, &mut drawn);
    let notice = notice(scene);
    let below = 1 + u16::from(notice.is_some());
    let body = Rect { y: area.y + 3, height: area.height - 3 - below, ..area };
    match scene.ui.tab {
        Tab::Overview => overview::draw(buffer, body, scene, &mut drawn),
        Tab::Trial => trial::draw(buffer, body, scene, &mut drawn),
        Tab::Workers => workers::draw(buffer, body, scene, &mut drawn),
        Tab::Leaderboard => leaderboard::draw(buffer, body, scene, &mut drawn),
        Tab::Events => events::draw(buffer, body, scene, &mut drawn),
    }
    if let Some(notice) = notice {
        lines(buffer, Rect { y: body.bottom(), height: 1, ..area }, &[notice]);
    }
    keys(buffer, Rect { y: area.bottom() - 1, height: 1, ..area }, scene);
    popup::draw(buffer, area, scene, &mut drawn);
    drawn
}

fn too_small(buffer: &mut Buffer, area: Rect, scene: Scene<'_>) {
    let (width, height) = SMALLEST;
    let words = format!(
        "{:.0} % done. Too small: {}x{}, needs {width}x{height}. q quits.",
        scene.model.study.share_done() * 100.0,
        area.width,
        area.height
    );
    let words = wrap(&words, area.width as usize, scene.look);
    let top = area.height.saturating_sub(words.len() as u16) / 2;
    let rows: Vec<Line> = words.into_iter().map(|line| Line::from(line).centered()).collect();
    for (row, line) in (area.y + top..area.bottom()).zip(&rows) {
        let x = area.x + (area.width.saturating_sub(line.width() as u16)) / 2;
        buffer.set_line(x, row, line, area.width);
    }
}

fn title(buffer: &mut Buffer, area: Rect, scene: Scene<'_>) {
    let Scene { model, look, .. } = scene;
    let mut left = vec![Span::styled(" mtinet ", look.accent().patch(look.selected())), Span::raw("  ")];
    if let Some(spec) = model.study.spec() {
        let status = model.study.status();
        let name = cut(&spec.name, (area.width as usize / 3).max(12), look);
        left.push(Span::styled(name, look.strong()));
        let number = model.id.map(|id| format!("  study {id}  ")).unwrap_or_default();
        left.push(Span::styled(number, look.dim()));
        let word = if model.link == Link::Recorded && status == "running" { "not finished" } else { status };
        left.push(Span::styled(word.to_owned(), look.study(status)));
    }
    let left = Line::from(left);
    let (sign, style, words) = link(scene);
    let room = (area.width as usize).saturating_sub(left.width() + 4);
    let right = Line::from(vec![
        Span::styled(format!("{sign} "), style),
        Span::styled(cut(&words, room.saturating_sub(2), look), style),
    ]);
    buffer.set_line(area.x, area.y, &left, area.width);
    if room > 8 {
        let x = area.right().saturating_sub(right.width() as u16 + 1);
        buffer.set_line(x, area.y, &right, area.width);
    }
}

fn link(scene: Scene<'_>) -> (&'static str, ratatui::style::Style, String) {
    let Scene { model, look, now_ms, .. } = scene;
    let source = model.source.trim_start_matches("https://").trim_start_matches("http://");
    match &model.link {
        Link::Loading => (look.signs.down, look.warning(), format!("reading event {}", model.study.seq())),
        Link::Live => (look.signs.up, look.good(), format!("live  {source}")),
        Link::Away { since_ms, .. } => {
            let seconds = now_ms.saturating_sub(*since_ms) as f64 / 1000.0;
            ("!", look.warning(), format!("away for {}  {source}", short_span(seconds)))
        }
        Link::Recorded => (look.signs.down, look.dim(), format!("recording  {source}")),
    }
}

fn progress(buffer: &mut Buffer, area: Rect, scene: Scene<'_>) {
    let Scene { model, look, .. } = scene;
    if model.study.results().is_none() {
        let words =
            if model.link == Link::Recorded { "no study in this log" } else { "waiting for the study" };
        buffer.set_line(area.x, area.y, &Line::styled(format!("   {words}"), look.dim()), area.width);
        return;
    }
    let share = model.study.share_done();
    // Rounded down: 100 % is said only when all is done.
    let percent = format!(" {:>3.0} % ", (share * 100.0).floor());
    let wide = area.width >= 120;
    let counts = counts(model.study.counts(), wide, look);
    let time = time_words(scene, wide);
    let used = percent.len() + counts.width() + time.chars().count() + 6;
    let width = (area.width as usize).saturating_sub(used);
    let mut spans = vec![Span::styled(percent, look.strong())];
    spans.extend(bar(share, width, look.study(model.study.status()), look));
    spans.push(Span::raw("  "));
    spans.extend(counts.spans);
    spans.push(Span::raw("  "));
    spans.push(Span::raw(time));
    buffer.set_line(area.x, area.y, &Line::from(spans), area.width);
}

/// How many trials stand how: in words where there is room.
fn counts(counts: Counts, wide: bool, look: &Look) -> Line<'static> {
    let all = [
        (TrialStatus::Done, counts.done, true),
        (TrialStatus::Running, counts.running, true),
        (TrialStatus::Stopping, counts.stopping, false),
        (TrialStatus::Waiting, counts.waiting, true),
        (TrialStatus::Failed, counts.failed, wide),
        (TrialStatus::Cancelled, counts.cancelled, false),
    ];
    let mut spans = Vec::new();
    for (status, count, always) in all {
        if count == 0 && !always {
            continue;
        }
        let word = if wide { format!(" {}", status.word()) } else { String::new() };
        let between = if spans.is_empty() { "" } else { "  " };
        let style = if count == 0 { look.dim() } else { look.status(status) };
        spans.push(Span::styled(format!("{between}{} {count}{word}", look.sign(status)), style));
    }
    Line::from(spans)
}

fn time_words(scene: Scene<'_>, wide: bool) -> String {
    let Scene { model, look, now_ms, .. } = scene;
    let Some(results) = model.study.results() else { return String::new() };
    let started = results.trials.iter().filter_map(|trial| trial.started_ms).min();
    let since = |end: u64| started.map(|start| short_span(end.saturating_sub(start) as f64 / 1000.0));
    if let Some(end) = results.finished_ms {
        return since(end).map(|span| format!("took {span}")).unwrap_or_default();
    }
    if model.link == Link::Recorded {
        return format!("until {}", clock_ahead(results.last_event_ms, now_ms, look));
    }
    let left = match model.study.seconds_left(now_ms) {
        Some(seconds) => {
            let end = clock_ahead(now_ms + (seconds * 1000.0) as u64, now_ms, look);
            let about = if look.signs.is_unicode { "≈" } else { "about " };
            format!("{about}{} left, ends {end}", short_span(seconds))
        }
        None if model.study.is_paused() => "paused".to_owned(),
        None if model.study.counts().running > 0 => "estimating".to_owned(),
        None => "nothing runs".to_owned(),
    };
    let elapsed = since(now_ms).filter(|_| wide).map(|span| format!("{span} so far, "));
    format!("{}{left}", elapsed.unwrap_or_default())
}

fn tabs(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    let Scene { ui, look, .. } = scene;
    let mut x = area.x + 1;
    for (place, tab) in Tab::ALL.into_iter().enumerate() {
        let label = format!(" {} {} ", place + 1, tab.label());
        let width = label.len() as u16;
        let is_selected = tab == ui.tab;
        let style = if is_selected { look.strong().patch(look.selected()) } else { look.dim() };
        buffer.set_string(x, area.y, &label, style);
        drawn.targets.push((Rect { x, y: area.y, width, height: 1 }, Target::Tab(tab)));
        x += width + 1;
    }
}

fn notice(scene: Scene<'_>) -> Option<Line<'static>> {
    let Scene { model, look, now_ms, .. } = scene;
    if let Some(damage) = &model.damage {
        return Some(Line::styled(format!(" {damage}"), look.bad()));
    }
    if let Link::Away { again_ms, why, .. } = &model.link {
        let next = again_ms.saturating_sub(now_ms).div_ceil(1000);
        let words = format!(
            " No answer from the coordinator; again in {next} s. Training goes on meanwhile. ({why})"
        );
        return Some(Line::styled(words, look.warning()));
    }
    let notice = model.notice.as_ref().filter(|notice| now_ms < notice.time_ms + NOTICE_MS)?;
    let style = match notice.kind {
        NoticeKind::Good => look.good(),
        NoticeKind::Problem => look.warning(),
    };
    Some(Line::styled(format!(" {}", notice.text), style))
}

/// The keys of the screen, as many as there is room for; help and quit always.
fn keys(buffer: &mut Buffer, area: Rect, scene: Scene<'_>) {
    let Scene { model, ui, look, .. } = scene;
    let [sideways, updown, enter, all] = look.signs.arrows;
    let pause = if model.study.is_paused() { "resume" } else { "pause" };
    let mut keys: Vec<(&str, &str)> = match ui.tab {
        Tab::Overview => vec![(all, "select"), (enter, "open"), ("c", "cancel"), ("t", "retry")],
        Tab::Trial => vec![
            (sideways, "trial"),
            ("x", "loss"),
            ("m", "metric"),
            ("g", "log axis"),
            ("v", "pane"),
            ("c", "cancel"),
            ("t", "retry"),
        ],
        Tab::Workers => {
            vec![(updown, "select"), ("/", "filter"), ("o", "order"), ("d", "drain"), ("r", "readmit")]
        }
        Tab::Leaderboard => vec![(updown, "select"), (sideways, "order by"), (enter, "show trials")],
        Tab::Events => vec![(updown, "scroll"), ("End", "newest"), ("/", "filter"), ("f", "level")],
    };
    let can_steer = model.link != Link::Recorded && model.study.outcome().is_none();
    if !can_steer {
        keys.retain(|(_, what)| !matches!(*what, "cancel" | "drain" | "readmit"));
    }
    if model.link == Link::Recorded {
        keys.retain(|(_, what)| *what != "retry");
    }
    if can_steer {
        keys.push(("p", pause));
    }
    if ui.editing {
        keys = vec![("Enter", "keep the filter"), ("Esc", "clear it")];
    }
    keys.push(("s", "studies"));
    let last = [("?", "help"), ("q", if ui.is_run { "lines" } else { "quit" })];
    let width = |(key, what): &(&str, &str)| key.chars().count() + what.len() + 3;
    let room = (area.width as usize).saturating_sub(1 + last.iter().map(width).sum::<usize>());
    let mut used = 0;
    keys.retain(|key| {
        used += width(key);
        used <= room
    });
    let mut spans = vec![Span::raw(" ")];
    for (key, what) in keys.into_iter().chain(last) {
        spans.push(Span::styled(key.to_owned(), look.accent()));
        spans.push(Span::styled(format!(" {what}  "), look.dim()));
    }
    let line = Line::from(spans);
    buffer.set_line(area.x, area.y, &line, area.width);
}
