//! `mtinet status` and `mtinet workers`: how studies, trials and workers stand.

use std::collections::BTreeMap;

use mtinet_domain::{StudySpec, TrialKey};
use mtinet_proto::v1::device::Kind;
use mtinet_proto::v1::{SlotState, Study, StudySummary, TrialState, WorkerState};
use serde_json::{Value, json};

use super::args::{StatusArgs, WorkersArgs};
use super::client::{Coordinator, makes_no_sense};
use super::error::CliError;
use super::output::{print, print_json, say, span, table, utc};
use super::usage;

pub async fn status(args: StatusArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    match &args.study {
        Some(study) => print_study(&coordinator.study(study).await?, args.json, Detail::Trials),
        None => {
            print_studies(&coordinator.studies().await?, args.json);
            Ok(())
        }
    }
}

pub async fn workers(args: WorkersArgs) -> Result<(), CliError> {
    let workers = Coordinator::connect(&args.server.url).await?.workers().await?;
    if args.json {
        print_json(&json!({ "workers": workers.iter().map(worker_json).collect::<Vec<_>>() }));
    } else if workers.is_empty() {
        say("no worker has joined; start one with `mtinet-worker --coordinator URL --token-file FILE`");
    } else {
        let rows = workers.iter().flat_map(worker_rows);
        print(table(&["Worker", "Name", "Status", "Last heard", "Slot", "Device", "Usage", "Holds"], rows));
        for worker in workers.iter().filter(|worker| !worker.set_aside.is_empty()) {
            say(format_args!(
                "{} ({}) is set aside: {}; `mtinet workers readmit {0}` gives it trials again",
                worker.worker_id, worker.name, worker.set_aside
            ));
        }
    }
    Ok(())
}

/// All studies, the newest last.
pub fn print_studies(studies: &[StudySummary], as_json: bool) {
    if as_json {
        print_json(&json!({ "studies": studies.iter().map(summary_json).collect::<Vec<_>>() }));
        return;
    }
    if studies.is_empty() {
        say("no studies yet; `mtinet study init` writes a study file, `mtinet study submit FILE` submits it");
        return;
    }
    let rows = studies.iter().map(|study| {
        let done = study.trials.get("done").copied().unwrap_or_default();
        let all: u32 = study.trials.values().sum();
        vec![
            study.study.to_string(),
            study.name.clone(),
            study.status.clone(),
            format!("{done} of {all}"),
            counts(&study.trials),
            utc(study.submitted_ms),
        ]
    });
    print(table(&["Study", "Name", "Status", "Done", "Trials", "Submitted"], rows));
}

/// How much of a study is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// How its trials stand.
    Trials,
    /// Also what was asked for.
    Spec,
}

/// One study and its trials.
pub fn print_study(study: &Study, as_json: bool, detail: Detail) -> Result<(), CliError> {
    let summary = study.summary.as_ref().ok_or_else(|| makes_no_sense("a study without a summary"))?;
    if as_json {
        print_json(&study_json(summary, study));
        return Ok(());
    }
    let spec = StudySpec::from_json(&study.spec_json)
        .map_err(|error| makes_no_sense(&format!("a study spec that cannot be read ({error})")))?;
    print(format_args!(
        "study {} ({}): {}; {}; submitted {}",
        summary.study,
        summary.name,
        summary.status,
        counts(&summary.trials),
        utc(summary.submitted_ms)
    ));
    if detail == Detail::Spec {
        print_spec(study, summary, &spec);
    }
    print(matrix(&study.trials, &spec));
    let reasons: Vec<Vec<String>> = study
        .trials
        .iter()
        .filter(|trial| !trial.reason.is_empty())
        .map(|trial| vec![trial.key.clone(), trial.status.clone(), trial.reason.clone()])
        .collect();
    if !reasons.is_empty() {
        print(table(&["Trial", "Status", "Why"], reasons));
    }
    Ok(())
}

fn print_spec(study: &Study, summary: &StudySummary, spec: &StudySpec) {
    print(format_args!("spec {}", summary.spec_hash));
    if let Some(dataset) = &study.dataset {
        print(format_args!("data set {} at {}, hash {}", dataset.name, dataset.path, dataset.hash));
    }
    if let Ok(text) = toml::to_string(spec) {
        print(format_args!("\n{}", text.trim_end()));
    }
    print("");
}

/// Arms (and seeds, where there are several) as rows, folds as columns.
fn matrix(trials: &[TrialState], spec: &StudySpec) -> comfy_table::Table {
    let folds = spec.folds.indices();
    let of: BTreeMap<TrialKey, &TrialState> =
        trials.iter().filter_map(|trial| Some((trial.key.parse().ok()?, trial))).collect();
    let names: Vec<String> = folds.iter().map(|fold| format!("Fold {fold}")).collect();
    let mut header = vec!["Arm"];
    if spec.seeds.len() > 1 {
        header.push("Seed");
    }
    header.extend(names.iter().map(String::as_str));
    let rows = spec.arms.iter().flat_map(|&arm| {
        let (of, folds) = (&of, &folds);
        spec.seeds.iter().map(move |&seed| {
            let mut row = vec![arm.name().to_owned()];
            if spec.seeds.len() > 1 {
                row.push(seed.to_string());
            }
            row.extend(folds.iter().map(|&fold| {
                of.get(&TrialKey { arm, fold, seed })
                    .map_or_else(|| "?".to_owned(), |trial| trial_cell(trial, spec))
            }));
            row
        })
    });
    table(&header, rows)
}

