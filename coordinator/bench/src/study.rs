//! Studies of any size for the simulated fleet.

use std::time::Duration;

use anyhow::bail;
use mtinet_domain::{Arm, StudySpec};
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::{self, GetStudyRequest, get_study_request::Which};
use mtinet_runtime::net::Channel;

/// Folds of a study, as many as a study file allows.
const FOLDS: u32 = 100;

/// How often a study's state is asked for.
const POLL: Duration = Duration::from_millis(50);

/// A study of `trials` trials (rounded up to whole fold sets) on gangs of `ranks`.
///
/// # Errors
/// More trials than a study may have.
pub fn spec(trials: u32, ranks: u32) -> anyhow::Result<StudySpec> {
    let folds = trials.min(FOLDS);
    let seeds: Vec<String> = (0..trials.div_ceil(folds)).map(|seed| seed.to_string()).collect();
    let folds: Vec<String> = (0..folds).map(|fold| fold.to_string()).collect();
    let text = format!(
        "name = \"bench\"\ndataset = \"none\"\narms = [\"mti-net\"]\nfolds = [{}]\nseeds = [{}]\n[train]\n\
         replicas = {ranks}\n[resources]\nranks = {ranks}\n",
        folds.join(","),
        seeds.join(",")
    );
    Ok(StudySpec::from_toml(&text)?)
}

/// The paper's programme, every arm on five folds, and how many trials that is.
///
/// # Errors
/// None in practice.
pub fn programme() -> anyhow::Result<(StudySpec, u32)> {
    let arms: Vec<String> = Arm::ALL.iter().map(|arm| format!("\"{arm}\"")).collect();
    let text = format!("name = \"programme\"\ndataset = \"none\"\narms = [{}]\n", arms.join(","));
    let spec = StudySpec::from_toml(&text)?;
    let trials = u32::try_from(spec.trials().len())?;
    Ok((spec, trials))
}

/// Submits a study and returns its number.
///
/// # Errors
/// A coordinator that refuses it.
pub async fn submit(client: &mut ClientClient<Channel>, spec: &StudySpec) -> anyhow::Result<u64> {
    let request = v1::SubmitStudyRequest {
        protocol_version: PROTOCOL_VERSION,
        spec_json: spec.to_json(),
        dataset: Some(v1::Dataset {
            name: "none".into(),
            path: "/none".into(),
            hash: "none".into(),
            phases: vec!["pre".into()],
            classes: vec!["hcc".into()],
        }),
    };
    Ok(client.submit_study(request).await?.into_inner().study)
}

/// The study's summary.
///
/// # Errors
/// A coordinator that does not answer.
pub async fn summary(client: &mut ClientClient<Channel>, study: u64) -> anyhow::Result<v1::StudySummary> {
    let studies = client.list_studies(v1::ListStudiesRequest {}).await?.into_inner().studies;
    let found = studies.into_iter().find(|summary| summary.study == study);
    found.ok_or_else(|| anyhow::anyhow!("study {study} is not listed"))
}

/// Waits until so many trials of a study have this status.
///
/// # Errors
/// A study that ends otherwise, and patience that ends first.
pub async fn wait_for(
    client: &mut ClientClient<Channel>,
    study: u64,
    status: &str,
    count: u32,
    patience: Duration,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let summary = summary(client, study).await?;
        if summary.trials.get(status).copied().unwrap_or(0) >= count {
            return Ok(());
        }
        if summary.status != "running" || tokio::time::Instant::now() > deadline {
            bail!("study {study} is {} with {:?}, not {count} {status}", summary.status, summary.trials);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How many trials a study has.
///
/// # Errors
/// A coordinator that does not answer.
pub async fn trials(client: &mut ClientClient<Channel>, study: u64) -> anyhow::Result<usize> {
    let which = Some(Which::Study(study));
    Ok(client.get_study(GetStudyRequest { which }).await?.into_inner().trials.len())
}
