//! What one identity may use at once, so that a stolen or mistaken one keeps nobody else out.
//!
//! The limits are far above what a fleet needs whose agents all share one identity, as those do whose work directory is on
//! a shared file system.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio_stream::Stream;
use tonic::Status;

use super::Caller;

/// Identities whose rate is remembered before those that have been quiet are forgotten.
const REMEMBERED: usize = 4096;

/// What one identity may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Agents that join at once, and then each second.
    pub joins: (NonZeroU32, NonZeroU32),
    /// Sessions of agents that are open.
    pub sessions: u32,
    /// Slots of all these.
    pub slots: u32,
    /// Event streams and logs that are followed.
    pub followed: u32,
}

impl Default for Limits {
    fn default() -> Self {
        const BURST: NonZeroU32 = NonZeroU32::new(2000).expect("is not zero");
        const A_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("is not zero");
        Self { joins: (BURST, A_SECOND), sessions: 2048, slots: 32_768, followed: 512 }
    }
}

/// Counts what each identity uses.
pub struct Quotas {
    limits: Limits,
    joins: DefaultKeyedRateLimiter<String>,
    sessions: Arc<Uses>,
    slots: Arc<Uses>,
    followed: Arc<Uses>,
}

impl Quotas {
    /// Nobody uses anything yet.
    pub fn new(limits: Limits) -> Self {
        let (burst, a_second) = limits.joins;
        let joins = RateLimiter::keyed(Quota::per_second(a_second).allow_burst(burst));
        Self { limits, joins, sessions: Arc::default(), slots: Arc::default(), followed: Arc::default() }
    }

    /// Whether one more agent of the caller may join now.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` in words.
    pub fn join(&self, caller: &Caller) -> Result<(), Status> {
        if self.joins.len() > REMEMBERED {
            self.joins.retain_recent();
        }
        self.joins.check_key(&name(caller)).map_err(|_| {
            Status::resource_exhausted(format!("too many agents of {caller} join at once; try again soon"))
        })
    }

    /// One more session of an agent with so many slots, for as long as the shares are held.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` in words.
    pub fn session(&self, caller: &Caller, slots: u32) -> Result<[Share; 2], Status> {
        Ok([
            self.take(&self.sessions, caller, 1, self.limits.sessions, "sessions of agents")?,
            self.take(&self.slots, caller, slots, self.limits.slots, "slots of agents")?,
        ])
    }

    /// One more stream that is followed, for as long as the share is held.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` in words.
    pub fn follow(&self, caller: &Caller) -> Result<Share, Status> {
        self.take(&self.followed, caller, 1, self.limits.followed, "event streams and logs that are followed")
    }

    fn take(
        &self,
        uses: &Arc<Uses>,
        caller: &Caller,
        amount: u32,
        most: u32,
        what: &str,
    ) -> Result<Share, Status> {
        uses.take(name(caller), amount, most).ok_or_else(|| {
            tracing::warn!(target: "audit", by = %caller, most, "refused: too many {what}");
            Status::resource_exhausted(format!("{caller} has too many {what}: {most} at most"))
        })
    }
}

/// Whose use it is: an identity's, or without TLS an address's.
fn name(caller: &Caller) -> String {
    match (&caller.subject, caller.address) {
        (Some(subject), _) => subject.id.clone(),
        (None, Some(address)) => address.ip().to_string(),
        (None, None) => String::new(),
    }
}

#[derive(Debug, Default)]
struct Uses(Mutex<HashMap<String, u32>>);

impl Uses {
    fn take(self: &Arc<Self>, who: String, amount: u32, most: u32) -> Option<Share> {
        let mut uses = self.lock();
        let used = uses.get(&who).copied().unwrap_or_default().checked_add(amount)?;
        if used > most {
            return None;
        }
        uses.insert(who.clone(), used);
        Some(Share { uses: Arc::clone(self), who, amount })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        // The map is whole at every panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that counts as used until this is dropped.
#[derive(Debug)]
pub struct Share {
    uses: Arc<Uses>,
    who: String,
    amount: u32,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut uses = self.uses.lock();
        if let Some(used) = uses.get_mut(&self.who) {
            *used = used.saturating_sub(self.amount);
            if *used == 0 {
                uses.remove(&self.who);
            }
        }
    }
}

/// A stream that counts as followed until it is dropped, which is when its client hangs up.
#[derive(Debug)]
pub struct Followed<S> {
    stream: S,
    _share: Option<Share>,
}

impl<S> Followed<S> {
    /// With the share that it uses, where it is followed at all.
    pub fn new(stream: S, share: Option<Share>) -> Self {
        Self { stream, _share: share }
    }
}

impl<S: Stream + Unpin> Stream for Followed<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.stream).poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use mtinet_runtime::tls::{Role, Subject};
    use tonic::Code;

    use super::*;

    fn caller(id: &str) -> Caller {
        Caller { subject: Some(Subject::new(Role::Worker, id.into(), "host")), address: None }
    }

    #[test]
    fn one_identity_uses_its_share_and_leaves_others_theirs() {
        let quotas = Quotas::new(Limits { sessions: 2, slots: 10, followed: 1, ..Limits::default() });
        let (ada, bob) = (caller("ada"), caller("bob"));
        let first = quotas.session(&ada, 8).unwrap();
        let refused = quotas.session(&ada, 3).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("slots of agents: 10 at most"), "{refused}");
        // What was refused uses nothing.
        let second = quotas.session(&ada, 2).unwrap();
        assert!(quotas.session(&ada, 0).unwrap_err().message().contains("sessions of agents: 2 at most"));
        let other = quotas.session(&bob, 10).unwrap();
        drop(first);
        let third = quotas.session(&ada, 8).unwrap();
        drop((second, third, other));
        assert!(quotas.sessions.lock().is_empty() && quotas.slots.lock().is_empty(), "nobody is remembered");
        let share = quotas.follow(&ada).unwrap();
        assert_eq!(quotas.follow(&ada).unwrap_err().code(), Code::ResourceExhausted);
        drop(Followed::new(tokio_stream::empty::<()>(), Some(share)));
        quotas.follow(&ada).unwrap();
    }

    #[test]
    fn agents_of_one_identity_join_at_a_rate() {
        let few = NonZeroU32::new(3).unwrap();
        let slowly = NonZeroU32::new(1).unwrap();
        let quotas = Quotas::new(Limits { joins: (few, slowly), ..Limits::default() });
        let joined = (0..100).take_while(|_| quotas.join(&caller("ada")).is_ok()).count();
        assert!((3..100).contains(&joined), "{joined}");
        assert_eq!(quotas.join(&caller("ada")).unwrap_err().code(), Code::ResourceExhausted);
        quotas.join(&caller("bob")).unwrap();
    }
}
