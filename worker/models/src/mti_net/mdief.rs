//! MdIEF, the fusion of spatial and spectral features (MODEL.md 3.5), and its ablations (3.13).

use mtinet_domain::model::{Arm, MdiefWeight, ModelConfig, NoMdiefMode};
use tch::{Kind, Tensor, nn};

use crate::layers::Conv2d;

/// How feature maps [N, phases, C, h, w] become fused maps of the same shape.
#[derive(Debug)]
pub(super) enum Fusion {
    /// Equation 1.
    Weighted(MdiefWeight),
    /// Spatial features as they are.
    Plain,
    /// Both branches concatenated and projected back to C channels.
    Concat(Conv2d),
}

impl Fusion {
    pub(super) fn new(vs: &nn::Path, arm: Arm, cfg: &ModelConfig) -> Self {
        match (arm, cfg.no_mdief_mode) {
            (Arm::NoMdief, NoMdiefMode::Plain) => Self::Plain,
            (Arm::NoMdief, NoMdiefMode::Concat) => {
                let channels = cfg.encoder_channels()[3] as i64;
                Self::Concat(Conv2d::new(vs, 2 * channels, channels, 1, true))
            }
            _ => Self::Weighted(cfg.mdief_weight),
        }
    }

    /// The fused map of a network with one branch: in equation 1 the missing branch counts as 0.
    pub(super) fn one(&self, map: &Tensor) -> Tensor {
        match self {
            Self::Weighted(weight) => map * (statistic(map, *weight).sigmoid() + 1.0),
            Self::Plain | Self::Concat(_) => map.shallow_clone(),
        }
    }

    /// The fused map of a network with both branches.
    pub(super) fn two(&self, spatial: &Tensor, spectral: &Tensor) -> Tensor {
        match self {
            Self::Weighted(weight) => {
                let g_spatial = spatial_weight(spatial, spectral, *weight);
                let g_spectral = -&g_spatial + 1.0;
                spatial * (g_spatial + 1.0) + spectral * (g_spectral + 1.0)
            }
            Self::Plain => spatial.shallow_clone(),
            Self::Concat(conv) => {
                let phases = spatial.size()[1];
                let folded = Tensor::cat(&[spatial, spectral], 2).flatten(0, 1);
                conv.forward(&folded).unflatten(0, [-1, phases])
            }
        }
    }
}

/// g_spa [N, phases, C, 1, 1]: the softmax over the two branches, as a sigmoid so that it cannot overflow.
fn spatial_weight(spatial: &Tensor, spectral: &Tensor, weight: MdiefWeight) -> Tensor {
    (statistic(spatial, weight) - statistic(spectral, weight)).sigmoid()
}

/// What the weights compare, per channel: [N, phases, C, 1, 1].
fn statistic(map: &Tensor, weight: MdiefWeight) -> Tensor {
    match weight {
        MdiefWeight::Eq1 => map.mean_dim([-2, -1].as_slice(), true, None),
        MdiefWeight::Shannon => {
            let positions = map.flatten(-2, -1);
            let log_q = positions.log_softmax(-1, Kind::Float);
            let entropy = -(log_q.exp() * &log_q).sum_dim_intlist(-1, true, Kind::Float);
            let largest = (positions.size()[positions.dim() - 1] as f64).ln();
            (entropy / largest).unsqueeze(-1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn maps() -> (Tensor, Tensor) {
        tch::manual_seed(3);
        let map = || Tensor::randn([2, 4, 3, 4, 4], (Kind::Float, Device::Cpu)) * 2.0;
        (map(), map())
    }

    #[test]
    fn the_two_weights_are_the_softmax_of_the_channel_means() {
        let (spatial, spectral) = maps();
        let g_spatial = spatial_weight(&spatial, &spectral, MdiefWeight::Eq1);
        let g_spectral = spatial_weight(&spectral, &spatial, MdiefWeight::Eq1);
        assert!((&g_spatial + &g_spectral - 1.0).abs().max().double_value(&[]) < 1e-6);
        let mean = |t: &Tensor| t.mean_dim([-2, -1].as_slice(), true, Kind::Float);
        let softmax = Tensor::stack(&[mean(&spatial), mean(&spectral)], 0).softmax(0, Kind::Float);
        assert!((g_spatial - softmax.get(0)).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn entropy_is_1_for_a_flat_map_and_near_0_for_a_peak() {
        let flat = Tensor::ones([1, 1, 2, 4, 4], (Kind::Float, Device::Cpu));
        assert!((statistic(&flat, MdiefWeight::Shannon) - 1.0).abs().max().double_value(&[]) < 1e-6);
        let peak = flat.zeros_like();
        let _ = peak.narrow(3, 0, 1).narrow(4, 0, 1).fill_(100.0);
        assert!(statistic(&peak, MdiefWeight::Shannon).max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn one_branch_is_equation_1_with_the_other_at_zero() {
        let (spatial, _) = maps();
        let fusion = Fusion::Weighted(MdiefWeight::Eq1);
        let both = fusion.two(&spatial, &spatial.zeros_like());
        assert!((fusion.one(&spatial) - both).abs().max().double_value(&[]) < 1e-6);
        assert_eq!(Fusion::Plain.one(&spatial), spatial);
    }
}
