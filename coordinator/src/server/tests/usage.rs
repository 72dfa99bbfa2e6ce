//! What workers say of their machines, as `ListWorkers` shows it.

use mtinet_proto::v1;

use super::fleet::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_latest_word_of_a_worker_is_listed_and_its_silence_is_none() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let listed = async |client: &mut mtinet_proto::v1::client_client::ClientClient<_>| {
        let workers = client.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
        workers.into_iter().next().unwrap()
    };
    // The agent's own heartbeats are those of a release that knows of no usage.
    let mut agent = Agent::join(&server, 1).await;
    assert_eq!(listed(&mut client).await.usage, None);
    let device = v1::DeviceUsage { slot: 0, temperature_celsius: Some(64.0), ..Default::default() };
    let mut usage =
        v1::MachineUsage { cores: 8, load_1m: Some(1.5), devices: vec![device], ..Default::default() };
    agent.say_usage(usage.clone()).await;
    usage.cores = 9;
    agent.say_usage(v1::MachineUsage { cpu_percent: Some(f64::NAN), ..usage.clone() }).await;
    let worker = within("the latest", async {
        loop {
            let worker = listed(&mut client).await;
            if worker.usage.as_ref().is_some_and(|usage| usage.cores == 9) {
                return worker;
            }
        }
    });
    let worker = worker.await;
    assert_eq!(worker.usage, Some(usage), "what is no number is left out");
    agent.disconnect();
    within("the end of its session", async { while listed(&mut client).await.usage.is_some() {} }).await;
    server.stop().await.unwrap();
}
