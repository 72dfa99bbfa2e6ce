//! Which devices each local worker offers.

use std::collections::BTreeSet;
use std::path::Path;

use mtinet_domain::spec::DeviceChoice;
use mtinet_runtime::cuda;

use crate::cli::error::CliError;
use crate::cli::output::say;

/// What the study and the person ask for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Worker agents.
    pub workers: u32,
    /// Ranks that start together.
    pub ranks: u32,
    /// The study's kind of device.
    pub choice: DeviceChoice,
    /// `--devices`.
    pub given: Option<&'a str>,
}

/// What this machine has.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// CPU cores that this process may use.
    pub cores: u32,
    /// CUDA devices.
    pub cuda: u32,
}

impl Machine {
    /// The machine that this runs on, and of its CUDA devices those that `trainer` can use.
    pub fn this(trainer: &Path) -> Self {
        let cores =
            std::thread::available_parallelism().map_or(1, |cores| cores.get().try_into().unwrap_or(1));
        let present = cuda::devices_of_the_driver();
        let usable = cuda::usable_by(trainer, present);
        if usable < present {
            say(format_args!(
                "note: {} can use {usable} of {present} CUDA devices; `make build CUDA=1` builds it for CUDA",
                trainer.display()
            ));
        }
        Self { cores, cuda: usable }
    }
}

/// The `--devices` of each worker.
///
/// # Errors
/// Exit code 2 where the study could never start with them.
pub fn choose(wanted: &Wanted<'_>, machine: Machine) -> Result<Vec<String>, CliError> {
    let per_worker = match wanted.given {
        Some(given) => vec![given.to_owned(); wanted.workers as usize],
        None if wanted.choice != DeviceChoice::Cpu && machine.cuda > 0 => {
            share_cuda(wanted.workers, machine.cuda)?
        }
        None => vec![format!("cpu:{}", cpu_slots(wanted, machine)); wanted.workers as usize],
    };
    enough(wanted, &per_worker)?;
    Ok(per_worker)
}

fn cpu_slots(wanted: &Wanted<'_>, machine: Machine) -> u32 {
    (machine.cores / wanted.workers).max(wanted.ranks.div_ceil(wanted.workers)).max(1)
}

/// Each device to one worker: two agents on one device would fight for its memory.
fn share_cuda(workers: u32, devices: u32) -> Result<Vec<String>, CliError> {
    if workers > devices {
        return Err(CliError::Usage(format!(
            "{workers} workers cannot share {devices} CUDA device(s); use --workers {devices} or less, or --devices"
        )));
    }
    let of = |worker: u32| (worker..devices).step_by(workers as usize).map(|index| format!("cuda:{index}"));
    Ok((0..workers).map(|worker| of(worker).collect::<Vec<_>>().join(",")).collect())
}

/// A gang that can never be placed would wait for ever.
fn enough(wanted: &Wanted<'_>, per_worker: &[String]) -> Result<(), CliError> {
    let Some(slots) = Slots::of(per_worker) else { return Ok(()) };
    // NCCL takes no two ranks of a gang on one device, whichever workers lend it.
    let cuda = if wanted.ranks > 1 { slots.cuda_devices.len() as u32 } else { slots.cuda };
    let usable = match wanted.choice {
        DeviceChoice::Cpu => slots.cpu,
        DeviceChoice::Cuda => cuda,
        DeviceChoice::Auto => slots.cpu.max(cuda),
    };
    if usable >= wanted.ranks {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "the study needs {} slot(s) of one kind at once (resources.device, resources.ranks), and {} worker(s) with \
         devices {} offer {usable}; give more with --devices or --workers",
        wanted.ranks,
        wanted.workers,
        per_worker.join(" and "),
    )))
}

/// What device lists stand for.
#[derive(Debug, Default)]
struct Slots {
    cpu: u32,
    cuda: u32,
    cuda_devices: BTreeSet<u32>,
}

impl Slots {
    /// Of all workers; `None` where only the agents can tell.
    fn of(per_worker: &[String]) -> Option<Self> {
        let mut slots = Self::default();
        for device in per_worker.iter().flat_map(|devices| devices.split(',')) {
            match device.trim().split_once(':') {
                Some(("cpu", count)) => slots.cpu = slots.cpu.saturating_add(count.trim().parse().ok()?),
                Some(("cuda", device)) => {
                    let (index, count) = device.split_once('*').unwrap_or((device, "1"));
                    slots.cuda = slots.cuda.saturating_add(count.trim().parse().ok()?);
                    slots.cuda_devices.insert(index.trim().parse().ok()?);
                }
                _ => return None,
            }
        }
        Some(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(workers: u32, ranks: u32, choice: DeviceChoice, given: Option<&str>) -> Wanted<'_> {
        Wanted { workers, ranks, choice, given }
    }

    const CPU: Machine = Machine { cores: 4, cuda: 0 };
    const GPU: Machine = Machine { cores: 4, cuda: 3 };

    #[test]
    fn cores_are_shared_and_a_gang_always_fits() {
        let auto = DeviceChoice::Auto;
        assert_eq!(choose(&wanted(1, 1, auto, None), CPU).unwrap(), ["cpu:4"]);
        assert_eq!(choose(&wanted(2, 1, auto, None), CPU).unwrap(), ["cpu:2", "cpu:2"]);
        assert_eq!(choose(&wanted(1, 8, auto, None), CPU).unwrap(), ["cpu:8"]);
        assert_eq!(choose(&wanted(3, 8, auto, None), CPU).unwrap(), ["cpu:3", "cpu:3", "cpu:3"]);
        assert_eq!(choose(&wanted(6, 1, auto, None), CPU).unwrap().len(), 6);
    }

    #[test]
    fn cuda_devices_are_used_unless_the_study_wants_none() {
        assert_eq!(choose(&wanted(1, 1, DeviceChoice::Auto, None), GPU).unwrap(), ["cuda:0,cuda:1,cuda:2"]);
        assert_eq!(
            choose(&wanted(2, 1, DeviceChoice::Cuda, None), GPU).unwrap(),
            ["cuda:0,cuda:2", "cuda:1"]
        );
        assert_eq!(choose(&wanted(1, 1, DeviceChoice::Cpu, None), GPU).unwrap(), ["cpu:4"]);
        assert_eq!(choose(&wanted(4, 1, DeviceChoice::Auto, None), GPU).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_gang_that_can_never_start_is_refused() {
        let error = choose(&wanted(1, 2, DeviceChoice::Auto, Some("cpu:1")), CPU).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("needs 2 slot(s)"), "{error}");
        assert!(choose(&wanted(2, 2, DeviceChoice::Auto, Some("cpu:1")), CPU).is_ok());
        assert!(choose(&wanted(1, 1, DeviceChoice::Cuda, None), CPU).is_err());
        for (devices, fits) in [("cuda:0*2", false), ("cuda:0*2,cpu:1", true), ("cuda:0*2,cuda:1", true)] {
            assert_eq!(
                choose(&wanted(2, 2, DeviceChoice::Auto, Some(devices)), GPU).is_ok(),
                fits,
                "{devices}"
            );
        }
        assert!(
            choose(&wanted(1, 9, DeviceChoice::Auto, Some("auto")), CPU).is_ok(),
            "only the agent can tell"
        );
    }
}
