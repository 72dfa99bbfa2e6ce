//! Signal and contrast kinetics of MODEL.md 9.1.
//!
//! Time runs from the arrival of the bolus in the aorta, in seconds, in steps of 0.25 s; concentrations are in mM.

use std::sync::OnceLock;

const STEP: f64 = 0.25;
/// Long enough for the latest delayed phase.
const SAMPLES: usize = 1000;
const HAEMATOCRIT: f64 = 0.42;
/// Makes normal liver before contrast 400.
const GAIN: f64 = 14955.0;
const REPETITION: f64 = 0.004;
const ECHO: f64 = 0.0015;
const FLIP_DEGREES: f64 = 12.0;
const R2_STAR: f64 = 6.0;

/// Relaxivity of gadobutrol in plasma, 1/(mM s); used in tissue.
pub(crate) const R1_PLASMA: f64 = 4.97;
/// Relaxivity in blood, used in vessels and in blood-filled lesions.
pub(crate) const R1_BLOOD: f64 = 3.47;

/// What a voxel gives without contrast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spin {
    /// Proton density relative to water.
    pub pd: f64,
    /// Native T1 in seconds.
    pub t1: f64,
    /// T2* in seconds.
    pub t2_star: f64,
}

impl Spin {
    /// Signal of the spoiled gradient echo at concentration `c` with relaxivity `r1`.
    pub(crate) fn signal(&self, c: f64, r1: f64) -> f64 {
        let angle = FLIP_DEGREES.to_radians();
        let e = (-REPETITION * (1.0 / self.t1 + r1 * c)).exp();
        let decay = (-ECHO * (1.0 / self.t2_star + R2_STAR * c)).exp();
        GAIN * self.pd * angle.sin() * (1.0 - e) / (1.0 - e * angle.cos()) * decay
    }
}

/// A concentration over time.
#[derive(Debug, Clone)]
pub(crate) struct Curve(Vec<f64>);

impl Curve {
    /// Linear interpolation; zero before arrival, the last value after the end.
    pub(crate) fn at(&self, seconds: f64) -> f64 {
        if seconds <= 0.0 {
            return if seconds < 0.0 { 0.0 } else { self.0[0] };
        }
        let position = seconds / STEP;
        let below = position as usize;
        match self.0.get(below + 1) {
            Some(&next) => self.0[below] + (next - self.0[below]) * (position - below as f64),
            None => self.0[SAMPLES - 1],
        }
    }

    fn delayed(&self, seconds: f64) -> Self {
        let shift = (seconds / STEP).round() as usize;
        Self((0..SAMPLES).map(|i| if i < shift { 0.0 } else { self.0[i - shift] }).collect())
    }

    /// Convolution with a normalised exponential of time constant `seconds`.
    fn dispersed(&self, seconds: f64) -> Self {
        let keep = (-STEP / seconds).exp();
        let mut state = 0.0;
        Self(
            self.0
                .iter()
                .map(|x| {
                    state = keep * state + (1.0 - keep) * x;
                    state
                })
                .collect(),
        )
    }

    /// Convolution with a box: an injection that lasts.
    fn boxed(&self, seconds: f64) -> Self {
        let width = (seconds / STEP).round() as usize;
        Self(
            (0..SAMPLES)
                .map(|i| self.0[(i + 1).saturating_sub(width)..=i].iter().sum::<f64>() / width as f64)
                .collect(),
        )
    }
}

/// The curves that feed all tissues; the same for every subject.
pub(crate) struct Inputs {
    /// Aorta.
    pub arterial: Curve,
    /// Portal vein.
    pub portal: Curve,
    /// Hepatic veins and vena cava.
    pub hepatic: Curve,
    /// Blood in a hemangioma, counted from the time at which the pixel fills.
    pub pool: Curve,
}

impl Inputs {
    pub(crate) fn get() -> &'static Self {
        static INPUTS: OnceLock<Inputs> = OnceLock::new();
        INPUTS.get_or_init(|| {
            let arterial = Curve((0..SAMPLES).map(|i| parker(i as f64 * STEP)).collect()).boxed(6.0);
            let portal = arterial.delayed(8.0).dispersed(12.0);
            let hepatic = portal.delayed(6.0).dispersed(14.0);
            let pool = arterial.dispersed(10.0);
            Self { arterial, portal, hepatic, pool }
        })
    }
}

/// A single compartment with two inlets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Perfusion {
    /// Flow F in 1/min.
    pub flow: f64,
    /// Share of the flow that is arterial; the rest is portal.
    pub arterial: f64,
    /// Distribution volume.
    pub volume: f64,
}

impl Perfusion {
    /// Concentration at the given ascending times: `dC/dt = F [fa A + (1-fa) P] / (1-Hct) - (F/DV) C`.
    pub(crate) fn concentrations<const N: usize>(&self, times: [f64; N]) -> [f64; N] {
        let inputs = Inputs::get();
        let flow = self.flow / 60.0;
        let wash_out = flow / self.volume;
        let last = times.iter().fold(0.0f64, |a, &b| a.max(b));
        let steps = ((last / STEP).ceil() as usize + 1).min(SAMPLES - 1);
        let mut curve = Vec::with_capacity(steps + 1);
        let mut c = 0.0;
        curve.push(c);
        for i in 1..=steps {
            let inlet = self.arterial * inputs.arterial.0[i] + (1.0 - self.arterial) * inputs.portal.0[i];
            c += STEP * (flow * inlet / (1.0 - HAEMATOCRIT) - wash_out * c);
            curve.push(c);
        }
        times.map(|t| {
            let position = (t / STEP).clamp(0.0, steps as f64);
            let below = (position as usize).min(steps - 1);
            curve[below] + (curve[below + 1] - curve[below]) * (position - below as f64)
        })
    }
}

/// Population arterial input of Parker 2006 (MRM 56:993), blood concentration in mM.
pub(crate) fn parker(seconds: f64) -> f64 {
    let t = seconds / 60.0;
    let bolus = |area: f64, centre: f64, width: f64| {
        area / (width * (2.0 * std::f64::consts::PI).sqrt())
            * (-(t - centre).powi(2) / (2.0 * width * width)).exp()
    };
    let tail = 1.050 * (-0.1685 * t).exp() / (1.0 + (-38.078 * (t - 0.483)).exp());
    bolus(0.809, 0.17046, 0.0563) + bolus(0.330, 0.365, 0.132) + tail
}
