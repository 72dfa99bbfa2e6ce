//! The two lesions of MODEL.md 9.3: hepatocellular carcinoma and hemangioma.

use std::f64::consts::{PI, TAU};

use super::kinetics::{Inputs, Perfusion, R1_BLOOD, Spin};
use super::random::{Field, Stream};
use super::tissue::{Signals, Times, curve_signals, tissue_signals};

/// Pixel size of the reference plane in mm.
const PIXEL_MM: f64 = 1.5;

/// A lesion as drawn for a subject; slices show it at different sizes.
pub(crate) struct Lesion {
    /// Greatest equivalent diameter in mm.
    pub diameter_mm: f64,
    kind: Kind,
    times: Times,
}

enum Kind {
    Carcinoma(Carcinoma),
    Hemangioma(Hemangioma),
}

struct Carcinoma {
    /// Signals over the mosaic's factors on flow (rows) and distribution volume (columns).
    mosaic: Vec<Signals>,
    rim: Option<(f64, Signals)>,
    /// Radius of the necrotic core as a share of the lesion's, and its signals.
    core: Option<(f64, Signals)>,
}

struct Hemangioma {
    spin: Spin,
    blood: f64,
    fill_seconds: f64,
    flash: bool,
    coverage: f64,
    /// Directions of the nodules, ascending, in radians from 0 to 2 pi.
    nodules: Vec<f64>,
    scar: Option<f64>,
}

/// Where a sub-pixel lies in its lesion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    /// 0 at the centre, 1 at the boundary.
    pub relative: f64,
    /// Distance from the boundary in reference pixels.
    pub depth: f64,
    /// Direction from the centre in radians.
    pub angle: f64,
    /// Mosaic factors on flow and distribution volume.
    pub mosaic: (f32, f32),
}

impl Lesion {
    /// Draws a carcinoma (`carcinoma`) or a hemangioma. `equalise` gives both the same native T1, PD and T2*.
    pub(crate) fn draw(
        stream: &mut Stream,
        carcinoma: bool,
        min_diameter: f64,
        equalise: bool,
        times: Times,
    ) -> Self {
        let largest = if carcinoma { 90.0 } else { 80.0 };
        let diameter_mm = stream.log_uniform(min_diameter.clamp(10.0, largest), largest);
        let kind = if carcinoma {
            Kind::Carcinoma(Carcinoma::draw(stream, diameter_mm, times))
        } else {
            Kind::Hemangioma(Hemangioma::draw(stream, diameter_mm, equalise))
        };
        Self { diameter_mm, kind, times }
    }

    /// Raw intensity at a spot in all phases.
    pub(crate) fn signals(&self, spot: Spot) -> Signals {
        match &self.kind {
            Kind::Carcinoma(carcinoma) => carcinoma.signals(spot),
            Kind::Hemangioma(hemangioma) => hemangioma.signals(spot, self.times),
        }
    }
}

fn carcinoma_spin(stream: &mut Stream) -> Spin {
    let t1 = stream.normal(1.056, 0.150).clamp(0.750, 1.500);
    Spin { t1, pd: stream.normal(0.85, 0.03), t2_star: 0.020 }
}

const MOSAIC: usize = 9;
const MOSAIC_LOW: f32 = 0.7;
const MOSAIC_HIGH: f32 = 1.3;

impl Carcinoma {
    fn draw(stream: &mut Stream, diameter_mm: f64, times: Times) -> Self {
        let spin = carcinoma_spin(stream);
        let flow = stream.uniform(0.4, 1.2);
        let arterial = stream.uniform(0.75, 0.95);
        let washes_out = stream.chance(0.82);
        let volume = if washes_out { stream.uniform(0.12, 0.17) } else { stream.uniform(0.18, 0.24) };
        let factor = |i: usize| {
            f64::from(MOSAIC_LOW) + f64::from(MOSAIC_HIGH - MOSAIC_LOW) * i as f64 / (MOSAIC - 1) as f64
        };
        let signals =
            |flow: f64, volume: f64| tissue_signals(spin, Perfusion { flow, arterial, volume }, times);
        let mosaic = (0..MOSAIC * MOSAIC)
            .map(|n| signals(flow * factor(n / MOSAIC), volume * factor(n % MOSAIC)))
            .collect();
        let (has_rim, width) = (stream.chance(0.5), stream.uniform(1.0, 2.0));
        let (has_core, share) = (stream.chance(0.2), stream.uniform(0.15, 0.35));
        Self {
            mosaic,
            rim: has_rim.then(|| (width, signals(0.3, volume + 0.08))),
            core: (has_core && diameter_mm > 50.0).then(|| (share.sqrt(), signals(0.05, volume))),
        }
    }

    fn signals(&self, spot: Spot) -> Signals {
        if let Some((width, signals)) = self.rim
            && spot.depth < width
        {
            return signals;
        }
        if let Some((radius, signals)) = self.core
            && spot.relative < radius
        {
            return signals;
        }
        let place = |factor: f32| {
            let steps = (MOSAIC - 1) as f32;
            let at = ((factor - MOSAIC_LOW) / (MOSAIC_HIGH - MOSAIC_LOW) * steps).clamp(0.0, steps - 0.001);
            (at as usize, at.fract())
        };
        let ((i, f), (j, v)) = (place(spot.mosaic.0), place(spot.mosaic.1));
        let node = |i: usize, j: usize| &self.mosaic[i * MOSAIC + j];
        let (a, b, c, d) = (node(i, j), node(i, j + 1), node(i + 1, j), node(i + 1, j + 1));
        std::array::from_fn(|p| (a[p] * (1.0 - v) + b[p] * v) * (1.0 - f) + (c[p] * (1.0 - v) + d[p] * v) * f)
    }
}

