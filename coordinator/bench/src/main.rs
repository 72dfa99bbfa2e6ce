//! The program of `make bench-coordinator`: measures, prints a table, writes `runs/bench/coordinator.json`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use mtinet_bench::agent::Batch;
use mtinet_bench::coordinator::{Program, program};
use mtinet_bench::figure::{Figure, Target, print, quantile, write};
use mtinet_bench::{decide, dispatch, fleet, ingest, kills, study, watchers};

/// Measures a coordinator under load.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure; all where absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often the coordinator is killed.
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// No encryption and no certificates on the connections.
    #[arg(long)]
    plaintext: bool,
    /// Seconds for which the fleet of `watchers` goes on, to look at it with `mtinet watch`.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// A tenth of everything: does it work?
    #[arg(long)]
    quick: bool,
    /// Where the figures go; by default `runs/bench/coordinator.json`, and with `--only` or `--quick`
    /// `runs/bench/coordinator-part.json`, so that a look at a part does not take the place of the whole.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Cli {
    fn out(&self) -> PathBuf {
        let is_whole = self.only.is_empty() && !self.quick;
        let file = if is_whole { "coordinator.json" } else { "coordinator-part.json" };
        self.out.clone().unwrap_or_else(|| Path::new("runs/bench").join(file))
    }
}

/// What the best rival known needs for a task, `true` in a process of its own. It is not measured in this run.
const PEER: &str =
    "HyperQueue's known figure is 0.86 ms a task (20,000 of `true` in 17.2 s), its processes included";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Decide,
    Dispatch,
    Fleet,
    Ingest,
    Tls,
    Gangs,
    Kills,
    Watchers,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut figures = Vec::new();
    for part in Part::value_variants() {
        if cli.only.is_empty() || cli.only.contains(part) {
            eprintln!("measuring: {part:?}");
            let program = Program { path: program()?, tls: !cli.plaintext };
            figures.extend(runtime.block_on(measure(*part, &program, &cli))?);
        }
    }
    print(&figures);
    write(&figures, &cli.out())?;
    println!("{}", cli.out().display());
    Ok(())
}

async fn measure(part: Part, program: &Program, cli: &Cli) -> anyhow::Result<Vec<Figure>> {
    let scale = if cli.quick { 10 } else { 1 };
    match part {
        Part::Decide => decisions(scale),
        Part::Dispatch => dispatched(program, scale).await,
        Part::Fleet => trained(program, scale).await,
        Part::Ingest => ingested(program).await,
        Part::Tls => encrypted(program, cli.quick).await,
        Part::Gangs => gangs(program, scale).await,
        Part::Kills => killed(program, scale, cli.kills.div_ceil(scale)).await,
        Part::Watchers => watched(program, cli).await,
    }
}

fn decisions(scale: u32) -> anyhow::Result<Vec<Figure>> {
    let trials = 100_000 / scale;
    let mut one = decide::run(&study::spec(trials, 1)?, 1000 / scale, 10)?;
    let total: f64 = one.seconds.iter().sum();
    let p99 = quantile(&mut one.seconds, 0.99) * 1e3;
    let note =
        format!("{} handler calls of the scheduler alone, 1,000 workers of 10 slots", one.seconds.len());
    let gangs = decide::run(&study::spec(trials / 10, 8)?, 100, 8)?;
    let gang_seconds: f64 = gangs.seconds.iter().sum();
    Ok(vec![
        Figure::new("scheduler: decision, p99", p99, "ms", Target::AtMost(5.0), note),
        Figure::new(
            "scheduler: time per trial",
            total * 1e3 / f64::from(trials),
            "ms",
            Target::AtMost(0.05),
            "all decisions of a trial's life, the scheduler alone".into(),
        ),
        Figure::new(
            "scheduler: 8-rank gangs over 100 nodes",
            gangs.attempts as f64 / gang_seconds,
            "gangs/s",
            Target::AtLeast(1000.0),
            "placement, 8 starts, rendezvous, 8 ends; the scheduler alone".into(),
        ),
    ])
}

