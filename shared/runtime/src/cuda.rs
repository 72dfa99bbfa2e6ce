//! Which CUDA devices a trainer can use. Only the trainer links libtorch, so it is asked; and only where the driver shows
//! a device, so that other machines pay nothing.

use std::path::Path;
use std::process::{Command, Stdio};

/// CUDA devices that the driver shows on this machine: `/dev/nvidia0`, `/dev/nvidia1`, ...
pub fn devices_of_the_driver() -> u32 {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let count = entries.filter(|entry| is_gpu_node(&entry.file_name().to_string_lossy())).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// How many of `present` CUDA devices the program `trainer` can use: none where it was built with libtorch's CPU build.
pub fn usable_by(trainer: &Path, present: u32) -> u32 {
    if present == 0 {
        return 0;
    }
    let usable = ask(trainer).unwrap_or_else(|problem| {
        tracing::warn!(trainer = %trainer.display(), problem, "the trainer does not tell its CUDA devices");
        0
    });
    if usable < present {
        tracing::warn!(
            present,
            usable,
            "the trainer cannot use all CUDA devices of this machine; `make build CUDA=1` builds it for CUDA"
        );
    }
    usable.min(present)
}

fn ask(trainer: &Path) -> Result<u32, String> {
    let output = Command::new(trainer).arg("devices").stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&output.stdout);
    answer.trim().parse().map_err(|_| format!("{}: {}", output.status, answer.trim()))
}

/// `nvidia0`, `nvidia1`, ... but neither `nvidiactl` nor `nvidia-uvm`.
fn is_gpu_node(name: &str) -> bool {
    name.strip_prefix("nvidia")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_gpus_are_counted() {
        let nodes = ["nvidia0", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia", "null"];
        assert_eq!(nodes.iter().filter(|name| is_gpu_node(name)).count(), 2);
    }

    #[test]
    fn a_trainer_without_cuda_has_no_devices() {
        let dir = tempfile::tempdir().unwrap();
        let program = |script: &str| {
            let path = dir.path().join(blake3::hash(script.as_bytes()).to_hex().as_str());
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        assert_eq!(usable_by(&program("echo 0"), 2), 0);
        assert_eq!(usable_by(&program("echo 4"), 2), 2);
        assert_eq!(usable_by(&program("exit 2"), 2), 0);
        assert_eq!(usable_by(Path::new("/nowhere"), 2), 0);
    }
}
