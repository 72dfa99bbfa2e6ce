//! The short cases of chaos with real processes; `make chaos` runs all of them.
//!
//! A case asserts facts and their order. What it measures is printed and decides nothing here, where the machine may be
//! busy.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Two machines' worth of training at once is all that the small test machines take.
static TURN: Mutex<()> = Mutex::new(());

/// Cases that this machine could not have.
static SKIPPED: AtomicU32 = AtomicU32::new(0);

fn run(name: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let case = mtinet_tests::chaos::case(name).unwrap_or_else(|| panic!("there is no case {name}"));
    assert!(case.short, "{name} is for `make chaos`");
    // What this machine cannot have is said, and is no failure where nobody can be blamed for it.
    if let Err(reason) = case.run(1) {
        assert!(
            reason.is_excused(),
            "{name} was skipped, and this process has the rights that it takes: {reason}"
        );
        let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        // Not by a macro, whose output nobody sees where a test passes.
        writeln!(std::io::stderr(), "{name}: skipped, the {count}. case: {reason}").ok();
    }
}

macro_rules! cases {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                run($name);
            }
        )*

        #[test]
        fn every_short_case_is_among_the_tests() {
            let short = mtinet_tests::chaos::CASES.iter().filter(|case| case.short).map(|case| case.name);
            assert_eq!(short.collect::<Vec<_>>(), [$($name,)*]);
        }
    };
}

cases! {
    a_gang_survives_the_loss_of_an_agent: "kill-agent",
    a_study_survives_the_loss_of_its_coordinator: "kill-coordinator",
    a_full_disk_of_a_worker_is_told_and_survived: "full-disk-agent",
    a_full_disk_of_the_coordinator_is_told_and_survived: "full-disk-coordinator",
    a_truncated_checkpoint_falls_back_to_the_one_before: "truncated-checkpoint",
    a_coordinator_whose_clock_jumps_loses_nobody: "clock-coordinator",
}