async fn dispatched(program: &Program, scale: u32) -> anyhow::Result<Vec<Figure>> {
    let trials = 100_000 / scale;
    let options = dispatch::Options { trials, ranks: 1, workers: 100, slots: 10 };
    let mut outcome = dispatch::run(program, options).await?;
    let each = |seconds: f64| seconds * 1e3 / f64::from(trials);
    let note = format!(
        "{trials} trials, 100 workers of 10 slots, over gRPC and durable; load generator: {:.4} ms each",
        each(outcome.own_cpu.as_secs_f64())
    );
    let p99 = quantile(&mut outcome.turnaround, 0.99) * 1e3;
    Ok(vec![
        Figure::new(
            "no-op trial: processor time of the coordinator",
            each(outcome.cpu.as_secs_f64()),
            "ms",
            Target::AtMost(0.05),
            note,
        ),
        Figure::new(
            "no-op trial: wall time",
            each(outcome.wall.as_secs_f64()),
            "ms",
            Target::None,
            format!("the load generator shares the cores; {PEER}"),
        ),
        Figure::new(
            "slot free -> next assignment, p99 at full load",
            p99,
            "ms",
            Target::None,
            "network, commit and the queue of 1,000 busy slots included".into(),
        ),
        Figure::new(
            "peak memory after the trials",
            outcome.memory_mib,
            "MiB",
            Target::AtMost(512.0),
            String::new(),
        ),
    ])
}

async fn trained(program: &Program, scale: u32) -> anyhow::Result<Vec<Figure>> {
    let workers = 1000 / scale;
    let mut outcome = fleet::run(program, workers, 10, Duration::from_secs(10)).await?;
    let note = format!(
        "{workers} workers, {} trials training; coordinator {:.2} cores, load generator {:.2}",
        workers * 10,
        outcome.load,
        outcome.own_load
    );
    let measured = outcome.delays.len();
    Ok(vec![
        Figure::new("fleet: peak memory", outcome.memory_mib, "MiB", Target::AtMost(512.0), note),
        Figure::new(
            "fleet: metric on the wire -> subscriber, p99",
            quantile(&mut outcome.delays, 0.99) * 1e3,
            "ms",
            Target::AtMost(250.0),
            format!("{measured} measurements"),
        ),
    ])
}

async fn ingested(program: &Program) -> anyhow::Result<Vec<Figure>> {
    let batch = Batch { records: 16, values: 6 };
    let mut outcome = ingest::run(program, 50, batch, Duration::from_secs(10)).await?;
    let note = format!(
        "50 agents, reports of 16 records x 6 values, acknowledged after fsync; coordinator {:.2} cores \
         ({:.2} ms per 1,000), load generator {:.2}",
        outcome.load, outcome.cpu_ms_per_1000, outcome.own_load
    );
    let delays = outcome.delays.len();
    Ok(vec![
        Figure::new(
            "durable metric points",
            outcome.points_per_second,
            "1/s",
            Target::AtLeast(50_000.0),
            note,
        ),
        Figure::new(
            "metric -> subscriber at that rate, p99",
            quantile(&mut outcome.delays, 0.99) * 1e3,
            "ms",
            Target::AtMost(250.0),
            format!("{delays} records"),
        ),
    ])
}

/// What encryption costs: plaintext and TLS in turns, so that a noisy machine disturbs both alike.
async fn encrypted(program: &Program, quick: bool) -> anyhow::Result<Vec<Figure>> {
    let batch = Batch { records: 16, values: 6 };
    let (turns, time) = if quick { (1, Duration::from_secs(2)) } else { (5, Duration::from_secs(5)) };
    let (mut rates, mut cpus) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..turns {
        for tls in [false, true] {
            let program = Program { tls, ..program.clone() };
            let outcome = ingest::run(&program, 50, batch, time).await?;
            rates[usize::from(tls)].push(outcome.points_per_second);
            cpus[usize::from(tls)].push(outcome.cpu_ms_per_1000);
        }
    }
    let cost = |[plain, encrypted]: &mut [Vec<f64>; 2]| {
        let (plain, encrypted) = (quantile(plain, 0.5), quantile(encrypted, 0.5));
        (encrypted / plain - 1.0) * 100.0
    };
    let note = format!("durable metric points a second; medians of {turns} turns of {time:?} each way");
    Ok(vec![
        Figure::new("TLS: throughput lost", -cost(&mut rates), "%", Target::AtMost(5.0), note),
        Figure::new(
            "TLS: processor time of the coordinator added",
            cost(&mut cpus),
            "%",
            Target::None,
            "per metric point".into(),
        ),
    ])
}

