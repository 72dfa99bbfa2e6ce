//! The training loop: from a trial's plan and its slices to weights and held-out results; and what the trained networks
//! of an arm answer together for new cases.
//!
//! One [`Trainer`] lives in each rank's process. What is measured goes to an [`Observer`]; the engine knows neither
//! gRPC nor the agent, and starts no threads of its own.
//!
//! # World-size invariance
//! A step of the recipe is `replicas` batches of `batch_size` samples. Which samples a replica sees, and every random
//! number it draws, follow from (seed, fold, step, replica) alone. A rank runs `replicas / ranks` of them, one after
//! another, and gradients, running statistics and losses are averaged over all of them, wherever they ran.
//!
//! # Exact resume
//! The state after step s is: weights, running statistics, both optimizers' moments, s, and the epoch's sums so far.
//! There is no generator state to save, because nothing draws from a generator that is not seeded for that step.
#![warn(missing_docs)]

mod adam;
mod answers;
mod checkpoint;
mod error;
mod evaluate;
mod fold_data;
mod gang;
mod graphs;
mod observer;
mod outcome;
mod pace;
mod player;
mod predict;
mod resident;
mod sampler;
mod seeds;
mod statistics;
mod step;
mod trainer;

pub use checkpoint::{CheckpointFile, CheckpointMeta};
pub use error::EngineError;
pub use fold_data::FoldData;
pub use gang::Gang;
pub use observer::{Finish, Observer, Results};
pub use predict::{Ensemble, Prediction};
pub use sampler::Sampler;
pub use trainer::{Plan, Trainer};
