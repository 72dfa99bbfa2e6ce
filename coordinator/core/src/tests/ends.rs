//! What a log must say about the ends of its attempts.

use std::collections::BTreeSet;

use mtinet_domain::WorkerId;
use mtinet_domain::event::{Event, RankLoss, Recorded};
use mtinet_domain::trial::{AttemptEnd, ProcessExit};

use super::env::{STOPPED, TestEnv};

impl TestEnv {
    /// Every attempt ended for the cause that is nearest to the root among what was recorded of it.
    pub fn check_ends(&self) {
        for Recorded { study, event, .. } in &self.log {
            if let Event::AttemptEnded { trial, attempt, end, .. } = event {
                let same = |other: &&Recorded| {
                    other.study == *study
                        && (other.event.trial(), other.event.attempt()) == (Some(*trial), Some(*attempt))
                };
                let events: Vec<&Event> = self.log.iter().filter(same).map(|other| &other.event).collect();
                check_end(end, &events);
            }
        }
    }
}

fn check_end(end: &AttemptEnd, events: &[&Event]) {
    let loser = |event: &&Event| match event {
        // One whose process does not go is given up while its worker is well.
        Event::RankLost { worker, how, .. } if *how != Some(RankLoss::Unkillable) => Some(worker.clone()),
        _ => None,
    };
    let losers: BTreeSet<WorkerId> = events.iter().filter_map(loser).collect();
    let struck = |event: &&Event| matches!(event, Event::RankExited { exit: ProcessExit::Signal(_), message, .. } if message != STOPPED);
    match end {
        AttemptEnd::Failed(cause) => {
            assert!(losers.is_empty(), "losing {losers:?} counts as a failure: {cause:?}");
            assert_ne!(cause.message, STOPPED, "what we did ourselves is no cause");
            let signal = matches!(cause.exit, ProcessExit::Signal(_));
            assert_eq!(signal, events.iter().any(struck), "the cause is another rank's: {cause:?}");
        }
        AttemptEnd::WorkerLost { worker, .. } => assert!(losers.contains(worker), "{worker} was not lost"),
        AttemptEnd::Completed
        | AttemptEnd::Cancelled
        | AttemptEnd::Paused
        | AttemptEnd::Drained { .. }
        | AttemptEnd::Widened => {}
        AttemptEnd::Unfit { .. } => assert!(losers.is_empty(), "losing {losers:?} is put down to a worker"),
    }
}
