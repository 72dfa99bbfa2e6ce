//! What a trainer and its agent report.

use mtinet_domain::Rank;
use mtinet_domain::event::{MetricRecord, MetricScope};
use mtinet_domain::trial::ProcessExit;
use mtinet_proto::v1;
use mtinet_proto::v1::rank_exited::How;

use super::{ConvertError, FromProto, ToProto, required};

/// The end of one rank's trainer process, as its agent saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankExit {
    /// How the process ended.
    pub exit: ProcessExit,
    /// Whether the trainer said that it finished all its work.
    pub finished: bool,
    /// The last optimiser step that it reported.
    pub step: Option<u64>,
    /// Its own words, or the end of its log; empty where there is nothing to say.
    pub message: String,
    /// Whether its agent told it to stop before its process was over.
    pub stopped: bool,
    /// Of a hang: the ranks that did not arrive, ascending.
    pub missing: Vec<Rank>,
}

impl ToProto for ProcessExit {
    type Proto = How;

    fn to_proto(&self) -> How {
        match self {
            Self::Code(code) => How::Code(*code),
            Self::Signal(signal) => How::Signal(*signal),
            Self::NotStarted => How::NotStarted(true),
        }
    }
}

impl FromProto for ProcessExit {
    type Proto = How;

    fn from_proto(proto: How) -> Result<Self, ConvertError> {
        match proto {
            How::Code(code) => Ok(Self::Code(code)),
            How::Signal(signal) => Ok(Self::Signal(signal)),
            How::NotStarted(true) => Ok(Self::NotStarted),
            How::NotStarted(false) => Err(ConvertError::new("not_started", "is false")),
        }
    }
}

impl ToProto for RankExit {
    type Proto = v1::RankExited;

    fn to_proto(&self) -> v1::RankExited {
        v1::RankExited {
            how: Some(self.exit.to_proto()),
            finished: self.finished,
            step: self.step,
            message: self.message.clone(),
            stopped: self.stopped,
            missing: self.missing.iter().map(|rank| rank.0).collect(),
        }
    }
}

impl FromProto for RankExit {
    type Proto = v1::RankExited;

    fn from_proto(proto: v1::RankExited) -> Result<Self, ConvertError> {
        Ok(Self {
            exit: required("how", proto.how)?,
            finished: proto.finished,
            step: proto.step,
            message: proto.message,
            stopped: proto.stopped,
            missing: proto.missing.into_iter().map(Rank).collect(),
        })
    }
}

impl ToProto for MetricScope {
    type Proto = i32;

    fn to_proto(&self) -> i32 {
        match self {
            Self::Step => v1::metric_record::Scope::Step,
            Self::Epoch => v1::metric_record::Scope::Epoch,
            Self::HeldOut => v1::metric_record::Scope::HeldOut,
        }
        .into()
    }
}

impl FromProto for MetricScope {
    type Proto = i32;

    fn from_proto(proto: i32) -> Result<Self, ConvertError> {
        match v1::metric_record::Scope::try_from(proto) {
            Ok(v1::metric_record::Scope::Step) => Ok(Self::Step),
            Ok(v1::metric_record::Scope::Epoch) => Ok(Self::Epoch),
            Ok(v1::metric_record::Scope::HeldOut) => Ok(Self::HeldOut),
            Ok(v1::metric_record::Scope::Unspecified) | Err(_) => {
                Err(ConvertError::new("", format!("{proto} is no scope of measurements")))
            }
        }
    }
}

impl ToProto for MetricRecord {
    type Proto = v1::MetricRecord;

    fn to_proto(&self) -> v1::MetricRecord {
        v1::MetricRecord {
            scope: self.scope.to_proto(),
            step: self.step,
            epoch: self.epoch,
            train_seconds: self.train_seconds,
            values: self.values.iter().map(|(name, value)| (name.clone(), *value)).collect(),
        }
    }
}

impl FromProto for MetricRecord {
    type Proto = v1::MetricRecord;

    fn from_proto(proto: v1::MetricRecord) -> Result<Self, ConvertError> {
        Ok(Self {
            scope: required("scope", Some(proto.scope))?,
            step: proto.step,
            epoch: proto.epoch,
            train_seconds: proto.train_seconds,
            values: proto.values.into_iter().collect(),
        })
    }
}
