//! Files as tensors that are never read as a whole: pages come in when they are used, and the kernel may drop them again.

use std::path::Path;
use std::ptr;

use tch::{Kind, Tensor};

use crate::error::{Result, argument};
use crate::ffi::{self, text};

const OPERATION: &str = "mapping a file";

/// The file's first elements as a tensor of this shape, in the machine's byte order. The tensor is to be read only: writing to it
/// ends the process. The file must not become shorter while the tensor lives.
///
/// Unlike `Tensor::from_file`, it takes files that are larger than the machine's memory.
///
/// # Errors
/// A file that cannot be opened or is too short; other types than float32 and bytes.
pub fn map_file(path: &Path, shape: &[i64], kind: Kind) -> Result<Tensor> {
    let place =
        path.to_str().ok_or_else(|| argument(OPERATION, format!("{} is not UTF-8", path.display())))?;
    let place = text(OPERATION, place)?;
    let dtype = match kind {
        Kind::Uint8 => 0,
        Kind::Float => 6,
        other => return Err(argument(OPERATION, format!("elements of type {other:?}"))),
    };
    let mut out = ptr::null_mut();
    // SAFETY: the path and `out` outlive the call. What is mapped belongs to the tensor, which unmaps it.
    unsafe { ffi::mtx_map_file(place.as_ptr(), dtype, shape.iter().product(), &raw mut out) }
        .check(OPERATION)?;
    // SAFETY: the shim allocated the tensor for us, and this is its only owner.
    let flat = unsafe { Tensor::from_ptr(out.cast()) };
    flat.f_view(shape).map_err(|error| argument(OPERATION, error.to_string()))
}
