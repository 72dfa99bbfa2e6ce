//! The connection to the coordinator: joins, holds the one session, heartbeats, comes back after every loss.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use mtinet_domain::WorkerId;
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{
    self, CoordinatorMessage, Heartbeat, JoinRequest, WorkerMessage, coordinator_message, worker_message,
};
use mtinet_runtime::convert::{ToProto, required};
use mtinet_runtime::net::{self, Channel};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::access::Access;
use crate::session::report_message;
use crate::uplink::Uplink;
use crate::usage;

/// Messages that wait for the connection to take them.
const OUTGOING: usize = 64;

/// Reports handed over at once.
const REPORTS_AT_ONCE: usize = 32;

/// How long the coordinator may take to answer Join, or to say Welcome.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Before another try to read a report from the spool.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Heartbeat interval before the first join told one.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Delays between tries: soon enough to be back within a lease, spread so that a fleet does not come at once.
pub fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(1))
        .without_max_times()
        .with_jitter()
        .build()
}

/// What the coordinator tells the agent to do.
#[derive(Debug)]
pub enum Command {
    /// Start one rank.
    Start(Box<v1::StartRank>),
    /// Tell a rank where rank 0's store listens.
    Connect(v1::ConnectRank),
    /// End all ranks of an attempt.
    Stop(v1::StopAttempt),
    /// Say whether a data set is here.
    Look(v1::LookForDataset),
}

/// Why a connection ended.
#[derive(Debug)]
enum Lost {
    /// Try again.
    Away(String),
    /// The coordinator refuses this agent for good, in words.
    Refused(String),
}

/// The driver of the session.
#[derive(Debug)]
pub struct Link {
    /// The coordinator's address.
    pub url: String,
    /// The name that people see.
    pub name: String,
    /// What it shows there.
    pub access: Arc<Access>,
    /// The session.
    pub uplink: Uplink,
    /// Where commands go.
    pub commands: mpsc::UnboundedSender<Command>,
    /// How the machine stands; not told for an agent that is no more.
    pub usage: Option<usage::Latest>,
    heartbeat: Duration,
}

impl Link {
    /// A link that is not connected yet.
    pub fn new(
        url: String,
        name: String,
        access: Arc<Access>,
        uplink: Uplink,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self { url, name, access, uplink, commands, usage: None, heartbeat: HEARTBEAT }
    }

    /// Stays connected forever; returns the coordinator's words where it refuses this agent.
    pub async fn run(mut self) -> String {
        let mut delays = delays();
        let mut said = String::new();
        loop {
            let since = Instant::now();
            let lost = self.connect_once().await;
            let welcomed = self.uplink.backlog().welcome;
            self.uplink.with(crate::session::Session::on_disconnected);
            match lost {
                Lost::Refused(message) => return message,
                Lost::Away(reason) => {
                    // The same reason a hundred times over tells nobody anything.
                    if welcomed || reason != said {
                        tracing::warn!(%reason, url = self.url, "no session with the coordinator; trying again");
                    }
                    said = reason;
                }
            }
            // One that ends as soon as it is open is not hurried back to.
            if welcomed && since.elapsed() > ANSWER_TIMEOUT {
                delays = self::delays();
            }
            tokio::time::sleep(delays.next().unwrap_or(ANSWER_TIMEOUT)).await;
        }
    }

    async fn connect_once(&mut self) -> Lost {
        let channel = match net::connect_as(&self.url, self.access.credentials()).await {
            Ok(channel) => channel,
            // Whoever was let in before waits for the right coordinator to come back.
            Err(error) if !error.is_transient() && self.uplink.with(|session| session.worker().is_none()) => {
                return Lost::Refused(chain(&error));
            }
            Err(error) => return Lost::Away(chain(&error)),
        };
        let mut client = net::worker_client(channel);
        if self.uplink.with(|session| session.worker().is_none())
            && let Err(lost) = self.join(&mut client).await
        {
            return lost;
        }
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let Some(hello) = self.uplink.with(crate::session::Session::hello) else {
            return Lost::Away("the agent has not joined".to_owned());
        };
        let hello = WorkerMessage { message: Some(worker_message::Message::Hello(hello)) };
        if outgoing.try_send(hello).is_err() {
            return Lost::Away("the connection takes no message".to_owned());
        }
        let opening = tokio::time::timeout(ANSWER_TIMEOUT, client.session(ReceiverStream::new(messages)));
        match opening.await {
            Err(_) => Lost::Away("the coordinator does not open the session".to_owned()),
            Ok(Err(status)) if status.code() == Code::Unauthenticated => self.shut_out(&status).await,
            Ok(Err(status)) => self.session_refused(&status),
            Ok(Ok(response)) => self.converse(response.into_inner(), outgoing).await,
        }
    }

