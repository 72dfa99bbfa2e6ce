//! Taking over data that users already have. One module per layout.

pub mod nnunet;

mod phases;

pub use phases::{phase_of, synonyms};
