//! Colours and signs. Only the terminal's own 16 colours are used, so that its theme decides how they look, and every
//! state has a sign of its own, so that nothing is lost where there is no colour.

use jiff::tz::TimeZone;
use mtinet_domain::trial::TrialStatus;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;

use crate::dashboard::state::{Level, WorkerLink};

/// How things look on this terminal.
#[derive(Clone, Debug)]
pub struct Look {
    /// Whether colours are used.
    pub colour: bool,
    /// The signs.
    pub signs: &'static Signs,
    /// The zone that times are shown in.
    pub zone: TimeZone,
}

/// Signs for states, bars and borders.
#[derive(Debug)]
pub struct Signs {
    /// Whether the terminal shows more than ASCII.
    pub is_unicode: bool,
    done: &'static str,
    running: &'static str,
    stopping: &'static str,
    waiting: &'static str,
    failed: &'static str,
    cancelled: &'static str,
    /// Something that is up.
    pub up: &'static str,
    /// Something that is down.
    pub down: &'static str,
    /// The part of a bar that is done, its end, and the rest.
    pub bar: [&'static str; 3],
    /// A busy and a free slot.
    pub slots: [&'static str; 2],
    /// Between two facts.
    pub dot: &'static str,
    /// Between a mean and its deviation.
    pub plus_minus: &'static str,
    /// Text that was cut.
    pub cut: &'static str,
    /// The thumb of a scroll bar.
    pub thumb: &'static str,
    /// A range: its ends, its line, its middle.
    pub range: [&'static str; 4],
    /// Keys: left/right, up/down, Enter.
    pub arrows: [&'static str; 4],
    /// Borders of panels.
    pub border: border::Set<'static>,
    /// An axis: vertical, tick, corner, horizontal.
    pub axis: [&'static str; 4],
}

static UNICODE: Signs = Signs {
    is_unicode: true,
    done: "✓",
    running: "▸",
    stopping: "■",
    waiting: "·",
    failed: "✗",
    cancelled: "–",
    up: "●",
    down: "○",
    bar: ["━", "╸", "─"],
    slots: ["■", "□"],
    dot: "·",
    plus_minus: "±",
    cut: "…",
    thumb: "┃",
    range: ["├", "─", "●", "┤"],
    arrows: ["←→", "↑↓", "⏎", "←↑↓→"],
    border: border::ROUNDED,
    axis: ["│", "┤", "└", "─"],
};

static ASCII: Signs = Signs {
    is_unicode: false,
    done: "+",
    running: ">",
    stopping: "#",
    waiting: ".",
    failed: "x",
    cancelled: "-",
    up: "*",
    down: "o",
    bar: ["=", ">", "-"],
    slots: ["#", "."],
    dot: "|",
    plus_minus: "+-",
    cut: "~",
    thumb: "#",
    range: ["|", "-", "o", "|"],
    arrows: ["left/right", "up/down", "Enter", "arrows"],
    border: border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    },
    axis: ["|", "+", "+", "-"],
};

impl Look {
    /// What the environment says: `NO_COLOR`, `TERM`, the locale's character set and the time zone.
    pub fn detect() -> Self {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = value("LC_ALL").or_else(|| value("LC_CTYPE")).or_else(|| value("LANG"));
        let is_utf8 = locale.is_none_or(|locale| {
            let locale = locale.to_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        let colour = value("NO_COLOR").is_none() && value("TERM").is_none_or(|term| term != "dumb");
        Self::new(colour, is_utf8, TimeZone::system())
    }

    /// As given.
    pub fn new(colour: bool, unicode: bool, zone: TimeZone) -> Self {
        Self { colour, signs: if unicode { &UNICODE } else { &ASCII }, zone }
    }

    fn colour(&self, colour: Color, without: Modifier) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new().add_modifier(without) }
    }

    /// Text that matters less.
    pub fn dim(&self) -> Style {
        self.colour(Color::DarkGray, Modifier::DIM)
    }

    /// Text that matters more.
    pub fn strong(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The dashboard's own colour: keys, the selected screen.
    pub fn accent(&self) -> Style {
        self.colour(Color::Cyan, Modifier::BOLD)
    }

    /// Something that was achieved.
    pub fn good(&self) -> Style {
        self.colour(Color::Green, Modifier::empty())
    }

    /// Something to look at.
    pub fn warning(&self) -> Style {
        self.colour(Color::Yellow, Modifier::BOLD)
    }

    /// Something that failed.
    pub fn bad(&self) -> Style {
        self.colour(Color::Red, Modifier::BOLD)
    }

    /// What is selected.
    pub fn selected(&self) -> Style {
        // One colour throughout: reversed signs of different colours would be a patchwork.
        Style::new().fg(Color::Reset).add_modifier(Modifier::REVERSED).remove_modifier(Modifier::DIM)
    }

    /// The sign of a trial's state.
    pub fn sign(&self, status: TrialStatus) -> &'static str {
        match status {
            TrialStatus::Done => self.signs.done,
            TrialStatus::Running => self.signs.running,
            TrialStatus::Stopping => self.signs.stopping,
            TrialStatus::Waiting => self.signs.waiting,
            TrialStatus::Failed => self.signs.failed,
            TrialStatus::Cancelled => self.signs.cancelled,
        }
    }

    /// The style of a trial's state.
    pub fn status(&self, status: TrialStatus) -> Style {
        match status {
            TrialStatus::Done => self.good(),
            TrialStatus::Running => self.accent(),
            TrialStatus::Stopping => self.warning(),
            TrialStatus::Failed => self.bad(),
            TrialStatus::Waiting | TrialStatus::Cancelled => self.dim(),
        }
    }

    /// The style of a study's status word.
    pub fn study(&self, status: &str) -> Style {
        match status {
            "complete" => self.good(),
            "incomplete" => self.bad(),
            "running" => self.accent(),
            _ => self.warning(),
        }
    }

    /// The style of an event.
    pub fn level(&self, level: Level) -> Style {
        match level {
            Level::Detail => self.dim(),
            Level::Info => Style::new(),
            Level::Good => self.good(),
            Level::Warning => self.warning(),
            Level::Problem => self.bad(),
        }
    }

    /// The sign of an event.
    pub fn level_sign(&self, level: Level) -> &'static str {
        match level {
            Level::Detail | Level::Info => " ",
            Level::Good => self.signs.done,
            Level::Warning => "!",
            Level::Problem => self.signs.failed,
        }
    }

    /// Sign and style of a worker.
    pub fn worker(&self, link: WorkerLink, is_usable: bool) -> (&'static str, Style) {
        match link {
            WorkerLink::Ready if is_usable => (self.signs.up, self.good()),
            WorkerLink::Ready | WorkerLink::Away => ("!", self.warning()),
            WorkerLink::Lost => (self.signs.failed, self.dim()),
        }
    }
}
