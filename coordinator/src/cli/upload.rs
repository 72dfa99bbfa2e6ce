//! A data set brought to the coordinator's store, so that workers that do not have it can fetch it.
//!
//! Only what the store lacks is sent: what broke off goes on, and data sets that share files share them there.

use std::path::Path;

use mtinet_data::{Dataset, PortableDataset};
use mtinet_domain::trial::{ArtifactRef, DatasetRef};
use mtinet_proto::v1::FindDatasetResponse;
use serde_json::json;

use super::args::{UploadArgs, UploadData};
use super::client::Coordinator;
use super::error::CliError;
use super::output::{print, print_json, say};
use super::progress::Counter;
use super::study::blocking;

/// Workers that a line names; of more it tells the number.
const NAMED: usize = 3;

/// What was brought.
struct Brought {
    hash: String,
    files: usize,
    sent: usize,
    sent_bytes: u64,
}

/// `mtinet data upload`.
///
/// # Errors
/// Exit code 4 for a data set that has changed since its import, 3 where the coordinator does not take it.
pub async fn run(args: UploadArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let directory = args.dataset.clone();
    blocking(move || {
        let counter = Counter::new("checking the data set");
        Ok(Dataset::open(&directory)?.verify_files(&|done, all| counter.set(done, all))?)
    })
    .await?;
    let Brought { hash, files, sent, sent_bytes } = bring(&mut coordinator, &args.dataset).await?;
    if args.json {
        print_json(&json!({ "dataset_hash": hash, "files": files, "sent": sent, "sent_bytes": sent_bytes }));
    } else {
        print(format_args!("the coordinator has all {files} files of data set {hash}; {sent} were sent"));
    }
    Ok(())
}

/// Brings the data set of a study that is about to be submitted, where it is wanted there. Its files were just checked.
///
/// # Errors
/// Exit code 3 where the coordinator does not take it.
pub async fn for_study(
    coordinator: &mut Coordinator,
    directory: &Path,
    dataset: &DatasetRef,
    when: UploadData,
) -> Result<(), CliError> {
    match when {
        UploadData::Never => return Ok(()),
        UploadData::Always => {}
        UploadData::Auto => {
            let Some(found) = coordinator.find_dataset(dataset).await? else { return Ok(()) };
            let (words, wanted) = judge(&found, directory);
            words.into_iter().for_each(say);
            if !wanted {
                return Ok(());
            }
        }
    }
    let brought = bring(coordinator, directory).await?;
    say(format_args!(
        "the coordinator has the data set: {} of {} files were sent, {:.1} GB",
        brought.sent,
        brought.files,
        brought.sent_bytes as f64 / 1e9
    ));
    Ok(())
}

/// Whether the data set is wanted at the coordinator, by what the workers say; and what a person is told.
fn judge(found: &FindDatasetResponse, directory: &Path) -> (Option<String>, bool) {
    let FindDatasetResponse { having, lacking, silent } = found;
    let directory = directory.display();
    if having.is_empty() && lacking.is_empty() && silent.is_empty() {
        let words = format!(
            "no worker is connected to say whether it has the data set; where workers will not have it, bring it with \
             `mtinet data upload {directory}` (or submit with --upload-data always)"
        );
        return (Some(words), false);
    }
    let without: Vec<&str> = lacking.iter().chain(silent).map(String::as_str).collect();
    if without.is_empty() {
        return (None, false);
    }
    let names = if without.len() > NAMED {
        format!("{} workers", without.len())
    } else {
        format!("worker {}", without.join(", "))
    };
    let how =
        if lacking.is_empty() { "does not say that the data set is there" } else { "lacks the data set" };
    (Some(format!("{names} {how}: bringing it to the coordinator (not with --upload-data never)")), true)
}

async fn bring(coordinator: &mut Coordinator, directory: &Path) -> Result<Brought, CliError> {
    let directory = directory.to_owned();
    let (portable, sources, document) = blocking(move || {
        let (portable, sources) = PortableDataset::of(&Dataset::open(&directory)?)?;
        let document = portable.to_json()?;
        Ok((portable, sources, document))
    })
    .await?;
    let hash = portable.hash();
    let missing = coordinator.offer_dataset(&hash, &document).await?;
    let counter = Counter::new("sending files of the data set");
    let (mut sent_bytes, all) = (0, missing.len() as u64);
    counter.set(0, all);
    for (done, file) in (1..).zip(&missing) {
        let (Some(source), Some(&bytes)) = (sources.get(file), portable.files().get(file)) else {
            return Err(super::client::makes_no_sense(&format!(
                "a wish for file {file}, which is no file of this data set"
            )));
        };
        let artifact = ArtifactRef { blake3: file.clone(), bytes };
        coordinator.put_file(source, &artifact).await?;
        sent_bytes += bytes;
        counter.set(done, all);
    }
    drop(counter);
    // Once more: from now on it is whole, or somebody should know.
    let still = coordinator.offer_dataset(&hash, &document).await?;
    if !still.is_empty() {
        let problem = format!(
            "{} files of the data set did not stay in the coordinator's store; try again",
            still.len()
        );
        return Err(CliError::Coordinator(problem));
    }
    Ok(Brought { hash, files: portable.files().len(), sent: missing.len(), sent_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(having: &[&str], lacking: &[&str], silent: &[&str]) -> (String, bool) {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let found =
            FindDatasetResponse { having: names(having), lacking: names(lacking), silent: names(silent) };
        let (words, wanted) = judge(&found, Path::new("data/liver"));
        (words.unwrap_or_default(), wanted)
    }

    #[test]
    fn a_data_set_is_brought_where_a_worker_lacks_it_and_only_there() {
        assert_eq!(judged(&["a", "b"], &[], &[]), (String::new(), false));
        let (words, wanted) = judged(&["a"], &["b"], &[]);
        assert!(
            wanted && words.contains("worker b lacks") && words.contains("--upload-data never"),
            "{words}"
        );
        let (words, wanted) = judged(&[], &["a", "b", "c", "d"], &[]);
        assert!(wanted && words.starts_with("4 workers"), "{words}");
        let (words, wanted) = judged(&["a"], &[], &["old"]);
        assert!(wanted && words.contains("worker old does not say"), "{words}");
        // Nobody knows: gigabytes are not sent on suspicion, but a person learns what to do.
        let (words, wanted) = judged(&[], &[], &[]);
        assert!(!wanted && words.contains("mtinet data upload data/liver"), "{words}");
    }
}
