//! The declarations of `csrc/shim.h`, and the conversions that every call needs.

use crate::error::{Result, TorchExtError, argument};
use std::borrow::Borrow;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::time::Duration;
use tch::Tensor;

/// An `at::Tensor*`, borrowed for one call. What `Tensor::as_ptr` returns is one.
pub(crate) type TensorRef = *mut c_void;

/// A handle that only C++ sees into.
#[repr(C)]
pub(crate) struct Opaque {
    _private: [u8; 0],
}

/// `mtx_failure`: what a call of the shim returns.
#[repr(C)]
#[must_use]
pub(crate) struct Failure {
    kind: i32,
    message: *mut c_char,
}

/// `mtx_autocast`: what autocast was before it was entered.
#[repr(C)]
#[derive(Default)]
pub(crate) struct AutocastState {
    device: i32,
    dtype: i32,
    enabled: bool,
}

/// `mtx_memory`: see there.
#[repr(C)]
#[derive(Default)]
pub(crate) struct DeviceMemoryNumbers {
    pub(crate) free: u64,
    pub(crate) total: u64,
    pub(crate) peak_reserved: u64,
    pub(crate) peak_allocated: u64,
}

#[rustfmt::skip] // One line for a function reads against shim.h more easily.
unsafe extern "C" {
    pub(crate) fn mtx_free(memory: *mut c_void);

    pub(crate) fn mtx_store_host(listener: c_int, host: *const c_char, port: u16, timeout: i64, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_store_connect(host: *const c_char, port: u16, timeout: i64, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_store_clone(store: *const Opaque, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_store_set(store: *const Opaque, key: *const c_char, value: *const u8, length: usize) -> Failure;
    pub(crate) fn mtx_store_get(store: *const Opaque, key: *const c_char, value: *mut *mut u8, length: *mut usize) -> Failure;
    pub(crate) fn mtx_store_wait(store: *const Opaque, keys: *const *const c_char, count: usize, timeout: i64) -> Failure;
    pub(crate) fn mtx_store_check(store: *const Opaque, key: *const c_char, present: *mut bool) -> Failure;
    pub(crate) fn mtx_store_delete(store: *const Opaque, key: *const c_char) -> Failure;
    pub(crate) fn mtx_store_free(store: *mut Opaque);

    pub(crate) fn mtx_group_gloo(store: *const Opaque, prefix: *const c_char, rank: i32, size: i32, host: *const c_char, timeout: i64, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_group_nccl(store: *const Opaque, prefix: *const c_char, rank: i32, size: i32, timeout: i64, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_group_all_reduce(group: *const Opaque, tensors: *const TensorRef, count: usize, mean: bool) -> Failure;
    pub(crate) fn mtx_group_broadcast(group: *const Opaque, tensors: *const TensorRef, count: usize, root: i32) -> Failure;
    pub(crate) fn mtx_group_all_gather(group: *const Opaque, input: TensorRef, outputs: *const TensorRef, count: usize) -> Failure;
    pub(crate) fn mtx_group_barrier(group: *const Opaque) -> Failure;
    pub(crate) fn mtx_group_abort(group: *const Opaque) -> Failure;
    pub(crate) fn mtx_group_free(group: *mut Opaque);

    pub(crate) fn mtx_reducer_new(group: *const Opaque, params: *const TensorRef, count: usize, first_bucket_bytes: i64, bucket_bytes: i64, find_unused: bool, bucket_view: bool, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_reducer_prepare_for_forward(reducer: *const Opaque) -> Failure;
    pub(crate) fn mtx_reducer_prepare_for_backward(reducer: *const Opaque, outputs: *const TensorRef, count: usize) -> Failure;
    pub(crate) fn mtx_reducer_buckets(reducer: *const Opaque, bytes: *mut usize, capacity: usize, count: *mut usize) -> Failure;
    pub(crate) fn mtx_reducer_free(reducer: *mut Opaque) -> Failure;

    pub(crate) fn mtx_fused_adam(params: *const TensorRef, grads: *const TensorRef, exp_avgs: *const TensorRef, exp_avg_sqs: *const TensorRef, steps: *const TensorRef, count: usize, lr: f64, beta1: f64, beta2: f64, weight_decay: f64, eps: f64) -> Failure;
    pub(crate) fn mtx_clear_grads(params: *const TensorRef, count: usize) -> Failure;

    pub(crate) fn mtx_autocast_enter(device: i32, dtype: i32, before: *mut AutocastState) -> Failure;
    pub(crate) fn mtx_autocast_exit(before: *const AutocastState) -> Failure;

    pub(crate) fn mtx_set_deterministic(on: bool) -> Failure;
    pub(crate) fn mtx_set_num_threads(count: i32) -> Failure;
    pub(crate) fn mtx_set_num_interop_threads(count: i32) -> Failure;
    pub(crate) fn mtx_set_cuda_device(index: i32) -> Failure;
    pub(crate) fn mtx_keep_memory() -> Failure;
    pub(crate) fn mtx_cuda_build() -> bool;
    pub(crate) fn mtx_cuda_available() -> bool;
    pub(crate) fn mtx_cuda_bf16(index: i32) -> bool;

    pub(crate) fn mtx_profile_begin() -> Failure;
    pub(crate) fn mtx_profile_end(path: *const c_char) -> Failure;
    pub(crate) fn mtx_span_begin(name: *const c_char, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_span_end(span: *mut Opaque);

    pub(crate) fn mtx_map_file(path: *const c_char, dtype: i32, elements: i64, out: *mut TensorRef) -> Failure;

    pub(crate) fn mtx_norm_relu(x: TensorRef, weight: TensorRef, bias: TensorRef, mean: TensorRef, var: TensorRef, momentum: f64, eps: f64, pool: bool, out: *mut TensorRef) -> Failure;
    pub(crate) fn mtx_first_block(images: TensorRef, kernel: TensorRef, weight: TensorRef, bias: TensorRef, mean: TensorRef, var: TensorRef, momentum: f64, eps: f64, out: *mut TensorRef) -> Failure;
    pub(crate) fn mtx_attention(query: TensorRef, key: TensorRef, value: TensorRef, scale: f64, out: *mut TensorRef) -> Failure;
    pub(crate) fn mtx_dropout(base: TensorRef, x: TensorRef, p: f64, out: *mut TensorRef) -> Failure;

    pub(crate) fn mtx_set_tf32(on: bool) -> Failure;
    pub(crate) fn mtx_tf32() -> bool;
    pub(crate) fn mtx_stream_enter(device: i32, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_stream_leave(stream: *mut Opaque);
    pub(crate) fn mtx_graph_pool(pool: *mut u64) -> Failure;
    pub(crate) fn mtx_graph_begin(pool: *const u64, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_graph_end(graph: *mut Opaque) -> Failure;
    pub(crate) fn mtx_graph_replay(graph: *mut Opaque) -> Failure;
    pub(crate) fn mtx_graph_free(graph: *mut Opaque);
    pub(crate) fn mtx_cuda_memory(device: i32, out: *mut DeviceMemoryNumbers) -> Failure;

    pub(crate) fn mtx_script_begin(names: *const *const c_char, tensors: *const TensorRef, trained: *const bool, count: usize, input: TensorRef, out: *mut *mut Opaque) -> Failure;
    pub(crate) fn mtx_script_end(script: *mut Opaque, names: *const *const c_char, outputs: *const TensorRef, count: usize, path: *const c_char, about: *const c_char) -> Failure;
    pub(crate) fn mtx_script_abandon(script: *mut Opaque);
}

impl Failure {
    /// The result that this stands for; `operation` names it in the error.
    pub(crate) fn check(self, operation: &'static str) -> Result<()> {
        let kind = self.kind;
        let message = self.into_message();
        match kind {
            0 => Ok(()),
            2 => Err(TorchExtError::Timeout { operation, message }),
            3 => Err(TorchExtError::Connection { operation, message }),
            4 => Err(TorchExtError::Unavailable { what: operation, reason: message }),
            _ => Err(TorchExtError::Torch { operation, message }),
        }
    }

    fn into_message(self) -> String {
        if self.message.is_null() {
            return String::from("no message");
        }
        // SAFETY: the shim returns null or a string with its terminating zero, which is now this function's own.
        let text = unsafe { CStr::from_ptr(self.message) }.to_string_lossy().trim_end().to_owned();
        // SAFETY: strdup allocated it, mtx_free is its free, and `self.message` is not used again.
        unsafe { mtx_free(self.message.cast()) };
        text
    }
}

/// Pointers to the tensors, for one call while `tensors` is borrowed.
pub(crate) fn refs<T: Borrow<Tensor>>(tensors: &[T]) -> Vec<TensorRef> {
    tensors.iter().map(|tensor| tensor_ref(tensor.borrow())).collect()
}

/// Pointer to the tensor, for one call while it is borrowed.
pub(crate) fn tensor_ref(tensor: &Tensor) -> TensorRef {
    tensor.as_ptr().cast_mut().cast()
}

/// Text for C++.
pub(crate) fn text(operation: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| argument(operation, format!("{text:?} holds a zero byte")))
}

/// Whole milliseconds, at least one: zero means "for ever" to c10d.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 1_000_000).clamp(1, i64::MAX / 1_000_000)
}

/// A count or an index for C++.
pub(crate) fn int32(operation: &'static str, what: &str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| argument(operation, format!("{what} {value} is too large")))
}
