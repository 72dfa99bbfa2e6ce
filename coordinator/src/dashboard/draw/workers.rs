//! The machines: what their slots hold, how they stand, and why one gets no trials.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::events::filter;
use super::frame::{Drawn, Scene};
use super::panel::{first_shown, lines, panel, scroll_bar};
use super::text::{cut, facts, fit, fit_right, memory, wrap};
use crate::dashboard::input::{Target, visible_workers, worker_words};
use crate::dashboard::state::{Link, Slot, Tally, Worker, short_span};

/// Columns of memory in use: `512/1024 GB`.
const MEMORY: usize = 11;
/// Most rows of the selected worker, borders included.
const DETAIL: u16 = 18;

/// Draws the screen.
pub fn draw(buffer: &mut Buffer, area: Rect, scene: Scene<'_>, drawn: &mut Drawn) {
    let Scene { model, ui, look, .. } = scene;
    let shown = visible_workers(model, ui);
    let selected = ui.worker.min(shown.len().saturating_sub(1));
    let detail = match shown.get(selected) {
        Some(worker) => {
            let rows = 3 + worker.slots.len() as u16 + u16::from(worker.set_aside.is_some());
            rows.min(DETAIL).min(area.height / 2)
        }
        None => 0,
    };
    let list = Rect { height: area.height - detail, ..area };
    let words = summary(model.fleet, scene);
    let title = Line::from(vec![Span::styled("Workers", look.strong()), Span::raw("  "), Span::raw(words)]);
    let order = if ui.problems_first { "problems first" } else { "by name" };
    let inner = panel(buffer, list, title, Line::styled(order, look.dim()), look);
    let filter_row = u16::from(ui.editing || !ui.workers_filter.is_empty());
    if filter_row > 0 {
        filter(buffer, Rect { height: 1, ..inner }, scene, &ui.workers_filter);
    }
    let table = Rect {
        x: inner.x + 1,
        y: inner.y + filter_row,
        width: inner.width.saturating_sub(2),
        height: inner.height.saturating_sub(filter_row),
    };
    if shown.is_empty() {
        let words = nobody(scene);
        let told: Vec<Line> = wrap(&words, table.width as usize, look)
            .into_iter()
            .map(|line| Line::styled(line, look.dim()))
            .collect();
        lines(buffer, table, &told);
        return;
    }
    let columns = Columns::of(&shown, table.width as usize);
    buffer.set_string(table.x, table.y, columns.head(scene), look.dim());
    let room = usize::from(table.height.saturating_sub(1));
    let first = first_shown(ui.offsets.workers, selected, shown.len(), room);
    (drawn.offsets.workers, drawn.offsets.page) = (first, room);
    scroll_bar(buffer, list, first, room, shown.len(), look);
    for (y, place) in (table.y + 1..table.bottom()).zip(first..shown.len()) {
        let row = Rect { y, height: 1, ..table };
        buffer.set_line(row.x, y, &columns.row(shown[place], scene), row.width);
        if place == selected {
            buffer.set_style(row, look.selected());
        }
        drawn.targets.push((row, Target::Worker(place)));
    }
    if detail > 0 {
        one(buffer, Rect { y: list.bottom(), height: detail, ..area }, shown[selected], scene);
    }
}

fn nobody(scene: Scene<'_>) -> String {
    match (&scene.model.workers, &scene.model.link) {
        (Some(workers), _) if !workers.is_empty() => "no worker holds this text".to_owned(),
        (_, Link::Recorded) => {
            "This is a recording: the log of a study does not list workers. What ran where is under Trial, Attempts."
                .to_owned()
        }
        (Some(_), _) => {
            "No worker has joined. On each machine: mtinet-worker --coordinator URL --token-file FILE".to_owned()
        }
        (None, _) => "asking for the workers".to_owned(),
    }
}

fn summary(tally: Tally, scene: Scene<'_>) -> String {
    let Tally { ready, away, lost, drained, set_aside, busy, slots } = tally;
    if scene.model.workers.is_none() {
        return String::new();
    }
    let counts =
        [(ready, "ready"), (away, "away"), (drained, "drained"), (set_aside, "set aside"), (lost, "lost")];
    let mut words: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if slots > 0 {
        words.push(format!("{busy} of {slots} slots busy"));
    }
    words.join(", ")
}

/// Which columns there are and how wide: usage only where someone reports it.
struct Columns {
    name: usize,
    bar: usize,
    devices: usize,
    has_usage: bool,
    state: usize,
}

impl Columns {
    fn of(workers: &[&Worker], width: usize) -> Self {
        let has_usage = workers.iter().any(|worker| worker.load().is_some() || worker.memory().is_some());
        let name = workers.iter().map(|worker| worker.name.chars().count()).max().unwrap_or(0).clamp(8, 28);
        let bar = if width >= 120 {
            workers.iter().map(|worker| worker.slots.len()).max().unwrap_or(0).clamp(4, 32)
        } else {
            0
        };
        let name = if width < 100 { name.min(18) } else { name };
        let devices = if width < 100 { 9 } else { 14 };
        let usage = if has_usage { 4 + 2 + MEMORY + 2 + 3 + 2 } else { 0 };
        let fixed = 2 + name + 2 + 7 + if bar > 0 { bar + 2 } else { 0 } + devices + usage + 9;
        Self { name, bar, devices, has_usage, state: width.saturating_sub(fixed) }
    }

    fn head(&self, scene: Scene<'_>) -> String {
        let look = scene.look;
        let mut head = format!("  {}  {}", fit("name", self.name, look), fit("slots", 7, look));
        if self.bar > 0 {
            head.push_str(&" ".repeat(self.bar + 2));
        }
        head.push_str(&fit("devices", self.devices, look));
        if self.has_usage {
            head.push_str(&format!(
                "{:>4}  {:>MEMORY$}  {:>3}  ",
                "use",
                "memory",
                if look.signs.is_unicode { "°C" } else { "C" }
            ));
        }
        head.push_str(&format!("{:>7}  ", "heard"));
        head.push_str(&fit("state", self.state, look));
        head
    }

