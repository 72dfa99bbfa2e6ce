//! Who runs where, and why the others wait.

use mtinet_domain::trial::{Device, TrialStatus};

use super::env::{TestEnv, trial};
use crate::{DeviceKind, WaitReason};

const GANG_OF_2: &str = "[train]\nreplicas = 2\n[resources]\nranks = 2\n";

#[test]
fn without_workers_every_trial_says_so() {
    let mut env = TestEnv::new();
    let study = env.submit("");
    assert_eq!(env.reason(trial(study, "unet/4/0")), Some(WaitReason::NoWorkers));
    env.join_cpus("a", 1);
    assert_eq!(env.running(), [trial(study, "mti-net/0/0")]);
    assert_eq!(env.reason(trial(study, "mti-net/0/0")), None);
}

#[test]
fn fold_sets_go_arm_by_arm() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = 2\nseeds = [0, 1]");
    env.join_cpus("a", 1);
    let mut order = Vec::new();
    while let Some(id) = env.running().first().copied() {
        order.push(id.key.to_string());
        env.complete(id);
    }
    let expected = ["mti-net/0/0", "mti-net/1/0", "mti-net/0/1", "mti-net/1/1", "unet/0/0", "unet/1/0"];
    assert_eq!(order[..6], expected);
    assert_eq!(env.count("study_finished"), 1);
    assert_eq!(env.core.study(study).unwrap().status(), "complete");
    env.core.emptiness_check().unwrap();
}

#[test]
fn priority_goes_before_age() {
    let mut env = TestEnv::new();
    env.submit("");
    let urgent = env.submit("[resources]\npriority = 1");
    env.join_cpus("a", 2);
    assert_eq!(env.running(), [trial(urgent, "mti-net/0/0"), trial(urgent, "mti-net/1/0")]);
}

#[test]
fn a_gang_starts_whole_or_not_at_all() {
    let mut env = TestEnv::new();
    let study = env.submit(GANG_OF_2);
    env.join_cpus("a", 1);
    assert_eq!(env.running(), []);
    let head = trial(study, "mti-net/0/0");
    let reason = env.reason(head).unwrap();
    assert_eq!(reason.to_string(), "needs 2 cpu slots, the fleet has 1");
    env.join_cpus("b", 2);
    assert_eq!(env.running(), [head]);
    // Two of the three slots are on one machine.
    assert_eq!((env.at(head, 0).0.0, env.at(head, 1).0.0), ("b".into(), "b".into()));
    let next = trial(study, "mti-net/1/0");
    assert_eq!(
        env.reason(next),
        Some(WaitReason::Slots { needed: 2, kind: DeviceKind::Cpu, free: 1, total: 3 })
    );
    assert_eq!(env.reason(trial(study, "mti-net/2/0")), Some(WaitReason::Behind(next)));
}

#[test]
fn a_gang_spans_workers_when_it_must() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[train]\nreplicas = 4\n[resources]\nranks = 4\n");
    for name in ["a", "b", "c"] {
        env.join_cpus(name, if name == "a" { 1 } else { 2 });
    }
    let head = trial(study, "mti-net/0/0");
    let workers = env.core.trial(head).unwrap().gang().unwrap().live_workers();
    assert_eq!(workers.len(), 2, "{workers:?}");
}

#[test]
fn a_wide_gang_is_not_starved_by_narrow_trials_behind_it() {
    let mut env = TestEnv::new();
    let narrow = env.submit("folds = [0, 1]");
    env.join_cpus("a", 2);
    let wide = env.submit(GANG_OF_2);
    env.submit("");
    env.complete(trial(narrow, "mti-net/0/0"));
    env.complete(trial(narrow, "mti-net/1/0"));
    env.complete(trial(narrow, "unet/0/0"));
    assert_eq!(env.running(), [trial(narrow, "unet/1/0")], "the free slot is kept for the gang");
    env.complete(trial(narrow, "unet/1/0"));
    assert_eq!(env.running(), [trial(wide, "mti-net/0/0")]);
}

#[test]
fn a_gang_that_the_fleet_cannot_hold_blocks_nobody() {
    let mut env = TestEnv::new();
    env.submit("[train]\nreplicas = 8\n[resources]\nranks = 8\n");
    env.submit("[resources]\ndevice = \"cuda\"\n");
    let small = env.submit("");
    env.join_cpus("a", 2);
    assert_eq!(env.running(), [trial(small, "mti-net/0/0"), trial(small, "mti-net/1/0")]);
}

