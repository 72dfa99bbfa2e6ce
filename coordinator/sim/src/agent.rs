//! An agent as `mtinet-worker` is one: what it holds, what it has still to say, what it lists in Hello.
//!
//! Kept in step with `worker/src/{session,outbox,agent,rank}.rs`; that each connection carries each unrecorded report
//! once, that a rank is mentioned until its end is acknowledged, and that a slot is free before its rank's end is told
//! are theirs.

use std::collections::{BTreeMap, VecDeque};

use mtinet_core::{Fact, Hello, Report, RunningRank, Slot};
use mtinet_domain::trial::ProcessExit;
use mtinet_domain::{AttemptId, Rank, SlotIndex, WorkerId};

/// One rank of one attempt.
pub type Key = (AttemptId, Rank);

/// A machine's agent.
#[derive(Debug)]
pub struct Agent {
    /// Its identity.
    pub id: WorkerId,
    /// Which machine it is on.
    pub machine: usize,
    /// Its devices.
    pub slots: Vec<Slot>,
    /// The process lives.
    pub alive: bool,
    /// It, but not its trainers, stands still until then.
    pub frozen_until: u64,
    /// Whatever starts here fails.
    pub bad: bool,
    /// The connection as it sees it.
    pub session: Option<u64>,
    /// Since when the connection carries reports.
    pub welcomed_at: Option<u64>,
    /// Reports up to here went out on the connection.
    sent: u64,
    outbox: VecDeque<Report>,
    last_seq: u64,
    /// Every report ever, for repeating one.
    pub history: Vec<Report>,
    /// Ranks that the coordinator must know of, with the report of their end.
    ranks: BTreeMap<Key, (SlotIndex, Option<u64>)>,
    /// Processes that live or are being prepared.
    pub processes: BTreeMap<Key, Process>,
}

/// A rank's process.
#[derive(Debug)]
pub struct Process {
    /// Where it runs.
    pub slot: SlotIndex,
    /// Ranks in its group.
    pub world: u32,
    /// Its trainer was started.
    pub started: bool,
    /// It knows where rank 0's store listens.
    pub connected: bool,
    /// What will become of it.
    pub fate: Fate,
    /// It hangs: only a kill ends it.
    pub hangs: bool,
    /// It was killed and does not go.
    pub stuck: bool,
    /// It was told to stop: why, and when it is killed.
    pub stop: Option<(String, u64)>,
}

/// What becomes of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It does its work.
    Fine,
    /// Its preparation fails.
    NotStarted(String),
    /// Its preparation never ends.
    NeverStarts,
    /// It ends so before this step.
    EndsAt(u64, ProcessExit, String),
    /// It hangs before this step.
    HangsAt(u64),
}

impl Agent {
    /// A new process on a machine.
    pub fn new(id: WorkerId, machine: usize, slots: Vec<Slot>, bad: bool) -> Self {
        Self {
            id,
            machine,
            slots,
            alive: true,
            frozen_until: 0,
            bad,
            session: None,
            welcomed_at: None,
            sent: 0,
            outbox: VecDeque::new(),
            last_seq: 0,
            history: Vec::new(),
            ranks: BTreeMap::new(),
            processes: BTreeMap::new(),
        }
    }

    /// The first message of a new connection.
    pub fn hello(&mut self, session: u64) -> Hello {
        self.session = Some(session);
        self.welcomed_at = None;
        let running = self.ranks.iter().map(|((attempt, rank), (slot, exit))| RunningRank {
            attempt: *attempt,
            rank: *rank,
            slot: *slot,
            exited: exit.is_some(),
        });
        Hello {
            worker: self.id.clone(),
            name: format!("machine {}", self.machine),
            slots: self.slots.clone(),
            running: running.collect(),
        }
    }

    /// The coordinator has everything up to `seq` and waits for the rest.
    pub fn on_welcome(&mut self, now: u64, seq: u64) {
        self.on_ack(seq);
        self.sent = seq;
        self.welcomed_at = Some(now);
    }

    /// The coordinator has everything up to `seq`.
    pub fn on_ack(&mut self, seq: u64) {
        while self.outbox.front().is_some_and(|report| report.seq <= seq) {
            self.outbox.pop_front();
        }
        self.ranks.retain(|_, (_, exit)| exit.is_none_or(|exit| exit > seq));
    }

    /// The connection is gone.
    pub fn on_disconnected(&mut self) {
        self.session = None;
        self.welcomed_at = None;
    }

    /// Reports that the connection has not carried yet.
    pub fn take_unsent(&mut self) -> Vec<Report> {
        if self.welcomed_at.is_none() {
            return Vec::new();
        }
        let sent = self.sent;
        let reports: Vec<Report> = self.outbox.iter().filter(|report| report.seq > sent).cloned().collect();
        self.sent = reports.last().map_or(sent, |last| last.seq);
        reports
    }

    /// A report that the present connection has carried, by a number of chance.
    pub fn said_before(&self, chance: u64) -> Option<Report> {
        self.welcomed_at?;
        let said = self.sent.min(self.history.len() as u64);
        self.history.get(chance.checked_rem(said)? as usize).cloned()
    }

    /// The number given last.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Holds a rank from its command on.
    pub fn hold(&mut self, key: Key, slot: SlotIndex) {
        self.ranks.insert(key, (slot, None));
    }

    /// Queues a fact.
    pub fn report(&mut self, key: Key, fact: Fact) -> &Report {
        self.last_seq += 1;
        if matches!(fact, Fact::Exited { .. })
            && let Some((_, exit)) = self.ranks.get_mut(&key)
        {
            *exit = Some(self.last_seq);
        }
        let report = Report { seq: self.last_seq, attempt: key.0, rank: key.1, fact };
        self.outbox.push_back(report.clone());
        self.history.push(report);
        &self.history[self.history.len() - 1]
    }

    /// Whether it stands still.
    pub fn is_frozen(&self, now: u64) -> bool {
        now < self.frozen_until
    }
}
