//! The ranks of an attempt: this one's share of the replicas, and what they tell each other.

use mtinet_torch_ext::ProcessGroup;
use tch::Tensor;

use crate::EngineError;

/// This rank among the attempt's ranks.
#[derive(Clone)]
pub struct Gang {
    group: Option<ProcessGroup>,
    rank: usize,
    world_size: usize,
}

impl Gang {
    /// One rank alone, without a process group.
    pub fn alone() -> Self {
        Self { group: None, rank: 0, world_size: 1 }
    }

    /// A member of a process group.
    pub fn of(group: ProcessGroup) -> Self {
        let (rank, world_size) = (group.rank(), group.world_size());
        Self { group: Some(group), rank, world_size }
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    pub(crate) fn group(&self) -> Option<&ProcessGroup> {
        self.group.as_ref()
    }

    /// The replicas that this rank runs: a contiguous block.
    pub(crate) fn replicas(&self, replicas: usize) -> std::ops::Range<usize> {
        let share = replicas / self.world_size;
        self.rank * share..(self.rank + 1) * share
    }

    /// Sums `tensor` over the ranks, in place.
    pub(crate) fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), EngineError> {
        if let Some(group) = &self.group {
            group.all_reduce_sum(&[tensor])?;
        }
        Ok(())
    }

    /// Gives every rank rank 0's values of `tensors`, in one message.
    pub(crate) fn broadcast(&self, tensors: &[Tensor]) -> Result<(), EngineError> {
        let Some(group) = &self.group else { return Ok(()) };
        let Some(first) = tensors.first() else { return Ok(()) };
        let _no_grad = tch::no_grad_guard();
        let flat: Vec<Tensor> = tensors.iter().map(|tensor| tensor.detach().reshape([-1])).collect();
        let flat = Tensor::f_cat(&flat, 0)?.to_device(first.device());
        group.broadcast(&[&flat], 0)?;
        let mut offset = 0;
        for tensor in tensors {
            let length = i64::try_from(tensor.numel()).unwrap_or(i64::MAX);
            let values = flat.f_narrow(0, offset, length)?.view_as(tensor);
            tensor.shallow_clone().f_copy_(&values)?;
            offset += length;
        }
        Ok(())
    }

    /// Waits until every rank is here, and refuses to go on where they are at different steps: one of them then
    /// resumed from another checkpoint.
    pub(crate) fn agree_on_step(&self, step: u64, device: tch::Device) -> Result<(), EngineError> {
        let steps = self.numbers(step, device)?;
        if steps.iter().any(|&other| other != steps[0]) {
            return Err(EngineError::Fold(format!(
                "the ranks resumed at different steps: {steps:?}, in order of rank"
            )));
        }
        Ok(())
    }

    /// Every rank's number, by rank.
    pub(crate) fn numbers(&self, mine: u64, device: tch::Device) -> Result<Vec<u64>, EngineError> {
        let Some(group) = &self.group else { return Ok(vec![mine]) };
        let mine = Tensor::f_from_slice(&[mine.cast_signed()])?.to_device(device);
        let numbers = group.all_gather(&mine)?;
        let number = |number: &Tensor| Ok(number.f_int64_value(&[0])?.cast_unsigned());
        numbers.iter().map(number).collect()
    }
}
