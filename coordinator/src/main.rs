//! The program `mtinet`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mtinet::cli::main()
}
