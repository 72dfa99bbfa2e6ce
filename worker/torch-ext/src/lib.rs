//! What `tch` does not bind of libtorch: c10d's store, process groups and gradient reducer, autocast, the fused Adam step,
//! networks recorded as TorchScript with their parameters' names, CUDA graphs, and the switches for determinism and threads. And what
//! libtorch itself lacks for fast training on the CPU: fused layers and memory that is kept between steps.
//!
//! A C++ shim (`csrc/`) stands behind a safe API; this is the only crate of the workspace with `unsafe` code. Every C++
//! exception comes back as a [`TorchExtError`]. The crate holds no policy: who is which rank, what is averaged when, and
//! what happens after an error are decided by the engine.
//!
//! A data-parallel step, on every rank of a [`ProcessGroup`]:
//!
//! ```ignore
//! # use mtinet_torch_ext::{ProcessGroup, Reducer, ReducerOptions, clear_grads};
//! # fn step(params: &[tch::Tensor], group: &ProcessGroup, forward: impl Fn() -> tch::Tensor) -> anyhow::Result<()> {
//! let reducer = Reducer::new(params, group, &ReducerOptions::default())?; // once
//! reducer.prepare_for_forward()?;
//! let loss = forward();
//! reducer.prepare_for_backward(&[&loss])?;
//! loss.f_backward()?; // the gradients are now the mean over the ranks
//! clear_grads(params)?; // after the optimizer's step
//! # Ok(()) }
//! ```
#![warn(missing_docs)]
#![expect(unsafe_code, reason = "this crate is the workspace's one boundary to C++")]

mod autocast;
mod cuda;
mod error;
mod ffi;
mod fused;
mod group;
mod mapped;
mod optim;
mod profile;
mod reducer;
mod script;
mod settings;
mod store;

pub use autocast::{Autocast, autocast};
pub use cuda::{CudaGraph, DeviceMemory, GraphPool, SideStream, device_memory};
pub use error::{Result, TorchExtError};
pub use fused::{NARROW_HEAD, Normalisation, add_dropout, attention, dropout, first_block, norm_relu};
pub use group::{Backend, ProcessGroup};
pub use mapped::map_file;
pub use optim::{AdamOptions, clear_grads, fused_adam_step};
pub use profile::{Profile, Span, span};
pub use reducer::{Reducer, ReducerOptions};
pub use script::{Script, Weight};
pub use settings::{
    cuda_available, exit_now, is_cuda_build, keep_memory, multiplies_bf16, nccl_available, set_cuda_device,
    set_deterministic, set_num_interop_threads, set_num_threads, set_tf32, tf32,
};
pub use store::TcpStore;
