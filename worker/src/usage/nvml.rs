//! CUDA devices through NVIDIA's management library, which comes with the driver and is loaded at run time.

use std::ffi::OsStr;
use std::path::Path;

use mtinet_domain::SlotIndex;
use mtinet_domain::trial::Device;
use mtinet_domain::usage::DeviceUsage;
use nvml_wrapper::Nvml as Library;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

/// The name that every driver installs; the one without a number is of development packages only.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// The library, loaded.
pub struct Nvml {
    library: Library,
    /// The management library's device of each CUDA ordinal.
    visible: Visible,
}

impl Nvml {
    /// Loads the library; none, and a word in the log, where there is none or it has no driver to talk to.
    pub fn load(path: Option<&Path>) -> Option<Self> {
        let path = path.map_or(OsStr::new(LIBRARY), Path::as_os_str);
        match Library::builder().lib_path(path).init() {
            Ok(library) => Some(Self { library, visible: Visible::of_this_process() }),
            Err(error) => {
                tracing::info!(%error, library = %Path::new(path).display(), "CUDA devices are not measured");
                None
            }
        }
    }

    /// The CUDA devices among `devices`, by slot. A value that a device does not give is absent.
    pub fn measure(&self, devices: &[Device]) -> Vec<DeviceUsage> {
        let cuda = devices.iter().zip(0..).filter_map(|(device, slot)| match device {
            Device::Cuda(ordinal) => Some((*ordinal, SlotIndex(slot))),
            Device::Cpu => None,
        });
        cuda.filter_map(|(ordinal, slot)| self.measure_one(ordinal, slot)).collect()
    }

    fn measure_one(&self, ordinal: u32, slot: SlotIndex) -> Option<DeviceUsage> {
        let device = match self.visible.get(ordinal)? {
            Name::Index(index) => self.library.device_by_index(index),
            Name::Uuid(uuid) => self.library.device_by_uuid(uuid),
        };
        let device =
            device.inspect_err(|error| tracing::debug!(%error, ordinal, "device not measured")).ok()?;
        let memory = device.memory_info().ok();
        Some(DeviceUsage {
            slot,
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            utilisation_percent: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu)),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        })
    }
}

/// How `CUDA_VISIBLE_DEVICES` renumbers the devices; the management library knows nothing of it.
#[derive(Debug, PartialEq, Eq)]
enum Visible {
    /// CUDA's ordinals are the management library's indices, as long as CUDA counts in the order of the bus.
    All,
    /// These, in this order.
    Listed(Vec<Name<String>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name<S> {
    Index(u32),
    Uuid(S),
}

impl Visible {
    fn of_this_process() -> Self {
        std::env::var("CUDA_VISIBLE_DEVICES").map_or(Self::All, |list| Self::parse(&list))
    }

    /// As CUDA reads it: the list ends at the first entry that makes no sense.
    fn parse(list: &str) -> Self {
        let name = |entry: &str| match entry.trim() {
            uuid if uuid.starts_with("GPU-") || uuid.starts_with("MIG-") => Some(Name::Uuid(uuid.to_owned())),
            index => index.parse().ok().map(Name::Index),
        };
        Self::Listed(list.split(',').map_while(name).collect())
    }

    fn get(&self, ordinal: u32) -> Option<Name<&str>> {
        match self {
            Self::All => Some(Name::Index(ordinal)),
            Self::Listed(names) => match names.get(ordinal as usize)? {
                Name::Index(index) => Some(Name::Index(*index)),
                Name::Uuid(uuid) => Some(Name::Uuid(uuid)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds the stand-in for NVIDIA's library; the tests' set-up has a C compiler.
    fn library(dir: &Path) -> std::path::PathBuf {
        let (source, library) = (dir.join("nvml.c"), dir.join("libnvidia-ml.so.1"));
        std::fs::write(&source, include_str!("fixtures/nvml.c")).unwrap();
        let mut compiler = std::process::Command::new("cc");
        let built = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        library
    }

    #[test]
    fn devices_are_measured_by_slot_and_what_one_does_not_tell_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let mut nvml = Nvml::load(Some(&library(dir.path()))).unwrap();
        nvml.visible = Visible::parse("GPU-second,0,7");
        let devices = [Device::Cpu, Device::Cuda(0), Device::Cuda(1), Device::Cuda(2)];
        let measured = nvml.measure(&devices);
        let of = |slot, used, percent, celsius| DeviceUsage {
            slot: SlotIndex(slot),
            memory_used_bytes: Some(used),
            memory_total_bytes: Some(80_000_000_000),
            utilisation_percent: Some(percent),
            temperature_celsius: celsius,
        };
        // The machine has no device 7.
        assert_eq!(measured, [of(1, 2000, 91.0, None), of(2, 1000, 90.0, Some(64.0))]);
    }

    #[test]
    fn visible_devices_are_found_by_what_they_are_called() {
        let visible = Visible::parse("3, GPU-8a1f,-1,0");
        assert_eq!(visible.get(0), Some(Name::Index(3)));
        assert_eq!(visible.get(1), Some(Name::Uuid("GPU-8a1f")));
        assert_eq!(visible.get(2), None, "-1 ends the list");
        assert_eq!(Visible::parse("").get(0), None, "an empty list hides all");
        assert_eq!(Visible::All.get(7), Some(Name::Index(7)));
    }
}
