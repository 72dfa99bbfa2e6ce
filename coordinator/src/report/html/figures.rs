//! Figures in the page.

use maud::{Markup, PreEscaped, html};

use super::document::{Ids, Section, table};
use crate::report::figures::{Figure, Group};

/// Figures of one kind as a section.
pub(super) fn section(group: &Group, ids: &mut Ids) -> Section {
    // The section's heading names a figure that stands alone.
    let alone = group.figures.len() == 1 && group.introduction.is_empty();
    let body = html! {
        @if !group.introduction.is_empty() { p { (group.introduction) } }
        @for figure in &group.figures { (draw(figure, alone, ids)) }
    };
    Section { id: ids.of(group.title), title: group.title.to_owned(), body }
}

fn draw(figure: &Figure, alone: bool, ids: &mut Ids) -> Markup {
    let id = ids.of(&format!("figure-{}", figure.name));
    html! {
        figure id=(id) {
            @if !alone { h3 { (figure.title) } }
            div.panels.pairs[figure.pairs] {
                @for panel in &figure.panels {
                    @if panel.wide {
                        div.scroll tabindex="0" role="region" aria-label=(figure.title) {
                            (PreEscaped(panel.svg(None)))
                        }
                    } @else if panel.legend {
                        div.legend { (PreEscaped(panel.svg(None))) }
                    } @else {
                        (PreEscaped(panel.svg(None)))
                    }
                }
            }
            @if let Some(numbers) = &figure.numbers { (table(&format!("{id}-numbers"), &figure.title, &numbers.header, &numbers.rows)) }
            figcaption {
                p { (figure.caption) }
                @if !figure.missing.is_empty() {
                    p.missing { strong { "Missing: " } (figure.missing.join("; ")) "." }
                }
                p.files {
                    "File: "
                    @for (place, file) in figure.files().iter().enumerate() {
                        @if place > 0 { ", " }
                        a href=(file) { (file) }
                    }
                    "."
                }
                @if !figure.from.is_empty() {
                    details {
                        summary { "From " (figure.from.len()) @if figure.from.len() == 1 { " trial" } @else { " trials" } }
                        p { (figure.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) }
                    }
                }
            }
        }
    }
}
