//! Pixels with lines and letters, for images that programs without SVG read.

use super::png;

/// Pixels of the picture a pixel of the font.
pub(super) const FONT: usize = 2;
/// Width and height of a letter.
pub(super) const LETTER: usize = 8 * FONT;

pub(super) const BLACK: [u8; 3] = [0; 3];
pub(super) const WHITE: [u8; 3] = [255; 3];

/// Pixels in rows from the top left, red, green and blue; white at first. What lies outside is not drawn.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![255; width * height * 3] }
    }

    /// Width and height.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// `None` where it has no pixel or is too large for its format.
    pub(super) fn png(&self) -> Option<Vec<u8>> {
        png::rgb(self.width, self.height, &self.pixels)
    }

    pub(super) fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    pub(super) fn fill(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), colour: [u8; 3]) {
        for row in y..y + height {
            for column in x..x + width {
                self.set(column, row, colour);
            }
        }
    }

    /// A straight line with soft edges, `width` pixels wide.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), width: f64, colour: [u8; 3]) {
        let reach = width / 2.0 + 1.0;
        let range = |a: f64, b: f64, all: usize| {
            let low = (a.min(b) - reach).floor().clamp(0.0, all as f64) as usize;
            let high = (a.max(b) + reach).ceil().clamp(0.0, all as f64) as usize;
            low..high
        };
        for y in range(from.1, to.1, self.height) {
            for x in range(from.0, to.0, self.width) {
                let distance = distance((x as f64 + 0.5, y as f64 + 0.5), from, to);
                self.blend((x, y), (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0), colour);
            }
        }
    }

    fn blend(&mut self, (x, y): (usize, usize), share: f64, colour: [u8; 3]) {
        let at = (y * self.width + x) * 3;
        for (pixel, colour) in self.pixels[at..at + 3].iter_mut().zip(colour) {
            let mixed = f64::from(*pixel) + share * (f64::from(colour) - f64::from(*pixel));
            *pixel = mixed.round() as u8;
        }
    }

    /// Texts below one another; what is too long goes on in the next line.
    pub(super) fn lines(
        &mut self,
        (x, mut y): (usize, usize),
        width: usize,
        texts: &[String],
        colour: [u8; 3],
    ) {
        let letters = (width / LETTER).max(1);
        for text in texts {
            let text: Vec<char> = text.chars().collect();
            for part in text.chunks(letters).take(4) {
                self.text((x, y), &part.iter().collect::<String>(), colour);
                y += LETTER + 4;
            }
        }
    }

    pub(super) fn text(&mut self, (x, y): (usize, usize), text: &str, colour: [u8; 3]) {
        for (place, letter) in text.chars().enumerate() {
            let letter = if letter.is_ascii() { letter as usize } else { '?' as usize };
            for (row, bits) in font8x8::legacy::BASIC_LEGACY[letter].iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    let at = (x + place * LETTER + column * FONT, y + row * FONT);
                    self.fill(at, (FONT, FONT), colour);
                }
            }
        }
    }
}

/// From a point to the nearest of a line.
fn distance((x, y): (f64, f64), (x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> f64 {
    let (dx, dy) = (x2 - x1, y2 - y1);
    let length = dx * dx + dy * dy;
    let along = if length > 0.0 { (((x - x1) * dx + (y - y1) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    (x - x1 - along * dx).hypot(y - y1 - along * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_wide_as_asked_and_stays_on_the_canvas() {
        let mut canvas = Canvas::new(9, 9);
        canvas.line((-5.0, 4.5), (50.0, 4.5), 3.0, BLACK);
        let column: Vec<u8> = (0..9).map(|row| canvas.pixels[(row * 9 + 4) * 3]).collect();
        assert_eq!(column, [255, 255, 255, 0, 0, 0, 255, 255, 255]);
        canvas.text((0, 0), "W\u{2265}", BLACK);
        assert!(canvas.png().is_some_and(|png| png.starts_with(b"\x89PNG")));
    }
}
