//! The studies that faults are tried on, how they end when they are left alone, and what events say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use mtinet_domain::TrialKey;
use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::{AttemptEnd, FailureCause};

use crate::cluster::{Cluster, Outcome};
use crate::phantom_dataset;

/// A small study. Every worker that takes part has one slot, so that all ranks compute with as many threads.
#[derive(Clone, Debug)]
pub struct Study {
    /// Its arms.
    pub arms: &'static [&'static str],
    /// Its folds.
    pub folds: &'static [u32],
    /// Ranks of each trial, each on a worker of its own.
    pub ranks: u32,
    /// Steps of each trial.
    pub steps: u64,
}

/// Steps between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 7;

impl Study {
    /// One trial on one worker.
    pub fn solo() -> Self {
        Self { arms: &["seg-only"], folds: &[2], ranks: 1, steps: 100 }
    }

    /// One trial on two workers.
    pub fn gang() -> Self {
        Self { arms: &["mti-net"], folds: &[2], ranks: 2, steps: 100 }
    }

    /// Four trials on one worker each.
    pub fn grid() -> Self {
        Self { arms: &["mti-net", "seg-only"], folds: &[0, 2], ranks: 1, steps: 120 }
    }

    /// The study file. Failures are tried again soon and often.
    pub fn file(&self) -> String {
        let Self { arms, folds, ranks, steps } = self;
        format!(
            "name = \"chaos\"\ndataset = \"{}\"\narms = {arms:?}\nfolds = {folds:?}\nseeds = [4]\n\
             [model]\npreset = \"tiny64\"\n\
             [train]\nsteps = {steps}\nbatch_size = 2\nreplicas = 2\nimage_size = 64\nlearning_rate = 1e-3\n\
             eval_every = 5\n[resources]\nranks = {ranks}\n[checkpoint]\nevery_steps = {CHECKPOINT_EVERY}\n\
             [retry]\nmax_attempts = 40\nbackoff = \"200ms\"\n",
            phantom_dataset().display()
        )
    }

    /// Its trials.
    ///
    /// # Panics
    /// Where an arm is none.
    pub fn trials(&self) -> Vec<TrialKey> {
        let name = |arm: &&str, fold: &u32| format!("{arm}/{fold}/4").parse().expect("a trial's name");
        self.arms.iter().flat_map(|arm| self.folds.iter().map(move |fold| name(arm, fold))).collect()
    }

    /// What its trials came to.
    ///
    /// # Panics
    /// Where one was not evaluated.
    pub fn outcomes(&self, events: &[Recorded]) -> BTreeMap<TrialKey, Outcome> {
        self.trials().into_iter().map(|key| (key, Outcome::of(events, key))).collect()
    }

    /// What its trials come to when nothing is done to them; found out once a process.
    ///
    /// # Panics
    /// Where that does not work.
    pub fn undisturbed(&self) -> BTreeMap<TrialKey, Outcome> {
        type Known = HashMap<String, BTreeMap<TrialKey, Outcome>>;
        static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if let Some(outcomes) = known.get(&self.file()) {
            return outcomes.clone();
        }
        let cluster = Cluster::start();
        let _workers: Vec<_> = (0..self.ranks.max(self.trials().len().min(2) as u32))
            .map(|number| cluster.worker(&format!("alone{number}"), 1, phantom_dataset()))
            .collect();
        let outcomes = self.outcomes(&cluster.wait_until_complete(cluster.submit(&self.file())));
        for (key, outcome) in &outcomes {
            assert_eq!(outcome.attempts, 1, "{key} was to be left alone");
            let steps = outcome.metrics.keys().filter(|(scope, _)| scope == "Step").count() as u64;
            assert_eq!(steps, self.steps, "every step of {key} is measured");
        }
        known.insert(self.file(), outcomes.clone());
        outcomes
    }

    /// Asserts that nothing but the number of attempts tells the study from one that was left alone, and that its log
    /// has no gap.
    ///
    /// # Panics
    /// Where a bit differs.
    pub fn assert_undisturbed(&self, events: &[Recorded]) {
        assert!(events.iter().zip(1..).all(|(recorded, seq)| recorded.seq == seq), "no gap and no double");
        let alone = self.undisturbed();
        for (key, outcome) in self.outcomes(events) {
            let alone = &alone[&key];
            assert_eq!(outcome.weights, alone.weights, "weights of {key} differ");
            assert_eq!(outcome.evaluation, alone.evaluation, "held-out results of {key} differ");
            assert_eq!(outcome.metrics, alone.metrics, "metrics of {key} differ");
        }
    }
}

/// Whether an event has a measurement of this step or a later one.
pub fn past_step(wanted: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Metrics { records, .. } if records.iter().any(|record| record.step >= wanted))
}

/// How the attempts ended, in order.
pub fn ends(events: &[Recorded]) -> Vec<&AttemptEnd> {
    let end = |recorded| match recorded {
        &Recorded { event: Event::AttemptEnded { ref end, .. }, .. } => Some(end),
        _ => None,
    };
    events.iter().filter_map(end).collect()
}

/// The failures among the attempts' ends: what counts against `retry.max_attempts`.
pub fn failures(events: &[Recorded]) -> Vec<&FailureCause> {
    fn failure(end: &AttemptEnd) -> Option<&FailureCause> {
        match end {
            AttemptEnd::Failed(cause) => Some(cause),
            _ => None,
        }
    }
    ends(events).into_iter().filter_map(failure).collect()
}

/// The checkpoint that the last attempt was to go on from.
pub fn resumed_from(events: &[Recorded]) -> Option<u64> {
    events.iter().rev().find_map(|recorded| match &recorded.event {
        Event::AttemptStarted { resume, .. } => resume.as_ref().map(|checkpoint| checkpoint.step),
        _ => None,
    })
}

/// The first step that an attempt measured.
pub fn first_step(events: &[Recorded], attempt: u32) -> Option<u64> {
    events.iter().find_map(|recorded| match &recorded.event {
        Event::Metrics { attempt: number, records, .. } if number.0 == attempt => Some(records.first()?.step),
        _ => None,
    })
}
