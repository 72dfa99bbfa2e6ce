//! TransUNet R50-ViT-B/16 (MODEL.md 4.3), named as in Beckschen/TransUNet.

use mtinet_domain::model::BnEval;
use tch::{Tensor, nn};

use crate::{
    ImageShape, Network, Outputs,
    init::Bias,
    layers::{BatchNorm, Conv2d, ConvSpec, GroupNorm, LayerNorm, Resize, max_pool3},
    mti_net::transformer::Block,
};

/// Token width, heads and blocks of ViT-B.
const WIDTH: i64 = 768;
const HEADS: i64 = 12;
const BLOCKS: usize = 12;

/// Dropout of the embeddings and of the blocks' MLPs.
const DROPOUT: f64 = 0.1;

/// A ResNet whose last map a vision transformer refines, and a decoder with three skips from the ResNet.
#[derive(Debug)]
pub(crate) struct TransUnet {
    resnet: HybridResnet,
    patches: Conv2d,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    conv_more: ConvBnRelu,
    up: [UpBlock; 4],
    head: Conv2d,
}

impl TransUnet {
    /// The image size must be a multiple of 16: it sets the number of position embeddings.
    pub(crate) fn new(vs: &nn::Path, image: ImageShape, eval: BnEval) -> Self {
        let embeddings = vs / "transformer" / "embeddings";
        let resnet = HybridResnet::new(&(&embeddings / "hybrid_model"), image.phases as i64);
        let patches = Conv2d::new(&(&embeddings / "patch_embeddings"), 1024, WIDTH, 1, true);
        let tokens = (image.size as i64 / 16).pow(2);
        let positions = embeddings.zeros("position_embeddings", &[1, tokens, WIDTH]);
        let encoder = vs / "transformer" / "encoder";
        let divisor = ((WIDTH / HEADS) as f64).sqrt();
        let block = |i| Block::new(&(&encoder / "layer" / i), WIDTH, HEADS, divisor, DROPOUT);
        let blocks = (0..BLOCKS).map(block).collect();
        let norm = LayerNorm::new(&(&encoder / "encoder_norm"), WIDTH);
        let decoder = vs / "decoder";
        let conv_more = ConvBnRelu::new(&(&decoder / "conv_more"), WIDTH, 512, eval);
        let up = [(512 + 512, 256), (256 + 256, 128), (128 + 64, 64), (64, 16)];
        let mut index = 0;
        let up = up.map(|(inputs, outputs)| {
            let vs = &decoder / "blocks" / index;
            let block = UpBlock::new(&vs, (image.size / 16) << index, inputs, outputs, eval);
            index += 1;
            block
        });
        let head = Conv2d::new(&(vs / "segmentation_head" / 0), 16, 1, 3, true);
        Self { resnet, patches, positions, blocks, norm, conv_more, up, head }
    }

    /// The ResNet's last map [N, 1024, P, P] to tokens and back to a map [N, 768, P, P].
    fn transform(&self, map: &Tensor, train: bool) -> Tensor {
        let side = map.size()[2];
        let tokens = self.patches.forward(map).flatten(2, 3).transpose(1, 2) + &self.positions;
        let mut z = tokens.dropout(DROPOUT, train);
        for block in &self.blocks {
            z = block.forward(&z, train);
        }
        self.norm.forward(&z).transpose(1, 2).unflatten(2, [side, side])
    }
}

impl Network for TransUnet {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        let (map, skips) = self.resnet.forward(x);
        let mut y = self.conv_more.forward(&self.transform(&map, train), train);
        let mut skips = skips.iter().rev();
        for block in &self.up {
            y = block.forward(&y, skips.next(), train);
        }
        Outputs::segmentation(self.head.forward(&y))
    }
}

/// 3 x 3 convolution, batch normalisation and ReLU.
#[derive(Debug)]
struct ConvBnRelu {
    conv: Conv2d,
    bn: BatchNorm,
}

impl ConvBnRelu {
    fn new(vs: &nn::Path, inputs: i64, outputs: i64, eval: BnEval) -> Self {
        let conv = Conv2d::new(&(vs / 0), inputs, outputs, 3, false);
        Self { conv, bn: BatchNorm::new(&(vs / 1), outputs, eval) }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.bn.forward(&self.conv.forward(x), train).relu()
    }
}

/// Bilinear upsampling and two convolutions.
#[derive(Debug)]
struct UpBlock {
    resize: Resize,
    convs: [ConvBnRelu; 2],
}

