//! The agent's side of the session with the coordinator as a pure state machine: who the agent is, which ranks it
//! holds, what is still to be said.
//!
//! It has no IO, clock or task. Its driver ([`crate::link`]) opens connections, sends what [`Session::hello`] and
//! [`Session::take_unsent`] give, and tells what arrives.

use std::collections::BTreeMap;

use mtinet_domain::trial::Device;
use mtinet_domain::{AttemptId, Rank, SlotIndex, WorkerId};
use mtinet_proto::v1::{Hello, RankExited, Report, RunningRank, rank_exited, report::Fact};
use mtinet_proto::{PROTOCOL_VERSION, v1};
use mtinet_runtime::convert::{FromProto, ToProto};

use crate::outbox::Outbox;
use crate::spool::Leftover;

/// One rank of one attempt.
pub type RankKey = (AttemptId, Rank);

/// The agent's memory of its session, over all connections.
#[derive(Debug)]
pub struct Session {
    name: String,
    slots: Vec<v1::Slot>,
    worker: Option<WorkerId>,
    outbox: Outbox,
    ranks: BTreeMap<RankKey, Held>,
    connection: Connection,
    leaving: bool,
    /// It speaks for an agent that is no more: nothing is to be started on its slots.
    is_heir: bool,
}

/// A rank that the coordinator must know of.
#[derive(Debug)]
struct Held {
    slot: SlotIndex,
    /// The report of its end, once there is one: the rank is mentioned until that is acknowledged.
    exit: Option<u64>,
}

/// What is known of the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    /// None, or the coordinator has not said Welcome on it.
    Unwelcome,
    /// Reports up to here went out on it.
    Welcome { sent: u64 },
}

impl Session {
    /// An agent that has not joined yet.
    pub fn new(name: String, devices: &[Device], outbox: Outbox) -> Self {
        let slot = |(index, device): (u32, &Device)| (SlotIndex(index), *device).to_proto();
        Self {
            name,
            slots: (0..).zip(devices).map(slot).collect(),
            worker: None,
            outbox,
            ranks: BTreeMap::new(),
            connection: Connection::Unwelcome,
            leaving: false,
            is_heir: false,
        }
    }

    /// Speaks for an agent that is no more. Its ranks ended with it: they are mentioned as over while there is
    /// something to say about them, and not at all afterwards.
    pub fn inherit(leftover: Leftover) -> Self {
        let Hello { worker_id, name, slots, running, .. } = leftover.hello.clone();
        let last = leftover.reports.last().map_or(0, |told| told.seq);
        let over = |rank: RunningRank| {
            let of = (rank.attempt?, rank.rank);
            let exit =
                leftover.reports.iter().find(|told| told.end_of.as_ref() == Some(&of)).map(|told| told.seq);
            let attempt = AttemptId::from_proto(of.0).ok()?;
            // Without a report of its end it is mentioned until all is said, so that all of it counts.
            let exit = Some(exit.unwrap_or(last)).filter(|_| last > 0)?;
            Some(((attempt, Rank(rank.rank)), Held { slot: SlotIndex(rank.slot), exit: Some(exit) }))
        };
        let ranks = running.into_iter().filter_map(over).collect();
        Self {
            name,
            slots,
            worker: Some(WorkerId(worker_id)),
            outbox: Outbox::inherit(leftover),
            ranks,
            connection: Connection::Unwelcome,
            leaving: false,
            is_heir: true,
        }
    }

    /// Who the coordinator takes this agent for; none before it joined.
    pub fn worker(&self) -> Option<&WorkerId> {
        self.worker.as_ref()
    }

    /// The coordinator gave the agent its identity.
    pub fn on_joined(&mut self, worker: WorkerId) {
        self.worker = Some(worker);
        self.note();
    }

    /// The coordinator does not know this identity any more: the agent joins again and keeps its ranks and reports.
    pub fn on_forgotten(&mut self) {
        self.worker = None;
        self.connection = Connection::Unwelcome;
    }

    /// The first message of a new connection; none before the agent joined.
    pub fn hello(&mut self) -> Option<Hello> {
        self.connection = Connection::Unwelcome;
        self.introduction()
    }