    fn row(&self, worker: &Worker, scene: Scene<'_>) -> Line<'static> {
        let Scene { look, now_ms, .. } = scene;
        let (sign, style) = look.worker(worker.link, worker.is_usable());
        let (busy, slots) = (worker.busy(), worker.slots.len());
        let mut spans = vec![
            Span::styled(format!("{sign} "), style),
            Span::raw(fit(&worker.name, self.name, look)),
            Span::raw("  "),
            Span::raw(fit(&format!("{busy}/{slots}"), 7, look)),
        ];
        if self.bar > 0 {
            let [full, empty] = look.signs.slots;
            let many = slots.min(self.bar);
            // More slots than columns: each stands for several.
            let filled = if slots > many { (busy * many).div_ceil(slots) } else { busy };
            spans.push(Span::styled(full.repeat(filled), look.accent()));
            spans.push(Span::styled(empty.repeat(many - filled), look.dim()));
            spans.push(Span::raw(" ".repeat(self.bar - many + 2)));
        }
        spans.push(Span::raw(fit(&worker.devices(), self.devices, look)));
        if self.has_usage {
            spans.push(Span::raw(usage(worker, look)));
        }
        let heard = short_span(now_ms.saturating_sub(worker.heard_ms) as f64 / 1000.0);
        spans.push(Span::styled(format!("{}  ", fit_right(&heard, 7, look)), look.dim()));
        let words = match &worker.set_aside {
            Some(reason) => format!("{}: {reason}", worker_words(worker)),
            None => worker_words(worker),
        };
        spans.push(Span::styled(cut(&words, self.state, look), style));
        Line::from(spans)
    }
}

fn usage(worker: &Worker, look: &super::look::Look) -> String {
    let load = worker.load().map(|percent| format!("{percent:.0}%")).unwrap_or_default();
    let room = worker.memory().map(memory).unwrap_or_default();
    let hottest = worker.hottest().map(|celsius| format!("{celsius:.0}")).unwrap_or_default();
    format!(
        "{}  {}  {}  ",
        fit_right(&load, 4, look),
        fit_right(&room, MEMORY, look),
        fit_right(&hottest, 3, look)
    )
}

/// The selected worker.
fn one(buffer: &mut Buffer, area: Rect, worker: &Worker, scene: Scene<'_>) {
    let look = scene.look;
    let (sign, style) = look.worker(worker.link, worker.is_usable());
    let title = Line::from(vec![
        Span::styled(format!("{}  ", worker.name), look.strong()),
        Span::styled(format!("{sign} {}", worker_words(worker)), style),
    ]);
    let inner = panel(buffer, area, title, Line::default(), look);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    let width = inner.width as usize;
    let mut told = vec![];
    let mut parts = vec![vec![Span::styled("id ", look.dim()), Span::raw(worker.id.clone())]];
    if let Some(usage) = worker.usage {
        if let Some(percent) = usage.cpu_percent {
            parts.push(vec![Span::styled("cores ", look.dim()), Span::raw(format!("{percent:.0} %"))]);
        }
        if let Some(bytes) = usage.memory {
            parts.push(vec![Span::styled("memory ", look.dim()), Span::raw(memory(bytes))]);
        }
    }
    told.push(facts(parts, width, look));
    if let Some(reason) = &worker.set_aside {
        told.push(Line::styled(cut(&format!("set aside: {reason}"), width, look), look.warning()));
    }
    // What holds something first: on a large machine that is asked for.
    let mut slots: Vec<&Slot> = worker.slots.iter().collect();
    slots.sort_by_key(|slot| (slot.held.is_none(), slot.index));
    let room = (inner.height as usize).saturating_sub(told.len());
    let fits = if slots.len() > room { room.saturating_sub(1) } else { slots.len() };
    told.extend(slots[..fits].iter().map(|slot| slot_line(slot, scene)));
    if fits < slots.len() {
        told.push(Line::styled(format!("and {} more slots", slots.len() - fits), look.dim()));
    }
    lines(buffer, inner, &told);
}

fn slot_line(slot: &Slot, scene: Scene<'_>) -> Line<'static> {
    let look = scene.look;
    let [full, empty] = look.signs.slots;
    let device = slot.device.map_or_else(|| "?".to_owned(), |device| device.to_string());
    let (sign, style) = if slot.held.is_some() { (full, look.accent()) } else { (empty, look.dim()) };
    let mut spans = vec![
        Span::styled(format!("{sign} "), style),
        Span::raw(format!("{:>3}  {}", slot.index, fit(&device, 8, look))),
    ];
    if let Some(usage) = slot.usage {
        let load = usage.percent.map(|percent| format!("{percent:.0}%")).unwrap_or_default();
        let room = usage.memory.map(memory).unwrap_or_default();
        let heat = usage.celsius.map(|celsius| format!("{celsius:.0} C")).unwrap_or_default();
        spans.push(Span::raw(format!("{load:>5} {room:>12} {heat:>5}  ")));
    }
    match &slot.held {
        Some(held) => {
            let study = if scene.model.id.is_some_and(|id| id.0 == held.study) {
                String::new()
            } else {
                format!("study {} ", held.study)
            };
            spans.push(Span::raw(format!("{study}{}", held.trial)));
            spans.push(Span::styled(format!("  attempt {}, rank {}", held.attempt, held.rank), look.dim()));
        }
        None => spans.push(Span::styled("free", look.dim())),
    }
    Line::from(spans)
}
