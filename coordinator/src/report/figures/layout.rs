//! Legends, and a figure's panels in one file.

use super::Figure;
use super::palette::{Stroke, marker};
use super::svg::{Anchor, Font, Panel, Svg, escape, number};

/// Where a row of panels in a file is full.
const FILE_WIDTH: f64 = 1100.0;
/// The same for panels in pairs.
const PAIR_WIDTH: f64 = 750.0;
const MARGIN: f64 = 12.0;
/// As wide as a narrow page.
const LEGEND_WIDTH: f64 = 350.0;

/// An entry of a legend.
pub(super) struct Entry {
    pub(super) stroke: Option<Stroke>,
    /// Number of the marker's series, and what it is filled with.
    pub(super) marker: Option<(usize, super::palette::Paint)>,
    pub(super) text: String,
}

/// Entries side by side, in as many lines as they take.
pub(super) fn legend(entries: &[Entry]) -> Panel {
    let mut svg = Svg::default();
    let (mut x, mut y) = (4.0, 14.0);
    for entry in entries {
        let width = 36.0 + Font::NORMAL.width(&entry.text) + 14.0;
        if x > 4.0 && x + width > LEGEND_WIDTH {
            (x, y) = (4.0, y + 20.0);
        }
        if let Some(stroke) = entry.stroke {
            svg.line((x, y - 4.0), (x + 30.0, y - 4.0), stroke);
        }
        if let Some((series, paint)) = entry.marker {
            svg.area(&marker(series, (x + 15.0, y - 4.0), 4.0), paint, None);
        }
        svg.text((x + 36.0, y), Anchor::Start, Font::NORMAL, &entry.text);
        x += width;
    }
    let names: Vec<&str> = entries.iter().map(|entry| entry.text.as_str()).collect();
    let mut panel = svg.panel((LEGEND_WIDTH, y + 8.0), &format!("legend: {}", names.join(", ")));
    panel.legend = true;
    panel
}

impl Figure {
    /// The figure as one drawing.
    fn file(&self) -> String {
        let (mut x, mut y, mut row) = (MARGIN, MARGIN + 28.0, 0.0_f64);
        let (mut width, mut body) = (Font::TITLE.width(&self.title) * 1.2 + 2.0 * MARGIN, String::new());
        let full = if self.pairs { PAIR_WIDTH } else { FILE_WIDTH };
        for panel in &self.panels {
            if x > MARGIN && x + panel.width > full {
                (x, y, row) = (MARGIN, y + row + MARGIN, 0.0);
            }
            body.push_str(&panel.svg(Some((x, y))));
            // Nothing stands beside a legend.
            x += if panel.legend { full } else { panel.width + MARGIN };
            row = row.max(panel.height);
            width = width.max(MARGIN + panel.width + MARGIN).max(if panel.legend { 0.0 } else { x });
        }
        let (width, height) = (number(width), number(y + row + MARGIN));
        let mut title = Svg::default();
        title.text((MARGIN, MARGIN + 12.0), Anchor::Start, Font { size: 15.0, ..Font::TITLE }, &self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\"><title>{}</title><desc>{}</desc>\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>{}{body}</svg>\n",
            escape(&self.title),
            escape(&self.caption),
            title.body()
        )
    }

    /// Its files: names below the report's directory, and what they hold.
    pub fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let png = self.png.clone();
        self.files().into_iter().zip([self.file().into_bytes()].into_iter().chain(png)).collect()
    }

    /// Names of its files, below the report's directory.
    pub fn files(&self) -> Vec<String> {
        let mut names = vec![format!("figures/{}.svg", self.name)];
        if self.png.is_some() {
            names.push(format!("figures/{}.png", self.name));
        }
        names
    }
}
