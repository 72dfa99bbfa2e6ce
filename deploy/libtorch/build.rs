//! Stops a build that has no libtorch before torch-sys does, with a message that says what to do.

use std::path::{Path, PathBuf};
use std::{env, process};

const VERSION: &str = "2.11.0";

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_BYPASS_VERSION_CHECK");
    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        fail("LIBTORCH is not set; build inside the repository, whose .cargo/config.toml sets it");
    };
    if !libtorch.is_absolute() {
        fail(&format!(
            "LIBTORCH={} is a relative path, and every build script has a folder of its own; give the absolute path, \
             such as LIBTORCH=$PWD/.libtorch/cuda",
            libtorch.display()
        ));
    }
    let library = libtorch.join("lib/libtorch_cpu.so");
    println!("cargo::rerun-if-changed={}", library.display());
    if !library.exists() {
        fail(&format!("libtorch is not at {}; {}", libtorch.display(), how_to_get(&libtorch)));
    }
    let version_file = libtorch.join("build-version");
    if env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none()
        && let Ok(version) = std::fs::read_to_string(&version_file)
        && version.trim().split('+').next() != Some(VERSION)
    {
        fail(&format!("{} is libtorch {}, not {VERSION}", libtorch.display(), version.trim()));
    }
}

fn how_to_get(libtorch: &Path) -> &'static str {
    if libtorch.ends_with(".libtorch/cuda") {
        "run `CUDA=1 make libtorch` once, which fetches the CUDA build (some 6 GB), then build again"
    } else if libtorch.ends_with(".libtorch/cpu") {
        "run `make libtorch` once, which fetches it (about 500 MB), then build again; `make build` does both"
    } else {
        "set LIBTORCH to a folder with lib/libtorch_cpu.so and include/, or unset it and run `make libtorch`"
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    process::exit(1);
}