fn trial_cell(trial: &TrialState, spec: &StudySpec) -> String {
    let mut cell = trial.status.clone();
    if matches!(trial.status.as_str(), "running" | "stopping" | "waiting") && trial.step > 0 {
        let of = spec.train.steps.map(|steps| format!(" of {steps}")).unwrap_or_default();
        cell.push_str(&format!(", step {}{of}", trial.step));
    }
    if trial.failures > 0 {
        cell.push_str(&format!(", failed {}x", trial.failures));
    }
    cell
}

fn counts(trials: &std::collections::HashMap<String, u32>) -> String {
    let order = ["done", "running", "stopping", "waiting", "failed", "cancelled"];
    let words = order.iter().filter_map(|word| {
        let count = trials.get(*word).copied().filter(|count| *count > 0)?;
        Some(format!("{count} {word}"))
    });
    words.collect::<Vec<_>>().join(", ")
}

fn summary_json(study: &StudySummary) -> Value {
    let trials: BTreeMap<&String, &u32> = study.trials.iter().collect();
    json!({
        "study": study.study,
        "name": study.name,
        "spec_hash": study.spec_hash,
        "submitted_ms": study.submitted_ms,
        "status": study.status,
        "trials": trials,
    })
}

fn study_json(summary: &StudySummary, study: &Study) -> Value {
    let trials: Vec<Value> = study
        .trials
        .iter()
        .map(|trial| {
            json!({
                "trial": trial.key,
                "status": trial.status,
                "attempts": trial.attempts,
                "failures": trial.failures,
                "step": trial.step,
                "reason": trial.reason,
                "workers": trial.workers,
                "checkpoint_step": trial.checkpoint_step,
            })
        })
        .collect();
    let spec: Value = serde_json::from_str(&study.spec_json).unwrap_or_default();
    let dataset = study.dataset.as_ref().map(|dataset| {
        json!({
            "name": dataset.name,
            "path": dataset.path,
            "hash": dataset.hash,
            "phases": dataset.phases,
            "classes": dataset.classes,
        })
    });
    json!({
        "study": summary.study,
        "name": summary.name,
        "status": summary.status,
        "spec_hash": summary.spec_hash,
        "submitted_ms": summary.submitted_ms,
        "dataset": dataset,
        "spec": spec,
        "trials": trials,
    })
}

fn worker_rows(worker: &WorkerState) -> Vec<Vec<String>> {
    let heard = format!("{} ago", span(worker.last_heard_ms_ago as f64 / 1000.0));
    let mut status = worker.status.clone();
    if worker.drained {
        status.push_str(", drained");
    }
    if !worker.set_aside.is_empty() {
        status.push_str(", set aside");
    }
    let head = [worker.worker_id.clone(), worker.name.clone(), status, heard];
    if worker.slots.is_empty() {
        return vec![head.into_iter().chain(["-".into(), "-".into(), String::new(), "-".into()]).collect()];
    }
    // Told once for all slots: names and numbers are long.
    let mut heads = std::iter::once(head).chain(std::iter::repeat_with(Default::default));
    let row = |slot: &SlotState| {
        let index = slot.slot.as_ref().map(|slot| slot.index.to_string()).unwrap_or_default();
        let held = held(slot).unwrap_or_else(|| "free".to_owned());
        let slot = [index, device(slot), usage::words(worker, slot), held];
        heads.next().unwrap_or_default().into_iter().chain(slot).collect()
    };
    worker.slots.iter().map(row).collect()
}

fn worker_json(worker: &WorkerState) -> Value {
    let slots: Vec<Value> = worker
        .slots
        .iter()
        .map(|slot| {
            let attempt = slot.attempt.as_ref();
            let trial = attempt.and_then(|attempt| attempt.trial.as_ref());
            json!({
                "slot": slot.slot.as_ref().map(|slot| slot.index),
                "device": device(slot),
                "study": trial.map(|trial| trial.study),
                "trial": trial.map(|trial| &trial.key),
                "attempt": attempt.map(|attempt| attempt.number),
                "rank": attempt.map(|_| slot.rank),
                "usage": usage::device_json(worker, slot),
            })
        })
        .collect();
    json!({
        "worker": worker.worker_id,
        "name": worker.name,
        "status": worker.status,
        "last_heard_ms_ago": worker.last_heard_ms_ago,
        "drained": worker.drained,
        "set_aside": (!worker.set_aside.is_empty()).then_some(&worker.set_aside),
        "machine": usage::machine_json(worker),
        "slots": slots,
    })
}

/// `cpu` or `cuda:0`.
pub fn device(slot: &SlotState) -> String {
    match slot.slot.as_ref().and_then(|slot| slot.device.as_ref()) {
        Some(device) if device.kind() == Kind::Cuda => format!("cuda:{}", device.index),
        Some(device) if device.kind() == Kind::Cpu => "cpu".to_owned(),
        _ => "?".to_owned(),
    }
}

fn held(slot: &SlotState) -> Option<String> {
    let attempt = slot.attempt.as_ref()?;
    let trial = attempt.trial.as_ref()?;
    Some(format!("study {} {} attempt {} rank {}", trial.study, trial.key, attempt.number, slot.rank))
}
