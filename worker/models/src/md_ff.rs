//! The stand-in for MD-FF (MODEL.md 4.5): the network of that name could not be identified.
//!
//! One U-Net encoder per phase; the maps of all phases are fused at each of the five scales.

use mtinet_domain::model::BnEval;
use tch::{Tensor, nn};

use crate::{
    Network, Outputs,
    layers::{BatchNorm, Conv2d, Deconv2d, SqueezeExcite, max_pool},
    mti_net::encoder::phase_paths,
    unet::DoubleConv,
};

const SCALES: usize = 5;

/// Encoders per phase, a fusion per scale, and the decoder of U-Net.
#[derive(Debug)]
pub(crate) struct MdFf {
    encoders: Vec<Vec<DoubleConv>>,
    fusions: Vec<Fusion>,
    /// Deepest first.
    up: Vec<(Deconv2d, DoubleConv)>,
    out: Conv2d,
}

impl MdFf {
    /// `base` is the width of the first level; each level down doubles it.
    pub(crate) fn new(vs: &nn::Path, phases: usize, base: usize, eval: BnEval) -> Self {
        let width = |scale: usize| (base << scale) as i64;
        let encoder = |vs: &nn::Path| {
            let inputs = |scale| if scale == 0 { 1 } else { width(scale - 1) };
            let level = |scale| DoubleConv::new(&(vs / scale as i64), inputs(scale), width(scale), eval);
            (0..SCALES).map(level).collect()
        };
        let encoders = phase_paths(&(vs / "enc"), phases).iter().map(encoder).collect();
        let fusions = (0..SCALES)
            .map(|scale| Fusion::new(&(vs / "fuse" / scale as i64), phases as i64, width(scale), eval))
            .collect();
        let up = (0..SCALES - 1)
            .rev()
            .map(|scale| {
                let (vs, deep, shallow) = (vs / "up" / scale as i64, width(scale + 1), width(scale));
                let up = Deconv2d::new(&(&vs / "up"), deep, shallow, 2, true);
                (up, DoubleConv::new(&(&vs / "conv"), deep, shallow, eval))
            })
            .collect();
        Self { encoders, fusions, up, out: Conv2d::new(&(vs / "out"), base as i64, 1, 1, true) }
    }
}

impl Network for MdFf {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        let phases = x.split(1, 1);
        let mut maps: Vec<Tensor> = phases;
        let mut fused = Vec::with_capacity(SCALES);
        for (scale, fusion) in self.fusions.iter().enumerate() {
            for (map, encoder) in maps.iter_mut().zip(&self.encoders) {
                let smaller = if scale == 0 { map.shallow_clone() } else { max_pool(map) };
                *map = encoder[scale].forward(&smaller, train);
            }
            fused.push(fusion.forward(&maps, train));
        }
        let mut levels = fused.into_iter().rev();
        let mut y = levels.next().unwrap_or_default();
        for ((up, conv), skip) in self.up.iter().zip(levels) {
            y = conv.forward(&Tensor::cat(&[&skip, &up.forward(&y)], 1), train);
        }
        Outputs::segmentation(self.out.forward(&y))
    }
}

/// The maps of all phases, weighted by squeeze and excitation and projected to the width of one.
#[derive(Debug)]
struct Fusion {
    se: SqueezeExcite,
    conv: Conv2d,
    bn: BatchNorm,
}

impl Fusion {
    fn new(vs: &nn::Path, phases: i64, width: i64, eval: BnEval) -> Self {
        let se = SqueezeExcite::new(&(vs / "se"), phases * width, 16);
        let conv = Conv2d::new(&(vs / "conv"), phases * width, width, 1, false);
        Self { se, conv, bn: BatchNorm::new(&(vs / "bn"), width, eval) }
    }

    fn forward(&self, maps: &[Tensor], train: bool) -> Tensor {
        self.bn.forward(&self.conv.forward(&self.se.forward(&Tensor::cat(maps, 1))), train).relu()
    }
}
