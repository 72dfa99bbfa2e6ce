//! How a worker's machine and its devices stand at a moment: what is shown and exported, never decided on.
//!
//! It is no event: only the latest is kept, and nothing is lost with it.

use serde::{Deserialize, Serialize};

use crate::ids::SlotIndex;

/// One measurement of a machine. What could not be measured is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineUsage {
    /// Main memory in use (what could not be had at once by another), in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Main memory that this machine, or the control group of the agent, has, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Share of all cores that was busy since the measurement before, in percent from 0 to 100.
    pub cpu_percent: Option<f64>,
    /// Processes that ran or waited to run, averaged over a minute.
    pub load_1m: Option<f64>,
    /// Cores that the agent may use; 0 where that is not known.
    pub cores: u32,
    /// The devices that can be measured by themselves, by slot.
    pub devices: Vec<DeviceUsage>,
}

/// One measurement of the device of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceUsage {
    /// The slot that holds it.
    pub slot: SlotIndex,
    /// Device memory in use, of whomever, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Device memory, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Share of the last moment in which it computed, in percent from 0 to 100.
    pub utilisation_percent: Option<f64>,
    /// Temperature of the chip, in degrees Celsius.
    pub temperature_celsius: Option<f64>,
}

impl MachineUsage {
    /// The device of a slot, where it is measured by itself.
    pub fn device(&self, slot: SlotIndex) -> Option<&DeviceUsage> {
        self.devices.iter().find(|device| device.slot == slot)
    }
}

impl DeviceUsage {
    /// The device of a slot, of which nothing could be measured.
    pub fn unmeasured(slot: SlotIndex) -> Self {
        Self {
            slot,
            memory_used_bytes: None,
            memory_total_bytes: None,
            utilisation_percent: None,
            temperature_celsius: None,
        }
    }
}
