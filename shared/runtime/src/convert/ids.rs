//! Names and numbers.

use mtinet_domain::{AttemptId, AttemptNumber, Rank, SlotIndex, StudyId, TrialId, TrialKey, WorkerId};
use mtinet_proto::v1;

use super::{ConvertError, FromProto, ToProto, required};

/// Longest worker id that is accepted; the coordinator's own are far shorter.
const MAX_WORKER_ID_BYTES: usize = 128;

macro_rules! plain_number {
    ($name:ident, $inner:ty) => {
        impl ToProto for $name {
            type Proto = $inner;

            fn to_proto(&self) -> $inner {
                self.0
            }
        }

        impl FromProto for $name {
            type Proto = $inner;

            fn from_proto(proto: $inner) -> Result<Self, ConvertError> {
                Ok(Self(proto))
            }
        }
    };
}

plain_number!(Rank, u32);
plain_number!(SlotIndex, u32);

impl ToProto for StudyId {
    type Proto = u64;

    fn to_proto(&self) -> u64 {
        self.0
    }
}

impl FromProto for StudyId {
    type Proto = u64;

    fn from_proto(proto: u64) -> Result<Self, ConvertError> {
        if proto == 0 { Err(ConvertError::new("", "studies are numbered from 1")) } else { Ok(Self(proto)) }
    }
}

impl ToProto for WorkerId {
    type Proto = String;

    fn to_proto(&self) -> String {
        self.0.clone()
    }
}

impl FromProto for WorkerId {
    type Proto = String;

    fn from_proto(proto: String) -> Result<Self, ConvertError> {
        if proto.is_empty() || proto.len() > MAX_WORKER_ID_BYTES || proto.chars().any(char::is_control) {
            return Err(ConvertError::new("", "is not a worker's id"));
        }
        Ok(Self(proto))
    }
}

impl ToProto for TrialKey {
    type Proto = String;

    fn to_proto(&self) -> String {
        self.to_string()
    }
}

impl FromProto for TrialKey {
    type Proto = String;

    fn from_proto(proto: String) -> Result<Self, ConvertError> {
        proto.parse().map_err(|error| ConvertError::new("", error))
    }
}

impl ToProto for TrialId {
    type Proto = v1::Trial;

    fn to_proto(&self) -> v1::Trial {
        v1::Trial { study: self.study.to_proto(), key: self.key.to_proto() }
    }
}

impl FromProto for TrialId {
    type Proto = v1::Trial;

    fn from_proto(proto: v1::Trial) -> Result<Self, ConvertError> {
        Ok(Self { study: required("study", Some(proto.study))?, key: required("key", Some(proto.key))? })
    }
}

impl ToProto for AttemptId {
    type Proto = v1::Attempt;

    fn to_proto(&self) -> v1::Attempt {
        v1::Attempt { trial: Some(self.trial.to_proto()), number: self.number.0 }
    }
}

impl FromProto for AttemptId {
    type Proto = v1::Attempt;

    fn from_proto(proto: v1::Attempt) -> Result<Self, ConvertError> {
        if proto.number == 0 {
            return Err(ConvertError::new("number", "attempts are numbered from 1"));
        }
        Ok(Self { trial: required("trial", proto.trial)?, number: AttemptNumber(proto.number) })
    }
}