#[test]
fn auto_takes_cuda_where_the_fleet_has_it() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[resources]\ndevice = \"auto\"\n");
    env.join("a", &[Device::Cpu, Device::Cuda(0)]);
    assert_eq!(env.running(), [trial(study, "mti-net/0/0")]);
    let gang = env.core.trial(trial(study, "mti-net/0/0")).unwrap().gang().unwrap();
    assert_eq!(gang.ranks[0].placement.device, Device::Cuda(0));
    let reason = env.reason(trial(study, "unet/0/0")).unwrap();
    assert_eq!(reason.to_string(), "needs 1 cuda slot, 0 of 1 free");
}

#[test]
fn auto_ranks_widen_only_when_slots_would_stay_idle() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0, 1]\n[train]\nreplicas = 4\n");
    env.join_cpus("a", 3);
    assert!(env.running().iter().all(|id| env.width(*id) == 1), "four trials wait for three slots");
    env.complete(trial(study, "mti-net/0/0"));
    assert_eq!(env.width(trial(study, "unet/1/0")), 1);
    let mut env = TestEnv::new();
    env.join_cpus("a", 8);
    let study = env.submit("folds = [0]\n[train]\nreplicas = 4\n");
    assert_eq!((env.width(trial(study, "mti-net/0/0")), env.width(trial(study, "unet/0/0"))), (4, 4));
    let mut env = TestEnv::new();
    env.join_cpus("a", 3);
    let study = env.submit("folds = [0]\n[train]\nreplicas = 6\n");
    assert_eq!((env.width(trial(study, "mti-net/0/0")), env.width(trial(study, "unet/0/0"))), (2, 1));
}

/// The devices and slots of a trial's ranks.
fn devices(env: &TestEnv, id: mtinet_domain::TrialId) -> Vec<(Device, u32)> {
    let gang = env.core.trial(id).unwrap().gang().expect("the trial has an attempt");
    gang.ranks.iter().map(|rank| (rank.placement.device, rank.placement.slot.0)).collect()
}

const SHARED: [Device; 5] = [Device::Cuda(0), Device::Cuda(0), Device::Cuda(1), Device::Cuda(1), Device::Cpu];

#[test]
fn trials_of_one_rank_share_a_cuda_device_when_no_other_is_idle() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0, 1]\n[resources]\ndevice = \"cuda\"\n");
    env.join("a", &SHARED[..2]);
    // The snug worker's device is in use, so the other worker's comes first.
    env.join("b", &[Device::Cuda(0); 3]);
    let place = |env: &TestEnv, id| (env.at(id, 0).0.0, devices(env, id)[0].1);
    let placed: Vec<_> = ["mti-net/0/0", "mti-net/1/0", "unet/0/0", "unet/1/0"]
        .map(|key| place(&env, trial(study, key)))
        .into();
    let mut workers: Vec<&str> = placed.iter().map(|(worker, _)| worker.as_str()).collect();
    workers.sort_unstable();
    assert_eq!(workers, ["a", "a", "b", "b"], "{placed:?}");
    let mut env = TestEnv::new();
    let study = env.submit("[resources]\ndevice = \"cuda\"\n");
    env.join("a", &SHARED);
    let order: Vec<_> = ["mti-net/0/0", "mti-net/1/0", "mti-net/2/0", "mti-net/3/0"]
        .map(|key| devices(&env, trial(study, key))[0])
        .into();
    assert_eq!(order, [(SHARED[0], 0), (SHARED[2], 2), (SHARED[1], 1), (SHARED[3], 3)]);
    let waits = env.reason(trial(study, "mti-net/4/0")).unwrap();
    assert_eq!(waits.to_string(), "needs 1 cuda slot, 0 of 4 free");
}

#[test]
fn ranks_of_a_gang_never_share_a_cuda_device() {
    let mut env = TestEnv::new();
    let study = env.submit("[train]\nreplicas = 2\n[resources]\ndevice = \"cuda\"\nranks = 2\n");
    env.join("a", &[Device::Cuda(0); 4]);
    let [first, second] = ["mti-net/0/0", "mti-net/1/0"].map(|key| trial(study, key));
    assert_eq!(env.reason(first).unwrap().to_string(), "needs 2 cuda devices, the fleet has 1");
    env.join("b", &SHARED);
    // Both idle devices of one worker, and then what is left of them: one rank on each again.
    assert_eq!(devices(&env, first), [(SHARED[0], 0), (SHARED[2], 2)]);
    assert_eq!(devices(&env, second), [(SHARED[1], 1), (SHARED[3], 3)]);
    let third = trial(study, "mti-net/2/0");
    assert_eq!(env.reason(third).unwrap().to_string(), "needs 2 cuda devices, 1 of 3 free");
    // A device of each of two workers.
    env.join("c", &[Device::Cuda(0); 2]);
    assert_eq!(devices(&env, third), [(Device::Cuda(0), 0); 2]);
    assert_ne!(env.at(third, 0).0, env.at(third, 1).0);
    env.core.sanity_check().unwrap();
}

