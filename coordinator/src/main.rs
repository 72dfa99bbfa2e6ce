//! The program `mtinet`; all of it is in the library.

use std::process::ExitCode;

/// The coordinator allocates some hundred times for each trial on several threads, where the system's allocator took a
/// quarter of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mtinet::cli::main()
}
