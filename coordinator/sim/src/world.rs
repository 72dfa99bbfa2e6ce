//! Virtual time, the network, and who talks to whom.
//!
//! A session is an ordered stream in each direction. It breaks at some moment: what would have arrived later is lost,
//! and each side notices in its own time, the coordinator perhaps only by the worker's next Hello. Words of a session
//! that is not the worker's newest are ignored, as the driver does.

use std::collections::BTreeMap;

use mtinet_core::{Command, CoreConfig, Report, Slot};
use mtinet_domain::trial::Device;
use mtinet_domain::{AttemptId, SlotIndex, TrialId, WorkerId};

use crate::agent::{Agent, Key};
use crate::coordinator::{Coordinator, Crash, Input, Word};
use crate::random::Chance;
use crate::trainers::GangRun;
use crate::truth::Ledger;

/// What goes wrong is told in words.
pub type Checked = Result<(), String>;

/// Who is told what happens.
pub type Trace<'a> = Box<dyn FnMut(u64, &str) + 'a>;

const HEARTBEAT_MS: u64 = 1000;
const TICK_MS: u64 = 500;

/// The simulated world.
pub struct World<'a> {
    /// Milliseconds since the Unix epoch.
    pub now: u64,
    queue: BTreeMap<(u64, u64), Item>,
    tie: u64,
    /// Whatever is left to chance.
    pub chance: Chance,
    /// The coordinator's process.
    pub coordinator: Coordinator,
    /// All agent processes that ever were.
    pub agents: Vec<Agent>,
    by_id: BTreeMap<WorkerId, usize>,
    sessions: Vec<Session>,
    /// What the trainers of each attempt do.
    pub gangs: BTreeMap<AttemptId, GangRun>,
    /// What was seen, to check against.
    pub ledger: Ledger,
    /// Faults still happen.
    pub chaos: bool,
    /// The coordinator dies in the round after so many.
    pub crash: Option<(u64, Crash)>,
    /// Trials that fail at a step wherever they run.
    pub cursed: BTreeMap<TrialId, Option<u64>>,
    /// Inputs that the coordinator took in.
    pub rounds: u64,
    trace: Option<Trace<'a>>,
}

#[derive(Debug)]
struct Session {
    agent: usize,
    up_last: u64,
    down_last: u64,
    cut_at: Option<u64>,
}

/// Something that will happen.
#[derive(Debug)]
pub enum Item {
    /// The coordinator's clock.
    Tick,
    /// A message arrives at the coordinator.
    Up(u64, Box<Input>),
    /// A message arrives at an agent.
    Down(u64, Box<Word>),
    /// An agent notices that its session is gone.
    Broken(u64),
    /// The coordinator notices.
    Closed(u64),
    /// An agent tries to open a session.
    Reconnect(usize),
    /// An agent's heartbeat is due.
    Heartbeat(u64),
    /// An agent goes on after standing still.
    Thaw(usize),
    /// A rank is prepared.
    Prepared(usize, Key),
    /// A rank that was told to stop is killed.
    Kill(usize, Key),
    /// A process that survived its kill for a while is gone.
    Gone(usize, Key),
    /// An attempt's trainers take a step.
    Step(AttemptId),
    /// Ranks have waited in vain for another.
    TimedOut(AttemptId),
    /// Something goes wrong, or somebody asks for something.
    Chaos,
    /// The coordinator starts again.
    CoordinatorUp,
    /// A machine's agent starts again.
    Rejoin(usize, Vec<Slot>, bool),
    /// Faults stop.
    Heal,
}

impl<'a> World<'a> {
    /// A coordinator without workers or studies.
    pub fn new(seed: u64, config: CoreConfig, trace: Option<Trace<'a>>) -> Self {
        let now = 1_700_000_000_000;
        let mut world = Self {
            now,
            queue: BTreeMap::new(),
            tie: 0,
            chance: Chance::new(seed),
            coordinator: Coordinator::new(config, now),
            agents: Vec::new(),
            by_id: BTreeMap::new(),
            sessions: Vec::new(),
            gangs: BTreeMap::new(),
            ledger: Ledger::default(),
            chaos: true,
            crash: None,
            cursed: BTreeMap::new(),
            rounds: 0,
            trace,
        };
        world.after(TICK_MS, Item::Tick);
        world
    }

