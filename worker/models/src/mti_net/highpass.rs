//! The high-pass filter in front of the spectral branch (MODEL.md 3.4).

use mtinet_domain::model::{HighPass, ModelConfig, SpectralRepr};
use tch::{Device, Kind, Tensor};

/// Order of the Butterworth filter.
const BUTTERWORTH_ORDER: i32 = 2;

/// A filter for square maps of one size, computed once; it is neither a parameter nor saved.
#[derive(Debug)]
pub(super) struct HighPassFilter {
    /// [side, side] in the unshifted layout of `fft2`.
    response: Tensor,
    repr: SpectralRepr,
    side: i64,
}

impl HighPassFilter {
    /// A filter for maps of `side` pixels made from images of `image_size` pixels; the cut-off of smaller maps shrinks
    /// in proportion, so that it stays at the same fraction of the highest frequency.
    pub(super) fn new(cfg: &ModelConfig, image_size: usize, side: usize, device: Device) -> Self {
        let d0 = cfg.hpf_d0.unwrap_or(image_size as f64 / 16.0) * side as f64 / image_size as f64;
        let response = response(cfg.hpf, d0, side as i64).to_kind(Kind::Float).to_device(device);
        Self { response, repr: cfg.spectral_repr, side: side as i64 }
    }

    /// Filters maps [.., side, side], of which it keeps the shape.
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        // Half precision has neither the range for spectra nor kernels for all sizes.
        let x = x.to_kind(Kind::Float);
        let response = self.response.to_device(x.device());
        let dims = [-2, -1];
        match self.repr {
            SpectralRepr::Ifft => {
                // The response is symmetric, so the half spectrum of a real image holds everything.
                let half = response.narrow(1, 0, self.side / 2 + 1);
                let spectrum = x.fft_rfft2(None::<&[i64]>, dims, "ortho") * half;
                spectrum.fft_irfft2([self.side, self.side].as_slice(), dims, "ortho")
            }
            SpectralRepr::Logmag => {
                let spectrum = x.fft_fft2(None::<&[i64]>, dims, "ortho") * response;
                let log = spectrum.fft_fftshift(dims.as_slice()).abs().log1p();
                // A constant image has no spectrum left: it stays 0 instead of becoming 0 / 0.
                let mean = log.mean_dim(dims.as_slice(), true, Kind::Float).clamp_min(1e-6);
                log / mean
            }
        }
    }
}

/// Response in double precision, [side, side].
fn response(kind: HighPass, d0: f64, side: i64) -> Tensor {
    let f = Tensor::fft_fftfreq(side, 1.0, (Kind::Double, Device::Cpu)) * side as f64;
    let d2 = f.square().unsqueeze(1) + f.square().unsqueeze(0);
    match kind {
        HighPass::Gaussian => -(d2 / (-2.0 * d0 * d0)).exp() + 1.0,
        HighPass::Ideal => d2.sqrt().gt(d0).to_kind(Kind::Double),
        HighPass::Butterworth => {
            // At frequency 0 the ratio is infinite and the response 0, as it should be.
            let ratio = d2.sqrt().reciprocal() * d0;
            (ratio.pow_tensor_scalar(i64::from(2 * BUTTERWORTH_ORDER)) + 1.0).reciprocal()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 32;

    fn filter(hpf: HighPass, hpf_d0: Option<f64>) -> HighPassFilter {
        HighPassFilter::new(&ModelConfig { hpf, hpf_d0, ..ModelConfig::default() }, SIDE, SIDE, Device::Cpu)
    }

    fn largest(t: &Tensor) -> f64 {
        t.abs().max().double_value(&[])
    }

    fn noise() -> Tensor {
        tch::manual_seed(1);
        Tensor::randn([2, 4, SIDE as i64, SIDE as i64], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn a_constant_image_is_removed_by_every_filter() {
        let constant = noise().full_like(3.0);
        for kind in [HighPass::Gaussian, HighPass::Ideal, HighPass::Butterworth] {
            assert!(largest(&filter(kind, None).forward(&constant)) < 1e-5, "{kind:?}");
        }
        let logmag = ModelConfig { spectral_repr: SpectralRepr::Logmag, ..ModelConfig::default() };
        let answer = HighPassFilter::new(&logmag, SIDE, SIDE, Device::Cpu).forward(&constant);
        assert!(bool::try_from(answer.isfinite().all()).unwrap());
    }

    #[test]
    fn a_nyquist_checkerboard_passes() {
        let row = Tensor::arange(SIDE as i64, (Kind::Float, Device::Cpu));
        let board = (row.unsqueeze(0) + row.unsqueeze(1)).remainder(2.0) * 2.0 - 1.0;
        assert!(largest(&(filter(HighPass::Gaussian, None).forward(&board) - &board)) < 1e-5);
    }

    #[test]
    fn the_ideal_filter_at_zero_removes_the_mean_alone() {
        let x = noise();
        let expected = &x - x.mean_dim([2, 3].as_slice(), true, Kind::Float);
        assert!(largest(&(filter(HighPass::Ideal, Some(0.0)).forward(&x) - expected)) < 1e-5);
    }

    #[test]
    fn parseval_holds_for_the_filtered_spectrum() {
        let x = noise();
        let filter = filter(HighPass::Butterworth, Some(3.0));
        let spectrum = x.fft_fft2(None::<&[i64]>, [-2, -1], "ortho") * &filter.response;
        let energy = |t: &Tensor| t.abs().square().sum(Kind::Double).double_value(&[]);
        let (space, frequency) = (energy(&filter.forward(&x)), energy(&spectrum));
        assert!((space / frequency - 1.0).abs() < 1e-5, "{space} {frequency}");
    }
}
