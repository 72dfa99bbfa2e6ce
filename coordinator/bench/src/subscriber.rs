//! A dashboard's side of the event stream: how long after it was sent a measurement arrives.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mtinet_domain::event::{Event, MetricRecord};
use mtinet_proto::v1::StreamEventsRequest;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_runtime::net::Channel;
use tokio::task::JoinHandle;

/// The value that carries when a measurement was sent, in seconds since the clock's start.
pub const SENT: &str = "sent";

/// A clock that agents and subscriber share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts it.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since its start.
    pub fn now(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Follows a study; ends with this.
#[derive(Debug)]
pub struct Subscriber {
    delays: Arc<Mutex<Vec<f64>>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Follows a study from event `after` on.
    pub fn follow(mut client: ClientClient<Channel>, study: u64, after: u64, clock: Clock) -> Self {
        let delays = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&delays);
        let task = tokio::spawn(async move {
            let request = StreamEventsRequest { study, after, follow: true };
            let Ok(stream) = client.stream_events(request).await else { return };
            let mut stream = stream.into_inner();
            while let Ok(Some(event)) = stream.message().await {
                if event.kind != "metrics" {
                    continue;
                }
                let now = clock.now();
                let Ok(Event::Metrics { records, .. }) = serde_json::from_str(&event.json) else { continue };
                let sent = |record: &MetricRecord| record.values.get(SENT).map(|sent| now - sent);
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(records.iter().filter_map(sent));
            }
        });
        Self { delays, task }
    }

    /// The delays in seconds since the last call.
    pub fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.delays.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}
