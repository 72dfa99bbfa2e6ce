//! The workers' open sessions.

use std::collections::HashMap;

use mtinet_core::Command;
use mtinet_domain::WorkerId;
use mtinet_proto::v1::CoordinatorMessage;

use super::Outbox;
use crate::server::convert;

/// Tells the sessions of one worker apart, so that a late word of a former one is not taken for the present one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionNumber(pub u64);

/// The open sessions by worker.
#[derive(Default)]
pub struct Sessions {
    open: HashMap<WorkerId, (SessionNumber, Outbox)>,
    specs: convert::Specs,
}

impl Sessions {
    /// The worker's former session ends when its outbox goes.
    pub fn open(&mut self, worker: WorkerId, session: SessionNumber, outbox: Outbox) {
        self.open.insert(worker, (session, outbox));
    }

    pub fn is_current(&self, worker: &WorkerId, session: SessionNumber) -> bool {
        self.open.get(worker).is_some_and(|(current, _)| *current == session)
    }

    pub fn close(&mut self, worker: &WorkerId) {
        self.open.remove(worker);
    }

    /// Ends the sessions of these workers, and tells whose those were.
    pub fn close_where(&mut self, wanted: impl Fn(&WorkerId) -> bool) -> Vec<WorkerId> {
        self.open.extract_if(|worker, _| wanted(worker)).map(|(worker, _)| worker).collect()
    }

    /// Queues a command; `false` where the worker does not take in what it is sent and its session was cut.
    pub fn command(&mut self, worker: &WorkerId, command: Command) -> bool {
        if !self.open.contains_key(worker) {
            return true;
        }
        let message = convert::command(command, &mut self.specs);
        self.send(worker, message)
    }

    /// As [`Sessions::command`], for any message.
    pub fn send(&mut self, worker: &WorkerId, message: CoordinatorMessage) -> bool {
        let Some((_, outbox)) = self.open.get(worker) else { return true };
        if outbox.try_send(Ok(message)).is_ok() {
            return true;
        }
        self.open.remove(worker);
        false
    }
}