async fn gangs(program: &Program, scale: u32) -> anyhow::Result<Vec<Figure>> {
    let trials = 10_000 / scale;
    let options = dispatch::Options { trials, ranks: 8, workers: 100, slots: 8 };
    let outcome = dispatch::run(program, options).await?;
    let cpu = outcome.cpu.as_secs_f64();
    let note = format!(
        "{trials} gangs; coordinator {:.3} ms of processor time each, load generator {:.3} ms; on one core of its \
         own the coordinator does {:.0} a second",
        cpu * 1e3 / f64::from(trials),
        outcome.own_cpu.as_secs_f64() * 1e3 / f64::from(trials),
        f64::from(trials) / cpu
    );
    let rate = f64::from(trials) / outcome.wall.as_secs_f64();
    let what = "8-rank gangs over 100 nodes, over gRPC and durable";
    Ok(vec![Figure::new(what, rate, "gangs/s", Target::AtLeast(1000.0), note)])
}

async fn killed(program: &Program, scale: u32, kills: u32) -> anyhow::Result<Vec<Figure>> {
    let options = kills::Options { kills, workers: 1000 / scale, slots: 10 };
    let mut outcome = kills::run(program, options).await?;
    let trials = options.workers * options.slots;
    let note = format!(
        "{kills} kills with {trials} trials running; {} events in the log at the end",
        outcome.events
    );
    let worst = quantile(&mut outcome.back, 1.0);
    let whole = quantile(&mut outcome.whole, 1.0);
    let count = |count: u64| count as f64;
    Ok(vec![
        Figure::new("kill -9: serves again, worst", worst, "s", Target::AtMost(2.0), note),
        Figure::new(
            "kill -9: all sessions open again, worst",
            whole,
            "s",
            Target::None,
            "the fleet's thousand connections included".into(),
        ),
        Figure::new(
            "kill -9: acknowledged reports lost",
            count(outcome.lost),
            "",
            Target::AtMost(0.0),
            format!("recorded twice: {}", outcome.doubled),
        ),
        Figure::new(
            "kill -9: trials restarted",
            count(outcome.restarted + outcome.stopped),
            "",
            Target::AtMost(0.0),
            String::new(),
        ),
    ])
}

async fn watched(program: &Program, cli: &Cli) -> anyhow::Result<Vec<Figure>> {
    let (workers, watchers, time) =
        if cli.quick { (100, 2, Duration::from_secs(2)) } else { (1000, 20, Duration::from_secs(10)) };
    let hold = Duration::from_secs(cli.hold);
    let options = watchers::Options { workers, watchers, time, hold };
    let mut outcome = watchers::run(program, options).await?;
    let lost = (1.0 - outcome.watched.reports / outcome.alone.reports) * 100.0;
    let note = format!(
        "{watchers} dashboards; {} trials on {workers} workers report {:.0} times a second; coordinator {:.2} cores alone, {:.2} watched; a \
         dashboard draws {:.0} bytes a second",
        outcome.trials, outcome.alone.reports, outcome.alone.load, outcome.watched.load, outcome.drawn
    );
    let alone = quantile(&mut outcome.alone.delays, 0.99) * 1e3;
    let delay = quantile(&mut outcome.watched.delays, 0.99) * 1e3;
    Ok(vec![
        Figure::new("dashboards: reports a second lost", lost, "%", Target::AtMost(1.0), note),
        Figure::new(
            "dashboards: metric -> subscriber, p99",
            delay,
            "ms",
            Target::AtMost(250.0),
            format!("{alone:.1} ms without them; all share the cores"),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_does_not_take_the_place_of_the_whole() {
        let out = |arguments: &[&str]| {
            Cli::parse_from(["bench"].iter().chain(arguments)).out().to_string_lossy().into_owned()
        };
        assert_eq!(out(&[]), "runs/bench/coordinator.json");
        assert_eq!(out(&["--kills", "7"]), "runs/bench/coordinator.json");
        for part in [&["--quick"][..], &["--only", "tls"]] {
            assert_eq!(out(part), "runs/bench/coordinator-part.json");
            assert_eq!(out(&[part, &["--out", "x.json"]].concat()), "x.json");
        }
    }
}
