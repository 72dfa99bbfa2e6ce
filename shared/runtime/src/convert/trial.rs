//! What a trial runs on and leaves behind.

use mtinet_domain::trial::{ArtifactRef, CheckpointRef, DatasetRef, Device, RankAssignment};
use mtinet_domain::{Rank, SlotIndex, StudySpec};
use mtinet_proto::v1;

use super::{ConvertError, FromProto, ToProto, optional, required};

impl ToProto for Device {
    type Proto = v1::Device;

    fn to_proto(&self) -> v1::Device {
        match self {
            Self::Cpu => v1::Device { kind: v1::device::Kind::Cpu.into(), index: 0 },
            Self::Cuda(index) => v1::Device { kind: v1::device::Kind::Cuda.into(), index: *index },
        }
    }
}

impl FromProto for Device {
    type Proto = v1::Device;

    fn from_proto(proto: v1::Device) -> Result<Self, ConvertError> {
        match proto.kind() {
            v1::device::Kind::Cpu => Ok(Self::Cpu),
            v1::device::Kind::Cuda => Ok(Self::Cuda(proto.index)),
            v1::device::Kind::Unspecified => {
                Err(ConvertError::new("kind", format!("{} is no kind of device", proto.kind)))
            }
        }
    }
}

/// A slot is its index and the device behind it.
impl ToProto for (SlotIndex, Device) {
    type Proto = v1::Slot;

    fn to_proto(&self) -> v1::Slot {
        v1::Slot { index: self.0.to_proto(), device: Some(self.1.to_proto()) }
    }
}

impl FromProto for (SlotIndex, Device) {
    type Proto = v1::Slot;

    fn from_proto(proto: v1::Slot) -> Result<Self, ConvertError> {
        Ok((SlotIndex(proto.index), required("device", proto.device)?))
    }
}

impl ToProto for ArtifactRef {
    type Proto = v1::Artifact;

    fn to_proto(&self) -> v1::Artifact {
        v1::Artifact { blake3: self.blake3.clone(), bytes: self.bytes }
    }
}

/// The hash becomes a file's name, so nothing but 64 lower-case hex digits passes.
impl FromProto for ArtifactRef {
    type Proto = v1::Artifact;

    fn from_proto(proto: v1::Artifact) -> Result<Self, ConvertError> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if proto.blake3.len() != 64 || !proto.blake3.bytes().all(digit) {
            return Err(ConvertError::new("blake3", "is not 64 lower-case hex digits"));
        }
        Ok(Self { blake3: proto.blake3, bytes: proto.bytes })
    }
}

impl ToProto for CheckpointRef {
    type Proto = v1::Checkpoint;

    fn to_proto(&self) -> v1::Checkpoint {
        v1::Checkpoint { step: self.step, artifact: Some(self.artifact.to_proto()) }
    }
}

impl FromProto for CheckpointRef {
    type Proto = v1::Checkpoint;

    fn from_proto(proto: v1::Checkpoint) -> Result<Self, ConvertError> {
        Ok(Self { step: proto.step, artifact: required("artifact", proto.artifact)? })
    }
}

impl ToProto for DatasetRef {
    type Proto = v1::Dataset;

    fn to_proto(&self) -> v1::Dataset {
        v1::Dataset {
            name: self.name.clone(),
            path: self.path.clone(),
            hash: self.hash.clone(),
            phases: self.phases.clone(),
            classes: self.classes.clone(),
        }
    }
}

impl FromProto for DatasetRef {
    type Proto = v1::Dataset;

    fn from_proto(proto: v1::Dataset) -> Result<Self, ConvertError> {
        let v1::Dataset { name, path, hash, phases, classes } = proto;
        for (field, empty) in
            [("name", name.is_empty()), ("hash", hash.is_empty()), ("phases", phases.is_empty())]
        {
            if empty {
                return Err(ConvertError::new(field, "is empty"));
            }
        }
        Ok(Self { name, path, hash, phases, classes })
    }
}

impl ToProto for RankAssignment {
    type Proto = v1::StartRank;

    fn to_proto(&self) -> v1::StartRank {
        start_rank(self, self.spec.to_json())
    }
}

/// An assignment whose spec is known as JSON already: a coordinator says the same one many thousand times.
pub fn start_rank(assignment: &RankAssignment, spec_json: String) -> v1::StartRank {
    v1::StartRank {
        attempt: Some(assignment.attempt.to_proto()),
        study_name: assignment.study_name.clone(),
        spec_json,
        dataset: Some(assignment.dataset.to_proto()),
        rank: assignment.rank.to_proto(),
        world_size: assignment.world_size,
        slot: assignment.slot.to_proto(),
        resume: assignment.resume.as_ref().map(ToProto::to_proto),
        fallback: assignment.fallback.as_ref().map(ToProto::to_proto),
        traceparent: String::new(),
    }
}

impl FromProto for RankAssignment {
    type Proto = v1::StartRank;

    fn from_proto(proto: v1::StartRank) -> Result<Self, ConvertError> {
        let spec =
            StudySpec::from_json(&proto.spec_json).map_err(|error| ConvertError::new("spec_json", error))?;
        if proto.rank >= proto.world_size {
            let problem = format!("{} is not below world_size {}", proto.rank, proto.world_size);
            return Err(ConvertError::new("rank", problem));
        }
        Ok(Self {
            attempt: required("attempt", proto.attempt)?,
            study_name: proto.study_name,
            spec: spec.into(),
            dataset: required("dataset", proto.dataset)?,
            rank: Rank(proto.rank),
            world_size: proto.world_size,
            slot: SlotIndex(proto.slot),
            resume: optional("resume", proto.resume)?,
            fallback: optional("fallback", proto.fallback)?,
        })
    }
}
