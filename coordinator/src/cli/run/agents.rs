//! The worker agents of a local run: started, watched, started again when they die, ended in order.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mtinet_runtime::shutdown::INTERRUPTED;
use mtinet_runtime::tls::write_private;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use secrecy::ExposeSecret as _;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::client::Coordinator;
use crate::cli::error::{CliError, chain};
use crate::cli::interrupt::Interrupt;
use crate::cli::output::say;
use crate::cli::run_dir::RunDir;
use crate::report::write_atomically;

/// Deaths in a row, each soon after the start, after which an agent is not started again.
const MOST_EARLY_DEATHS: u32 = 5;
/// An agent that lived this long was not a failed start.
const LONG_LIFE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Trainers end at a step boundary and write a checkpoint; a large network on a slow disk takes its time.
const GRACE: Duration = Duration::from_secs(60);
/// What an agent ends with soon after its start when its configuration is wrong or the coordinator refuses it:
/// starting it again cannot help.
const HOPELESS: [i32; 2] = [2, 3];
/// Holds the token that the agent joins with, in its work directory.
const TOKEN_FILE: &str = "token";
/// An agent uses its token at once, or when it is started again.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
const LOG_LINES_SHOWN: usize = 15;

/// The programs that a run starts.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The agent's.
    pub worker: PathBuf,
    /// The trainer's.
    pub trainer: PathBuf,
}

impl Programs {
    /// Those beside this program.
    ///
    /// # Errors
    /// Where one is not there.
    pub fn beside_this() -> Result<Self, CliError> {
        Ok(Self { worker: beside_this("mtinet-worker")?, trainer: beside_this("mtinet-trainer")? })
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    programs: Programs,
    devices: Vec<String>,
    data_root: PathBuf,
}

impl Plan {
    /// One agent for each entry of `devices`.
    pub fn new(programs: Programs, devices: Vec<String>, dataset: &Path) -> Self {
        Self { programs, devices, data_root: dataset.to_owned() }
    }
}

fn beside_this(name: &str) -> Result<PathBuf, CliError> {
    let this = std::env::current_exe()
        .map_err(|error| CliError::failed("cannot find this program's directory", &error))?;
    let program = this.with_file_name(name);
    if program.is_file() {
        return Ok(program);
    }
    Err(CliError::Usage(format!(
        "{} is missing; `mtinet run` needs mtinet-worker and mtinet-trainer beside mtinet (`make build` makes all three)",
        program.display()
    )))
}

/// The running agents.
pub struct Fleet {
    watchers: JoinSet<CliError>,
    stop: CancellationToken,
}

impl Fleet {
    /// Starts all agents.
    ///
    /// # Errors
    /// Where their directories or logs cannot be made.
    pub async fn start(
        plan: &Plan,
        coordinator: &mut Coordinator,
        directory: &RunDir,
        interrupt: &Interrupt,
    ) -> Result<Self, CliError> {
        let url = coordinator.url().to_owned();
        let stop = CancellationToken::new();
        let mut watchers = JoinSet::new();
        for (index, devices) in plan.devices.iter().enumerate() {
            let name = format!("local-{index}");
            let work = directory.work(&name);
            std::fs::create_dir_all(&work)
                .map_err(|error| CliError::failed(format_args!("cannot make {}", work.display()), &error))?;
            let token_file = work.join(TOKEN_FILE);
            // As many uses as starts: an agent that dies before it stored what the token bought needs it again.
            let (token, _) = coordinator.create_token("worker", TOKEN_LIFE, MOST_EARLY_DEATHS).await?;
            write_private(&token_file, token.expose_secret().as_bytes())?;
            let agent = Agent {
                cores: share_of_cores(index, &plan.devices),
                log: directory.logs().join(format!("worker-{index}.log")),
                arguments: vec![
                    ("--coordinator", url.clone().into()),
                    ("--token-file", token_file.into_os_string()),
                    ("--devices", devices.into()),
                    ("--data-root", plan.data_root.clone().into_os_string()),
                    // Whoever runs this chose the data set, links and all.
                    ("--linked-data", "true".into()),
                    ("--work-dir", work.clone().into_os_string()),
                    ("--trainer", plan.programs.trainer.clone().into_os_string()),
                    ("--name", name.clone().into()),
                ],
                program: plan.programs.worker.clone(),
                name,
                work,
                interrupt: interrupt.clone(),
            };
            watchers.spawn(agent.watch(stop.clone()));
        }
        Ok(Self { watchers, stop })
    }

