//! Reports that the coordinator has not acknowledged, in order. In memory; a spool on disk would take its place.

use std::collections::VecDeque;

use mtinet_proto::v1::{Attempt, Report, report::Fact};
use prost::Message;

/// Unacknowledged reports in order of `seq`, which ascends from 1 over the agent's life.
#[derive(Debug, Default)]
pub struct Outbox {
    reports: VecDeque<(Report, usize)>,
    bytes: usize,
    last_seq: u64,
}

impl Outbox {
    /// Numbers a fact and keeps it until it is acknowledged.
    pub fn push(&mut self, attempt: Attempt, rank: u32, fact: Fact) -> u64 {
        self.last_seq += 1;
        let report = Report { seq: self.last_seq, attempt: Some(attempt), rank, fact: Some(fact) };
        let bytes = report.encoded_len();
        self.bytes += bytes;
        self.reports.push_back((report, bytes));
        self.last_seq
    }

    /// Lets go of everything up to `seq`.
    pub fn acknowledge(&mut self, seq: u64) {
        while self.reports.front().is_some_and(|(report, _)| report.seq <= seq) {
            if let Some((_, bytes)) = self.reports.pop_front() {
                self.bytes -= bytes;
            }
        }
    }

    /// The unacknowledged reports after `seq`, in order.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Report> {
        let start = self.reports.partition_point(|(report, _)| report.seq <= seq);
        self.reports.range(start..).map(|(report, _)| report)
    }

    /// The number given last; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// How many reports wait.
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Their encoded size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
