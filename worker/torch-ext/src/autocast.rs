//! Mixed precision: within a guard's life, operations that gain from it run in a lower precision.

use crate::error::{Result, argument};
use crate::ffi::{self, AutocastState};
use std::marker::PhantomData;
use tch::{Device, Kind};

/// Turns autocast on for this thread and `device`'s type, as PyTorch's `torch.autocast`; off again when the guard goes.
///
/// `kind` is `BFloat16` or, on CUDA, `Half`. Hold it over forward and loss; let it go before backward, which repeats the
/// types of forward by itself, and before the optimizer's step. Guards nest; drop them in the reverse order of their
/// making. When the last one goes, the low-precision copies of the weights go with it.
///
/// # Errors
/// [`Argument`](crate::TorchExtError::Argument) for another device or kind.
pub fn autocast(device: Device, kind: Kind) -> Result<Autocast> {
    const OPERATION: &str = "entering autocast";
    let device = match device {
        Device::Cpu => 0,
        Device::Cuda(_) => 1,
        other => return Err(argument(OPERATION, format!("no autocast for {other:?}"))),
    };
    // Values of c10::ScalarType.
    let dtype = match kind {
        Kind::Half => 5,
        Kind::BFloat16 => 15,
        other => return Err(argument(OPERATION, format!("{other:?} is neither BFloat16 nor Half"))),
    };
    let mut before = AutocastState::default();
    // SAFETY: `before` outlives the call.
    unsafe { ffi::mtx_autocast_enter(device, dtype, &raw mut before) }.check(OPERATION)?;
    Ok(Autocast { before, _thread: PhantomData })
}

/// The guard of [`autocast`]. Bound to its thread, as autocast is.
#[must_use = "autocast ends when the guard is dropped"]
pub struct Autocast {
    before: AutocastState,
    _thread: PhantomData<*const ()>,
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: `before` is what mtx_autocast_enter wrote on this same thread.
        let left = unsafe { ffi::mtx_autocast_exit(&raw const self.before) };
        // Setting thread-local flags; there is nothing to undo if it fails, and nobody to tell.
        let _ = left.check("leaving autocast");
    }
}

impl std::fmt::Debug for Autocast {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Autocast")
    }
}