    /// Resolves when no agent is left to be started again.
    pub async fn gave_up(&mut self) -> CliError {
        let mut last = None;
        while let Some(ended) = self.watchers.join_next().await {
            last =
                Some(ended.unwrap_or_else(|error| CliError::failed("a worker's watcher broke off", &error)));
        }
        last.unwrap_or_else(|| CliError::NotSo("there is no worker".to_owned()))
    }

    /// Ends all agents; their trainers stop at a step boundary.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.watchers.join_next().await.is_some() {}
    }
}

struct Agent {
    name: String,
    program: PathBuf,
    arguments: Vec<(&'static str, std::ffi::OsString)>,
    work: PathBuf,
    log: PathBuf,
    /// Cores that it may use; all where absent.
    cores: Option<CpuSet>,
    interrupt: Interrupt,
}

/// Agents that share this machine's CPU each get cores of their own. An agent sizes its trainers' thread pools by the
/// cores that it sees, and pools that sum up to more than there are slow each other down badly.
fn share_of_cores(index: usize, devices: &[String]) -> Option<CpuSet> {
    let is_cpu = |device: &str| device.trim_start().starts_with("cpu");
    if devices.len() < 2 || !devices.iter().flat_map(|devices| devices.split(',')).all(is_cpu) {
        return None;
    }
    let all = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&core| all.is_set(core).unwrap_or(false)).collect();
    let mut share = CpuSet::new();
    if cores.len() < devices.len() {
        share.set(*cores.get(index % cores.len().max(1))?).ok()?;
    } else {
        for &core in cores.iter().skip(index).step_by(devices.len()) {
            share.set(core).ok()?;
        }
    }
    Some(share)
}

