//! A study of the paper's size on a large fleet, with dashboards that look on: do they slow it down?
//!
//! The dashboards are real `mtinet watch` processes, each on a terminal of its own.

use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::pty::{Winsize, openpty};

use crate::agent::{Batch, Fleet, Plan, Work};
use crate::coordinator::{Coordinator, Program};
use crate::study;
use crate::subscriber::{Clock, Subscriber};

const PATIENCE: Duration = Duration::from_secs(300);

/// How often each trial reports; a step a report, as fast trials do.
const EVERY: Duration = Duration::from_millis(250);

/// What is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Agents, of one slot each.
    pub workers: u32,
    /// Dashboards in the second half.
    pub watchers: u32,
    /// How long each half is measured.
    pub time: Duration,
    /// How long all goes on afterwards, for a person who wants to look.
    pub hold: Duration,
}

/// One half: without or with dashboards.
#[derive(Clone, Debug)]
pub struct Half {
    /// Reports that became durable and reached a subscriber, each second.
    pub reports: f64,
    /// Seconds from sending a measurement to its arrival at a subscriber.
    pub delays: Vec<f64>,
    /// Share of one core that the coordinator used.
    pub load: f64,
}

/// What it came to.
#[derive(Debug)]
pub struct Outcome {
    /// Trials that were training.
    pub trials: u32,
    /// Nobody looks.
    pub alone: Half,
    /// All dashboards are open.
    pub watched: Half,
    /// Bytes a second that a dashboard drew, the mean of all.
    pub drawn: f64,
}

/// Lets a fleet train the paper's programme, first alone, then watched.
///
/// # Errors
/// A fleet that does not come to train, and a dashboard that ends or draws nothing.
pub async fn run(program: &Program, options: Options) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let coordinator = Coordinator::start(program, &dir.path().join("data")).await?;
    let access = coordinator.worker().await?;
    let clock = Clock::start();
    let work = Work::Train { every: EVERY, batch: Batch { records: 1, values: 6 } };
    let Options { workers, watchers, time, hold } = options;
    let fleet = Fleet::start(&Plan { url: coordinator.url(), access, workers, slots: 1, work }, clock);
    fleet.wait_for_sessions(workers, PATIENCE).await?;
    let mut client = coordinator.client().await?;
    let (spec, trials) = study::programme()?;
    let study = study::submit(&mut client, &spec).await?;
    study::wait_for(&mut client, study, "running", trials.min(workers), PATIENCE).await?;
    let subscriber = Subscriber::follow(coordinator.client().await?, study, 0, clock);
    let alone = half(&coordinator, &subscriber, time).await?;
    let dashboards: Vec<Dashboard> =
        (0..watchers).map(|_| Dashboard::open(program, &coordinator)).collect::<Result<_, _>>()?;
    for dashboard in &dashboards {
        dashboard.wait_for_picture().await?;
    }
    let before: u64 = dashboards.iter().map(Dashboard::drawn).sum();
    let watched = half(&coordinator, &subscriber, time).await?;
    let after: u64 = dashboards.iter().map(Dashboard::drawn).sum();
    let drawn = (after - before) as f64 / time.as_secs_f64() / f64::from(watchers.max(1));
    for mut dashboard in dashboards {
        ensure!(dashboard.process.try_wait()?.is_none(), "a dashboard ended by itself");
    }
    if !hold.is_zero() {
        eprintln!("look at it: mtinet watch --coordinator {}", coordinator.data_dir().display());
        tokio::time::sleep(hold).await;
    }
    Ok(Outcome { trials: trials.min(workers), alone, watched, drawn })
}

async fn half(coordinator: &Coordinator, subscriber: &Subscriber, time: Duration) -> anyhow::Result<Half> {
    // What was stored before, or piled up while dashboards opened, says nothing about delays.
    tokio::time::sleep(Duration::from_secs(3)).await;
    subscriber.take();
    let (cpu, began) = (coordinator.cpu()?, Instant::now());
    tokio::time::sleep(time).await;
    let (delays, wall) = (subscriber.take(), began.elapsed().as_secs_f64());
    let load = coordinator.cpu()?.saturating_sub(cpu).as_secs_f64() / wall;
    Ok(Half { reports: delays.len() as f64 / wall, delays, load })
}

/// `mtinet watch` on a terminal that nobody sees; ends with this.
struct Dashboard {
    process: Child,
    drawn: Arc<AtomicU64>,
}

impl Dashboard {
    fn open(program: &Program, coordinator: &Coordinator) -> anyhow::Result<Self> {
        let size = Winsize { ws_row: 60, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(&size, None).context("no terminal for a dashboard")?;
        let process = Command::new(&program.path)
            .arg("watch")
            .arg("--coordinator")
            .arg(coordinator.data_dir())
            .env("TERM", "xterm-256color")
            .stdin(terminal.slave.try_clone()?)
            .stdout(terminal.slave)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.path.display()))?;
        let drawn = Arc::new(AtomicU64::new(0));
        let (mut screen, count) = (File::from(terminal.master), Arc::clone(&drawn));
        // It ends with the process: then there is no slave any more.
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                count.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
        Ok(Self { process, drawn })
    }

    fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }

    /// A whole screen of 200 x 60 has at least as many bytes as characters.
    async fn wait_for_picture(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.drawn() < 200 * 60 {
            ensure!(Instant::now() < deadline, "a dashboard drew nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
