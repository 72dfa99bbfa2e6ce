//! ResUNet++ (MODEL.md 4.2), named as in the PyTorch file of DebeshJha/ResUNetPlusPlus.

use mtinet_domain::model::BnEval;
use tch::{Tensor, nn};

use crate::{
    Network, Outputs,
    init::Bias,
    layers::{BatchNorm, Conv2d, ConvSpec, SqueezeExcite, max_pool},
};

/// Residual blocks with squeeze and excitation, pyramids of dilated convolutions, and attention at every skip.
#[derive(Debug)]
pub(crate) struct ResUnetPp {
    stem: ResBlock,
    down: [ResBlock; 3],
    bridge: Pyramid,
    up: [DecoderBlock; 3],
    pyramid: Pyramid,
    output: Conv2d,
}

impl ResUnetPp {
    pub(crate) fn new(vs: &nn::Path, phases: i64, eval: BnEval) -> Self {
        let stem = ResBlock::stem(&(vs / "c1"), phases, 16, eval);
        let down = [("c2", 16), ("c3", 32), ("c4", 64)]
            .map(|(name, inputs)| ResBlock::new(&(vs / name), inputs, 2 * inputs, 2, eval));
        let bridge = Pyramid::new(&(vs / "b1"), 128, 256, eval);
        let up = [("d1", 64, 256, 128), ("d2", 32, 128, 64), ("d3", 16, 64, 32)]
            .map(|(name, skip, deep, outputs)| DecoderBlock::new(&(vs / name), skip, deep, outputs, eval));
        let pyramid = Pyramid::new(&(vs / "aspp"), 32, 16, eval);
        let output = Conv2d::new(&(vs / "output"), 16, 1, 1, true);
        Self { stem, down, bridge, up, pyramid, output }
    }
}

impl Network for ResUnetPp {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        let mut y = self.stem.forward(x, train);
        let mut skips = Vec::with_capacity(self.down.len());
        for block in &self.down {
            let next = block.forward(&y, train);
            skips.push(std::mem::replace(&mut y, next));
        }
        y = self.bridge.forward(&y, train);
        for (block, skip) in self.up.iter().zip(skips.iter().rev()) {
            y = block.forward(skip, &y, train);
        }
        Outputs::segmentation(self.output.forward(&self.pyramid.forward(&y, train)))
    }
}

/// Batch normalisation, ReLU and a 3 x 3 convolution.
#[derive(Debug)]
struct PreConv {
    bn: BatchNorm,
    conv: Conv2d,
}

impl PreConv {
    /// Two entries of a PyTorch `Sequential` and the ReLU between them, starting at number `first`.
    fn new(vs: &nn::Path, first: i64, [inputs, outputs]: [i64; 2], stride: i64, eval: BnEval) -> Self {
        let bn = BatchNorm::new(&(vs / first), inputs, eval);
        let spec = ConvSpec { stride, bias: Bias::Uniform, ..ConvSpec::same(3) };
        Self { bn, conv: Conv2d::with(&(vs / (first + 2)), inputs, outputs, spec) }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.conv.forward(&self.bn.forward(x, train).relu())
    }
}

/// What a residual block does to its input first.
#[derive(Debug)]
enum Entry {
    /// The stem sees the image itself.
    Stem(Conv2d),
    Pre(PreConv),
}

/// Two convolutions, a projected shortcut, and squeeze and excitation of their sum.
#[derive(Debug)]
struct ResBlock {
    entry: Entry,
    second: PreConv,
    shortcut: (Conv2d, BatchNorm),
    attn: SqueezeExcite,
}

impl ResBlock {
    fn stem(vs: &nn::Path, inputs: i64, outputs: i64, eval: BnEval) -> Self {
        let entry = Entry::Stem(Conv2d::new(&(vs / "c1" / 0), inputs, outputs, 3, true));
        Self::after(vs, entry, 1, [inputs, outputs], 1, eval)
    }

