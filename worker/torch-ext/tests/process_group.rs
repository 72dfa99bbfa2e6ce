//! The store and the collectives, between real processes.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail tests by panicking")]

mod support;

use mtinet_torch_ext::{Backend, ProcessGroup, TcpStore, TorchExtError, is_cuda_build, nccl_available};
use std::time::{Duration, Instant};
use support::{TIMEOUT, on_ranks, on_ranks_where};
use tch::{Device, Kind, Tensor};

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(tensor.contiguous().view(-1)).unwrap()
}

fn full(value: usize, shape: &[i64]) -> Tensor {
    Tensor::full(shape, value as f64, (Kind::Float, Device::Cpu))
}

#[test]
fn collectives_give_every_rank_the_same_result() {
    on_ranks("collectives_give_every_rank_the_same_result", 3, |rank| {
        let group = rank.group();
        assert_eq!((group.rank(), group.world_size(), group.backend()), (rank.rank, 3, Backend::Gloo));

        // Types are mixed, and one tensor is not contiguous: it must come home in its own layout.
        let floats = full(rank.rank + 1, &[4]);
        let counts = Tensor::from_slice(&[rank.rank as i64]);
        let base = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        let turned = base.transpose(0, 1);
        group.all_reduce_sum(&[&floats, &counts, &turned]).unwrap();
        assert_eq!(values(&floats), [6.0; 4]);
        assert_eq!(counts.int64_value(&[0]), 3);
        assert_eq!(values(&base), [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]);

        let mean = [full(rank.rank, &[2]), full(rank.rank * 10, &[1])];
        group.all_reduce_mean(&mean).unwrap();
        assert_eq!((values(&mean[0]), values(&mean[1])), (vec![1.0, 1.0], vec![10.0]));
        assert!(matches!(group.all_reduce_mean(&[&counts]), Err(TorchExtError::Torch { .. })));

        let sent = [full(rank.rank, &[2, 2]), full(rank.rank + 5, &[3])];
        group.broadcast(&sent, 2).unwrap();
        assert_eq!((values(&sent[0]), values(&sent[1])), (vec![2.0; 4], vec![7.0; 3]));
        assert!(matches!(group.broadcast(&sent, 3), Err(TorchExtError::Argument { .. })));

        let gathered = group.all_gather(&full(rank.rank, &[2])).unwrap();
        assert_eq!(gathered.iter().map(values).collect::<Vec<_>>(), [[0.0; 2], [1.0; 2], [2.0; 2]]);

        group.barrier().unwrap();
        for _ in 0..3 {
            group.monitored_barrier(Duration::from_secs(30)).unwrap();
        }
        // A second group in the same store does not meet the first one's keys.
        let other = rank.group();
        let sum = full(1, &[1]);
        other.all_reduce_sum(&[&sum]).unwrap();
        assert_eq!(values(&sum), [3.0]);
        other.barrier().unwrap();
    });
}

#[test]
fn launches_from_two_threads_are_safe() {
    on_ranks("launches_from_two_threads_are_safe", 2, |rank| {
        // The same order on both ranks is the callers' duty, so both threads reduce tensors of one shape and value.
        let group = rank.group();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let group = group.clone();
                scope.spawn(move || {
                    for _ in 0..200 {
                        let one = full(1, &[8]);
                        group.all_reduce_sum(&[&one]).unwrap();
                        assert_eq!(values(&one), [2.0; 8]);
                    }
                });
            }
        });
        group.barrier().unwrap();
    });
}

#[test]
fn a_dead_peer_is_an_error_at_once() {
    on_ranks_where("a_dead_peer_is_an_error_at_once", 2, Some(1), |rank| {
        let group = rank.group();
        group.barrier().unwrap();
        if rank.rank == 1 {
            std::process::abort();
        }
        let started = Instant::now();
        let error = group.all_reduce_sum(&[full(1, &[100])]).unwrap_err();
        assert!(error.is_peer(), "{error:?}");
        assert!(started.elapsed() < TIMEOUT, "{:?}", started.elapsed());
    });
}

#[test]
fn a_hung_peer_is_an_error_after_the_timeout() {
    on_ranks("a_hung_peer_is_an_error_after_the_timeout", 2, |rank| {
        let group = rank.group();
        if rank.rank == 0 {
            let started = Instant::now();
            let error = group.all_reduce_sum(&[full(1, &[100])]).unwrap_err();
            assert!(error.is_peer(), "{error:?}");
            assert!(started.elapsed() < TIMEOUT * 3, "{:?}", started.elapsed());
            rank.store.set("seen", b"").unwrap();
        } else {
            rank.store.get("seen").unwrap();
        }
    });
}

