//! One client's view of a study's events: stored ones first, then live ones, each once and in order.

use std::sync::Arc;

use mtinet_domain::StudyId;
use mtinet_proto::v1::RecordedEvent;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tonic::Status;

use crate::server::driver::Handle;
use crate::server::store::{Reader, StoredEvent};

/// Events read from the log at once.
const PAGE: usize = 1000;

/// Events as the driver tells them, in the batches in which they were stored.
pub type Live = broadcast::Receiver<Arc<Vec<StoredEvent>>>;

/// Sends a study's events to one client.
pub struct Feed {
    driver: Handle,
    log: Reader,
    sent: Sent,
}

/// The client hung up, or there is nothing more to say.
pub struct Over;

impl Feed {
    /// The events of a study after number `after`.
    pub fn new(
        driver: Handle,
        log: Reader,
        study: StudyId,
        after: u64,
        events: mpsc::Sender<Result<RecordedEvent, Status>>,
    ) -> Self {
        Self { driver, log, sent: Sent { study, last: after, events } }
    }

    /// Sends what is stored, and where `live` is given, which must have been subscribed before, what comes until the
    /// study is over.
    pub async fn run(mut self, mut live: Option<Live>) -> Result<(), Over> {
        loop {
            // Asked before reading: the log of a study that is over holds its last event.
            let is_over = live.is_some() && self.is_over().await?;
            self.send_stored().await?;
            match &mut live {
                Some(live) if !is_over => self.sent.send_live(live).await?,
                _ => return Ok(()),
            }
        }
    }

    async fn is_over(&self) -> Result<bool, Over> {
        let study = self.sent.study;
        match self
            .driver
            .look(move |core, _| core.study(study).is_none_or(|study| study.outcome.is_some()))
            .await
        {
            Ok(is_over) => Ok(is_over),
            Err(status) => {
                let _ = self.sent.events.send(Err(status)).await;
                Err(Over)
            }
        }
    }

    /// Sends what is stored, to the end of the log.
    async fn send_stored(&mut self) -> Result<(), Over> {
        loop {
            let (log, study, last) = (self.log.clone(), self.sent.study, self.sent.last);
            let page = tokio::task::spawn_blocking(move || log.events(study, last, PAGE)).await;
            let page = match page {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return Err(self.break_off(error).await),
                Err(error) => return Err(self.break_off(error).await),
            };
            let read = page.len();
            for event in page {
                self.sent.send(event).await?;
            }
            if read < PAGE {
                return Ok(());
            }
        }
    }

    async fn break_off(&self, error: impl std::error::Error) -> Over {
        tracing::error!(%error, study = %self.sent.study, "could not read events");
        let _ = self.sent.events.send(Err(Status::internal("the event log could not be read"))).await;
        Over
    }
}

/// What a client has been sent.
struct Sent {
    study: StudyId,
    /// Number of the last event that was sent.
    last: u64,
    events: mpsc::Sender<Result<RecordedEvent, Status>>,
}

impl Sent {
    /// Sends live events until some are missing between them and what was sent (the log has those), or until the
    /// study seems to be over.
    async fn send_live(&mut self, live: &mut Live) -> Result<(), Over> {
        let study = self.study;
        loop {
            let batch = tokio::select! {
                batch = live.recv() => batch,
                () = self.events.closed() => return Err(Over),
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(RecvError::Lagged(_)) => return Ok(()),
                Err(RecvError::Closed) => {
                    let status =
                        Status::unavailable("the coordinator is shutting down; ask again when it is back");
                    let _ = self.events.send(Err(status)).await;
                    return Err(Over);
                }
            };
            for event in batch.iter().filter(|event| event.study == study) {
                if event.seq > self.last + 1 {
                    return Ok(());
                }
                if event.seq == self.last + 1 {
                    self.send(event.clone()).await?;
                }
                // Also where it was already sent from the log, for the study ended meanwhile: nothing comes after it.
                if event.is_last() {
                    return Ok(());
                }
            }
        }
    }

    async fn send(&mut self, event: StoredEvent) -> Result<(), Over> {
        self.last = event.seq;
        let StoredEvent { study, seq, time_ms, kind, json } = event;
        let event = RecordedEvent { study: study.0, seq, time_ms, kind, json };
        self.events.send(Ok(event)).await.map_err(|_| Over)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const STUDY: StudyId = StudyId(3);

    fn event(study: StudyId, seq: u64, kind: &str) -> StoredEvent {
        StoredEvent { study, seq, time_ms: 0, kind: kind.into(), json: "{}".into() }
    }

    /// The numbers of the events that are sent to one who has those to `last`, and whether the log is to be read again.
    async fn sent(last: u64, batches: Vec<Vec<StoredEvent>>) -> (Vec<u64>, bool) {
        let (events, mut received) = mpsc::channel(100);
        let (tell, mut live) = broadcast::channel(100);
        for batch in batches {
            tell.send(Arc::new(batch)).unwrap();
        }
        let mut sent = Sent { study: STUDY, last, events };
        // Everything is there already: what is not done when it is first polled waits for more.
        let waited = sent.send_live(&mut live).now_or_never();
        drop(sent);
        let mut numbers = Vec::new();
        while let Some(event) = received.recv().await {
            numbers.push(event.unwrap().seq);
        }
        (numbers, matches!(waited, Some(Ok(()))))
    }

    #[tokio::test]
    async fn live_events_go_on_where_the_log_ended() {
        let other = event(StudyId(4), 3, "study_finished");
        let batches = vec![
            vec![event(STUDY, 1, "metrics"), event(STUDY, 2, "metrics")],
            vec![other, event(STUDY, 3, "metrics")],
        ];
        assert_eq!(sent(1, batches).await, (vec![2, 3], false));
    }

    #[tokio::test]
    async fn a_gap_is_read_from_the_log() {
        let batches = vec![vec![event(STUDY, 2, "metrics"), event(STUDY, 4, "metrics")]];
        assert_eq!(sent(1, batches).await, (vec![2], true));
    }

    #[tokio::test]
    async fn an_end_that_was_read_from_the_log_is_the_end() {
        let batches = || vec![vec![event(STUDY, 5, "trial_failed"), event(STUDY, 6, "study_finished")]];
        assert_eq!(sent(4, batches()).await, (vec![5, 6], true));
        assert_eq!(sent(6, batches()).await, (vec![], true));
    }
}
