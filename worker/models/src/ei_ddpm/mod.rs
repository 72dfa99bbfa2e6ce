//! EI-DDPM, our reimplementation (MODEL.md 4.4), after Zhao and Li, MICCAI 2023.
//!
//! One conditional diffusion model per phase denoises the mask; at each pixel its features are evidence for tumour or
//! background ([`evidence`]), and the evidence of all phases is discounted by how reliable each is and fused. What the
//! publication leaves open is decided in MODEL.md 4.4.

mod denoiser;
mod evidence;
mod schedule;

use mtinet_domain::model::ModelConfig;
use tch::{Device, Kind, Tensor, nn};

#[cfg(test)]
pub(crate) use self::schedule::noise;
use self::{denoiser::Denoiser, evidence::Evidence, schedule::Schedule};
use crate::{Denoising, ImageShape, Network, Outputs, mti_net::encoder::phase_paths};

/// The denoisers of all phases and the fusion of their evidence.
#[derive(Debug)]
pub(crate) struct EiDdpm {
    paths: Vec<(Denoiser, Evidence)>,
    schedule: Schedule,
    /// Noise levels of one answer, from the noisiest down to 0.
    levels: Vec<i64>,
    ensemble: usize,
    size: i64,
}

impl EiDdpm {
    pub(crate) fn new(vs: &nn::Path, cfg: &ModelConfig, image: ImageShape) -> Self {
        let base = cfg.ei_ddpm_base() as i64;
        let path = |vs: &nn::Path| (Denoiser::new(vs, base), Evidence::new(vs));
        Self {
            paths: phase_paths(vs, image.phases).iter().map(path).collect(),
            schedule: Schedule::new(cfg.ddim_clip),
            levels: schedule::levels(cfg.ddim_steps),
            ensemble: cfg.ensemble,
            size: image.size as i64,
        }
    }

    /// The answer for `x` [N, phases, H, W] from one mask of pure noise [N, 1, H, W]: DDIM without added noise, a chain
    /// per phase, and the evidence at the last, noiseless level (logits [N, 1, H, W]).
    pub(crate) fn sample(&self, x: &Tensor, noise: &Tensor) -> Tensor {
        let phases = x.split(1, 1);
        let logits = self.paths.iter().zip(&phases).map(|((denoiser, evidence), phase)| {
            let mut noisy = noise.shallow_clone();
            for step in self.levels.windows(2) {
                let t = Tensor::full([x.size()[0]], step[0], (Kind::Int64, x.device()));
                let eps = denoiser.noise(&denoiser.features(&noisy, phase, &t)).to_kind(Kind::Float);
                noisy = self.schedule.step(&noisy, &eps, step[0], step[1]);
            }
            let t = Tensor::zeros([x.size()[0]], (Kind::Int64, x.device()));
            evidence.logits(&denoiser.evidence(&denoiser.features(&noisy, phase, &t)))
        });
        sum(logits)
    }

    /// The answers in training to `mask` [N, 1, H, W] with `noise` of the same shape added up to the levels `t` [N].
    pub(crate) fn learn_from(&self, x: &Tensor, mask: &Tensor, noise: Tensor, t: &Tensor) -> Outputs {
        let clean = mask * 2.0 - 1.0;
        let (found, seg) = self.evaluate(x, &self.schedule.noisy(&clean, &noise, t), t);
        Outputs {
            seg: Some(seg),
            denoising: Some(Denoising { found, noise: Some(noise) }),
            ..Outputs::default()
        }
    }

    /// One evaluation of all denoisers: the noise that each finds [N, phases, H, W], and the fused logits [N, 1, H, W].
    fn evaluate(&self, x: &Tensor, noisy: &Tensor, t: &Tensor) -> (Tensor, Tensor) {
        let mut noises = Vec::with_capacity(self.paths.len());
        let mut logits = Vec::with_capacity(self.paths.len());
        for ((denoiser, evidence), phase) in self.paths.iter().zip(x.split(1, 1)) {
            let features = denoiser.features(noisy, &phase, t);
            noises.push(denoiser.noise(&features));
            logits.push(evidence.logits(&denoiser.evidence(&features)));
        }
        (Tensor::cat(&noises, 1).to_kind(Kind::Float), sum(logits.into_iter()))
    }
}

impl Network for EiDdpm {
    /// Nothing in this network differs in training. Every image starts from the same noise.
    fn forward(&self, x: &Tensor, _train: bool) -> Outputs {
        self.predict(x, &vec![0; x.size()[0] as usize])
    }

    /// One noise level and one noise per image, shared by the phases, from libtorch's CPU generator.
    fn learn(&self, x: &Tensor, mask: &Tensor) -> Outputs {
        let device = x.device();
        let t = Tensor::randint(schedule::STEPS, [x.size()[0]], (Kind::Int64, Device::Cpu)).to_device(device);
        let noise = Tensor::randn(mask.size(), (Kind::Float, Device::Cpu)).to_device(device);
        self.learn_from(x, mask, noise, &t)
    }

    fn predict(&self, x: &Tensor, seeds: &[u64]) -> Outputs {
        let draws = (0..self.ensemble).map(|draw| {
            let noise = schedule::noise(seeds, draw as u64, self.size).to_device(x.device());
            self.sample(x, &noise)
        });
        let draws: Vec<Tensor> = draws.collect();
        Outputs::segmentation(match &draws[..] {
            [one] => one.shallow_clone(),
            several => averaged(several),
        })
    }

    fn denoise(&self, x: &Tensor, noisy: &Tensor, t: &Tensor) -> Option<Outputs> {
        let (found, seg) = self.evaluate(x, noisy, t);
        Some(Outputs {
            seg: Some(seg),
            denoising: Some(Denoising { found, noise: None }),
            ..Outputs::default()
        })
    }
}

/// The logit of the mean probability.
fn averaged(logits: &[Tensor]) -> Tensor {
    let logits = Tensor::stack(logits, 0);
    let log_mean = |signed: &Tensor| signed.log_sigmoid().logsumexp([0_i64].as_slice(), false);
    log_mean(&logits) - log_mean(&-&logits)
}

fn sum(logits: impl Iterator<Item = Tensor>) -> Tensor {
    logits.reduce(|a, b| a + b).unwrap_or_default()
}
