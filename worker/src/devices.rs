//! What a machine lends: the devices behind its slots, and the threads of each.

use std::path::Path;
use std::str::FromStr;

use mtinet_domain::trial::Device;
use mtinet_runtime::cuda;

/// Cores that one CPU slot gets by default: training one small network gains little from more.
const CORES_PER_SLOT: usize = 2;

/// What a user writes for several kinds of devices.
const EXAMPLE: &str =
    "auto, cpu, cpu:N (N from 1), or a list such as cuda:0,cuda:1 or cuda:0*2,cpu:4 (two slots on cuda:0)";

/// The devices that a user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceList {
    /// Every CUDA device; without one, CPU slots by the number of cores.
    Auto,
    /// These, each with its number of slots.
    Named(Vec<(Device, usize)>),
}

/// Devices that cannot be lent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Text that names no devices.
    #[error("`{0}` names no devices: write {EXAMPLE}")]
    Syntax(String),
    /// A device named twice.
    #[error("{0} is named twice; several slots of it are cpu:N or cuda:INDEX*N")]
    Twice(Device),
    /// A device that is not here, or that the trainer cannot use.
    #[error(
        "cuda:{index} cannot be used: the trainer finds {found} CUDA devices on this machine (see /dev/nvidia*; \
         `make build CUDA=1` builds the trainer for CUDA)"
    )]
    Absent {
        /// The ordinal as given.
        index: u32,
        /// How many can be used.
        found: usize,
    },
}

impl FromStr for DeviceList {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let mut named: Vec<(Device, usize)> = Vec::new();
        for part in text.split(',') {
            let (device, slots) = part_of(part.trim()).ok_or_else(|| DeviceError::Syntax(text.to_owned()))?;
            if named.iter().any(|(other, _)| *other == device) {
                return Err(DeviceError::Twice(device));
            }
            named.push((device, slots));
        }
        Ok(Self::Named(named))
    }
}

/// A device and its slots, of one part of a list.
fn part_of(part: &str) -> Option<(Device, usize)> {
    let count = |text: &str| text.trim().parse().ok().filter(|count| *count > 0);
    match part.split_once(':') {
        None => (part == "cpu").then_some((Device::Cpu, 1)),
        Some(("cpu", slots)) => Some((Device::Cpu, count(slots)?)),
        Some(("cuda", device)) => {
            let (index, slots) = device.split_once('*').unwrap_or((device, "1"));
            Some((Device::Cuda(index.trim().parse().ok()?), count(slots)?))
        }
        Some(_) => None,
    }
}

impl DeviceList {
    /// The device of each slot, in order of the slots.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] for a CUDA device that `machine` has not.
    pub fn on(&self, machine: &Machine) -> Result<Vec<Device>, DeviceError> {
        let named = match self {
            Self::Auto if machine.cuda_devices > 0 => {
                return Ok((0..).map(Device::Cuda).take(machine.cuda_devices).collect());
            }
            Self::Auto => return Ok(vec![Device::Cpu; (machine.cores / CORES_PER_SLOT).max(1)]),
            Self::Named(named) => named,
        };
        let found = machine.cuda_devices;
        let absent = named.iter().find_map(|(device, _)| match device {
            Device::Cuda(index) if *index as usize >= found => Some(*index),
            _ => None,
        });
        match absent {
            Some(index) => Err(DeviceError::Absent { index, found }),
            None => Ok(named.iter().flat_map(|(device, slots)| vec![*device; *slots]).collect()),
        }
    }
}

/// What a machine has.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// CUDA devices that libtorch will see.
    pub cuda_devices: usize,
}

impl Machine {
    /// This machine, and of its CUDA devices those that `trainer` can use.
    pub fn detect(trainer: &Path) -> Self {
        let cuda_devices = cuda::usable_by(trainer, cuda::devices_of_the_driver());
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cuda_devices: usize::try_from(cuda_devices).unwrap_or(usize::MAX),
        }
    }

    /// Intra-operation threads of each of `slots` trainers.
    pub fn threads_per_slot(&self, slots: usize) -> u32 {
        u32::try_from(self.cores / slots.max(1)).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        let machine = Machine { cores: 9, cuda_devices: 2 };
        let on = |text: &str| text.parse::<DeviceList>().unwrap().on(&machine).unwrap();
        assert_eq!(on("auto"), [Device::Cuda(0), Device::Cuda(1)]);
        assert_eq!(on("cpu"), [Device::Cpu]);
        assert_eq!(on("cpu:3"), [Device::Cpu; 3]);
        assert_eq!(on("cuda:1, cuda:0"), [Device::Cuda(1), Device::Cuda(0)]);
        assert_eq!(on("cuda:0*2,cuda:1"), [Device::Cuda(0), Device::Cuda(0), Device::Cuda(1)]);
        assert_eq!(on("cuda:1,cpu:2"), [Device::Cuda(1), Device::Cpu, Device::Cpu]);
        assert_eq!(on("cpu, cuda:0 * 2"), [Device::Cpu, Device::Cuda(0), Device::Cuda(0)]);
        let plain = Machine { cuda_devices: 0, ..machine };
        assert_eq!(DeviceList::Auto.on(&plain).unwrap(), [Device::Cpu; 4]);
        assert_eq!(plain.threads_per_slot(4), 2);
        assert_eq!(Machine { cores: 1, cuda_devices: 0 }.threads_per_slot(4), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for bad in [
            "",
            "cpu:0",
            "cpu:x",
            "cpu*2",
            "gpu",
            "cuda",
            "cuda:",
            "cuda:0,",
            "cuda:0;cuda:1",
            "cuda:0*0",
            "cuda:0*",
            "auto,cpu",
            "cpu:1,gpu:0",
        ] {
            assert_eq!(bad.parse::<DeviceList>(), Err(DeviceError::Syntax(bad.to_owned())));
        }
        for (twice, device) in [("cuda:0,cuda:0", Device::Cuda(0)), ("cpu:2,cuda:1,cpu", Device::Cpu)] {
            assert_eq!(twice.parse::<DeviceList>(), Err(DeviceError::Twice(device)));
        }
        let two = Machine { cores: 1, cuda_devices: 2 };
        let absent = "cpu,cuda:2*3".parse::<DeviceList>().unwrap().on(&two);
        assert_eq!(absent, Err(DeviceError::Absent { index: 2, found: 2 }));
    }
}
