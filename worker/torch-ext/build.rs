//! Compiles the C++ shim against libtorch's headers and links it.

use std::path::PathBuf;

const SOURCES: [&str; 5] =
    ["csrc/store.cpp", "csrc/group.cpp", "csrc/reducer.cpp", "csrc/numeric.cpp", "csrc/script.cpp"];

fn main() {
    println!("cargo::rerun-if-changed=csrc");
    let include = mtinet_libtorch::folder().join("include");
    let mut system = vec![include.clone(), include.join("torch/csrc/api/include")];
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").files(SOURCES).include("csrc/include").define("USE_C10D_GLOO", None);
    if mtinet_libtorch::has_cuda() {
        shim.define("USE_C10D_NCCL", None);
        system.extend([include.join("nvidia"), include.join("nvidia/cccl")]);
    }
    for folder in system {
        as_system_header(&mut shim, folder);
    }
    shim.flag("-Wall").compile("mtinet_torch_ext");

    // After the shim, whose symbols they resolve.
    for library in libraries() {
        println!("cargo::rustc-link-lib={library}");
    }
    mtinet_libtorch::link();
}

/// Warnings inside libtorch's headers are not ours to mend.
fn as_system_header(shim: &mut cc::Build, folder: PathBuf) {
    shim.flag("-isystem").flag(folder);
}

fn libraries() -> Vec<&'static str> {
    let mut libraries = vec!["torch_cpu", "c10"];
    if mtinet_libtorch::has_cuda() {
        libraries.splice(0..0, ["torch_cuda", "c10_cuda"]);
    }
    libraries
}
