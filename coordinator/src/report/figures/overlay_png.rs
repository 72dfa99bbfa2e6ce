//! The segmentation figure as an image, for programs that do not take SVG.

use mtinet_domain::Arm;
use ndarray::Array2;

use super::canvas::{BLACK, Canvas, WHITE};
use super::contour::outlines;
use super::overlay::{PREDICTION, TRUTH, Window};
use super::pictures::Picture;
use crate::report::results::StudyResults;

/// Side of a cell, pixels.
const CELL: usize = 256;
const GAP: usize = 8;
const LEFT: usize = 232;
const TOP: usize = 28;
const ROW: usize = CELL + 32;
const GREY: [u8; 3] = [0xe8; 3];

/// Columns are the whole slice, the truth and the arms; width, height and the file. `None` where the image would be too large
/// for its format.
pub(super) fn draw(
    results: &StudyResults,
    shown: &[&Picture],
    arms: &[Arm],
) -> Option<((usize, usize), Vec<u8>)> {
    let column = |place: usize| LEFT + (CELL + GAP) * place;
    let mut canvas = Canvas::new(column(arms.len() + 2), TOP + ROW * shown.len());
    let names = ["whole slice", "truth"].into_iter().chain(arms.iter().map(|arm| arm.name()));
    for (place, name) in names.enumerate() {
        canvas.text((column(place), 6), name, BLACK);
    }
    for (place, picture) in shown.iter().enumerate() {
        let top = TOP + ROW * place;
        let class = results.dataset.classes.get(picture.chosen.class).map_or("", String::as_str);
        let label = [
            picture.chosen.subject.clone(),
            class.to_owned(),
            format!("slice {}", picture.chosen.slice),
            format!("fold {}", picture.chosen.fold),
        ];
        canvas.lines((4, top + 4), LEFT - 12, &label, BLACK);
        let window = Window::around(picture);
        let part = window.cut(&picture.image).to_owned();
        canvas.image((column(0), top), &picture.image);
        canvas.frame((column(0), top), picture.image.dim(), window);
        canvas.image((column(1), top), &part);
        canvas.outline((column(1), top), &picture.truth, window, TRUTH, false);
        for (place, arm) in arms.iter().enumerate() {
            let at = (column(place + 2), top);
            match picture.predicted.get(arm) {
                Some(Ok(mask)) => {
                    canvas.image(at, &part);
                    canvas.outline(at, &picture.truth, window, TRUTH, false);
                    canvas.outline(at, mask, window, PREDICTION, true);
                }
                Some(Err(reason)) => canvas.gap(at, reason),
                None => canvas.gap(at, "no mask"),
            }
            if let Some(dsc) = picture.chosen.dsc.get(arm) {
                canvas.text((at.0, top + CELL + 6), &format!("DSC {dsc:.1} %"), BLACK);
            }
        }
    }
    Some((canvas.size(), canvas.png()?))
}

/// What the figure draws in a cell.
impl Canvas {
    /// The image over a whole cell, pixels as squares: what the network saw, without smoothing.
    fn image(&mut self, (x, y): (usize, usize), image: &Array2<u8>) {
        let (rows, columns) = image.dim();
        for row in 0..CELL {
            for column in 0..CELL {
                let value = image[(row * rows / CELL, column * columns / CELL)];
                self.set(x + column, y + row, [value; 3]);
            }
        }
    }

    fn frame(&mut self, at: (usize, usize), (rows, columns): (usize, usize), window: Window) {
        let Window { row, column, rows: height, columns: width } = window;
        let corners =
            [(row, column), (row, column + width), (row + height, column + width), (row + height, column)];
        let whole = Window { row: 0, column: 0, rows, columns };
        self.closed(at, &scaled(&corners, whole), Pen { radius: 2, colour: BLACK, dashed: false });
        self.closed(at, &scaled(&corners, whole), Pen { radius: 1, colour: WHITE, dashed: false });
    }

    fn outline(
        &mut self,
        at: (usize, usize),
        mask: &Array2<u8>,
        window: Window,
        colour: [u8; 3],
        dashed: bool,
    ) {
        for corners in outlines(mask) {
            let corners = scaled(&corners, window);
            self.closed(at, &corners, Pen { radius: 2, colour: BLACK, dashed: false });
            self.closed(at, &corners, Pen { radius: 1, colour, dashed });
        }
    }

    /// A closed line of horizontal and vertical runs between corners `(row, column)` of a cell.
    fn closed(&mut self, cell: (usize, usize), corners: &[(i64, i64)], pen: Pen) {
        let mut walked = 0;
        for (place, &(mut row, mut column)) in corners.iter().enumerate() {
            let end = corners[(place + 1) % corners.len()];
            while (row, column) != end {
                if !pen.dashed || walked % 14 < 8 {
                    self.dot(cell, (row, column), pen);
                }
                row += (end.0 - row).signum();
                column += (end.1 - column).signum();
                walked += 1;
            }
        }
    }

    /// A square of the pen's size, as far as it lies in the cell: a line must not run into the next one.
    fn dot(&mut self, (x, y): (usize, usize), (row, column): (i64, i64), pen: Pen) {
        for row in row - pen.radius..=row + pen.radius {
            for column in column - pen.radius..=column + pen.radius {
                if let (Ok(row), Ok(column)) = (usize::try_from(row), usize::try_from(column))
                    && row < CELL
                    && column < CELL
                {
                    self.set(x + column, y + row, pen.colour);
                }
            }
        }
    }

    fn gap(&mut self, at: (usize, usize), reason: &str) {
        self.fill(at, (CELL, CELL), GREY);
        let words: Vec<String> = reason.split_whitespace().map(str::to_owned).collect();
        self.lines((at.0 + 8, at.1 + 8), CELL - 16, &words, BLACK);
    }
}

/// How a line is drawn: `2 radius + 1` pixels wide.
#[derive(Clone, Copy)]
struct Pen {
    radius: i64,
    colour: [u8; 3],
    dashed: bool,
}

/// Corners of a slice in pixels of a cell that shows `window`; outside of it where they are.
fn scaled(corners: &[(usize, usize)], window: Window) -> Vec<(i64, i64)> {
    let scale = |value: usize, first: usize, all: usize| {
        (value as i64 - first as i64) * CELL as i64 / all.max(1) as i64
    };
    let corner = |&(row, column): &(usize, usize)| {
        (scale(row, window.row, window.rows), scale(column, window.column, window.columns))
    };
    corners.iter().map(corner).collect()
}
