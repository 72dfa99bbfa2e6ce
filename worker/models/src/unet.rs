//! U-Net with batch normalisation and padded convolutions (MODEL.md 4.1), named as in milesial/Pytorch-UNet.

use mtinet_domain::model::BnEval;
use tch::{Tensor, nn};

use crate::{
    Network, Outputs,
    layers::{BatchNorm, Conv2d, Deconv2d, channels_last, max_pool},
};

/// Four levels down and up; phases are input channels, one logit comes out.
#[derive(Debug)]
pub(crate) struct Unet {
    inc: DoubleConv,
    down: Vec<DoubleConv>,
    up: Vec<(Deconv2d, DoubleConv)>,
    outc: Conv2d,
}

impl Unet {
    /// `base` is the width of the first level; each level down doubles it.
    pub(crate) fn new(vs: &nn::Path, phases: usize, base: usize, eval: BnEval) -> Self {
        let base = base as i64;
        let width = |level: i64| base << level;
        let inc = DoubleConv::new(&(vs / "inc" / "double_conv"), phases as i64, base, eval);
        let down = (1..=4)
            .map(|level| {
                let vs = vs / format!("down{level}") / "maxpool_conv" / 1 / "double_conv";
                DoubleConv::new(&vs, width(level - 1), width(level), eval)
            })
            .collect();
        let up = (1..=4)
            .map(|step| {
                let vs = vs / format!("up{step}");
                let (deep, shallow) = (width(5 - step), width(4 - step));
                let up = Deconv2d::new(&(&vs / "up"), deep, shallow, 2, true);
                (up, DoubleConv::new(&(&vs / "conv" / "double_conv"), deep, shallow, eval))
            })
            .collect();
        let outc = Conv2d::new(&(vs / "outc" / "conv"), base, 1, 1, true);
        Self { inc, down, up, outc }
    }
}

impl Network for Unet {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        let mut y = self.inc.forward(&channels_last(x), train);
        let mut skips = Vec::with_capacity(self.down.len());
        for block in &self.down {
            let next = block.forward(&max_pool(&y), train);
            skips.push(std::mem::replace(&mut y, next));
        }
        for ((up, conv), skip) in self.up.iter().zip(skips.iter().rev()) {
            y = conv.forward(&Tensor::cat(&[skip, &up.forward(&y)], 1), train);
        }
        Outputs::segmentation(self.outc.forward(&y))
    }
}

/// Two times convolution, batch normalisation and ReLU; numbered as in a PyTorch `Sequential`.
#[derive(Debug)]
pub(crate) struct DoubleConv {
    layers: [(Conv2d, BatchNorm); 2],
}

impl DoubleConv {
    pub(crate) fn new(vs: &nn::Path, inputs: i64, outputs: i64, eval: BnEval) -> Self {
        let layer = |inputs: i64, index: i64| {
            let conv = Conv2d::new(&(vs / index), inputs, outputs, 3, false);
            (conv, BatchNorm::new(&(vs / (index + 1)), outputs, eval))
        };
        Self { layers: [layer(inputs, 0), layer(outputs, 3)] }
    }

    pub(crate) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.layers.iter().fold(x.shallow_clone(), |x, (conv, bn)| bn.forward_relu(&conv.forward(&x), train))
    }
}
