//! From a subject's draws to noisy images and a mask.

use super::PLANE;
use super::PhantomOptions;
use super::anatomy::{Anatomy, Map, depth_in_liver};
use super::lesion::{Lesion, Outline, radius_px};
use super::random::{Field, Stream};
use super::tissue::{REFERENCE_TIMES, Signals, Times, Tissue, table};

/// Everything that is drawn once for a subject.
pub(crate) struct Subject {
    index: usize,
    seed: u64,
    /// Whether the lesion is a carcinoma; otherwise it is a hemangioma.
    pub carcinoma: bool,
    /// Seconds after aortic arrival.
    pub times: Times,
    anatomy: Anatomy,
    lesion: Lesion,
    outline: Outline,
    gain: f64,
    noise: f64,
    bias: [f64; 5],
    /// Misregistration of each phase in reference pixels.
    shifts: [(f64, f64); 4],
    texture: Field,
    /// Height in the body of each slice, and the lesion's place there, from inferior to superior.
    slices: Vec<(f64, Option<Outline>)>,
}

/// One slice as measured.
pub(crate) struct Rendered {
    /// Intensities of the four phases, row by row.
    pub images: [Vec<i16>; 4],
    /// Tumour mask on the geometry of the portal venous phase.
    pub mask: Vec<u8>,
}

/// Sub-pixels along a side for the search of the lesion's place; fixed, so that it does not depend on the image size.
const SEARCH_SIDE: usize = 128;

impl Subject {
    pub(crate) fn draw(options: &PhantomOptions, index: usize, carcinoma: bool) -> Self {
        let stream = |purpose: &str| Stream::new(options.seed, index, None, purpose);
        let mut acquisition = stream("acquisition");
        let jitter: Times = [3.0, 6.0, 20.0].map(|range| acquisition.uniform(-range, range));
        let times = if options.timing_jitter {
            std::array::from_fn(|p| REFERENCE_TIMES[p] + jitter[p])
        } else {
            REFERENCE_TIMES
        };
        let gain = acquisition.normal(0.0, options.gain_sd).exp();
        let noise = acquisition.uniform(10.0, 25.0);
        let bias = draw_bias(&mut acquisition);
        let shifts = std::array::from_fn(|phase| {
            let mut draw = || (acquisition.normal(0.0, 1.0) * options.misregistration).clamp(-3.0, 3.0);
            let shift = (draw(), draw());
            if phase == 0 { (0.0, 0.0) } else { shift }
        });
        let mut body = stream("anatomy");
        let cirrhotic = body.chance(if carcinoma { 0.7 } else { 0.05 });
        let anatomy = Anatomy::draw(&mut body, cirrhotic);
        let texture = Field::new(&mut stream("texture"), 6.0, if cirrhotic { 0.06 } else { 0.03 });
        let mut tumour = stream("lesion");
        let lesion =
            Lesion::draw(&mut tumour, carcinoma, options.min_diameter_mm, options.equalise_t1, times);
        let outline = Outline::draw(&mut tumour);
        let mut subject = Self {
            index,
            seed: options.seed,
            carcinoma,
            times,
            anatomy,
            lesion,
            outline,
            gain,
            noise,
            bias,
            shifts,
            texture,
            slices: Vec::new(),
        };
        subject.slices = subject.place(options, &mut tumour);
        subject
    }

    fn stream(&self, slice: usize, purpose: &str) -> Stream {
        Stream::new(self.seed, self.index, Some(slice), purpose)
    }

    /// Spreads the slices over the body, healthy ones at the ends, and finds a place for the lesion in the liver.
    fn place(&self, options: &PhantomOptions, stream: &mut Stream) -> Vec<(f64, Option<Outline>)> {
        let count = options.slices_per_subject;
        let healthy = count / 3;
        let below = healthy / 2;
        let tumour = below..below + count - healthy;
        let height =
            |slice: usize| if count > 1 { -0.9 + 1.8 * slice as f64 / (count - 1) as f64 } else { 0.0 };
        let maps: Vec<Map> = tumour
            .clone()
            .map(|s| self.anatomy.map(SEARCH_SIDE, height(s), &mut self.stream(s, "anatomy")))
            .collect();
        let (centre, radius) = find_place(&maps, radius_px(self.lesion.diameter_mm), stream);
        let smallest = radius_px(options.min_diameter_mm).min(radius);
        (0..count)
            .map(|slice| {
                let outline = tumour.contains(&slice).then(|| {
                    let n = tumour.len() as f64;
                    // From -0.45 to 0.45 radii off the lesion's centre.
                    let off = 0.9 * ((slice - tumour.start) as f64 + 0.5) / n - 0.45;
                    let cut = (radius * (1.0 - off * off).sqrt()).max(smallest);
                    let drift = stream.normal_pair();
                    self.outline.placed((centre.0 + drift.0 * 0.7, centre.1 + drift.1 * 0.7), cut)
                });
                (height(slice), outline)
            })
            .collect()
    }

    /// Renders one slice at `size` x `size` pixels.
    pub(crate) fn render(&self, slice: usize, size: usize) -> Rendered {
        let (height, outline) = &self.slices[slice];
        let mut map = self.anatomy.map(2 * size, *height, &mut self.stream(slice, "anatomy"));
        let mut signals = self.tissue_signals(&map);
        if let Some(outline) = outline {
            self.add_lesion(&mut map, &mut signals, outline, slice);
        }
        let mut noise = self.stream(slice, "noise");
        let images = std::array::from_fn(|phase| self.measure(&signals, phase, size, &mut noise));
        Rendered { images, mask: self.mask(&map, size) }
    }

