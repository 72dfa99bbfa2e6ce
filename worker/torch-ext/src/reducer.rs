//! Averages gradients over the ranks while backward still runs.

use crate::error::{Result, argument};
use crate::ffi::{self, Opaque, refs};
use crate::group::ProcessGroup;
use std::borrow::Borrow;
use std::ptr;
use tch::Tensor;

/// How a [`Reducer`] groups and keeps gradients. The default is PyTorch's, except that gradients are views of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReducerOptions {
    /// Size of a bucket in bytes, from which it is reduced as one message: 25 MiB.
    pub bucket_cap_bytes: usize,
    /// Size of the first bucket in bytes, smaller so that communication starts early: 1 MiB.
    pub first_bucket_bytes: usize,
    /// Search each step's graph for parameters that do not take part in it. Without it, a parameter without a gradient
    /// makes the next step's `prepare_for_forward` fail. Costs one small collective a step.
    pub find_unused_parameters: bool,
    /// Gradients are views of the buckets, which saves a copy of all of them. They must be cleared with
    /// [`clear_grads`](crate::clear_grads), not zeroed in place.
    pub gradient_as_bucket_view: bool,
}

impl Default for ReducerOptions {
    fn default() -> Self {
        Self {
            bucket_cap_bytes: 25 << 20,
            first_bucket_bytes: 1 << 20,
            find_unused_parameters: false,
            gradient_as_bucket_view: true,
        }
    }
}

/// c10d's `Reducer`, the engine of PyTorch's `DistributedDataParallel`: hooks on the parameters put each gradient into a
/// bucket as backward makes it, and a full bucket is averaged over the ranks while backward goes on.
///
/// A step: [`prepare_for_forward`](Self::prepare_for_forward), forward, [`prepare_for_backward`](Self::prepare_for_backward),
/// `Tensor::f_backward`. When backward returns, each gradient is the mean over the **world size** of what the ranks
/// contributed; a rank that did not use a parameter contributed zero, and one that no rank used keeps the gradient it had.
///
/// To **accumulate**, run all but the last backward without the two `prepare` calls: they only add to the rank's own
/// gradients, and the last one averages the sums.
///
/// **Bits.** How gradients are laid out in buckets is a function of the parameter list and the options alone, from the
/// first step on, with or without `find_unused_parameters`: c10d's own habit of laying them out anew after the first step
/// is taken away. A resumed process therefore sums in the same order as one that ran through.
///
/// Broadcasting the parameters at the start, and buffers such as batch-norm statistics, is the caller's work. Parameters
/// that are frozen for a time (`requires_grad` off, as a discriminator's in the generator's step) need a reducer of their
/// own, which stays out of that step. A failed backward leaves the reducer of no use.
pub struct Reducer {
    raw: *mut Opaque,
    count: usize,
}

// SAFETY: c10d::Reducer takes a lock of its own and is bound to no thread.
unsafe impl Send for Reducer {}

impl Reducer {
    /// Hooks onto `params`, all of which require gradients and have the same shapes on every rank. All ranks call it.
    /// Gradients are expected roughly from the last parameter to the first.
    ///
    /// # Errors
    /// Where the ranks' parameters differ, one requires no gradient, or a peer is lost.
    pub fn new<T: Borrow<Tensor>>(
        params: &[T],
        group: &ProcessGroup,
        options: &ReducerOptions,
    ) -> Result<Self> {
        const OPERATION: &str = "making the gradient reducer";
        let bytes = |what: &str, value: usize| match i64::try_from(value) {
            Ok(bytes) if bytes > 0 => Ok(bytes),
            _ => Err(argument(OPERATION, format!("{what} of {value} bytes"))),
        };
        if params.is_empty() {
            return Err(argument(OPERATION, "no parameters"));
        }
        let pointers = refs(params);
        let mut raw = ptr::null_mut();
        let first = bytes("first_bucket_bytes", options.first_bucket_bytes)?;
        let cap = bytes("bucket_cap_bytes", options.bucket_cap_bytes)?;
        // SAFETY: the group's handle, the tensors and `raw` outlive the call; the reducer takes references of its own.
        let made = unsafe {
            ffi::mtx_reducer_new(
                group.raw(),
                pointers.as_ptr(),
                pointers.len(),
                first,
                cap,
                options.find_unused_parameters,
                options.gradient_as_bucket_view,
                &raw mut raw,
            )
        };
        made.check(OPERATION)?;
        Ok(Self { raw, count: params.len() })
    }

    /// Before the forward pass whose gradients will be averaged.
    ///
    /// # Errors
    /// Where the backward before left a parameter without a gradient, and `find_unused_parameters` is off.
    pub fn prepare_for_forward(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        unsafe { ffi::mtx_reducer_prepare_for_forward(self.raw) }.check("preparing for forward")
    }

    /// Before the backward pass whose gradients will be averaged. `outputs` is what backward starts from; it is only
    /// looked at with `find_unused_parameters`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn prepare_for_backward<T: Borrow<Tensor>>(&self, outputs: &[T]) -> Result<()> {
        let pointers = refs(outputs);
        // SAFETY: the handle is alive; the tensors are kept alive by `outputs` during the call.
        unsafe { ffi::mtx_reducer_prepare_for_backward(self.raw, pointers.as_ptr(), pointers.len()) }
            .check("preparing for backward")
    }

    /// The buckets' sizes in bytes, in the order in which they are reduced.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn bucket_bytes(&self) -> Result<Vec<usize>> {
        let mut bytes = vec![0; self.count];
        let mut count = 0;
        // SAFETY: `bytes` has room for `self.count` numbers, and there is at least one parameter in a bucket.
        unsafe { ffi::mtx_reducer_buckets(self.raw, bytes.as_mut_ptr(), bytes.len(), &raw mut count) }
            .check("reading the gradient buckets")?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: the handle was made by the shim and is freed once; this removes the hooks from the parameters.
        let freed = unsafe { ffi::mtx_reducer_free(self.raw) };
        // There is nobody to tell, and the hooks are gone or the process is ending after a failed backward.
        let _ = freed.check("freeing the gradient reducer");
    }
}

impl std::fmt::Debug for Reducer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reducer").field("params", &self.count).finish()
    }
}
