//! Initial weights: what a network starts from when it does not start from random ones.
//!
//! A file is read as strictly as any weights, with three allowances for files that come from PyTorch:
//! `num_batches_tracked` counters are passed over; the convolutions that read the image may have been made for three
//! colours (see [`adapt`]); and the layer that gives the answers may be missing altogether, and then keeps its random
//! start. A file whose answering layer has another size is refused: that it should be thrown away is for its owner to
//! say, by leaving it out.

use std::collections::BTreeMap;
use std::path::Path;

use mtinet_domain::model::Arm;
use safetensors::SafeTensors;
use tch::{Tensor, nn::VarStore};

use crate::ModelError;
use crate::weights::{check_names, copy_all, read_as, shape_of};

/// Input channels of a network for colour images.
const COLOURS: i64 = 3;

/// The counter that PyTorch's batch normalisation keeps and ours does not need.
const COUNTER: &str = ".num_batches_tracked";

/// Sets the parameters and running statistics of `arm`'s freshly built network, which is in `vs` and reads images of
/// `phases` channels, from a safetensors file. Returns in words what was adapted or left at its random start.
/// Nothing is changed unless everything fits.
///
/// # Errors
/// As [`weights::from_bytes`](crate::weights::from_bytes), [`ModelError::Head`] for an answering layer of another
/// size, and [`ModelError::File`] where the file cannot be read.
pub fn initialise(vs: &VarStore, arm: Arm, phases: usize, path: &Path) -> Result<Vec<String>, ModelError> {
    let bytes = std::fs::read(path).map_err(|source| ModelError::File { path: path.to_owned(), source })?;
    initialise_from(vs, arm, phases, &bytes, &path.display().to_string())
}

/// The same from the bytes of a file; `origin` is named in messages.
///
/// # Errors
/// As [`initialise`].
pub fn initialise_from(
    vs: &VarStore,
    arm: Arm,
    phases: usize,
    bytes: &[u8],
    origin: &str,
) -> Result<Vec<String>, ModelError> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|source| ModelError::Format { origin: origin.to_owned(), source })?;
    let mut variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
    let mut notes = Vec::new();
    for head in heads(arm) {
        let of_head = |name: &str| name.strip_prefix(head).is_some_and(|rest| rest.starts_with('.'));
        if !file.names().into_iter().any(of_head) && variables.keys().any(|name| of_head(name)) {
            variables.retain(|name, _| !of_head(name));
            notes.push(format!("{head} is not in the file and keeps its random start"));
        }
    }
    check_names(&variables, &file, origin, |name| name.ends_with(COUNTER))?;
    let mut values = Vec::with_capacity(variables.len());
    for (name, variable) in &variables {
        let expected = variable.size();
        let found = shape_of(name, &file, origin)?;
        let colours = [expected[0], COLOURS].into_iter().chain(expected.iter().skip(2).copied());
        let value = if reads_image(arm, phases, &expected) && found == colours.collect::<Vec<_>>() {
            notes.push(format!("{name}: {COLOURS} input channels adapted to {phases}"));
            adapt(&read_as(name, &found, &file, origin)?, phases as i64)
        } else {
            read_as(name, &expected, &file, origin).map_err(|error| explain(error, arm))?
        };
        values.push(value);
    }
    copy_all(&variables, values)?;
    Ok(notes)
}

/// Weights [O, 3, h, w] for `phases` channels, [O, phases, h, w]: every channel after the third gets the mean of the
/// three, and all are scaled by 3 / phases. Phases look alike, so the sum over the channels keeps its scale, and with
/// it everything that the later layers have learnt.
fn adapt(weight: &Tensor, phases: i64) -> Tensor {
    let mean = weight.mean_dim([1].as_slice(), true, weight.kind());
    let mut channels = vec![weight.shallow_clone()];
    channels.extend((COLOURS..phases).map(|_| mean.shallow_clone()));
    Tensor::cat(&channels, 1) * (COLOURS as f64 / phases as f64)
}

/// Whether a parameter of this shape is a convolution over the image's phases. MTI-Net sees one phase at a time.
fn reads_image(arm: Arm, phases: usize, shape: &[i64]) -> bool {
    !arm.is_mti() && phases as i64 > COLOURS && shape.len() == 4 && shape[1] == phases as i64
}

/// The layers that give the answers, whose size depends on the question.
fn heads(arm: Arm) -> &'static [&'static str] {
    match arm {
        Arm::Unet => &["outc.conv"],
        Arm::ResUnetPp => &["output"],
        Arm::TransUnet => &["segmentation_head.0"],
        Arm::MdFf => &["out"],
        Arm::Vgg16Reg | Arm::Vgg16Cls => &["classifier.6"],
        Arm::Densenet121Reg | Arm::Densenet121Cls => &["classifier"],
        Arm::Resnet50Reg | Arm::Resnet50Cls | Arm::Inception3Reg | Arm::Inception3Cls => &["fc"],
        _ if arm.is_mti() => &["dec.head", "head_reg", "head_cls"],
        _ => &[],
    }
}

/// A shape that does not fit says more where it is that of an answering layer.
fn explain(error: ModelError, arm: Arm) -> ModelError {
    match error {
        ModelError::Shape { origin, name, found, expected } => {
            let of_head = |head: &&&str| name.strip_prefix(**head).is_some_and(|rest| rest.starts_with('.'));
            match heads(arm).iter().find(of_head) {
                Some(head) => ModelError::Head { origin, head: (*head).to_owned(), name, found, expected },
                None => ModelError::Shape { origin, name, found, expected },
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn three_colours_become_four_phases_of_the_same_sum() {
        // numpy: w = np.array([[1, 2, 6], [-4, 0, 1]]); np.concatenate([w, w.mean(1, keepdims=True)], 1) * 0.75
        let weight = Tensor::from_slice(&[1.0_f32, 2.0, 6.0, -4.0, 0.0, 1.0]).view([2, 3, 1, 1]);
        let expected = Tensor::from_slice(&[0.75_f32, 1.5, 4.5, 2.25, -3.0, 0.0, 0.75, -0.75]);
        let adapted = adapt(&weight, 4);
        assert_eq!(adapted.size(), [2, 4, 1, 1]);
        assert!(adapted.view([8]).allclose(&expected, 1e-6, 1e-6, false), "{adapted}");
        let constant = Tensor::ones([1, 1, 1, 1], (Kind::Float, Device::Cpu));
        for phases in [4, 5, 8] {
            let over = |weight: &Tensor| (weight * &constant).sum_dim_intlist(1, false, Kind::Float);
            assert!(over(&adapt(&weight, phases)).allclose(&over(&weight), 1e-5, 1e-5, false));
        }
    }
}
