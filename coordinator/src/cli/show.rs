//! `mtinet data show`: a case's phases with the outline of its lesions, and the mask, side by side in one picture.

use mtinet_data::Dataset;
use serde_json::json;

use super::args::ShowCaseArgs;
use super::error::CliError;
use super::output::{print, print_json, say};
use crate::report::write_atomically;

/// A panel's longer side has about this many pixels, or more where the slice itself has.
const PANEL: f64 = 384.0;
/// Pixels between two panels.
const GAP: usize = 4;
const OUTLINE: [u8; 3] = [255, 210, 0];
/// Shares of a slice's pixels that may be darker than black and brighter than white.
const WINDOW: [f64; 2] = [0.01, 0.99];

/// Values of one slice, row by row.
pub struct Plane<T> {
    /// Height.
    pub rows: usize,
    /// Width.
    pub columns: usize,
    /// `rows * columns` values.
    pub values: Vec<T>,
}

/// A picture, row by row, three bytes a pixel.
struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// Blocking: the case's volumes are read.
///
/// # Errors
/// Exit code 4 for a data set or a case that is not there or cannot be read, 1 where the file cannot be written.
pub fn run(args: &ShowCaseArgs) -> Result<(), CliError> {
    let dataset = Dataset::open(&args.dataset)?;
    let case = dataset.case(&args.case)?;
    let (mask, grid) = dataset.load_mask(case)?;
    let [slices, rows, columns] = grid.shape;
    let area =
        |z: usize| (0..rows).map(|y| (0..columns).filter(|&x| mask[[z, y, x]] > 0).count()).sum::<usize>();
    // Of slices with equal lesions the lowest; without any lesion the middle one.
    let areas: Vec<usize> = (0..slices).map(area).collect();
    let largest = areas.iter().copied().max().unwrap_or(0);
    let z =
        if largest == 0 { slices / 2 } else { areas.iter().position(|&area| area == largest).unwrap_or(0) };
    let plane = |value: &dyn Fn(usize, usize) -> f32| -> Plane<f32> {
        let values = (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x)));
        Plane { rows, columns, values: values.map(|(y, x)| value(y, x)).collect() }
    };
    let mut phases = Vec::new();
    for phase in &dataset.header.phases {
        let volume = dataset.load_image(case, phase)?;
        if volume.grid.shape != grid.shape {
            return Err(CliError::BadData(format!(
                "case {}: phase {phase} has {:?} voxels and the mask {:?}; `mtinet data check {}` says what to do",
                case.case,
                volume.grid.shape,
                grid.shape,
                args.dataset.display()
            )));
        }
        phases.push(plane(&|y, x| volume.data[[z, y, x]]));
    }
    let lesion = plane(&|y, x| f32::from(u8::from(mask[[z, y, x]] > 0)));
    let picture = png(&phases, &lesion, [grid.spacing[1], grid.spacing[2]])?;
    write_atomically(&args.out, &picture)?;
    let named = dataset.header.phases.join(", ");
    let lesion = match largest {
        0 => "it has no lesion; this is its middle slice".to_owned(),
        area => format!("its largest lesion section, {area} pixels, outlined"),
    };
    say(format_args!(
        "case {} ({}), slice {z} of {slices}: {lesion}; from left to right {named}, mask",
        case.case, case.class
    ));
    if args.json {
        let document = json!({ "case": case.case, "class": case.class, "slice": z, "lesion_pixels": largest, "file": args.out });
        print_json(&document);
    } else {
        print(args.out.display());
    }
    Ok(())
}

/// A picture of the phases with the lesion outlined, and of the lesion (0 or 1), as PNG. `spacing` is in mm, between rows
/// and between columns.
///
/// # Errors
/// Exit code 4 where the slice is too large for the format.
pub fn png(phases: &[Plane<f32>], lesion: &Plane<f32>, spacing: [f64; 2]) -> Result<Vec<u8>, CliError> {
    encode(&draw(phases, lesion, spacing))
}

/// The phases in one common window, so that enhancement can be seen, and the mask.
fn draw(phases: &[Plane<f32>], lesion: &Plane<f32>, spacing: [f64; 2]) -> Picture {
    let (low, high) = window(phases);
    let scale = scale(lesion, spacing);
    let grey = |value: f32| ((value - low) / (high - low) * 255.0).clamp(0.0, 255.0) as u8;
    let mut panels: Vec<Picture> = phases
        .iter()
        .map(|phase| {
            let edge = outline(lesion, scale);
            panel(phase, scale, |y, x, value| if edge(y, x) { OUTLINE } else { [grey(value); 3] })
        })
        .collect();
    panels.push(panel(lesion, scale, |_, _, value| [(value * 255.0) as u8; 3]));
    join(&panels)
}

/// Values that become black and white. What is not finite counts for nothing, and is drawn black.
fn window(phases: &[Plane<f32>]) -> (f32, f32) {
    let mut values: Vec<f32> = phases.iter().flat_map(|phase| phase.values.iter().copied()).collect();
    values.retain(|value| value.is_finite());
    values.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| values.get((share * values.len().saturating_sub(1) as f64) as usize).copied();
    let (low, high) = (at(WINDOW[0]).unwrap_or(0.0), at(WINDOW[1]).unwrap_or(1.0));
    // A slice that is constant is drawn black instead of divided by nothing.
    (low, if high > low { high } else { low + 1.0 })
}

