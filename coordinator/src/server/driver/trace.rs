//! The spans of the driver's work: rounds that place attempts, and commits of what happens seldom. Most rounds only pass
//! measurements on and would drown the others.

use std::time::Duration;

use mtinet_domain::StudyId;
use mtinet_domain::event::Event;
use tracing::Span;

use super::Round;

/// Around the letting out of a round, in the trace of the call that brought it about: a span of its own where attempts are
/// placed, else the call's.
pub fn round(round: &Round, decided: Duration) -> Span {
    let call = round.call.clone().unwrap_or_else(Span::none);
    let is_start = |(_, event): &&(StudyId, Event)| matches!(event, Event::AttemptStarted { .. });
    let placed = round.effects.record.iter().filter(is_start).count();
    if placed == 0 {
        return call;
    }
    let decided_us = u64::try_from(decided.as_micros()).unwrap_or(u64::MAX);
    tracing::trace_span!(parent: &call, "round", placed, decided_us, commands = round.effects.send.len())
}

/// Around a commit that holds more than measurements.
pub fn commit(events: &[(StudyId, Event)]) -> Span {
    let told = events.iter().filter(|(_, event)| event.kind() != "metrics").count();
    if told == 0 {
        return Span::none();
    }
    tracing::trace_span!("commit", events = events.len(), told)
}