#[test]
fn a_monitored_barrier_names_the_missing_ranks() {
    on_ranks("a_monitored_barrier_names_the_missing_ranks", 4, |rank| {
        let group = rank.group();
        group.monitored_barrier(Duration::from_secs(30)).unwrap();
        if rank.rank == 1 || rank.rank == 3 {
            rank.store.wait(&["seen/0".into(), "seen/2".into()], Duration::from_secs(60)).unwrap();
            return;
        }
        match group.monitored_barrier(Duration::from_millis(700)) {
            Err(error @ TorchExtError::MissingRanks { .. }) => {
                assert!(error.to_string().starts_with("ranks [1, 3] did not reach the barrier"), "{error}");
                assert!(error.is_peer());
            }
            other => panic!("{other:?}"),
        }
        rank.store.set(&format!("seen/{}", rank.rank), b"").unwrap();
    });
}

#[test]
fn abort_from_another_thread_ends_a_collective() {
    on_ranks("abort_from_another_thread_ends_a_collective", 2, |rank| {
        let long = Duration::from_secs(100);
        let group = ProcessGroup::new(Backend::Gloo, &rank.store, rank.rank, 2, "127.0.0.1", long).unwrap();
        if rank.rank == 1 {
            rank.store.get("aborted").unwrap();
            return;
        }
        let watchdog = group.clone();
        let started = Instant::now();
        let waiting = std::thread::spawn(move || group.all_reduce_sum(&[full(1, &[100])]));
        watchdog.abort().unwrap();
        assert!(waiting.join().unwrap().is_err());
        assert!(started.elapsed() < long / 2);
        rank.store.set("aborted", b"").unwrap();
    });
}

#[test]
fn the_store_carries_bytes_and_refuses_another_world_size() {
    let short = Duration::from_millis(300);
    let host = TcpStore::host("127.0.0.1", 0, 2, short).unwrap();
    let peer = TcpStore::connect("127.0.0.1", host.port(), 2, short).unwrap();
    peer.set("key", &[0, 255, 10]).unwrap();
    assert_eq!(host.get("key").unwrap(), [0, 255, 10]);
    peer.set("empty", b"").unwrap();
    assert_eq!(host.get("empty").unwrap(), b"");
    assert!(host.contains("key").unwrap());
    host.remove("key").unwrap();
    assert!(!peer.contains("key").unwrap());
    assert!(matches!(host.get("key"), Err(TorchExtError::Timeout { .. })));
    assert!(matches!(host.set("a\0b", b""), Err(TorchExtError::Argument { .. })));

    let error = TcpStore::connect("127.0.0.1", host.port(), 3, short).unwrap_err();
    assert!(error.to_string().contains("is for 2 ranks, this one was told 3"), "{error}");
    let taken = TcpStore::host("127.0.0.1", host.port(), 2, short).unwrap_err();
    assert!(taken.to_string().contains("cannot listen on 127.0.0.1"), "{taken}");
}

#[test]
fn the_store_listens_on_its_host_alone() {
    let host = TcpStore::host("127.0.0.1", 0, 1, TIMEOUT).unwrap();
    // 127.0.0.2 is this machine too, so that only the bound address can refuse it.
    assert!(std::net::TcpStream::connect(("127.0.0.2", host.port())).is_err());
    assert!(std::net::TcpStream::connect(("127.0.0.1", host.port())).is_ok());
}

#[test]
fn nobody_at_the_store_is_an_error() {
    let port = TcpStore::host("127.0.0.1", 0, 1, TIMEOUT).unwrap().port();
    let error = TcpStore::connect("127.0.0.1", port, 1, Duration::from_millis(500)).unwrap_err();
    assert!(error.is_peer(), "{error:?}");
}

#[test]
fn nccl_says_why_it_cannot_be_had() {
    if nccl_available() {
        return;
    }
    let store = TcpStore::host("127.0.0.1", 0, 1, TIMEOUT).unwrap();
    match ProcessGroup::new(Backend::Nccl, &store, 0, 1, "127.0.0.1", TIMEOUT) {
        Err(TorchExtError::Unavailable { what: "NCCL", reason }) if is_cuda_build() => {
            assert!(reason.contains("no CUDA device"), "{reason}");
        }
        Err(TorchExtError::Unavailable { what: "NCCL", reason }) => {
            assert!(reason.contains("CPU build"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rank_outside_the_world_is_refused() {
    let store = TcpStore::host("127.0.0.1", 0, 2, TIMEOUT).unwrap();
    let error = ProcessGroup::new(Backend::Gloo, &store, 2, 2, "127.0.0.1", TIMEOUT).unwrap_err();
    assert_eq!(error.to_string(), "joining the process group: rank 2 is not below the world size 2");
}