impl UpBlock {
    /// `side` is that of the maps to be doubled; `inputs` counts the channels of the skip too.
    fn new(vs: &nn::Path, side: usize, inputs: i64, outputs: i64, eval: BnEval) -> Self {
        let first = ConvBnRelu::new(&(vs / "conv1"), inputs, outputs, eval);
        let second = ConvBnRelu::new(&(vs / "conv2"), outputs, outputs, eval);
        Self { resize: Resize::doubled(side, vs.device()), convs: [first, second] }
    }

    fn forward(&self, x: &Tensor, skip: Option<&Tensor>, train: bool) -> Tensor {
        let up = self.resize.forward(x);
        let joined = skip.map(|skip| Tensor::cat(&[&up, skip], 1));
        let [first, second] = &self.convs;
        second.forward(&first.forward(joined.as_ref().unwrap_or(&up), train), train)
    }
}

/// ResNet-50 without its last stage, with standardised weights and group normalisation.
#[derive(Debug)]
struct HybridResnet {
    root: Conv2d,
    norm: GroupNorm,
    blocks: [Vec<Unit>; 3],
}

impl HybridResnet {
    fn new(vs: &nn::Path, phases: i64) -> Self {
        let spec = ConvSpec { stride: 2, ..ConvSpec::same(7) };
        let root = Conv2d::with(&(vs / "root" / "conv"), phases, 64, spec);
        let norm = GroupNorm::new(&(vs / "root" / "gn"), 32, 64, 1e-6);
        let blocks = [("block1", 3, 64, 64, 1), ("block2", 4, 256, 128, 2), ("block3", 9, 512, 256, 2)];
        let blocks = blocks.map(|(name, units, inputs, middle, stride)| {
            let vs = vs / "body" / name;
            let unit = |i| {
                let (inputs, stride) = if i == 1 { (inputs, stride) } else { (4 * middle, 1) };
                Unit::new(&(&vs / format!("unit{i}")), inputs, middle, stride)
            };
            (1..=units).map(unit).collect()
        });
        Self { root, norm, blocks }
    }

    /// The map at 1/16 of the image's size, and those at 1/2, 1/4 and 1/8.
    fn forward(&self, x: &Tensor) -> (Tensor, [Tensor; 3]) {
        let run =
            |x: &Tensor, units: &[Unit]| units.iter().fold(x.shallow_clone(), |x, unit| unit.forward(&x));
        let [block1, block2, block3] = &self.blocks;
        let half = self.norm.forward(&self.root.forward_standardised(x)).relu();
        let quarter = run(&max_pool3(&half, 0), block1);
        let eighth = run(&quarter, block2);
        let last = run(&eighth, block3);
        // The pooling is not padded, so the second map lacks a row and a column; only the skip gets them back.
        let missing = half.size()[2] / 2 - quarter.size()[2];
        let quarter = quarter.constant_pad_nd([0, missing, 0, missing]);
        (last, [half, quarter, eighth])
    }
}

/// A bottleneck: three convolutions and a shortcut, which is projected where the shape changes.
#[derive(Debug)]
struct Unit {
    convs: [(Conv2d, GroupNorm); 3],
    projection: Option<(Conv2d, GroupNorm)>,
}

impl Unit {
    fn new(vs: &nn::Path, inputs: i64, middle: i64, stride: i64) -> Self {
        let outputs = 4 * middle;
        let layer = |i: i64, inputs, outputs, spec| {
            let conv = Conv2d::with(&(vs / format!("conv{i}")), inputs, outputs, spec);
            (conv, GroupNorm::new(&(vs / format!("gn{i}")), 32, outputs, 1e-6))
        };
        let strided = |kernel| ConvSpec { stride, bias: Bias::None, ..ConvSpec::same(kernel) };
        let convs = [
            layer(1, inputs, middle, ConvSpec::same(1)),
            layer(2, middle, middle, strided(3)),
            layer(3, middle, outputs, ConvSpec::same(1)),
        ];
        let projection = (stride != 1 || inputs != outputs).then(|| {
            let conv = Conv2d::with(&(vs / "downsample"), inputs, outputs, strided(1));
            (conv, GroupNorm::new(&(vs / "gn_proj"), outputs, outputs, 1e-5))
        });
        Self { convs, projection }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let run =
            |x: &Tensor, (conv, norm): &(Conv2d, GroupNorm)| norm.forward(&conv.forward_standardised(x));
        let [first, second, third] = &self.convs;
        let y = run(&run(&run(x, first).relu(), second).relu(), third);
        let shortcut = self.projection.as_ref().map_or_else(|| x.shallow_clone(), |layer| run(x, layer));
        (shortcut + y).relu()
    }
}
