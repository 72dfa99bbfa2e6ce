//! A small writer of SVG text.
//!
//! Ours rather than a plotting crate's: those split dashes into many short lines, name nothing for a screen reader, and
//! fix every colour, while here the page's style sheet may exchange them. Every shape has its colours as attributes,
//! which editors and office programs understand, and a class, which the page's style sheet overrides.

use std::fmt::Write as _;

use super::palette::{Paint, Stroke};

/// Part of a figure: a drawing of a fixed size in CSS pixels.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
    /// Whether it keeps its size on a narrow page, to be scrolled.
    pub wide: bool,
    /// Whether it stands in a row of its own, above the others.
    pub legend: bool,
    /// What a screen reader says in its place.
    pub label: String,
    body: String,
}

impl Panel {
    /// As an element of a page, or of another drawing at the given place.
    pub fn svg(&self, place: Option<(f64, f64)>) -> String {
        let (width, height) = (number(self.width), number(self.height));
        let place = place.map_or_else(
            || " class=\"panel\" font-family=\"system-ui, sans-serif\"".to_owned(),
            |(x, y)| format!(" x=\"{}\" y=\"{}\"", number(x), number(y)),
        );
        format!(
            "<svg{place} role=\"img\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\"><title>{}\
             </title>{}</svg>",
            escape(&self.label),
            self.body
        )
    }
}

/// A drawing that is being made.
#[derive(Default)]
pub(super) struct Svg {
    body: String,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) paint: Paint,
}

impl Font {
    pub(super) const TITLE: Self = Self { size: 13.0, bold: true, paint: Paint::Ink };
    pub(super) const NORMAL: Self = Self { size: 12.0, bold: false, paint: Paint::Ink };
    pub(super) const SMALL: Self = Self { size: 11.0, bold: false, paint: Paint::Soft };

    /// About how wide a text will be: no font is at hand, and the reader's is not known.
    pub(super) fn width(self, text: &str) -> f64 {
        text.chars().count() as f64 * self.size * if self.bold { 0.58 } else { 0.54 }
    }

    /// The text in lines of at most about `width`; the last of `lines` ends in an ellipsis where more would follow.
    pub(super) fn wrap(self, text: &str, width: f64, lines: usize) -> Vec<String> {
        let mut wrapped: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match wrapped.last_mut() {
                Some(line) if self.width(line) + self.width(word) + self.size / 2.0 <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => wrapped.push(word.to_owned()),
            }
        }
        if wrapped.len() > lines {
            wrapped.truncate(lines);
            if let Some(last) = wrapped.last_mut() {
                last.push_str(" …");
            }
        }
        wrapped
    }
}

impl Svg {
    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: Stroke) {
        self.stroke(&format!("M{} {}L{} {}", number(x1), number(y1), number(x2), number(y2)), stroke);
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], stroke: Stroke) {
        let points: Vec<String> =
            points.iter().map(|(x, y)| format!("{} {}", number(*x), number(*y))).collect();
        if points.len() > 1 {
            self.stroke(&format!("M{}", points.join("L")), stroke);
        }
    }

    /// A path without an area.
    pub(super) fn stroke(&mut self, data: &str, stroke: Stroke) {
        let Stroke { paint, width, dash } = stroke;
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        let class = class("st", paint);
        let _ = write!(
            self.body,
            "<path{class} d=\"{data}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"{dash} stroke-linejoin=\"round\"/>",
            paint.colour(),
            number(width)
        );
    }

    /// A path's area, with words for a pointer that rests on it.
    pub(super) fn area(&mut self, data: &str, paint: Paint, title: Option<&str>) {
        if data.is_empty() {
            return;
        }
        let title = title.map(|title| format!("<title>{}</title>", escape(title))).unwrap_or_default();
        let class = class("fl", paint);
        let _ = write!(self.body, "<path{class} d=\"{data}\" fill=\"{}\">{title}</path>", paint.colour());
    }

    pub(super) fn rectangle(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        let _ = write!(
            self.body,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>",
            number(x),
            number(y),
            number(width),
            number(height),
            escape(fill)
        );
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, font: Font, text: &str) {
        self.turned_text((x, y), anchor, font, 0, text);
    }

    pub(super) fn turned_text(
        &mut self,
        (x, y): (f64, f64),
        anchor: Anchor,
        font: Font,
        degrees: i32,
        text: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let weight = if font.bold { " font-weight=\"600\"" } else { "" };
        let (x, y) = (number(x), number(y));
        let turn =
            if degrees == 0 { String::new() } else { format!(" transform=\"rotate({degrees} {x} {y})\"") };
        let _ = write!(
            self.body,
            "<text{} x=\"{x}\" y=\"{y}\"{anchor}{weight}{turn} font-size=\"{}\" fill=\"{}\">{}</text>",
            class("fl", font.paint),
            number(font.size),
            font.paint.colour(),
            escape(text)
        );
    }

    /// SVG that was made elsewhere.
    pub(super) fn raw(&mut self, svg: &str) {
        self.body.push_str(svg);
    }

    /// What was drawn so far.
    pub(super) fn body(&self) -> &str {
        &self.body
    }

    pub(super) fn panel(self, (width, height): (f64, f64), label: &str) -> Panel {
        Panel { width, height, wide: false, legend: false, label: label.to_owned(), body: self.body }
    }
}

fn class(kind: &str, paint: Paint) -> String {
    paint.class().map(|class| format!(" class=\"{kind}-{class}\"")).unwrap_or_default()
}

/// Text as content or attribute of XML. Control characters, which XML does not know, become spaces.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A coordinate with one digit, which is below what a screen shows; 0 for what is not finite, so that a drawing stays
/// readable whatever its data.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "0".to_owned();
    }
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}
