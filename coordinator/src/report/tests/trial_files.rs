//! Each trial's files from a study's events: what TensorBoard reads, the log, the figure.

use std::path::{Path, PathBuf};

use super::*;
use crate::report::trial_files::scalars;

fn measured(trial: TrialKey, attempt: u32, seq: u64, records: Vec<MetricRecord>) -> Event {
    let report = ReportId { worker: WorkerId("w0".into()), seq };
    Event::Metrics { trial, attempt: AttemptNumber(attempt), report, records }
}

fn record(scope: MetricScope, step: u64, values: &[(&str, f64)]) -> MetricRecord {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    MetricRecord { scope, step, epoch: u32::try_from(step / 10).unwrap(), train_seconds: step as f64, values }
}

/// A training of three epochs that is cut off in the third and goes on from the end of the second.
fn interrupted() -> Log {
    let mut log = Log::new(&spec("\"mti-net\"", "[0]"));
    let trial = key("mti-net/0/0");
    let epoch = |step: u64| {
        let values = [("loss", 1.0 / step as f64), ("learning_rate", 1e-4)];
        vec![record(MetricScope::Epoch, step, &values), record(MetricScope::HeldOut, step, &[("dsc", 70.0)])]
    };
    log.started(trial, 1);
    log.push(measured(trial, 1, 1, epoch(10)));
    log.push(measured(trial, 1, 2, epoch(20)));
    log.push(measured(trial, 1, 3, vec![record(MetricScope::Step, 25, &[("loss", 9.0)])]));
    log.ended(trial, 1, failure("CUDA error:\n out of memory"));
    log.started(trial, 2);
    let Some(Recorded { event: Event::AttemptStarted { resume, .. }, .. }) = log.0.last_mut() else {
        panic!()
    };
    *resume = Some(mtinet_domain::trial::CheckpointRef { step: 20, artifact: artifact("checkpoint") });
    log.push(measured(trial, 1, 4, vec![record(MetricScope::Step, 26, &[("loss", 8.0)])]));
    log.push(measured(trial, 2, 5, epoch(30)));
    log.push(Event::TrialEvaluated {
        trial,
        attempt: AttemptNumber(2),
        report: ReportId { worker: WorkerId("w0".into()), seq: 6 },
        summary: Box::new(evaluation(Arm::MtiNet, 0, 0.0).summary()),
        evaluation: artifact("evaluation"),
        weights: None,
        predictions: None,
    });
    log.ended(trial, 2, AttemptEnd::Completed);
    log
}

/// The one file of TensorBoard's in a directory.
fn event_file(directory: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "nothing is left of the writing: {files:?}");
    files.remove(0)
}

#[test]
fn a_resumed_trial_has_its_scalars_its_log_and_its_figure() {
    let directory = tempfile::tempdir().unwrap();
    let log = interrupted();
    let mut files = TrialFiles::new(directory.path());
    for recorded in &log.0 {
        files.apply(recorded).unwrap();
    }
    let results = StudyResults::from_events(&log.0).unwrap();
    files.finish(&results, &Pictures::default()).unwrap();

    let board = event_file(&directory.path().join("tensorboard/mti-net/0/0"));
    assert_eq!(board.file_name().unwrap(), "events.out.tfevents.1700000002.mtinet");
    let (scalars, starts) = scalars(&std::fs::read(board).unwrap());
    assert_eq!(starts, 2, "the second attempt makes the steps after 20 void");
    let losses: Vec<i64> =
        scalars.iter().filter(|(tag, ..)| tag == "step/loss").map(|(_, step, _)| *step).collect();
    assert_eq!(losses, [25], "what a former attempt says late is not written");
    assert!(scalars.contains(&("epoch/learning_rate".to_owned(), 30, 1e-4)));
    assert!(scalars.contains(&("held_out/dsc".to_owned(), 30, 70.0)));

    let logs = directory.path().join("logs/mti-net/0/0");
    let text = std::fs::read_to_string(logs.join("training_log.txt")).unwrap();
    let expected = [
        "2023-11-14 22:13:22 UTC  trial mti-net/0/0 of study 7 (golden)\n",
        "attempt 1 begins from the start, 2 ranks: worker w0 slot 0 (cpu), worker w1 slot 0 (cpu)\n",
        "epoch 2 (step 20, 10.0 s): learning rate 1.000e-4, loss 0.0500\n",
        "held-out fold after step 20: dsc 70.00\n",
        "attempt 1 ended: failed, rank 0 at step 4, signal 9: CUDA error: out of memory\n",
        "attempt 2 begins from the checkpoint of step 20",
        "held-out fold evaluated on 2 slices of 3 subjects: DSC 70.00 %",
        "attempt 2 ended: completed\n",
    ];
    let mut rest = text.as_str();
    for line in expected {
        let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is not in its place in\n{text}"));
        rest = &rest[at + line.len()..];
    }
    let decoder = png::Decoder::new(std::io::Cursor::new(std::fs::read(logs.join("progress.png")).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let blue = pixels.chunks(3).filter(|pixel| *pixel == [0x00, 0x72, 0xb2]).count();
    assert!(blue > 500, "lines are drawn: {blue} pixels of the first series");
}

#[test]
fn files_grow_while_a_study_runs_and_a_second_writing_replaces_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let log = interrupted();
    let board = directory.path().join("tensorboard/mti-net/0/0");
    let count = || scalars(&std::fs::read(event_file(&board)).unwrap()).0.len();
    let mut files = TrialFiles::new(directory.path());
    for recorded in &log.0[..3] {
        files.apply(recorded).unwrap();
    }
    files.publish().unwrap();
    let early = count();
    assert!(early > 0);
    for recorded in &log.0[3..] {
        files.apply(recorded).unwrap();
    }
    files.publish().unwrap();
    let all = count();
    assert!(all > early);

    let mut again = TrialFiles::new(directory.path());
    for recorded in &log.0 {
        again.apply(recorded).unwrap();
    }
    let place = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let names: Vec<String> = std::fs::read_dir(&board).unwrap().map(place).collect();
    let visible = names.iter().filter(|name| name.contains("tfevents")).count();
    assert_eq!(visible, 1, "the old one stands until the new one is whole: {names:?}");
    again.publish().unwrap();
    assert_eq!(count(), all);
}
