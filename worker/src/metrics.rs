//! What an agent exports to Prometheus: its ranks, its link to the coordinator, its machine.

use std::sync::Arc;

use mtinet_domain::AttemptNumber;
use mtinet_domain::trial::{Device, ProcessExit};
use mtinet_domain::usage::MachineUsage;
use mtinet_runtime::convert::RankExit;
use mtinet_runtime::metrics::{
    Counter, Family, FloatGauge, Gauge, Histogram, Info, Registry, Unit, ratio, register_process,
    seconds_from, text,
};

use crate::session::Backlog;

/// A label and its value.
type Label = [(&'static str, &'static str); 1];
/// Slot and device.
type DeviceLabels = [(&'static str, String); 2];

/// All metrics of an agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    ranks: Gauge,
    slots: Gauge,
    started: Counter,
    restarts: Counter,
    ended: Family<Label, Counter>,
    step: Histogram,
    connected: Gauge,
    waiting: Gauge,
    spool: Gauge,
    machine: Machine,
}

/// The machine's, absent where not measured: hence families that may be empty.
#[derive(Debug)]
struct Machine {
    memory_used: Family<[(&'static str, &'static str); 0], Gauge>,
    memory: Family<[(&'static str, &'static str); 0], Gauge>,
    cpu: Family<[(&'static str, &'static str); 0], FloatGauge>,
    load: Family<[(&'static str, &'static str); 0], FloatGauge>,
    device_memory_used: Family<DeviceLabels, Gauge>,
    device_memory: Family<DeviceLabels, Gauge>,
    device_utilization: Family<DeviceLabels, FloatGauge>,
    device_temperature: Family<DeviceLabels, FloatGauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        register_process(&mut registry);
        let ours = registry.sub_registry_with_prefix("mtinet_worker");
        ours.register("build", "The release that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let gauge = |ours: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            ours.register(name, help, gauge.clone());
            gauge
        };
        let counter = |ours: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            ours.register(name, help, counter.clone());
            counter
        };
        let ranks = gauge(ours, "ranks", "Ranks that are being prepared or run");
        let slots = gauge(ours, "slots", "Slots that this worker lends");
        let started = counter(ours, "ranks_started", "Ranks that the coordinator had started here");
        let help = "Those among them that go on with a trial that was tried before";
        let restarts = counter(ours, "rank_restarts", help);
        let ended = Family::default();
        ours.register("ranks_ended", "Ranks that are over, by how they ended", ended.clone());
        let step = seconds_from(0.001, 20);
        let help = "An optimiser step as rank 0 of a trial here measures it";
        ours.register_with_unit("step", help, Unit::Seconds, step.clone());
        let connected = gauge(ours, "connected", "1 while there is a session with the coordinator");
        let help = "Reports that the coordinator has not acknowledged";
        let waiting = gauge(ours, "reports_waiting", help);
        let spool = Gauge::default();
        let help = "Size of the file that holds what is not acknowledged";
        ours.register_with_unit("spool", help, Unit::Bytes, spool.clone());
        let machine = Machine::register(ours);
        let inner = Inner {
            registry,
            ranks,
            slots,
            started,
            restarts,
            ended,
            step,
            connected,
            waiting,
            spool,
            machine,
        };
        Self(Arc::new(inner))
    }
}

impl Metrics {
    /// A rank is being prepared.
    pub fn rank_started(&self, attempt: AttemptNumber) {
        self.0.started.inc();
        if attempt.0 > 1 {
            self.0.restarts.inc();
        }
    }

