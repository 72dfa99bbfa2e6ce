//! Between the wire's messages and the scheduler's types, on top of `mtinet_runtime::convert`.

use std::collections::HashMap;

use mtinet_core::{Command, Fact, Hello, Report, RunningRank, Slot};
use mtinet_domain::event::MetricRecord;
use mtinet_domain::trial::RankAssignment;
use mtinet_domain::{AttemptId, Rank, SlotIndex, StudyId};
use mtinet_proto::v1::{self, coordinator_message, report};
use mtinet_runtime::convert::{ConvertError, FromProto, RankExit, ToProto, optional, required, start_rank};
use mtinet_runtime::telemetry::traces;

/// Longest host name that DNS knows.
const MAX_HOST_BYTES: usize = 253;

/// A host's name has at most 64 bytes; an agent may put a word to it.
const MOST_NAME_BYTES: usize = 256;

/// More devices than any machine has.
const MOST_SLOTS: usize = 4096;

pub fn hello(hello: v1::Hello) -> Result<Hello, ConvertError> {
    let slot = |slot| {
        let (index, device) = FromProto::from_proto(slot)?;
        Ok(Slot { index, device })
    };
    let running = |rank: v1::RunningRank| {
        Ok(RunningRank {
            attempt: required("attempt", rank.attempt)?,
            rank: Rank(rank.rank),
            slot: SlotIndex(rank.slot),
            exited: rank.exited,
        })
    };
    // It is shown in people's terminals.
    if hello.name.len() > MOST_NAME_BYTES || hello.name.chars().any(char::is_control) {
        let problem = format!("has more than {MOST_NAME_BYTES} bytes or control characters");
        return Err(ConvertError::new("name", problem));
    }
    if hello.slots.len() > MOST_SLOTS {
        return Err(ConvertError::new("slots", format!("are more than {MOST_SLOTS}")));
    }
    Ok(Hello {
        worker: required("worker_id", Some(hello.worker_id))?,
        name: hello.name,
        slots: all("slots", hello.slots, slot)?,
        running: all("running", hello.running, running)?,
    })
}

/// Attempts that a heartbeat names; one that makes no sense is no sign of life.
pub fn working(attempts: Vec<v1::Attempt>) -> Vec<AttemptId> {
    attempts.into_iter().filter_map(|attempt| AttemptId::from_proto(attempt).ok()).collect()
}

/// Whether a report can have this number. The log counts in signed ones.
pub fn is_report_number(seq: u64) -> bool {
    seq > 0 && i64::try_from(seq).is_ok()
}

pub fn report(report: v1::Report) -> Result<Report, ConvertError> {
    if !is_report_number(report.seq) {
        return Err(ConvertError::new("seq", "reports are numbered from 1"));
    }
    let fact = report.fact.ok_or_else(|| ConvertError::new("fact", "is missing"))?;
    Ok(Report {
        seq: report.seq,
        attempt: required("attempt", report.attempt)?,
        rank: Rank(report.rank),
        fact: self::fact(fact)?,
    })
}

fn fact(fact: report::Fact) -> Result<Fact, ConvertError> {
    Ok(match fact {
        report::Fact::Started(_) => Fact::Started,
        report::Fact::Rendezvous(ready) => rendezvous(ready).map_err(|error| error.within("rendezvous"))?,
        report::Fact::Metrics(batch) => Fact::Metrics(all("metrics.records", batch.records, |record| {
            MetricRecord::from_proto(record).map(finite)
        })?),
        report::Fact::Checkpoint(checkpoint) => Fact::Checkpoint(required("checkpoint", Some(checkpoint))?),
        report::Fact::Evaluated(evaluated) => {
            self::evaluated(evaluated).map_err(|error| error.within("evaluated"))?
        }
        report::Fact::Exited(exited) => {
            let RankExit { exit, finished, step, message, stopped, missing } =
                required("exited", Some(exited))?;
            Fact::Exited { exit, finished, step, message, stopped, missing }
        }
    })
}

fn rendezvous(ready: v1::RendezvousReady) -> Result<Fact, ConvertError> {
    if ready.host.is_empty() || ready.host.len() > MAX_HOST_BYTES {
        return Err(ConvertError::new("host", "is no host name"));
    }
    let port = u16::try_from(ready.port).map_err(|_| ConvertError::new("port", "is above 65535"))?;
    Ok(Fact::Rendezvous { host: ready.host, port })
}

