//! Learning curves and the history of attempts, folded from events.

use mtinet_domain::trial::CheckpointRef;

use super::*;

fn measured(log: &mut Log, trial: TrialKey, attempt: u32, scope: MetricScope, step: u64, loss: f64) {
    let values = [("loss".to_owned(), loss)].into();
    let record = MetricRecord { scope, step, epoch: 1, train_seconds: step as f64, values };
    log.push(Event::Metrics {
        trial,
        attempt: AttemptNumber(attempt),
        report: ReportId { worker: WorkerId("w0".into()), seq: 1 },
        records: vec![record],
    });
}

#[test]
fn a_resumed_trial_has_one_line_of_history() {
    let spec = spec("\"unet\"", "[0]");
    let trial = key("unet/0/0");
    let mut log = Log::new(&spec);
    log.started(trial, 1);
    for step in 1..=5 {
        measured(&mut log, trial, 1, MetricScope::Step, step, 1.0);
    }
    measured(&mut log, trial, 1, MetricScope::HeldOut, 5, 1.0);
    log.ended(trial, 1, AttemptEnd::WorkerLost { worker: WorkerId("w0".into()), reason: "silent".into() });
    log.started(trial, 2);
    let Event::AttemptStarted { resume, .. } = &mut log.0.last_mut().unwrap().event else { panic!() };
    *resume = Some(CheckpointRef { step: 3, artifact: artifact("checkpoint") });
    // A report of the first attempt that arrives late belongs to no line of history.
    measured(&mut log, trial, 1, MetricScope::Step, 6, 100.0);
    for step in 4..=6 {
        measured(&mut log, trial, 2, MetricScope::Step, step, 2.0);
    }
    log.ended(trial, 2, AttemptEnd::Completed);
    let results = StudyResults::from_events(&log.0).unwrap();
    let only = &results.trials[0];
    let points: Vec<(u64, f64)> =
        only.curves.training().series("loss").iter().map(|point| (point.step, point.value)).collect();
    assert_eq!(points, [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]);
    assert!(only.curves.held_out.is_empty(), "measured after the step that was gone back to");

    let resumed: Vec<Option<u64>> = only.history.iter().map(|attempt| attempt.resumed_at).collect();
    assert_eq!(resumed, [None, Some(3)]);
    assert!(matches!(only.history[0].end, Some(AttemptEnd::WorkerLost { .. })));
    assert_eq!(only.history[1].end, Some(AttemptEnd::Completed));
    let (first, last) = (log.0[1].time_ms, log.0.last().unwrap().time_ms);
    assert_eq!((only.started_ms, only.ended_ms), (Some(first), Some(last)));
    assert_eq!(only.wall_seconds(), Some((last - first) as f64 / 1000.0));
    assert_eq!((results.submitted_ms, results.last_event_ms), (log.0[0].time_ms, last));
}

#[test]
fn an_attempt_from_the_start_forgets_all_before_it() {
    let spec = spec("\"unet\"", "[0]");
    let trial = key("unet/0/0");
    let mut log = Log::new(&spec);
    log.started(trial, 1);
    measured(&mut log, trial, 1, MetricScope::Step, 1, 1.0);
    log.ended(trial, 1, failure("loss is NaN"));
    log.started(trial, 2);
    let results = StudyResults::from_events(&log.0).unwrap();
    assert!(results.trials[0].curves.is_empty());
    assert_eq!(results.trials[0].wall_seconds(), None, "it runs");
}
