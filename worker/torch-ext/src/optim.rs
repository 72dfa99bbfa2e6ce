//! One Adam step for all parameters at once, and clearing gradients the way buckets need it.

use crate::error::{Result, argument};
use crate::ffi::{self, refs};
use std::borrow::Borrow;
use tch::Tensor;

/// Adam's settings; the default is PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamOptions {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment's average.
    pub beta1: f64,
    /// Decay of the second moment's average.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// L2 penalty, added to the gradient (Adam's, not AdamW's).
    pub weight_decay: f64,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// One step of Adam over all `params`, in place, in one fused kernel (`torch.optim.Adam(fused=True)`), on CPU and CUDA.
///
/// The lists have the same length and order, and everything lies on one device. `exp_avgs` and `exp_avg_sqs` have the
/// parameters' shapes and start at zero. `steps` are distinct scalar float32 tensors, one a parameter, that start at zero
/// and are raised by one here.
///
/// # Errors
/// [`Argument`](crate::TorchExtError::Argument) where the lists' lengths differ; libtorch's where shapes, types or devices do.
pub fn fused_adam_step<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    exp_avgs: &[T],
    exp_avg_sqs: &[T],
    steps: &[T],
    options: &AdamOptions,
) -> Result<()> {
    const OPERATION: &str = "taking a fused Adam step";
    for (name, list) in
        [("grads", grads), ("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs), ("steps", steps)]
    {
        if list.len() != params.len() {
            return Err(argument(OPERATION, format!("{} {name} for {} params", list.len(), params.len())));
        }
    }
    if let Some(index) = grads.iter().position(|grad| !grad.borrow().defined()) {
        return Err(argument(
            OPERATION,
            format!("parameter {index} has no gradient; leave it out of this step"),
        ));
    }
    if params.is_empty() {
        return Ok(());
    }
    let [params, grads, exp_avgs, exp_avg_sqs, steps] =
        [params, grads, exp_avgs, exp_avg_sqs, steps].map(|list| refs(list));
    // SAFETY: five lists of `params.len()` tensors each, kept alive by the arguments during the call.
    unsafe {
        ffi::mtx_fused_adam(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            params.len(),
            options.learning_rate,
            options.beta1,
            options.beta2,
            options.weight_decay,
            options.epsilon,
        )
    }
    .check(OPERATION)
}

/// Sets the parameters' gradients to none, as PyTorch's `zero_grad(set_to_none=True)`. `Tensor::zero_grad` zeroes them in
/// place instead, which fails on gradients that are views of a [`Reducer`](crate::Reducer)'s buckets.
///
/// # Errors
/// Those of libtorch.
pub fn clear_grads<T: Borrow<Tensor>>(params: &[T]) -> Result<()> {
    let pointers = refs(params);
    // SAFETY: the tensors are kept alive by `params` during the call.
    unsafe { ffi::mtx_clear_grads(pointers.as_ptr(), pointers.len()) }.check("clearing gradients")
}
