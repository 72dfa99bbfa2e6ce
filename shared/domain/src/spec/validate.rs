//! Rules that a study file's values must keep, beyond their types.

use std::collections::HashSet;

use super::error::Problem;
use super::{Folds, InitialFile, Ranks, Select, StudySpec, TrainConfig};

/// Trials of a study at most: what a coordinator schedules without being slow or large (`make bench-coordinator`).
const MAX_TRIALS: usize = 200_000;

/// Seeds of a study at most: every trial is sent the whole spec.
const MAX_SEEDS: usize = 10_000;

pub(super) fn validate(spec: &StudySpec) -> Result<(), Problem> {
    names(spec)?;
    programme(spec)?;
    train(&spec.train)?;
    resources(spec)?;
    initial(spec)?;
    for &arm in &spec.arms {
        spec.model
            .validate(arm, spec.train.image_size as usize)
            .map_err(|error| Problem { key: "model", message: format!("{arm}: {error}") })?;
    }
    Ok(())
}

fn names(spec: &StudySpec) -> Result<(), Problem> {
    let length = spec.name.chars().count();
    ensure((1..=100).contains(&length), "name", || "must have 1 to 100 characters".into())?;
    ensure(!spec.name.chars().any(char::is_control), "name", || {
        "must not contain control characters".into()
    })?;
    ensure(!spec.dataset.is_empty(), "dataset", || "must name the data set's directory".into())
}

fn programme(spec: &StudySpec) -> Result<(), Problem> {
    ensure(!spec.arms.is_empty(), "arms", || "must name at least one arm".into())?;
    unique(&spec.arms, "arms")?;
    match &spec.folds {
        Folds::Count(count) => {
            ensure((2..=100).contains(count), "folds", || {
                format!("must be 2 to 100 folds, or a list; got {count}")
            })?;
        }
        Folds::List(list) => {
            ensure(!list.is_empty(), "folds", || "must name at least one fold".into())?;
            unique(list, "folds")?;
        }
    }
    ensure(!spec.seeds.is_empty(), "seeds", || "must name at least one seed".into())?;
    // TOML integers, and the generators of libtorch, are signed.
    ensure(spec.seeds.iter().all(|&seed| seed <= i64::MAX as u64), "seeds", || "must fit in 63 bits".into())?;
    let seeds = spec.seeds.len();
    ensure(seeds <= MAX_SEEDS, "seeds", || {
        format!("must be at most {MAX_SEEDS} seeds, got {seeds}; submit several studies")
    })?;
    unique(&spec.seeds, "seeds")?;
    let folds = match &spec.folds {
        Folds::Count(count) => *count as usize,
        Folds::List(list) => list.len(),
    };
    let trials = spec.arms.len().saturating_mul(folds).saturating_mul(seeds);
    ensure(trials <= MAX_TRIALS, "seeds", || {
        format!(
            "{} arms x {folds} folds x {seeds} seeds are {trials} trials; a study has at most {MAX_TRIALS}: submit \
             several studies",
            spec.arms.len()
        )
    })
}

fn train(train: &TrainConfig) -> Result<(), Problem> {
    let steps_or_epochs = || "give either epochs or steps, not both".to_owned();
    ensure(train.epochs.is_none() || train.steps.is_none(), "train.steps", steps_or_epochs)?;
    ensure(train.epochs != Some(0), "train.epochs", || "must be at least 1".into())?;
    ensure(train.steps != Some(0), "train.steps", || "must be at least 1".into())?;
    range(train.batch_size, 1, 4096, "train.batch_size")?;
    range(train.replicas, 1, 1024, "train.replicas")?;
    range(train.image_size, 32, 1024, "train.image_size")?;
    positive(train.learning_rate, 10.0, "train.learning_rate")?;
    range(train.d_steps, 1, 100, "train.d_steps")?;
    ensure(train.select == Select::Last, "train.select", || {
        "must be \"last\": choosing an epoch needs slices that are neither trained on nor reported, and a study's folds \
         have none to spare"
            .into()
    })?;
    if let Some(rate) = train.discriminator_learning_rate {
        positive(rate, 10.0, "train.discriminator_learning_rate")?;
    }
    if let Some(norm) = train.grad_clip {
        positive(norm, 1e9, "train.grad_clip")?;
    }
    let loss = &train.loss;
    for (weight, key) in [
        (loss.seg, "train.loss.seg"),
        (loss.reg, "train.loss.reg"),
        (loss.cls, "train.loss.cls"),
        (loss.tim, "train.loss.tim"),
        (loss.adv, "train.loss.adv"),
        (loss.dice, "train.loss.dice"),
    ] {
        ensure((0.0..=1e6).contains(&weight), key, || format!("must be 0 or more; got {weight}"))?;
    }
    Ok(())
}

fn resources(spec: &StudySpec) -> Result<(), Problem> {
    if let Ranks::Fixed(ranks) = spec.resources.ranks {
        let replicas = spec.train.replicas;
        ensure(ranks >= 1 && replicas.is_multiple_of(ranks), "resources.ranks", || {
            format!("must divide train.replicas ({replicas}); got {ranks}")
        })?;
    }
    range(spec.retry.max_attempts, 1, 1000, "retry.max_attempts")?;
    ensure(spec.checkpoint.every_steps != Some(0), "checkpoint.every_steps", || "must be at least 1".into())?;
    let healthy = spec.preprocess.healthy_fraction;
    ensure((0.0..=1.0).contains(&healthy), "preprocess.healthy_fraction", || {
        format!("must be from 0 to 1; got {healthy}")
    })?;
    if let Some(spacing) = spec.preprocess.spacing {
        positive(spacing, 100.0, "preprocess.spacing")?;
    }
    Ok(())
}

fn initial(spec: &StudySpec) -> Result<(), Problem> {
    for (arm, file) in &spec.init {
        ensure(spec.arms.contains(arm), "init", || {
            format!("names weights for {arm}, which is not among the arms")
        })?;
        ensure(!file.path().is_empty(), "init", || format!("{arm}: must be the path of a safetensors file"))?;
        // The hash becomes a file's name.
        if let InitialFile::Pinned(pinned) = file {
            let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            ensure(pinned.blake3.len() == 64 && digits(&pinned.blake3), "init", || {
                format!("{arm}: blake3 must be 64 hexadecimal digits")
            })?;
        }
    }
    Ok(())
}

fn ensure(holds: bool, key: &'static str, message: impl FnOnce() -> String) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(Problem { key, message: message() }) }
}

fn range(value: u32, low: u32, high: u32, key: &'static str) -> Result<(), Problem> {
    ensure((low..=high).contains(&value), key, || format!("must be from {low} to {high}; got {value}"))
}

fn positive(value: f64, most: f64, key: &'static str) -> Result<(), Problem> {
    ensure(value > 0.0 && value <= most, key, || format!("must be above 0 and at most {most}; got {value}"))
}

fn unique<T: std::hash::Hash + Eq + std::fmt::Display>(
    items: &[T],
    key: &'static str,
) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    match items.iter().find(|item| !seen.insert(*item)) {
        Some(twice) => Err(Problem { key, message: format!("names {twice} twice") }),
        None => Ok(()),
    }
}