    fn new(vs: &nn::Path, inputs: i64, outputs: i64, stride: i64, eval: BnEval) -> Self {
        let entry = Entry::Pre(PreConv::new(&(vs / "c1"), 0, [inputs, outputs], stride, eval));
        Self::after(vs, entry, 3, [inputs, outputs], stride, eval)
    }

    fn after(
        vs: &nn::Path,
        entry: Entry,
        next: i64,
        [inputs, outputs]: [i64; 2],
        stride: i64,
        eval: BnEval,
    ) -> Self {
        let second = PreConv::new(&(vs / "c1"), next, [outputs, outputs], 1, eval);
        let spec = ConvSpec { stride, bias: Bias::Uniform, ..ConvSpec::same(1) };
        let projection = Conv2d::with(&(vs / "c2" / 0), inputs, outputs, spec);
        let shortcut = (projection, BatchNorm::new(&(vs / "c2" / 1), outputs, eval));
        Self { entry, second, shortcut, attn: SqueezeExcite::new(&(vs / "attn" / "net"), outputs, 8) }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let first = match &self.entry {
            Entry::Stem(conv) => conv.forward(x),
            Entry::Pre(pre) => pre.forward(x, train),
        };
        let (projection, bn) = &self.shortcut;
        let shortcut = bn.forward(&projection.forward(x), train);
        self.attn.forward(&(self.second.forward(&first, train) + shortcut))
    }
}

/// Atrous spatial pyramid: the sum of four dilated convolutions, and a projection.
#[derive(Debug)]
struct Pyramid {
    levels: [(Conv2d, BatchNorm); 4],
    projection: Conv2d,
}

impl Pyramid {
    fn new(vs: &nn::Path, inputs: i64, outputs: i64, eval: BnEval) -> Self {
        let levels = [("c1", 1), ("c2", 6), ("c3", 12), ("c4", 18)].map(|(name, dilation)| {
            let (vs, padding) = (vs / name, [dilation; 2]);
            let spec = ConvSpec { dilation, padding, bias: Bias::Uniform, ..ConvSpec::same(3) };
            let conv = Conv2d::with(&(&vs / 0), inputs, outputs, spec);
            (conv, BatchNorm::new(&(&vs / 1), outputs, eval))
        });
        Self { levels, projection: Conv2d::new(&(vs / "c5"), outputs, outputs, 1, true) }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let [first, second, third, fourth] =
            self.levels.each_ref().map(|(conv, bn)| bn.forward(&conv.forward(x), train));
        self.projection.forward(&(first + second + third + fourth))
    }
}

/// Attention to the deep map, guided by the skip; then upsampling, the skip itself, and a residual block.
#[derive(Debug)]
struct DecoderBlock {
    guide: PreConv,
    deep: PreConv,
    both: PreConv,
    residual: ResBlock,
}

impl DecoderBlock {
    fn new(vs: &nn::Path, skip: i64, deep: i64, outputs: i64, eval: BnEval) -> Self {
        let conv = |name: &str, inputs| PreConv::new(&(vs / "a1" / name), 0, [inputs, deep], 1, eval);
        let (guide, deep_conv, both) = (conv("g_conv", skip), conv("x_conv", deep), conv("gc_conv", deep));
        let residual = ResBlock::new(&(vs / "r1"), deep + skip, outputs, 1, eval);
        Self { guide, deep: deep_conv, both, residual }
    }

    /// `skip` is twice as large as `x`; so is the answer.
    fn forward(&self, skip: &Tensor, x: &Tensor, train: bool) -> Tensor {
        let sum = max_pool(&self.guide.forward(skip, train)) + self.deep.forward(x, train);
        let attended = self.both.forward(&sum, train) * x;
        let up = attended.upsample_nearest2d(&skip.size()[2..], None, None);
        self.residual.forward(&Tensor::cat(&[&up, skip], 1), train)
    }
}
