//! What a coordinator exports to Prometheus while it works.

use std::collections::BTreeMap;

use mtinet_proto::v1;
use mtinet_runtime::metrics::exposition::{Family, asked_by_dashboard, check};

use super::fleet::*;

async fn scrape(server: &Server) -> BTreeMap<String, Family> {
    let text = within("a scrape", server.ready().export.text()).await;
    check(&text).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

/// The value of a metric whose labels hold these; the sum where several do.
fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = families.values().flat_map(|family| &family.samples).filter(|sample| {
        let has = |(name, value): &(&str, &str)| sample.labels.get(*name).is_some_and(|found| found == value);
        sample.name == name && labels.iter().all(has)
    });
    let values: Vec<f64> = samples.map(|sample| sample.value).collect();
    assert!(!values.is_empty(), "no {name} {labels:?}");
    values.iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_study_can_be_followed_in_the_metrics() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let before = scrape(&server).await;
    assert_eq!(value(&before, "mtinet_studies", &[]), 0.0);
    assert_eq!(value(&before, "mtinet_attempts_started_total", &[]), 0.0);

    let study = submit(&mut client, "folds = [0, 1]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    let families = scrape(&server).await;
    assert_eq!(value(&families, "mtinet_studies", &[("status", "running")]), 1.0);
    assert_eq!(value(&families, "mtinet_trials", &[("status", "waiting")]), 1.0);
    assert_eq!(value(&families, "mtinet_trials", &[("status", "running")]), 1.0);
    assert_eq!(value(&families, "mtinet_workers", &[("status", "ready")]), 1.0);
    assert_eq!(value(&families, "mtinet_slots", &[("device", "cpu")]), 1.0);
    assert_eq!(value(&families, "mtinet_slots_busy", &[]), 1.0);

    agent.report(&start, speed(20)).await;
    agent.report(&start, metrics(1)).await;
    agent.acknowledged().await;
    let families = scrape(&server).await;
    let trial =
        [("study", study.to_string()), ("arm", "mti-net".into()), ("fold", "0".into()), ("seed", "0".into())];
    let trial = trial.each_ref().map(|(name, value): &(_, String)| (*name, value.as_str()));
    assert_eq!(value(&families, "mtinet_trial_step_seconds", &trial), 0.25);
    assert_eq!(value(&families, "mtinet_trial_data_wait_ratio", &trial), 0.125);
    assert_eq!(value(&families, "mtinet_trial_samples_per_second", &trial), 32.0);
    agent.complete(&start).await;
    let next = agent.assignment().await;
    agent.complete(&next).await;
    agent.acknowledged().await;
    assert_eq!(show(&mut client, study).await.summary.unwrap().status, "complete");
    let missing = v1::GetStudyRequest { which: Some(v1::get_study_request::Which::Study(99)) };
    client.get_study(missing).await.unwrap_err();
    let families = scrape(&server).await;
    let left = families.values().flat_map(|family| &family.samples);
    assert!(
        !left.into_iter().any(|sample| sample.name.starts_with("mtinet_trial_")),
        "of trials that are over"
    );
    assert_eq!(value(&families, "mtinet_studies", &[("status", "complete")]), 1.0);
    assert_eq!(value(&families, "mtinet_attempts_started_total", &[]), 2.0);
    assert_eq!(value(&families, "mtinet_attempts_ended_total", &[("outcome", "completed")]), 2.0);
    assert_eq!(value(&families, "mtinet_events_total", &[("kind", "attempt_started")]), 2.0);
    assert_eq!(value(&families, "mtinet_metric_points_total", &[]), 4.0, "the other value is no number");
    assert_eq!(value(&families, "mtinet_queue_wait_seconds_count", &[]), 2.0);
    let events = value(&families, "mtinet_events_total", &[]);
    assert_eq!(value(&families, "mtinet_commit_events_sum", &[]), events, "each event is in one commit");
    assert!(value(&families, "mtinet_commit_seconds_sum", &[]) > 0.0);
    assert!(value(&families, "mtinet_decision_seconds_count", &[]) > 1.0);
    let calls = |method, code| value(&families, "mtinet_rpcs_total", &[("method", method), ("code", code)]);
    assert_eq!(calls("mtinet.v1.Client/SubmitStudy", "OK"), 1.0);
    assert_eq!(calls("mtinet.v1.Client/GetStudy", "NOT_FOUND"), 1.0);
    assert!(value(&families, "process_resident_memory_bytes", &[]) > 1e6);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dashboards_ask_only_for_what_is_exported() {
    let (_dir, server) = fresh().await;
    // Counters with labels appear with their first count.
    let mut client = server.client().await;
    submit(&mut client, "folds = [0]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    agent.complete(&start).await;
    agent.acknowledged().await;
    let families = scrape(&server).await;
    let exported: Vec<&str> =
        families.values().flat_map(|family| &family.samples).map(|sample| sample.name.as_str()).collect();
    let dashboard = include_str!("../../../../deploy/grafana/mtinet-coordinator.json");
    let asked = asked_by_dashboard(dashboard, "mtinet_").unwrap();
    let missing: Vec<_> = asked.iter().filter(|name| !exported.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
    assert!(asked.len() > 12, "{asked:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn names_that_strangers_make_up_are_counted_as_one() {
    let (_dir, server) = fresh().await;
    let channel = server.channel().await;
    for method in ["/mtinet.v1.Client/NotYetThought", "/mtinet.v1.Client/NorThis"] {
        super::access::call(&channel, method).await.unwrap_err();
    }
    let families = scrape(&server).await;
    let calls =
        |method| value(&families, "mtinet_rpcs_total", &[("method", method), ("code", "PERMISSION_DENIED")]);
    assert_eq!(calls("unknown"), 2.0);
    let named = families.values().flat_map(|family| &family.samples);
    let named: Vec<_> = named.filter_map(|sample| sample.labels.get("method")).collect();
    assert!(named.iter().all(|method| !method.contains("NotYetThought")), "{named:?}");
    server.stop().await.unwrap();
}
