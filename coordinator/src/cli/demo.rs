//! `mtinet demo`: the whole system on this machine, with settings that a laptop's CPU finishes within minutes.

use std::path::Path;

use mtinet_data::PhantomOptions;
use serde::Deserialize;

use super::args::DemoArgs;
use super::data::{or_abandon, write_phantom};
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::say;
use super::prepare;
use super::run::Job;
use super::study::blocking;
use crate::report::write_atomically;

/// All of the demo's settings.
const SETTINGS: &str = include_str!("demo.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    dataset: Phantom,
    workers: Workers,
    /// The text of the study file, comments and all.
    study: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Phantom {
    subjects: usize,
    size: usize,
    slices_per_subject: usize,
    min_diameter_mm: f64,
    seed: u64,
    folds: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workers {
    count: u32,
    devices: String,
}

impl From<Phantom> for PhantomOptions {
    fn from(phantom: Phantom) -> Self {
        let Phantom { subjects, size, slices_per_subject, min_diameter_mm, seed, folds } = phantom;
        Self { subjects, size, slices_per_subject, min_diameter_mm, seed, folds, ..Self::default() }
    }
}

pub async fn run(args: DemoArgs) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    let settings = settings()?;
    let (dataset, file) = (args.out.join("dataset"), args.out.join("study.toml"));
    std::fs::create_dir_all(&args.out)
        .map_err(|error| CliError::failed(format_args!("cannot make {}", args.out.display()), &error))?;
    if dataset.join("dataset.toml").is_file() {
        say(format_args!("using the phantom in {}", dataset.display()));
    } else {
        say(format_args!("writing a phantom data set to {}", dataset.display()));
        let options = settings.dataset.clone().into();
        let to = dataset.clone();
        let writing = blocking(move || write_phantom(&to, &options));
        or_abandon(&interrupt, &dataset, writing).await?;
    }
    write_atomically(&file, study_file(&settings, &args.out).as_bytes())?;
    let prepared = interrupt.or(blocking(move || prepare::prepare(&file))).await?;
    let job = Job {
        prepared,
        again: again(&args.out),
        root: args.out,
        workers: settings.workers.count,
        devices: Some(settings.workers.devices),
        plain: args.plain,
        json: args.json,
    };
    job.execute(&interrupt).await
}

fn settings() -> Result<Settings, CliError> {
    toml::from_str(SETTINGS).map_err(|error| CliError::failed("the built-in demo is broken", &error))
}

fn study_file(settings: &Settings, out: &Path) -> String {
    let dataset = toml::Value::String(out.join("dataset").to_string_lossy().into_owned());
    settings.study.replace("@DATASET@", &dataset.to_string())
}

fn again(out: &Path) -> String {
    format!("mtinet demo --out {}", out.display())
}

#[cfg(test)]
mod tests {
    use mtinet_domain::spec::Ranks;
    use mtinet_domain::{Arm, StudySpec};

    use super::*;

    #[test]
    fn the_demo_shows_folds_arms_and_data_parallel_ranks() {
        let settings = settings().unwrap();
        let text = study_file(&settings, Path::new("runs/demo"));
        let spec = StudySpec::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(spec.dataset, "runs/demo/dataset");
        assert_eq!(spec.arms, [Arm::MtiNet, Arm::Unet]);
        assert_eq!(spec.folds.indices().len(), 5);
        assert_eq!(spec.folds.indices().len(), settings.dataset.folds);
        assert_eq!((spec.train.replicas, spec.resources.ranks), (2, Ranks::Fixed(2)));
        assert_eq!(spec.train.image_size as usize, settings.dataset.size);
        assert_eq!((settings.workers.count, settings.workers.devices.as_str()), (2, "cpu:1"));
        PhantomOptions::from(settings.dataset).validate().unwrap();
    }
}
