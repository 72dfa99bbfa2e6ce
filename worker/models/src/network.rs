//! What every network can do, and the one place that turns an arm into a network.

use mtinet_domain::model::{Arm, ArmError, ModelConfig, ModelConfigError};
use tch::{Tensor, nn};

use crate::{
    ModelError, densenet121::Densenet121, inception3::Inception3, md_ff::MdFf, mti_net::MtiNet,
    resnet50::Resnet50, resunetpp::ResUnetPp, transunet::TransUnet, unet::Unet, vgg16::Vgg16,
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
#[derive(Debug)]
pub struct Outputs {
    /// Segmentation logits [N, 1, H, W].
    pub seg: Option<Tensor>,
    /// Enhancement curve [N, phases], in the normalised unit of the images.
    pub curve: Option<Tensor>,
    /// Class logits [N, classes].
    pub cls: Option<Tensor>,
}

impl Outputs {
    /// Segmentation logits [N, 1, H, W] alone.
    pub(crate) fn segmentation(logits: Tensor) -> Self {
        Self { seg: Some(logits), curve: None, cls: None }
    }
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
}

/// A network that answers each image [phases, H, W] with one vector: the regression and classification baselines.
pub(crate) trait Backbone: Send {
    /// [N, phases, H, W] to [N, width]; `train` as in [`Network::forward`].
    fn answer(&self, x: &Tensor, train: bool) -> Tensor;
}

/// A backbone whose vector is the curve.
struct Regression<B>(B);

impl<B: Backbone> Network for Regression<B> {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        Outputs { seg: None, curve: Some(self.0.answer(x, train)), cls: None }
    }
}

/// A backbone whose vector holds the class logits.
struct Classification<B>(B);

impl<B: Backbone> Network for Classification<B> {
    fn forward(&self, x: &Tensor, train: bool) -> Outputs {
        Outputs { seg: None, curve: None, cls: Some(self.0.answer(x, train)) }
    }
}

/// Builds the network of `arm` with its parameters under `vs`, freshly initialised.
///
/// Draws from libtorch's CPU generator in a fixed order, so the parameters follow from `tch::manual_seed` alone,
/// whatever the device of `vs`. The discriminator is not part of it: see [`Discriminator`](crate::Discriminator).
///
/// # Errors
/// [`ModelError::Config`] where the arm has no network or the knobs cannot work, [`ModelError::Classes`] below 2
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
        _ if arm.is_mti() => Box::new(MtiNet::new(vs, arm, cfg, image, classes)),
        Arm::Unet => Box::new(Unet::new(vs, image.phases, cfg.unet_base(), eval)),
        Arm::ResUnetPp => Box::new(ResUnetPp::new(vs, phases, eval)),
        Arm::TransUnet => Box::new(TransUnet::new(vs, image, eval)),
        Arm::MdFf => Box::new(MdFf::new(vs, image.phases, cfg.md_ff_base(), eval)),
        Arm::Vgg16Reg => Box::new(Regression(Vgg16::new(vs, image, phases))),
        Arm::Vgg16Cls => Box::new(Classification(Vgg16::new(vs, image, width))),
        Arm::Resnet50Reg => Box::new(Regression(Resnet50::new(vs, phases, phases, eval))),
        Arm::Resnet50Cls => Box::new(Classification(Resnet50::new(vs, phases, width, eval))),
        Arm::Densenet121Reg => Box::new(Regression(Densenet121::new(vs, phases, phases, eval))),
        Arm::Densenet121Cls => Box::new(Classification(Densenet121::new(vs, phases, width, eval))),
        Arm::Inception3Reg => Box::new(Regression(Inception3::new(vs, phases, phases, eval))),
        Arm::Inception3Cls => Box::new(Classification(Inception3::new(vs, phases, width, eval))),
        _ => return Err(ModelConfigError::from(ArmError::Unavailable { arm }).into()),
    })
}
