//! What a person can have done, and how it is asked whether they mean it.

use mtinet_domain::TrialKey;
use mtinet_domain::trial::TrialStatus;

use crate::dashboard::state::{Model, Worker, WorkerLink};

/// Something to be sent to the coordinator, about the study that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let nothing of the study start; what runs saves and stops.
    Pause,
    /// Let it go on.
    Resume,
    /// End the study.
    CancelStudy,
    /// End one trial.
    CancelTrial(TrialKey),
    /// Let nothing of one trial start; what runs of it saves and stops.
    PauseTrial(TrialKey),
    /// Let it go on.
    ResumeTrial(TrialKey),
    /// Try these again; all that failed or were cancelled where empty.
    Retry(Vec<TrialKey>),
    /// Have what runs on a worker go on elsewhere, or take that back.
    Drain {
        /// Its id.
        worker: String,
        /// Take a former drain back.
        undo: bool,
    },
    /// Give trials again to a worker that was set aside.
    Readmit(String),
}

/// A command that makes sense now, with the question to be answered; or why it does not.
pub type Asked = Result<(Command, String), String>;

/// Pauses the study, or lets it go on where it is paused.
pub fn pause_or_resume(model: &Model) -> Asked {
    let name = study_name(model);
    if model.study.outcome().is_some() {
        return Err("the study is over; nothing of it runs".to_owned());
    }
    if model.study.is_paused() {
        return Ok((
            Command::Resume,
            format!("Let {name} go on?\nIts trials start again as slots are free."),
        ));
    }
    let running = model.study.counts().running;
    let consequence = match running {
        0 => "Nothing of it starts until it is resumed.".to_owned(),
        1 => "1 trial saves and stops; nothing starts until it is resumed.".to_owned(),
        _ => format!("{running} trials save and stop; nothing starts until it is resumed."),
    };
    Ok((Command::Pause, format!("Pause {name}?\n{consequence}")))
}

/// Ends the study.
pub fn cancel_study(model: &Model) -> Asked {
    if model.study.outcome().is_some() {
        return Err("the study is over already".to_owned());
    }
    let counts = model.study.counts();
    let open = counts.running + counts.stopping + counts.waiting;
    Ok((
        Command::CancelStudy,
        format!(
            "Cancel {}?\n{open} trials are not done and will have no result; what runs stops at a step boundary.",
            study_name(model)
        ),
    ))
}

/// Ends the selected trial.
pub fn cancel_trial(model: &Model, index: usize) -> Asked {
    let trial = model.study.trial(index).ok_or("no trial is selected")?;
    let key = trial.result.key;
    match trial.progress.status {
        TrialStatus::Waiting => Ok((
            Command::CancelTrial(key),
            format!("Cancel trial {key}?\nIt will not run, and has no result."),
        )),
        TrialStatus::Running | TrialStatus::Stopping => Ok((
            Command::CancelTrial(key),
            format!("Cancel trial {key}?\nIt stops at a step boundary, at step {} now.", trial.progress.step),
        )),
        status => Err(format!("{key} is {} already", status.word())),
    }
}

/// Pauses the selected trial, or lets it go on where it is paused.
pub fn pause_or_resume_trial(model: &Model, index: usize) -> Asked {
    let trial = model.study.trial(index).ok_or("no trial is selected")?;
    let (key, status) = (trial.result.key, trial.progress.status);
    if status.is_final() {
        return Err(format!("{key} is {}; nothing of it runs", status.word()));
    }
    if trial.progress.is_paused {
        return Ok((
            Command::ResumeTrial(key),
            format!("Let {key} go on?\nIt starts again as slots are free."),
        ));
    }
    let consequence = match status {
        TrialStatus::Running => "It saves and stops, and does not start until it is resumed.",
        _ => "It does not start until it is resumed.",
    };
    Ok((Command::PauseTrial(key), format!("Pause trial {key}?\n{consequence}")))
}

/// Tries the selected trial again.
pub fn retry_trial(model: &Model, index: usize) -> Asked {
    let trial = model.study.trial(index).ok_or("no trial is selected")?;
    let key = trial.result.key;
    match trial.progress.status {
        TrialStatus::Failed | TrialStatus::Cancelled => Ok((
            Command::Retry(vec![key]),
            format!("Try {key} again?\nIt goes on from its last checkpoint; its failures are forgotten."),
        )),
        status => Err(format!("{key} is {}; only failed or cancelled trials are tried again", status.word())),
    }
}

/// Tries every trial again that failed or was cancelled.
pub fn retry_all(model: &Model) -> Asked {
    let counts = model.study.counts();
    match counts.failed + counts.cancelled {
        0 => Err("no trial of the study failed or was cancelled".to_owned()),
        n => Ok((
            Command::Retry(Vec::new()),
            format!(
                "Try {n} trials of {} again?\nThey go on from their last checkpoints.",
                study_name(model)
            ),
        )),
    }
}

/// Drains the selected worker, or takes that back.
pub fn drain(worker: Option<&&Worker>) -> Asked {
    let worker = worker.ok_or("no worker is selected")?;
    if worker.link == WorkerLink::Lost {
        return Err(format!("{} is lost; nothing runs there", worker.name));
    }
    let command = Command::Drain { worker: worker.id.clone(), undo: worker.drained };
    let question = if worker.drained {
        format!("Give {} trials again?", worker.name)
    } else {
        format!(
            "Drain {}?\nWhat runs on its {} busy slots saves and goes on elsewhere.",
            worker.name,
            worker.busy()
        )
    };
    Ok((command, question))
}

/// Gives trials again to the selected worker.
pub fn readmit(worker: Option<&&Worker>) -> Asked {
    let worker = worker.ok_or("no worker is selected")?;
    match &worker.set_aside {
        Some(reason) => Ok((
            Command::Readmit(worker.id.clone()),
            format!("Give {} trials again?\nIt was set aside: {reason}", worker.name),
        )),
        None => Err(format!("{} is not set aside", worker.name)),
    }
}

fn study_name(model: &Model) -> String {
    let name = model.study.spec().map(|spec| format!(" ({})", spec.name)).unwrap_or_default();
    model.id.map_or_else(|| "the study".to_owned(), |id| format!("study {id}{name}"))
}
