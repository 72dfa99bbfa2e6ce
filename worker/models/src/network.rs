//! What every network can do, and the one place that turns an arm into a network.

use mtinet_domain::model::{Arm, ModelConfig};
use tch::{Tensor, nn};

use crate::{
    ModelError, densenet121::Densenet121, ei_ddpm::EiDdpm, inception3::Inception3, md_ff::MdFf,
    mti_net::MtiNet, resnet50::Resnet50, resunetpp::ResUnetPp, transunet::TransUnet, unet::Unet,
    vgg16::Vgg16,
};

/// Size of the images that a network is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Number of contrast phases, in the order Pre, Art, PV, Delay.
    pub phases: usize,
    /// Pixels along each side.
    pub size: usize,
}

/// Answers of a network; the tasks it does not have are `None`.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Segmentation logits [N, 1, H, W].
    pub seg: Option<Tensor>,
    /// Enhancement curve [N, phases], in the normalised unit of the images.
    pub curve: Option<Tensor>,
    /// Class logits [N, classes].
    pub cls: Option<Tensor>,
    /// The intensity at every pixel [N, phases, H, W], normalised, that `curve` is read from; with
    /// `reg_target = "map"` alone.
    pub map: Option<Tensor>,
    /// The answer of an auxiliary head to the same task, in training.
    pub auxiliary: Option<Tensor>,
    /// The pooled features that the discriminator sees [N, width], detached; with `tdd_condition` alone.
    pub condition: Option<Tensor>,
    /// What a diffusion network found.
    pub denoising: Option<Denoising>,
}

impl Outputs {
    /// Segmentation logits [N, 1, H, W] alone.
    pub(crate) fn segmentation(logits: Tensor) -> Self {
        Self { seg: Some(logits), ..Self::default() }
    }
}

/// The noise that a diffusion network found in a mask.
#[derive(Debug)]
pub struct Denoising {
    /// One answer per phase [N, phases, H, W].
    pub found: Tensor,
    /// The noise that was added [N, 1, H, W], in training.
    pub noise: Option<Tensor>,
}

/// A network that has its parameters in some `VarStore`.
pub trait Network: Send {
    /// Runs normalised images `x` [N, phases, H, W].
    ///
    /// With `train`, batch normalisation uses and updates batch statistics and dropout is on.
    ///
    /// # Panics
    /// Where `x` is not of the [`ImageShape`] that the network was built for.
    fn forward(&self, x: &Tensor, train: bool) -> Outputs;

    /// Answers `x` in training, where a diffusion network is shown the true `mask` [N, 1, H, W] with noise added.
    ///
    /// Whatever is random (dropout, noise) comes from libtorch's generators.
    ///
    /// # Panics
    /// As [`Network::forward`].
    fn learn(&self, x: &Tensor, mask: &Tensor) -> Outputs {
        let _ = mask;
        self.forward(x, true)
    }

    /// Answers `x` outside training. The noise that a diffusion network starts image i from follows from `seeds[i]`
    /// alone, so an answer depends neither on the other images nor on any generator.
    ///
    /// # Panics
    /// As [`Network::forward`], and where there are not as many seeds as images.
    fn predict(&self, x: &Tensor, seeds: &[u64]) -> Outputs {
        assert_eq!(x.size()[0], seeds.len() as i64, "one seed per image");
        self.forward(x, false)
    }

    /// One evaluation of a diffusion network on masks with noise `noisy` [N, 1, H, W] at the levels `t` [N] (i64, 0 to
    /// 999); `None` for every other network.
    fn denoise(&self, x: &Tensor, noisy: &Tensor, t: &Tensor) -> Option<Outputs> {
        let _ = (x, noisy, t);
        None
    }
}

/// A network that answers each image [phases, H, W] with one vector: the regression and classification baselines.
pub(crate) trait Backbone: Send {
    /// [N, phases, H, W] to [N, width]; `train` as in [`Network::forward`].
    fn answer(&self, x: &Tensor, train: bool) -> Tensor;

    /// The answer, and the same from an auxiliary head where there is one, in training.
    fn answers(&self, x: &Tensor, train: bool) -> (Tensor, Option<Tensor>) {
        (self.answer(x, train), None)
    }
}

/// A backbone whose vector is the curve.
struct Regression<B>(B);

impl<B: Backbone> Network for Regression<B> {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        let (curve, auxiliary) = self.0.answers(x, train);
        Outputs { curve: Some(curve), auxiliary, ..Outputs::default() }
    }
}

/// A backbone whose vector holds the class logits.
struct Classification<B>(B);

impl<B: Backbone> Network for Classification<B> {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        let (cls, auxiliary) = self.0.answers(x, train);
        Outputs { cls: Some(cls), auxiliary, ..Outputs::default() }
    }
}

/// Builds the network of `arm` with its parameters under `vs`, freshly initialised.
///
/// Draws from libtorch's CPU generator in a fixed order, so the parameters follow from `tch::manual_seed` alone,
/// whatever the device of `vs`. The discriminator is not part of it: see [`Discriminator`](crate::Discriminator).
///
/// # Errors
/// [`ModelError::Config`] where the knobs or the image size cannot work, [`ModelError::Classes`] below 2
/// classes, [`ModelError::Phases`] without phases.
pub fn build(
    vs: &nn::Path,
    arm: Arm,
    cfg: &ModelConfig,
    image: ImageShape,
    classes: usize,
) -> Result<Box<dyn Network>, ModelError> {
    cfg.validate(arm, image.size)?;
    if arm.tasks().cls && classes < 2 {
        return Err(ModelError::Classes { classes });
    }
    if image.phases == 0 {
        return Err(ModelError::Phases);
    }
    let (phases, width, eval) = (image.phases as i64, classes as i64, cfg.bn_eval);
    Ok(match arm {
        Arm::Unet => Box::new(Unet::new(vs, image.phases, cfg.unet_base(), eval)),
        Arm::ResUnetPp => Box::new(ResUnetPp::new(vs, phases, eval)),
        Arm::TransUnet => Box::new(TransUnet::new(vs, image, eval)),
        Arm::EiDdpm => Box::new(EiDdpm::new(vs, cfg, image)),
        Arm::MdFf => Box::new(MdFf::new(vs, image.phases, cfg.md_ff_base(), eval)),
        Arm::Vgg16Reg => Box::new(Regression(Vgg16::new(vs, image, phases))),
        Arm::Vgg16Cls => Box::new(Classification(Vgg16::new(vs, image, width))),
        Arm::Resnet50Reg => Box::new(Regression(Resnet50::new(vs, phases, phases, eval))),
        Arm::Resnet50Cls => Box::new(Classification(Resnet50::new(vs, phases, width, eval))),
        Arm::Densenet121Reg => Box::new(Regression(Densenet121::new(vs, phases, phases, eval))),
        Arm::Densenet121Cls => Box::new(Classification(Densenet121::new(vs, phases, width, eval))),
        Arm::Inception3Reg => Box::new(Regression(Inception3::new(vs, cfg, image, phases))),
        Arm::Inception3Cls => Box::new(Classification(Inception3::new(vs, cfg, image, width))),
        Arm::MtiNet
        | Arm::NoMdief
        | Arm::NoSpe
        | Arm::NoSpa
        | Arm::NoTim
        | Arm::NoTdd
        | Arm::SegOnly
        | Arm::SegReg
        | Arm::SegCls => Box::new(MtiNet::new(vs, arm, cfg, image, classes)),
    })
}
