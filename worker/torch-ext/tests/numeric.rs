//! Fused Adam against PyTorch's numbers and against Adam written out; autocast; errors.
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail tests by panicking")]

use mtinet_torch_ext::{
    AdamOptions, GraphPool, SideStream, TorchExtError, autocast, clear_grads, cuda_available, device_memory,
    fused_adam_step, is_cuda_build, nccl_available, set_cuda_device, set_deterministic, set_num_threads,
    set_tf32, tf32,
};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
const OPTIONS: AdamOptions =
    AdamOptions { learning_rate: 3e-3, beta1: 0.8, beta2: 0.95, epsilon: 1e-7, weight_decay: 0.01 };
const STEPS: usize = 6;
const PARAMS: usize = 3;

fn fixture() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fused_adam.safetensors");
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// The parameters and both moments after the fixture's steps.
fn run(fixture: &HashMap<String, Tensor>) -> [Vec<Tensor>; 3] {
    let params: Vec<_> =
        (0..PARAMS).map(|i| fixture[&format!("start.{i}")].copy().set_requires_grad(true)).collect();
    let zeros = || params.iter().map(|param| param.detach().zeros_like()).collect::<Vec<_>>();
    let (exp_avgs, exp_avg_sqs) = (zeros(), zeros());
    let steps: Vec<_> = (0..PARAMS).map(|_| Tensor::zeros([], FLOAT)).collect();
    for step in 0..STEPS {
        let grads: Vec<_> = (0..PARAMS).map(|i| fixture[&format!("grad.{step}.{i}")].copy()).collect();
        fused_adam_step(&params, &grads, &exp_avgs, &exp_avg_sqs, &steps, &OPTIONS).unwrap();
    }
    assert!(steps.iter().all(|count| count.double_value(&[]) == STEPS as f64));
    [params, exp_avgs, exp_avg_sqs]
}

#[test]
fn fused_adam_gives_pytorchs_numbers() {
    let fixture = fixture();
    for (name, ours) in ["end", "exp_avg", "exp_avg_sq"].into_iter().zip(run(&fixture)) {
        for (i, ours) in ours.iter().enumerate() {
            // The same kernel; the last bit may depend on the processor's vector instructions.
            let theirs = &fixture[&format!("{name}.{i}")];
            assert!(ours.allclose(theirs, 1e-6, 1e-7, false), "{name}.{i}");
        }
    }
}

#[test]
fn fused_adam_is_adam() {
    let fixture = fixture();
    let [params, ..] = run(&fixture);
    for (i, ours) in params.iter().enumerate() {
        let values =
            |name: String| Vec::<f64>::try_from(fixture[&name].to_kind(Kind::Double).view(-1)).unwrap();
        let mut weights = values(format!("start.{i}"));
        let (mut first, mut second) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        for step in 0..STEPS {
            let power = i32::try_from(step).unwrap() + 1;
            for (j, grad) in values(format!("grad.{step}.{i}")).into_iter().enumerate() {
                let grad = grad + OPTIONS.weight_decay * weights[j];
                first[j] = OPTIONS.beta1 * first[j] + (1.0 - OPTIONS.beta1) * grad;
                second[j] = OPTIONS.beta2 * second[j] + (1.0 - OPTIONS.beta2) * grad * grad;
                let mean = first[j] / (1.0 - OPTIONS.beta1.powi(power));
                let square = second[j] / (1.0 - OPTIONS.beta2.powi(power));
                weights[j] -= OPTIONS.learning_rate * mean / (square.sqrt() + OPTIONS.epsilon);
            }
        }
        let ours = Vec::<f64>::try_from(ours.detach().to_kind(Kind::Double).view(-1)).unwrap();
        for (ours, exact) in ours.into_iter().zip(weights) {
            assert!((ours - exact).abs() < 2e-6, "{ours} against {exact}");
        }
    }
}

