//! The transformer over channel maps (MODEL.md 3.7); its blocks also make up the discriminator (3.10).

use mtinet_domain::model::{ModelConfig, Pos, TokenPool};
use tch::{Device, Kind, Tensor, nn};

use crate::{
    ImageShape, init,
    layers::{LayerNorm, Linear, add_dropout, attention, dropout},
};

/// Tokens are the feature maps of all phases and channels, each flattened to its P^2 values and perhaps projected.
#[derive(Debug)]
pub(super) struct Transformer {
    projection: Option<Linear>,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    pool: TokenPool,
    dropout: f64,
    phases: i64,
    readout_width: i64,
}

impl Transformer {
    pub(super) fn new(vs: &nn::Path, cfg: &ModelConfig, image: ImageShape) -> Self {
        let phases = image.phases as i64;
        let tokens = phases * cfg.encoder_channels()[3] as i64;
        let (width, heads) = cfg.tokens(image.size);
        let (width, heads) = (width as i64, heads as i64);
        let positions_per_map = (image.size as i64 / 16).pow(2);
        let projection =
            cfg.proj_dim.map(|width| Linear::new(&(vs / "proj"), positions_per_map, width as i64));
        let divisor = cfg.attn_scale.unwrap_or_else(|| ((width / heads) as f64).sqrt());
        let positions = match cfg.pos {
            Pos::Learned => init::positions(vs, tokens, width),
            Pos::Sincos => sincos(tokens, width).to_device(vs.device()),
        };
        let block = |i| Block::new(&(vs / format!("block{i}")), width, heads, divisor, cfg.dropout);
        let blocks = (1..=cfg.tr_blocks).map(block).collect();
        let norm = cfg.final_norm.then(|| LayerNorm::new(&(vs / "norm"), width));
        let readout_width = match cfg.token_pool {
            TokenPool::Phase => phases * width,
            TokenPool::Mean => width,
            TokenPool::Gap => tokens,
        };
        Self {
            projection,
            positions,
            blocks,
            norm,
            pool: cfg.token_pool,
            dropout: cfg.dropout,
            phases,
            readout_width,
        }
    }

    /// Width of the vector that the heads read.
    pub(super) fn readout_width(&self) -> i64 {
        self.readout_width
    }

    /// Fused maps [N, phases, C, P, P] to tokens [N, phases C, P^2 or the projection's width].
    pub(super) fn tokens(&self, fused: &Tensor, train: bool) -> Tensor {
        let maps = fused.flatten(3, 4).flatten(1, 2);
        let maps =
            self.projection.as_ref().map_or_else(|| maps.shallow_clone(), |layer| layer.forward(&maps));
        let embedded = maps + self.positions.to_device(fused.device());
        let mut z = dropout(&embedded, self.dropout, train);
        for block in &self.blocks {
            z = block.forward(&z, train);
        }
        self.norm.as_ref().map_or_else(|| z.shallow_clone(), |norm| norm.forward(&z))
    }

    /// Tokens to the readout [N, readout width].
    pub(super) fn pool(&self, tokens: &Tensor) -> Tensor {
        match self.pool {
            TokenPool::Phase => phase_means(tokens, self.phases).flatten(1, 2),
            TokenPool::Mean => tokens.mean_dim(1, false, None),
            TokenPool::Gap => tokens.mean_dim(-1, false, None),
        }
    }
}

/// Tokens [N, phases C, width] to their mean over the channels of each phase [N, phases, width].
pub(super) fn phase_means(tokens: &Tensor, phases: i64) -> Tensor {
    tokens.unflatten(1, [phases, -1]).mean_dim(2, false, None)
}

/// Fixed position code [1, tokens, width]: sines in the even columns, cosines in the odd ones.
fn sincos(tokens: i64, width: i64) -> Tensor {
    let options = (Kind::Double, Device::Cpu);
    let exponent = Tensor::arange_start_step(0, width, 2, options) / width as f64;
    let frequency = (exponent * -(1e4_f64.ln())).exp();
    let angle = Tensor::arange(tokens, options).unsqueeze(1) * frequency.unsqueeze(0);
    Tensor::stack(&[angle.sin(), angle.cos()], -1).flatten(1, 2).unsqueeze(0).to_kind(Kind::Float)
}

/// A pre-norm transformer block with an MLP four times as wide, named as in TransUNet.
#[derive(Debug)]
pub(crate) struct Block {
    attention_norm: LayerNorm,
    ffn_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    attn: [Linear; 4],
    heads: i64,
    divisor: f64,
    dropout: f64,
}

impl Block {
    /// `divisor` divides the attention logits; `dropout` acts in the MLP.
    pub(crate) fn new(vs: &nn::Path, width: i64, heads: i64, divisor: f64, dropout: f64) -> Self {
        let attention_norm = LayerNorm::new(&(vs / "attention_norm"), width);
        let ffn_norm = LayerNorm::new(&(vs / "ffn_norm"), width);
        let fc1 = Linear::new(&(vs / "ffn" / "fc1"), width, 4 * width);
        let fc2 = Linear::new(&(vs / "ffn" / "fc2"), 4 * width, width);
        let attn =
            ["query", "key", "value", "out"].map(|name| Linear::new(&(vs / "attn" / name), width, width));
        Self { attention_norm, ffn_norm, fc1, fc2, attn, heads, divisor, dropout }
    }

    /// [N, tokens, width] to the same shape.
    pub(crate) fn forward(&self, z: &Tensor, train: bool) -> Tensor {
        let z = z + self.attention(&self.attention_norm.forward(z), train);
        let hidden = self.fc1.forward(&self.ffn_norm.forward(&z)).gelu("none");
        let hidden = dropout(&hidden, self.dropout, train);
        add_dropout(&z, &self.fc2.forward(&hidden), self.dropout, train)
    }

    fn attention(&self, x: &Tensor, train: bool) -> Tensor {
        let [query, key, value, out] = &self.attn;
        let split = |layer: &Linear| layer.forward(x).unflatten(-1, [self.heads, -1]).transpose(1, 2);
        let y = attention(&split(query), &split(key), &split(value), 1.0 / self.divisor, train);
        out.forward(&y.transpose(1, 2).flatten(2, 3))
    }

    /// The same values without gradients.
    pub(crate) fn frozen(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.frozen(),
            ffn_norm: self.ffn_norm.frozen(),
            fc1: self.fc1.frozen(),
            fc2: self.fc2.frozen(),
            attn: self.attn.each_ref().map(Linear::frozen),
            ..*self
        }
    }
}