    /// A rank is over.
    pub fn rank_ended(&self, exit: &RankExit) {
        let outcome = match exit {
            RankExit { finished: true, .. } => "finished",
            RankExit { stopped: true, .. } => "stopped",
            RankExit { exit: ProcessExit::NotStarted, .. } => "not_started",
            RankExit { exit: ProcessExit::Signal(_), .. } => "killed",
            RankExit { exit: ProcessExit::Code(_), .. } => "failed",
        };
        self.0.ended.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A step took so long.
    pub fn step(&self, seconds: f64) {
        self.0.step.observe(seconds);
    }

    /// The text of a scrape.
    pub fn text(
        &self,
        ranks: usize,
        devices: &[Device],
        backlog: Backlog,
        usage: Option<&MachineUsage>,
    ) -> String {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.ranks.set(whole(ranks));
        self.0.slots.set(whole(devices.len()));
        self.0.connected.set(i64::from(backlog.welcome));
        self.0.waiting.set(whole(backlog.reports));
        self.0.spool.set(i64::try_from(backlog.spool_bytes).unwrap_or(i64::MAX));
        self.0.machine.set(devices, usage);
        text(&self.0.registry)
    }
}

impl Machine {
    fn register(ours: &mut Registry) -> Self {
        let machine = Self {
            memory_used: Family::default(),
            memory: Family::default(),
            cpu: Family::default(),
            load: Family::default(),
            device_memory_used: Family::default(),
            device_memory: Family::default(),
            device_utilization: Family::default(),
            device_temperature: Family::default(),
        };
        let help = "Main memory that another program could not have at once";
        ours.register_with_unit("memory_used", help, Unit::Bytes, machine.memory_used.clone());
        let help = "Main memory of the machine, or of the agent's control group";
        ours.register_with_unit("memory", help, Unit::Bytes, machine.memory.clone());
        let help = "Busy share of all cores of the machine";
        ours.register_with_unit("cpu_utilization", help, ratio(), machine.cpu.clone());
        ours.register("load1", "Load average of the last minute", machine.load.clone());
        let used = machine.device_memory_used.clone();
        ours.register_with_unit("device_memory_used", "Device memory in use, of whomever", Unit::Bytes, used);
        ours.register_with_unit("device_memory", "Device memory", Unit::Bytes, machine.device_memory.clone());
        let utilization = machine.device_utilization.clone();
        let help = "Share of the last moment in which the device computed";
        ours.register_with_unit("device_utilization", help, ratio(), utilization);
        let temperature = machine.device_temperature.clone();
        ours.register_with_unit("device_temperature", "The device's temperature", Unit::Celsius, temperature);
        machine
    }

    fn set(&self, devices: &[Device], usage: Option<&MachineUsage>) {
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let Some(usage) = usage else { return };
        if let Some(bytes) = usage.memory_used_bytes {
            self.memory_used.get_or_create(&[]).set(whole(bytes));
        }
        if let Some(bytes) = usage.memory_total_bytes {
            self.memory.get_or_create(&[]).set(whole(bytes));
        }
        if let Some(percent) = usage.cpu_percent {
            self.cpu.get_or_create(&[]).set(percent / 100.0);
        }
        if let Some(load) = usage.load_1m {
            self.load.get_or_create(&[]).set(load);
        }
        for device in &usage.devices {
            let Some(name) = devices.get(device.slot.0 as usize) else { continue };
            let labels = [("slot", device.slot.to_string()), ("device", name.to_string())];
            if let Some(bytes) = device.memory_used_bytes {
                self.device_memory_used.get_or_create(&labels).set(whole(bytes));
            }
            if let Some(bytes) = device.memory_total_bytes {
                self.device_memory.get_or_create(&labels).set(whole(bytes));
            }
            if let Some(percent) = device.utilisation_percent {
                self.device_utilization.get_or_create(&labels).set(percent / 100.0);
            }
            if let Some(celsius) = device.temperature_celsius {
                self.device_temperature.get_or_create(&labels).set(celsius);
            }
        }
    }
}

/// Seconds of single steps, from records that count them all together.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepTimes {
    last: Option<(u64, f64)>,
}

impl StepTimes {
    /// The mean time of the steps since the last record, where there is one.
    pub fn next(&mut self, step: u64, train_seconds: f64) -> Option<f64> {
        let (last_step, last_seconds) = self.last.replace((step, train_seconds))?;
        let steps = step.checked_sub(last_step).filter(|steps| *steps > 0)?;
        Some((train_seconds - last_seconds) / steps as f64)
            .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
    }
}