#[test]
fn wrong_lists_are_errors_and_not_crashes() {
    let list =
        |count: usize, shape: &[i64]| (0..count).map(|_| Tensor::zeros(shape, FLOAT)).collect::<Vec<_>>();
    let (two, one, steps) = (list(2, &[3]), list(1, &[3]), list(2, &[]));
    let error = fused_adam_step(&two, &one, &two, &two, &steps, &OPTIONS).unwrap_err();
    assert_eq!(error.to_string(), "taking a fused Adam step: 1 grads for 2 params");
    let undefined = [Tensor::new(), Tensor::new()];
    let error = fused_adam_step(&two, &undefined, &two, &two, &steps, &OPTIONS).unwrap_err();
    assert!(error.to_string().contains("parameter 0 has no gradient"), "{error}");
    // Types that do not fit: this one is libtorch's own exception.
    let halves: Vec<_> = two.iter().map(|tensor| tensor.to_kind(Kind::Int64)).collect();
    let error = fused_adam_step(&halves, &halves, &halves, &halves, &steps, &OPTIONS).unwrap_err();
    assert!(matches!(error, TorchExtError::Torch { .. }), "{error:?}");
    fused_adam_step::<Tensor>(&[], &[], &[], &[], &[], &OPTIONS).unwrap();
}

#[test]
fn clear_grads_sets_gradients_to_none() {
    let param = Tensor::ones([2], FLOAT).set_requires_grad(true);
    (&param * 3.0).sum(Kind::Float).backward();
    assert!(param.grad().defined());
    clear_grads(&[&param]).unwrap();
    assert!(!param.grad().defined());
}

#[test]
fn autocast_lowers_the_precision_for_its_life_and_refreshes_weights() {
    let weight = Tensor::ones([4, 4], FLOAT).set_requires_grad(true);
    let x = Tensor::ones([2, 4], FLOAT);
    {
        let _outer = autocast(Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(x.matmul(&weight).kind(), Kind::BFloat16);
        {
            let _inner = autocast(Device::Cpu, Kind::BFloat16).unwrap();
            assert_eq!(x.matmul(&weight).kind(), Kind::BFloat16);
        }
        let loss = x.matmul(&weight).sum(Kind::Float);
        assert_eq!(loss.kind(), Kind::Float);
        loss.backward();
    }
    assert_eq!(weight.grad().kind(), Kind::Float);
    assert_eq!(x.matmul(&weight).kind(), Kind::Float);

    // A new guard sees the weight as it is now, not a copy from before.
    let _ = tch::no_grad(|| weight.shallow_clone().fill_(2.0));
    let _again = autocast(Device::Cpu, Kind::BFloat16).unwrap();
    assert_eq!(x.matmul(&weight).double_value(&[0, 0]), 8.0);
    // Elsewhere nothing has changed.
    let elsewhere =
        std::thread::spawn(|| Tensor::ones([2, 2], FLOAT).matmul(&Tensor::ones([2, 2], FLOAT)).kind());
    assert_eq!(elsewhere.join().unwrap(), Kind::Float);

    assert!(matches!(autocast(Device::Cpu, Kind::Int64), Err(TorchExtError::Argument { .. })));
    assert!(matches!(autocast(Device::Mps, Kind::BFloat16), Err(TorchExtError::Argument { .. })));
}

#[test]
fn determinism_and_threads_can_be_set() {
    set_deterministic(true).unwrap();
    // An operation that has no deterministic form says so.
    let refused =
        Tensor::zeros([2, 2], FLOAT).f_put_(&Tensor::from_slice(&[0i64]), &Tensor::ones([1], FLOAT), false);
    set_deterministic(false).unwrap();
    assert!(refused.unwrap_err().to_string().contains("deterministic"));
    set_num_threads(1).unwrap();
    assert_eq!(tch::get_num_threads(), 1);
    assert!(set_num_threads(0).is_err());
}

#[test]
fn a_cpu_build_says_so() {
    if is_cuda_build() {
        assert_eq!(nccl_available(), cuda_available());
        return;
    }
    assert!(!cuda_available() && !nccl_available());
    let errors = [
        set_cuda_device(0).unwrap_err(),
        GraphPool::new().unwrap_err(),
        SideStream::enter(Device::Cuda(0)).unwrap_err(),
        device_memory(Device::Cuda(0)).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, TorchExtError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("built with the CPU build"), "{error}");
    }
    assert!(matches!(device_memory(Device::Cpu), Err(TorchExtError::Argument { .. })));
}

#[test]
fn products_on_cuda_are_rounded_or_not_by_one_switch() {
    // libtorch's own setting is half of each, which counts as neither.
    for on in [true, false, true] {
        set_tf32(on).unwrap();
        assert_eq!(tf32(), on);
    }
    set_tf32(false).unwrap();
}
