//! The regression of a pixel map instead of a curve (MODEL.md 3.9, `reg_target = "map"`).
//!
//! The tokens become maps again, are projected to one map per phase and enlarged to the image. The curve of such a network
//! is read from its map: the mean inside the mask that the network itself predicts [our definition].

use mtinet_domain::model::ModelConfig;
use tch::{Kind, Tensor, nn};

use crate::{
    ImageShape,
    layers::{Conv2d, Resize},
    losses::tim,
};

#[derive(Debug)]
pub(super) struct MapHead {
    conv: Conv2d,
    resize: Resize,
    side: i64,
}

impl MapHead {
    pub(super) fn new(vs: &nn::Path, cfg: &ModelConfig, image: ImageShape) -> Self {
        let (phases, side) = (image.phases as i64, image.size / 16);
        let tokens = phases * cfg.encoder_channels()[3] as i64;
        let resize = Resize::bilinear(side, image.size, vs.device());
        Self { conv: Conv2d::new(vs, tokens, phases, 1, true), resize, side: side as i64 }
    }

    /// Tokens [N, phases C, P^2] to normalised intensities [N, phases, H, W].
    pub(super) fn forward(&self, tokens: &Tensor) -> Tensor {
        self.resize.forward(&self.conv.forward(&tokens.unflatten(2, [self.side, self.side])))
    }
}

/// The curve [N, phases]: the mean of `map` under the mask that the logits `seg` [N, 1, H, W] mean.
///
/// Outside training that is the mask itself, or the probabilities where it is empty. In training it is the probabilities,
/// as constants: what is learnt from the curve reaches the map, not the mask.
pub(super) fn curve(map: &Tensor, seg: &Tensor, train: bool) -> Tensor {
    let soft = seg.detach().to_kind(Kind::Float).sigmoid();
    let mask = if train {
        soft
    } else {
        let hard = soft.ge(0.5).to_kind(Kind::Float);
        let empty = -hard.amax([1, 2, 3].as_slice(), true) + 1.0;
        hard + soft * empty
    };
    tim(&mask, &map.to_kind(Kind::Float))
}
