//! Descriptors that lie close to a given one, found without looking at all of them.
//!
//! A tree needs few dimensions. Descriptors are projected onto the directions in which they differ most, as far as a sample
//! tells. A projection never moves two of them apart, so that whatever the directions are nobody is missed; good ones only
//! leave fewer to be compared in full.

use rstar::RTree;
use rstar::primitives::GeomWithData;

use super::files::Descriptor;

/// Directions of the tree. Each level of it halves all of them.
const DIRECTIONS: usize = 6;
/// Descriptors that the directions are found with.
const SAMPLE: usize = 1000;
/// Rounds of the search for directions; it need not converge.
const ROUNDS: usize = 30;
/// Squared distances in single precision are off by less than this.
const ROUNDING: f32 = 1e-5;

/// Descriptors with a number each.
pub(super) struct Neighbours {
    directions: Vec<[f64; Descriptor::LENGTH]>,
    tree: RTree<Place>,
}

type Place = GeomWithData<[f32; DIRECTIONS], usize>;

impl Neighbours {
    pub(super) fn new(descriptors: &[(&Descriptor, usize)]) -> Self {
        let directions = directions(descriptors);
        let place = |(descriptor, n): &(&Descriptor, usize)| Place::new(project(&directions, descriptor), *n);
        let tree = RTree::bulk_load(descriptors.iter().map(place).collect());
        Self { directions, tree }
    }

    /// The numbers of those that may lie within the squared distance `reach`, and of all that do.
    pub(super) fn near(&self, descriptor: &Descriptor, reach: f32) -> impl Iterator<Item = usize> {
        let at = project(&self.directions, descriptor);
        self.tree.locate_within_distance(at, reach + ROUNDING).map(|place| place.data)
    }
}

/// Whether two descriptors may lie within the squared distance `reach`.
pub(super) fn are_near(a: &Descriptor, b: &Descriptor, reach: f32) -> bool {
    let distance: f32 = a.0.iter().zip(&b.0).map(|(a, b)| (a - b).powi(2)).sum();
    distance <= reach + ROUNDING
}

fn project(directions: &[[f64; Descriptor::LENGTH]], descriptor: &Descriptor) -> [f32; DIRECTIONS] {
    let mut out = [0.0; DIRECTIONS];
    for (out, direction) in out.iter_mut().zip(directions) {
        *out = direction.iter().zip(&descriptor.0).map(|(d, &v)| d * f64::from(v)).sum::<f64>() as f32;
    }
    out
}

/// Directions of greatest variance, orthogonal and of length 1: the subspace iteration for principal components.
fn directions(descriptors: &[(&Descriptor, usize)]) -> Vec<[f64; Descriptor::LENGTH]> {
    let stride = descriptors.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<&Descriptor> =
        descriptors.iter().step_by(stride).map(|(descriptor, _)| *descriptor).collect();
    let mut mean = [0.0; Descriptor::LENGTH];
    for descriptor in &sample {
        mean.iter_mut().zip(&descriptor.0).for_each(|(m, &v)| *m += f64::from(v) / sample.len() as f64);
    }
    let centred: Vec<[f64; Descriptor::LENGTH]> =
        sample.iter().map(|d| std::array::from_fn(|i| f64::from(d.0[i]) - mean[i])).collect();
    let mut directions: Vec<[f64; Descriptor::LENGTH]> =
        (0..DIRECTIONS).map(|k| std::array::from_fn(|i| (((i + 1) * (k + 1)) as f64).cos())).collect();
    orthonormalise(&mut directions);
    for _ in 0..ROUNDS {
        let mut next = directions.clone();
        for (next, direction) in next.iter_mut().zip(&directions) {
            // A trace of the old one keeps directions apart in which nothing differs.
            next.iter_mut().for_each(|v| *v *= 1e-9);
            for point in &centred {
                let along = dot(point, direction);
                next.iter_mut().zip(point).for_each(|(n, p)| *n += along * p);
            }
        }
        orthonormalise(&mut next);
        directions = next;
    }
    directions
}

/// Gram and Schmidt's, twice, so that rounding leaves nothing. What depends on the others becomes zero, which is safe.
fn orthonormalise(directions: &mut [[f64; Descriptor::LENGTH]]) {
    for k in 0..directions.len() {
        let (before, rest) = directions.split_at_mut(k);
        let Some(direction) = rest.first_mut() else { return };
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(direction, other);
                direction.iter_mut().zip(other).for_each(|(d, o)| *d -= along * o);
            }
            let norm = dot(direction, direction).sqrt();
            let scale = if norm > f64::MIN_POSITIVE { 1.0 / norm } else { 0.0 };
            direction.iter_mut().for_each(|d| *d *= scale);
        }
    }
}

fn dot(a: &[f64; Descriptor::LENGTH], b: &[f64; Descriptor::LENGTH]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points of a few dimensions within the many, spread by `width`, from a fixed sequence.
    fn points(count: usize, width: f64) -> Vec<Descriptor> {
        let mut state = 1_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 31) - 0.5
        };
        (0..count)
            .map(|_| {
                let hidden: [f64; 5] = std::array::from_fn(|_| draw() * width);
                Descriptor(std::array::from_fn(|i| {
                    (hidden[i % 5] * (i as f64).sin() + 0.002 * draw()) as f32
                }))
            })
            .collect()
    }

    #[test]
    fn nobody_who_is_near_is_missed_and_few_others_are_found() {
        for (width, reach) in [(0.3, 0.002), (0.3, 0.02), (0.0, 0.002)] {
            let points = points(600, width);
            let numbered: Vec<(&Descriptor, usize)> = points.iter().zip(0..).collect();
            let neighbours = Neighbours::new(&numbered);
            let (mut found, mut near) = (0, 0);
            for point in &points {
                let numbers: std::collections::BTreeSet<usize> = neighbours.near(point, reach).collect();
                found += numbers.len();
                for (other, n) in &numbered {
                    if are_near(point, other, reach) {
                        assert!(numbers.contains(n), "{n} was missed at {width}, {reach}");
                        near += 1;
                    }
                }
            }
            assert!(near >= 600, "each is near itself");
            assert!(found <= 2 * near, "{found} were found where {near} are near ({width}, {reach})");
        }
    }
}
