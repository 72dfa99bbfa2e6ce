//! ResNet-50 v1.5, with the stride on the 3 x 3 convolution (MODEL.md 5), named and initialised as in torchvision.

use mtinet_domain::model::BnEval;
use tch::{Tensor, nn};

use crate::{
    init::Start,
    layers::{BatchNorm, Conv2d, ConvSpec, Linear, global_mean, max_pool3},
    network::Backbone,
};

/// Blocks, width inside the blocks, and stride of each stage.
const STAGES: [(i64, i64, i64); 4] = [(3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)];

/// A stem, sixteen bottlenecks and a linear head.
#[derive(Debug)]
pub(crate) struct Resnet50 {
    stem: ConvBn,
    blocks: Vec<Bottleneck>,
    fc: Linear,
}

impl Resnet50 {
    /// `outputs` is the length of the answer.
    pub(crate) fn new(vs: &nn::Path, phases: i64, outputs: i64, eval: BnEval) -> Self {
        let stem = ConvBn::new([vs / "conv1", vs / "bn1"], [phases, 64], 7, 2, eval);
        let mut inputs = 64;
        let mut blocks = Vec::with_capacity(16);
        for (stage, (count, width, stride)) in STAGES.into_iter().enumerate() {
            for i in 0..count {
                let stride = if i == 0 { stride } else { 1 };
                let vs = vs / format!("layer{}", stage + 1) / i;
                blocks.push(Bottleneck::new(&vs, inputs, width, stride, eval));
                inputs = 4 * width;
            }
        }
        Self { stem, blocks, fc: Linear::new(&(vs / "fc"), inputs, outputs) }
    }
}

impl Backbone for Resnet50 {
    fn answer(&self, x: &Tensor, train: bool) -> Tensor {
        let y = max_pool3(&self.stem.forward(x, train).relu(), 1);
        let y = self.blocks.iter().fold(y, |y, block| block.forward(&y, train));
        self.fc.forward(&global_mean(&y))
    }
}

/// Convolution without bias, and batch normalisation.
#[derive(Debug)]
struct ConvBn {
    conv: Conv2d,
    bn: BatchNorm,
}

impl ConvBn {
    fn new(
        [conv, bn]: [nn::Path; 2],
        [inputs, outputs]: [i64; 2],
        kernel: i64,
        stride: i64,
        eval: BnEval,
    ) -> Self {
        let spec = ConvSpec { stride, start: Start::KaimingOut, ..ConvSpec::same(kernel) };
        Self { conv: Conv2d::with(&conv, inputs, outputs, spec), bn: BatchNorm::new(&bn, outputs, eval) }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.bn.forward(&self.conv.forward(x), train)
    }
}

#[derive(Debug)]
struct Bottleneck {
    convs: [ConvBn; 3],
    downsample: Option<ConvBn>,
}

impl Bottleneck {
    fn new(vs: &nn::Path, inputs: i64, width: i64, stride: i64, eval: BnEval) -> Self {
        let outputs = 4 * width;
        let layer = |i: i64, shape, kernel, stride| {
            ConvBn::new([vs / format!("conv{i}"), vs / format!("bn{i}")], shape, kernel, stride, eval)
        };
        let convs = [
            layer(1, [inputs, width], 1, 1),
            layer(2, [width, width], 3, stride),
            layer(3, [width, outputs], 1, 1),
        ];
        let downsample = (stride != 1 || inputs != outputs).then(|| {
            let vs = vs / "downsample";
            ConvBn::new([&vs / 0, &vs / 1], [inputs, outputs], 1, stride, eval)
        });
        Self { convs, downsample }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let [first, second, third] = &self.convs;
        let y = second.forward(&first.forward(x, train).relu(), train).relu();
        let shortcut = self.downsample.as_ref().map_or_else(|| x.shallow_clone(), |d| d.forward(x, train));
        (third.forward(&y, train) + shortcut).relu()
    }
}
