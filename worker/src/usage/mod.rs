//! How this machine stands, measured every few seconds: memory, cores and, through NVIDIA's library, CUDA devices.
//!
//! It is for people and monitoring; nothing is decided on it. What cannot be measured is absent, never an error: a
//! machine without the library has no device values.

mod machine;
mod nvml;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mtinet_domain::trial::Device;
use mtinet_domain::usage::MachineUsage;
use tokio::sync::watch;

use machine::Cores;
use nvml::Nvml;

/// Between two measurements.
const INTERVAL: Duration = Duration::from_secs(2);

/// The latest measurement; none before the first.
pub type Latest = watch::Receiver<Option<MachineUsage>>;

/// Measures until nobody listens any more, on a thread of its own: a driver that is stuck holds nothing up.
/// `library` is NVIDIA's where it is not where the system looks for it.
pub fn watch(devices: Vec<Device>, library: Option<PathBuf>) -> Latest {
    let (sender, latest) = watch::channel(None);
    let measuring = move || {
        let mut probe = Probe::new(devices, library.as_deref());
        while !sender.is_closed() {
            sender.send_replace(Some(probe.measure()));
            std::thread::sleep(INTERVAL);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("usage".to_owned()).spawn(measuring) {
        tracing::warn!(%error, "this machine's usage is not measured");
    }
    latest
}

/// What a measurement needs from the one before.
struct Probe {
    devices: Vec<Device>,
    nvml: Option<Nvml>,
    cores: Cores,
}

impl Probe {
    fn new(devices: Vec<Device>, library: Option<&Path>) -> Self {
        let has_cuda = devices.iter().any(|device| *device != Device::Cpu);
        let nvml = if has_cuda { Nvml::load(library) } else { None };
        Self { devices, nvml, cores: Cores::default() }
    }

    fn measure(&mut self) -> MachineUsage {
        let memory = machine::memory();
        let devices = self.nvml.as_ref().map(|nvml| nvml.measure(&self.devices)).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        MachineUsage {
            memory_used_bytes: memory.map(|memory| memory.used),
            memory_total_bytes: memory.map(|memory| memory.total),
            cpu_percent: self.cores.busy_percent(),
            load_1m: machine::load(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            devices,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_cuda_has_memory_and_load_and_no_devices() {
        let mut probe = Probe::new(vec![Device::Cpu, Device::Cpu], None);
        probe.measure();
        let usage = probe.measure();
        assert!(usage.devices.is_empty() && usage.cores > 0);
        let (used, total) = (usage.memory_used_bytes.unwrap(), usage.memory_total_bytes.unwrap());
        assert!(0 < used && used <= total, "{usage:?}");
        assert!(usage.load_1m.unwrap() >= 0.0);
    }

    #[test]
    fn an_absent_library_gives_no_values_and_no_error() {
        let mut probe = Probe::new(vec![Device::Cuda(0)], Some(Path::new("/nowhere/libnvidia-ml.so.1")));
        assert!(probe.measure().devices.is_empty());
    }
}