    fn introduction(&self) -> Option<Hello> {
        let running = |((attempt, rank), held): (&RankKey, &Held)| RunningRank {
            attempt: Some(attempt.to_proto()),
            rank: rank.0,
            slot: held.slot.0,
            exited: held.exit.is_some(),
        };
        let held = |slot: &&v1::Slot| self.ranks.values().any(|held| held.slot.0 == slot.index);
        Some(Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_id: self.worker.as_ref()?.to_proto(),
            name: self.name.clone(),
            slots: self.slots.iter().filter(|slot| !self.is_heir || held(slot)).copied().collect(),
            running: self.ranks.iter().map(running).collect(),
        })
    }

    /// Has the spool know who speaks, and which ranks it holds.
    fn note(&mut self) {
        if let Some(hello) = self.introduction() {
            self.outbox.note(hello);
        }
    }

    /// The coordinator has everything up to `last_seq` and waits for the rest.
    pub fn on_welcome(&mut self, last_seq: u64) {
        self.on_ack(last_seq);
        self.connection = Connection::Welcome { sent: last_seq };
    }

    /// The coordinator recorded everything up to `seq`.
    pub fn on_ack(&mut self, seq: u64) {
        self.outbox.acknowledge(seq);
        self.ranks.retain(|_, held| held.exit.is_none_or(|exit| exit > seq));
        if self.outbox.is_stale()
            && let Some(hello) = self.introduction()
        {
            self.outbox.restart(hello);
        }
    }

    /// The connection is gone; what was sent on it and not acknowledged goes out again on the next.
    pub fn on_disconnected(&mut self) {
        self.connection = Connection::Unwelcome;
    }

    /// Up to `max` reports that this connection has not carried yet, in order. Empty until the welcome.
    pub fn take_unsent(&mut self, max: usize) -> Vec<Report> {
        let Connection::Welcome { sent } = self.connection else { return Vec::new() };
        let reports = self.outbox.after(sent, max);
        for seq in self.outbox.take_lost() {
            self.on_lost(seq);
        }
        if let Some(last) = reports.last() {
            self.connection = Connection::Welcome { sent: last.seq };
        }
        reports
    }

    /// Whether there is something that this connection has not carried: after an empty [`Session::take_unsent`], something
    /// that could not be read.
    pub fn has_unsent(&self) -> bool {
        matches!(self.connection, Connection::Welcome { sent } if self.outbox.has_after(sent))
    }

    /// A report is gone. Where it was a rank's end, the rank still has one.
    fn on_lost(&mut self, seq: u64) {
        let Some((&key, _)) = self.ranks.iter().find(|(_, held)| held.exit == Some(seq)) else { return };
        if self.is_heir {
            // Its ranks are given back in any case.
            self.ranks.remove(&key);
        } else {
            let message = "the report of its end was lost on the worker's disk".to_owned();
            let how = Some(rank_exited::How::Code(-1));
            self.report(key, Fact::Exited(RankExited { how, message, ..RankExited::default() }));
        }
    }

    /// A rank is being started in this slot.
    pub fn on_rank_held(&mut self, key: RankKey, slot: SlotIndex) {
        self.ranks.insert(key, Held { slot, exit: None });
        self.note();
    }

    /// Queues a fact about a rank. Once the agent leaves, ends of ranks are not told any more: the coordinator is to
    /// see a worker that left, not trainers that failed.
    pub fn report(&mut self, key: RankKey, fact: Fact) {
        let exited = matches!(fact, Fact::Exited(_));
        if exited && self.leaving {
            return;
        }
        if self.outbox.is_too_large()
            && let Some(hello) = self.introduction()
        {
            self.outbox.thin(&hello);
        }
        let (attempt, rank) = key;
        let seq = self.outbox.push(attempt.to_proto(), rank.0, fact);
        if exited && let Some(held) = self.ranks.get_mut(&key) {
            held.exit = Some(seq);
        }
    }

    /// Everything is said that was to be said: the spool goes.
    pub fn close(&mut self) {
        self.outbox.close();
    }

    /// From now on the ends of ranks are the agent's doing.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// What waits for an acknowledgement.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            reports: self.outbox.len(),
            bytes: self.outbox.bytes(),
            spool_bytes: self.outbox.spool_bytes(),
            last_seq: self.outbox.last_seq(),
            welcome: self.connection != Connection::Unwelcome,
        }
    }
}

