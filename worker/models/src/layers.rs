//! The layers that all networks here are made of, with PyTorch's names, defaults and initialisation.

use mtinet_domain::model::BnEval;
use mtinet_torch_ext::Normalisation;
use tch::{Device, Kind, Tensor, nn};

use crate::init::{self, Bias, Start};

/// Shape and start of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvSpec {
    /// Height and width.
    pub(crate) kernel: [i64; 2],
    pub(crate) stride: i64,
    /// Zeros above and below, left and right.
    pub(crate) padding: [i64; 2],
    pub(crate) dilation: i64,
    pub(crate) start: Start,
    pub(crate) bias: Bias,
}

impl ConvSpec {
    /// A square kernel of an odd size that keeps the image's size, without bias, with PyTorch's start.
    pub(crate) const fn same(kernel: i64) -> Self {
        Self {
            kernel: [kernel, kernel],
            stride: 1,
            padding: [kernel / 2, kernel / 2],
            dilation: 1,
            start: Start::Uniform,
            bias: Bias::None,
        }
    }
}

/// 2-d convolution.
#[derive(Debug)]
pub(crate) struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: [i64; 2],
    dilation: i64,
}

impl Conv2d {
    /// Stride 1, a square kernel with an odd size, padded so that the image keeps its size.
    pub(crate) fn new(vs: &nn::Path, inputs: i64, outputs: i64, kernel: i64, with_bias: bool) -> Self {
        let bias = if with_bias { Bias::Uniform } else { Bias::None };
        Self::with(vs, inputs, outputs, ConvSpec { bias, ..ConvSpec::same(kernel) })
    }

    /// Any convolution.
    pub(crate) fn with(vs: &nn::Path, inputs: i64, outputs: i64, spec: ConvSpec) -> Self {
        let ConvSpec { kernel: [height, width], stride, padding, dilation, start, bias } = spec;
        let (weight, bias) = init::layer(vs, &[outputs, inputs, height, width], start, bias);
        Self { weight, bias, stride, padding, dilation }
    }

    /// [N, in, H, W] to [N, out, H', W'].
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_with(x, &self.weight)
    }

    /// The same with every output's weights standardised to mean 0 and variance 1, as in TransUNet.
    pub(crate) fn forward_standardised(&self, x: &Tensor) -> Tensor {
        let (variance, mean) = self.weight.var_mean_dim([1, 2, 3].as_slice(), false, true);
        self.forward_with(x, &((&self.weight - mean) / (variance + 1e-5).sqrt()))
    }

    fn forward_with(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.conv2d(weight, self.bias.as_ref(), [self.stride; 2], self.padding, [self.dilation; 2], 1)
    }
}

/// Transposed convolution with stride 2 that doubles the image exactly.
#[derive(Debug)]
pub(crate) struct Deconv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    padding: i64,
}

impl Deconv2d {
    /// A square kernel with an even size of at least 2.
    pub(crate) fn new(vs: &nn::Path, inputs: i64, outputs: i64, kernel: i64, with_bias: bool) -> Self {
        let (weight, fan_in) = init::weight(vs, &[inputs, outputs, kernel, kernel]);
        let bias = with_bias.then(|| init::bias(vs, outputs, fan_in));
        Self { weight, bias, padding: (kernel - 2) / 2 }
    }

    /// [N, in, H, W] to [N, out, 2 H, 2 W].
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.conv_transpose2d(&self.weight, self.bias.as_ref(), [2, 2], [self.padding; 2], [0, 0], 1, [1, 1])
    }
}

/// Batch normalisation over N, H and W: momentum 0.1, running statistics in the `VarStore`.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eval: BnEval,
    eps: f64,
}

impl BatchNorm {
    /// With PyTorch's eps, 1e-5.
    pub(crate) fn new(vs: &nn::Path, channels: i64, eval: BnEval) -> Self {
        Self::with_eps(vs, channels, eval, 1e-5)
    }

    pub(crate) fn with_eps(vs: &nn::Path, channels: i64, eval: BnEval, eps: f64) -> Self {
        let (weight, bias) = init::affine(vs, channels);
        let running_mean = vs.zeros_no_train("running_mean", &[channels]);
        let running_var = vs.ones_no_train("running_var", &[channels]);
        Self { weight, bias, running_mean, running_var, eval, eps }
    }

