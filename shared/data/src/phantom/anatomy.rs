//! The abdomen of MODEL.md 9.4, drawn as a map of tissues.
//!
//! All lengths are reference pixels of 1.5 mm on a plane of 256 x 256, whatever the size of the images: x to the
//! patient's left, y to posterior. Organs are painted one over the other, from the skin inwards.

use super::PLANE;
use super::random::{Field, Stream};
use super::tissue::Tissue;

/// A map of tissues with `side` x `side` sub-pixels over the plane.
pub(crate) struct Map {
    pub side: usize,
    pub tissue: Vec<Tissue>,
}

impl Map {
    fn new(side: usize) -> Self {
        Self { side, tissue: vec![Tissue::Air; side * side] }
    }

    /// Reference pixels per sub-pixel.
    pub(crate) fn step(&self) -> f64 {
        PLANE / self.side as f64
    }

    /// Paints the sub-pixels of a box, given by centre and reach, for which `inside` holds.
    pub(crate) fn paint(
        &mut self,
        centre: (f64, f64),
        reach: (f64, f64),
        mut inside: impl FnMut(f64, f64, Tissue) -> Option<Tissue>,
    ) {
        let step = self.step();
        let range = |c: f64, r: f64| {
            let from = ((c - r) / step).floor().max(0.0) as usize;
            from..(((c + r) / step).ceil().max(0.0) as usize).min(self.side)
        };
        let columns = range(centre.0, reach.0);
        for j in range(centre.1, reach.1) {
            let y = (j as f64 + 0.5) * step;
            for i in columns.clone() {
                let cell = &mut self.tissue[j * self.side + i];
                if let Some(tissue) = inside((i as f64 + 0.5) * step, y, *cell) {
                    *cell = tissue;
                }
            }
        }
    }

    fn ellipse(&mut self, shape: Ellipse, tissue: Tissue) {
        let reach = shape.axes.0.max(shape.axes.1);
        self.paint(shape.centre, (reach, reach), |x, y, _| shape.contains(x, y).then_some(tissue));
    }
}

#[derive(Debug, Clone, Copy)]
struct Ellipse {
    centre: (f64, f64),
    axes: (f64, f64),
    turn: f64,
}

impl Ellipse {
    fn new(centre: (f64, f64), axes: (f64, f64)) -> Self {
        Self { centre, axes, turn: 0.0 }
    }

    fn circle(centre: (f64, f64), radius: f64) -> Self {
        Self::new(centre, (radius, radius))
    }

    fn turned(self, turn: f64) -> Self {
        Self { turn, ..self }
    }

    fn shrunk(self, by: f64) -> Self {
        Self { axes: ((self.axes.0 - by).max(0.1), (self.axes.1 - by).max(0.1)), ..self }
    }

    fn contains(&self, x: f64, y: f64) -> bool {
        let (dx, dy) = (x - self.centre.0, y - self.centre.1);
        let (sine, cosine) = self.turn.sin_cos();
        let (u, v) = ((dx * cosine + dy * sine) / self.axes.0, (dy * cosine - dx * sine) / self.axes.1);
        u * u + v * v < 1.0
    }
}

/// A subject's body.
pub(crate) struct Anatomy {
    centre: (f64, f64),
    axes: (f64, f64),
    fat: f64,
    /// Share of the body's area that is liver.
    liver: f64,
    pub cirrhotic: bool,
    nodules: Field,
    vertebra: f64,
    aorta: (f64, f64),
    cava: (f64, f64),
    spleen: f64,
    kidney: f64,
}

impl Anatomy {
    pub(crate) fn draw(stream: &mut Stream, cirrhotic: bool) -> Self {
        let middle = PLANE / 2.0;
        Self {
            centre: (middle + stream.normal(0.0, 1.5), middle + stream.normal(0.0, 1.5)),
            axes: (stream.uniform(105.0, 120.0), stream.uniform(72.0, 88.0)),
            fat: stream.uniform(6.0, 12.0),
            liver: stream.uniform(0.30, 0.45),
            cirrhotic,
            nodules: Field::new(stream, 7.0, 1.0),
            vertebra: stream.uniform(13.0, 16.0),
            aorta: (stream.uniform(4.0, 9.0), stream.uniform(7.0, 9.0)),
            cava: (stream.uniform(15.0, 21.0), stream.uniform(8.0, 11.0)),
            spleen: stream.uniform(0.85, 1.15),
            kidney: stream.uniform(0.9, 1.1),
        }
    }