impl Agent {
    /// Keeps the agent running until told to stop; resolves with the reason where it cannot be kept running.
    async fn watch(self, stop: CancellationToken) -> CliError {
        let mut early_deaths = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let mut child = match self.spawn() {
                Ok(child) => child,
                Err(error) => return error,
            };
            let status = tokio::select! {
                status = child.wait() => status,
                () = stop.cancelled() => {
                    self.end(child).await;
                    return CliError::Interrupted;
                }
            };
            self.forget(&child);
            let status = match status {
                Ok(status) => status,
                Err(error) => {
                    return CliError::failed(format_args!("cannot watch worker {}", self.name), &error);
                }
            };
            let hopeless = if begun.elapsed() >= LONG_LIFE {
                (early_deaths, pause) = (0, FIRST_PAUSE);
                false
            } else {
                early_deaths += 1;
                status.code().is_some_and(|code| HOPELESS.contains(&code))
            };
            if hopeless || early_deaths >= MOST_EARLY_DEATHS {
                return self.lost(status, early_deaths);
            }
            say(format_args!("worker {} ended ({}); starting it again", self.name, words(status)));
            tokio::select! {
                () = tokio::time::sleep(pause) => pause *= 2,
                () = stop.cancelled() => return CliError::Interrupted,
            }
        }
    }

    fn spawn(&self) -> Result<Child, CliError> {
        let refused = |error| CliError::failed(format_args!("cannot write {}", self.log.display()), &error);
        let log = std::fs::File::options().create(true).append(true).open(&self.log).map_err(refused)?;
        let for_errors = log.try_clone().map_err(refused)?;
        let mut command = Command::new(&self.program);
        for (flag, value) in &self.arguments {
            command.arg(flag).arg(value);
        }
        // A group of its own: a terminal's Ctrl-C is for this process, which then ends the agent in order.
        // Killed only where it was not ended in order, by a failure here.
        command.process_group(0).kill_on_drop(true).stdin(Stdio::null()).stdout(log).stderr(for_errors);
        let child = spawn_on(self.cores, &mut command).map_err(|error| {
            CliError::failed(format_args!("cannot start {}", self.program.display()), &error)
        })?;
        if let Some(pid) = pid_of(&child) {
            self.interrupt.adopt(pid);
            write_atomically(&self.work.join(PID_FILE), pid.to_string().as_bytes())?;
        }
        Ok(child)
    }

    fn forget(&self, child: &Child) {
        if let Some(pid) = pid_of(child) {
            self.interrupt.release(pid);
        }
        // A file that stays is checked against the process's command line before anything is done with it.
        let _ = std::fs::remove_file(self.work.join(PID_FILE));
    }

    async fn end(&self, mut child: Child) {
        if let Some(pid) = pid_of(&child) {
            // One that is gone is what is wanted.
            let _ = kill(pid, Signal::SIGTERM);
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                say(format_args!("worker {} does not end; killing it", self.name));
                let _ = killpg(pid, Signal::SIGKILL);
                let _ = child.wait().await;
            }
            self.interrupt.release(pid);
        }
        let _ = std::fs::remove_file(self.work.join(PID_FILE));
    }

    fn lost(&self, status: ExitStatus, deaths: u32) -> CliError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut lines: VecDeque<&str> = log.lines().collect();
        while lines.len() > LOG_LINES_SHOWN {
            lines.pop_front();
        }
        let lines: Vec<String> = lines.iter().map(|line| format!("\n  {line}")).collect();
        CliError::NotSo(format!(
            "worker {} cannot be kept running: it ended {deaths} time(s), last with {}; the end of {}:{}",
            self.name,
            words(status),
            self.log.display(),
            lines.concat()
        ))
    }
}

/// Starts a process on these cores. A child inherits the cores of the thread that starts it, so a thread that lives
/// only for that takes them on first.
fn spawn_on(cores: Option<CpuSet>, command: &mut Command) -> std::io::Result<Child> {
    let Some(cores) = cores else { return command.spawn() };
    let runtime = tokio::runtime::Handle::current();
    let starter = move || {
        let _inside = runtime.enter();
        sched_setaffinity(Pid::from_raw(0), &cores)?;
        command.spawn()
    };
    std::thread::scope(|scope| {
        scope
            .spawn(starter)
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the starting thread broke off")))
    })
}

/// Holds the agent's process number, in its work directory.
const PID_FILE: &str = "agent.pid";

fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| pid.try_into().ok()).map(Pid::from_raw)
}

fn words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(INTERRUPTED) => "interrupted".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Ends agents that a killed `mtinet run` left behind in this run directory: they would hold its cores for ever,
/// waiting for a coordinator whose port nobody takes again.
///
/// # Errors
/// Where one does not end.
pub async fn end_leftovers(directory: &RunDir) -> Result<(), CliError> {
    let Ok(entries) = std::fs::read_dir(directory.root().join("work")) else { return Ok(()) };
    for work in entries.flatten().map(|entry| entry.path()) {
        let file = work.join(PID_FILE);
        let Some(pid) = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()) else {
            continue;
        };
        let pid = Pid::from_raw(pid);
        if is_agent_of(pid, &work) {
            say(format_args!("ending a worker (process {pid}) that an earlier run left behind"));
            end_process(pid, &work).await?;
        }
        let _ = std::fs::remove_file(&file);
    }
    Ok(())
}