fn evaluated(evaluated: v1::Evaluated) -> Result<Fact, ConvertError> {
    let summary = serde_json::from_str(&evaluated.summary_json)
        .map_err(|error| ConvertError::new("summary_json", error))?;
    Ok(Fact::Evaluated {
        summary: Box::new(summary),
        evaluation: required("evaluation", evaluated.evaluation)?,
        weights: optional("weights", evaluated.weights)?,
        predictions: optional("predictions", evaluated.predictions)?,
    })
}

/// Leaves out what is not a number: JSON has no word for it, and a stored event must read back.
fn finite(mut record: MetricRecord) -> MetricRecord {
    record.values.retain(|_, value| value.is_finite());
    if !record.train_seconds.is_finite() {
        record.train_seconds = 0.0;
    }
    record
}

fn all<P, T>(
    field: &str,
    protos: Vec<P>,
    convert: impl Fn(P) -> Result<T, ConvertError>,
) -> Result<Vec<T>, ConvertError> {
    let one = |(index, proto)| convert(proto).map_err(|error| error.within(&format!("{field}[{index}]")));
    protos.into_iter().enumerate().map(one).collect()
}

/// The specs of studies as they are sent: immutable, and asked for once a rank.
#[derive(Debug, Default)]
pub struct Specs(HashMap<StudyId, String>);

impl Specs {
    /// More studies than this are hardly started in turns.
    const MOST: usize = 64;

    fn json(&mut self, assignment: &RankAssignment) -> String {
        if self.0.len() > Self::MOST {
            self.0.clear();
        }
        self.0.entry(assignment.attempt.trial.study).or_insert_with(|| assignment.spec.to_json()).clone()
    }
}

pub fn command(command: Command, specs: &mut Specs) -> v1::CoordinatorMessage {
    let message = match command {
        Command::StartRank(assignment) => {
            let start = start_rank(&assignment, specs.json(&assignment));
            coordinator_message::Message::Start(v1::StartRank { traceparent: traces::here(), ..start })
        }
        Command::ConnectRank { attempt, rank, host, port } => {
            coordinator_message::Message::Connect(v1::ConnectRank {
                attempt: Some(attempt.to_proto()),
                rank: rank.0,
                host,
                port: port.into(),
            })
        }
        Command::StopAttempt { attempt, reason, grace_ms } => {
            coordinator_message::Message::Stop(v1::StopAttempt {
                attempt: Some(attempt.to_proto()),
                reason,
                grace_ms,
            })
        }
    };
    v1::CoordinatorMessage { message: Some(message) }
}

pub fn welcome(last_seq: u64) -> v1::CoordinatorMessage {
    v1::CoordinatorMessage { message: Some(coordinator_message::Message::Welcome(v1::Welcome { last_seq })) }
}

pub fn ack(seq: u64) -> v1::CoordinatorMessage {
    v1::CoordinatorMessage { message: Some(coordinator_message::Message::Ack(v1::Ack { seq })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(name: &str, slots: usize) -> v1::Hello {
        let device = Some(v1::Device { kind: v1::device::Kind::Cpu.into(), index: 0 });
        let slots = (0..).take(slots).map(|index| v1::Slot { index, device }).collect();
        v1::Hello { worker_id: "w.0".into(), name: name.into(), slots, ..v1::Hello::default() }
    }

    #[test]
    fn what_an_agent_says_of_itself_is_bounded() {
        let longest = "n".repeat(MOST_NAME_BYTES);
        let taken = hello(introduction(&longest, MOST_SLOTS)).unwrap();
        assert_eq!((taken.name.as_str(), taken.slots.len()), (longest.as_str(), MOST_SLOTS));
        assert!(hello(introduction("", 0)).is_ok(), "it may say nothing");
        let refused = |name: &str, slots| hello(introduction(name, slots)).unwrap_err().to_string();
        assert!(refused(&format!("{longest}n"), 1).contains("name"));
        // They would move the cursor in the terminal of whoever lists workers.
        assert!(refused("box\u{1b}[2J", 1).contains("control characters"));
        assert!(refused("box", MOST_SLOTS + 1).contains("slots"));
    }

    #[test]
    fn numbers_that_the_log_cannot_count_and_hosts_that_are_none_are_refused() {
        assert!(!is_report_number(0) && is_report_number(1));
        assert!(is_report_number(i64::MAX.unsigned_abs()) && !is_report_number(i64::MAX.unsigned_abs() + 1));
        let ready = |host: String, port| rendezvous(v1::RendezvousReady { host, port });
        assert!(ready("h".repeat(MAX_HOST_BYTES), 65_535).is_ok());
        for (host, port) in [(String::new(), 1), ("h".repeat(MAX_HOST_BYTES + 1), 1), ("h".into(), 65_536)] {
            assert!(ready(host, port).is_err());
        }
    }
}
