//! What a person looks at and has selected.

use mtinet_domain::StudyId;
use ratatui::layout::Rect;

use super::command::Command;
use crate::dashboard::state::Show;

/// A screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// All trials of the study.
    #[default]
    Overview,
    /// One trial.
    Trial,
    /// The machines.
    Workers,
    /// Arms side by side.
    Leaderboard,
    /// What happened.
    Events,
}

impl Tab {
    /// In their order.
    pub const ALL: [Self; 5] = [Self::Overview, Self::Trial, Self::Workers, Self::Leaderboard, Self::Events];

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Trial => "Trial",
            Self::Workers => "Workers",
            Self::Leaderboard => "Leaderboard",
            Self::Events => "Events",
        }
    }

    /// The one so many places further, in a circle.
    pub fn step(self, by: usize) -> Self {
        let place = Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0);
        Self::ALL[(place + by) % Self::ALL.len()]
    }
}

/// What the lower part of the trial's screen shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// Its attempts.
    #[default]
    Attempts,
    /// Its events.
    Events,
    /// What its trainers write.
    Log,
}

impl Pane {
    /// In their order.
    pub const ALL: [Self; 3] = [Self::Attempts, Self::Events, Self::Log];

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Attempts => "Attempts",
            Self::Events => "Events",
            Self::Log => "Log",
        }
    }

    /// The next one in a circle.
    pub fn next(self) -> Self {
        match self {
            Self::Attempts => Self::Events,
            Self::Events => Self::Log,
            Self::Log => Self::Attempts,
        }
    }
}

/// Something over the screen that takes all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Popup {
    /// All keys.
    Help,
    /// Whether a command is meant.
    Confirm {
        /// It.
        command: Command,
        /// The question; further lines say what follows.
        question: String,
    },
    /// The studies to choose from, and which of them is selected.
    Studies(usize),
}

/// Something on the screen that can be clicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A screen's name.
    Tab(Tab),
    /// A trial, by its place in the spec's order.
    Trial(usize),
    /// A worker, by its place in the list.
    Worker(usize),
    /// A row of the leaderboard.
    Arm(usize),
    /// The head of a column of the leaderboard.
    Column(usize),
    /// A name over the lower part of the trial's screen.
    Pane(Pane),
    /// The chart of the training loss.
    LossChart,
    /// The chart of the held-out metric.
    HeldOutChart,
    /// A study in the list.
    Study(usize),
    /// The command is meant.
    Yes,
    /// It is not.
    No,
}

/// What follows from a key or a click, beyond another selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The dashboard is left.
    Quit,
    /// As if the program had been interrupted: Ctrl-C.
    Interrupt,
    /// The program is put into the background: Ctrl-Z.
    Suspend,
    /// A confirmed command.
    Send(Command),
    /// Another study is to be followed.
    Follow(StudyId),
    /// Something to be told.
    Tell(String),
}

/// First lines that were shown last, so that a list moves only when the selection leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Rows of the grid of trials.
    pub grid: usize,
    /// Columns of it.
    pub folds: usize,
    /// Workers.
    pub workers: usize,
    /// Arms.
    pub arms: usize,
    /// Rows of a list that has the keys: as many as a page.
    pub page: usize,
}

/// What a person looks at and has selected.
#[derive(Clone, Debug, Default)]
pub struct Ui {
    /// The screen.
    pub tab: Tab,
    /// The selected trial, by its place in the spec's order.
    pub trial: usize,
    /// The selected worker, by its place in the list as it is shown.
    pub worker: usize,
    /// The selected row of the leaderboard.
    pub arm: usize,
    /// The column that the leaderboard is ordered by.
    pub by: usize,
    /// Which events are shown.
    pub show: Show,
    /// The last event on the screen; none follows the newest.
    pub pinned: Option<u64>,
    /// What events have to hold.
    pub events_filter: String,
    /// What workers have to hold.
    pub workers_filter: String,
    /// Whether keys go into the filter of the screen.
    pub editing: bool,
    /// Workers with a problem come first.
    pub problems_first: bool,
    /// Which loss is drawn.
    pub loss: usize,
    /// Which held-out metric is drawn.
    pub held_out: usize,
    /// Losses are drawn over a logarithmic axis.
    pub logarithmic: bool,
    /// What the lower part of the trial's screen shows.
    pub pane: Pane,
    /// Lines that it is scrolled up by.
    pub pane_up: usize,
    /// What lies over the screen.
    pub popup: Option<Popup>,
    /// Whether leaving goes on elsewhere (`mtinet run`), for the words on the screen.
    pub is_run: bool,
    /// What was shown last.
    pub offsets: Offsets,
    /// Where it can be clicked.
    pub targets: Vec<(Rect, Target)>,
}

impl Ui {
    /// The filter of the screen, where it has one.
    pub fn filter(&mut self) -> Option<&mut String> {
        match self.tab {
            Tab::Workers => Some(&mut self.workers_filter),
            Tab::Events => Some(&mut self.events_filter),
            _ => None,
        }
    }

    /// Turns to a screen.
    pub fn go(&mut self, tab: Tab) {
        self.tab = tab;
        self.editing = false;
        self.pane_up = 0;
    }
}
