//! libtorch's switches for the whole process, and what this build can do.

use crate::error::Result;
use crate::ffi::{self, int32};

/// Makes libtorch use only algorithms that give the same bits each time, or lets it choose freely again. An operation that
/// has no such algorithm is then an error. cuDNN's choice by timing is on only where bits are free.
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

/// Lets CUDA devices from Ampere on round the factors of float32 products and convolutions to 10 bits of mantissa
/// (TensorFloat-32), or has them compute in IEEE single precision. libtorch's own choice is neither: convolutions are rounded,
/// products of matrices are not.
///
/// # Errors
/// Those of libtorch.
pub fn set_tf32(on: bool) -> Result<()> {
    // SAFETY: sets flags of libtorch's global context.
    unsafe { ffi::mtx_set_tf32(on) }.check("setting the precision of products")
}

/// Whether [`set_tf32`] is on.
#[must_use]
pub fn tf32() -> bool {
    // SAFETY: asks libtorch, and catches what it throws.
    unsafe { ffi::mtx_tf32() }
}

/// Keeps the memory of large CPU tensors for the tensors that come after them, in huge pages where the system has them, instead
/// of returning it to the system and asking for it again in every step. For the whole process, once, before the first tensor;
/// results do not depend on it. Memory that was needed once stays with the process.
///
/// # Errors
/// Those of libtorch. Where the system refuses to reserve addresses, everything stays as it is.
pub fn keep_memory() -> Result<()> {
    // SAFETY: sets libtorch's allocator and malloc's thresholds; blocks from before keep their own way of being freed.
    unsafe { ffi::mtx_keep_memory() }.check("setting up memory")
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

/// Whether the device's processor multiplies bfloat16 itself; where it does not, float32 is faster.
#[must_use]
pub fn multiplies_bf16(device: tch::Device) -> bool {
    match device {
        tch::Device::Cpu => cpu_multiplies_bf16(),
        // SAFETY: asks libtorch, and catches what it throws.
        tch::Device::Cuda(index) => {
            i32::try_from(index).is_ok_and(|index| unsafe { ffi::mtx_cuda_bf16(index) })
        }
        _ => false,
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_multiplies_bf16() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| matches!(flag, "avx512_bf16" | "amx_bf16"))
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_multiplies_bf16() -> bool {
    false
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
