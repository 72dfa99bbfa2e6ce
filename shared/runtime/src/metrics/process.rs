//! What every program exports of itself, under the names that Prometheus's own client libraries use.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// Adds memory, CPU time, open files and start time of this process, read at each scrape.
pub fn register_process(registry: &mut Registry) {
    registry.register_collector(Box::new(ThisProcess));
}

#[derive(Debug)]
struct ThisProcess;

impl Collector for ThisProcess {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut add = |name: &str, help: &str, unit: Option<Unit>, metric: &dyn Encode| {
            metric.add(&mut encoder, name, help, unit.as_ref())
        };
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let system = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        if let Some(stat) = Stat::read(&stat) {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            add("process_cpu", "User and system CPU time spent", Some(Unit::Seconds), &cpu)?;
            let resident = ConstGauge::new(stat.resident_bytes);
            add("process_resident_memory", "Resident memory", Some(Unit::Bytes), &resident)?;
            let virtual_bytes = ConstGauge::new(stat.virtual_bytes);
            add("process_virtual_memory", "Virtual memory", Some(Unit::Bytes), &virtual_bytes)?;
            if let Some(boot) = boot_time(&system) {
                let started = ConstGauge::new(boot + stat.started_seconds);
                add("process_start_time", "Start, since the Unix epoch", Some(Unit::Seconds), &started)?;
            }
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            let open = ConstGauge::new(i64::try_from(files.count()).unwrap_or(i64::MAX));
            add("process_open_fds", "Open file descriptors", None, &open)?;
        }
        if let Ok((soft, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
            let most = ConstGauge::new(i64::try_from(soft).unwrap_or(i64::MAX));
            add("process_max_fds", "Most file descriptors that may be open", None, &most)?;
        }
        Ok(())
    }
}

/// A metric with its description, whatever its type.
trait Encode {
    fn add(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> fmt::Result;
}

impl<M: EncodeMetric> Encode for M {
    fn add(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
    ) -> fmt::Result {
        // The registry ends what it is told with a full stop; a collector has to do so itself.
        self.encode(encoder.encode_descriptor(name, &format!("{help}."), unit, self.metric_type())?)
    }
}

/// What `/proc/self/stat` tells.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    /// Since the machine was started.
    started_seconds: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Stat {
    /// Fields are counted after the program's name, which may hold anything: the last `)` ends it.
    fn read(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // `man proc` counts from 1 and the state, our first, is its third.
        let number = |place: usize| fields.get(place - 3)?.parse::<i64>().ok();
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        Some(Self {
            cpu_seconds: (number(14)? + number(15)?) as f64 / ticks as f64,
            started_seconds: number(22)? as f64 / ticks as f64,
            virtual_bytes: number(23)?,
            resident_bytes: number(24)?.saturating_mul(page),
        })
    }
}

/// Seconds since the Unix epoch at which the machine was started.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{exposition, text};

    #[test]
    fn this_process_exports_itself_under_the_usual_names() {
        let mut registry = Registry::default();
        register_process(&mut registry);
        let families = exposition::check(&text(&registry)).unwrap();
        let names =
            ["process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"];
        for name in names {
            let family = families.get(name).unwrap_or_else(|| panic!("no {name}: {families:?}"));
            assert!(family.samples.iter().all(|sample| sample.value >= 0.0) && !family.samples.is_empty());
        }
        let started = families["process_start_time_seconds"].samples[0].value;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 86_400.0..=now + 2.0).contains(&started), "started {started}, now {now}");
    }

    #[test]
    fn a_programs_name_may_hold_anything() {
        let text =
            "1 (a) b) c) S 1 1 1 0 -1 4 1 0 0 0 200 100 0 0 20 0 9 0 500 4096000 10 18446744073709551615";
        let stat = Stat::read(text).unwrap();
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
        assert_eq!((stat.cpu_seconds, stat.started_seconds), (300.0 / ticks, 500.0 / ticks));
        assert_eq!(stat.virtual_bytes, 4_096_000);
    }
}
