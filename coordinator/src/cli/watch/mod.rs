//! `mtinet watch`, and the dashboard of commands that wait for a study.

mod choose;
mod convert;
mod feed;
mod recording;

use std::io::IsTerminal as _;
use std::path::Path;

use mtinet_domain::{StudyId, TrialKey};
use nix::sys::signal::{Signal, raise};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::feed::Feed;
use super::args::WatchArgs;
use super::client::Coordinator;
use super::error::CliError;
use super::follow::{self, End};
use super::interrupt::Interrupt;
use super::output;
use super::target::data_directory;
use crate::dashboard::{App, Closed, Model, NoticeKind, Request, StudyState, Terminal, Ui, Update};
use crate::report::TrialOutcome;
use crate::server::auth::ADDRESS;

/// Batches of news that wait for the dashboard at most.
const AHEAD: usize = 64;

/// Shows the dashboard until it is left.
///
/// # Errors
/// Exit code 2 without a terminal, 3 where no coordinator answers, 1 for a study that is not there.
pub async fn run(args: WatchArgs) -> Result<(), CliError> {
    if !std::io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "`mtinet watch` draws on a terminal, and standard output is none; `mtinet status STUDY` prints how a \
             study stands"
                .to_owned(),
        ));
    }
    let interrupt = Interrupt::listen()?;
    let wanted = args.study.as_deref();
    let source = match &args.data_dir {
        Some(directory) => of_directory(directory, wanted).await?,
        None => live(&args.server.url, wanted).await?,
    };
    let mut screen = Screen::open(source)?;
    let closed = tokio::select! {
        closed = screen.show() => closed?,
        () = interrupt.requested() => Closed::Interrupted,
    };
    drop(screen);
    if closed == Closed::Interrupted { Err(CliError::Interrupted) } else { Ok(()) }
}

/// Waits for a study's end as [`follow::to_the_end`] does, with the dashboard where there is a terminal for it. A person
/// who leaves the dashboard gets lines instead; one who presses Ctrl-C interrupts the program as without it.
///
/// # Errors
/// As [`follow::to_the_end`].
pub async fn to_the_end(coordinator: &mut Coordinator, study: StudyId, plain: bool) -> Result<End, CliError> {
    let has_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    if !plain && has_terminal {
        if let Some(end) = with_dashboard(coordinator, study).await? {
            return Ok(end);
        }
        output::say(format_args!("study {study} goes on, in lines from here on"));
    }
    follow::to_the_end(coordinator, study).await
}

/// How the study ended, or none where the person left the dashboard first.
async fn with_dashboard(coordinator: &Coordinator, study: StudyId) -> Result<Option<End>, CliError> {
    let source = Source {
        name: coordinator.url().to_owned(),
        study: Some(study),
        kind: Kind::Live { coordinator: Box::new(coordinator.clone()), given: None },
        waits: true,
    };
    // Dropped after the screen: what was said meanwhile is then told below it.
    let mut held = output::hold();
    let mut screen = Screen::open(source)?;
    let updates = screen.news.clone();
    let closed = loop {
        tokio::select! {
            closed = screen.show() => break closed?,
            said = held.said() => {
                // A dashboard that is full of other news shows the line when it is closed.
                let _ = updates.try_send(Update::Notice(NoticeKind::Problem, said));
            }
        }
    };
    let end = end_of(&screen.app.model.study);
    drop(screen);
    drop(held);
    match closed {
        Closed::Over => Ok(end),
        Closed::Interrupted => {
            // What the terminal would have done with this key, had the dashboard not taken it.
            raise(Signal::SIGINT).map_err(|errno| CliError::failed("cannot interrupt", &errno))?;
            // Whoever called listens for the signal, and ends this.
            std::future::pending().await
        }
        Closed::Left | Closed::Silent => Ok(None),
    }
}

