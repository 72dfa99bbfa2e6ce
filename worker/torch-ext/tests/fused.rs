//! The fused layers answer what libtorch's own operations answer, with their gradients, whatever the number of threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mtinet_torch_ext::{
    Normalisation, add_dropout, attention, autocast, dropout, first_block, keep_memory, norm_relu,
};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// libtorch's generator is one for the process: who wants to know what it draws has it alone.
fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Largest difference, relative to the largest value.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    ((a - &b).abs().max() / b.abs().max()).double_value(&[])
}

fn leaf(t: &Tensor, kind: Kind) -> Tensor {
    t.detach().to_kind(kind).copy().set_requires_grad(true)
}

/// A normalisation's tensors: gain, bias, running mean and variance. Some gains are negative.
fn normalisation(channels: i64) -> [Tensor; 4] {
    [
        leaf(&Tensor::randn([channels], CPU), Kind::Float),
        leaf(&Tensor::randn([channels], CPU), Kind::Float),
        Tensor::zeros([channels], CPU),
        Tensor::ones([channels], CPU),
    ]
}

fn norm([weight, bias, running_mean, running_var]: &[Tensor; 4]) -> Normalisation<'_> {
    Normalisation { weight, bias, running_mean, running_var, momentum: 0.1, eps: 1e-5 }
}

fn stock(x: &Tensor, [weight, bias, mean, var]: &[Tensor; 4], pool: bool) -> Tensor {
    let y = x.batch_norm(Some(weight), Some(bias), Some(mean), Some(var), true, 0.1, 1e-5, true).relu();
    if pool { y.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false) } else { y }
}

/// The answer, the gradients of the leaves and the running statistics.
fn differentiated(y: &Tensor, leaves: &[&Tensor], statistics: &[Tensor; 4]) -> Vec<Tensor> {
    let weights = Tensor::arange(y.numel() as i64, CPU).reshape(y.size()).sin();
    (y.to_kind(Kind::Float) * weights).sum(Kind::Float).backward();
    let mut all = vec![y.detach()];
    all.extend(leaves.iter().map(|leaf| leaf.grad()));
    all.extend(statistics[2..].iter().map(Tensor::copy));
    all
}

/// Maps whose channels have different means and scales.
fn maps(shape: [i64; 4]) -> Tensor {
    let each = [1, shape[1], 1, 1];
    Tensor::randn(shape, CPU) * (Tensor::rand(each, CPU) * 3.0 + 0.1) + Tensor::randn(each, CPU) * 5.0
}

/// Tensors of their own, of which the first two are leaves.
fn copies([weight, bias, mean, var]: &[Tensor; 4]) -> [Tensor; 4] {
    [leaf(weight, Kind::Float), leaf(bias, Kind::Float), mean.copy(), var.copy()]
}

fn assert_close(ours: &[Tensor], expected: &[Tensor], tolerance: f64, case: &str) {
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!(apart(a, b) < tolerance, "{case}: value {i} is {} off", apart(a, b));
    }
}

#[test]
fn normalisation_relu_and_pooling_are_those_of_libtorch() {
    let _alone = generator();
    tch::manual_seed(1);
    for shape in [[2, 16, 8, 8], [3, 48, 10, 6], [1, 16, 2, 2]] {
        let (x, tensors) = (maps(shape), normalisation(shape[1]));
        for (pool, kind, tolerance) in [
            (false, Kind::Float, 2e-4),
            (true, Kind::Float, 2e-4),
            (false, Kind::BFloat16, 2e-2),
            (true, Kind::BFloat16, 2e-2),
        ] {
            let (theirs, ours) = (copies(&tensors), copies(&tensors));
            let x = leaf(&x, kind);
            let reference = leaf(&x, Kind::Float);
            let expected = stock(&reference, &theirs, pool);
            let expected = differentiated(&expected, &[&reference, &theirs[0], &theirs[1]], &theirs);
            let y = norm_relu(&x, &norm(&ours), pool).unwrap();
            assert_eq!(y.kind(), kind);
            let answers = differentiated(&y, &[&x, &ours[0], &ours[1]], &ours);
            assert_close(&answers, &expected, tolerance, &format!("{shape:?}, pool {pool}, {kind:?}"));
        }
    }
}

/// Images with noise and with flat parts, where all pixels under a maximum are equal.
fn images(shape: [i64; 4]) -> Tensor {
    let images = Tensor::randn(shape, CPU) + 0.5;
    let _ = images.narrow(2, 0, shape[2] / 2).fill_(0.25);
    images
}