/// What waits for an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Reports.
    pub reports: usize,
    /// Encoded size of those that are in memory only.
    pub bytes: usize,
    /// Size of the spool, which shrinks only now and then.
    pub spool_bytes: u64,
    /// The number given last.
    pub last_seq: u64,
    /// Whether the present connection carries reports.
    pub welcome: bool,
}

/// The message that carries a report.
pub fn report_message(report: Report) -> v1::WorkerMessage {
    v1::WorkerMessage { message: Some(v1::worker_message::Message::Report(report)) }
}

#[cfg(test)]
mod tests {
    use mtinet_domain::{AttemptNumber, StudyId, TrialId};
    use mtinet_proto::v1::RankStarted;

    use super::*;
    use crate::outbox::Limits;
    use crate::spool::{Spool, leftovers};

    fn key(rank: u32) -> RankKey {
        let trial = TrialId { study: StudyId(1), key: "mti-net/0/0".parse().unwrap() };
        (AttemptId { trial, number: AttemptNumber(1) }, Rank(rank))
    }

    fn started(pid: u32) -> Fact {
        Fact::Started(RankStarted { pid })
    }

    fn exited() -> Fact {
        Fact::Exited(RankExited::default())
    }

    fn joined() -> Session {
        let mut session = Session::new("a".into(), &[Device::Cpu, Device::Cuda(0)], Outbox::default());
        session.on_joined(WorkerId("w1".into()));
        session
    }

    fn seqs(reports: &[Report]) -> Vec<u64> {
        reports.iter().map(|report| report.seq).collect()
    }

    #[test]
    fn the_hello_names_slots_and_ranks() {
        let mut session = Session::new("a".into(), &[Device::Cpu], Outbox::default());
        assert!(session.hello().is_none(), "nobody before the join");
        let mut session = joined();
        session.on_rank_held(key(1), SlotIndex(1));
        let hello = session.hello().unwrap();
        assert_eq!((hello.worker_id.as_str(), hello.protocol_version), ("w1", PROTOCOL_VERSION));
        assert_eq!(hello.slots.iter().map(|slot| slot.index).collect::<Vec<_>>(), [0, 1]);
        let running = &hello.running[0];
        assert_eq!((running.rank, running.slot, running.exited), (1, 1, false));
    }

    #[test]
    fn a_rank_is_mentioned_until_its_end_is_acknowledged() {
        let mut session = joined();
        session.on_rank_held(key(0), SlotIndex(0));
        session.report(key(0), started(7));
        session.report(key(0), exited());
        session.hello();
        session.on_welcome(0);
        session.on_ack(1);
        let running = session.hello().unwrap().running;
        assert!(running.len() == 1 && running[0].exited, "its end is yet to be recorded");
        session.on_welcome(2);
        assert!(session.hello().unwrap().running.is_empty());
        assert_eq!(session.backlog().reports, 0);
    }

    #[test]
    fn nothing_goes_out_before_the_welcome() {
        let mut session = joined();
        session.report(key(0), started(1));
        assert!(session.take_unsent(9).is_empty());
        session.hello();
        assert!(session.take_unsent(9).is_empty());
        session.on_welcome(0);
        assert_eq!(seqs(&session.take_unsent(9)), [1]);
    }

    #[test]
    fn each_connection_carries_each_unrecorded_report_once() {
        let mut session = joined();
        for pid in 1..=4 {
            session.report(key(0), started(pid));
        }
        session.hello();
        session.on_welcome(0);
        assert_eq!(seqs(&session.take_unsent(2)), [1, 2]);
        assert_eq!(seqs(&session.take_unsent(2)), [3, 4]);
        assert!(session.take_unsent(2).is_empty());
        session.on_ack(1);
        session.on_disconnected();
        session.report(key(0), started(5));
        assert!(session.take_unsent(9).is_empty());
        // 2 was recorded, but its acknowledgement was lost with the connection.
        session.hello();
        session.on_welcome(2);
        assert_eq!(seqs(&session.take_unsent(9)), [3, 4, 5]);
        session.report(key(0), started(6));
        assert_eq!(seqs(&session.take_unsent(9)), [6]);
    }

