//! What follows a failure: another attempt after a pause, or giving up.

use mtinet_domain::spec::Retry;
use mtinet_domain::trial::{AttemptEnd, FailureCause, ProcessExit};

use crate::trial::Trial;

/// What follows a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another attempt, not before this time.
    Retry { at_ms: u64 },
    /// No further attempt.
    GiveUp { reason: String },
}

/// Longest pause between two attempts.
pub(crate) const MAX_PAUSE_MS: u64 = 3_600_000;

/// What follows this failure, if it counts.
pub(crate) fn verdict(trial: &Trial, retry: &Retry, cause: &FailureCause, now_ms: u64) -> Verdict {
    if trial.last_failure.as_ref().is_some_and(|last| repeats(last, cause)) {
        let place =
            cause.step.map_or_else(|| "before the first step".to_owned(), |step| format!("at step {step}"));
        return Verdict::GiveUp {
            reason: format!("failed twice in the same way {place}: {}", describe(cause)),
        };
    }
    let failures = trial.failures + 1;
    if failures >= retry.max_attempts {
        return Verdict::GiveUp {
            reason: format!("failed {failures} times (retry.max_attempts); the last: {}", describe(cause)),
        };
    }
    let pause = retry.backoff.0 * 1000.0 * f64::from(failures - 1).exp2();
    Verdict::Retry { at_ms: now_ms + pause.min(MAX_PAUSE_MS as f64) as u64 }
}

/// Whether trying once more is pointless. Only an exit of the trainer's own making counts: a signal comes from
/// outside, and what could not be started here may start elsewhere. Of a hang, the exit and its words are those of a rank
/// that waited: nobody knows what the one did that it waited for.
fn repeats(last: &FailureCause, cause: &FailureCause) -> bool {
    matches!(cause.exit, ProcessExit::Code(_))
        && cause.hang.is_none()
        && (last.exit, last.step, &last.message) == (cause.exit, cause.step, &cause.message)
}

/// A failure in words.
pub(crate) fn describe(cause: &FailureCause) -> String {
    let rank = cause.rank.map_or_else(String::new, |rank| format!("rank {rank}: "));
    if cause.message.is_empty() {
        format!("{rank}{}", cause.exit)
    } else {
        format!("{rank}{} ({})", cause.message, cause.exit)
    }
}

/// Why an attempt is being ended, in words.
pub(crate) fn describe_end(end: &AttemptEnd) -> String {
    match end {
        AttemptEnd::Completed => "finished".to_owned(),
        AttemptEnd::Failed(cause) => format!("failed: {}", describe(cause)),
        AttemptEnd::WorkerLost { worker, reason } => format!("worker {worker} is lost: {reason}"),
        AttemptEnd::Cancelled => "it is cancelled".to_owned(),
        AttemptEnd::Paused => "it is paused".to_owned(),
        AttemptEnd::Drained { worker } => format!("worker {worker} is being drained"),
        AttemptEnd::Unfit { worker, cause } => format!("failed on worker {worker}: {}", describe(cause)),
        AttemptEnd::Widened => "goes on with more ranks".to_owned(),
    }
}
