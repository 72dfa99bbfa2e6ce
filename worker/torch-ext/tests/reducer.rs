//! Data-parallel steps between real processes: every rank ends with the bits that one process computes.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail tests by panicking")]

mod support;

use mtinet_torch_ext::{
    AdamOptions, Backend, ProcessGroup, Reducer, ReducerOptions, TcpStore, clear_grads, fused_adam_step,
};
use std::time::Instant;
use support::{TIMEOUT, on_ranks, on_ranks_where};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
/// So small that the parameters below take several buckets.
const SMALL_BUCKETS: ReducerOptions = ReducerOptions {
    bucket_cap_bytes: 2048,
    first_bucket_bytes: 256,
    find_unused_parameters: false,
    gradient_as_bucket_view: true,
};

/// A small convolutional network: weights of several shapes, and one parameter that `forward` may leave out.
struct Net {
    params: Vec<Tensor>,
}

impl Net {
    fn new() -> Self {
        tch::manual_seed(7);
        let shapes: [&[i64]; 6] = [&[8, 2, 3, 3], &[8], &[16, 8, 3, 3], &[16], &[3, 16], &[3, 16]];
        let params = shapes.iter().map(|shape| (Tensor::randn(*shape, FLOAT) * 0.2).set_requires_grad(true));
        Self { params: params.collect() }
    }

    fn loss(&self, step: i64, rank: usize, with_last: bool) -> Tensor {
        tch::manual_seed(1000 * step + rank as i64);
        let [w1, b1, w2, b2, w3, w4] = &self.params[..] else { unreachable!() };
        let x = Tensor::randn([2, 2, 10, 10], FLOAT);
        let y = x.conv2d(w1, Some(b1), 1, 1, 1, 1).relu().conv2d(w2, Some(b2), 2, 1, 1, 1).relu();
        let y = y.mean_dim(&[2i64, 3][..], false, Kind::Float);
        let y = if with_last { y.matmul(&(w3 + w4).tr()) } else { y.matmul(&w3.tr()) };
        (y - Tensor::randn([2, 3], FLOAT)).square().sum(Kind::Float)
    }