/// Picture pixels per voxel along rows and columns: square in millimetres, never less than one.
fn scale(plane: &Plane<f32>, [row, column]: [f64; 2]) -> [f64; 2] {
    let finest = row.min(column);
    let extent = [plane.rows as f64 * row / finest, plane.columns as f64 * column / finest];
    let enlarge = (PANEL / extent[0].max(extent[1])).round().max(1.0);
    [enlarge * row / finest, enlarge * column / finest]
}

/// Whether a pixel of a panel lies in the lesion and beside one that does not.
fn outline(lesion: &Plane<f32>, scale: [f64; 2]) -> impl Fn(usize, usize) -> bool {
    let inside = move |y: usize, x: usize| at(lesion, scale, y, x).is_some_and(|value| value > 0.0);
    move |y, x| {
        let beside = [(y.wrapping_sub(1), x), (y + 1, x), (y, x.wrapping_sub(1)), (y, x + 1)];
        inside(y, x) && beside.into_iter().any(|(y, x)| !inside(y, x))
    }
}

/// The voxel under a pixel of a panel; none outside of it.
fn at(plane: &Plane<f32>, scale: [f64; 2], y: usize, x: usize) -> Option<f32> {
    let (row, column) = ((y as f64 / scale[0]) as usize, (x as f64 / scale[1]) as usize);
    (row < plane.rows && column < plane.columns).then(|| plane.values[row * plane.columns + column])
}

fn panel(plane: &Plane<f32>, scale: [f64; 2], colour: impl Fn(usize, usize, f32) -> [u8; 3]) -> Picture {
    let height = (plane.rows as f64 * scale[0]).round() as usize;
    let width = (plane.columns as f64 * scale[1]).round() as usize;
    let mut rgb = Vec::with_capacity(3 * width * height);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        rgb.extend(colour(y, x, at(plane, scale, y, x).unwrap_or(0.0)));
    }
    Picture { width, height, rgb }
}

/// Panels of one height side by side.
fn join(panels: &[Picture]) -> Picture {
    let height = panels.first().map_or(0, |panel| panel.height);
    let mut rgb = Vec::new();
    for y in 0..height {
        for (place, panel) in panels.iter().enumerate() {
            if place > 0 {
                rgb.extend([255; 3 * GAP]);
            }
            rgb.extend_from_slice(&panel.rgb[3 * panel.width * y..3 * panel.width * (y + 1)]);
        }
    }
    let gaps = GAP * panels.len().saturating_sub(1);
    Picture { width: panels.iter().map(|panel| panel.width).sum::<usize>() + gaps, height, rgb }
}

fn encode(picture: &Picture) -> Result<Vec<u8>, CliError> {
    let failed = |error: png::EncodingError| CliError::failed("cannot make the picture", &error);
    let too_large = |_| CliError::BadData("the slice is too large for a picture".to_owned());
    let (width, height) =
        (u32::try_from(picture.width).map_err(too_large)?, u32::try_from(picture.height).map_err(too_large)?);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&picture.rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 x 4 voxels of which the 2 x 2 in the middle are lesion.
    fn lesion() -> Plane<f32> {
        let inside = |i: usize| [5, 6, 9, 10].contains(&i);
        Plane { rows: 4, columns: 4, values: (0..16).map(|i| f32::from(u8::from(inside(i)))).collect() }
    }

    #[test]
    fn phases_share_one_window_and_the_lesion_is_outlined() {
        let phase = |value: f32| Plane { rows: 4, columns: 4, values: vec![value; 16] };
        let picture = draw(&[phase(100.0), phase(300.0)], &lesion(), [1.0, 1.0]);
        let side = 384;
        assert_eq!((picture.height, picture.width), (side, 3 * side + 2 * GAP));
        let pixel = |panel: usize, y: usize, x: usize| {
            let at = 3 * (y * picture.width + panel * (side + GAP) + x);
            [picture.rgb[at], picture.rgb[at + 1], picture.rgb[at + 2]]
        };
        assert_eq!((pixel(0, 0, 0), pixel(1, 0, 0), pixel(2, 0, 0)), ([0; 3], [255; 3], [0; 3]));
        // A voxel is 96 pixels: the lesion goes from 96 to 287, its edge alone is drawn.
        for panel in [0, 1] {
            assert_eq!((pixel(panel, 96, 150), pixel(panel, 287, 287)), (OUTLINE, OUTLINE));
            assert_ne!(pixel(panel, 190, 190), OUTLINE);
            assert_ne!(pixel(panel, 95, 150), OUTLINE);
        }
        assert_eq!((pixel(2, 96, 96), pixel(2, 95, 95)), ([255; 3], [0; 3]));
    }

    #[test]
    fn voxels_that_are_not_square_keep_their_shape_and_bad_values_do_no_harm() {
        assert_eq!(scale(&lesion(), [1.0, 2.0]), [48.0, 96.0]);
        let odd = Plane { rows: 1, columns: 3, values: vec![f32::NAN, 5.0, f32::INFINITY] };
        assert_eq!(window(&[odd]), (5.0, 6.0));
        assert_eq!(window(&[]), (0.0, 1.0));
    }
}
