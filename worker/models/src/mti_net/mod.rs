//! MTI-Net, its ablations and its task subsets (MODEL.md section 3).

mod decoder;
pub(crate) mod encoder;
mod highpass;
mod map_head;
mod mdief;
mod spectral;
pub(crate) mod transformer;

#[cfg(test)]
mod tests;

use mtinet_domain::model::{Arm, ModelConfig, NoMdiefMode, RegTarget, Skip, SpeEncoder};
use tch::{Tensor, nn};

use self::{
    decoder::Decoder, encoder::PhaseEncoder, map_head::MapHead, mdief::Fusion, spectral::Spectral,
    transformer::Transformer,
};
use crate::{
    ImageShape, Network, Outputs,
    layers::{Linear, global_mean},
};

/// One network for segmentation, enhancement regression and classification.
///
/// Feature maps are [N, phases, C, h, w] throughout, whether the phases share an encoder or not.
#[derive(Debug)]
pub(crate) struct MtiNet {
    branches: Branches,
    fusion: Fusion,
    decoder: Decoder,
    transformer: Option<Transformer>,
    head_reg: Option<Linear>,
    /// Instead of `head_reg`.
    head_map: Option<MapHead>,
    head_cls: Option<Linear>,
    /// Whether the decoder takes maps of all levels, or of the last one only.
    all_levels: bool,
    /// Whether the discriminator is to see the pooled features.
    conditional: bool,
}

/// Where features come from.
#[derive(Debug)]
enum Branches {
    Spatial(PhaseEncoder),
    /// Without spatial features; the encoder is there only where it feeds the spectral branch.
    Spectral(Option<PhaseEncoder>, Spectral),
    Both(PhaseEncoder, Spectral),
}

impl MtiNet {
    /// `cfg` must have been validated for `arm` and the image size.
    pub(crate) fn new(vs: &nn::Path, arm: Arm, cfg: &ModelConfig, image: ImageShape, classes: usize) -> Self {
        let branches = Branches::new(vs, arm, cfg, image);
        let fusion = Fusion::new(&(vs / "fuse"), arm, cfg);
        let decoder = Decoder::new(&(vs / "dec"), cfg, image.phases);
        let tasks = arm.tasks();
        let transformer = (tasks.reg || tasks.cls).then(|| Transformer::new(&(vs / "tr"), cfg, image));
        let width = transformer.as_ref().map_or(0, Transformer::readout_width);
        let map = cfg.reg_target == RegTarget::Map;
        let head_map = (tasks.reg && map).then(|| MapHead::new(&(vs / "head_map"), cfg, image));
        let head_reg =
            (tasks.reg && !map).then(|| Linear::new(&(vs / "head_reg"), width, image.phases as i64));
        let head_cls = tasks.cls.then(|| Linear::new(&(vs / "head_cls"), width, classes as i64));
        let all_levels = cfg.skip == Skip::Add1x1;
        let conditional = cfg.tdd_condition;
        Self { branches, fusion, decoder, transformer, head_reg, head_map, head_cls, all_levels, conditional }
    }

    /// Fused maps of the levels that the decoder takes, finest first; the last is X_f.
    fn fused(&self, x: &Tensor, train: bool) -> Vec<Tensor> {
        let wanted = |levels: &[Tensor]| -> usize { if self.all_levels { 0 } else { levels.len() - 1 } };
        match &self.branches {
            Branches::Spatial(encoder) => {
                let maps = encoder.forward(x, train);
                maps[wanted(&maps)..].iter().map(|map| self.fusion.one(map)).collect()
            }
            Branches::Spectral(source, spectral) => {
                let source = source.as_ref().map(|encoder| encoder.forward(x, train)).unwrap_or_default();
                let maps = spectral.forward(x, &source, train);
                maps[wanted(&maps)..].iter().map(|map| self.fusion.one(map)).collect()
            }
            Branches::Both(encoder, spectral) => {
                let spatial = encoder.forward(x, train);
                let spatial = &spatial[wanted(&spatial)..];
                let spectral = spectral.forward(x, spatial, train);
                let spectral = &spectral[wanted(&spectral)..];
                spatial.iter().zip(spectral).map(|(spa, spe)| self.fusion.two(spa, spe)).collect()
            }
        }
    }
}

impl Branches {
    fn new(vs: &nn::Path, arm: Arm, cfg: &ModelConfig, image: ImageShape) -> Self {
        let spatial = || PhaseEncoder::new(&(vs / "enc_spa"), cfg, image.phases);
        let spectral = || Spectral::new(&(vs / "enc_spe"), cfg, image);
        match arm {
            Arm::NoSpe => Self::Spatial(spatial()),
            Arm::NoMdief if cfg.no_mdief_mode == NoMdiefMode::Plain => Self::Spatial(spatial()),
            Arm::NoSpa => {
                let source = (cfg.spe_encoder == SpeEncoder::FeatureFft).then(spatial);
                Self::Spectral(source, spectral())
            }
            _ => {
                let encoder = spatial();
                Self::Both(encoder, spectral())
            }
        }
    }
}

impl Network for MtiNet {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        let fused = self.fused(x, train);
        let last = &fused[fused.len() - 1];
        let seg = self.decoder.forward(&fused, train);
        let condition = self.conditional.then(|| global_mean(&last.detach()).flatten(1, 2));
        let Some(transformer) = &self.transformer else { return Outputs::segmentation(seg) };
        let tokens = transformer.tokens(last, train);
        let readout = transformer.pool(&tokens);
        let answer = |head: &Option<Linear>| Some(head.as_ref()?.forward(&readout));
        let map = self.head_map.as_ref().map(|head| head.forward(&tokens));
        let curve = match &map {
            Some(map) => Some(map_head::curve(map, &seg, train)),
            None => answer(&self.head_reg),
        };
        Outputs { curve, cls: answer(&self.head_cls), seg: Some(seg), map, condition, ..Outputs::default() }
    }
}
