//! Follows a study's events to its end and tells a person what happens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded, StudyOutcome};
use mtinet_domain::trial::{AttemptEnd, Placement};
use mtinet_domain::{StudyId, StudySpec, TrialKey};

use super::client::Coordinator;
use super::error::CliError;
use super::progress::Display;

/// A coordinator that is away is asked again for this long: it may be restarting.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(500);

/// How a study ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Complete, incomplete or cancelled.
    pub outcome: StudyOutcome,
    /// Trials that were given up, with the reasons.
    pub failed: Vec<(TrialKey, String)>,
}

impl End {
    /// Done only where the study is complete.
    ///
    /// # Errors
    /// [`CliError::NotSo`] naming what is missing.
    pub fn into_result(self, study: StudyId) -> Result<(), CliError> {
        match self.outcome {
            StudyOutcome::Complete => Ok(()),
            StudyOutcome::Cancelled => Err(CliError::NotSo(format!("study {study} was cancelled"))),
            StudyOutcome::Incomplete => {
                let failed: Vec<String> =
                    self.failed.iter().map(|(key, reason)| format!("\n  {key}: {reason}")).collect();
                Err(CliError::NotSo(format!(
                    "study {study} is not complete; failed trials:{}",
                    failed.concat()
                )))
            }
        }
    }
}