    /// Training uses the batch's statistics and updates the running ones; otherwise nothing is updated.
    ///
    /// One value per channel has no variance: it would turn the running variance into NaN for good. Such a batch (one
    /// sample whose maps have shrunk to a pixel) is normalised with the running statistics and leaves them alone.
    pub(crate) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let (weight, bias) = (Some(&self.weight), Some(&self.bias));
        let lone = x.numel() as i64 == self.weight.size()[0];
        if !train && self.eval == BnEval::Batch && !lone {
            return x.batch_norm(weight, bias, None, None, true, MOMENTUM, self.eps, true);
        }
        let (mean, var) = (Some(&self.running_mean), Some(&self.running_var));
        x.batch_norm(weight, bias, mean, var, train && !lone, MOMENTUM, self.eps, true)
    }

    /// The same with a ReLU behind.
    pub(crate) fn forward_relu(&self, x: &Tensor, train: bool) -> Tensor {
        match self.fused(x, train) {
            Some(norm) => or_panic(mtinet_torch_ext::norm_relu(x, &norm, false)),
            None => self.forward(x, train).relu(),
        }
    }

    /// The same with a ReLU and [`max_pool`] behind.
    pub(crate) fn forward_relu_pool(&self, x: &Tensor, train: bool) -> Tensor {
        match self.fused(x, train) {
            Some(norm) => or_panic(mtinet_torch_ext::norm_relu(x, &norm, true)),
            None => max_pool(&self.forward(x, train).relu()),
        }
    }

    /// [`Conv2d::forward`] of one-channel images, without padding of other kinds or bias, and what `forward_relu_pool` makes of it.
    pub(crate) fn first_block(&self, conv: &Conv2d, images: &Tensor, train: bool) -> Tensor {
        let size = images.size();
        match self.fused(images, train) {
            Some(norm) if size[3] <= 1024 && size[2] % 2 == 0 && size[3] % 2 == 0 => {
                or_panic(mtinet_torch_ext::first_block(images, &conv.weight, &norm))
            }
            _ => self.forward_relu_pool(&channels_last(&conv.forward(images)), train),
        }
    }

    /// What the fused layers need, where they can be used: for training on the CPU.
    fn fused(&self, x: &Tensor, train: bool) -> Option<Normalisation<'_>> {
        let channels = self.weight.size()[0];
        let several = x.numel() as i64 > channels;
        let usable = train && several && x.device() == Device::Cpu && channels % Normalisation::CHANNELS == 0;
        usable.then_some(Normalisation {
            weight: &self.weight,
            bias: &self.bias,
            running_mean: &self.running_mean,
            running_var: &self.running_var,
            momentum: MOMENTUM,
            eps: self.eps,
        })
    }
}

/// Share of a batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// As tch's operations that are not `f_...`: what cannot fail for maps of the right shape.
fn or_panic(answer: mtinet_torch_ext::Result<Tensor>) -> Tensor {
    answer.unwrap_or_else(|error| panic!("{error}"))
}

/// The same maps [N, C, H, W] with the channels of a pixel side by side, which is how convolutions on the CPU are fastest, and
/// how the tensor cores of a CUDA device take bfloat16. They go on in the layout that they are given.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    if x.device() == Device::Cpu || x.kind() == Kind::BFloat16 {
        x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
    } else {
        x.shallow_clone()
    }
}

/// Dropout of the share `p`, in training.
pub(crate) fn dropout(x: &Tensor, p: f64, train: bool) -> Tensor {
    if fused_dropout(x, p, train) { or_panic(mtinet_torch_ext::dropout(x, p)) } else { x.dropout(p, train) }
}

/// `base` + [`dropout`] of `x`.
pub(crate) fn add_dropout(base: &Tensor, x: &Tensor, p: f64, train: bool) -> Tensor {
    if fused_dropout(x, p, train) && base.kind() == Kind::Float {
        or_panic(mtinet_torch_ext::add_dropout(base, x, p))
    } else {
        base + x.dropout(p, train)
    }
}

fn fused_dropout(x: &Tensor, p: f64, train: bool) -> bool {
    train
        && (0.0..1.0).contains(&p)
        && p > 0.0
        && x.device() == Device::Cpu
        && x.numel().is_multiple_of(16)
        && x.numel() < 1 << 32
}

/// Group normalisation.
#[derive(Debug)]
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    /// `groups` must divide `channels`.
    pub(crate) fn new(vs: &nn::Path, groups: i64, channels: i64, eps: f64) -> Self {
        let (weight, bias) = init::affine(vs, channels);
        Self { weight, bias, groups, eps }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// Layer normalisation over the last dimension, eps 1e-6 as in ViT.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(crate) fn new(vs: &nn::Path, width: i64) -> Self {
        let (weight, bias) = init::affine(vs, width);
        Self { weight, bias }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), 1e-6, true)
    }

    /// The same values without gradients.
    pub(crate) fn frozen(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.detach() }
    }
}

/// Linear layer.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// With bias.
    pub(crate) fn new(vs: &nn::Path, inputs: i64, outputs: i64) -> Self {
        Self::with(vs, inputs, outputs, Start::Uniform, Bias::Uniform)
    }

    pub(crate) fn with(vs: &nn::Path, inputs: i64, outputs: i64, start: Start, bias: Bias) -> Self {
        let (weight, bias) = init::layer(vs, &[outputs, inputs], start, bias);
        Self { weight, bias }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }

    /// The same values without gradients.
    pub(crate) fn frozen(&self) -> Self {
        Self { weight: self.weight.detach(), bias: self.bias.as_ref().map(Tensor::detach) }
    }
}

