//! What goes to the wire comes back equal; what makes no sense is refused with its field.

use mtinet_domain::event::{MetricRecord, MetricScope};
use mtinet_domain::trial::{ArtifactRef, CheckpointRef, DatasetRef, Device, ProcessExit, RankAssignment};
use mtinet_domain::{AttemptId, AttemptNumber, Rank, SlotIndex, StudyId, StudySpec, TrialId, WorkerId};
use mtinet_proto::v1;
use proptest::prelude::*;

use super::{FromProto, RankExit, ToProto};

fn attempt() -> impl Strategy<Value = AttemptId> {
    (1..u64::MAX, 0..5_u32, any::<u64>(), 1..u32::MAX).prop_map(|(study, fold, seed, number)| AttemptId {
        trial: TrialId { study: StudyId(study), key: format!("no-tim/{fold}/{seed}").parse().unwrap() },
        number: AttemptNumber(number),
    })
}

fn artifact() -> impl Strategy<Value = ArtifactRef> {
    ("[0-9a-f]{64}", any::<u64>()).prop_map(|(blake3, bytes)| ArtifactRef { blake3, bytes })
}

fn checkpoint() -> impl Strategy<Value = CheckpointRef> {
    (any::<u64>(), artifact()).prop_map(|(step, artifact)| CheckpointRef { step, artifact })
}

fn record() -> impl Strategy<Value = MetricRecord> {
    let scope = prop_oneof![Just(MetricScope::Step), Just(MetricScope::Epoch), Just(MetricScope::HeldOut)];
    let values = proptest::collection::btree_map("[a-z_]{1,8}", -1e9..1e9, 0..6);
    (scope, any::<u64>(), any::<u32>(), 0.0..1e9, values).prop_map(
        |(scope, step, epoch, train_seconds, values)| MetricRecord {
            scope,
            step,
            epoch,
            train_seconds,
            values,
        },
    )
}

fn exit() -> impl Strategy<Value = RankExit> {
    let how = prop_oneof![
        any::<i32>().prop_map(ProcessExit::Code),
        any::<i32>().prop_map(ProcessExit::Signal),
        Just(ProcessExit::NotStarted)
    ];
    let missing = proptest::collection::vec(any::<u32>().prop_map(Rank), 0..3);
    (how, any::<bool>(), any::<Option<u64>>(), ".*", any::<bool>(), missing).prop_map(
        |(exit, finished, step, message, stopped, missing)| RankExit {
            exit,
            finished,
            step,
            message,
            stopped,
            missing,
        },
    )
}

fn comes_back<T>(value: &T) -> Result<(), TestCaseError>
where
    T: ToProto + FromProto<Proto = <T as ToProto>::Proto> + PartialEq + std::fmt::Debug,
{
    prop_assert_eq!(&T::from_proto(value.to_proto()).unwrap(), value);
    Ok(())
}

proptest! {
    #[test]
    fn everything_comes_back(
        attempt in attempt(),
        checkpoint in checkpoint(),
        record in record(),
        exit in exit(),
        cuda in any::<u32>(),
    ) {
        comes_back(&attempt)?;
        comes_back(&checkpoint)?;
        comes_back(&record)?;
        comes_back(&exit)?;
        comes_back(&Device::Cpu)?;
        comes_back(&(SlotIndex(3), Device::Cuda(cuda)))?;
        comes_back(&WorkerId("w-1".into()))?;
    }

    #[test]
    fn an_assignment_comes_back(attempt in attempt(), resume in proptest::option::of(checkpoint())) {
        let spec = StudySpec::from_toml("name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\", \"no-tim\"]").unwrap();
        let dataset = DatasetRef {
            name: "liver".into(),
            path: "/data/liver".into(),
            hash: "00".into(),
            phases: vec!["pre".into(), "art".into()],
            classes: vec!["hcc".into()],
        };
        comes_back(&RankAssignment {
            attempt,
            study_name: "s".into(),
            spec: spec.into(),
            dataset,
            rank: Rank(1),
            world_size: 2,
            slot: SlotIndex(0),
            fallback: resume.clone(),
            resume,
        })?;
    }

    #[test]
    fn only_a_hash_passes_as_a_hash(text in ".*") {
        let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let read = ArtifactRef::from_proto(v1::Artifact { blake3: text, bytes: 0 });
        prop_assert_eq!(read.is_ok(), valid);
    }
}

#[test]
fn a_wrong_field_is_named_by_its_path() {
    let trial = v1::Trial { study: 1, key: "mti-net/0".into() };
    let error = AttemptId::from_proto(v1::Attempt { trial: Some(trial), number: 1 }).unwrap_err();
    assert_eq!(error.field, "trial.key");
    let artifact = v1::Artifact { blake3: "../../etc/passwd".into(), bytes: 1 };
    let error = CheckpointRef::from_proto(v1::Checkpoint { step: 1, artifact: Some(artifact) }).unwrap_err();
    assert_eq!(error.field, "artifact.blake3");
    let error = CheckpointRef::from_proto(v1::Checkpoint { step: 1, artifact: None }).unwrap_err();
    assert_eq!((error.field.as_str(), error.problem.as_str()), ("artifact", "is missing"));
    assert!(MetricScope::from_proto(0).is_err());
    assert!(MetricScope::from_proto(77).is_err());
    assert!(StudyId::from_proto(0).is_err());
}
