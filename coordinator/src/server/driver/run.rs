//! The driver's loop.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mtinet_core::{Core, Link};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::sessions::Sessions;
use super::{Afterwards, Handle, Input, Round, journal, trace};
use crate::server::artifacts::Artifacts;
use crate::server::convert;
use crate::server::fleet_log::FleetLog;
use crate::server::metrics::Metrics;
use crate::server::store::{StoreError, StoredEvent, Writer};

/// Inputs that wait at most; then whoever sends waits.
const INPUTS: usize = 8192;

/// Inputs that go into one commit at most.
const ROUND: usize = 4096;

/// Batches of events that a subscriber may lag behind before it reads the log again.
const RECORDED: usize = 256;

const TICK: Duration = Duration::from_millis(250);

/// The running driver.
pub struct Driver {
    /// For the services.
    pub handle: Handle,
    /// Ends when the token is cancelled, or with the log's failure.
    pub task: JoinHandle<Result<(), StoreError>>,
}

/// Starts the driver on a core that the log has been replayed into.
pub fn spawn(
    core: Core,
    writer: Writer,
    fleet: FleetLog,
    artifacts: Artifacts,
    metrics: Metrics,
    stop: CancellationToken,
) -> Driver {
    let (sender, inputs) = mpsc::channel(INPUTS);
    let (recorded, _) = broadcast::channel(RECORDED);
    let handle = Handle::new(sender, recorded.downgrade());
    let sessions = Sessions::default();
    let state = State { core, writer, fleet, artifacts, metrics, recorded, sessions, cut: Vec::new() };
    Driver { handle, task: tokio::spawn(state.run(inputs, stop)) }
}

struct State {
    core: Core,
    writer: Writer,
    fleet: FleetLog,
    artifacts: Artifacts,
    metrics: Metrics,
    recorded: broadcast::Sender<Arc<Vec<StoredEvent>>>,
    sessions: Sessions,
    /// Workers whose session was cut because they did not take in what they were sent.
    cut: Vec<mtinet_domain::WorkerId>,
}

