//! What the dashboard knows, folded from events and from the coordinator's answers. No drawing, no IO, no clock: the
//! time is given.

mod estimate;
mod fleet;
mod journal;
mod leaderboard;
mod model;
mod pace;
mod progress;
mod study;
mod words;

pub use fleet::{MachineUse, Slot, SlotHold, SlotUse, Tally, Worker, WorkerLink};
pub use journal::{Entry, Level, Show};
pub use leaderboard::{COLUMNS, Column, Row, leaderboard};
pub use model::{Explained, Link, LogLine, Model, NoticeKind, StudyLine, Update};
pub use study::{Counts, StudyState, Trial};
pub use words::{end_words, figure, number, ranks_words, short_span, step_time};
