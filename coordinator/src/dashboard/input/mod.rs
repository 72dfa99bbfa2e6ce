//! Keys and the mouse: they change what is selected, or ask for a command, which is sent only once it is confirmed.

mod command;
mod keys;
mod lists;
mod mouse;
mod ui;

pub use command::Command;
pub use keys::on_key;
pub use lists::{visible_workers, worker_words};
pub use mouse::on_mouse;
pub use ui::{Effect, Offsets, Pane, Popup, Tab, Target, Ui};
