//! The server over real gRPC, with scripted agents; ended as by `kill -9` by dropping its whole runtime.

mod artifacts;
mod durability;
mod fleet;
mod frozen;
mod lifecycle;
mod refusals;
mod requests;