fn end_of(study: &StudyState) -> Option<End> {
    let outcome = study.outcome()?;
    let failed = study.trials().filter_map(|trial| match &trial.result.outcome {
        TrialOutcome::Failed(reason) => Some((trial.result.key, reason.clone())),
        _ => None,
    });
    Some(End { outcome, failed: failed.collect() })
}

/// Where the news come from.
struct Source {
    /// For the person.
    name: String,
    /// The study to follow; the first one to come where there is none yet.
    study: Option<StudyId>,
    kind: Kind,
    /// Whether the end of the study is waited for.
    waits: bool,
}

enum Kind {
    Live {
        // Boxed: a connection is ten times as large as a recording.
        coordinator: Box<Coordinator>,
        /// What a person gave to find it by, to find it again.
        given: Option<String>,
    },
    Recorded(recording::Log),
}

async fn live(given: &str, wanted: Option<&str>) -> Result<Source, CliError> {
    let mut coordinator = Coordinator::connect(given).await?;
    let studies = coordinator.studies().await?;
    let study = choose::study(&convert::studies(studies), wanted)?;
    let name = coordinator.url().to_owned();
    let kind = Kind::Live { coordinator: Box::new(coordinator), given: Some(given.to_owned()) };
    Ok(Source { name, study, kind, waits: false })
}

/// The coordinator that serves a directory; where none does, its log.
async fn of_directory(directory: &Path, wanted: Option<&str>) -> Result<Source, CliError> {
    let data = data_directory(directory);
    if data.join(ADDRESS).is_file() {
        let path = std::path::absolute(&data).unwrap_or_else(|_| data.clone());
        match live(&path.display().to_string(), wanted).await {
            // One that was killed leaves its address behind.
            Err(CliError::Coordinator(why)) => tracing::debug!("no coordinator at {}: {why}", path.display()),
            found => return found,
        }
    }
    let log = recording::Log::open(&data, directory).await?;
    let study = choose::study(&log.studies().await?, wanted)?;
    if study.is_none() {
        return Err(CliError::NotSo(format!("the log in {} holds no study", data.display())));
    }
    Ok(Source { name: directory.display().to_string(), study, kind: Kind::Recorded(log), waits: false })
}

/// The dashboard on the terminal, with the task that brings its news.
struct Screen {
    // Given back first.
    terminal: Terminal,
    app: App,
    news: mpsc::Sender<Update>,
    feed: JoinHandle<Result<(), CliError>>,
}

impl Screen {
    fn open(source: Source) -> Result<Self, CliError> {
        let refused = |error| CliError::failed("cannot draw on this terminal", &error);
        let terminal = Terminal::take().map_err(refused)?;
        let (news, updates) = mpsc::channel(AHEAD);
        let (requests, asked) = mpsc::channel::<Request>(8);
        let (focus, looked_at) = watch::channel::<Option<TrialKey>>(None);
        let model = Model::new(source.name);
        let ui = Ui { is_run: source.waits, ..Ui::default() };
        let app = App { model, ui, updates, requests, focus, until_over: source.waits };
        let feed = match source.kind {
            Kind::Live { coordinator, given } => {
                let feed = Feed::new(*coordinator, given, news.clone(), asked, looked_at);
                tokio::spawn(feed.run(source.study))
            }
            Kind::Recorded(log) => tokio::spawn(log.play(source.study, news.clone(), asked, looked_at)),
        };
        Ok(Self { terminal, app, news, feed })
    }

    /// Shows the dashboard until it is left. May be called again after it was dropped unfinished.
    async fn show(&mut self) -> Result<Closed, CliError> {
        let Self { terminal, app, feed, .. } = self;
        tokio::select! {
            closed = app.run(terminal) => {
                closed.map_err(|error| CliError::failed("the terminal broke off", &error))
            }
            ended = feed => match ended {
                Ok(Ok(())) => Ok(Closed::Silent),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(CliError::failed("a background task broke off", &error)),
            },
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.feed.abort();
    }
}