#[test]
fn auto_takes_no_more_ranks_than_there_are_cuda_devices() {
    let mut env = TestEnv::new();
    env.join("a", &SHARED);
    let text = "folds = [0]\n[train]\nreplicas = 4\n[resources]\ndevice = \"auto\"\n";
    let study = env.submit(text);
    let [first, second] = ["mti-net/0/0", "unet/0/0"].map(|key| trial(study, key));
    assert_eq!((env.width(first), env.width(second)), (2, 2), "four slots on two devices");
    // A gang that the CUDA devices cannot hold runs on the CPU where that can, as before.
    let mut env = TestEnv::new();
    env.join("a", &[Device::Cuda(0), Device::Cuda(0), Device::Cpu, Device::Cpu]);
    let study = env.submit("folds = [0]\n[train]\nreplicas = 2\n[resources]\ndevice = \"auto\"\nranks = 2\n");
    assert_eq!(devices(&env, trial(study, "mti-net/0/0")), [(Device::Cpu, 2), (Device::Cpu, 3)]);
}

#[test]
fn an_attempt_is_widened_to_more_devices_and_not_to_more_slots_of_its_own() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]\n[train]\nreplicas = 2\n[resources]\ndevice = \"cuda\"\n");
    env.join("a", &SHARED[..2]);
    let [head, last] = ["mti-net/0/0", "unet/0/0"].map(|key| trial(study, key));
    env.rank_reports(last, 0, super::env::metrics(5));
    env.rank_reports(last, 0, crate::Fact::Checkpoint(super::env::checkpoint(5, "c5")));
    env.complete(head);
    env.advance(70_000);
    assert_eq!(
        (env.width(last), env.core.trial(last).unwrap().attempts),
        (1, 1),
        "the spare slot is on its device"
    );
    env.join("b", &SHARED[..2]);
    env.advance(500);
    assert_eq!((env.width(last), env.last_end()), (2, mtinet_domain::trial::AttemptEnd::Widened));
    assert_ne!(env.at(last, 0).0, env.at(last, 1).0);
}

#[test]
fn cancelling_ends_waiting_trials_at_once_and_running_ones_after_a_grace() {
    let mut env = TestEnv::new();
    let study = env.submit("folds = [0]");
    let a = env.join_cpus("a", 1);
    env.cut(&a);
    env.cancel(study);
    let head = trial(study, "mti-net/0/0");
    assert_eq!(env.status(trial(study, "unet/0/0")), TrialStatus::Cancelled);
    assert_eq!(env.status(head), TrialStatus::Stopping);
    assert_eq!(env.reason(head).unwrap().to_string(), "it saves and ends: it is cancelled");
    assert_eq!(env.core.study(study).unwrap().status(), "cancelling");
    // The command was lost with the session and is said again.
    env.connect(&a);
    assert_eq!(env.status(head), TrialStatus::Cancelled);
    assert_eq!(env.core.study(study).unwrap().status(), "cancelled");
    env.cancel(study);
    assert_eq!((env.count("study_cancelled"), env.count("study_finished")), (1, 1));
    env.core.emptiness_check().unwrap();
}

#[test]
fn a_decision_does_not_look_at_every_trial_and_worker() {
    // 10,000 trials on 1,000 workers: quadratic work would take minutes here, not a moment.
    let seeds: Vec<_> = (0..1000).collect();
    let text = format!("name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\", \"unet\"]\nseeds = {seeds:?}\n");
    let spec = Box::new(mtinet_domain::StudySpec::from_toml(&text).unwrap());
    let mut env = TestEnv::new();
    let study = env.submit_spec(spec);
    let mut running = std::collections::VecDeque::new();
    for n in 0..1000 {
        let hello = crate::Hello {
            worker: super::env::worker(&format!("w{n}")),
            name: String::new(),
            slots: vec![crate::Slot { index: mtinet_domain::SlotIndex(0), device: Device::Cpu }],
            running: vec![],
        };
        running.extend(env.core.on_worker_connected(env.now, &hello).send);
    }
    let mut seq = 0;
    while let Some((worker, command)) = running.pop_front() {
        let crate::Command::StartRank(start) = command else { panic!("{command:?}") };
        for fact in [
            super::env::evaluated(),
            crate::Fact::Exited {
                exit: mtinet_domain::trial::ProcessExit::Code(0),
                finished: true,
                step: None,
                message: String::new(),
                stopped: false,
                missing: Vec::new(),
            },
        ] {
            seq += 1;
            let report = crate::Report { seq, attempt: start.attempt, rank: start.rank, fact };
            running.extend(env.core.on_report(env.now, &worker, report).send);
        }
    }
    assert_eq!(env.core.study(study).unwrap().status(), "complete");
    env.core.emptiness_check().unwrap();
}
