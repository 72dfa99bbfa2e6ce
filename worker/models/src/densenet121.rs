//! DenseNet-121 (MODEL.md 5), named and initialised as in torchvision.

use mtinet_domain::model::BnEval;
use tch::{Tensor, nn};

use crate::{
    init::{Bias, Start},
    layers::{BatchNorm, Conv2d, ConvSpec, Linear, global_mean, max_pool3},
    network::Backbone,
};

/// Layers of each dense block.
const BLOCKS: [usize; 4] = [6, 12, 24, 16];
/// Channels that each layer adds, and channels of its bottleneck.
const GROWTH: i64 = 32;
const BOTTLENECK: i64 = 4 * GROWTH;

/// A stem, four dense blocks with transitions between them, and a linear head.
#[derive(Debug)]
pub(crate) struct Densenet121 {
    stem: (Conv2d, BatchNorm),
    blocks: Vec<DenseBlock>,
    norm: BatchNorm,
    classifier: Linear,
}

impl Densenet121 {
    /// `outputs` is the length of the answer.
    pub(crate) fn new(vs: &nn::Path, phases: i64, outputs: i64, eval: BnEval) -> Self {
        let features = vs / "features";
        let spec = ConvSpec { stride: 2, ..kaiming(7) };
        let conv = Conv2d::with(&(&features / "conv0"), phases, 64, spec);
        let stem = (conv, BatchNorm::new(&(&features / "norm0"), 64, eval));
        let mut channels = 64;
        let mut blocks = Vec::with_capacity(BLOCKS.len());
        for (i, count) in BLOCKS.into_iter().enumerate() {
            let vs = &features / format!("denseblock{}", i + 1);
            let mut layers = Vec::with_capacity(count);
            for j in 1..=count {
                layers.push(DenseLayer::new(&(&vs / format!("denselayer{j}")), channels, eval));
                channels += GROWTH;
            }
            let transition = (i + 1 < BLOCKS.len()).then(|| {
                let vs = &features / format!("transition{}", i + 1);
                PreConv::new([&vs / "norm", &vs / "conv"], [channels, channels / 2], 1, eval)
            });
            if transition.is_some() {
                channels /= 2;
            }
            blocks.push(DenseBlock { layers, transition });
        }
        let norm = BatchNorm::new(&(&features / "norm5"), channels, eval);
        let classifier = Linear::with(&(vs / "classifier"), channels, outputs, Start::Uniform, Bias::Zero);
        Self { stem, blocks, norm, classifier }
    }
}

impl Backbone for Densenet121 {
    fn answer(&self, x: &Tensor, train: bool) -> Tensor {
        let (conv, bn) = &self.stem;
        let y = max_pool3(&bn.forward(&conv.forward(x), train).relu(), 1);
        let y = self.blocks.iter().fold(y, |y, block| block.forward(y, train));
        self.classifier.forward(&global_mean(&self.norm.forward(&y, train).relu()))
    }
}

const fn kaiming(kernel: i64) -> ConvSpec {
    ConvSpec { start: Start::KaimingIn, ..ConvSpec::same(kernel) }
}

/// Batch normalisation, ReLU and a convolution without bias.
#[derive(Debug)]
struct PreConv {
    norm: BatchNorm,
    conv: Conv2d,
}

impl PreConv {
    fn new([norm, conv]: [nn::Path; 2], [inputs, outputs]: [i64; 2], kernel: i64, eval: BnEval) -> Self {
        let norm = BatchNorm::new(&norm, inputs, eval);
        Self { norm, conv: Conv2d::with(&conv, inputs, outputs, kaiming(kernel)) }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.conv.forward(&self.norm.forward(x, train).relu())
    }
}

#[derive(Debug)]
struct DenseLayer([PreConv; 2]);

impl DenseLayer {
    fn new(vs: &nn::Path, inputs: i64, eval: BnEval) -> Self {
        let layer = |i: i64, shape, kernel| {
            PreConv::new([vs / format!("norm{i}"), vs / format!("conv{i}")], shape, kernel, eval)
        };
        Self([layer(1, [inputs, BOTTLENECK], 1), layer(2, [BOTTLENECK, GROWTH], 3)])
    }
}

/// Layers that each see the maps of all before them.
#[derive(Debug)]
struct DenseBlock {
    layers: Vec<DenseLayer>,
    /// Halves channels and image; absent after the last block.
    transition: Option<PreConv>,
}

impl DenseBlock {
    fn forward(&self, x: Tensor, train: bool) -> Tensor {
        let mut y = x;
        for DenseLayer([first, second]) in &self.layers {
            let new = second.forward(&first.forward(&y, train), train);
            y = Tensor::cat(&[y, new], 1);
        }
        match &self.transition {
            Some(layer) => layer.forward(&y, train).avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None),
            None => y,
        }
    }
}
