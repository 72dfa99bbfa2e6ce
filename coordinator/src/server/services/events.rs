//! A study's events for one client: stored ones first, then live ones, each once and in order.

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

/// One client's view of a study's events: stored ones first, then live ones, each once and in order.
pub struct Feed {
    pub driver: Handle,
    pub log: Reader,
    pub study: StudyId,
    /// Number of the last event that was sent.
    pub last: u64,
    /// That event ended the study.
    pub is_at_the_end: bool,
    pub events: mpsc::Sender<Result<RecordedEvent, Status>>,
}

/// The client hung up, or there is nothing more to say.
pub struct Over;

impl Feed {
    /// Sends until the study is over; without `live` to the end of what is stored.
    pub async fn run(
        mut self,
        mut live: Option<broadcast::Receiver<Arc<Vec<StoredEvent>>>>,
    ) -> Result<(), Over> {
        loop {
            // Asked before reading: the log of a study that is over holds its last event.
            let is_over = live.is_some() && self.is_over().await?;
            self.send_stored().await?;
            // It may have ended while the log was read; the live stream then only repeats its last event.
            match &mut live {
                Some(live) if !is_over && !self.is_at_the_end => self.send_live(live).await?,
                _ => return Ok(()),
            }
        }
    }

    async fn is_over(&self) -> Result<bool, Over> {
        let study = self.study;
        match self
            .driver
            .look(move |core, _| core.study(study).is_none_or(|study| study.outcome.is_some()))
            .await
        {
            Ok(is_over) => Ok(is_over),
            Err(status) => {
                let _ = self.events.send(Err(status)).await;
                Err(Over)
            }
        }
    }

    /// Sends what is stored, to the end of the log.
    async fn send_stored(&mut self) -> Result<(), Over> {
        loop {
            let (log, study, last) = (self.log.clone(), self.study, self.last);
            let page = tokio::task::spawn_blocking(move || log.events(study, last, PAGE)).await;
            let page = match page {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return Err(self.break_off(error).await),
                Err(error) => return Err(self.break_off(error).await),
            };
            let read = page.len();
            for event in page {
                self.send(event).await?;
            }
            if read < PAGE {
                return Ok(());
            }
        }
    }

    /// Sends live events until some are missing between them and what was sent (the log has those), or until the
    /// study seems to be over.
    async fn send_live(&mut self, live: &mut broadcast::Receiver<Arc<Vec<StoredEvent>>>) -> Result<(), Over> {
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
                if event.seq <= self.last {
                    continue;
                }
                if event.seq > self.last + 1 {
                    return Ok(());
                }
                let is_last = event.is_last();
                self.send(event.clone()).await?;
                if is_last {
                    return Ok(());
                }
            }
        }
    }

    async fn send(&mut self, event: StoredEvent) -> Result<(), Over> {
        self.last = event.seq;
        self.is_at_the_end = event.is_last();
        let StoredEvent { study, seq, time_ms, kind, json } = event;
        let event = RecordedEvent { study: study.0, seq, time_ms, kind, json };
        self.events.send(Ok(event)).await.map_err(|_| Over)
    }

    async fn break_off(&self, error: impl std::error::Error) -> Over {
        tracing::error!(%error, study = %self.study, "could not read events");
        let _ = self.events.send(Err(Status::internal("the event log could not be read"))).await;
        Over
    }
}
