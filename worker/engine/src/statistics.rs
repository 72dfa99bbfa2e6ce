//! Batch-norm running statistics as the mean over the step's replicas.
//!
//! Each replica's forward moves the buffers from the same start, R <- (1 - m) R + m b. Since that is linear in b, the
//! mean of the moved buffers is the buffers moved by the mean, whichever ranks the replicas ran on.

use tch::{Kind, Tensor};

use crate::EngineError;

/// The buffers of one network during one step.
pub(crate) struct RunningStatistics<'a> {
    buffers: &'a [Tensor],
    start: Option<Tensor>,
    sum: Option<Tensor>,
}

impl<'a> RunningStatistics<'a> {
    /// Before the first replica's forward. With `several` replicas, here or on other ranks, the start is kept.
    pub(crate) fn begin(buffers: &'a [Tensor], several: bool) -> Result<Self, EngineError> {
        let start = if several && !buffers.is_empty() { Some(flatten(buffers)?) } else { None };
        Ok(Self { buffers, start, sum: None })
    }

    /// After one replica's forward: remembers where it moved the buffers, and moves them back.
    pub(crate) fn after_forward(&mut self) -> Result<(), EngineError> {
        let Some(start) = &self.start else { return Ok(()) };
        let moved = flatten(self.buffers)?;
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum + moved,
            None => moved,
        });
        scatter(start, self.buffers)
    }

    /// The sum over this rank's replicas, to be summed over the ranks; `None` where one replica did all.
    pub(crate) fn sum(&self) -> Option<&Tensor> {
        self.sum.as_ref()
    }
}

/// Sets the buffers to `sum` / `replicas`.
pub(crate) fn set_mean(buffers: &[Tensor], sum: &Tensor, replicas: usize) -> Result<(), EngineError> {
    let _no_grad = tch::no_grad_guard();
    scatter(&(sum / replicas as f64), buffers)
}

fn flatten(buffers: &[Tensor]) -> Result<Tensor, EngineError> {
    let _no_grad = tch::no_grad_guard();
    let flat: Vec<Tensor> = buffers.iter().map(|b| b.detach().reshape([-1]).to_kind(Kind::Float)).collect();
    Ok(Tensor::f_cat(&flat, 0)?)
}

fn scatter(flat: &Tensor, buffers: &[Tensor]) -> Result<(), EngineError> {
    let _no_grad = tch::no_grad_guard();
    let mut offset = 0;
    for buffer in buffers {
        let length = i64::try_from(buffer.numel()).unwrap_or(i64::MAX);
        // Backward, which in training mode does not read the running statistics, still checks that nobody wrote to
        // them since forward; `data` is the same memory without that check.
        buffer.f_data()?.f_copy_(&flat.f_narrow(0, offset, length)?.view_as(buffer))?;
        offset += length;
    }
    Ok(())
}
