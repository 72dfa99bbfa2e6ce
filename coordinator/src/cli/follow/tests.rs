//! What a person is told while a study runs.

use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded, ReportId};
use mtinet_domain::trial::{
    ArtifactRef, AttemptEnd, DatasetRef, Device, FailureCause, Placement, ProcessExit,
};
use mtinet_domain::{AttemptNumber, Rank, SlotIndex, StudySpec, WorkerId};

use super::*;

struct Story {
    tally: Tally,
    seq: u64,
}

impl Story {
    fn new(train: &str) -> Self {
        let text = format!("name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\nfolds = 2\n[train]\n{train}\n");
        let spec = StudySpec::from_toml(&text).unwrap();
        let dataset = DatasetRef {
            name: "d".into(),
            path: "/d".into(),
            hash: "h".into(),
            phases: vec!["pre".into()],
            classes: vec!["a".into(), "b".into()],
        };
        let mut story = Self { tally: Tally::default(), seq: 0 };
        story.tell(Event::StudySubmitted { spec_hash: spec.hash(), spec: Box::new(spec), dataset, by: None });
        story
    }

    fn tell(&mut self, event: Event) -> Vec<String> {
        self.seq += 1;
        self.tally.apply(&Recorded { study: StudyId(1), seq: self.seq, time_ms: 1000, event })
    }

    fn start(&mut self, trial: TrialKey) -> Vec<String> {
        let placement = |rank| Placement {
            rank: Rank(rank),
            worker: WorkerId("w".into()),
            slot: SlotIndex(rank),
            device: Device::Cpu,
        };
        self.tell(Event::AttemptStarted {
            trial,
            attempt: AttemptNumber(1),
            placements: vec![placement(0), placement(1)],
            resume: None,
        })
    }

    fn step(&mut self, trial: TrialKey, step: u64, epoch: u32, scope: MetricScope) {
        let values = [("loss".to_owned(), 0.25)].into();
        let record = MetricRecord { scope, step, epoch, train_seconds: 1.0, values };
        let report = ReportId { worker: WorkerId("w".into()), seq: self.seq };
        self.tell(Event::Metrics { trial, attempt: AttemptNumber(1), report, records: vec![record] });
    }
}

fn key(text: &str) -> TrialKey {
    text.parse().unwrap()
}

#[test]
fn progress_counts_steps_where_the_study_does() {
    let mut story = Story::new("steps = 100");
    assert_eq!(story.start(key("unet/0/0")), ["unet/0/0: attempt 1 starts on 2 ranks (cpu)"]);
    story.step(key("unet/0/0"), 50, 1, MetricScope::Step);
    assert_eq!(story.tally.fraction(), 0.25);
    let running: Vec<_> = story.tally.running().collect();
    assert_eq!(running, [(key("unet/0/0"), (0.5, "step 50 loss 0.2500".to_owned()))]);
    assert_eq!(story.tally.seconds_left(), None);
}

#[test]
fn the_length_of_an_epoch_is_learnt_from_the_first() {
    let mut story = Story::new("epochs = 4");
    story.start(key("unet/0/0"));
    story.step(key("unet/0/0"), 5, 1, MetricScope::Step);
    assert_eq!(story.tally.fraction(), 0.0);
    story.step(key("unet/0/0"), 10, 1, MetricScope::Epoch);
    assert_eq!(story.tally.fraction(), 0.125);
    story.step(key("unet/0/0"), 15, 2, MetricScope::Step);
    assert_eq!(story.tally.fraction(), 0.1875);
}

#[test]
fn the_end_names_failed_trials() {
    let mut story = Story::new("steps = 10");
    let trial = key("unet/1/0");
    story.start(trial);
    let cause = FailureCause {
        rank: Some(Rank(0)),
        exit: ProcessExit::Signal(9),
        step: Some(3),
        message: "killed\n".into(),
        hang: None,
    };
    let end = AttemptEnd::Failed(cause);
    let told =
        story.tell(Event::AttemptEnded { trial, attempt: AttemptNumber(1), end, retry_at_ms: Some(3000) });
    assert_eq!(told, ["unet/1/0: attempt 1 failed (signal 9 at step 3): killed; again in 2.0 s"]);
    story.tell(Event::TrialFailed { trial, reason: "same error twice".into() });
    assert_eq!(story.tally.end(), None);
    story.tell(Event::StudyFinished { outcome: StudyOutcome::Incomplete });
    let end = story.tally.end().unwrap();
    let error = end.into_result(StudyId(1)).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("unet/1/0: same error twice"), "{error}");
}

#[test]
fn a_finished_trial_tells_its_figures() {
    let mut story = Story::new("steps = 10");
    let trial = key("unet/0/0");
    story.start(trial);
    let summary = FoldSummary { dsc: Some(81.234), iou: Some(70.0), ..FoldSummary::default() };
    let artifact = ArtifactRef { blake3: "0".repeat(64), bytes: 1 };
    story.tell(Event::TrialEvaluated {
        trial,
        attempt: AttemptNumber(1),
        report: ReportId { worker: WorkerId("w".into()), seq: 9 },
        summary: Box::new(summary),
        evaluation: artifact,
        weights: None,
        predictions: None,
    });
    let end = AttemptEnd::Completed;
    let told = story.tell(Event::AttemptEnded { trial, attempt: AttemptNumber(1), end, retry_at_ms: None });
    assert_eq!(told, ["unet/0/0: done: DSC 81.23 %, IoU 70.00 %"]);
    assert_eq!((story.tally.done(), story.tally.trials()), (1, 2));
}
