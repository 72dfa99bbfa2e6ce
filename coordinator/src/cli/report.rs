//! `mtinet report`: the files of a study's report, from a coordinator or from its data directory.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{ReportArgs, Server};
use super::client::Coordinator;
use super::error::CliError;
use super::progress::Busy;
use super::run::Embedded;
use super::{gather, output, pictures, predictions};
use crate::report::{self, TrialFiles};
use crate::server::{DATABASE, ServerOptions};

pub async fn run(args: ReportArgs) -> Result<(), CliError> {
    let write = async |coordinator: &mut Coordinator| write(coordinator, &args).await;
    with_coordinator(args.data_dir.as_deref(), &args.server, write).await
}

/// Does something with the coordinator that runs, or where `data_dir` is given with one started on that directory for
/// as long as it takes.
///
/// # Errors
/// Those of `work`; exit code 3 where no coordinator answers, 2 for a directory that is none of a coordinator.
pub async fn with_coordinator<T>(
    data_dir: Option<&Path>,
    server: &Server,
    work: impl AsyncFnOnce(&mut Coordinator) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let Some(directory) = data_dir else {
        return work(&mut Coordinator::connect(&server.url).await?).await;
    };
    super::coordinator::log_to_stderr("warn")?;
    let mut embedded = Embedded::start(ServerOptions::new(data_directory(directory)?)).await?;
    let mut coordinator = embedded.connect().await?;
    let done = work(&mut coordinator).await;
    embedded.stop().await?;
    done
}

/// A run's directory holds its coordinator's data below it.
fn data_directory(given: &Path) -> Result<PathBuf, CliError> {
    let below = given.join("coordinator");
    let directory = if below.is_dir() { below } else { given.to_owned() };
    // A server would make what is missing, and write into a directory that is something else.
    if directory.join(DATABASE).is_file() {
        Ok(directory)
    } else {
        Err(CliError::Usage(format!(
            "{} is not a coordinator's data directory or a run's directory; give the DIR of `mtinet coordinator \
             --data-dir DIR` or runs/NAME",
            given.display()
        )))
    }
}

async fn write(coordinator: &mut Coordinator, args: &ReportArgs) -> Result<(), CliError> {
    let study = coordinator.study_id(&args.study).await?;
    let mut trial_files = TrialFiles::new(&args.out);
    let mut results = gather::results_and(coordinator, study, |event| Ok(trial_files.apply(event)?)).await?;
    if let Some(directory) = &args.predictions {
        predictions::fetch(coordinator, &results, directory).await?;
    }
    if let Some(pixels) = args.healthy_min_pixels {
        results.set_healthy_minimum(pixels);
    }
    let options = report::Options { with_paper: args.with_paper };
    let pictures =
        pictures::read(coordinator, &results, args.dataset.as_deref(), args.predictions.as_deref()).await?;
    let busy = Busy::with("writing the report");
    let files = report::write(&results, options, &pictures, &args.out)?;
    let directories = trial_files.finish(&results, &pictures)?;
    drop(busy);
    if args.json {
        output::print_json(&json!({
            "study": study.0,
            "complete": results.is_complete(),
            "directory": files.directory,
            "files": files.names,
        }));
    } else {
        let files = files.names.iter().map(|name| files.directory.join(name));
        files.chain(directories).for_each(|path| output::print(path.display()));
    }
    if results.is_complete() { Ok(()) } else { Err(super::run::incomplete(&results)) }
}