impl Hemangioma {
    fn draw(stream: &mut Stream, diameter_mm: f64, equalise: bool) -> Self {
        let own = Spin {
            t1: stream.normal(2.200, 0.350).clamp(1.400, 3.200),
            pd: stream.normal(0.95, 0.03),
            t2_star: 0.060,
        };
        let spin = if equalise { carcinoma_spin(stream) } else { own };
        let blood = stream.uniform(0.65, 0.95);
        let flash = stream.chance(0.14);
        let slow = stream.log_uniform(60.0, 500.0);
        let coverage = stream.uniform(0.35, 0.8);
        let count = 3 + stream.index(6);
        let turn = stream.uniform(0.0, TAU);
        let mut nodules: Vec<f64> = (0..count)
            .map(|n| (turn + TAU * (n as f64 + stream.uniform(-0.25, 0.25)) / count as f64).rem_euclid(TAU))
            .collect();
        nodules.sort_by(f64::total_cmp);
        let (scarred, radius) = (stream.chance(0.1), stream.uniform(0.2, 0.35));
        Self {
            spin,
            blood,
            fill_seconds: if flash { 8.0 } else { slow },
            flash,
            coverage,
            nodules,
            scar: (scarred && diameter_mm > 40.0).then_some(radius),
        }
    }

    fn signals(&self, spot: Spot, times: Times) -> Signals {
        let scarred = self.scar.is_some_and(|radius| spot.relative < radius);
        let fill = self.fill_seconds * (1.0 - spot.relative);
        let sector = self.sector(spot.angle);
        let pool = &Inputs::get().pool;
        let c = times.map(|t| {
            // A flash-filling lesion fills as a whole.
            let covered = self.flash || sector <= self.coverage + (1.0 - self.coverage) * t / 120.0;
            if t >= fill && covered && !scarred { self.blood * pool.at(t - fill) } else { 0.0 }
        });
        curve_signals(self.spin, c, R1_BLOOD)
    }

    /// 0 in the middle of a nodule's sector, 1 on the border to the next one.
    fn sector(&self, angle: f64) -> f64 {
        let n = self.nodules.len();
        let after = self.nodules.partition_point(|&a| a <= angle) % n;
        let (before, next) = (self.nodules[(after + n - 1) % n], self.nodules[after]);
        let gap = (next - before).rem_euclid(TAU);
        let from = (angle - before).rem_euclid(TAU);
        (from.min(gap - from) / (gap / 2.0)).clamp(0.0, 1.0)
    }
}

/// The outline of a lesion in one slice: an ellipse with a Fourier perturbation of orders 2 to 6, in reference pixels.
pub(crate) struct Outline {
    pub centre: (f64, f64),
    /// Radius of the circle of equal area.
    pub radius: f64,
    ratio: f64,
    turn: f64,
    waves: [(f64, f64); 5],
}

impl Outline {
    pub(crate) fn draw(stream: &mut Stream) -> Self {
        let amplitude = stream.uniform(0.03, 0.08);
        Self {
            centre: (0.0, 0.0),
            radius: 1.0,
            ratio: stream.uniform(0.7, 1.0),
            turn: stream.uniform(0.0, PI),
            // The five waves together have the drawn amplitude.
            waves: std::array::from_fn(|_| {
                (stream.normal(0.0, amplitude / 5f64.sqrt()), stream.uniform(0.0, TAU))
            }),
        }
    }

    /// The same outline, smaller or larger, elsewhere.
    pub(crate) fn placed(&self, centre: (f64, f64), radius: f64) -> Self {
        Self { centre, radius, ..*self }
    }

    /// No point of the outline is further from its centre.
    pub(crate) fn reach(&self) -> f64 {
        self.radius / self.ratio.sqrt() * (1.0 + self.waves.iter().map(|(a, _)| a.abs()).sum::<f64>())
    }

    /// The spot at (x, y), or nothing outside.
    pub(crate) fn spot(&self, x: f64, y: f64, fields: Option<(&Field, &Field)>) -> Option<Spot> {
        let (dx, dy) = (x - self.centre.0, y - self.centre.1);
        let angle = dy.atan2(dx).rem_euclid(TAU);
        let (sine, cosine) = (angle - self.turn).sin_cos();
        let (long, short) = (1.0 / self.ratio.sqrt(), self.ratio.sqrt());
        let ellipse = 1.0 / ((cosine / long).powi(2) + (sine / short).powi(2)).sqrt();
        let wave: f64 =
            (2..).zip(&self.waves).map(|(k, (a, phase))| a * (f64::from(k) * angle + phase).cos()).sum();
        let boundary = self.radius * ellipse * (1.0 + wave);
        let distance = dx.hypot(dy);
        (distance < boundary).then(|| Spot {
            relative: distance / boundary,
            depth: boundary - distance,
            angle,
            mosaic: fields.map_or((1.0, 1.0), |(f, v)| {
                (1.0 + f.at(x as f32, y as f32), 1.0 + v.at(x as f32, y as f32))
            }),
        })
    }
}

/// Radius in reference pixels of a diameter in mm.
pub(crate) fn radius_px(diameter_mm: f64) -> f64 {
    diameter_mm / PIXEL_MM / 2.0
}
