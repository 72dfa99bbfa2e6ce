//! `mtinet predict`: the networks of a finished study's arm answer new cases.
//!
//! This program finds the cases and fetches the weights; a trainer, started beside it, does what needs libtorch and tells
//! of each case when it is done. Nothing is kept of a case but its rows in two tables and its files, so memory does not grow
//! with their number.

mod ensemble;
mod output;
mod progress;
mod tables;

use std::path::Path;

use mtinet_data::{CaseInput, Dataset, FoundCases, cases};
use mtinet_domain::prediction::{CaseFiles, Message, Request, VERSION};
use mtinet_domain::trial::Device;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use self::ensemble::Ensemble;
use self::output::Output;
use self::progress::Progress;
use super::args::PredictArgs;
use super::client::Coordinator;
use super::error::{CliError, chain};
use super::export;
use super::interrupt::Interrupt;
use super::output::{print, print_json, say};
use super::report::with_coordinator;
use super::study::blocking;
use super::trainer::Trainer;
use crate::report::StudyResults;

pub async fn run(args: PredictArgs) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    let device = device(&args.device)?;
    Output::refuse_occupied(&args.outdir)?;
    if !args.input.is_dir() {
        return Err(CliError::BadData(format!(
            "{} is not a directory; give one with CASE_0000.nii.gz, ... (one file a phase), or a data set",
            args.input.display()
        )));
    }
    let work = with_coordinator(args.data_dir.as_deref(), &args.server, async |coordinator| {
        prepare(coordinator, &args, device).await
    });
    let Job { request, mut output, steps, cases } = interrupt.or(work).await?;
    let done = predict(&request, &mut output, &steps, &interrupt).await;
    let interrupted = matches!(done, Err(CliError::Interrupted));
    let counts = output.finish(cases, interrupted)?;
    let outdir = args.outdir.display();
    if counts.done > 0 {
        say(format_args!("{} of {} cases are done, in {outdir}", counts.done, counts.all));
        if !args.json {
            print(outdir);
        }
    }
    if args.json {
        print_json(&json!({ "directory": args.outdir, "cases": counts.all, "done": counts.done }));
    }
    let refused = output.close();
    // What ended everything says more than what is wrong with single cases, which are told all the same.
    match (done, refused) {
        (Ok(()), refused) => refused,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(refused)) => {
            say(refused);
            Err(error)
        }
    }
}

/// All that is needed to begin.
struct Job {
    request: Request,
    output: Output,
    /// Slices of each case in the request, as far as headers tell.
    steps: Vec<u64>,
    /// Cases that were found, good or bad.
    cases: usize,
}

fn device(given: &str) -> Result<Option<Device>, CliError> {
    match given.split_once(':') {
        None if given == "auto" => Ok(None),
        None if given == "cpu" => Ok(Some(Device::Cpu)),
        Some(("cuda", index)) if index.parse::<u32>().is_ok() => {
            Ok(Some(Device::Cuda(index.parse().unwrap_or_default())))
        }
        _ => Err(CliError::Usage(format!("--device {given}: write auto, cpu, or cuda:N"))),
    }
}

async fn prepare(
    coordinator: &mut Coordinator,
    args: &PredictArgs,
    device: Option<Device>,
) -> Result<Job, CliError> {
    let results = export::results(coordinator, args.study.as_deref()).await?;
    let trials = ensemble::choose(&results, args.arm, &args.trial)?;
    let (input, phases) = (args.input.clone(), results.dataset.phases.clone());
    let found = blocking(move || Ok(cases::find(&input, &phases)?)).await?;
    tell_about(&found, &args.input, &results, &trials)?;
    let cases = found.cases.len();
    let mut output = Output::begin(&args.outdir)?;
    let networks = Ensemble::fetch(coordinator, &trials, &output.staging().join("weights")).await?;
    let spacing = networks.spacing(&results, args.dataset.as_deref()).await?;
    let (mut files, mut steps) = (Vec::new(), Vec::new());
    for (case, input) in found.cases {
        match input {
            Ok(input) => {
                // A header that cannot be read is told by the trainer, which reads it again.
                steps.push(input.grid().map_or(0, |grid| grid.shape[0] as u64));
                let CaseInput { case, images, hashes, reference } = input;
                files.push(CaseFiles { case, images, hashes, reference });
            }
            Err(error) => output.refuse(case, chain(&error)),
        }
    }
    let request = Request {
        version: VERSION,
        spec: results.spec.clone(),
        phases: results.dataset.phases.clone(),
        classes: results.dataset.classes.clone(),
        members: networks.members.clone(),
        spacing,
        device,
        cases: absolute(files)?,
        out: output.staging().to_owned(),
    };
    request.validate().map_err(CliError::BadData)?;
    output.describe(&results, &networks, spacing)?;
    Ok(Job { request, output, steps, cases })
}

