//! The segmentation decoder: four transposed convolutions and a 1 x 1 head (MODEL.md 3.6).

use mtinet_domain::model::{ModelConfig, Skip};
use tch::{Tensor, nn};

use crate::layers::{BatchNorm, Conv2d, Deconv2d, channels_last};

#[derive(Debug)]
pub(super) struct Decoder {
    blocks: Vec<Block>,
    head: Conv2d,
}

#[derive(Debug)]
struct Block {
    deconv: Deconv2d,
    bn: BatchNorm,
    skip: Option<(Conv2d, BatchNorm)>,
}

impl Decoder {
    pub(super) fn new(vs: &nn::Path, cfg: &ModelConfig, phases: usize) -> Self {
        let encoder = cfg.encoder_channels().map(|c| (c * phases) as i64);
        let mut inputs = encoder[3];
        let mut blocks = Vec::with_capacity(4);
        for (i, channels) in cfg.decoder_channels().into_iter().enumerate() {
            let outputs = channels as i64;
            let path = vs / format!("block{}", i + 1);
            let deconv = Deconv2d::new(&(&path / "deconv"), inputs, outputs, cfg.deconv_k as i64, false);
            let bn = BatchNorm::new(&(&path / "bn"), outputs, cfg.bn_eval);
            // Block 1 ends at the resolution of encoder block 3, and so on; nothing matches the full resolution.
            let skip = (cfg.skip == Skip::Add1x1 && i < 3).then(|| {
                let path = vs / format!("skip{}", i + 1);
                let conv = Conv2d::new(&(&path / "conv"), encoder[2 - i], outputs, 1, false);
                (conv, BatchNorm::new(&(&path / "bn"), outputs, cfg.bn_eval))
            });
            blocks.push(Block { deconv, bn, skip });
            inputs = outputs;
        }
        Self { blocks, head: Conv2d::new(&(vs / "head"), inputs, 1, 1, true) }
    }

    /// Fused maps [N, phases, C, h, w], finest first, to logits [N, 1, H, W]. Phases become channels p * C + c.
    pub(super) fn forward(&self, fused: &[Tensor], train: bool) -> Tensor {
        let mut levels = fused.iter().rev().map(|map| map.flatten(1, 2));
        let mut y = levels.next().map(|level| channels_last(&level)).unwrap_or_default();
        for block in &self.blocks {
            y = block.forward(&y, &mut levels, train);
        }
        self.head.forward(&y)
    }
}

impl Block {
    /// Doubles `y`; a block with a skip also takes the next of `levels`.
    fn forward(&self, y: &Tensor, levels: &mut impl Iterator<Item = Tensor>, train: bool) -> Tensor {
        let up = self.bn.forward_relu(&self.deconv.forward(y), train);
        let Some((conv, bn)) = &self.skip else { return up };
        // Not `+=`, which would overwrite what the ReLU keeps for its gradient.
        levels
            .next()
            .map_or_else(|| up.shallow_clone(), |level| &up + bn.forward_relu(&conv.forward(&level), train))
    }
}
