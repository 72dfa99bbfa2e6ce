//! libtorch's switches for the whole process, and what this build can do.

use crate::error::Result;
use crate::ffi::{self, int32};

/// Makes libtorch use only algorithms that give the same bits each time, or lets it choose freely again. An operation that
/// has no such algorithm is then an error. Turns cuDNN's timing-based choice off.
///
/// On CUDA, cuBLAS also needs `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment that the process is started with; without
/// it, matrix products are errors.
///
/// # Errors
/// Those of libtorch.
pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: sets flags of libtorch's global context.
    unsafe { ffi::mtx_set_deterministic(on) }.check("setting determinism")
}

/// Ends the process at once, from any thread. `std::process::exit` would first tear down what libtorch's threads, which
/// may be in the middle of a collective, still use: the process then often ends by a signal instead.
pub fn exit_now(code: i32) -> ! {
    unsafe extern "C" {
        fn _exit(code: std::ffi::c_int) -> !;
    }
    // SAFETY: it ends the process without running anything else of it.
    unsafe { _exit(code) }
}

/// The threads that one operation on the CPU may use. Results may differ in their last bits between numbers of threads.
///
/// # Errors
/// Where `count` is 0.
pub fn set_num_threads(count: usize) -> Result<()> {
    const OPERATION: &str = "setting the number of threads";
    let count = int32(OPERATION, "count", count)?;
    // SAFETY: sets a number in libtorch.
    unsafe { ffi::mtx_set_num_threads(count) }.check(OPERATION)
}

/// The threads that run operations beside each other. Once a process, before any of them has run.
///
/// # Errors
/// Where it comes too late.
pub fn set_num_interop_threads(count: usize) -> Result<()> {
    const OPERATION: &str = "setting the number of inter-operation threads";
    let count = int32(OPERATION, "count", count)?;
    // SAFETY: sets a number in libtorch.
    unsafe { ffi::mtx_set_num_interop_threads(count) }.check(OPERATION)
}

/// Makes CUDA device `index` this thread's current one, which NCCL's barriers and new CUDA tensors without an index use.
///
/// # Errors
/// [`Unavailable`](crate::TorchExtError::Unavailable) in a CPU build, or where there is no such device.
pub fn set_cuda_device(index: usize) -> Result<()> {
    const OPERATION: &str = "the CUDA device";
    let index = int32(OPERATION, "index", index)?;
    // SAFETY: sets the thread's device in the CUDA runtime.
    unsafe { ffi::mtx_set_cuda_device(index) }.check(OPERATION)
}

/// Whether this program was built with the CUDA build of libtorch.
#[must_use]
pub fn is_cuda_build() -> bool {
    // SAFETY: returns a constant.
    unsafe { ffi::mtx_cuda_build() }
}

/// Whether libtorch can use a CUDA device here.
#[must_use]
pub fn cuda_available() -> bool {
    // SAFETY: asks libtorch, and catches what it throws.
    unsafe { ffi::mtx_cuda_available() }
}

/// Whether [`Backend::Nccl`](crate::Backend::Nccl) can be used here: a CUDA build and a device.
#[must_use]
pub fn nccl_available() -> bool {
    is_cuda_build() && cuda_available()
}