/// softmax(q k^T `scale`) v of [N, heads, tokens, width].
///
/// libtorch's own attention is the fastest in float32, except for the very narrow heads of small images.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, train: bool) -> Tensor {
    let (tokens, width) = (q.size()[2], q.size()[3]);
    let usable = train && q.device() == Device::Cpu && tokens % 16 == 0;
    if usable && (q.kind() == Kind::BFloat16 || width == mtinet_torch_ext::NARROW_HEAD) {
        return or_panic(mtinet_torch_ext::attention(q, k, v, scale));
    }
    Tensor::scaled_dot_product_attention::<Tensor>(q, k, v, None, 0.0, false, Some(scale), false)
}

/// Squeeze and excitation: every channel is scaled by a gate in (0, 1) that the means of all channels decide.
#[derive(Debug)]
pub(crate) struct SqueezeExcite {
    squeeze: Linear,
    excite: Linear,
}

impl SqueezeExcite {
    /// `channels / reduction` hidden values; no biases.
    pub(crate) fn new(vs: &nn::Path, channels: i64, reduction: i64) -> Self {
        let hidden = channels / reduction;
        let squeeze = Linear::with(&(vs / 0), channels, hidden, Start::Uniform, Bias::None);
        Self { squeeze, excite: Linear::with(&(vs / 2), hidden, channels, Start::Uniform, Bias::None) }
    }

    /// [N, channels, H, W] to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let gate = self.excite.forward(&self.squeeze.forward(&global_mean(x)).relu()).sigmoid();
        x * gate.unsqueeze(-1).unsqueeze(-1)
    }
}

/// Means of every channel: [N, C, H, W] to [N, C].
pub(crate) fn global_mean(x: &Tensor) -> Tensor {
    x.mean_dim([-2, -1].as_slice(), false, None)
}

/// A fixed linear map along each axis of square maps: resizing whose gradient is the same on every run. libtorch's own
/// kernels for it are not deterministic on CUDA, and are refused where a study asks for determinism.
#[derive(Debug)]
pub(crate) struct Resize {
    /// [side, new side]
    matrix: Tensor,
}

impl Resize {
    /// Bilinear interpolation from `side` to twice as many pixels; corners meet corners.
    pub(crate) fn doubled(side: usize, device: Device) -> Self {
        let last = side - 1;
        let weights = |i: usize| {
            let position = (i * last) as f64 / (2 * side - 1) as f64;
            move |from: usize| (1.0 - (position - from as f64).abs()).max(0.0)
        };
        Self::new(side, 2 * side, weights, device)
    }

    /// Bilinear interpolation from `side` to `new_side` pixels; the outer edges of the corner pixels meet, and beyond the
    /// outermost centres the outermost values go on. PyTorch's default.
    pub(crate) fn bilinear(side: usize, new_side: usize, device: Device) -> Self {
        let weights = |i: usize| {
            let position = (i as f64 + 0.5) * side as f64 / new_side as f64 - 0.5;
            let position = position.clamp(0.0, (side - 1) as f64);
            move |from: usize| (1.0 - (position - from as f64).abs()).max(0.0)
        };
        Self::new(side, new_side, weights, device)
    }

    /// Means over `bins` ranges of pixels, which overlap or repeat where `bins` does not divide `side`, as those of
    /// PyTorch's adaptive pooling do.
    pub(crate) fn binned(side: usize, bins: usize, device: Device) -> Self {
        let weights = |i: usize| {
            let range = i * side / bins..((i + 1) * side).div_ceil(bins);
            move |from: usize| if range.contains(&from) { 1.0 / range.len() as f64 } else { 0.0 }
        };
        Self::new(side, bins, weights, device)
    }

    /// `weights(i)(j)` is the share of pixel `j` in the new pixel `i`.
    fn new<W: Fn(usize) -> f64>(
        side: usize,
        new_side: usize,
        weights: impl Fn(usize) -> W,
        device: Device,
    ) -> Self {
        let rows: Vec<f32> = (0..new_side)
            .flat_map(|i| (0..side).map(weights(i)).collect::<Vec<_>>())
            .map(|w| w as f32)
            .collect();
        let matrix = Tensor::from_slice(&rows).reshape([new_side as i64, side as i64]);
        Self { matrix: matrix.tr().contiguous().to_device(device) }
    }

    /// [N, C, side, side] to [N, C, new side, new side].
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let matrix = self.matrix.to_device(x.device()).to_kind(x.kind());
        x.matmul(&matrix).transpose(2, 3).matmul(&matrix).transpose(2, 3)
    }
}

/// Halves an image by taking the maximum of each 2 x 2 square.
pub(crate) fn max_pool(x: &Tensor) -> Tensor {
    x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)
}

/// Maximum of each 3 x 3 square at every second pixel, with `padding` pixels around.
pub(crate) fn max_pool3(x: &Tensor, padding: i64) -> Tensor {
    x.max_pool2d([3, 3], [2, 2], [padding, padding], [1, 1], false)
}
