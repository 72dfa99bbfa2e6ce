//! The coordinator as a process: started, measured, killed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::CreateTokenRequest;
use mtinet_proto::v1::GetServerInfoRequest;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_runtime::net::{self, Channel};
use mtinet_runtime::tls::{Credentials, Identity, NewKey, Token, enrol};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

/// Nothing takes longer to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often an answer is looked for while the coordinator comes up.
const PROBE: Duration = Duration::from_millis(2);

/// What is started, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Program {
    /// The `mtinet` binary.
    pub path: PathBuf,
    /// Whether connections are encrypted and authenticated, as they are by default.
    pub tls: bool,
}

/// A coordinator process on a data directory; ends with this.
#[derive(Debug)]
pub struct Coordinator {
    program: Program,
    data_dir: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Coordinator {
    /// Starts the program on a free port, and waits until it answers.
    ///
    /// # Errors
    /// A program that does not start or does not answer.
    pub async fn start(program: &Program, data_dir: &Path) -> anyhow::Result<Self> {
        raise_open_files();
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("no free port")?.port();
        let mut coordinator =
            Self { program: program.clone(), data_dir: data_dir.to_owned(), port, process: None };
        coordinator.restart().await?;
        Ok(coordinator)
    }

    /// Starts it again and returns how long it took from the start of the process to its first answer.
    ///
    /// # Errors
    /// As [`Coordinator::start`].
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        let log = self.data_dir.with_extension("log");
        let log = std::fs::File::options().create(true).append(true).open(&log).context("the log")?;
        let began = Instant::now();
        let child = Command::new(&self.program.path)
            .arg("coordinator")
            .args((!self.program.tls).then_some("--insecure"))
            .arg("--data-dir")
            .arg(&self.data_dir)
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .env("MTINET_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.path.display()))?;
        self.process = Some(child);
        loop {
            if self.answers().await {
                return Ok(began.elapsed());
            }
            if let Some(Ok(Some(status))) = self.process.as_mut().map(Child::try_wait) {
                bail!("the coordinator ended with {status}; see {}.log", self.data_dir.display());
            }
            if began.elapsed() > PATIENCE {
                bail!("the coordinator did not answer within {PATIENCE:?}");
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    async fn answers(&self) -> bool {
        let Ok(operator) = self.operator() else { return false };
        let Ok(channel) = net::connect_as(&self.url(), &operator).await else { return false };
        let request = GetServerInfoRequest { protocol_version: PROTOCOL_VERSION };
        net::client_client(channel).get_server_info(request).await.is_ok()
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// A process that was over before.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the coordinator does not run")?;
        if let Some(status) = process.try_wait()? {
            bail!("the coordinator had ended with {status} before it was killed");
        }
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.program.tls { "https" } else { "http" }, self.port)
    }

    /// Where it keeps everything; stands for it in commands on this machine.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A client's connection to it.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn client(&self) -> anyhow::Result<ClientClient<Channel>> {
        Ok(net::client_client(net::connect_as(&self.url(), &self.operator()?).await?))
    }

    /// What commands on this machine show to it.
    fn operator(&self) -> anyhow::Result<Credentials> {
        if !self.program.tls {
            return Ok(Credentials::Plaintext);
        }
        Ok(Credentials::of(Identity::load(&self.data_dir.join("tls/operator.pem"))?))
    }

    /// An identity that all agents of a fleet show to it, bought with a token.
    ///
    /// # Errors
    /// Where it gives none.
    pub async fn worker(&self) -> anyhow::Result<Credentials> {
        if !self.program.tls {
            return Ok(Credentials::Plaintext);
        }
        let mut auth = net::auth_client(net::connect_as(&self.url(), &self.operator()?).await?);
        let request = CreateTokenRequest { role: "worker".into(), ttl_ms: 600_000, uses: 1 };
        let token = auth.create_token(request).await?.into_inner().token;
        let token: Token = token.parse().ok().context("the coordinator's token is none")?;
        Ok(Credentials::of(enrol(&self.url(), &token, &NewKey::generate()?, "bench").await?))
    }

    /// Processor time that it has used, user and system.
    ///
    /// # Errors
    /// A process that is over.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(self.proc_file("stat")?)?;
        // The name, in brackets, may hold anything; utime and stime are the 12th and 13th fields after it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// The most memory that it has had resident, in MiB.
    ///
    /// # Errors
    /// A process that is over.
    pub fn peak_memory_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(self.proc_file("status")?)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    fn proc_file(&self, name: &str) -> anyhow::Result<String> {
        let process = self.process.as_ref().context("the coordinator does not run")?;
        Ok(format!("/proc/{}/{name}", process.id()))
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may be over already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Processor time that this process, the load generator, has used.
pub fn own_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let micros = usage
        .map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    Duration::from_micros(micros.unsigned_abs())
}

/// The `mtinet` program beside this one's folder.
///
/// # Errors
/// Where it is not built.
pub fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("a program knows its own path")?;
    let beside = own.parent().into_iter().chain(own.parent().and_then(Path::parent));
    let found = beside.map(|dir| dir.join("mtinet")).find(|path| path.is_file());
    found.with_context(|| format!("no mtinet beside {}: build it first, with `make build`", own.display()))
}

/// The soft limit of open files is often 1024, which a thousand connections exceed.
fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it stays, connections fail in words.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
