//! The terminal dashboard: what `mtinet watch` shows.
//!
//! [`state`] folds events and answers of the coordinator into a [`Model`]; [`draw`] turns a model, what a person has
//! selected ([`Ui`]) and a terminal's size into one frame, and does nothing else; [`input`] turns keys and the mouse
//! into changes of the selection or into [`Command`]s, which are sent only after a confirmation. Nothing here knows
//! gRPC: the command line feeds [`Update`]s in and carries commands out.

mod app;
mod draw;
mod input;
mod state;
mod terminal;
#[cfg(test)]
mod tests;

pub use app::{App, Closed, Request, now_ms};
pub use input::{Command, Ui};
pub use state::{
    Explained, Link, LogLine, MachineUse, Model, NoticeKind, Slot, SlotHold, SlotUse, StudyLine, StudyState,
    Update, Worker, WorkerLink,
};
pub use terminal::{Terminal, restore};
