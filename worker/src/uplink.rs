//! The handle through which every part of the agent reports: cheap to clone, bounded by what is unacknowledged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mtinet_domain::SlotIndex;
use mtinet_proto::v1::report::Fact;
use tokio::sync::watch;

use crate::session::{Backlog, RankKey, Session};

/// Unacknowledged bytes that no disk holds above which reporters wait: a trainer then blocks on its socket, and nothing
/// is dropped.
const LIMIT_BYTES: usize = 64 << 20;

/// The shared session.
#[derive(Clone, Debug)]
pub struct Uplink {
    session: Arc<Mutex<Session>>,
    backlog: watch::Sender<Backlog>,
    limit_bytes: usize,
}

impl Uplink {
    /// A handle to a session.
    pub fn new(session: Session) -> Self {
        Self {
            session: Arc::new(Mutex::new(session)),
            backlog: watch::Sender::new(Backlog::default()),
            limit_bytes: LIMIT_BYTES,
        }
    }

    /// Queues a fact about a rank; waits while too much is unacknowledged.
    pub async fn report(&self, key: RankKey, fact: Fact) {
        let limit = self.limit_bytes;
        // It fails only when the sender is gone, which `self` holds.
        let _ = self.backlog.subscribe().wait_for(|backlog| backlog.bytes < limit).await;
        self.with(|session| session.report(key, fact));
    }

    /// A rank is being started.
    pub fn hold(&self, key: RankKey, slot: SlotIndex) {
        self.with(|session| session.on_rank_held(key, slot));
    }

    /// Looks at or changes the session, and tells those who wait for its backlog.
    pub fn with<T>(&self, act: impl FnOnce(&mut Session) -> T) -> T {
        let mut session = self.lock();
        let result = act(&mut session);
        let backlog = session.backlog();
        self.backlog.send_if_modified(|known| std::mem::replace(known, backlog) != backlog);
        result
    }

    /// Waits for the backlog to be so.
    pub async fn wait_for(&self, condition: impl FnMut(&Backlog) -> bool) {
        // It fails only when the sender is gone, which `self` holds.
        let _ = self.backlog.subscribe().wait_for(condition).await;
    }

    /// What waits for an acknowledgement now.
    pub fn backlog(&self) -> Backlog {
        *self.backlog.borrow()
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        // A panic inside leaves at worst a report unsent, which the next connection repeats.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use mtinet_domain::{AttemptId, AttemptNumber, Rank, StudyId, TrialId, WorkerId};
    use mtinet_proto::v1::RankExited;

    use super::*;

    #[tokio::test]
    async fn reporters_wait_while_too_much_is_unacknowledged() {
        let uplink = Uplink {
            limit_bytes: 100,
            ..Uplink::new(Session::new("a".into(), &[], crate::outbox::Outbox::default()))
        };
        uplink.with(|session| session.on_joined(WorkerId("w".into())));
        let trial = TrialId { study: StudyId(1), key: "mti-net/0/0".parse().unwrap() };
        let key = (AttemptId { trial, number: AttemptNumber(1) }, Rank(0));
        let fact = || Fact::Exited(RankExited { message: "x".repeat(200), ..Default::default() });
        uplink.report(key, fact()).await;
        let mut second = Box::pin(uplink.report(key, fact()));
        assert!((&mut second).now_or_never().is_none(), "over the limit");
        uplink.with(|session| session.on_ack(1));
        assert!((&mut second).now_or_never().is_some(), "below the limit again");
        assert_eq!(uplink.backlog().last_seq, 2);
    }
}
