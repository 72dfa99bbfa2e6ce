//! Machines within this machine: each a network namespace with its own address and link, joined by a bridge.
//!
//! Where namespaces cannot be made (they need root and `ip`), all programs share this machine's loopback, and what needs
//! a link of its own is left out in words. Namespaces carry this process's number: those of a test that was killed are
//! removed by the next one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a program of a test runs.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The host; this machine's loopback where absent.
    pub host: Option<Arc<Host>>,
    /// Environment variables.
    pub variables: Vec<(String, String)>,
    /// The work or data directory, where it is not to be the cluster's own.
    pub dir: Option<PathBuf>,
    /// The coordinator's address, where a worker is not to use its own.
    pub coordinator: Option<String>,
}

impl Place {
    /// A host, and nothing else.
    pub fn on(host: &Arc<Host>) -> Self {
        Self { host: Some(Arc::clone(host)), ..Self::default() }
    }

    /// The same with one more environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The address that others reach it at.
    pub fn address(&self) -> String {
        self.host.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |host| host.address.clone())
    }

    /// A command that runs there as the very process that is started.
    pub fn command(&self, program: &Path) -> Command {
        let namespace = self.host.as_ref().and_then(|host| host.link.as_ref()).map(|link| &link.namespace);
        let mut command = match namespace {
            // Not `ip netns exec`: that hides the control groups.
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The hosts that a test can have.
#[derive(Debug)]
pub enum Hosts {
    /// Each with a link of its own.
    Linked(Arc<Network>),
    /// All on the loopback, for the reason told.
    Loopback(String),
}

impl Hosts {
    /// As good as this machine allows.
    pub fn find() -> Self {
        match Network::new() {
            Ok(network) => Self::Linked(Arc::new(network)),
            Err(problem) => Self::Loopback(format!("namespaces are not available: {problem}")),
        }
    }

    /// One more host; its name has at most 12 letters.
    ///
    /// # Panics
    /// Where its link cannot be made although others could.
    pub fn host(&self, name: &str) -> Arc<Host> {
        static LOOPBACK: AtomicU32 = AtomicU32::new(2);
        Arc::new(match self {
            Self::Linked(network) => Network::host(network, name).expect("one more host"),
            Self::Loopback(_) => {
                let number = LOOPBACK.fetch_add(1, Ordering::Relaxed) % 250 + 2;
                Host { address: format!("127.0.0.{number}"), link: None }
            }
        })
    }

    /// The address of this process among the hosts.
    pub fn own_address(&self) -> String {
        match self {
            Self::Linked(network) => format!("{}.1", network.subnet),
            Self::Loopback(_) => "127.0.0.1".to_owned(),
        }
    }

    /// Why hosts have no links, where they have none.
    pub fn without_links(&self) -> Option<&str> {
        match self {
            Self::Linked(_) => None,
            Self::Loopback(reason) => Some(reason),
        }
    }
}

/// The bridge between the hosts, in a namespace of its own.
#[derive(Debug)]
pub struct Network {
    /// The bridge's namespace, and the prefix of the hosts'.
    name: String,
    /// The first three numbers of all addresses.
    subnet: String,
    next: AtomicU32,
}

/// The prefix of all namespaces of these tests; a process number follows.
const PREFIX: &str = "mtinet-";

impl Network {
    fn new() -> Result<Self, String> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        ip(&["-V"])?;
        sweep();
        let (pid, number) = (std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let taken = ip(&["-4", "-o", "address"])?;
        let mut candidates = (0..200).map(|n| (pid + number * 31 + n) % (56 * 256));
        let free = candidates.find_map(|n| {
            let subnet = format!("10.{}.{}", 200 + n / 256, n % 256);
            (!taken.contains(&format!(" {subnet}."))).then_some(subnet)
        });
        let subnet = free.ok_or("no free addresses")?;
        let network = Self { name: format!("{PREFIX}{pid}-{number}"), subnet, next: AtomicU32::new(2) };
        let (name, own) = (network.name.as_str(), format!("mt{pid}n{number}"));
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", name, "link", "set", "bridge", "up"])?;
        ip(&["link", "add", &own, "type", "veth", "peer", "name", "tests", "netns", name])?;
        ip(&["-n", name, "link", "set", "tests", "master", "bridge", "up"])?;
        ip(&["address", "add", &format!("{}.1/24", network.subnet), "dev", &own])?;
        ip(&["link", "set", &own, "up"])?;
        if !Path::new("/usr/bin/nsenter").exists() && !Path::new("/bin/nsenter").exists() {
            return Err("there is no nsenter".to_owned());
        }
        Ok(network)
    }

    fn host(network: &Arc<Self>, name: &str) -> Result<Host, String> {
        let number = network.next.fetch_add(1, Ordering::Relaxed);
        let address = format!("{}.{number}", network.subnet);
        let namespace = format!("{}-{name}", network.name);
        let bridge = network.name.as_str();
        ip(&["netns", "add", &namespace])?;
        let link = Link { network: Arc::clone(network), namespace, port: format!("to-{name}") };
        let (inside, name) = (link.namespace.as_str(), link.port.as_str());
        ip(&["-n", bridge, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", inside])?;
        ip(&["-n", bridge, "link", "set", name, "master", "bridge", "up"])?;
        ip(&["-n", inside, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", inside, "link", "set", "eth0", "up"])?;
        ip(&["-n", inside, "link", "set", "lo", "up"])?;
        Ok(Host { address, link: Some(link) })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links that end in it go with it.
        ip(&["netns", "delete", &self.name]).ok();
    }
}

/// Removes what tests that were killed left behind.
fn sweep() {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            ip(&["netns", "delete", &name]).ok();
        }
    }
}

/// A machine within this machine.
#[derive(Debug)]
pub struct Host {
    address: String,
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    network: Arc<Network>,
    namespace: String,
    port: String,
}

impl Host {
    /// Takes the host's link down: nothing gets in or out, and nobody is told.
    ///
    /// # Panics
    /// Where it has no link of its own, or the link stays up.
    pub fn cut(&self) {
        self.link().set("down");
        assert!(!self.link().is_up(), "the link is still up");
    }

    /// Takes the host's link up again.
    ///
    /// # Panics
    /// Where it has no link of its own, or the link stays down.
    pub fn heal(&self) {
        self.link().set("up");
        assert!(self.link().is_up(), "the link is still down");
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("the host has a link of its own")
    }
}

impl Link {
    fn set(&self, state: &str) {
        ip(&["-n", &self.network.name, "link", "set", &self.port, state]).expect("the link is changed");
    }

    fn is_up(&self) -> bool {
        let shown = ip(&["-n", &self.network.name, "-o", "link", "show", "dev", &self.port]);
        let shown = shown.expect("the link is shown");
        // Between the angle brackets stand the flags.
        shown.split(['<', '>']).nth(1).is_some_and(|flags| flags.split(',').any(|flag| flag == "UP"))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The pair goes with its end in there, which may live a little longer than the name.
        ip(&["-n", &self.network.name, "link", "delete", &self.port]).ok();
        ip(&["netns", "delete", &self.namespace]).ok();
    }
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    let what = || format!("`ip {}`", arguments.join(" "));
    let output =
        Command::new("ip").args(arguments).output().map_err(|error| format!("{}: {error}", what()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim()))
    }
}
