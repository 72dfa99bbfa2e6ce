//! One frame from a model, what is selected, and the terminal's size: nothing else goes in, and nothing is kept.

mod chart;
mod events;
mod facts;
mod frame;
mod grid;
mod leaderboard;
mod look;
mod overview;
mod panel;
mod popup;
mod text;
mod trial;
mod workers;

pub use frame::{Scene, draw};
pub use look::Look;