#[cfg(test)]
mod tests {
    use mtinet_domain::SlotIndex;
    use mtinet_domain::usage::DeviceUsage;
    use mtinet_runtime::metrics::exposition::{asked_by_dashboard, check};

    use super::*;

    fn usage() -> MachineUsage {
        MachineUsage {
            memory_used_bytes: Some(4 << 30),
            memory_total_bytes: Some(8 << 30),
            cpu_percent: Some(25.0),
            load_1m: Some(1.5),
            cores: 4,
            devices: vec![DeviceUsage {
                memory_used_bytes: Some(1),
                memory_total_bytes: Some(2),
                utilisation_percent: Some(50.0),
                temperature_celsius: Some(61.0),
                ..DeviceUsage::unmeasured(SlotIndex(1))
            }],
        }
    }

    fn exit(exit: ProcessExit, finished: bool, stopped: bool) -> RankExit {
        RankExit { exit, finished, step: None, message: String::new(), stopped, missing: Vec::new() }
    }

    #[test]
    fn everything_is_exported_under_names_that_prometheus_likes_and_dashboards_ask_for() {
        let metrics = Metrics::default();
        metrics.rank_started(AttemptNumber(1));
        metrics.rank_started(AttemptNumber(2));
        metrics.rank_ended(&exit(ProcessExit::Signal(9), false, true));
        metrics.rank_ended(&exit(ProcessExit::Signal(9), false, false));
        metrics.step(0.25);
        let devices = [Device::Cpu, Device::Cuda(3)];
        let backlog = Backlog { reports: 7, welcome: true, spool_bytes: 99, ..Backlog::default() };
        let text = metrics.text(1, &devices, backlog, Some(&usage()));
        let families = check(&text).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
        let value = |name: &str| {
            let samples = families.values().flat_map(|family| &family.samples);
            let values: Vec<f64> =
                samples.filter(|sample| sample.name == name).map(|sample| sample.value).collect();
            assert!(!values.is_empty(), "no {name} in {text}");
            values.iter().sum::<f64>()
        };
        assert_eq!(value("mtinet_worker_ranks_started_total"), 2.0);
        assert_eq!(value("mtinet_worker_rank_restarts_total"), 1.0);
        assert_eq!(value("mtinet_worker_ranks_ended_total"), 2.0);
        assert_eq!(families["mtinet_worker_ranks_ended"].samples.len(), 2, "stopped is not killed");
        assert_eq!(value("mtinet_worker_reports_waiting"), 7.0);
        assert_eq!(value("mtinet_worker_cpu_utilization_ratio"), 0.25);
        let device = &families["mtinet_worker_device_temperature_celsius"].samples[0];
        assert_eq!((device.labels["device"].as_str(), device.value), ("cuda:3", 61.0));
        let dashboard = include_str!("../../deploy/grafana/mtinet-workers.json");
        let asked = asked_by_dashboard(dashboard, "mtinet_").unwrap();
        assert!(asked.len() > 12, "{asked:?}");
        for name in &asked {
            value(name);
        }
    }

    #[test]
    fn what_is_not_measured_is_not_exported() {
        let text = Metrics::default().text(0, &[Device::Cpu], Backlog::default(), None);
        let families = check(&text).unwrap();
        let memory = families.get("mtinet_worker_memory_bytes");
        assert!(memory.is_none_or(|family| family.samples.is_empty()), "{text}");
        assert_eq!(families["mtinet_worker_connected"].samples[0].value, 0.0);
    }

    #[test]
    fn steps_are_timed_from_record_to_record() {
        let mut times = StepTimes::default();
        assert_eq!(times.next(10, 5.0), None);
        assert_eq!(times.next(14, 7.0), Some(0.5));
        assert_eq!(times.next(14, 8.0), None);
        assert_eq!(times.next(12, 6.0), None, "steps are taken again");
    }
}