#[test]
fn the_first_block_is_that_of_libtorch() {
    let _alone = generator();
    tch::manual_seed(2);
    for (shape, channels) in [([2, 1, 32, 32], 16), ([5, 1, 12, 20], 48)] {
        let (x, kernel, tensors) =
            (images(shape), Tensor::randn([channels, 1, 3, 3], CPU), normalisation(channels));
        let theirs = copies(&tensors);
        let reference = leaf(&kernel, Kind::Float);
        let y = stock(&x.conv2d::<Tensor>(&reference, None, [1, 1], [1, 1], [1, 1], 1), &theirs, true);
        let expected = differentiated(&y, &[&reference, &theirs[0], &theirs[1]], &theirs);
        for (half, tolerance) in [(false, 1e-3), (true, 2e-2)] {
            let ours = copies(&tensors);
            let kernel = leaf(&kernel, Kind::Float);
            let y = {
                let _autocast = half.then(|| autocast(Device::Cpu, Kind::BFloat16).unwrap());
                first_block(&x, &kernel, &norm(&ours)).unwrap()
            };
            assert_eq!(y.kind(), if half { Kind::BFloat16 } else { Kind::Float });
            let answers = differentiated(&y, &[&kernel, &ours[0], &ours[1]], &ours);
            assert_close(&answers, &expected, tolerance, &format!("{shape:?}, half {half}"));
        }
    }
}

#[test]
fn attention_is_that_of_libtorch() {
    let _alone = generator();
    tch::manual_seed(3);
    for width in [4, 8] {
        let [q, k, v] = [(); 3].map(|()| Tensor::randn([2, 4, 48, width], CPU));
        let run = |kind, ours| {
            let [q, k, v] = [&q, &k, &v].map(|t| leaf(t, kind));
            let y = if ours {
                attention(&q, &k, &v, 0.3).unwrap()
            } else {
                Tensor::scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, false, Some(0.3), false)
            };
            differentiated(&y, &[&q, &k, &v], &normalisation(1))
        };
        let expected = run(Kind::Float, false);
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 5e-2)] {
            assert_close(
                &run(kind, true)[..4],
                &expected[..4],
                tolerance,
                &format!("width {width}, {kind:?}"),
            );
        }
    }
}

#[test]
fn dropout_keeps_its_share_and_sends_gradients_the_same_way() {
    let _alone = generator();
    let x = leaf(&Tensor::ones([64, 256], CPU), Kind::Float);
    tch::manual_seed(4);
    let y = dropout(&x, 0.25).unwrap();
    y.sum(Kind::Float).backward();
    assert_eq!(x.grad(), y, "of ones, both are the mask times 4/3");
    let share = y.ne(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    assert!((share - 0.75).abs() < 0.015, "{share}");
    assert!((y.max().double_value(&[]) - 4.0 / 3.0).abs() < 1e-6);
    tch::manual_seed(4);
    let base = Tensor::full([64, 256], 2.0, CPU);
    assert!(apart(&add_dropout(&base, &x.detach(), 0.25).unwrap(), &(&y + 2.0)) < 1e-6);
    assert_ne!(dropout(&x, 0.25).unwrap(), y, "another draw");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let _alone = generator();
    tch::manual_seed(5);
    let (x, tensors) = (maps([4, 32, 64, 64]), normalisation(32));
    let (images, kernel) = (images([4, 1, 64, 64]), Tensor::randn([32, 1, 3, 3], CPU));
    let run = |threads| {
        mtinet_torch_ext::set_num_threads(threads).unwrap();
        let ours = copies(&tensors);
        let (x, kernel) = (leaf(&x, Kind::Float), leaf(&kernel, Kind::Float));
        let mut all = differentiated(&norm_relu(&x, &norm(&ours), true).unwrap(), &[&x, &ours[0]], &ours);
        let y = first_block(&images, &kernel, &norm(&ours)).unwrap();
        all.extend(differentiated(&y, &[&kernel, &ours[0]], &ours));
        all
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn kept_memory_serves_tensors_of_all_sizes() {
    let before = Tensor::ones([1 << 20], CPU);
    keep_memory().unwrap();
    keep_memory().unwrap();
    drop(before);
    let mut held: Vec<(i64, Tensor)> = Vec::new();
    for i in 0..400_i64 {
        let length = (i * 7919 % 61 + 1) * if i % 3 == 0 { 50_000 } else { 300 };
        held.push((i, Tensor::full([length], i, (Kind::Int64, Device::Cpu))));
        if i % 2 == 0 {
            drop(held.swap_remove((i * 31 % held.len() as i64) as usize));
        }
    }
    for (i, tensor) in &held {
        assert_eq!((tensor.min().int64_value(&[]), tensor.max().int64_value(&[])), (*i, *i));
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let _alone = generator();
    let tensors = normalisation(12);
    let error = norm_relu(&maps([1, 12, 4, 4]), &norm(&tensors), false).unwrap_err().to_string();
    assert!(error.contains("12 channels are no multiple of 16"), "{error}");
    let tensors = normalisation(16);
    assert!(norm_relu(&maps([1, 16, 3, 4]), &norm(&tensors), true).is_err());
}
