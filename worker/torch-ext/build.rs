//! Compiles the C++ shim against libtorch's headers and links it.

use std::path::PathBuf;

const SOURCES: [&str; 11] = [
    "csrc/store.cpp",
    "csrc/group.cpp",
    "csrc/reducer.cpp",
    "csrc/numeric.cpp",
    "csrc/script.cpp",
    "csrc/allocator.cpp",
    "csrc/fused_norm.cpp",
    "csrc/fused_tokens.cpp",
    "csrc/profile.cpp",
    "csrc/mapped.cpp",
    "csrc/cuda.cpp",
];

/// The kernels' instruction sets; all but the first exist on x86 alone, and which one runs is decided at run time.
const ISAS: [(&str, &[&str]); 3] = [
    ("kernels_portable", &[]),
    ("kernels_avx2", &["-mavx2", "-mfma"]),
    ("kernels_avx512", &["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]),
];

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
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86 {
        shim.define("MTX_X86", None);
    }
    shim.flag("-Wall").compile("mtinet_torch_ext");
    for (name, flags) in ISAS.iter().take(if x86 { ISAS.len() } else { 1 }) {
        kernels(name, flags);
    }

    // After the shim, whose symbols they resolve.
    for library in libraries() {
        println!("cargo::rustc-link-lib={library}");
    }
    if let Some(runtime) = cuda_runtime() {
        println!("cargo::rustc-link-lib=dylib:+verbatim={runtime}");
    }
    mtinet_libtorch::link();
}

/// Optimised whatever the profile: a loop over pixels that is not is of no use to anybody.
fn kernels(name: &str, flags: &[&str]) {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(3).define("MTX_ISA", name).file("csrc/kernels/kernels.cpp");
    for flag in flags {
        build.flag(flag);
    }
    // Vectors wider than the instruction set's are passed within this file alone.
    build.flag("-Wall").flag("-Wno-psabi").compile(name);
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

/// The file of the CUDA runtime, which the shim calls itself. It lies beside libtorch under a name with a version, without the
/// plain name that `-l` looks for.
fn cuda_runtime() -> Option<String> {
    if !mtinet_libtorch::has_cuda() {
        return None;
    }
    let files = std::fs::read_dir(mtinet_libtorch::folder().join("lib")).ok()?;
    let mut names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    names.find(|name| name.starts_with("libcudart") && name.contains(".so"))
}
