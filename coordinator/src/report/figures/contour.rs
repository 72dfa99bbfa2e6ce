//! Outlines of masks along the edges of their pixels.

use std::collections::BTreeMap;

use ndarray::Array2;

/// A corner between pixels: row and column.
type Corner = (usize, usize);

/// The closed outlines of the mask's pixels that are not 0, as corners `(row, column)`: those of holes too. Of a
/// straight run only the ends are corners. The first corner is not repeated.
pub(super) fn outlines(mask: &Array2<u8>) -> Vec<Vec<Corner>> {
    let mut edges = edges(mask);
    let mut loops = Vec::new();
    while let Some((&start, _)) = edges.first_key_value() {
        let mut corners = vec![start];
        let (mut at, mut heading) = (start, None);
        while let Some(next) = take(&mut edges, at, heading) {
            heading = Some(direction(at, next));
            at = next;
            if at == start {
                break;
            }
            corners.push(at);
        }
        loops.push(straightened(&corners));
    }
    loops
}

/// Edges between a pixel inside and one outside, by the corner that they begin in, with the inside on their right.
fn edges(mask: &Array2<u8>) -> BTreeMap<Corner, Vec<Corner>> {
    let (rows, columns) = mask.dim();
    let inside = |row: Option<usize>, column: Option<usize>| {
        row.zip(column).and_then(|at| mask.get(at)).is_some_and(|&value| value != 0)
    };
    let mut edges: BTreeMap<Corner, Vec<Corner>> = BTreeMap::new();
    let mut add = |from, to| edges.entry(from).or_default().push(to);
    for row in 0..rows {
        for column in 0..columns {
            if mask[(row, column)] == 0 {
                continue;
            }
            if !inside(row.checked_sub(1), Some(column)) {
                add((row, column), (row, column + 1));
            }
            if !inside(Some(row), Some(column + 1)) {
                add((row, column + 1), (row + 1, column + 1));
            }
            if !inside(Some(row + 1), Some(column)) {
                add((row + 1, column + 1), (row + 1, column));
            }
            if !inside(Some(row), column.checked_sub(1)) {
                add((row + 1, column), (row, column));
            }
        }
    }
    edges
}

/// Takes an edge that begins in `at`. Where two pixels touch by a corner there are two, and the one to the right goes
/// around the same pixel.
fn take(
    edges: &mut BTreeMap<Corner, Vec<Corner>>,
    at: Corner,
    heading: Option<(i64, i64)>,
) -> Option<Corner> {
    let ends = edges.get_mut(&at)?;
    let right = heading.map(|(rows, columns)| (columns, -rows));
    let place = ends.iter().position(|&end| Some(direction(at, end)) == right).unwrap_or(0);
    let end = ends.swap_remove(place);
    if ends.is_empty() {
        edges.remove(&at);
    }
    Some(end)
}

fn direction(from: Corner, to: Corner) -> (i64, i64) {
    let step = |from: usize, to: usize| (to as i64 - from as i64).signum();
    (step(from.0, to.0), step(from.1, to.1))
}

fn straightened(corners: &[Corner]) -> Vec<Corner> {
    let n = corners.len();
    (0..n)
        .filter(|&place| {
            let (before, at, after) =
                (corners[(place + n - 1) % n], corners[place], corners[(place + 1) % n]);
            direction(before, at) != direction(at, after)
        })
        .map(|place| corners[place])
        .collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_rectangle_has_four_corners() {
        let mask = array![[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]];
        assert_eq!(outlines(&mask), [vec![(1, 1), (1, 3), (2, 3), (2, 1)]]);
    }

    #[test]
    fn holes_and_pixels_at_the_border_have_outlines() {
        let mask = array![[1, 1, 1], [1, 0, 1], [1, 1, 1]];
        let loops = outlines(&mask);
        assert_eq!(loops.len(), 2);
        assert!(loops.iter().all(|corners| corners.len() == 4), "{loops:?}");
    }

    #[test]
    fn pixels_that_touch_by_a_corner_stay_apart() {
        let loops = outlines(&array![[1, 0], [0, 1]]);
        assert_eq!(loops.len(), 2, "{loops:?}");
        assert!(outlines(&array![[0_u8, 0], [0, 0]]).is_empty());
    }
}
