//! Slices that lie on the device that trains, so that a batch costs no copy from the host.

use tch::{Device, Tensor};

use crate::EngineError;
use crate::fold_data::normalised;

/// Slices that are normalised and copied at once: as many as keep the host's memory small.
const CHUNK: i64 = 64;

/// All slices of a data set on one device.
pub(crate) struct Resident {
    /// Normalised images [n, phases, S, S], masks [n, 1, S, S] (u8), curves [n, phases], classes [n].
    tensors: [Tensor; 4],
}

impl Resident {
    /// Copies raw `images` and `masks`, and what belongs to each slice.
    ///
    /// The host normalises, as it does for a batch that is made there: a device rounds divisions otherwise, and a trial that
    /// goes on where its slices do not fit must see the same bits.
    pub(crate) fn new(
        images: &Tensor,
        masks: &Tensor,
        [curves, classes]: [&Tensor; 2],
        normalisation: (f64, f64),
        device: Device,
    ) -> Result<Self, EngineError> {
        let size = images.size();
        let x = Tensor::f_empty(size.as_slice(), (images.kind(), device))?;
        for start in (0..size[0]).step_by(CHUNK as usize) {
            let rows = CHUNK.min(size[0] - start);
            let chunk = normalised(&images.f_narrow(0, start, rows)?, normalisation);
            x.f_narrow(0, start, rows)?.f_copy_(&chunk)?;
        }
        let [masks, curves, classes] = [masks, curves, classes].map(|host| host.f_to_device(device));
        Ok(Self { tensors: [x, masks?, curves?, classes?] })
    }

    /// Where they are.
    pub(crate) fn device(&self) -> Device {
        self.tensors[0].device()
    }

    /// The slices `rows` [N] of each.
    pub(crate) fn rows(&self, rows: &Tensor) -> Result<[Tensor; 4], EngineError> {
        let [x, mask, curve, class] = self.tensors.each_ref().map(|tensor| tensor.f_index_select(0, rows));
        Ok([x?, mask?, curve?, class?])
    }
}

/// A tensor of the host on `device`. A copy to a CUDA device is queued from pinned memory, which libtorch keeps until it is done.
pub(crate) fn upload(host: &Tensor, device: Device) -> Result<Tensor, EngineError> {
    if !device.is_cuda() || host.numel() == 0 {
        return Ok(host.f_to_device(device)?);
    }
    Ok(host.f_pin_memory(device)?.f_to_device_(device, host.kind(), true, false)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn rows_are_those_that_a_batch_of_the_host_would_have() {
        // More than a chunk, and not a multiple of it. Nothing is drawn: other tests have libtorch's generator meanwhile.
        let mixed = Tensor::arange((CHUNK + 9) * 32, (Kind::Float, Device::Cpu)) * 7919.0;
        let raw = mixed.remainder(901.0).reshape([CHUNK + 9, 2, 4, 4]);
        let masks = raw.narrow(1, 0, 1).gt(450.0).to_kind(Kind::Uint8);
        let curves = raw.mean_dim([2, 3].as_slice(), false, Kind::Float);
        let classes = Tensor::arange(CHUNK + 9, (Kind::Int64, Device::Cpu));
        let normalisation = (431.7, 217.3);
        let resident = Resident::new(&raw, &masks, [&curves, &classes], normalisation, Device::Cpu).unwrap();
        let rows = Tensor::from_slice(&[CHUNK + 8, 0, CHUNK, 3]);
        let expected = [
            normalised(&raw.index_select(0, &rows), normalisation),
            masks.index_select(0, &rows),
            curves.index_select(0, &rows),
            rows.shallow_clone(),
        ];
        for (mine, expected) in resident.rows(&rows).unwrap().iter().zip(&expected) {
            assert!(mine.equal(expected));
        }
    }
}
