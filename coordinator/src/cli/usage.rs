//! How a worker's machine and devices stand, in a table's cell and as JSON.

use mtinet_proto::v1::{DeviceUsage, MachineUsage, SlotState, WorkerState};
use serde_json::{Value, json};

/// What is known of a slot's device: for CUDA the device's own values, for the CPU the machine's.
pub fn words(worker: &WorkerState, slot: &SlotState) -> String {
    let Some(usage) = &worker.usage else { return String::new() };
    let device = of_slot(usage, slot);
    let (percent, used, total, celsius) = match device {
        Some(device) => (
            device.utilisation_percent,
            device.memory_used_bytes,
            device.memory_total_bytes,
            device.temperature_celsius,
        ),
        // Of a CUDA device that is not measured, the machine's values say nothing.
        None if super::status::device(slot).starts_with("cuda") => return String::new(),
        None => (usage.cpu_percent, usage.memory_used_bytes, usage.memory_total_bytes, None),
    };
    let memory =
        used.zip(total).map(|(used, total)| format!("{} of {} GB", gigabytes(used), gigabytes(total)));
    let parts = [
        percent.map(|percent| format!("{percent:.0} %")),
        memory,
        celsius.map(|celsius| format!("{celsius:.0} °C")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn of_slot<'a>(usage: &'a MachineUsage, slot: &SlotState) -> Option<&'a DeviceUsage> {
    let index = slot.slot.as_ref()?.index;
    usage.devices.iter().find(|device| device.slot == index)
}

/// GB of 10^9 bytes, as `artifact_cache_gb` counts.
fn gigabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e9)
}

/// The machine of a worker; null where it did not say.
pub fn machine_json(worker: &WorkerState) -> Value {
    worker.usage.as_ref().map_or(Value::Null, |usage| {
        json!({
            "memory_used_bytes": usage.memory_used_bytes,
            "memory_total_bytes": usage.memory_total_bytes,
            "cpu_percent": usage.cpu_percent,
            "load_1m": usage.load_1m,
            "cores": usage.cores,
            "measured_ms_ago": worker.usage_ms_ago,
        })
    })
}

/// The device of a slot; null where it is not measured by itself.
pub fn device_json(worker: &WorkerState, slot: &SlotState) -> Value {
    let device = worker.usage.as_ref().and_then(|usage| of_slot(usage, slot));
    device.map_or(Value::Null, |device| {
        json!({
            "memory_used_bytes": device.memory_used_bytes,
            "memory_total_bytes": device.memory_total_bytes,
            "utilisation_percent": device.utilisation_percent,
            "temperature_celsius": device.temperature_celsius,
        })
    })
}

#[cfg(test)]
mod tests {
    use mtinet_proto::v1::device::Kind;
    use mtinet_proto::v1::{Device, Slot};

    use super::*;

    fn slot(index: u32, kind: Kind) -> SlotState {
        let device = Some(Device { kind: kind.into(), index });
        SlotState { slot: Some(Slot { index, device }), ..SlotState::default() }
    }

    #[test]
    fn a_gpu_shows_its_own_values_and_a_cpu_the_machines() {
        let gpu = DeviceUsage {
            slot: 0,
            memory_used_bytes: Some(31_200_000_000),
            memory_total_bytes: Some(80_000_000_000),
            utilisation_percent: Some(93.0),
            temperature_celsius: Some(64.0),
        };
        let machine = MachineUsage {
            memory_used_bytes: Some(5_000_000_000),
            memory_total_bytes: Some(7_900_000_000),
            cpu_percent: Some(87.4),
            devices: vec![gpu],
            ..MachineUsage::default()
        };
        let worker = WorkerState { usage: Some(machine), ..WorkerState::default() };
        assert_eq!(words(&worker, &slot(0, Kind::Cuda)), "93 %, 31.2 of 80.0 GB, 64 °C");
        assert_eq!(words(&worker, &slot(1, Kind::Cuda)), "", "not measured");
        assert_eq!(words(&worker, &slot(1, Kind::Cpu)), "87 %, 5.0 of 7.9 GB");
        assert_eq!(device_json(&worker, &slot(0, Kind::Cuda))["temperature_celsius"], 64.0);
        assert_eq!(machine_json(&worker)["memory_total_bytes"], 7_900_000_000_u64);
        let silent = WorkerState::default();
        assert_eq!(words(&silent, &slot(0, Kind::Cpu)), "");
        assert!(machine_json(&silent).is_null() && device_json(&silent, &slot(0, Kind::Cpu)).is_null());
    }
}
