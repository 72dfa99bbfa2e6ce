//! `mtinet-sim`: runs seeds, tells which fail, and shows one step by step.

use std::io::BufRead as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mtinet_sim::{Violation, config, simulate};

const USAGE: &str = "usage: mtinet-sim --seeds A..B [--threads N]   runs seeds A to B-1
       mtinet-sim --seed N [--trace [--step]]   runs one; --trace shows all that happens, --step waits for Enter
       mtinet-sim --bench [--json FILE]   measures the scheduler's decisions";

enum Wanted {
    Seeds { from: u64, to: u64, threads: usize },
    Seed { seed: u64, trace: bool, step: bool },
    Bench { json: Option<String> },
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)) {
        Some(Wanted::Seeds { from, to, threads }) => many(from, to, threads),
        Some(Wanted::Seed { seed, trace, step }) => one(seed, trace, step),
        Some(Wanted::Bench { json }) => bench(json),
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn arguments(mut arguments: impl Iterator<Item = String>) -> Option<Wanted> {
    let (mut seeds, mut seed, mut trace, mut step, mut bench, mut json) =
        (None, None, false, false, false, None);
    let mut threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => {
                let range = arguments.next()?;
                let (from, to) = range.split_once("..")?;
                seeds = Some((from.parse().ok()?, to.parse().ok()?));
            }
            "--seed" => seed = Some(arguments.next()?.parse().ok()?),
            "--threads" => threads = arguments.next()?.parse().ok()?,
            "--trace" => trace = true,
            "--step" => step = true,
            "--bench" => bench = true,
            "--json" => json = Some(arguments.next()?),
            _ => return None,
        }
    }
    match (seeds, seed, bench) {
        (Some((from, to)), None, false) => Some(Wanted::Seeds { from, to, threads }),
        (None, Some(seed), false) => Some(Wanted::Seed { seed, trace: trace || step, step }),
        (None, None, true) => Some(Wanted::Bench { json }),
        _ => None,
    }
}

fn one(seed: u64, trace: bool, step: bool) -> ExitCode {
    let mut begun = None;
    let show = |now: u64, words: &str| {
        let begun = *begun.get_or_insert(now);
        println!("{:>9.3} {words}", (now - begun) as f64 / 1000.0);
        // At the end of the input the rest runs through.
        if step {
            let mut line = String::new();
            drop(std::io::stdin().lock().read_line(&mut line));
        }
    };
    let result =
        if trace { simulate(seed, config(), Some(Box::new(show))) } else { simulate(seed, config(), None) };
    match result {
        Ok(report) => {
            eprintln!("seed {seed}: all well after {} inputs; events {:?}", report.rounds, report.kinds);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}

fn many(from: u64, to: u64, threads: usize) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicU64::new(from);
    let rounds = AtomicU64::new(0);
    let violations: Mutex<Vec<Violation>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    match simulate(seed, config(), None) {
                        Ok(report) => drop(rounds.fetch_add(report.rounds, Ordering::Relaxed)),
                        Err(violation) => {
                            eprintln!("{violation}");
                            violations.lock().unwrap_or_else(PoisonError::into_inner).push(violation);
                        }
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let (count, failed) =
        (to.saturating_sub(from), violations.lock().map_or(0, |violations| violations.len()));
    eprintln!(
        "{count} seeds, {failed} failed, {} inputs, {seconds:.1} s, {:.0} seeds/s on {threads} threads",
        rounds.load(Ordering::Relaxed),
        count as f64 / seconds
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bench(json: Option<String>) -> ExitCode {
    let figures = mtinet_sim::bench::all();
    for figure in &figures {
        println!("{figure}");
    }
    if let Some(path) = json
        && let Err(error) = std::fs::write(&path, mtinet_sim::bench::to_json(&figures))
    {
        eprintln!("could not write {path}: {error}");
        return ExitCode::FAILURE;
    }
    if figures.iter().all(|figure| figure.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
