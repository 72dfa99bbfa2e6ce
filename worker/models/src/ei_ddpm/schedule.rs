//! The diffusion process: how noise is added to a mask, and how it is taken away again (MODEL.md 4.4).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::Tensor;

/// Noise levels: 0 is next to the clean mask, 999 next to pure noise.
pub(super) const STEPS: i64 = 1000;

/// Linear schedule of the variance that each level adds.
const BETA: (f64, f64) = (1e-4, 0.02);

/// Shares of signal and noise at each level.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Product of 1 - beta up to each level.
    signal: Vec<f64>,
    /// The square roots of `signal` and of its complement, [2, STEPS].
    shares: Tensor,
    /// Whether the estimate of the clean mask is kept in [-1, 1].
    clip: bool,
}

impl Schedule {
    pub(super) fn new(clip: bool) -> Self {
        let last = (STEPS - 1) as f64;
        let mut product = 1.0;
        let signal: Vec<f64> = (0..STEPS)
            .map(|t| {
                product *= 1.0 - (BETA.0 + (BETA.1 - BETA.0) * t as f64 / last);
                product
            })
            .collect();
        let share = |of: fn(f64) -> f64| signal.iter().map(move |&signal| of(signal).sqrt() as f32);
        let shares: Vec<f32> = share(|signal| signal).chain(share(|signal| 1.0 - signal)).collect();
        Self { signal, shares: Tensor::from_slice(&shares).reshape([2, STEPS]), clip }
    }

    /// A clean mask [N, 1, H, W] in {-1, 1} with `noise` of the same shape added up to the levels `t` [N].
    pub(super) fn noisy(&self, clean: &Tensor, noise: &Tensor, t: &Tensor) -> Tensor {
        let shares = self.shares.to_device(t.device()).index_select(1, t).reshape([2, -1, 1, 1, 1]);
        clean * shares.get(0) + noise * shares.get(1)
    }

    /// DDIM's step from level `from` to level `to`, with the noise that was found at `from`.
    ///
    /// At the noisiest level an error in the noise is 157 times as large in the clean mask that follows from it. No mask
    /// lies outside [-1, 1], so the estimate is clipped, and the noise is what then remains.
    pub(super) fn step(&self, noisy: &Tensor, found: &Tensor, from: i64, to: i64) -> Tensor {
        let (from, to) = (self.signal[from as usize], self.signal[to as usize]);
        let clean = (noisy - found * (1.0 - from).sqrt()) / from.sqrt();
        if !self.clip {
            return clean * to.sqrt() + found * (1.0 - to).sqrt();
        }
        let clean = clean.clamp(-1.0, 1.0);
        let noise = (noisy - &clean * from.sqrt()) / (1.0 - from).sqrt();
        clean * to.sqrt() + noise * (1.0 - to).sqrt()
    }
}

/// `count` levels from 999 to 0 with equal distances, rounded to the nearest (ties to even).
pub(super) fn levels(count: usize) -> Vec<i64> {
    let last = (count - 1) as f64;
    (0..count).map(|i| ((STEPS - 1) as f64 * (1.0 - i as f64 / last)).round_ties_even() as i64).collect()
}

/// Standard normal noise [N, 1, side, side], on the CPU: that of image i follows from its seed and the number of the
/// draw alone.
pub(crate) fn noise(seeds: &[u64], draw: u64, side: i64) -> Tensor {
    let pixels = (side * side) as usize;
    let mut values = Vec::with_capacity(seeds.len() * (pixels + 1));
    for &seed in seeds {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(draw);
        let end = values.len() + pixels;
        while values.len() < end {
            values.extend(normal_pair(&mut generator));
        }
        values.truncate(end);
    }
    Tensor::from_slice(&values).reshape([seeds.len() as i64, 1, side, side])
}

/// Box and Muller: two independent normal numbers from two uniform ones.
fn normal_pair(generator: &mut ChaCha8Rng) -> [f32; 2] {
    const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
    // In (0, 1], so that its logarithm is finite.
    let radius = (-2.0 * (((generator.next_u64() >> 11) + 1) as f64 * UNIT).ln()).sqrt();
    let angle = std::f64::consts::TAU * (generator.next_u64() >> 11) as f64 * UNIT;
    [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn levels_run_from_the_noisiest_to_the_cleanest() {
        assert_eq!(levels(10), [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]);
        assert_eq!(levels(2), [999, 0]);
        assert_eq!(levels(1000), (0..1000).rev().collect::<Vec<_>>());
    }

    #[test]
    fn taking_the_right_noise_away_gives_the_mask_back_at_any_level() {
        for clip in [false, true] {
            noise_taken_away(&Schedule::new(clip));
        }
    }

    fn noise_taken_away(schedule: &Schedule) {
        let clean = Tensor::from_slice(&[1.0_f32, -1.0, -1.0, 1.0]).reshape([1, 1, 2, 2]);
        let noise = noise(&[3], 0, 2);
        let level = |t: i64| schedule.noisy(&clean, &noise, &Tensor::from_slice(&[t]));
        let difference = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        let mut noisy = level(999);
        assert!(difference(&noisy, &noise) < 0.02, "nothing but noise is left");
        for step in levels(10).windows(2) {
            noisy = schedule.step(&noisy, &noise, step[0], step[1]);
            assert!(difference(&noisy, &level(step[1])) < 1e-4);
        }
        assert!(difference(&noisy, &clean) < 0.05, "next to no noise is left");
    }

    #[test]
    fn a_clean_mask_that_cannot_be_is_clipped_where_asked_for() {
        let (noisy, found) = (Tensor::from_slice(&[3.0_f32]), Tensor::from_slice(&[0.0_f32]));
        // Nothing was called noise, so the mask would be 3 / sqrt(signal), and more after the step.
        let step = |clip: bool| Schedule::new(clip).step(&noisy, &found, 500, 0).double_value(&[0]);
        assert!(step(false) > 3.0);
        assert!((step(true) - 1.0).abs() < 0.05, "{}", step(true));
    }

    #[test]
    fn noise_is_normal_and_follows_from_seed_and_draw_alone() {
        let both = noise(&[7, 8], 0, 64);
        assert!(both.mean(Kind::Float).abs().double_value(&[]) < 0.03);
        assert!((both.std(true).double_value(&[]) - 1.0).abs() < 0.03);
        assert_eq!(both.narrow(0, 1, 1), noise(&[8], 0, 64), "the neighbours of an image do not matter");
        assert_ne!(noise(&[8], 0, 64), noise(&[8], 1, 64));
        assert_ne!(noise(&[8], 0, 64), noise(&[7], 0, 64));
        assert_eq!(noise(&[8], 0, 5).size(), [1, 1, 5, 5]);
        assert_eq!(noise(&[8], 0, 64).device(), Device::Cpu);
    }
}
