//! Records what libtorch does as a Chrome trace, for `chrome://tracing` or ui.perfetto.dev.

use std::ffi::CString;
use std::marker::PhantomData;
use std::path::Path;
use std::ptr;

use crate::error::Result;
use crate::ffi::{self, Opaque, text};

/// A recording of this thread's operations, those of backward, and what they do on a GPU. One at a time in a process.
#[derive(Debug)]
#[must_use = "nothing is recorded once it is dropped"]
pub struct Profile {
    open: bool,
    _thread: PhantomData<*const ()>,
}

impl Profile {
    /// Records from here on. What is recorded is kept in memory: some steps, not a whole training.
    ///
    /// # Errors
    /// Where another recording runs.
    pub fn start() -> Result<Self> {
        // SAFETY: sets libtorch's profiler up for this thread.
        unsafe { ffi::mtx_profile_begin() }.check("starting a profile")?;
        Ok(Self { open: true, _thread: PhantomData })
    }

    /// Ends the recording and writes it as JSON.
    ///
    /// # Errors
    /// Where libtorch cannot write the file.
    pub fn save(mut self, path: &Path) -> Result<()> {
        const OPERATION: &str = "writing a profile";
        let path = text(OPERATION, &path.to_string_lossy())?;
        self.open = false;
        // SAFETY: the recording was started on this thread; the path outlives the call.
        unsafe { ffi::mtx_profile_end(path.as_ptr()) }.check(OPERATION)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        if self.open {
            // SAFETY: as in `save`; nothing is written.
            let ended = unsafe { ffi::mtx_profile_end(ptr::null()) };
            // The recording is given up; there is nobody to tell.
            let _ = ended.check("ending a profile");
        }
    }
}

/// Names what this thread does until the guard goes, in a [`Profile`]; costs nothing to speak of where none is recorded.
#[must_use = "the span ends when the guard is dropped"]
pub fn span(name: &'static str) -> Span {
    let mut raw = ptr::null_mut();
    if let Ok(name) = CString::new(name) {
        // SAFETY: the name and `raw` outlive the call. Without a span nothing is lost but its name.
        let _ = unsafe { ffi::mtx_span_begin(name.as_ptr(), &raw mut raw) }.check("beginning a span");
    }
    Span(raw)
}

/// The guard of [`span`]; bound to its thread.
#[derive(Debug)]
pub struct Span(*mut Opaque);

impl Drop for Span {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by mtx_span_begin on this thread, and ended once.
            unsafe { ffi::mtx_span_end(self.0) };
        }
    }
}
