//! PyTorch's default initialisation (MODEL.md 2.2).
//!
//! tch's own defaults differ: convolutions get the ReLU gain, their bias 0, and batch normalisation random weights
//! (MODEL.md 2.3). Values are always drawn on the CPU, so one seed gives one network on every device.

use tch::{Device, Kind, Tensor, nn};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// How the weights of a layer start. All but the first are for the baselines that torchvision starts in its own way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// U(-b, b), b = 1 / sqrt(fan-in), PyTorch's default.
    Uniform,
    /// N(0, 2 / fan-in).
    KaimingIn,
    /// N(0, 2 / fan-out).
    KaimingOut,
    /// N(0, sd^2). torchvision truncates at +-2, which is at least 20 standard deviations away.
    Normal(f64),
}

/// Whether a layer has a bias, and how it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bias {
    /// No bias.
    None,
    /// U(-b, b) with the bound of the weights, PyTorch's default.
    Uniform,
    /// 0.
    Zero,
}

/// Weight of a convolution, transposed convolution or linear layer, and its fan-in: U(-b, b), b = 1 / sqrt(fan-in),
/// where fan-in is `shape[1]` times the kernel area for all three.
pub(crate) fn weight(vs: &nn::Path, shape: &[i64]) -> (Tensor, i64) {
    let fan_in = fan_in(shape);
    (uniform(vs, "weight", shape, fan_in), fan_in)
}

/// Bias that goes with a weight of that fan-in: the same bound.
pub(crate) fn bias(vs: &nn::Path, outputs: i64, fan_in: i64) -> Tensor {
    uniform(vs, "bias", &[outputs], fan_in)
}

/// Weight and bias of a convolution or linear layer with `shape[0]` outputs.
pub(crate) fn layer(vs: &nn::Path, shape: &[i64], start: Start, with_bias: Bias) -> (Tensor, Option<Tensor>) {
    let normal = |sd: f64| add(vs, "weight", &(Tensor::empty(shape, CPU).normal_(0.0, sd)));
    let fan_in = fan_in(shape);
    let fan_out = fan_in / shape[1] * shape[0];
    let weight = match start {
        Start::Uniform => uniform(vs, "weight", shape, fan_in),
        Start::KaimingIn => normal((2.0 / fan_in as f64).sqrt()),
        Start::KaimingOut => normal((2.0 / fan_out as f64).sqrt()),
        Start::Normal(sd) => normal(sd),
    };
    let bias = match with_bias {
        Bias::None => None,
        Bias::Uniform => Some(bias(vs, shape[0], fan_in)),
        Bias::Zero => Some(vs.zeros("bias", &[shape[0]])),
    };
    (weight, bias)
}

fn fan_in(shape: &[i64]) -> i64 {
    shape[1..].iter().product()
}

/// Position embedding: N(0, 0.02^2). PyTorch truncates at +-2, that is at 100 standard deviations.
pub(crate) fn positions(vs: &nn::Path, tokens: i64, width: i64) -> Tensor {
    add(vs, "pos_embed", &(Tensor::randn([1, tokens, width], CPU) * 0.02))
}

/// A normalisation layer's weight (1) and bias (0).
pub(crate) fn affine(vs: &nn::Path, channels: i64) -> (Tensor, Tensor) {
    (vs.ones("weight", &[channels]), vs.zeros("bias", &[channels]))
}

fn uniform(vs: &nn::Path, name: &str, shape: &[i64], fan_in: i64) -> Tensor {
    let bound = 1.0 / (fan_in as f64).sqrt();
    add(vs, name, &Tensor::empty(shape, CPU).uniform_(-bound, bound))
}

fn add(vs: &nn::Path, name: &str, value: &Tensor) -> Tensor {
    vs.add(name, value.to_device(vs.device()), true)
}