/// Waits for a study's end and shows its progress. Survives a coordinator that restarts.
///
/// # Errors
/// Exit code 3 where the coordinator stays away or refuses.
pub async fn to_the_end(coordinator: &mut Coordinator, study: StudyId) -> Result<End, CliError> {
    let mut tally = Tally::default();
    let mut history = coordinator.events(study, 0, false).await?;
    // What happened before is known to whoever waits again; only the sums are taken over.
    while let Some(event) = history.next().await? {
        tally.apply(&event);
    }
    tally.begin(Instant::now());
    let display = Display::new();
    let mut away: Option<Away> = None;
    loop {
        if let Some(end) = tally.end() {
            return Ok(end);
        }
        match stream(coordinator, study, &mut tally, &display, &mut away).await {
            Ok(()) => {}
            Err(error) if may_come_back(&error) => {
                wait(&mut away, error, coordinator.url(), &display).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Shows events until the stream ends, which it does after the study's last event or with the coordinator.
async fn stream(
    coordinator: &mut Coordinator,
    study: StudyId,
    tally: &mut Tally,
    display: &Display,
    away: &mut Option<Away>,
) -> Result<(), CliError> {
    let mut events = coordinator.events(study, tally.seq, true).await?;
    if away.take().is_some() {
        display.say("the coordinator is back");
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            _ = tick.tick() => {
                display.show(tally);
                continue;
            }
        };
        let Some(event) = event else {
            let over = tally.outcome.is_some();
            return if over {
                Ok(())
            } else {
                Err(CliError::Coordinator("the coordinator ended the stream".into()))
            };
        };
        for line in tally.apply(&event) {
            display.say(&line);
        }
    }
}

/// Since when a coordinator does not answer.
struct Away {
    since: Instant,
    pause: Duration,
}

/// Whether it makes sense to ask again: the coordinator may be restarting.
pub fn may_come_back(error: &CliError) -> bool {
    matches!(error, CliError::Coordinator(text) if !text.starts_with("the coordinator refused"))
}

async fn wait(
    away: &mut Option<Away>,
    error: CliError,
    url: &str,
    display: &Display,
) -> Result<(), CliError> {
    let state = away.get_or_insert_with(|| {
        display.say(&format!("the coordinator at {url} is away; its workers go on; asking again"));
        Away { since: Instant::now(), pause: FIRST_PAUSE }
    });
    if state.since.elapsed() > PATIENCE {
        return Err(error);
    }
    tokio::time::sleep(state.pause).await;
    state.pause = (state.pause * 2).min(LONGEST_PAUSE);
    Ok(())
}

/// Where a study stands, folded from its events.
#[derive(Debug, Default)]
pub struct Tally {
    spec: Option<StudySpec>,
    trials: BTreeMap<TrialKey, Trial>,
    seq: u64,
    outcome: Option<StudyOutcome>,
    // When the watching began, and how much was done by then: what the estimate is based on.
    began: Option<(Instant, f64)>,
}

#[derive(Debug, Default)]
struct Trial {
    state: State,
    step: u64,
    epoch: u32,
    steps_per_epoch: Option<f64>,
    loss: Option<f64>,
    summary: Option<FoldSummary>,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    #[default]
    Waiting,
    Running,
    Done,
    Failed(String),
    Cancelled,
}

impl Tally {
    /// Takes an event in and returns what a person is told about it.
    pub fn apply(&mut self, recorded: &Recorded) -> Vec<String> {
        self.seq = recorded.seq;
        match &recorded.event {
            Event::StudySubmitted { spec, .. } => {
                self.trials = spec.trials().into_iter().map(|key| (key, Trial::default())).collect();
                self.spec = Some((**spec).clone());
                return Vec::new();
            }
            Event::StudyCancelled { .. } => return vec!["the study is being cancelled".to_owned()],
            Event::StudyPaused { .. } => return vec!["the study is paused".to_owned()],
            Event::StudyResumed { .. } => return vec!["the study goes on".to_owned()],
            Event::TrialsRetried { trials, .. } => {
                self.outcome = None;
                for key in trials {
                    self.trials.entry(*key).or_default().state = State::Waiting;
                }
                return vec![format!("{} trials are tried again", trials.len())];
            }
            Event::StudyFinished { outcome } => {
                self.outcome = Some(*outcome);
                return Vec::new();
            }
            _ => {}
        }
        let Some(key) = recorded.event.trial() else { return Vec::new() };
        let trial = self.trials.entry(key).or_default();
        let words = trial.apply(&recorded.event, recorded.time_ms);
        words.map(|words| format!("{key}: {words}")).into_iter().collect()
    }

    /// Starts the clock of the estimate.
    pub fn begin(&mut self, now: Instant) {
        self.began = Some((now, self.work_done()));
    }

    /// Trials of the study.
    pub fn trials(&self) -> usize {
        self.trials.len()
    }

    /// Trials that are done.
    pub fn done(&self) -> usize {
        self.trials.values().filter(|trial| trial.state == State::Done).count()
    }

    /// Share of all training that is done, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.trials.is_empty() { 0.0 } else { self.work_done() / self.trials.len() as f64 }
    }

    /// Running trials with their share done and a few words.
    pub fn running(&self) -> impl Iterator<Item = (TrialKey, (f64, String))> {
        self.trials.iter().filter(|(_, trial)| trial.state == State::Running).map(|(key, trial)| {
            let loss = trial.loss.map(|loss| format!(" loss {loss:.4}")).unwrap_or_default();
            (*key, (self.fraction_of(trial), format!("step {}{loss}", trial.step)))
        })
    }

    /// Seconds left at the pace since the watching began; none while nothing is known of it.
    pub fn seconds_left(&self) -> Option<f64> {
        let (began, done_before) = self.began?;
        let gained = self.work_done() - done_before;
        let left = self.trials.len() as f64 - self.work_done();
        (gained > 0.02).then(|| began.elapsed().as_secs_f64() / gained * left)
    }

    /// How the study ended, where it has.
    pub fn end(&self) -> Option<End> {
        let failed = self.trials.iter().filter_map(|(key, trial)| match &trial.state {
            State::Failed(reason) => Some((*key, reason.clone())),
            _ => None,
        });
        self.outcome.map(|outcome| End { outcome, failed: failed.collect() })
    }

    fn work_done(&self) -> f64 {
        self.trials.values().map(|trial| self.fraction_of(trial)).sum()
    }

    fn fraction_of(&self, trial: &Trial) -> f64 {
        if matches!(trial.state, State::Done | State::Failed(_) | State::Cancelled) {
            return 1.0;
        }
        let Some(train) = self.spec.as_ref().map(|spec| &spec.train) else { return 0.0 };
        // With one slice per batch `total_steps` counts epochs; their length shows once one is over.
        let per_epoch = |steps: f64| steps * train.total_steps(1) as f64;
        let all = match (train.steps, trial.steps_per_epoch) {
            (Some(steps), _) => steps as f64,
            (None, Some(steps)) => per_epoch(steps),
            (None, None) => return f64::from(trial.epoch.saturating_sub(1)) / per_epoch(1.0),
        };
        // Evaluation follows the last step.
        (trial.step as f64 / all).min(0.99)
    }
}

impl Trial {
    fn apply(&mut self, event: &Event, time_ms: u64) -> Option<String> {
        match event {
            Event::AttemptStarted { attempt, placements, resume, .. } => {
                self.state = State::Running;
                let from = resume.as_ref().map(|checkpoint| format!(" from step {}", checkpoint.step));
                Some(format!("attempt {attempt} starts{} on {}", from.unwrap_or_default(), ranks(placements)))
            }
            Event::Metrics { records, .. } => {
                records.iter().for_each(|record| self.measure(record));
                None
            }
            Event::TrialEvaluated { summary, .. } => {
                self.summary = Some((**summary).clone());
                None
            }
            Event::AttemptEnded { end, retry_at_ms, attempt, .. } => {
                let pause = retry_at_ms.map(|at| at.saturating_sub(time_ms) as f64 / 1000.0);
                self.end(end, pause).map(|words| match end {
                    AttemptEnd::Completed => words,
                    _ => format!("attempt {attempt} {words}"),
                })
            }
            Event::TrialCancelled { .. } => {
                if self.state == State::Waiting {
                    self.state = State::Cancelled;
                }
                Some("is being cancelled".to_owned())
            }
            Event::TrialFailed { reason, .. } => {
                self.state = State::Failed(reason.clone());
                Some(format!("given up: {reason}"))
            }
            _ => None,
        }
    }

    fn measure(&mut self, record: &MetricRecord) {
        if record.scope == MetricScope::HeldOut {
            return;
        }
        self.step = record.step;
        self.epoch = record.epoch;
        if record.scope == MetricScope::Epoch && record.epoch > 0 {
            self.steps_per_epoch = Some(record.step as f64 / f64::from(record.epoch));
        }
        self.loss = record.values.get("loss").or_else(|| record.values.get("total")).copied().or(self.loss);
    }

    fn end(&mut self, end: &AttemptEnd, pause: Option<f64>) -> Option<String> {
        self.state = State::Waiting;
        match end {
            AttemptEnd::Completed => {
                self.state = State::Done;
                let summary = self.summary.clone().unwrap_or_default();
                Some(format!("done{}", figures(&summary)))
            }
            AttemptEnd::Failed(cause) => {
                let step = cause.step.map(|step| format!(" at step {step}")).unwrap_or_default();
                let again = pause.map(|pause| format!("; again in {pause:.1} s")).unwrap_or_default();
                Some(format!("failed ({}{step}): {}{again}", cause.exit, cause.message.trim_end()))
            }
            AttemptEnd::WorkerLost { reason, .. } => {
                Some(format!("lost a worker ({reason}); goes on elsewhere"))
            }
            AttemptEnd::Paused => Some("stopped: the study is paused".to_owned()),
            AttemptEnd::Drained { worker } => {
                Some(format!("stopped: worker {worker} is drained; goes on elsewhere"))
            }
            AttemptEnd::Unfit { worker, cause } => Some(format!(
                "failed on worker {worker} ({}): {}; goes to another one",
                cause.exit,
                cause.message.trim_end()
            )),
            AttemptEnd::Widened => Some("stopped to go on with more ranks".to_owned()),
            AttemptEnd::Cancelled => {
                self.state = State::Cancelled;
                Some("cancelled".to_owned())
            }
        }
    }
}

fn ranks(placements: &[Placement]) -> String {
    let mut devices: Vec<String> = placements.iter().map(|placement| placement.device.to_string()).collect();
    devices.dedup();
    match placements.len() {
        1 => devices.join(", "),
        n => format!("{n} ranks ({})", devices.join(", ")),
    }
}

fn figures(summary: &FoldSummary) -> String {
    let named = [
        ("DSC", summary.dsc, " %"),
        ("IoU", summary.iou, " %"),
        ("MAE", summary.mae, ""),
        ("accuracy", summary.accuracy, " %"),
    ];
    let words: Vec<String> = named
        .into_iter()
        .filter_map(|(name, value, unit)| Some(format!("{name} {:.2}{unit}", value?)))
        .collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) }
}

