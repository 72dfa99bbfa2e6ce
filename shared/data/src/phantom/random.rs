//! Random numbers of the phantom: one stream for each purpose, fixed by seed, subject and slice.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of its own, so that one more draw somewhere shifts nothing elsewhere.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    pub(crate) fn new(seed: u64, subject: usize, slice: Option<usize>, purpose: &str) -> Self {
        let text = format!("mtinet-phantom/1 {seed} {subject} {slice:?} {purpose}");
        Self(ChaCha8Rng::from_seed(*blake3::hash(text.as_bytes()).as_bytes()))
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub(crate) fn log_uniform(&mut self, low: f64, high: f64) -> f64 {
        self.uniform(low.ln(), high.ln()).exp()
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of 0..`count`.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count.saturating_sub(1))
    }

    pub(crate) fn normal(&mut self, mean: f64, deviation: f64) -> f64 {
        let (n, _) = self.normal_pair();
        mean + deviation * n
    }

    /// Two independent standard normal numbers (Box-Muller).
    pub(crate) fn normal_pair(&mut self) -> (f64, f64) {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.unit()).sin_cos();
        (radius * cosine, radius * sine)
    }

    /// As [`Self::normal_pair`] from one draw in single precision, for the noise of every pixel.
    pub(crate) fn noise_pair(&mut self) -> (f32, f32) {
        let bits = self.0.next_u64();
        let scale = 1.0 / (1u64 << 32) as f32;
        // Never zero, and never rounded up beyond one.
        let u = (((bits as u32) as f32 + 0.5) * scale).min(1.0);
        let radius = (-2.0 * u.ln()).sqrt();
        let (sine, cosine) = (std::f32::consts::TAU * ((bits >> 32) as f32 * scale)).sin_cos();
        (radius * cosine, radius * sine)
    }
}

/// A smooth random field over the plane: standard normal values on a coarse grid, interpolated linearly.
pub(crate) struct Field {
    values: Vec<f32>,
    side: usize,
    scale: f32,
}

impl Field {
    /// A field of mean 0 and standard deviation `deviation` whose values are `spacing` pixels apart.
    pub(crate) fn new(stream: &mut Stream, spacing: f64, deviation: f64) -> Self {
        let side = (super::PLANE / spacing).ceil() as usize + 2;
        // Interpolation lowers the standard deviation to two thirds on average.
        let values = (0..side * side).map(|_| stream.normal(0.0, deviation * 1.5) as f32).collect();
        Self { values, side, scale: (1.0 / spacing) as f32 }
    }

    /// Value at reference pixel (x, y); the plane's edge continues outwards.
    pub(crate) fn at(&self, x: f32, y: f32) -> f32 {
        let limit = (self.side - 2) as f32 + 0.999;
        let (u, v) = ((x * self.scale).clamp(0.0, limit), (y * self.scale).clamp(0.0, limit));
        let (i, j) = (u as usize, v as usize);
        let (fu, fv) = (u - i as f32, v - j as f32);
        let row = j * self.side + i;
        let top = self.values[row] + (self.values[row + 1] - self.values[row]) * fu;
        let below = row + self.side;
        let bottom = self.values[below] + (self.values[below + 1] - self.values[below]) * fu;
        top + (bottom - top) * fv
    }
}
