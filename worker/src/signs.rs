//! Signs of life: which attempts' trainers say that they work, told with the heartbeats.
//!
//! An evaluation, or the preparing of a data set, may take hours in which a trainer reports nothing else. The coordinator
//! ends what is silent for too long, so it hears of them; once a minute for each attempt is enough for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mtinet_domain::AttemptId;
use tokio::time::Instant;

/// An attempt is named at most this often.
const INTERVAL: Duration = Duration::from_secs(60);

/// What the trainers said and the coordinator was told of it.
#[derive(Debug, Default)]
pub struct Signs {
    /// Said since it was told.
    fresh: BTreeSet<AttemptId>,
    /// When it was told, within the last interval.
    told: BTreeMap<AttemptId, Instant>,
}

impl Signs {
    /// A trainer of this attempt says that it works.
    pub fn works(&mut self, attempt: AttemptId) {
        self.fresh.insert(attempt);
    }

    /// Those to name now, each at most once an interval.
    pub fn take(&mut self, now: Instant) -> Vec<AttemptId> {
        self.told.retain(|_, told| now.saturating_duration_since(*told) < INTERVAL);
        let due: Vec<AttemptId> =
            self.fresh.iter().filter(|attempt| !self.told.contains_key(attempt)).copied().collect();
        for attempt in &due {
            self.fresh.remove(attempt);
            self.told.insert(*attempt, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use mtinet_domain::{AttemptNumber, StudyId, TrialId};

    use super::*;

    #[test]
    fn each_attempt_is_named_once_an_interval_for_as_long_as_it_works() {
        let trial = TrialId { study: StudyId(1), key: "mti-net/0/0".parse().unwrap() };
        let attempt = |number| AttemptId { trial, number: AttemptNumber(number) };
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut signs = Signs::default();
        let mut named = Vec::new();
        for now in 0..150 {
            // Its four ranks say so every second; another attempt works for a moment only.
            (0..4).for_each(|_| signs.works(attempt(1)));
            if now == 10 {
                signs.works(attempt(2));
            }
            named.extend(signs.take(start + second * now).into_iter().map(|named| (now, named.number.0)));
        }
        assert_eq!(named, [(0, 1), (10, 2), (60, 1), (120, 1)]);
        assert!(signs.take(start + second * 300).len() == 1, "what was said since");
        assert!(signs.take(start + second * 400).is_empty() && signs.told.is_empty());
    }
}
