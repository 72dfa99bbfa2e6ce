//! `mtinet run`: a study file from start to report on this machine. The coordinator runs in this process, the
//! worker agents are processes of their own, so that a crash of one ends neither the study nor the others.

mod agents;
mod devices;
mod embedded;

use std::path::{Path, PathBuf};

use mtinet_domain::StudyId;
use mtinet_domain::spec::Ranks;
use serde_json::json;

use self::agents::{Fleet, Plan, Programs};
pub use self::embedded::Embedded;
use super::args::RunArgs;
use super::client::Coordinator;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::{print_json, print_raw, say};
use super::prepare::{self, Prepared};
use super::progress::Busy;
use super::run_dir::{RunDir, directory_name};
use super::study::blocking;
use super::trial_files::LiveFiles;
use super::{gather, initial, pictures, predictions, watch};
use crate::report::{self, StudyResults};
use crate::server::ServerOptions;

pub async fn run(args: RunArgs) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    let file = args.file.clone();
    let prepared = interrupt.or(blocking(move || prepare::prepare(&file))).await?;
    let mut again = format!("mtinet run {}", args.file.display());
    if let Some(out) = &args.out {
        again.push_str(&format!(" --out {}", out.display()));
    }
    let root = args.out.unwrap_or_else(|| Path::new("runs").join(directory_name(&prepared.spec.name)));
    let (workers, devices, plain, json) = (args.workers, args.devices, args.plain, args.json);
    let job = Job { prepared, root, workers, devices, again, plain, json };
    job.execute(&interrupt).await
}

/// A study to be run on this machine.
pub struct Job {
    /// The study, checked.
    pub prepared: Prepared,
    /// The run directory.
    pub root: PathBuf,
    /// Worker agents to start.
    pub workers: u32,
    /// Devices of each worker; chosen by the machine where absent.
    pub devices: Option<String>,
    /// The command that goes on after an interrupt, for the person who interrupts.
    pub again: String,
    /// Lines instead of the dashboard, also on a terminal.
    pub plain: bool,
    /// One JSON document at the end instead of tables.
    pub json: bool,
}

impl Job {
    /// Runs the study, or what is left of it, and writes its report.
    ///
    /// # Errors
    /// Exit code 1 where the study does not complete, 130 after an interrupt.
    pub async fn execute(self, interrupt: &Interrupt) -> Result<(), CliError> {
        let plan = self.plan()?;
        let directory = RunDir::open(&self.root)?;
        embedded::log_to_file(&directory.logs().join("coordinator.log"))?;
        agents::end_leftovers(&directory).await?;
        // The workers of an earlier run are gone, so nothing is gained by waiting for them to come back.
        let options = ServerOptions { adoption_grace_ms: 0, ..ServerOptions::new(directory.coordinator()) };
        let mut embedded = Embedded::start(options).await?;
        let mut coordinator = embedded.connect().await?;
        embedded.serve_metrics().await;
        let done = self.train_and_report(&mut coordinator, &mut embedded, &directory, &plan, interrupt).await;
        let stopped = embedded.stop().await;
        done.and(stopped)
    }

    fn plan(&self) -> Result<Plan, CliError> {
        let spec = &self.prepared.spec;
        let ranks = match spec.resources.ranks {
            Ranks::Auto => 1,
            Ranks::Fixed(ranks) => ranks,
        };
        let wanted = devices::Wanted {
            workers: self.workers,
            ranks,
            choice: spec.resources.device,
            given: self.devices.as_deref(),
        };
        let programs = Programs::beside_this()?;
        let machine = devices::Machine::this(&programs.trainer);
        Ok(Plan::new(programs, devices::choose(&wanted, machine)?, &self.prepared.directory))
    }