    /// The tissues of the slice at `height`, from -1 (inferior) to 1 (superior), without lesion.
    pub(crate) fn map(&self, side: usize, height: f64, stream: &mut Stream) -> Map {
        let mut map = Map::new(side);
        let shrink = 1.0 - 0.04 * height * height;
        let body = Ellipse::new(self.centre, (self.axes.0 * shrink, self.axes.1 * shrink));
        map.ellipse(body, Tissue::Fat);
        map.ellipse(body.shrunk(self.fat), Tissue::Muscle);
        let cavity = body.shrunk(self.fat + 4.0);
        map.ellipse(cavity, Tissue::Fat);
        self.paint_bowel(&mut map, stream);
        self.paint_left_side(&mut map, height);
        self.paint_liver(&mut map, &body, &cavity, height);
        if height < -0.1 {
            self.paint_kidneys(&mut map, height);
        }
        let cava = self.paint_spine_and_great_vessels(&mut map);
        self.paint_liver_veins(&mut map, cava, stream);
        map
    }

    /// A point given in half-axes from the body's centre.
    fn at(&self, u: f64, v: f64) -> (f64, f64) {
        (self.centre.0 + u * self.axes.0, self.centre.1 + v * self.axes.1)
    }

    fn paint_bowel(&self, map: &mut Map, stream: &mut Stream) {
        for n in 0..4 {
            let centre =
                self.at(0.1 + 0.17 * f64::from(n) + stream.uniform(-0.05, 0.05), stream.uniform(-0.55, 0.1));
            let axes = (stream.uniform(9.0, 16.0), stream.uniform(8.0, 14.0));
            map.ellipse(Ellipse::new(centre, axes), Tissue::Muscle);
        }
    }

    fn paint_left_side(&self, map: &mut Map, height: f64) {
        let (a, b) = self.axes;
        if height > -0.4 {
            let stomach = Ellipse::new(self.at(0.42, -0.30), (0.27 * a, 0.30 * b));
            map.ellipse(stomach, Tissue::Muscle);
            map.ellipse(stomach.shrunk(3.0), Tissue::Fluid);
        }
        if (-0.6..0.5).contains(&height) {
            map.ellipse(
                Ellipse::new(self.at(0.08, 0.10), (0.30 * a, 0.10 * b)).turned(-0.25),
                Tissue::Pancreas,
            );
        }
        if height > -0.6 {
            let size = self.spleen * (1.0 - 0.25 * height.abs());
            let spleen = Ellipse::new(self.at(0.62, 0.25), (0.20 * a * size, 0.36 * b * size)).turned(0.35);
            map.ellipse(spleen, Tissue::Spleen);
        }
    }

    /// Two superellipses, scaled together until they fill the wanted share of the body.
    fn paint_liver(&self, map: &mut Map, body: &Ellipse, cavity: &Ellipse, height: f64) {
        let (a, b) = self.axes;
        let lobes =
            [(self.at(-0.45, -0.02), (0.55 * a, 0.85 * b)), (self.at(-0.02, -0.40), (0.48 * a, 0.40 * b))];
        let roughness = if self.cirrhotic { 0.09 } else { 0.015 };
        let level = |x: f64, y: f64| -> f64 {
            let lobe = |((cx, cy), (p, q)): ((f64, f64), (f64, f64))| {
                ((x - cx) / p).abs().powi(3) + ((y - cy) / q).abs().powi(3)
            };
            let nearest = lobe(lobes[0]).min(lobe(lobes[1]));
            nearest * (1.0 + roughness * f64::from(self.nodules.at(x as f32, y as f32)))
        };
        const COARSE: f64 = 3.0;
        let cells = (PLANE / COARSE) as usize;
        let centre = |n: usize| (n as f64 + 0.5) * COARSE;
        let mut levels: Vec<f64> = (0..cells * cells)
            .map(|n| (centre(n % cells), centre(n / cells)))
            .filter(|&(x, y)| cavity.contains(x, y))
            .map(|(x, y)| level(x, y))
            .collect();
        levels.sort_by(f64::total_cmp);
        let share = (self.liver * (1.0 - 0.08 * height * height)).max(0.30);
        let wanted = share * std::f64::consts::PI * body.axes.0 * body.axes.1 / (COARSE * COARSE);
        let Some(&threshold) = levels.get((wanted as usize).min(levels.len().saturating_sub(1))) else {
            return;
        };
        let tissue = if self.cirrhotic { Tissue::CirrhoticLiver } else { Tissue::Liver };
        map.paint(cavity.centre, cavity.axes, |x, y, _| {
            (level(x, y) < threshold && cavity.contains(x, y)).then_some(tissue)
        });
    }

