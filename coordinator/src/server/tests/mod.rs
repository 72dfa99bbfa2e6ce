//! The server over real gRPC, with scripted agents; ended as by `kill -9` by dropping its whole runtime.

mod access;
mod artifacts;
mod attacks;
mod datasets;
mod durability;
mod fleet;
mod frozen;
mod joining;
mod lifecycle;
mod logs;
mod metrics;
mod mutated;
mod refusals;
mod requests;
mod usage;
