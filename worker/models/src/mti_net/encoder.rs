//! The encoder: four times convolution, batch normalisation, ReLU and max-pooling (MODEL.md 3.2).

use mtinet_domain::model::{EncoderSharing, ModelConfig};
use tch::{Tensor, nn};

use crate::layers::{BatchNorm, Conv2d};

/// Names of the four phases in parameter names.
const PHASE_NAMES: [&str; 4] = ["pre", "art", "pv", "delay"];

/// Encoders of all phases.
#[derive(Debug)]
pub(super) enum PhaseEncoder {
    /// One encoder; the phases are folded into the batch.
    Shared(Encoder),
    /// One encoder per phase.
    PerPhase(Vec<Encoder>),
}

impl PhaseEncoder {
    pub(super) fn new(vs: &nn::Path, cfg: &ModelConfig, phases: usize) -> Self {
        match cfg.encoder_sharing {
            EncoderSharing::Shared => Self::Shared(Encoder::new(vs, cfg)),
            EncoderSharing::PerPhase => {
                Self::PerPhase(phase_paths(vs, phases).iter().map(|vs| Encoder::new(vs, cfg)).collect())
            }
        }
    }

    /// Images [N, phases, H, W] to the pooled maps [N, phases, C, h, w] of the four blocks, finest first.
    pub(super) fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        let (phases, side) = (x.size()[1], x.size()[2]);
        match self {
            Self::Shared(encoder) => {
                let folded = x.reshape([-1, 1, side, side]);
                let unfold = |level: Tensor| level.unflatten(0, [-1, phases]);
                encoder.forward(&folded, train).into_iter().map(unfold).collect()
            }
            Self::PerPhase(encoders) => {
                let each: Vec<Vec<Tensor>> = encoders
                    .iter()
                    .zip(x.split(1, 1))
                    .map(|(encoder, phase)| encoder.forward(&phase, train))
                    .collect();
                let level = |l: usize| Tensor::stack(&each.iter().map(|e| &e[l]).collect::<Vec<_>>(), 1);
                (0..each[0].len()).map(level).collect()
            }
        }
    }
}

/// The sub-paths of per-phase parameters.
pub(crate) fn phase_paths<'a>(vs: &nn::Path<'a>, phases: usize) -> Vec<nn::Path<'a>> {
    (0..phases)
        .map(|p| match PHASE_NAMES.get(p) {
            Some(name) if phases == PHASE_NAMES.len() => vs / name,
            _ => vs / format!("phase{}", p + 1),
        })
        .collect()
}

/// Encoder of one-channel images.
#[derive(Debug)]
pub(super) struct Encoder {
    blocks: Vec<(Conv2d, BatchNorm)>,
}

impl Encoder {
    fn new(vs: &nn::Path, cfg: &ModelConfig) -> Self {
        let mut inputs = 1;
        let mut blocks = Vec::with_capacity(4);
        for (i, channels) in cfg.encoder_channels().into_iter().enumerate() {
            let vs = vs / format!("block{}", i + 1);
            let conv = Conv2d::new(&(&vs / "conv"), inputs, channels as i64, 3, false);
            blocks.push((conv, BatchNorm::new(&(&vs / "bn"), channels as i64, cfg.bn_eval)));
            inputs = channels as i64;
        }
        Self { blocks }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        let mut levels: Vec<Tensor> = Vec::with_capacity(self.blocks.len());
        for (conv, bn) in &self.blocks {
            levels.push(match levels.last() {
                None => bn.first_block(conv, x, train),
                Some(level) => bn.forward_relu_pool(&conv.forward(level), train),
            });
        }
        levels
    }
}
