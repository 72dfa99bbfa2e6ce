//! Random faults: invariants hold after every event, nothing is done twice, and every trial ends when faults stop.

use mtinet_domain::trial::ProcessExit;
use mtinet_domain::{StudyId, WorkerId};
use proptest::prelude::*;

use super::env::TestEnv;

const PEER_GONE: &str = "Connection closed by peer";

#[derive(Clone, Debug)]
enum Action {
    Submit {
        folds: u32,
        ranks: u32,
        auto: bool,
        priority: i32,
    },
    Join {
        slots: usize,
    },
    Cut(usize),
    Break(usize),
    Connect(usize),
    Kill(usize),
    /// The peers of the killed worker's ranks notice before the coordinator does.
    KillUnderPeers(usize),
    Progress(usize),
    /// A signal strikes.
    Fail(usize),
    /// A collective breaks.
    PeerFails(usize),
    Acknowledge(usize),
    Repeat(usize),
    Advance(u64),
    Restart {
        with_metrics: bool,
    },
    Cancel(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let n = 0..100_usize;
    prop_oneof![
        2 => (1..4_u32, 0..3_u32, any::<bool>(), 0..2).prop_map(|(folds, ranks, auto, priority)| Action::Submit {
            folds, ranks: 1 << ranks, auto, priority
        }),
        3 => (1..4_usize).prop_map(|slots| Action::Join { slots }),
        3 => n.clone().prop_map(Action::Cut),
        2 => n.clone().prop_map(Action::Break),
        5 => n.clone().prop_map(Action::Connect),
        1 => n.clone().prop_map(Action::Kill),
        1 => n.clone().prop_map(Action::KillUnderPeers),
        20 => n.clone().prop_map(Action::Progress),
        2 => n.clone().prop_map(Action::Fail),
        2 => n.clone().prop_map(Action::PeerFails),
        4 => n.clone().prop_map(Action::Acknowledge),
        2 => n.clone().prop_map(Action::Repeat),
        5 => (1..4000_u64).prop_map(Action::Advance),
        2 => any::<bool>().prop_map(|with_metrics| Action::Restart { with_metrics }),
        1 => n.prop_map(Action::Cancel),
    ]
}

fn pick<T: Clone>(items: &[T], index: usize) -> Option<T> {
    items.get(index.checked_rem(items.len())?).cloned()
}

fn perform(env: &mut TestEnv, action: &Action) {
    let alive: Vec<WorkerId> =
        env.agents.iter().filter(|(_, agent)| !agent.dead).map(|(id, _)| id.clone()).collect();
    match *action {
        Action::Submit { folds, ranks, auto, priority } => {
            let width = if auto { "\"auto\"".to_owned() } else { ranks.to_string() };
            let folds: Vec<_> = (0..folds).collect();
            env.submit(&format!(
                "folds = {folds:?}\n[train]\nreplicas = {ranks}\n[resources]\nranks = {width}\npriority = {priority}\n"
            ));
        }
        Action::Join { slots } if env.agents.len() < 6 => {
            env.join_cpus(&format!("w{}", env.agents.len()), slots);
        }
        Action::Join { .. } => {}
        Action::Advance(ms) => env.advance(ms),
        Action::Restart { with_metrics } => env.restart(with_metrics),
        Action::Cancel(n) => {
            let studies: Vec<StudyId> = env.core.studies().map(|study| study.id).collect();
            if let Some(study) = pick(&studies, n) {
                env.cancel(study);
            }
        }
        Action::Progress(n) => {
            if let Some((id, attempt, rank)) = pick(&env.processes(), n) {
                env.progress(&id, attempt, rank);
            }
        }
        Action::Fail(n) => {
            if let Some((id, attempt, rank)) = pick(&env.processes(), n) {
                env.exit(&id, attempt, rank, ProcessExit::Signal(11), false, "fault");
            }
        }
        Action::PeerFails(n) => {
            if let Some((id, attempt, rank)) = pick(&env.processes(), n) {
                env.exit(&id, attempt, rank, ProcessExit::Code(1), false, PEER_GONE);
            }
        }
        Action::Cut(n)
        | Action::Break(n)
        | Action::Connect(n)
        | Action::Kill(n)
        | Action::KillUnderPeers(n)
        | Action::Acknowledge(n)
        | Action::Repeat(n) => {
            if let Some(id) = pick(&alive, n) {
                perform_on_agent(env, action, &id);
            }
        }
    }
}

fn perform_on_agent(env: &mut TestEnv, action: &Action, id: &WorkerId) {
    match action {
        Action::Cut(_) => env.cut(id),
        Action::Break(_) => env.break_off(id),
        Action::Connect(_) => env.connect(id),
        Action::Kill(_) => env.kill(id),
        Action::KillUnderPeers(_) => kill_under_peers(env, id),
        Action::Acknowledge(_) if env.agents[id].linked => env.acknowledge(id),
        Action::Repeat(_) => env.repeat_everything(id),
        _ => {}
    }
}

fn kill_under_peers(env: &mut TestEnv, id: &WorkerId) {
    let before = env.processes();
    env.kill(id);
    for (other, attempt, rank) in &before {
        let had_peer = before.iter().any(|(worker, peer, _)| worker == id && peer == attempt);
        // Those that are heard first end the others.
        if had_peer && env.processes().contains(&(other.clone(), *attempt, *rank)) {
            env.exit(other, *attempt, *rank, ProcessExit::Code(1), false, PEER_GONE);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_trial_ends_when_faults_stop(actions in proptest::collection::vec(action(), 1..120)) {
        let mut env = TestEnv::new();
        for action in &actions {
            perform(&mut env, action);
        }
        env.settle();
        env.check_ends();
        env.restart(true);
        let studies = env.core.studies().count();
        prop_assert_eq!(env.count("study_finished"), studies);
        let ends = env.count("attempt_ended");
        prop_assert_eq!(env.count("attempt_started"), ends);
    }
}