    #[test]
    fn a_forgotten_agent_keeps_what_it_has_to_say() {
        let mut session = joined();
        session.on_rank_held(key(0), SlotIndex(0));
        session.report(key(0), started(1));
        session.on_forgotten();
        assert!(session.hello().is_none());
        session.on_joined(WorkerId("w2".into()));
        let hello = session.hello().unwrap();
        assert_eq!((hello.worker_id.as_str(), hello.running.len()), ("w2", 1));
        session.on_welcome(0);
        assert_eq!(seqs(&session.take_unsent(9)), [1]);
    }

    #[test]
    fn what_cannot_be_read_silences_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { memory_bytes: 0, ..Limits::default() };
        let outbox = Outbox::new(Some(Spool::create(dir.path()).unwrap()), limits);
        let mut session = Session::new("a".into(), &[Device::Cpu], outbox);
        session.on_joined(WorkerId("w1".into()));
        session.on_rank_held(key(0), SlotIndex(0));
        session.report(key(0), started(1));
        session.report(key(0), exited());
        session.report(key(1), started(2));
        session.outbox.damage(2);
        session.hello();
        session.on_welcome(0);
        assert_eq!(seqs(&session.take_unsent(9)), [1]);
        let mut tries = 0;
        let rest = loop {
            let reports = session.take_unsent(9);
            if !reports.is_empty() {
                break reports;
            }
            assert!(session.has_unsent() && tries < 10, "it may be read the next time");
            tries += 1;
        };
        assert!(tries > 2, "the disk had its chances");
        assert_eq!(seqs(&rest), [3, 4]);
        let end = &rest[1].fact;
        assert!(matches!(end, Some(Fact::Exited(exit)) if exit.message.contains("lost")), "{end:?}");
        assert!(!session.has_unsent());
        session.on_ack(4);
        assert!(session.hello().unwrap().running.is_empty() && session.backlog().reports == 0);
    }

    #[test]
    fn an_heir_says_what_is_left_and_lends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::new(Some(Spool::create(dir.path()).unwrap()), Limits::default());
        let mut session = Session::new("a".into(), &[Device::Cpu, Device::Cpu, Device::Cpu], outbox);
        session.on_joined(WorkerId("w1".into()));
        for slot in 0..3 {
            session.on_rank_held(key(slot), SlotIndex(slot));
            session.report(key(slot), started(slot));
        }
        session.report(key(0), exited());
        session.hello();
        session.on_welcome(1);
        drop(session);
        let mut heir = Session::inherit(leftovers(dir.path()).remove(0));
        let hello = heir.hello().unwrap();
        assert_eq!((hello.worker_id.as_str(), hello.slots.len()), ("w1", 3));
        assert!(hello.running.iter().all(|rank| rank.exited) && hello.running.len() == 3);
        // The spool does not know what was acknowledged; the coordinator does.
        heir.on_welcome(1);
        assert_eq!(seqs(&heir.take_unsent(9)), [2, 3, 4]);
        heir.on_ack(4);
        let hello = heir.hello().unwrap();
        assert!(hello.slots.is_empty() && hello.running.is_empty(), "what has no end is lost now");
        heir.close();
        assert!(leftovers(dir.path()).is_empty());
    }

    #[test]
    fn a_leaving_agent_tells_no_ends() {
        let mut session = joined();
        session.on_rank_held(key(0), SlotIndex(0));
        session.leave();
        session.report(key(0), exited());
        session.report(key(0), started(1));
        session.hello();
        session.on_welcome(0);
        assert_eq!(session.take_unsent(9).len(), 1);
        assert_eq!(session.backlog().bytes, session.outbox.bytes());
    }
}