    /// Tells the trace.
    pub fn say(&mut self, words: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace(self.now, &words());
        }
    }

    /// Has something happen later.
    pub fn after(&mut self, delay: u64, item: Item) {
        self.tie += 1;
        self.queue.insert((self.now + delay, self.tie), item);
    }

    /// Lets the next thing happen.
    pub fn step(&mut self) -> Checked {
        let Some(((at, _), item)) = self.queue.pop_first() else {
            return Err("nothing happens any more".into());
        };
        self.now = at;
        match item {
            Item::Tick => {
                self.after(TICK_MS, Item::Tick);
                self.tell_coordinator(None, Input::Tick)?;
                self.check_promptness()
            }
            Item::Up(session, input) => self.on_up(session, *input),
            Item::Down(session, word) => self.on_down(session, *word),
            Item::Broken(session) => {
                self.on_broken(session);
                Ok(())
            }
            Item::Closed(session) => {
                let worker = self.agents[self.sessions[session as usize].agent].id.clone();
                self.tell_coordinator(Some(&(worker, session)), Input::Closed)
            }
            Item::Reconnect(agent) => {
                self.reconnect(agent);
                Ok(())
            }
            Item::Heartbeat(session) => {
                self.heartbeat(session);
                Ok(())
            }
            Item::Thaw(agent) => {
                self.flush(agent);
                Ok(())
            }
            Item::Prepared(agent, key) => self.on_prepared(agent, key),
            Item::Kill(agent, key) => {
                self.on_kill(agent, key);
                Ok(())
            }
            Item::Gone(agent, key) => {
                self.on_gone(agent, key);
                Ok(())
            }
            Item::Step(attempt) => self.on_step(attempt),
            Item::TimedOut(attempt) => {
                self.on_timed_out(attempt);
                Ok(())
            }
            Item::Chaos => self.on_chaos(),
            Item::CoordinatorUp => self.on_coordinator_up(),
            Item::Rejoin(machine, slots, bad) => {
                self.join_on(machine, slots, bad);
                Ok(())
            }
            Item::Heal => self.on_heal(),
        }
    }

    /// The agent of a new machine starts and connects.
    pub fn join(&mut self, slots: Vec<Slot>, bad: bool) -> usize {
        self.join_on(self.agents.len(), slots, bad)
    }

    /// A machine's agent starts and connects.
    fn join_on(&mut self, machine: usize, slots: Vec<Slot>, bad: bool) -> usize {
        let index = self.agents.len();
        let id = WorkerId(format!("m{machine}.w{index}"));
        self.say(|| format!("{id} starts with {} slots{}", slots.len(), if bad { ", broken" } else { "" }));
        self.by_id.insert(id.clone(), index);
        self.agents.push(Agent::new(id, machine, slots, bad));
        self.reconnect(index);
        index
    }

    /// Slots of these devices; of each CUDA device so many.
    pub fn slots(cpus: u32, gpus: u32, sharers: u32) -> Vec<Slot> {
        let of_gpu = |index| (0..sharers).map(move |_| Device::Cuda(index));
        let devices = (0..cpus).map(|_| Device::Cpu).chain((0..gpus).flat_map(of_gpu));
        (0..).zip(devices).map(|(index, device)| Slot { index: SlotIndex(index), device }).collect()
    }

    /// The agent of a worker.
    pub fn agent_of(&self, worker: &WorkerId) -> Option<&Agent> {
        self.by_id.get(worker).map(|index| &self.agents[*index])
    }

    /// Hands an input to the coordinator, lets out what comes of it, and checks everything.
    pub fn tell_coordinator(&mut self, from: Option<&(WorkerId, u64)>, input: Input) -> Checked {
        if !self.coordinator.up {
            return Ok(());
        }
        self.rounds += 1;
        let quiet = matches!(input, Input::Heartbeat);
        if !quiet && !matches!(input, Input::Tick) {
            self.say(|| {
                let from = from.map(|(worker, session)| format!(" of {worker} session {session}"));
                format!("-> {input:?}{}", from.unwrap_or_default())
            });
        }
        let crash = match &mut self.crash {
            Some((0, at)) => Some(*at),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        self.note_heard(from, &input);
        let now = self.now;
        let source = from.map(|(worker, session)| (worker, *session));
        let outcome = self.coordinator.round(now, source, input, crash);
        if outcome.crashed {
            self.crash = None;
            self.on_crash();
        }
        self.check_round(&outcome, quiet)?;
        for worker in outcome.cut {
            self.say(|| format!("the session of {worker} is ended"));
            if let Some(index) = self.by_id.get(&worker).copied() {
                self.cut(index, false);
            }
        }
        for (worker, word) in outcome.words {
            self.send_down(&worker, word);
        }
        Ok(())
    }

    /// The coordinator's process is gone, and all its sessions.
    pub fn on_crash(&mut self) {
        self.coordinator.up = false;
        self.say(|| "the coordinator is killed".to_owned());
        for agent in 0..self.agents.len() {
            self.cut(agent, false);
        }
        let delay = self.chance.between(100, 9000);
        self.after(delay, Item::CoordinatorUp);
    }

    fn on_coordinator_up(&mut self) -> Checked {
        self.say(|| "the coordinator starts from its log".to_owned());
        let now = self.now;
        self.ledger.restarted(now);
        self.coordinator.restart(now)?;
        self.check_state()
    }

    fn latency(&mut self) -> u64 {
        if self.chance.percent(5) { self.chance.between(40, 900) } else { self.chance.between(1, 20) }
    }

    /// Breaks an agent's session; whoever broke it need not be told.
    pub fn cut(&mut self, agent: usize, coordinator_is_told: bool) {
        let Some(session) = self.agents[agent].session else { return };
        let state = &mut self.sessions[session as usize];
        if state.cut_at.is_some() {
            return;
        }
        let cut_at = self.now + self.chance.between(0, 60);
        state.cut_at = Some(cut_at);
        let notices = cut_at - self.now + self.chance.between(0, 2000);
        self.after(notices, Item::Broken(session));
        if coordinator_is_told {
            let closed = cut_at - self.now + self.chance.between(0, 5000);
            self.after(closed, Item::Closed(session));
        }
    }

    fn on_broken(&mut self, session: u64) {
        let agent = self.sessions[session as usize].agent;
        if self.agents[agent].session == Some(session) {
            self.agents[agent].on_disconnected();
            let delay = self.chance.between(100, 1000);
            self.after(delay, Item::Reconnect(agent));
        }
    }

    fn reconnect(&mut self, agent: usize) {
        if !self.agents[agent].alive || self.agents[agent].session.is_some() {
            return;
        }
        if !self.coordinator.up || self.agents[agent].is_frozen(self.now) {
            let delay = self.chance.between(100, 1000);
            self.after(delay, Item::Reconnect(agent));
            return;
        }
        let session = self.sessions.len() as u64;
        self.sessions.push(Session { agent, up_last: self.now, down_last: self.now, cut_at: None });
        let hello = self.agents[agent].hello(session);
        self.send_up(session, Input::Hello(hello));
        self.after(HEARTBEAT_MS, Item::Heartbeat(session));
    }

    fn heartbeat(&mut self, session: u64) {
        let agent = self.sessions[session as usize].agent;
        if !self.agents[agent].alive || self.agents[agent].session != Some(session) {
            return;
        }
        if self.agents[agent].is_frozen(self.now) {
            let left = self.agents[agent].frozen_until - self.now;
            self.after(left, Item::Heartbeat(session));
            return;
        }
        self.send_up(session, Input::Heartbeat);
        self.after(HEARTBEAT_MS, Item::Heartbeat(session));
    }

    fn send_up(&mut self, session: u64, input: Input) {
        let delay = self.latency();
        let state = &mut self.sessions[session as usize];
        state.up_last = state.up_last.max(self.now + delay);
        let delay = state.up_last - self.now;
        self.after(delay, Item::Up(session, Box::new(input)));
    }

    fn send_down(&mut self, worker: &WorkerId, word: Word) {
        // A worker without a session misses it.
        let Some(session) = self.coordinator.sessions.get(worker).copied() else { return };
        let delay = self.latency();
        let state = &mut self.sessions[session as usize];
        state.down_last = state.down_last.max(self.now + delay);
        let delay = state.down_last - self.now;
        self.after(delay, Item::Down(session, Box::new(word)));
    }

    fn on_up(&mut self, session: u64, input: Input) -> Checked {
        let state = &self.sessions[session as usize];
        if state.cut_at.is_some_and(|at| at < self.now) {
            return Ok(());
        }
        let worker = self.agents[state.agent].id.clone();
        self.tell_coordinator(Some(&(worker, session)), input)
    }

    fn on_down(&mut self, session: u64, word: Word) -> Checked {
        let state = &self.sessions[session as usize];
        let agent = state.agent;
        if state.cut_at.is_some_and(|at| at < self.now)
            || !self.agents[agent].alive
            || self.agents[agent].session != Some(session)
        {
            return Ok(());
        }
        if self.agents[agent].is_frozen(self.now) {
            let left = self.agents[agent].frozen_until - self.now;
            self.after(left, Item::Down(session, Box::new(word)));
            return Ok(());
        }
        match word {
            Word::Welcome(seq) => {
                let now = self.now;
                self.agents[agent].on_welcome(now, seq);
                self.flush(agent);
                Ok(())
            }
            Word::Ack(seq) => {
                self.agents[agent].on_ack(seq);
                Ok(())
            }
            Word::Command(Command::StartRank(start)) => self.start_rank(agent, &start),
            Word::Command(Command::ConnectRank { attempt, rank, .. }) => {
                self.connect_rank(agent, (attempt, rank));
                Ok(())
            }
            Word::Command(Command::StopAttempt { attempt, reason, grace_ms }) => {
                self.stop_ranks(agent, attempt, &reason, u64::from(grace_ms));
                Ok(())
            }
        }
    }

    /// Sends what an agent has to say, where it can.
    pub fn flush(&mut self, agent: usize) {
        if !self.agents[agent].alive || self.agents[agent].is_frozen(self.now) {
            return;
        }
        let Some(session) = self.agents[agent].session else { return };
        for report in self.agents[agent].take_unsent() {
            self.send_up(session, Input::Report(report));
        }
    }

    /// Sends a report once more on an agent's present session.
    pub fn repeat(&mut self, agent: usize, report: Report) {
        if let Some(session) = self.agents[agent].session.filter(|_| self.agents[agent].welcomed_at.is_some())
        {
            self.send_up(session, Input::Report(report));
        }
    }
}
