//! What a machine lends: the devices behind its slots, and the threads of each.

use std::path::Path;
use std::str::FromStr;

use mtinet_domain::trial::Device;
use mtinet_runtime::cuda;

/// Cores that one CPU slot gets by default: training one small network gains little from more.
const CORES_PER_SLOT: usize = 2;

/// Trainers side by side on one CUDA device at most: more than fit is a slip of the keyboard.
const MOST_SHARING: u32 = 64;

/// The devices that a user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceList {
    /// Every CUDA device; without one, CPU slots by the number of cores.
    Auto,
    /// So many shares of the CPU.
    Cpu(usize),
    /// These CUDA devices, each for so many trainers at a time.
    Cuda(Vec<(u32, u32)>),
}

/// Devices that cannot be lent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Text that names no devices.
    #[error(
        "`{0}` names no devices: write auto, cpu, cpu:N (N from 1) or a list such as cuda:0,cuda:1, with *N behind a \
             device for N trainers side by side (N to {MOST_SHARING})"
    )]
    Syntax(String),
    /// A device named twice.
    #[error("cuda:{0} is named twice")]
    Twice(u32),
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
        let syntax = || DeviceError::Syntax(text.to_owned());
        match text.trim() {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu(1)),
            _ => {}
        }
        if let Some(count) = text.trim().strip_prefix("cpu:") {
            return match count.parse() {
                Ok(count) if count > 0 => Ok(Self::Cpu(count)),
                _ => Err(syntax()),
            };
        }
        let mut devices = Vec::new();
        for part in text.split(',') {
            let device = part.trim().strip_prefix("cuda:").ok_or_else(syntax)?;
            let (index, sharing) = device.split_once('*').unwrap_or((device, "1"));
            let index: u32 = index.trim().parse().map_err(|_| syntax())?;
            let sharing: u32 = sharing.trim().parse().map_err(|_| syntax())?;
            if !(1..=MOST_SHARING).contains(&sharing) {
                return Err(syntax());
            }
            if devices.iter().any(|(other, _)| *other == index) {
                return Err(DeviceError::Twice(index));
            }
            devices.push((index, sharing));
        }
        Ok(Self::Cuda(devices))
    }
}

impl DeviceList {
    /// The device of each slot, in order of the slots: of devices that are shared the first slot of each, then the second of
    /// each and so on, so that trials go to idle devices first.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] for a CUDA device that `machine` has not.
    pub fn on(&self, machine: &Machine) -> Result<Vec<Device>, DeviceError> {
        match self {
            Self::Auto if machine.cuda_devices > 0 => {
                Ok((0..).map(Device::Cuda).take(machine.cuda_devices).collect())
            }
            Self::Auto => Ok(vec![Device::Cpu; (machine.cores / CORES_PER_SLOT).max(1)]),
            Self::Cpu(count) => Ok(vec![Device::Cpu; *count]),
            Self::Cuda(indices) => {
                let found = machine.cuda_devices;
                if let Some(&(index, _)) = indices.iter().find(|(index, _)| *index as usize >= found) {
                    return Err(DeviceError::Absent { index, found });
                }
                let most = indices.iter().map(|(_, sharing)| *sharing).max().unwrap_or(0);
                let layer = |nth| {
                    let having = indices.iter().filter(move |(_, sharing)| nth < *sharing);
                    having.map(|(index, _)| Device::Cuda(*index))
                };
                Ok((0..most).flat_map(layer).collect())
            }
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
        let (zero, one) = (Device::Cuda(0), Device::Cuda(1));
        assert_eq!(on("cuda:0*3,cuda:1*2"), [zero, one, zero, one, zero]);
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
            "gpu",
            "cuda",
            "cuda:",
            "cuda:0,",
            "cuda:0;cuda:1",
            "cuda:0*0",
            "cuda:0*",
            "cuda:0*65",
            "auto*2",
        ] {
            assert_eq!(bad.parse::<DeviceList>(), Err(DeviceError::Syntax(bad.to_owned())));
        }
        assert_eq!("cuda:0,cuda:0".parse::<DeviceList>(), Err(DeviceError::Twice(0)));
        assert_eq!("cuda:0*2,cuda:0".parse::<DeviceList>(), Err(DeviceError::Twice(0)));
        let absent = DeviceList::Cuda(vec![(2, 1)]).on(&Machine { cores: 1, cuda_devices: 2 });
        assert_eq!(absent, Err(DeviceError::Absent { index: 2, found: 2 }));
    }
}
