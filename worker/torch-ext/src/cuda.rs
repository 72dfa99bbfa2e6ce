//! CUDA beyond libtorch's operations: a stream of its own for a thread, and graphs of many operations that are started as one.
//!
//! libtorch's operations on small maps end sooner than the next one can be started. A graph records them once and starts all of them
//! with one call. It does exactly what was recorded, on the memory that was recorded: what changes between two runs is written into
//! tensors that the graph reads, and nothing in it may need the host.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;

use tch::Device;

use crate::error::{Result, TorchExtError, argument};
use crate::ffi::{self, DeviceMemoryNumbers, Opaque};

/// This thread's CUDA work goes to a stream of its own until the guard goes: graphs are not recorded on the usual one. What was
/// queued before comes first, and what is queued afterwards comes last.
#[derive(Debug)]
#[must_use = "the stream is left when the guard is dropped"]
pub struct SideStream {
    raw: *mut Opaque,
    _thread: PhantomData<*const ()>,
}

impl SideStream {
    /// Enters a stream of `device`, which is the thread's current one.
    ///
    /// # Errors
    /// [`Unavailable`](TorchExtError::Unavailable) in a CPU build; those of CUDA.
    pub fn enter(device: Device) -> Result<Self> {
        const OPERATION: &str = "entering a CUDA stream";
        let index = ordinal(OPERATION, device)?;
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` outlives the call.
        unsafe { ffi::mtx_stream_enter(index, &raw mut raw) }.check(OPERATION)?;
        Ok(Self { raw, _thread: PhantomData })
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        // SAFETY: made by mtx_stream_enter on this thread, and left once.
        unsafe { ffi::mtx_stream_leave(self.raw) };
    }
}

/// Memory that the graphs recorded into it share. They must then run one after another, and what one of them leaves for later
/// must be taken out of its memory, except for the tensors that are kept from its recording.
#[derive(Debug)]
pub struct GraphPool {
    id: [u64; 2],
    state: Rc<PoolState>,
}

/// After a recording that failed the graphs before it would draw other random numbers than the process's seed says.
#[derive(Debug, Default)]
struct PoolState {
    broken: Cell<bool>,
}

impl GraphPool {
    /// An empty one.
    ///
    /// # Errors
    /// [`Unavailable`](TorchExtError::Unavailable) in a CPU build.
    pub fn new() -> Result<Self> {
        let mut id = [0; 2];
        // SAFETY: there is room for the two numbers.
        unsafe { ffi::mtx_graph_pool(id.as_mut_ptr()) }.check("making a pool for CUDA graphs")?;
        Ok(Self { id, state: Rc::default() })
    }

    /// Records what `body` does on the CUDA device of this thread, which must be in a [`SideStream`]. Nothing of it is done: its
    /// tensors hold no values before the first [`replay`](CudaGraph::replay). Do it two or three times for real before, on the same
    /// stream: libraries set themselves up at first use, which cannot be recorded.
    ///
    /// Each replay draws random numbers from the device's default generator as `body` itself would, so it follows the
    /// seed that is set before; `body` must not set one.
    ///
    /// # Errors
    /// Whatever in `body` fails, panics or has to wait for the device. Nothing was done then, and every graph of this pool is of
    /// no use any more.
    pub fn record<T, E: From<TorchExtError>>(
        &self,
        body: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<(CudaGraph, T), E> {
        const OPERATION: &str = "recording a CUDA graph";
        let mut raw = ptr::null_mut();
        let broken = |state: &PoolState| state.broken.set(true);
        // SAFETY: the pool's numbers and `raw` outlive the call.
        unsafe { ffi::mtx_graph_begin(self.id.as_ptr(), &raw mut raw) }
            .check(OPERATION)
            .inspect_err(|_| broken(&self.state))?;
        // From here on dropping it ends the recording.
        let graph = CudaGraph { raw, pool: Rc::clone(&self.state) };
        let done = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            let message = words(panic.as_ref()).unwrap_or("a panic without words").to_owned();
            Err(TorchExtError::Torch { operation: OPERATION, message }.into())
        });
        let value = done.inspect_err(|_| broken(&self.state))?;
        // SAFETY: the recording was begun on this thread and is ended once.
        unsafe { ffi::mtx_graph_end(graph.raw) }.check(OPERATION).inspect_err(|_| broken(&self.state))?;
        Ok((graph, value))
    }
}

/// tch's operations without `f_` panic with libtorch's words.
fn words(panic: &(dyn std::any::Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied())
}

/// A recorded graph. Bound to its thread.
#[derive(Debug)]
pub struct CudaGraph {
    raw: *mut Opaque,
    pool: Rc<PoolState>,
}

impl CudaGraph {
    /// Does what was recorded, once, on the thread's stream; does not wait for it.
    ///
    /// # Errors
    /// Those of CUDA; [`Argument`](TorchExtError::Argument) where a later recording into its pool failed.
    pub fn replay(&self) -> Result<()> {
        const OPERATION: &str = "replaying a CUDA graph";
        if self.pool.broken.get() {
            return Err(argument(OPERATION, "another recording into its pool failed"));
        }
        // SAFETY: the handle is alive and its recording is over.
        unsafe { ffi::mtx_graph_replay(self.raw) }.check(OPERATION)
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: made by mtx_graph_begin on this thread, and freed once.
        unsafe { ffi::mtx_graph_free(self.raw) };
    }
}

/// Memory of a CUDA device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What nobody uses.
    pub free: u64,
    /// What there is.
    pub total: u64,
    /// The most that this process held for tensors; the libraries' own memory, some hundred MB, comes on top.
    pub peak_reserved: u64,
    /// The most that its tensors filled of that.
    pub peak_allocated: u64,
}

/// How the memory of `device` stands.
///
/// # Errors
/// [`Unavailable`](TorchExtError::Unavailable) in a CPU build; those of CUDA.
pub fn device_memory(device: Device) -> Result<DeviceMemory> {
    const OPERATION: &str = "asking for a CUDA device's memory";
    let index = ordinal(OPERATION, device)?;
    let mut numbers = DeviceMemoryNumbers::default();
    // SAFETY: `numbers` outlives the call.
    unsafe { ffi::mtx_cuda_memory(index, &raw mut numbers) }.check(OPERATION)?;
    let DeviceMemoryNumbers { free, total, peak_reserved, peak_allocated } = numbers;
    Ok(DeviceMemory { free, total, peak_reserved, peak_allocated })
}

fn ordinal(operation: &'static str, device: Device) -> Result<i32> {
    match device {
        Device::Cuda(index) => ffi::int32(operation, "device", index),
        other => Err(argument(operation, format!("{other:?} is no CUDA device"))),
    }
}
