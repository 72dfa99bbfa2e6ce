//! `mtinet study ...`.

use serde_json::json;

use super::args::{CancelArgs, ListArgs, PauseArgs, RetryArgs, ShowArgs, StudyCommand, SubmitArgs};
use super::client::Coordinator;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::{print, print_json, print_raw, say};
use super::prepare::{self, Prepared};
use super::{initial, presets, status, upload, watch};

pub async fn run(command: StudyCommand) -> Result<(), CliError> {
    match command {
        StudyCommand::Init(args) => {
            print_raw(presets::study_file(&args));
            Ok(())
        }
        StudyCommand::Submit(args) => submit(args).await,
        StudyCommand::List(args) => list(args).await,
        StudyCommand::Show(args) => show(args).await,
        StudyCommand::Cancel(args) => cancel(args).await,
        StudyCommand::Pause(args) => pause(args).await,
        StudyCommand::Resume(args) => resume(args).await,
        StudyCommand::Retry(args) => retry(args).await,
    }
}

async fn submit(args: SubmitArgs) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    // A mistake in the file is told before a coordinator is asked for, an absent one before gigabytes are read.
    prepare::read(&args.file)?;
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let file = args.file.clone();
    let Prepared { spec, dataset, directory, weights } =
        interrupt.or(blocking(move || prepare::prepare(&file))).await?;
    interrupt.or(initial::upload(&mut coordinator, &weights)).await?;
    interrupt.or(upload::for_study(&mut coordinator, &directory, &dataset, args.upload_data)).await?;
    let study = coordinator.submit(&spec, &dataset).await?;
    let trials = spec.trials().len();
    say(format_args!("study {study} ({}) is submitted with {trials} trials", spec.name));
    if args.json {
        print_json(
            &json!({ "study": study.0, "name": spec.name, "spec_hash": spec.hash(), "trials": trials }),
        );
    } else {
        print(study);
    }
    if !args.wait {
        return Ok(());
    }
    let waited = interrupt.or(watch::to_the_end(&mut coordinator, study, args.plain)).await;
    if interrupt.is_requested() {
        say(format_args!(
            "study {study} goes on; `mtinet status {study}` shows it, `mtinet study cancel {study}` ends it"
        ));
        return Err(CliError::Interrupted);
    }
    waited?.into_result(study)
}

/// Runs blocking work beside the async runtime.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(CliError::failed("a background task broke off", &error)),
    }
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let studies = Coordinator::connect(&args.server.url).await?.studies().await?;
    status::print_studies(&studies, args.json);
    Ok(())
}

async fn show(args: ShowArgs) -> Result<(), CliError> {
    let study = Coordinator::connect(&args.server.url).await?.study(&args.study).await?;
    status::print_study(&study, args.json, status::Detail::Spec)
}

async fn cancel(args: CancelArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let study = coordinator.study_id(&args.study).await?;
    if let Some(trial) = args.trial {
        coordinator.cancel_trial(study, trial).await?;
        say(format_args!("{trial} of study {study} is being cancelled"));
    } else {
        coordinator.cancel(study).await?;
        say(format_args!("study {study} is being cancelled; its running trials stop at a step boundary"));
    }
    if args.json {
        print_json(&json!({ "study": study.0, "trial": args.trial.map(|trial| trial.to_string()) }));
    }
    Ok(())
}

async fn pause(args: PauseArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let study = coordinator.study_id(&args.study).await?;
    let (what, resume, stopping) = match args.trial {
        Some(trial) => {
            let stopping = coordinator.pause_trial(study, trial).await?;
            (format!("{trial} of study {study}"), format!("{study} --trial {trial}"), stopping)
        }
        None => (format!("study {study}"), study.to_string(), coordinator.pause(study).await?),
    };
    say(format_args!(
        "{what} is paused; {stopping} attempts save and stop (`mtinet study resume {resume}` lets it go on)"
    ));
    if args.json {
        let trial = args.trial.map(|trial| trial.to_string());
        print_json(&json!({ "study": study.0, "trial": trial, "stopping": stopping }));
    }
    Ok(())
}

async fn resume(args: PauseArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let study = coordinator.study_id(&args.study).await?;
    if let Some(trial) = args.trial {
        coordinator.resume_trial(study, trial).await?;
        say(format_args!("{trial} of study {study} goes on"));
    } else {
        coordinator.resume(study).await?;
        say(format_args!("study {study} goes on"));
    }
    if args.json {
        print_json(&json!({ "study": study.0, "trial": args.trial.map(|trial| trial.to_string()) }));
    }
    Ok(())
}

async fn retry(args: RetryArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let study = coordinator.study_id(&args.study).await?;
    let retried = coordinator.retry(study, &args.trials).await?;
    say(format_args!("{retried} trials of study {study} are tried again, from their last checkpoints"));
    if args.json {
        print_json(&json!({ "study": study.0, "retried": retried }));
    }
    if retried == 0 {
        return Err(CliError::NotSo(format!("no trial of study {study} failed or was cancelled")));
    }
    Ok(())
}
