//! How a machine stands. A value that makes no sense is left out: a broken sensor must not end a worker's session.

use mtinet_domain::SlotIndex;
use mtinet_domain::usage::{DeviceUsage, MachineUsage};
use mtinet_proto::v1;

use super::{ConvertError, FromProto, ToProto};

/// Devices of one machine that are listened to; no machine has more.
const MAX_DEVICES: usize = 1024;

impl ToProto for MachineUsage {
    type Proto = v1::MachineUsage;

    fn to_proto(&self) -> v1::MachineUsage {
        v1::MachineUsage {
            memory_used_bytes: self.memory_used_bytes,
            memory_total_bytes: self.memory_total_bytes,
            cpu_percent: self.cpu_percent,
            load_1m: self.load_1m,
            cores: self.cores,
            devices: self.devices.iter().map(ToProto::to_proto).collect(),
        }
    }
}

impl FromProto for MachineUsage {
    type Proto = v1::MachineUsage;

    fn from_proto(proto: v1::MachineUsage) -> Result<Self, ConvertError> {
        let devices = proto.devices.into_iter().take(MAX_DEVICES).map(DeviceUsage::from_proto);
        Ok(Self {
            memory_used_bytes: proto.memory_used_bytes,
            memory_total_bytes: proto.memory_total_bytes,
            cpu_percent: percent(proto.cpu_percent),
            load_1m: proto.load_1m.filter(|load| load.is_finite() && *load >= 0.0),
            cores: proto.cores,
            devices: devices.collect::<Result<_, _>>()?,
        })
    }
}

impl ToProto for DeviceUsage {
    type Proto = v1::DeviceUsage;

    fn to_proto(&self) -> v1::DeviceUsage {
        v1::DeviceUsage {
            slot: self.slot.0,
            memory_used_bytes: self.memory_used_bytes,
            memory_total_bytes: self.memory_total_bytes,
            utilisation_percent: self.utilisation_percent,
            temperature_celsius: self.temperature_celsius,
        }
    }
}

impl FromProto for DeviceUsage {
    type Proto = v1::DeviceUsage;

    fn from_proto(proto: v1::DeviceUsage) -> Result<Self, ConvertError> {
        Ok(Self {
            slot: SlotIndex(proto.slot),
            memory_used_bytes: proto.memory_used_bytes,
            memory_total_bytes: proto.memory_total_bytes,
            utilisation_percent: percent(proto.utilisation_percent),
            temperature_celsius: proto.temperature_celsius.filter(|celsius| celsius.is_finite()),
        })
    }
}

fn percent(value: Option<f64>) -> Option<f64> {
    value.filter(|value| (0.0..=100.0).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_left_out_and_the_rest_stays() {
        let usage = MachineUsage {
            memory_used_bytes: Some(5),
            memory_total_bytes: Some(8),
            cpu_percent: Some(99.5),
            load_1m: Some(2.25),
            cores: 2,
            devices: vec![DeviceUsage {
                memory_used_bytes: Some(3),
                utilisation_percent: Some(40.0),
                temperature_celsius: Some(-3.0),
                ..DeviceUsage::unmeasured(SlotIndex(1))
            }],
        };
        assert_eq!(MachineUsage::from_proto(usage.to_proto()), Ok(usage.clone()));
        let mut broken = usage.to_proto();
        broken.cpu_percent = Some(f64::NAN);
        broken.load_1m = Some(-1.0);
        broken.devices[0].utilisation_percent = Some(250.0);
        let mut expected = usage;
        (expected.cpu_percent, expected.load_1m) = (None, None);
        expected.devices[0].utilisation_percent = None;
        assert_eq!(MachineUsage::from_proto(broken), Ok(expected));
    }
}
