//! Networks recorded as TorchScript. Unlike `tch::CModule::create_by_tracing`, weights keep their names, and there may be
//! several answers.

use std::ffi::c_char;
use std::marker::PhantomData;
use std::path::Path;

use tch::Tensor;

use crate::error::{Result, argument};
use crate::ffi::{self, Opaque, refs, tensor_ref, text};

const OPERATION: &str = "recording a network as TorchScript";

/// A tensor that a network owns.
#[derive(Debug)]
pub struct Weight {
    /// Its name, with dots between modules, as in PyTorch's `state_dict`.
    pub name: String,
    /// Its value; the network must compute with this very tensor.
    pub tensor: Tensor,
    /// Whether it is a parameter; else it is a buffer, like running statistics.
    pub trained: bool,
}

/// A recording of what this thread computes. Dropped unfinished, it is discarded.
#[derive(Debug)]
pub struct Script {
    handle: *mut Opaque,
    /// libtorch records per thread.
    not_send: PhantomData<*const ()>,
}

impl Script {
    /// Begins to record what is computed from `input` with `weights`. No other recording may be under way in this thread,
    /// and gradients should be off.
    ///
    /// What is read from a tensor into Rust, its sizes among them, becomes a constant of the recording.
    ///
    /// # Errors
    /// A name with a zero byte; names that cannot be modules and parameters at once; another recording.
    pub fn begin(weights: &[Weight], input: &Tensor) -> Result<Self> {
        let names = weights.iter().map(|weight| text(OPERATION, &weight.name)).collect::<Result<Vec<_>>>()?;
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let tensors = refs(&weights.iter().map(|weight| &weight.tensor).collect::<Vec<_>>());
        let trained: Vec<bool> = weights.iter().map(|weight| weight.trained).collect();
        let mut handle = std::ptr::null_mut();
        // SAFETY: three lists of `weights.len()` entries, a tensor and a place for the result, all alive during the call.
        unsafe {
            ffi::mtx_script_begin(
                names.as_ptr(),
                tensors.as_ptr(),
                trained.as_ptr(),
                weights.len(),
                tensor_ref(input),
                &raw mut handle,
            )
        }
        .check(OPERATION)?;
        Ok(Self { handle, not_send: PhantomData })
    }

    /// Ends the recording and writes it to `path`, which is replaced. Its method `forward` takes one tensor and returns a
    /// dictionary with `outputs` under their names; `about` becomes the extra file `mtinet.json`.
    ///
    /// # Errors
    /// An output that does not depend on the input, or a file that cannot be written.
    pub fn finish(self, outputs: &[(&str, Tensor)], path: &Path, about: &str) -> Result<()> {
        let place =
            path.to_str().ok_or_else(|| argument(OPERATION, format!("{} is not UTF-8", path.display())))?;
        let (place, about) = (text(OPERATION, place)?, text(OPERATION, about)?);
        let names = outputs.iter().map(|(name, _)| text(OPERATION, name)).collect::<Result<Vec<_>>>()?;
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let tensors = refs(&outputs.iter().map(|(_, tensor)| tensor).collect::<Vec<_>>());
        // The call frees what the handle stands for.
        let handle = std::mem::ManuallyDrop::new(self).handle;
        // SAFETY: the handle is from `begin` and not used again; the lists and strings are alive during the call.
        unsafe {
            ffi::mtx_script_end(
                handle,
                names.as_ptr(),
                tensors.as_ptr(),
                outputs.len(),
                place.as_ptr(),
                about.as_ptr(),
            )
        }
        .check(OPERATION)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SAFETY: the handle is from `begin`, and nobody else has it.
        unsafe { ffi::mtx_script_abandon(self.handle) };
    }
}
