//! Where libtorch is, for the build scripts of the crates that link it.
//!
//! Cargo passes no linker arguments from a library to the programs that use it, so every crate with a program or a test
//! on libtorch names this crate under `[build-dependencies]` and calls [`link`] in its `build.rs`. The crate's own build
//! script ends a build without libtorch with a message that says how to fetch it. It fetches nothing itself:
//! `deploy/libtorch/fetch` does.

use std::env;
use std::path::PathBuf;

/// The folder of the libtorch that this build uses: `lib/`, `include/`. Absolute.
///
/// # Panics
/// Where `LIBTORCH` is not set, which this crate's own build script has reported before.
#[must_use]
pub fn folder() -> PathBuf {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    env::var_os("LIBTORCH").map(PathBuf::from).expect("the build script of mtinet-libtorch checks LIBTORCH")
}

/// Whether this is the CUDA build of libtorch: it has `libtorch_cuda.so`.
#[must_use]
pub fn has_cuda() -> bool {
    folder().join("lib/libtorch_cuda.so").exists()
}

/// Tells Cargo how the calling crate's programs, tests and benches find libtorch when they run.
///
/// They look first in `../lib` from where they lie, the layout of an installed `bin/` + `lib/`, and then in the folder
/// that they were built with. The two are an `RPATH`, not a `RUNPATH`: it comes before `LD_LIBRARY_PATH`, which on shared
/// clusters often names another libtorch or CUDA, and holds for the libraries' own libraries too.
pub fn link() {
    let lib = folder().join("lib");
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags");
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    if has_cuda() {
        // No symbol of these is called by name: their kernels register themselves when they are loaded. The linker would
        // leave them out, and CUDA would seem absent.
        println!("cargo::rustc-link-arg=-Wl,--push-state,--no-as-needed");
        println!("cargo::rustc-link-arg={}", lib.join("libtorch_cuda.so").display());
        println!("cargo::rustc-link-arg={}", lib.join("libtorch.so").display());
        println!("cargo::rustc-link-arg=-Wl,--pop-state");
    }
}
