//! Which slices each replica sees in each step: a pure function of (seed, fold, step).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::seeds::{self, Purpose};

/// Deterministic, sharded sampling without replacement within an epoch.
///
/// Every epoch is a fresh permutation; a last incomplete batch is filled up from the permutation's start, so that
/// every step has `batch_size` x `replicas` samples (with very few slices some occur more than once).
#[derive(Clone, Debug)]
pub struct Sampler {
    slices: Vec<usize>,
    batch_size: usize,
    replicas: usize,
    seed: u64,
    fold: u32,
    /// The permutation of one epoch, kept because steps are asked for in order.
    order: Option<(u64, Vec<usize>)>,
}

impl Sampler {
    /// Over these training slices.
    pub fn new(slices: Vec<usize>, batch_size: usize, replicas: usize, seed: u64, fold: u32) -> Self {
        Self { slices, batch_size, replicas, seed, fold, order: None }
    }

    /// Steps of one pass over the slices.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.slices.len().div_ceil(self.batch_size * self.replicas) as u64).max(1)
    }

    /// The slices of each replica in `step` (from 0), in order of replica.
    pub fn step(&mut self, step: u64) -> Vec<Vec<usize>> {
        let epoch = step / self.steps_per_epoch();
        let batch = self.batch_size * self.replicas;
        let start = usize::try_from(step % self.steps_per_epoch()).unwrap_or(0) * batch;
        let order = self.epoch(epoch);
        let samples: Vec<usize> = (start..start + batch).map(|i| order[i % order.len()]).collect();
        samples.chunks(self.batch_size).map(<[usize]>::to_vec).collect()
    }

    fn epoch(&mut self, epoch: u64) -> &[usize] {
        if self.order.as_ref().is_none_or(|(kept, _)| *kept != epoch) {
            let seed = seeds::derive(self.seed, self.fold, Purpose::Order { epoch });
            self.order = Some((epoch, shuffled(&self.slices, seed)));
        }
        self.order.as_ref().map_or(&[], |(_, order)| order)
    }
}

/// Fisher-Yates. Written out because a shuffle from a library may change with its release, and with it every result
/// that was ever published for a seed.
fn shuffled(slices: &[usize], seed: u64) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut order = slices.to_vec();
    for last in (1..order.len()).rev() {
        // The bias of the remainder is below 2^-40 for any data set.
        let other = generator.next_u64() % (last as u64 + 1);
        order.swap(last, usize::try_from(other).unwrap_or(0));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_shows_every_slice_once_and_fills_the_last_batch() {
        let mut sampler = Sampler::new((10..20).collect(), 2, 2, 7, 0);
        assert_eq!(sampler.steps_per_epoch(), 3);
        let mut seen: Vec<usize> = (0..3).flat_map(|step| sampler.step(step)).flatten().collect();
        assert_eq!(seen.len(), 12);
        let first = seen[..2].to_vec();
        assert_eq!(seen[10..], first, "filled up from the start");
        seen.truncate(10);
        seen.sort_unstable();
        assert_eq!(seen, (10..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_step_depends_on_seed_fold_and_step_only() {
        let new = |seed, fold| Sampler::new((0..50).collect(), 4, 2, seed, fold);
        let mut walked = new(1, 2);
        for step in 0..20 {
            walked.step(step);
        }
        assert_eq!(walked.step(20), new(1, 2).step(20));
        assert_ne!(new(1, 2).step(0), new(1, 3).step(0));
        assert_ne!(new(1, 2).step(0), new(2, 2).step(0));
        assert_ne!(new(1, 2).step(0), new(1, 2).step(7), "another epoch, another order");
    }

    #[test]
    fn fewer_slices_than_a_batch_repeat() {
        let mut sampler = Sampler::new(vec![3, 4], 2, 2, 0, 0);
        assert_eq!(sampler.step(5).concat().len(), 4);
    }
}
