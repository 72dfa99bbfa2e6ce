//! A coordinator that is killed loses nothing that it acknowledged and starts nothing again.

use mtinet_bench::coordinator::{Program, program};
use mtinet_bench::kills::{Options, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_coordinator_adopts_its_fleet() {
    let options = Options { kills: 4, workers: 20, slots: 10 };
    let program = Program { path: program().unwrap(), tls: true };
    let outcome = run(&program, options).await.unwrap();
    assert_eq!(outcome.back.len(), 4);
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
    assert_eq!((outcome.restarted, outcome.stopped), (0, 0), "{outcome:?}");
}