    async fn train_and_report(
        &self,
        coordinator: &mut Coordinator,
        embedded: &mut Embedded,
        directory: &RunDir,
        plan: &Plan,
        interrupt: &Interrupt,
    ) -> Result<(), CliError> {
        let standing = self.standing(coordinator, directory).await?;
        let live = LiveFiles::follow(coordinator.clone(), standing.study(), directory.root());
        let study = match standing {
            Standing::Over(study) => study,
            Standing::Open(study) => {
                say(format_args!(
                    "running in {} (coordinator {})",
                    directory.root().display(),
                    coordinator.url()
                ));
                let fleet = Fleet::start(plan, coordinator, directory, interrupt).await?;
                if let Err(error) = self.train(coordinator, study, fleet, embedded, interrupt).await {
                    live.stop().await;
                    return Err(error);
                }
                study
            }
        };
        let results = gather::results(coordinator, study).await?;
        predictions::fetch(coordinator, &results, &directory.predictions()).await?;
        let options = report::Options::default();
        let dataset = Some(self.prepared.directory.as_path());
        let pictures = pictures::read(coordinator, &results, dataset, Some(&directory.predictions())).await?;
        let busy = Busy::with("writing the report");
        let files = report::write(&results, options, &pictures, &directory.report())?;
        live.ended().await?.finish(&results, &pictures)?;
        drop(busy);
        if self.json {
            print_json(&json!({
                "study": study.0,
                "name": results.spec.name,
                "complete": results.is_complete(),
                "directory": directory.root(),
                "report": files.directory,
            }));
        } else {
            print_raw(report::tables_terminal(&results, options));
        }
        say(format_args!("report: {}", files.directory.display()));
        if results.is_complete() { Ok(()) } else { Err(incomplete(&results)) }
    }

    /// Whether this run directory knows the study already.
    async fn standing(
        &self,
        coordinator: &mut Coordinator,
        directory: &RunDir,
    ) -> Result<Standing, CliError> {
        let Prepared { spec, dataset, weights, .. } = &self.prepared;
        let mut known = None;
        for summary in coordinator.studies().await? {
            let study = coordinator.study(&summary.study.to_string()).await?;
            let same_data = study.dataset.is_some_and(|other| other.hash == dataset.hash);
            if summary.spec_hash != spec.hash() || !same_data {
                return Err(other_study(&self.root, &summary.name, same_data));
            }
            known = known.max(Some((summary.study, summary.status)));
        }
        match known {
            Some((number, status)) if matches!(status.as_str(), "complete" | "incomplete") => {
                let root = directory.root().display();
                say(format_args!("this study is over ({status}); reporting what {root} holds"));
                if status != "complete" {
                    say(
                        "its failed trials are not tried again here; --out with another directory runs it anew",
                    );
                }
                Ok(Standing::Over(StudyId(number)))
            }
            Some((number, status)) if status != "cancelled" => {
                say("this study was begun before and goes on from its checkpoints");
                Ok(Standing::Open(StudyId(number)))
            }
            _ => {
                initial::upload(coordinator, weights).await?;
                Ok(Standing::Open(coordinator.submit(spec, dataset).await?))
            }
        }
    }

    async fn train(
        &self,
        coordinator: &mut Coordinator,
        study: StudyId,
        mut fleet: Fleet,
        embedded: &mut Embedded,
        interrupt: &Interrupt,
    ) -> Result<(), CliError> {
        let end = tokio::select! {
            // First, because whoever follows a coordinator that ended would wait for it to come back.
            biased;
            error = embedded.ended() => Err(error),
            end = watch::to_the_end(coordinator, study, self.plain) => end,
            error = fleet.gave_up() => Err(error),
            () = interrupt.requested() => Err(CliError::Interrupted),
        };
        if matches!(end, Err(CliError::Interrupted)) {
            say("stopping: trainers write a checkpoint at the next step and end; Ctrl-C again ends at once");
        }
        fleet.stop().await;
        if matches!(end, Err(CliError::Interrupted)) {
            say(format_args!("stopped; `{}` goes on from the checkpoints", self.again));
        }
        // How it ended is told from the results, which the report needs in any case.
        end.map(|_| ())
    }
}

enum Standing {
    /// To be trained, from the start or from where it stands.
    Open(StudyId),
    /// Nothing will run any more.
    Over(StudyId),
}

impl Standing {
    fn study(&self) -> StudyId {
        match self {
            Self::Open(study) | Self::Over(study) => *study,
        }
    }
}

fn other_study(root: &Path, name: &str, same_data: bool) -> CliError {
    let differs = if same_data { "with other settings" } else { "on another data set" };
    let root = root.display();
    CliError::Usage(format!(
        "{root} holds the study `{name}` {differs}, and a study never changes; give this one another name or another \
         directory (--out DIR), or remove {root} if its results are not needed"
    ))
}

/// What is told of a study whose trials are not all done.
pub fn incomplete(results: &StudyResults) -> CliError {
    let missing: Vec<String> = results
        .trials
        .iter()
        .filter(|trial| trial.summary().is_none())
        .map(|trial| {
            let reason = trial.outcome.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("\n  {} {}{reason}", trial.key, trial.outcome.word())
        })
        .collect();
    CliError::NotSo(format!(
        "study {} is not complete; {} of {} trials have no result:{}",
        results.spec.name,
        missing.len(),
        results.trials.len(),
        missing.concat()
    ))
}
