//! Planted bugs are found. Only in builds with `--cfg mtinet_mutations` (`make simulate`): the bugs do not exist in others.
#![cfg(mtinet_mutations)]

use mtinet_core::{Bug, CoreConfig};
use mtinet_sim::{config, simulate};

/// Seeds within which every bug must show.
const SEEDS: u64 = 1000;

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let planted = CoreConfig { planted: Some(bug), ..config() };
        // Some bugs trip an assertion of the core itself before a check sees them.
        let caught = (0..SEEDS).find_map(|seed| {
            let planted = planted.clone();
            match std::panic::catch_unwind(move || simulate(seed, planted, None)) {
                Ok(Ok(_)) => None,
                Ok(Err(violation)) => Some(violation.to_string()),
                Err(_) => Some(format!("seed {seed}: an assertion of the core")),
            }
        });
        match caught {
            Some(words) => println!("{bug:?}: {}", words.chars().take(160).collect::<String>()),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
