//! Compiles the .proto files with a compiler written in Rust, so that no `protoc` has to be installed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "mtinet/v1/worker.proto",
        "mtinet/v1/client.proto",
        "mtinet/v1/trainer.proto",
        "mtinet/v1/auth.proto",
    ];
    for file in files.iter().chain(&["mtinet/v1/common.proto"]) {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    // Served by reflection, and read by the test that enumerates every RPC.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
