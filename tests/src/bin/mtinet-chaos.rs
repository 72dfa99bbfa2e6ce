//! `mtinet-chaos`: does bad things to studies of real processes, and asserts that nothing shows in their results.
//!
//! `make chaos` runs all cases and writes what was measured to `runs/bench/chaos.json`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use mtinet_tests::chaos::{CASES, Case, case};

const USAGE: &str = "usage: mtinet-chaos [--long | --case NAME]... [--seed N] [--repeat N] | --list

  --list       the cases
  --long       all cases, and runs/bench/chaos.json; without it the short ones
  --case NAME  this case
  --seed N     what random-kills draws from [default: from the time, and printed]
  --repeat N   everything so many times";

struct Arguments {
    cases: Vec<&'static Case>,
    long: bool,
    seed: u64,
    repeat: u32,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (mut figures, mut failed, mut skipped, mut ok) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for case in (0..arguments.repeat).flat_map(|_| &arguments.cases) {
        let (start, seed) = (Instant::now(), arguments.seed);
        eprintln!("{}: {}", case.name, case.what);
        // A case that fails panics; the others are run all the same.
        let ended = std::thread::scope(|scope| scope.spawn(|| case.run(seed)).join());
        let verdict = match ended {
            Ok(Ok(report)) => {
                figures.extend(report.figures);
                ok += 1;
                "ok".to_owned()
            }
            Ok(Err(reason)) if reason.is_excused() => {
                skipped.push(case.name);
                format!("skipped: {reason}")
            }
            Ok(Err(reason)) => {
                failed.push(case.name);
                format!("FAILED: skipped, and this process has the rights that it takes: {reason}")
            }
            Err(_) => {
                failed.push(case.name);
                "FAILED".to_owned()
            }
        };
        eprintln!("{}: {verdict}, {:.1} s\n", case.name, start.elapsed().as_secs_f64());
    }
    if arguments.long
        && let Err(error) = write(&figures)
    {
        eprintln!("error: runs/bench/chaos.json: {error}");
        return ExitCode::FAILURE;
    }
    let words = |count: usize, word: &str, names: &[&str]| {
        let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        format!("{count} {word}{names}")
    };
    let (ok, skipped) = (words(ok, "ok", &[]), words(skipped.len(), "skipped", &skipped));
    eprintln!("{ok}, {skipped}, {}; seed {}", words(failed.len(), "failed", &failed), arguments.seed);
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = since.map_or(0, |since| since.as_secs());
    let mut arguments = Arguments { cases: Vec::new(), long: false, seed, repeat: 1 };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--list" => {
                for case in CASES {
                    println!("{:26} {}{}", case.name, if case.short { "" } else { "(long) " }, case.what);
                }
                return Ok(None);
            }
            "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            "--long" => arguments.long = true,
            "--case" => {
                let name = value()?;
                arguments.cases.push(case(&name).ok_or_else(|| format!("there is no case {name}"))?);
            }
            "--seed" => arguments.seed = value()?.parse().map_err(|_| "--seed wants a number")?,
            "--repeat" => arguments.repeat = value()?.parse().map_err(|_| "--repeat wants a number")?,
            _ => return Err(format!("unknown: {word}")),
        }
    }
    if arguments.cases.is_empty() {
        arguments.cases = CASES.iter().filter(|case| arguments.long || case.short).collect();
    }
    Ok(Some(arguments))
}

fn write(figures: &[serde_json::Value]) -> std::io::Result<()> {
    let path = Path::new("runs/bench/chaos.json");
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(figures)?)
}
