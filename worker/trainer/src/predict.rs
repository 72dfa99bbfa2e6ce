//! `predict`: answers new cases with trained networks, for `mtinet predict`.
//!
//! It reads a [`Request`], writes masks, and tells of each case on standard output, one [`Message`] in JSON a line. While
//! one case is answered the next is read; no more than these two are in memory.

use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context, anyhow};
use mtinet_data::{CaseInput, CaseVolumes, DataError, nifti_io, write_durably};
use mtinet_domain::prediction::{CaseFiles, Message, PredictedCase, Request, ShownSlice};
use mtinet_domain::spec::Precision;
use mtinet_domain::trial::Device as SlotDevice;
use mtinet_engine::{EngineError, Ensemble, Prediction};
use ndarray::{Array3, Axis};
use tch::Device;

use crate::failure::Failure;

pub(crate) fn predict(path: &Path) -> Result<(), Failure> {
    let request = read(path).map_err(Failure::Usage)?;
    let device = device(request.device).map_err(Failure::Usage)?;
    // As the held-out fold was evaluated.
    mtinet_torch_ext::set_tf32(request.spec.train.precision == Precision::Tf32)
        .map_err(|error| Failure::Training(error.into()))?;
    mtinet_torch_ext::set_deterministic(request.spec.train.deterministic)
        .map_err(|error| Failure::Training(error.into()))?;
    let ensemble = Ensemble::load(&request, device).map_err(|error| Failure::Input(error.into()))?;
    say(&Message::Ready { device: words(device) })?;
    std::thread::scope(|scope| -> Result<(), Failure> {
        // Holds nothing: the reader waits with one case in its hands.
        let (send, loaded) = mpsc::sync_channel(0);
        let (cases, phases) = (&request.cases, &request.phases);
        scope.spawn(move || {
            for case in cases {
                // Nobody listens any more after a failure.
                if send.send((case, load(case, phases))).is_err() {
                    break;
                }
            }
        });
        for (case, volumes) in loaded {
            say(&match volumes {
                Ok(volumes) => one(&ensemble, case, &volumes, &request.out)?,
                Err(error) => refused(case, &error.into()),
            })?;
        }
        Ok(())
    })?;
    say(&Message::Finished)
}

fn read(path: &Path) -> anyhow::Result<Request> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let request: Request =
        serde_json::from_str(&text).with_context(|| format!("{} is no request", path.display()))?;
    request.validate().map_err(|problem| anyhow!("{}: {problem}", path.display()))?;
    Ok(request)
}

fn device(asked: Option<SlotDevice>) -> anyhow::Result<Device> {
    let usable = if mtinet_torch_ext::cuda_available() { tch::Cuda::device_count() } else { 0 };
    let device = match asked {
        None if usable > 0 => Device::Cuda(0),
        None | Some(SlotDevice::Cpu) => Device::Cpu,
        Some(SlotDevice::Cuda(index)) if i64::from(index) < usable => Device::Cuda(index as usize),
        Some(SlotDevice::Cuda(index)) => {
            return Err(anyhow!(
                "there is no CUDA device {index}: this trainer can use {usable} (built with CUDA=1? look at `nvidia-smi`)"
            ));
        }
    };
    if let Device::Cuda(index) = device {
        mtinet_torch_ext::set_cuda_device(index)?;
    }
    Ok(device)
}

fn words(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// Whoever asked is gone where this fails.
fn say(message: &Message) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(message).map_err(|error| Failure::Agent(error.into()))?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .context("failed to answer mtinet predict")
        .map_err(Failure::Agent)
}

fn load(case: &CaseFiles, phases: &[String]) -> Result<CaseVolumes, DataError> {
    let CaseFiles { case, images, hashes, reference } = case.clone();
    CaseInput { case, images, hashes, reference }.load(phases)
}

fn refused(case: &CaseFiles, error: &anyhow::Error) -> Message {
    Message::Refused { case: case.case.clone(), problem: format!("{error:#}") }
}

fn one(ensemble: &Ensemble, case: &CaseFiles, volumes: &CaseVolumes, out: &Path) -> Result<Message, Failure> {
    let mut heard = Ok(());
    let mut answered = |count: usize| {
        if heard.is_ok() {
            heard = say(&Message::Slices { count: count as u64 });
        }
    };
    let predicted = ensemble.predict(&case.case, volumes, &mut answered);
    heard?;
    let Prediction { mask, slices } = match predicted {
        Ok(prediction) => prediction,
        Err(error @ EngineError::NoNumber { .. }) => return Ok(refused(case, &error.into())),
        Err(error) => {
            let error = anyhow::Error::from(error).context(format!("case {}", case.case));
            return Err(Failure::Training(error));
        }
    };
    let (mut name, mut shown) = (None, None);
    if let Some(mask) = &mask {
        let file = format!("{}.nii.gz", case.case);
        nifti_io::write_mask(&out.join(&file), mask, volumes.grid())
            .map_err(|error| Failure::Training(error.into()))?;
        shown = Some(show(&case.case, volumes, mask, out).map_err(Failure::Training)?);
        name = Some(file);
    }
    Ok(Message::Case(PredictedCase { case: case.case.clone(), mask: name, shown, slices }))
}

/// Writes the slice with the largest mask for a picture; of equal ones the lowest, without any the middle one.
fn show(case: &str, volumes: &CaseVolumes, mask: &Array3<u8>, out: &Path) -> anyhow::Result<ShownSlice> {
    let areas: Vec<usize> =
        mask.outer_iter().map(|slice| slice.iter().filter(|&&pixel| pixel != 0).count()).collect();
    let largest = areas.iter().copied().max().unwrap_or(0);
    let slice = match largest {
        0 => areas.len() / 2,
        _ => areas.iter().position(|&area| area == largest).unwrap_or(0),
    };
    let mut bytes = Vec::new();
    for phase in volumes.phases() {
        bytes.extend(phase.index_axis(Axis(0), slice).iter().flat_map(|value| value.to_le_bytes()));
    }
    let pixels = mask.index_axis(Axis(0), slice);
    bytes.extend(pixels.iter().flat_map(|&pixel| f32::from(u8::from(pixel != 0)).to_le_bytes()));
    let file = format!("{case}.slice");
    let path = out.join(&file);
    write_durably(&path, &bytes).with_context(|| format!("failed to write {}", path.display()))?;
    let [_, rows, columns] = volumes.grid().shape;
    let [_, row_mm, column_mm] = volumes.grid().spacing;
    let slice = u32::try_from(slice)?;
    Ok(ShownSlice { file, slice, rows, columns, spacing: [row_mm, column_mm] })
}