/// Process numbers are used again: only one that was started for this very directory is ours.
fn is_agent_of(pid: Pid, work: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    line.split(|byte| *byte == 0).any(|argument| argument == work.as_os_str().as_bytes())
}

async fn end_process(pid: Pid, work: &Path) -> Result<(), CliError> {
    let deadline = Instant::now() + GRACE;
    let _ = kill(pid, Signal::SIGTERM);
    while is_agent_of(pid, work) {
        if Instant::now() > deadline {
            killpg(pid, Signal::SIGKILL).map_err(|error| {
                CliError::NotSo(format!(
                    "process {pid} of an earlier run does not end: {}; end it first",
                    chain(&error)
                ))
            })?;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(directory: &Path, script: &str) -> Agent {
        Agent {
            name: "local-0".into(),
            program: "/bin/sh".into(),
            arguments: vec![("-c", script.into())],
            work: directory.to_owned(),
            log: directory.join("log"),
            cores: None,
            interrupt: Interrupt::default(),
        }
    }

    #[tokio::test]
    async fn an_agent_that_dies_is_started_again_but_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo started; exit 7";
        let error = agent(directory.path(), script).watch(CancellationToken::new()).await;
        assert!(error.to_string().contains("exit code 7"), "{error}");
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
        assert_eq!(log.lines().count(), MOST_EARLY_DEATHS as usize);
    }

    #[tokio::test]
    async fn an_agent_that_refuses_its_arguments_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let error =
            agent(directory.path(), "echo no such flag; exit 2").watch(CancellationToken::new()).await;
        assert!(
            error.to_string().contains("ended 1 time(s)") && error.to_string().contains("no such flag"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn stopping_lets_an_agent_end_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let ready = directory.path().join("ready");
        let script = format!(
            "trap 'echo in order; exit 0' TERM; echo x > {}; while true; do sleep 0.05; done",
            ready.display()
        );
        let stop = CancellationToken::new();
        let watching = tokio::spawn(agent(directory.path(), &script).watch(stop.clone()));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ready.exists() {
            assert!(Instant::now() < deadline, "the agent never started");
            tokio::task::yield_now().await;
        }
        stop.cancel();
        assert!(matches!(watching.await.unwrap(), CliError::Interrupted));
        assert_eq!(std::fs::read_to_string(directory.path().join("log")).unwrap(), "in order\n");
        assert!(!directory.path().join(PID_FILE).exists());
    }

    #[test]
    fn agents_on_one_cpu_share_its_cores() {
        let devices = |n: usize| vec!["cpu:1".to_owned(); n];
        let cores = |share: CpuSet| (0..CpuSet::count()).filter(|&core| share.is_set(core).unwrap()).count();
        let all = cores(sched_getaffinity(Pid::from_raw(0)).unwrap());
        assert!(share_of_cores(0, &devices(1)).is_none());
        for other in ["cuda:1", "cpu:2,cuda:0"] {
            assert!(share_of_cores(0, &["cpu".to_owned(), other.to_owned()]).is_none());
        }
        let two: usize = (0..2).map(|index| cores(share_of_cores(index, &devices(2)).unwrap())).sum();
        assert_eq!(two, all.max(2));
        assert_eq!(cores(share_of_cores(all + 1, &devices(all + 2)).unwrap()), 1);
    }

    #[tokio::test]
    async fn a_child_sees_only_its_cores() {
        let directory = tempfile::tempdir().unwrap();
        let mut agent = agent(directory.path(), "nproc; exit 2");
        agent.cores = share_of_cores(0, &vec!["cpu:1".to_owned(); 1000]);
        agent.watch(CancellationToken::new()).await;
        assert_eq!(std::fs::read_to_string(directory.path().join("log")).unwrap(), "1\n");
    }

    #[test]
    fn a_process_of_another_directory_is_left_alone() {
        let own = Pid::this();
        assert!(!is_agent_of(own, Path::new("/no/such/work")));
    }
}