    async fn join(&mut self, client: &mut WorkerClient<Channel>) -> Result<(), Lost> {
        let mut request = tonic::Request::new(JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            name: self.name.clone(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        request.set_timeout(ANSWER_TIMEOUT);
        let joined = match client.join(request).await {
            Ok(joined) => joined.into_inner(),
            Err(status) if status.code() == Code::Unauthenticated => {
                return Err(self.shut_out(&status).await);
            }
            Err(status) => return Err(join_refused(&status)),
        };
        let worker: WorkerId =
            required("worker_id", Some(joined.worker_id)).map_err(|error| Lost::Away(error.to_string()))?;
        if joined.heartbeat_interval_ms > 0 {
            self.heartbeat = Duration::from_millis(joined.heartbeat_interval_ms.into());
        }
        tracing::info!(%worker, lease_ms = joined.lease_ms, "joined the coordinator");
        self.uplink.with(|session| session.on_joined(worker));
        Ok(())
    }

    /// Welcome, then everything at once: heartbeats and reports out, acknowledgements and commands in.
    async fn converse(
        &self,
        mut incoming: Streaming<CoordinatorMessage>,
        outgoing: mpsc::Sender<WorkerMessage>,
    ) -> Lost {
        // Heartbeats have a task of their own, so that nothing that the agent does can hold them up.
        let (usage, uplink) = (self.usage.clone(), self.uplink.clone());
        let heartbeats = tokio::spawn(heartbeats(self.heartbeat, outgoing.clone(), usage, uplink));
        let lost = tokio::select! {
            lost = self.listen(&mut incoming) => lost,
            () = self.say(outgoing) => match incoming.message().await {
                Err(status) => self.session_refused(&status),
                Ok(_) => Lost::Away("the connection was closed".to_owned()),
            },
        };
        heartbeats.abort();
        lost
    }

    async fn listen(&self, incoming: &mut Streaming<CoordinatorMessage>) -> Lost {
        let mut welcomed = false;
        loop {
            let next = if welcomed {
                incoming.message().await
            } else {
                match tokio::time::timeout(ANSWER_TIMEOUT, incoming.message()).await {
                    Ok(next) => next,
                    Err(_) => return Lost::Away("the coordinator does not say Welcome".to_owned()),
                }
            };
            let message = match next {
                Ok(Some(message)) => message.message,
                Ok(None) => return Lost::Away("the coordinator closed the session".to_owned()),
                Err(status) => return self.session_refused(&status),
            };
            match message {
                Some(coordinator_message::Message::Welcome(welcome)) => {
                    welcomed = true;
                    self.uplink.with(|session| session.on_welcome(welcome.last_seq));
                    tracing::info!(last_seq = welcome.last_seq, "session with the coordinator is open");
                }
                Some(coordinator_message::Message::Ack(ack)) => {
                    self.uplink.with(|session| session.on_ack(ack.seq));
                }
                Some(coordinator_message::Message::Start(start)) => {
                    self.command(Command::Start(Box::new(start)));
                }
                Some(coordinator_message::Message::Connect(connect)) => {
                    self.command(Command::Connect(connect));
                }
                Some(coordinator_message::Message::Stop(stop)) => self.command(Command::Stop(stop)),
                Some(coordinator_message::Message::Look(look)) => self.command(Command::Look(look)),
                None => tracing::warn!("the coordinator sent a message that this release does not know"),
            }
        }
    }

    fn command(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!("a command arrived while the agent ends");
        }
    }

    /// Sends reports as they come up; ends when the connection takes no more.
    async fn say(&self, outgoing: mpsc::Sender<WorkerMessage>) {
        let mut carried = 0;
        loop {
            self.uplink.wait_for(|backlog| backlog.welcome && backlog.last_seq > carried).await;
            let (reports, is_stuck, last_seq) = self.uplink.with(|session| {
                let reports = session.take_unsent(REPORTS_AT_ONCE);
                (reports, session.has_unsent(), session.backlog().last_seq)
            });
            if reports.is_empty() && is_stuck {
                tokio::time::sleep(READ_PAUSE).await;
            } else if reports.is_empty() {
                // All of it was recorded already.
                carried = last_seq;
            }
            for report in reports {
                carried = report.seq;
                if outgoing.send(report_message(report)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The coordinator does not take the certificate.
    async fn shut_out(&self, status: &Status) -> Lost {
        if net::is_plaintext(&self.url) {
            return join_refused(status);
        }
        match self.access.recover().await {
            Ok(()) => Lost::Away(format!("{}; got another certificate", status.message())),
            Err(None) => Lost::Away(status.message().to_owned()),
            Err(Some(words)) => Lost::Refused(words),
        }
    }

    /// A coordinator that does not know this identity wants the agent to join anew, which it may refuse in words.
    fn session_refused(&self, status: &Status) -> Lost {
        // Other refusals are about a message: under another identity the coordinator would refuse that too, and the trials
        // that run here would be lost to it.
        if matches!(status.code(), Code::NotFound | Code::PermissionDenied | Code::FailedPrecondition) {
            self.uplink.with(crate::session::Session::on_forgotten);
        }
        Lost::Away(status.message().to_owned())
    }
}

async fn heartbeats(
    interval: Duration,
    outgoing: mpsc::Sender<WorkerMessage>,
    mut usage: Option<usage::Latest>,
    uplink: Uplink,
) {
    // A new session hears the latest measurement at once, and then each new one.
    if let Some(usage) = &mut usage {
        usage.mark_changed();
    }
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let news = usage.as_mut().filter(|usage| usage.has_changed().unwrap_or(false));
        let usage = news.and_then(|usage| usage.borrow_and_update().as_ref().map(ToProto::to_proto));
        let working = uplink.take_working().iter().map(ToProto::to_proto).collect();
        let message =
            WorkerMessage { message: Some(worker_message::Message::Heartbeat(Heartbeat { usage, working })) };
        if outgoing.send(message).await.is_err() {
            return;
        }
    }
}

fn join_refused(status: &Status) -> Lost {
    if is_refusal(status.code()) {
        Lost::Refused(status.message().to_owned())
    } else {
        Lost::Away(status.message().to_owned())
    }
}

fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