#[cfg(test)]
mod tests {
    use mtinet_domain::event::ReportId;
    use mtinet_domain::trial::{ArtifactRef, DatasetRef, Device, FailureCause, ProcessExit};
    use mtinet_domain::{AttemptNumber, Rank, SlotIndex, WorkerId};

    use super::*;

    struct Story {
        tally: Tally,
        seq: u64,
    }

    impl Story {
        fn new(train: &str) -> Self {
            let text =
                format!("name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\nfolds = 2\n[train]\n{train}\n");
            let spec = StudySpec::from_toml(&text).unwrap();
            let dataset = DatasetRef {
                name: "d".into(),
                path: "/d".into(),
                hash: "h".into(),
                phases: vec!["pre".into()],
                classes: vec!["a".into(), "b".into()],
            };
            let mut story = Self { tally: Tally::default(), seq: 0 };
            story.tell(Event::StudySubmitted {
                spec_hash: spec.hash(),
                spec: Box::new(spec),
                dataset,
                by: None,
            });
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
        };
        let end = AttemptEnd::Failed(cause);
        let told = story.tell(Event::AttemptEnded {
            trial,
            attempt: AttemptNumber(1),
            end,
            retry_at_ms: Some(3000),
        });
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
        let told =
            story.tell(Event::AttemptEnded { trial, attempt: AttemptNumber(1), end, retry_at_ms: None });
        assert_eq!(told, ["unet/0/0: done: DSC 81.23 %, IoU 70.00 %"]);
        assert_eq!((story.tally.done(), story.tally.trials()), (1, 2));
    }
}
