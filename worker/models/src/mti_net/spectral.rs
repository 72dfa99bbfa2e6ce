//! The spectral branch (MODEL.md 3.3): where spectral features come from.

use mtinet_domain::model::{EncoderSharing, ModelConfig, SpeEncoder};
use tch::{Tensor, nn};

use super::{
    encoder::{PhaseEncoder, phase_paths},
    highpass::HighPassFilter,
};
use crate::{ImageShape, layers::Conv2d};

/// Spectral features of all phases.
#[derive(Debug)]
pub(super) enum Spectral {
    /// Filtered images through an encoder.
    Own(HighPassFilter, PhaseEncoder),
    /// Filtered spatial features; one filter per level, finest first.
    FeatureFft(Vec<HighPassFilter>),
    /// The pooled image spectrum through 1 x 1 convolutions: one for all phases, or one each.
    Pool1x1(HighPassFilter, Vec<Conv2d>),
}

impl Spectral {
    pub(super) fn new(vs: &nn::Path, cfg: &ModelConfig, image: ImageShape) -> Self {
        let filter = |side| HighPassFilter::new(cfg, image.size, side, vs.device());
        match cfg.spe_encoder {
            SpeEncoder::Own => Self::Own(filter(image.size), PhaseEncoder::new(vs, cfg, image.phases)),
            SpeEncoder::FeatureFft => Self::FeatureFft((1..=4).map(|l| filter(image.size >> l)).collect()),
            SpeEncoder::Pool1x1 => {
                let channels = cfg.encoder_channels()[3] as i64;
                let conv = |vs: &nn::Path| Conv2d::new(&(vs / "conv"), 1, channels, 1, true);
                let convs = match cfg.encoder_sharing {
                    EncoderSharing::Shared => vec![conv(vs)],
                    EncoderSharing::PerPhase => phase_paths(vs, image.phases).iter().map(conv).collect(),
                };
                Self::Pool1x1(filter(image.size), convs)
            }
        }
    }

    /// Images [N, phases, H, W] to maps [N, phases, C, h, w], finest first.
    ///
    /// `spatial` are the maps of the spatial encoder that the network uses: all, or the last ones. Filtered features
    /// have the same levels, pooled spectra the last level only.
    pub(super) fn forward(&self, x: &Tensor, spatial: &[Tensor], train: bool) -> Vec<Tensor> {
        match self {
            Self::Own(filter, encoder) => encoder.forward(&filter.forward(x), train),
            Self::FeatureFft(filters) => {
                let filters = &filters[filters.len() - spatial.len()..];
                spatial.iter().zip(filters).map(|(map, filter)| filter.forward(map)).collect()
            }
            Self::Pool1x1(filter, convs) => {
                let (phases, side) = (x.size()[1], x.size()[2] / 16);
                let pooled = filter.forward(x).adaptive_avg_pool2d([side, side]);
                let maps = match convs.as_slice() {
                    [shared] => {
                        shared.forward(&pooled.reshape([-1, 1, side, side])).unflatten(0, [-1, phases])
                    }
                    each => {
                        let phases = pooled.split(1, 1);
                        let maps: Vec<_> = each.iter().zip(&phases).map(|(c, p)| c.forward(p)).collect();
                        Tensor::stack(&maps, 1)
                    }
                };
                vec![maps]
            }
        }
    }
}
