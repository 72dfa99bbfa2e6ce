//! Layers for training on the CPU, each in one operation where libtorch makes several passes over memory.
//!
//! They answer what libtorch's own operations answer, up to rounding, and their gradients do too. Maps are channels-last, as
//! libtorch's `MemoryFormat::ChannelsLast`, whatever comes in. Outside training, for other devices and where the number of
//! channels does not fit, the caller uses libtorch's operations.

use std::ptr;

use crate::error::Result;
use crate::ffi::{self, TensorRef, tensor_ref};
use tch::Tensor;

/// A batch normalisation in training: float32 tensors with a value for each channel.
#[derive(Debug, Clone, Copy)]
pub struct Normalisation<'a> {
    /// The gain.
    pub weight: &'a Tensor,
    /// What is added.
    pub bias: &'a Tensor,
    /// The running mean, which is moved by `momentum` towards that of the batch.
    pub running_mean: &'a Tensor,
    /// The running variance, likewise.
    pub running_var: &'a Tensor,
    /// The share of the new statistics.
    pub momentum: f64,
    /// Added to variances.
    pub eps: f64,
}

impl Normalisation<'_> {
    /// Channels come in groups of this many; others are refused.
    pub const CHANNELS: i64 = 16;
}

/// Batch normalisation and ReLU of maps `x` [N, C, H, W], float32 or bfloat16; with `pool`, also the maximum of each 2 x 2
/// square of them.
///
/// # Errors
/// Where C is no multiple of [`Normalisation::CHANNELS`], or an odd side is to be pooled.
pub fn norm_relu(x: &Tensor, norm: &Normalisation, pool: bool) -> Result<Tensor> {
    made("normalising maps", |out| {
        // SAFETY: the tensors are borrowed for the call, and `out` outlives it.
        unsafe {
            ffi::mtx_norm_relu(
                tensor_ref(x),
                tensor_ref(norm.weight),
                tensor_ref(norm.bias),
                tensor_ref(norm.running_mean),
                tensor_ref(norm.running_var),
                norm.momentum,
                norm.eps,
                pool,
                out,
            )
        }
    })
}

/// Convolution of one-channel images [N, 1, H, W] with `kernel` [C, 1, 3, 3] (padding 1, no bias), batch normalisation, ReLU and
/// the maximum of each 2 x 2 square: [N, C, H/2, W/2]. Under autocast the answer is bfloat16; arithmetic is float32 throughout.
///
/// The images get no gradient. Neither here nor for backward are maps of the full size made.
///
/// # Errors
/// As [`norm_relu`], and for rows of more than 1024 pixels.
pub fn first_block(images: &Tensor, kernel: &Tensor, norm: &Normalisation) -> Result<Tensor> {
    made("encoding images", |out| {
        // SAFETY: as above.
        unsafe {
            ffi::mtx_first_block(
                tensor_ref(images),
                tensor_ref(kernel),
                tensor_ref(norm.weight),
                tensor_ref(norm.bias),
                tensor_ref(norm.running_mean),
                tensor_ref(norm.running_var),
                norm.momentum,
                norm.eps,
                out,
            )
        }
    })
}

/// Width of heads that [`attention`] computes in float32 throughout.
pub const NARROW_HEAD: i64 = 4;

/// softmax(`query` `key`^T `scale`) `value` for [N, heads, tokens, width], all float32 or all bfloat16.
///
/// Where the width is not [`NARROW_HEAD`], products and probabilities are rounded to the tensors' type, and the probabilities
/// [N, heads, tokens, tokens] are kept for backward. `scale` is positive.
///
/// # Errors
/// Where the three differ in shape or type, or the number of tokens is no multiple of 16.
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Result<Tensor> {
    made("attending to tokens", |out| {
        // SAFETY: as above.
        unsafe { ffi::mtx_attention(tensor_ref(query), tensor_ref(key), tensor_ref(value), scale, out) }
    })
}

/// Dropout of the share `p`. Which elements are kept follows from one number of libtorch's CPU generator and their index.
///
/// # Errors
/// Where the number of elements is no multiple of 16.
pub fn dropout(x: &Tensor, p: f64) -> Result<Tensor> {
    // SAFETY: as above; without a base.
    made("dropping values", |out| unsafe { ffi::mtx_dropout(ptr::null_mut(), tensor_ref(x), p, out) })
}

/// `base` (float32) + [`dropout`] of `x`, which has its shape.
///
/// # Errors
/// As [`dropout`].
pub fn add_dropout(base: &Tensor, x: &Tensor, p: f64) -> Result<Tensor> {
    // SAFETY: as above.
    made("dropping values", |out| unsafe { ffi::mtx_dropout(tensor_ref(base), tensor_ref(x), p, out) })
}

fn made(operation: &'static str, call: impl FnOnce(*mut TensorRef) -> ffi::Failure) -> Result<Tensor> {
    let mut out = ptr::null_mut();
    call(&raw mut out).check(operation)?;
    // SAFETY: the shim allocated the tensor for us, and this is its only owner.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}
