//! Images as PNG.

use base64::Engine as _;
use ndarray::{Array2, ArrayView2};

/// Grey values as an 8-bit PNG.
pub(super) fn grey(image: &Array2<u8>) -> Option<Vec<u8>> {
    let (rows, columns) = image.dim();
    encode(png::ColorType::Grayscale, columns, rows, image.as_standard_layout().as_slice()?)
}

/// Rows of red, green and blue as an 8-bit PNG.
pub(super) fn rgb(columns: usize, rows: usize, pixels: &[u8]) -> Option<Vec<u8>> {
    encode(png::ColorType::Rgb, columns, rows, pixels)
}

/// `None` where the image has no pixel or more than the format holds.
fn encode(colour: png::ColorType, columns: usize, rows: usize, pixels: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(columns).ok()?, u32::try_from(rows).ok()?);
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(pixels).ok()?;
    writer.finish().ok()?;
    Some(bytes)
}

/// An image that a page carries in itself.
pub(super) fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(png))
}

/// Intensities as grey values: the 1st to the 99th percentile from black to white, because single bright vessels would
/// leave the rest dark.
pub(super) fn windowed(image: &ArrayView2<'_, f32>) -> Array2<u8> {
    let mut values: Vec<f32> = image.iter().copied().filter(|value| value.is_finite()).collect();
    values.sort_by(f32::total_cmp);
    let at = |share: f64| values.get((share * values.len().saturating_sub(1) as f64) as usize).copied();
    let (low, high) = (at(0.01).unwrap_or(0.0), at(0.99).unwrap_or(0.0));
    let range = (high - low).max(f32::MIN_POSITIVE);
    // A value that is not finite becomes black: `as` saturates and takes NaN to 0.
    image.mapv(|value| ((value - low) / range * 255.0).clamp(0.0, 255.0) as u8)
}
