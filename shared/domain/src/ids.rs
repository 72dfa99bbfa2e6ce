//! Newtypes for everything that is named or numbered, so that a rank is never passed for a slot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::{Arm, ArmError};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// A submitted study, numbered by the coordinator from 1.
    StudyId(u64)
}
number_id! {
    /// The how-manieth execution of a trial, from 1.
    AttemptNumber(u32)
}
number_id! {
    /// A member of an attempt's process group, from 0.
    Rank(u32)
}
number_id! {
    /// One device (or CPU share) of a worker, from 0.
    SlotIndex(u32)
}

/// One agent process: a new process is a new worker, because its trainers died with the old one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What distinguishes a trial within its study: `ARM/FOLD/SEED`, e.g. `mti-net/0/0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrialKey {
    /// The network configuration.
    pub arm: Arm,
    /// The held-out fold, from 0.
    pub fold: u32,
    /// The seed of initialisation, sampling and dropout.
    pub seed: u64,
}

impl fmt::Display for TrialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.arm, self.fold, self.seed)
    }
}

/// A string that is not `ARM/FOLD/SEED`.
#[derive(Debug, thiserror::Error)]
pub enum ParseTrialKeyError {
    /// It is not put together like one.
    #[error("`{0}` is not a trial's name: write ARM/FOLD/SEED, for example mti-net/0/0")]
    Shape(String),
    /// It begins with no arm.
    #[error("`{0}` is not a trial's name: {1}")]
    Arm(String, ArmError),
}

impl FromStr for TrialKey {
    type Err = ParseTrialKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('/');
            let (arm, fold, seed) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            parts.next().is_none().then_some((arm, fold, seed))
        };
        let (arm, fold, seed) = parse().ok_or_else(|| ParseTrialKeyError::Shape(text.to_owned()))?;
        let arm = arm.parse().map_err(|error| ParseTrialKeyError::Arm(text.to_owned(), error))?;
        Ok(Self { arm, fold, seed })
    }
}

impl Serialize for TrialKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrialKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A trial anywhere in the coordinator: the unit that is scheduled and resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrialId {
    /// Its study.
    pub study: StudyId,
    /// Its place in the study.
    pub key: TrialKey,
}

impl fmt::Display for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "study {} {}", self.study, self.key)
    }
}

/// One execution of a trial on one gang of ranks. A trial has many, numbered, never two at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The trial that is executed.
    pub trial: TrialId,
    /// Which execution of it.
    pub number: AttemptNumber,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempt {}", self.trial, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_key_reads_back_what_it_prints() {
        let key: TrialKey = "no-tim/3/17".parse().unwrap();
        assert_eq!((key.fold, key.seed), (3, 17));
        assert_eq!(key.to_string(), "no-tim/3/17");
        assert_eq!(serde_json::to_string(&key).unwrap(), "\"no-tim/3/17\"");
        for bad in ["", "mti-net", "mti-net/0", "mti-net/0/0/0", "mti-net/x/0", "nonsense/0/0"] {
            assert!(bad.parse::<TrialKey>().is_err(), "{bad}");
        }
        let error = "mti-nt/0/0".parse::<TrialKey>().unwrap_err().to_string();
        assert!(error.contains("did you mean \"mti-net\"?"), "{error}");
    }
}