    fn tissue_signals(&self, map: &Map) -> Vec<Signals> {
        let table = table(self.times);
        let step = map.step() as f32;
        let mut out = Vec::with_capacity(map.tissue.len());
        for (n, &tissue) in map.tissue.iter().enumerate() {
            if tissue == Tissue::Air {
                out.push([0.0; 4]);
                continue;
            }
            let (x, y) = ((n % map.side) as f32 + 0.5, (n / map.side) as f32 + 0.5);
            let mut texture = self.texture.at(x * step, y * step);
            if self.anatomy.cirrhotic && tissue != Tissue::CirrhoticLiver {
                // Only the cirrhotic liver itself is as uneven as the field was drawn.
                texture *= 0.5;
            }
            let factor = (1.0 + texture).max(0.5);
            out.push(table[tissue as usize].map(|s| s * factor));
        }
        out
    }

    fn add_lesion(&self, map: &mut Map, signals: &mut [Signals], outline: &Outline, slice: usize) {
        let mut stream = self.stream(slice, "mosaic");
        let (flow, volume) = (Field::new(&mut stream, 6.0, 0.06), Field::new(&mut stream, 6.0, 0.06));
        let (side, step) = (map.side, map.step());
        let reach = outline.reach();
        map.paint(outline.centre, (reach, reach), |x, y, tissue| {
            let spot = outline.spot(x, y, Some((&flow, &volume))).filter(|_| tissue.is_hepatic())?;
            let n = (y / step) as usize * side + (x / step) as usize;
            let base = self.texture.at(x as f32, y as f32) * if self.anatomy.cirrhotic { 0.5 } else { 1.0 };
            signals[n] = self.lesion.signals(spot).map(|s| s * (1.0 + base).max(0.5));
            Some(Tissue::Lesion)
        });
    }

    /// Averages 2 x 2 sub-pixels, applies gain and bias, adds Rician noise and rounds.
    fn measure(&self, signals: &[Signals], phase: usize, size: usize, noise: &mut Stream) -> Vec<i16> {
        let mut out = Vec::with_capacity(size * size);
        let shift = self.shift(phase, size);
        let sigma = self.noise as f32;
        for y in 0..size {
            let v = 2.0 * (y as f64 + 0.5) / size as f64 - 1.0;
            for x in 0..size {
                let sum = sub_pixels(x, y, size, shift).map(|n| signals[n][phase]).sum::<f32>();
                let (n1, n2) = noise.noise_pair();
                let clean = if sum > 0.0 {
                    let u = 2.0 * (x as f64 + 0.5) / size as f64 - 1.0;
                    let [a, b, c, d, e] = self.bias;
                    let field = a * u + b * v + c * u * u + d * v * v + e * u * v;
                    sum / 4.0 * (self.gain * field.exp()) as f32
                } else {
                    0.0
                };
                let measured = ((clean + sigma * n1).powi(2) + (sigma * n2).powi(2)).sqrt();
                out.push(measured.round().clamp(0.0, 4095.0) as i16);
            }
        }
        out
    }

    /// Pixels of which at least half is lesion in the portal venous phase.
    fn mask(&self, map: &Map, size: usize) -> Vec<u8> {
        let shift = self.shift(2, size);
        (0..size * size)
            .map(|n| {
                let cells = sub_pixels(n % size, n / size, size, shift);
                u8::from(cells.filter(|&n| map.tissue[n] == Tissue::Lesion).count() >= 2)
            })
            .collect()
    }

    /// Misregistration of a phase in whole sub-pixels.
    fn shift(&self, phase: usize, size: usize) -> (isize, isize) {
        let sub_pixels = |px: f64| (px * 2.0 * size as f64 / PLANE).round() as isize;
        (sub_pixels(self.shifts[phase].0), sub_pixels(self.shifts[phase].1))
    }
}

/// The four sub-pixels of a pixel of a shifted image. The body never reaches the edge, where the nearest one stands in.
fn sub_pixels(x: usize, y: usize, size: usize, shift: (isize, isize)) -> impl Iterator<Item = usize> {
    let side = 2 * size;
    let at = move |i: usize, shift: isize| (i as isize - shift).clamp(0, side as isize - 1) as usize;
    (0..4).map(move |k| at(2 * y + k / 2, shift.1) * side + at(2 * x + k % 2, shift.0))
}

/// A polynomial of second order in [-1, 1] whose greatest value is at most ln 1.15.
fn draw_bias(stream: &mut Stream) -> [f64; 5] {
    let raw: [f64; 5] = std::array::from_fn(|_| stream.normal(0.0, 1.0));
    let strength = stream.uniform(0.3, 1.0) * 1.15f64.ln();
    let [a, b, c, d, e] = raw;
    let at = |n: i32| f64::from(n) / 8.0;
    let largest = (-8..=8)
        .flat_map(|i| (-8..=8).map(move |j| (at(i), at(j))))
        .map(|(u, v)| (a * u + b * v + c * u * u + d * v * v + e * u * v).abs())
        .fold(1e-9, f64::max);
    raw.map(|c| c * strength / largest)
}

/// A centre deep enough in the liver for the radius, which is reduced where the liver is too small.
fn find_place(maps: &[Map], radius: f64, stream: &mut Stream) -> ((f64, f64), f64) {
    let depth = depth_in_liver(maps);
    let deepest = depth.iter().copied().fold(0.0, f64::max);
    let radius = radius.min(1.05 * deepest);
    let enough = (0.95 * radius).min(0.98 * deepest);
    let places: Vec<usize> = (0..depth.len()).filter(|&n| depth[n] >= enough).collect();
    let chosen = places[stream.index(places.len())];
    let (side, step) = (maps[0].side, maps[0].step());
    (((chosen % side) as f64 * step + step / 2.0, (chosen / side) as f64 * step + step / 2.0), radius)
}