    fn paint_kidneys(&self, map: &mut Map, height: f64) {
        let size = self.kidney * (0.7 + 0.5 * height.abs()).min(1.0);
        for side in [-1.0, 1.0] {
            let kidney =
                Ellipse::new(self.at(0.43 * side, 0.42), (21.0 * size, 15.0 * size)).turned(-0.5 * side);
            map.ellipse(kidney.shrunk(-1.5), Tissue::Fat);
            map.ellipse(kidney, Tissue::KidneyCortex);
            map.ellipse(kidney.shrunk(5.0), Tissue::KidneyMedulla);
        }
    }

    /// Returns the centre of the vena cava.
    fn paint_spine_and_great_vessels(&self, map: &mut Map) -> (f64, f64) {
        let spine = self.at(0.0, 0.48);
        for side in [-1.0, 1.0] {
            map.ellipse(Ellipse::new((spine.0 + 26.0 * side, spine.1 + 8.0), (15.0, 11.0)), Tissue::Muscle);
        }
        map.ellipse(Ellipse::circle(spine, self.vertebra + 2.0), Tissue::Muscle);
        map.ellipse(Ellipse::circle(spine, self.vertebra), Tissue::Marrow);
        map.ellipse(Ellipse::circle((spine.0, spine.1 + self.vertebra + 5.0), 5.0), Tissue::Fluid);
        let (shift, radius) = self.aorta;
        map.ellipse(
            Ellipse::circle((spine.0 + shift, spine.1 - self.vertebra - radius - 2.0), radius),
            Tissue::Aorta,
        );
        let (shift, radius) = self.cava;
        let cava = (spine.0 - shift, spine.1 - 0.6 * self.vertebra - radius);
        map.ellipse(Ellipse::circle(cava, radius), Tissue::HepaticVein);
        cava
    }

    /// Tapered curves from the hilum (portal) and from the vena cava (hepatic veins) into the liver.
    fn paint_liver_veins(&self, map: &mut Map, cava: (f64, f64), stream: &mut Stream) {
        let parenchyma = |t: Tissue| matches!(t, Tissue::Liver | Tissue::CirrhoticLiver);
        let hilum = self.at(-0.14, 0.02);
        for n in 0..4 + stream.index(5) {
            let (from, vein) =
                if n % 2 == 0 { (hilum, Tissue::PortalVein) } else { (cava, Tissue::HepaticVein) };
            // A point in the liver that does not depend on the size of the map.
            let to = self.at(stream.uniform(-0.85, -0.05), stream.uniform(-0.7, 0.45));
            let bend = (
                (from.0 + to.0) / 2.0 + stream.normal(0.0, 7.0),
                (from.1 + to.1) / 2.0 + stream.normal(0.0, 7.0),
            );
            let thick = stream.uniform(2.0, 4.0);
            let steps = ((to.0 - from.0).hypot(to.1 - from.1) * 1.5).ceil().max(1.0);
            for i in 0..=steps as usize {
                let t = i as f64 / steps;
                let blend =
                    |p: f64, q: f64, r: f64| (1.0 - t).powi(2) * p + 2.0 * t * (1.0 - t) * q + t * t * r;
                let centre = (blend(from.0, bend.0, to.0), blend(from.1, bend.1, to.1));
                let radius = thick + (1.0 - thick) * t;
                map.paint(centre, (radius, radius), |x, y, tissue| {
                    let inside = (x - centre.0).powi(2) + (y - centre.1).powi(2) < radius * radius;
                    (inside && parenchyma(tissue)).then_some(vein)
                });
            }
        }
    }
}

/// Distance in reference pixels of each sub-pixel from the nearest that is not hepatic in all maps (chamfer 3-4).
pub(crate) fn depth_in_liver(maps: &[Map]) -> Vec<f64> {
    let side = maps[0].side;
    let hepatic = |n: usize| maps.iter().all(|m| m.tissue[n].is_hepatic());
    let mut depth: Vec<u32> = (0..side * side).map(|n| if hepatic(n) { u32::MAX / 2 } else { 0 }).collect();
    let relax = |depth: &mut [u32], n: usize, neighbours: [(isize, u32); 4]| {
        for (offset, cost) in neighbours {
            let other = n.checked_add_signed(offset).and_then(|o| depth.get(o)).copied();
            depth[n] = depth[n].min(other.unwrap_or(0) + cost);
        }
    };
    let s = side as isize;
    for n in 0..side * side {
        relax(&mut depth, n, [(-1, 3), (-s, 3), (-s - 1, 4), (-s + 1, 4)]);
    }
    for n in (0..side * side).rev() {
        relax(&mut depth, n, [(1, 3), (s, 3), (s + 1, 4), (s - 1, 4)]);
    }
    let step = maps[0].step();
    depth.into_iter().map(|d| f64::from(d) / 3.0 * step).collect()
}