/// The trainer has the same working directory; still nothing is left to depend on it.
fn absolute(mut cases: Vec<CaseFiles>) -> Result<Vec<CaseFiles>, CliError> {
    for image in cases.iter_mut().flat_map(|case| &mut case.images) {
        *image = std::path::absolute(&image)
            .map_err(|error| CliError::failed(format_args!("cannot find {}", image.display()), &error))?;
        if image.to_str().is_none() {
            return Err(CliError::BadData(format!("{} has a name that is not UTF-8", image.display())));
        }
    }
    Ok(cases)
}

/// What a person should know before answers are taken for good.
fn tell_about(
    found: &FoundCases,
    input: &Path,
    results: &StudyResults,
    trials: &[ensemble::Finished<'_>],
) -> Result<(), CliError> {
    if found.excluded > 0 {
        say(format_args!("note: {} cases that the data set excludes are left out", found.excluded));
    }
    if found.dataset_hash.as_ref() != Some(&results.dataset.hash) {
        return Ok(());
    }
    let dataset = Dataset::open(input)?;
    let trained_on = |case: &str| {
        trials.iter().any(|trial| {
            let fold = dataset.splits.get(trial.key.fold as usize);
            fold.is_some_and(|fold| fold.train.iter().any(|other| other == case))
        })
    };
    let known = found.cases.iter().filter(|(case, _)| trained_on(case)).count();
    if known > 0 {
        say(format_args!(
            "note: this is the data set that the study was trained on; {known} of {} cases were among the training cases \
             of a network that answers here",
            found.cases.len()
        ));
    }
    Ok(())
}

/// Has a trainer answer all cases, and takes over what it makes.
async fn predict(
    request: &Request,
    output: &mut Output,
    steps: &[u64],
    interrupt: &Interrupt,
) -> Result<(), CliError> {
    if request.cases.is_empty() {
        return Ok(());
    }
    let staging = output.staging().to_owned();
    let file = staging.join("request.json");
    let failed =
        |error: &dyn std::error::Error| CliError::failed("cannot hand the cases to the trainer", error);
    let json = serde_json::to_vec(request).map_err(|error| failed(&error))?;
    std::fs::write(&file, json).map_err(|error| failed(&error))?;
    let arguments = ["predict", "--request", &file.to_string_lossy()];
    let mut trainer = Trainer::start(&arguments, &staging.join("trainer.log"), interrupt)?;
    let progress = Progress::new(steps);
    match listen(&mut trainer, output, &progress, interrupt).await {
        Ok(true) => {
            progress.finish();
            trainer.wait().await
        }
        // It said nothing more before all was done: its end says why.
        Ok(false) => match trainer.wait().await {
            Ok(()) => Err(CliError::NotSo("the trainer ended before all cases were done".to_owned())),
            Err(error) => Err(error),
        },
        Err(error) => {
            trainer.kill().await;
            Err(error)
        }
    }
}

/// Takes over each case that is told of; whether all cases were tried.
async fn listen(
    trainer: &mut Trainer,
    output: &mut Output,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<bool, CliError> {
    let Some(answers) = trainer.answers() else { return Ok(false) };
    let mut lines = BufReader::new(answers).lines();
    loop {
        let line = interrupt.or(async {
            lines.next_line().await.map_err(|error| CliError::failed("cannot hear the trainer", &error))
        });
        let Some(line) = line.await? else { return Ok(false) };
        let message: Message = serde_json::from_str(&line).map_err(|error| {
            CliError::NotSo(format!(
                "the trainer said something that is no answer ({error}); is it of another release?"
            ))
        })?;
        match message {
            Message::Ready { device } => {
                output.computed_on(&device);
                progress.ready(&device);
            }
            Message::Slices { count } => progress.slices(count),
            Message::Case(case) => {
                output.take(case).await?;
                progress.case_over();
            }
            Message::Refused { case, problem } => {
                output.refuse(case, problem);
                progress.case_over();
            }
            Message::Finished => return Ok(true),
        }
    }
}