impl State {
    async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            let ticked = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => true,
                taken = inputs.recv_many(&mut batch, ROUND) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    false
                }
            };
            // What waits was said before this tick, and may be a sign of life.
            while ticked
                && batch.len() < ROUND
                && let Ok(input) = inputs.try_recv()
            {
                batch.push(input);
            }
            let now_ms = now_ms();
            let begun = Instant::now();
            let mut round = Round::default();
            for worker in std::mem::take(&mut self.cut) {
                round.effects.extend(self.core.on_worker_disconnected(now_ms, &worker));
            }
            for input in batch {
                self.take_in(now_ms, input, &mut round);
            }
            if ticked {
                round.effects.extend(self.core.on_tick(now_ms));
                self.end_sessions_of_the_lost();
            }
            let decided = begun.elapsed();
            self.metrics.decided(decided);
            let span = trace::round(&round, decided);
            self.let_out(now_ms, round).instrument(span).await?;
        }
    }

    fn take_in(&mut self, now_ms: u64, input: Input, round: &mut Round) {
        match input {
            Input::Hello { hello, session, outbox } => {
                let worker = hello.worker.clone();
                tracing::info!(%worker, name = hello.name, slots = hello.slots.len(), "worker connected");
                self.sessions.open(worker.clone(), session, outbox);
                round.effects.extend(self.core.on_worker_connected(now_ms, &hello));
                let last_seq = self.core.last_seq(&worker);
                round.afterwards.push(Afterwards::Welcome(worker, last_seq));
            }
            Input::Heartbeat { worker, session, working } => {
                if self.sessions.is_current(&worker, session) {
                    round.effects.extend(self.core.on_heartbeat(now_ms, &worker));
                    working.into_iter().for_each(|attempt| self.core.on_working(now_ms, &worker, attempt));
                }
            }
            Input::Report { worker, session, report } => {
                if self.sessions.is_current(&worker, session) {
                    round.effects.extend(self.core.on_report(now_ms, &worker, report));
                    round.heard.insert(worker);
                }
            }
            Input::Unreadable { worker, session, seq } => {
                if self.sessions.is_current(&worker, session) {
                    round.effects.extend(self.core.on_unreadable_report(now_ms, &worker, seq));
                    round.heard.insert(worker);
                }
            }
            Input::Closed { worker, session } => {
                if self.sessions.is_current(&worker, session) {
                    tracing::info!(%worker, "worker disconnected");
                    self.sessions.close(&worker);
                    round.effects.extend(self.core.on_worker_disconnected(now_ms, &worker));
                }
            }
            Input::Submit { spec, dataset, by, reply, call } => {
                round.call.get_or_insert(call);
                let (study, effects) = self.core.on_study_submitted(now_ms, spec, dataset, by);
                round.effects.extend(effects);
                round.afterwards.push(Afterwards::Submitted(reply, study));
            }
            Input::Ask { request, by, reply, call } => {
                round.call.get_or_insert(call);
                let answer = self.core.on_request(now_ms, &request, by.clone()).map(|(count, effects)| {
                    round.effects.extend(effects);
                    count
                });
                round.afterwards.push(Afterwards::Asked(reply, journal::Asked { by, request, answer }));
            }
            Input::Tell { message, reply } => round.afterwards.push(Afterwards::Tell(message, reply)),
            Input::Look(look) => round.afterwards.push(Afterwards::Look(look)),
        }
    }

    /// A worker that was given up may have been stopped or behind a broken link: its connection can outlive that, and it
    /// would talk to no one. It connects anew when it finds its session ended, and says what it holds.
    fn end_sessions_of_the_lost(&mut self) {
        let lost: HashSet<_> =
            self.core.workers().filter(|(_, state)| state.link == Link::Lost).map(|(id, _)| id).collect();
        if lost.is_empty() {
            return;
        }
        for worker in self.sessions.close_where(|worker| lost.contains(worker)) {
            tracing::info!(%worker, "ending the session of a worker that was given up");
        }
    }

    /// Stores first; only what is stored may be known outside.
    async fn let_out(&mut self, now_ms: u64, round: Round) -> Result<(), StoreError> {
        let Round { effects, afterwards, heard, .. } = round;
        if !effects.fleet.is_empty() {
            tracing::info!(facts = ?effects.fleet, "recorded about workers");
            self.fleet.append(now_ms, effects.fleet).await?;
        }
        if !effects.record.is_empty() {
            self.metrics.recording(now_ms, &effects.record);
            let lines = journal::lines(&effects.record);
            let begun = Instant::now();
            let span = trace::commit(&effects.record);
            let stored = self.writer.append(now_ms, effects.record).instrument(span).await?;
            self.metrics.committed(stored.len(), begun.elapsed());
            lines.into_iter().for_each(journal::Line::tell);
            for event in stored.iter().filter(|event| event.kind != "metrics") {
                tracing::debug!(study = event.study.0, seq = event.seq, json = event.json, "recorded");
            }
            // Nobody may be listening.
            let _ = self.recorded.send(Arc::new(stored));
        }
        // A Welcome is the first message of its session, before any command that this round brought about.
        for after in afterwards {
            match after {
                Afterwards::Welcome(worker, last_seq) => {
                    self.send(&worker, convert::welcome(last_seq));
                }
                Afterwards::Submitted(reply, study) => drop(reply.send(study)),
                Afterwards::Asked(reply, asked) => {
                    asked.tell();
                    drop(reply.send(asked.answer));
                }
                Afterwards::Look(look) => look(&self.core, now_ms),
                Afterwards::Tell(message, reply) => drop(reply.send(self.tell_all(&message))),
            }
        }
        for (worker, command) in effects.send {
            if !self.sessions.command(&worker, command) {
                self.note_cut(worker);
            }
        }
        for worker in heard {
            let seq = self.core.last_seq(&worker);
            self.send(&worker, convert::ack(seq));
        }
        for worker in effects.cut {
            // It is to introduce itself again; on this session it would not be listened to.
            self.sessions.close(&worker);
        }
        if !effects.discard.is_empty() {
            let artifacts = self.artifacts.clone();
            tokio::spawn(async move { artifacts.discard(effects.discard).await });
        }
        Ok(())
    }

    /// Those who speak for an agent that is no more have no slots, and nothing to be told.
    fn tell_all(
        &mut self,
        message: &mtinet_proto::v1::CoordinatorMessage,
    ) -> Vec<(mtinet_domain::WorkerId, String)> {
        let is_there = |state: &mtinet_core::Worker| state.link == Link::Ready && !state.slots.is_empty();
        let there = self.core.workers().filter(|(_, state)| is_there(state));
        let told: Vec<_> = there.map(|(id, state)| (id.clone(), state.name.clone())).collect();
        for (worker, _) in &told {
            self.send(worker, message.clone());
        }
        told
    }

    fn send(&mut self, worker: &mtinet_domain::WorkerId, message: mtinet_proto::v1::CoordinatorMessage) {
        if !self.sessions.send(worker, message) {
            self.note_cut(worker.clone());
        }
    }

    fn note_cut(&mut self, worker: mtinet_domain::WorkerId) {
        tracing::warn!(%worker, "the worker does not take in what it is sent; its session is cut");
        self.cut.push(worker);
    }
}

/// Milliseconds since the Unix epoch as the clock stood when this process began, and the time since: leases, pauses and
/// durations are not to jump when somebody sets the clock.
pub fn now_ms() -> u64 {
    static START: OnceLock<(Duration, Duration)> = OnceLock::new();
    let (wall, uptime) = *START.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (wall, since_boot())
    });
    let now = wall + since_boot().saturating_sub(uptime);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Time since the machine was started, in which also the time counts that it was suspended.
fn since_boot() -> Duration {
    let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    // It fails only where a sandbox forbids it; then the wall clock has to do.
    boot.unwrap_or_else(|_| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
