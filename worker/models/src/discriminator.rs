//! The task discriminator TDD (MODEL.md 3.10): a small transformer that sees a curve and class probabilities.
//!
//! With `tdd_condition` it also sees which image they are about, so that it can reject an answer that is likely in general
//! but not for this image: one more token, embedded from the fused features X_f pooled over their positions, without
//! gradients to them [our definition].

use mtinet_domain::model::{AdvMode, ModelConfig};
use tch::{Tensor, nn};

use crate::{
    init,
    layers::{LayerNorm, Linear},
    mti_net::transformer::Block,
};

const HEADS: i64 = 4;
const BLOCKS: usize = 3;

/// Tells curves and classes of the ground truth from those that a network answers.
#[derive(Debug)]
pub struct Discriminator {
    phase_embed: Linear,
    class_embed: Linear,
    condition_embed: Option<Linear>,
    pos_embed: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
    pub(crate) real_smooth: f64,
    pub(crate) adv_mode: AdvMode,
}

impl Discriminator {
    /// Builds it with its parameters under `vs`, which should be a `VarStore` of its own.
    pub fn new(vs: &nn::Path, cfg: &ModelConfig, phases: usize, classes: usize) -> Self {
        let width = cfg.tdd_dim as i64;
        let divisor = ((width / HEADS) as f64).sqrt();
        let phase_embed = Linear::new(&(vs / "phase_embed"), 1, width);
        let class_embed = Linear::new(&(vs / "class_embed"), classes as i64, width);
        let condition_embed = cfg.tdd_condition.then(|| {
            let features = phases * cfg.encoder_channels()[3];
            Linear::new(&(vs / "condition_embed"), features as i64, width)
        });
        let tokens = phases + 1 + usize::from(cfg.tdd_condition);
        let pos_embed = init::positions(vs, tokens as i64, width);
        let blocks = (1..=BLOCKS)
            .map(|i| Block::new(&(vs / format!("block{i}")), width, HEADS, divisor, 0.0))
            .collect();
        let norm = LayerNorm::new(&(vs / "norm"), width);
        let head = Linear::new(&(vs / "head"), width, 1);
        let (real_smooth, adv_mode) = (cfg.tdd_real_smooth, cfg.adv_mode);
        Self {
            phase_embed,
            class_embed,
            condition_embed,
            pos_embed,
            blocks,
            norm,
            head,
            real_smooth,
            adv_mode,
        }
    }

    /// Logits [N, 1] for `curve` [N, phases] (normalised) and `probs` [N, classes]; positive means real. A conditional
    /// discriminator also takes [`Outputs::condition`](crate::Outputs), which others do not look at.
    ///
    /// # Panics
    /// Where a conditional discriminator is given no `condition`.
    pub fn forward(&self, curve: &Tensor, probs: &Tensor, condition: Option<&Tensor>) -> Tensor {
        let mut tokens = vec![
            self.phase_embed.forward(&curve.unsqueeze(-1)),
            self.class_embed.forward(probs).unsqueeze(1),
        ];
        if let (Some(embed), Some(condition)) = (&self.condition_embed, condition) {
            tokens.push(embed.forward(condition).unsqueeze(1));
        }
        let mut z = Tensor::cat(&tokens, 1) + &self.pos_embed;
        for block in &self.blocks {
            z = block.forward(&z, false);
        }
        self.head.forward(&self.norm.forward(&z).mean_dim(1, false, None))
    }

    /// The discriminator with its current values but without gradients, for the generator's step.
    pub fn frozen(&self) -> Self {
        Self {
            phase_embed: self.phase_embed.frozen(),
            class_embed: self.class_embed.frozen(),
            condition_embed: self.condition_embed.as_ref().map(Linear::frozen),
            pos_embed: self.pos_embed.detach(),
            blocks: self.blocks.iter().map(Block::frozen).collect(),
            norm: self.norm.frozen(),
            head: self.head.frozen(),
            real_smooth: self.real_smooth,
            adv_mode: self.adv_mode,
        }
    }
}
