//! Copies a rank's log to the coordinator while it is written.
//!
//! The trainer writes to a file and knows nothing of this; nothing waits for it and nothing fails with it. One chunk is on
//! its way at a time, and each answer says where the next one begins, so a lost answer, a lost connection and a restarted
//! coordinator are one case. A log that grows faster than it may be sent is sent with gaps: its end says more than its
//! middle. One that the agent cut because it was too large goes on behind what was sent, with a gap likewise.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mtinet_proto::v1::PutLogRequest;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_runtime::convert::ToProto;
use mtinet_runtime::net::Channel;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::access::Access;
use crate::link::delays;
use crate::session::RankKey;
use crate::uplink::Uplink;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Most bytes in one call; the coordinator takes no more.
const CHUNK_BYTES: u64 = 64 << 10;

/// Pause between two full chunks: at most 256 KiB a second leave a rank.
const PACE: Duration = Duration::from_millis(250);

/// Of a log that is further ahead only the end is sent.
const MOST_BEHIND: u64 = 512 << 10;

/// How long one call may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the coordinator may be away after the trainer's end before its last lines stay here.
const GIVE_UP: Duration = Duration::from_secs(600);

/// One rank's log on its way.
#[derive(Debug)]
pub struct LogCopy {
    /// Whose.
    pub key: RankKey,
    /// Who sends it.
    pub uplink: Uplink,
    /// Where to.
    pub client: WorkerClient<Channel>,
    /// What it shows there, when the client's certificate is not taken any more.
    pub access: Arc<Access>,
    /// The file.
    pub path: PathBuf,
    /// Where this attempt's part of it begins: a file of that name may have been there before. Below zero once the file was
    /// cut: its beginning is then further on in what the attempt wrote.
    pub begins: i64,
    /// Its length when it was last looked at.
    pub seen: u64,
}

/// Why a round ended early.
enum Lost {
    /// Later, perhaps.
    Away(String),
    /// Never: the coordinator knows no logs, or not this one.
    Refused(Status),
}

impl LogCopy {
    /// Copies until the trainer has `ended` and all that it wrote is over there.
    pub async fn run(mut self, ended: CancellationToken) {
        let mut delays = delays();
        // Where the coordinator expects the next chunk; asked anew after every trouble.
        let mut next = None;
        let mut give_up = None;
        loop {
            // Looked at before the file: what ended writes no more.
            let is_last = ended.is_cancelled();
            let wait = match self.copy_new(&mut next).await {
                Ok(()) if is_last => return,
                Ok(()) => {
                    delays = self::delays();
                    EVERY
                }
                Err(Lost::Refused(status)) => {
                    tracing::debug!(words = status.message(), "the coordinator does not take this log");
                    return;
                }
                Err(Lost::Away(reason)) => {
                    tracing::debug!(reason, "the log waits");
                    next = None;
                    delays.next().unwrap_or(EVERY)
                }
            };
            if is_last && Instant::now() > *give_up.get_or_insert_with(|| Instant::now() + GIVE_UP) {
                return;
            }
            let pause = tokio::time::sleep(wait);
            if is_last {
                pause.await;
            } else {
                tokio::select! { () = pause => {}, () = ended.cancelled() => {} }
            }
        }
    }

    /// Sends what the file has more than the coordinator.
    async fn copy_new(&mut self, next: &mut Option<u64>) -> Result<(), Lost> {
        let Ok(metadata) = tokio::fs::metadata(&self.path).await else { return Ok(()) };
        if metadata.len() < self.seen {
            let sent = self.put(0, Vec::new(), false).await?;
            tracing::debug!(log = %self.path.display(), "the log was cut; going on with what is left");
            self.begins = -i64::try_from(sent).unwrap_or(i64::MAX);
            *next = Some(sent);
        }
        self.seen = metadata.len();
        let length = self.seen.saturating_add_signed(self.begins.saturating_neg());
        let mut at = match *next {
            Some(at) => at,
            None if length == 0 => return Ok(()),
            None => self.put(0, Vec::new(), false).await?,
        };
        // One that is ahead of the file has the log of somebody else; it is not disturbed.
        while at < length {
            let from = at.max(length.saturating_sub(MOST_BEHIND));
            let data = self.read(from, (length - from).min(CHUNK_BYTES)).await?;
            let is_full = data.len() as u64 == CHUNK_BYTES;
            let end = from + data.len() as u64;
            let answer = self.put(from, data, from > at).await?;
            if answer < end && answer <= at {
                return Err(Lost::Away("the coordinator did not take it".to_owned()));
            }
            at = answer;
            *next = Some(at);
            if is_full {
                tokio::time::sleep(PACE).await;
            }
        }
        *next = Some(at);
        Ok(())
    }

    async fn read(&self, from: u64, bytes: u64) -> Result<Vec<u8>, Lost> {
        let read = async {
            let mut file = tokio::fs::File::open(&self.path).await?;
            file.seek(SeekFrom::Start(from.saturating_add_signed(self.begins))).await?;
            let mut data = Vec::new();
            file.take(bytes).read_to_end(&mut data).await?;
            Ok::<_, std::io::Error>(data)
        };
        match read.await {
            Ok(data) if !data.is_empty() => Ok(data),
            Ok(_) => Err(Lost::Away("the log became shorter".to_owned())),
            Err(error) => Err(Lost::Away(error.to_string())),
        }
    }

    /// Where the next chunk begins, says the coordinator.
    async fn put(&mut self, offset: u64, data: Vec<u8>, skips: bool) -> Result<u64, Lost> {
        let worker = self.uplink.with(|session| session.worker().cloned());
        let Some(worker) = worker else { return Err(Lost::Away("the agent has not joined".to_owned())) };
        let (attempt, rank) = self.key;
        let mut request = tonic::Request::new(PutLogRequest {
            worker_id: worker.0,
            attempt: Some(attempt.to_proto()),
            rank: rank.0,
            offset,
            data,
            skips,
        });
        request.set_timeout(ANSWER_TIMEOUT);
        match self.client.put_log(request).await {
            Ok(answer) => Ok(answer.into_inner().next),
            Err(status) => match status.code() {
                // `PermissionDenied` is what a coordinator without this call says: its table does not name it.
                Code::Unimplemented
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::InvalidArgument => Err(Lost::Refused(status)),
                Code::Unauthenticated => {
                    // The connection may be older than the identity, which the agent renews.
                    self.client = self.access.worker_client().unwrap_or_else(|_| self.client.clone());
                    Err(Lost::Away(status.message().to_owned()))
                }
                _ => Err(Lost::Away(status.message().to_owned())),
            },
        }
    }
}
