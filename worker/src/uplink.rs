//! The handle through which every part of the agent reports: cheap to clone, bounded by what is unacknowledged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mtinet_domain::{AttemptId, SlotIndex};
use mtinet_proto::v1::report::Fact;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::session::{Backlog, RankKey, Session};
use crate::signs::Signs;

/// Unacknowledged bytes that no disk holds above which reporters wait: a trainer then blocks on its socket, and nothing
/// is dropped.
const LIMIT_BYTES: usize = 64 << 20;

/// The shared session.
#[derive(Clone, Debug)]
pub struct Uplink {
    session: Arc<Mutex<Session>>,
    backlog: watch::Sender<Backlog>,
    /// Not a part of the session, whose lock may wait for the disk: heartbeats never do.
    signs: Arc<Mutex<Signs>>,
    limit_bytes: usize,
}

/// Runs what may wait for a disk, or for someone who does. Where threads are few, such a wait would otherwise take the
/// last one from the heartbeats, and a slow disk would look like a lost worker.
pub fn unhurried<T>(act: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(act),
        _ => act(),
    }
}

impl Uplink {
    /// A handle to a session.
    pub fn new(session: Session) -> Self {
        Self {
            session: Arc::new(Mutex::new(session)),
            backlog: watch::Sender::new(Backlog::default()),
            signs: Arc::default(),
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
        unhurried(|| {
            let mut session = self.lock();
            let result = act(&mut session);
            let backlog = session.backlog();
            self.backlog.send_if_modified(|known| std::mem::replace(known, backlog) != backlog);
            result
        })
    }

    /// A trainer of this attempt says that it works.
    pub fn works(&self, attempt: AttemptId) {
        self.signs().works(attempt);
    }

    /// The attempts that the next heartbeat names as working.
    pub fn take_working(&self) -> Vec<AttemptId> {
        self.signs().take(Instant::now())
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

    fn signs(&self) -> MutexGuard<'_, Signs> {
        // A panic inside costs a sign of life, and the next one comes within a second.
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        // A panic inside leaves at worst a report unsent, which the next connection repeats.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use futures::FutureExt;
    use mtinet_domain::{AttemptNumber, Rank, StudyId, TrialId, WorkerId};
    use mtinet_proto::v1::RankExited;
    use tokio::runtime::Builder;

    use super::*;
    use crate::outbox::{Limits, Outbox};
    use crate::spool::Spool;

    const DEADLINE: Duration = Duration::from_secs(5);

    fn key() -> RankKey {
        let trial = TrialId { study: StudyId(1), key: "mti-net/0/0".parse().unwrap() };
        (AttemptId { trial, number: AttemptNumber(1) }, Rank(0))
    }

    #[tokio::test]
    async fn reporters_wait_while_too_much_is_unacknowledged() {
        let uplink =
            Uplink { limit_bytes: 100, ..Uplink::new(Session::new("a".into(), &[], Outbox::default())) };
        uplink.with(|session| session.on_joined(WorkerId("w".into())));
        let key = key();
        let fact = || Fact::Exited(RankExited { message: "x".repeat(200), ..Default::default() });
        uplink.report(key, fact()).await;
        let mut second = Box::pin(uplink.report(key, fact()));
        assert!((&mut second).now_or_never().is_none(), "over the limit");
        uplink.with(|session| session.on_ack(1));
        assert!((&mut second).now_or_never().is_some(), "below the limit again");
        assert_eq!(uplink.backlog().last_seq, 2);
    }

    #[test]
    fn heartbeats_go_on_while_the_disk_is_slow_and_everyone_waits_for_it() {
        const THREADS: usize = 2;
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path()).unwrap();
        let ((began, syncing), (release, held)) = (channel(), channel());
        spool.hold_syncs(began, held);
        let outbox = Outbox::new(Some(spool), Limits::default());
        let uplink = Uplink::new(Session::new("a".into(), &[], outbox));
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
        let mut reports = Vec::new();
        for _ in 0..THREADS {
            let uplink = uplink.clone();
            let fact = Fact::Exited(RankExited::default());
            reports.push(runtime.spawn(async move { uplink.report(key(), fact).await }));
        }
        syncing.recv_timeout(DEADLINE).unwrap();
        let (beat, beats) = channel();
        let signs = uplink.clone();
        runtime.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            while beat.send(signs.take_working()).is_ok() {
                ticks.tick().await;
            }
        });
        let heard = (0..20).take_while(|_| beats.recv_timeout(DEADLINE).is_ok()).count();
        let waiting = reports.iter().all(|report| !report.is_finished());
        drop(release);
        assert_eq!((heard, waiting), (20, true));
        runtime.block_on(async {
            for report in reports {
                report.await.unwrap();
            }
        });
        assert_eq!(uplink.backlog().reports, THREADS);
    }
}
