//! VGG-16 without batch normalisation (MODEL.md 5), named and initialised as in torchvision.

use tch::{Tensor, nn};

use crate::{
    ImageShape,
    init::{Bias, Start},
    layers::{Conv2d, ConvSpec, Linear, Resize, max_pool},
    network::Backbone,
};

/// Number in torchvision's `features` and outputs of each convolution, by stage; a max-pooling ends a stage.
const STAGES: [&[(i64, i64)]; 5] = [
    &[(0, 64), (2, 64)],
    &[(5, 128), (7, 128)],
    &[(10, 256), (12, 256), (14, 256)],
    &[(17, 512), (19, 512), (21, 512)],
    &[(24, 512), (26, 512), (28, 512)],
];

/// Side of the map that the classifier reads, whatever the image size.
const SIDE: usize = 7;
const HIDDEN: i64 = 4096;
const DROPOUT: f64 = 0.5;

/// Thirteen convolutions and three linear layers.
#[derive(Debug)]
pub(crate) struct Vgg16 {
    stages: Vec<Vec<Conv2d>>,
    pool: Resize,
    classifier: [Linear; 3],
}

impl Vgg16 {
    /// `outputs` is the length of the answer.
    pub(crate) fn new(vs: &nn::Path, image: ImageShape, outputs: i64) -> Self {
        let spec = ConvSpec { start: Start::KaimingOut, bias: Bias::Zero, ..ConvSpec::same(3) };
        let mut inputs = image.phases as i64;
        let mut conv = |&(number, outputs): &(i64, i64)| {
            let inputs = std::mem::replace(&mut inputs, outputs);
            Conv2d::with(&(vs / "features" / number), inputs, outputs, spec)
        };
        let stages = STAGES.iter().map(|stage| stage.iter().map(&mut conv).collect()).collect();
        let linear = |number: i64, inputs, outputs| {
            let start = Start::Normal(0.01);
            Linear::with(&(vs / "classifier" / number), inputs, outputs, start, Bias::Zero)
        };
        // Each of the five poolings drops what is left over.
        let pool = Resize::binned(image.size >> STAGES.len(), SIDE, vs.device());
        let flat = 512 * (SIDE * SIDE) as i64;
        let classifier = [linear(0, flat, HIDDEN), linear(3, HIDDEN, HIDDEN), linear(6, HIDDEN, outputs)];
        Self { stages, pool, classifier }
    }
}

impl Backbone for Vgg16 {
    fn answer(&self, x: &Tensor, train: bool) -> Tensor {
        let mut y = x.shallow_clone();
        for stage in &self.stages {
            y = max_pool(&stage.iter().fold(y, |y, conv| conv.forward(&y).relu()));
        }
        let flat = self.pool.forward(&y).flatten(1, 3);
        let [first, second, last] = &self.classifier;
        let hidden = first.forward(&flat).relu().dropout(DROPOUT, train);
        last.forward(&second.forward(&hidden).relu().dropout(DROPOUT, train))
    }
}