    fn bits(&self) -> Vec<u32> {
        self.params.iter().flat_map(bits).collect()
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    Vec::<f32>::try_from(tensor.detach().view(-1)).unwrap().into_iter().map(f32::to_bits).collect()
}

struct Adam {
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl Adam {
    fn new(params: &[Tensor]) -> Self {
        let zeros = || params.iter().map(|param| param.detach().zeros_like()).collect();
        let steps = params.iter().map(|_| Tensor::zeros([], FLOAT)).collect();
        Self { exp_avgs: zeros(), exp_avg_sqs: zeros(), steps }
    }

    fn step(&mut self, params: &[Tensor], grads: &[Tensor]) {
        let options = AdamOptions { learning_rate: 1e-2, ..AdamOptions::default() };
        fused_adam_step(params, grads, &self.exp_avgs, &self.exp_avg_sqs, &self.steps, &options).unwrap();
    }
}

fn grads(net: &Net) -> Vec<Tensor> {
    net.params.iter().map(Tensor::grad).collect()
}

/// What `steps` data-parallel steps of two ranks come to, computed by one process without a group.
fn expected(steps: i64, accumulate: i64) -> Vec<u32> {
    let net = Net::new();
    let mut adam = Adam::new(&net.params);
    for step in 0..steps {
        let mut mean: Vec<Tensor> = net.params.iter().map(|param| param.detach().zeros_like()).collect();
        for rank in 0..2 {
            clear_grads(&net.params).unwrap();
            for part in 0..accumulate {
                net.loss(step * accumulate + part, rank, true).backward();
            }
            for (sum, grad) in mean.iter_mut().zip(grads(&net)) {
                *sum += grad * 0.5;
            }
        }
        adam.step(&net.params, &mean);
    }
    net.bits()
}

fn train(reducer: &Reducer, net: &Net, rank: usize, steps: i64, accumulate: i64) {
    let mut adam = Adam::new(&net.params);
    for step in 0..steps {
        for part in 0..accumulate {
            let last = part == accumulate - 1;
            if last {
                reducer.prepare_for_forward().unwrap();
            }
            let loss = net.loss(step * accumulate + part, rank, true);
            if last {
                reducer.prepare_for_backward(&[&loss]).unwrap();
            }
            loss.f_backward().unwrap();
        }
        adam.step(&net.params, &grads(net));
        clear_grads(&net.params).unwrap();
    }
}

#[test]
fn twenty_steps_end_with_the_bits_of_one_process() {
    on_ranks("twenty_steps_end_with_the_bits_of_one_process", 2, |rank| {
        let expected = expected(20, 1);
        let group = rank.group();
        for find_unused_parameters in [false, true] {
            for gradient_as_bucket_view in [false, true] {
                let options =
                    ReducerOptions { find_unused_parameters, gradient_as_bucket_view, ..SMALL_BUCKETS };
                let net = Net::new();
                let reducer = Reducer::new(&net.params, &group, &options).unwrap();
                train(&reducer, &net, rank.rank, 20, 1);
                assert!(net.bits() == expected, "rank {} with {options:?}", rank.rank);
            }
        }
    });
}

#[test]
fn accumulation_averages_the_sums_once() {
    on_ranks("accumulation_averages_the_sums_once", 2, |rank| {
        let expected = expected(5, 3);
        let group = rank.group();
        for gradient_as_bucket_view in [false, true] {
            let options = ReducerOptions { gradient_as_bucket_view, ..SMALL_BUCKETS };
            let net = Net::new();
            let reducer = Reducer::new(&net.params, &group, &options).unwrap();
            train(&reducer, &net, rank.rank, 5, 3);
            assert!(net.bits() == expected, "rank {} with {options:?}", rank.rank);
        }
    });
}

#[test]
fn buckets_keep_their_layout_from_the_first_step_on() {
    on_ranks("buckets_keep_their_layout_from_the_first_step_on", 2, |rank| {
        let group = rank.group();
        let mut layouts = Vec::new();
        for find_unused_parameters in [false, true] {
            let net = Net::new();
            let options = ReducerOptions { find_unused_parameters, ..SMALL_BUCKETS };
            let reducer = Reducer::new(&net.params, &group, &options).unwrap();
            layouts.push(reducer.bucket_bytes().unwrap());
            for _ in 0..3 {
                train(&reducer, &net, rank.rank, 1, 1);
                layouts.push(reducer.bucket_bytes().unwrap());
            }
        }
        // From the last parameter to the first: 48, 48 and 16 floats pass 256 bytes; 1152 floats pass 2048; the rest.
        assert_eq!(layouts[0], [4 * (48 + 48), 4 * (16 + 1152), 4 * (8 + 144)]);
        assert!(layouts.iter().all(|layout| *layout == layouts[0]), "{layouts:?}");
    });
}

#[test]
fn a_parameter_that_only_one_rank_uses_counts_as_zero_on_the_other() {
    on_ranks("a_parameter_that_only_one_rank_uses_counts_as_zero_on_the_other", 2, |rank| {
        let group = rank.group();
        let net = Net::new();
        let options = ReducerOptions { find_unused_parameters: true, ..SMALL_BUCKETS };
        let reducer = Reducer::new(&net.params, &group, &options).unwrap();
        let alone = Net::new();
        alone.loss(0, 0, true).backward();
        // Step 0: rank 0 uses the last parameter. Steps 1 and 2: nobody does. Step 3: both do.
        for (step, with_last) in [(0, rank.rank == 0), (1, false), (2, false), (3, true)] {
            clear_grads(&net.params).unwrap();
            reducer.prepare_for_forward().unwrap();
            let loss = net.loss(step, rank.rank, with_last);
            reducer.prepare_for_backward(&[&loss]).unwrap();
            loss.f_backward().unwrap();
            if step == 0 {
                assert_eq!(bits(&net.params[5].grad()), bits(&(alone.params[5].grad() * 0.5)));
            }
            assert_eq!(net.params[5].grad().defined(), step == 0 || step == 3);
            assert!(net.params[4].grad().defined());
        }
    });
}

#[test]
fn a_parameter_left_out_without_the_search_is_an_error_in_the_next_step() {
    on_ranks("a_parameter_left_out_without_the_search_is_an_error_in_the_next_step", 2, |rank| {
        let group = rank.group();
        let net = Net::new();
        let reducer = Reducer::new(&net.params, &group, &SMALL_BUCKETS).unwrap();
        let loss = net.loss(0, rank.rank, false);
        reducer.prepare_for_backward(&[&loss]).unwrap();
        loss.f_backward().unwrap();
        let error = reducer.prepare_for_forward().unwrap_err();
        assert!(error.to_string().contains("count from the last parameter"), "{error}");
        assert!(error.to_string().contains("did not receive grad for rank"), "{error}");
        rank.store.set(&format!("done/{}", rank.rank), b"").unwrap();
        rank.store.wait(&["done/0".into(), "done/1".into()], TIMEOUT * 10).unwrap();
    });
}

#[test]
fn a_peer_that_dies_is_an_error_of_backward() {
    on_ranks_where("a_peer_that_dies_is_an_error_of_backward", 2, Some(1), |rank| {
        let group = rank.group();
        let net = Net::new();
        let reducer = Reducer::new(&net.params, &group, &SMALL_BUCKETS).unwrap();
        train(&reducer, &net, rank.rank, 2, 1);
        if rank.rank == 1 {
            std::process::abort();
        }
        let started = Instant::now();
        let loss = net.loss(9, rank.rank, true);
        // Where the death is seen early, it is this call that says so.
        let failed = match reducer.prepare_for_backward(&[&loss]) {
            Ok(()) => loss.f_backward().is_err(),
            Err(_) => true,
        };
        assert!(failed);
        assert!(started.elapsed() < TIMEOUT * 3, "{:?}", started.elapsed());
        drop(reducer);
        drop(group);
    });
}

#[test]
fn parameters_that_differ_between_ranks_are_refused() {
    on_ranks("parameters_that_differ_between_ranks_are_refused", 2, |rank| {
        let group = rank.group();
        let param = Tensor::zeros([2 + rank.rank as i64, 2], FLOAT).set_requires_grad(true);
        let error = Reducer::new(&[&param], &group, &ReducerOptions::default()).unwrap_err();
        // c10d compares with rank 0, which only sees that the others do not go on.
        assert_eq!(error.is_peer(), rank.rank == 0, "{error:?}");
        rank.store.set(&format!("done/{}", rank.rank), b"").unwrap();
        rank.store.wait(&["done/0".into(), "done/1".into()], TIMEOUT * 10).unwrap();
    });
}

#[test]
fn one_rank_is_a_group_too_and_bad_parameters_are_refused() {
    let store = TcpStore::host("127.0.0.1", 0, 1, TIMEOUT).unwrap();
    let group = ProcessGroup::new(Backend::Gloo, &store, 0, 1, "127.0.0.1", TIMEOUT).unwrap();
    let net = Net::new();
    let reducer = Reducer::new(&net.params, &group, &ReducerOptions::default()).unwrap();
    reducer.prepare_for_backward(&[&net.loss(0, 0, true)]).unwrap();
    drop(reducer);

    let frozen = Tensor::zeros([2], FLOAT);
    let error = Reducer::new(&[&net.params[0], &frozen], &group, &ReducerOptions::default()).unwrap_err();
    assert!(error.to_string().contains("parameter 1 does not require a gradient"), "{error}");
    let none: [&Tensor; 0] = [];
    assert!(Reducer::new(&none, &group, &ReducerOptions::default()).is_err());
}
