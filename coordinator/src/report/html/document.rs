//! The page's text and tables, from the same blocks as `tables.md`.

use std::collections::BTreeMap;

use maud::{Markup, PreEscaped, html};

use crate::report::document::{Block, Document, Table, TableCell, TrialNotes};

/// A part of the page with an entry in its contents.
pub(super) struct Section {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) body: Markup,
}

/// Ids that are unique within the page.
#[derive(Default)]
pub(super) struct Ids(BTreeMap<String, usize>);

impl Ids {
    /// An id made of the letters and digits of `text`.
    pub(super) fn of(&mut self, text: &str) -> String {
        let mut id = String::new();
        for character in text.chars() {
            if character.is_ascii_alphanumeric() {
                id.push(character.to_ascii_lowercase());
            } else if !id.ends_with('-') && !id.is_empty() {
                id.push('-');
            }
        }
        let id = id.trim_end_matches('-').to_owned();
        let id = if id.is_empty() { "part".to_owned() } else { id };
        let used = self.0.entry(id.clone()).or_default();
        *used += 1;
        // A dot cannot be part of an id made of text, so that a numbered one cannot meet another.
        if *used == 1 { id } else { format!("{id}.{used}") }
    }
}

/// A document as parts of a page.
pub(super) struct Parts {
    /// What stands before the first heading but the title.
    pub(super) introduction: Markup,
    /// One a heading of level 2.
    pub(super) sections: Vec<Section>,
    /// The trials behind the cells, which cells refer to; absent where no cell does.
    pub(super) notes: Option<Section>,
}

impl Parts {
    pub(super) fn of(document: &Document, ids: &mut Ids) -> Self {
        let mut notes = TrialNotes::default();
        let mut introduction = String::new();
        let mut sections: Vec<Section> = Vec::new();
        let mut heading = "";
        for block in &document.blocks {
            match block {
                // The page has its own title.
                Block::Heading { level: 0 | 1, .. } => continue,
                Block::Heading { level: 2, text } => {
                    let id = ids.of(text);
                    sections.push(Section { id, title: text.clone(), body: PreEscaped(String::new()) });
                    heading = text;
                    continue;
                }
                _ => {}
            }
            let markup = draw(block, heading, ids, &mut notes).into_string();
            if let Block::Heading { text, .. } = block {
                heading = text;
            }
            match sections.last_mut() {
                Some(section) => section.body.0.push_str(&markup),
                None => introduction.push_str(&markup),
            }
        }
        Self { introduction: PreEscaped(introduction), sections, notes: trials(&notes, ids) }
    }
}

fn draw(block: &Block, heading: &str, ids: &mut Ids, notes: &mut TrialNotes) -> Markup {
    match block {
        Block::Heading { text, .. } => html! { h3 id=(ids.of(text)) { (text) } },
        Block::Paragraph(text) => html! { p { (text) } },
        Block::Warning(text) => html! { div.warning role="note" { p { strong { (text) } } } },
        Block::List { lead, items } => html! {
            p { (lead) }
            ul { @for item in items { li { (item) } } }
        },
        Block::Table(table) => draw_table(table, heading, ids, notes),
        Block::Code(text) => html! { pre tabindex="0" { code { (text) } } },
    }
}

fn draw_table(table: &Table, heading: &str, ids: &mut Ids, notes: &mut TrialNotes) -> Markup {
    let mut drawn = |cell: &TableCell| Drawn {
        class: match cell {
            TableCell::Value { aggregate, .. } if !aggregate.is_complete() => "gap long",
            _ => class(&cell.words()),
        },
        content: content(cell, notes),
    };
    let rows: Vec<Vec<Drawn>> = table.rows.iter().map(|row| row.iter().map(&mut drawn).collect()).collect();
    let id = ids.of(&table.id);
    // A caption that repeats the heading above it would only be read twice.
    let caption = (table.caption != heading && !table.caption.is_empty()).then_some(table.caption.as_str());
    html! {
        (frame(&id, &table.caption, caption, &table.header, &rows))
        @for note in &table.notes { p { (note) } }
    }
}

/// A cell of the page's tables.
struct Drawn {
    class: &'static str,
    content: Markup,
}

/// Cells with more characters are broken into lines; figures never are.
const LONG: usize = 40;

fn class(words: &str) -> &'static str {
    if words.chars().count() > LONG { "long" } else { "" }
}

fn content(cell: &TableCell, notes: &mut TrialNotes) -> Markup {
    html! {
        @if cell.is_best() { strong { (cell.words()) } } @else { (cell.words()) }
        @if let Some(number) = notes.number(cell.trials()) {
            sup { a href=(format!("#note-{number}")) aria-label=(format!("trials, note {number}")) { (number) } }
        }
    }
}

fn trials(notes: &TrialNotes, ids: &mut Ids) -> Option<Section> {
    let notes: Vec<(usize, String)> = notes.iter().collect();
    (!notes.is_empty()).then(|| Section {
        id: ids.of("trials behind the cells"),
        title: "Trials behind the cells".to_owned(),
        body: html! {
            ol.notes { @for (number, text) in &notes { li id=(format!("note-{number}")) { (text) } } }
        },
    })
}

/// A table of plain words.
pub(super) fn table(id: &str, name: &str, header: &[String], rows: &[Vec<String>]) -> Markup {
    let drawn = |cell: &String| Drawn { class: class(cell), content: html! { (cell) } };
    let rows: Vec<Vec<Drawn>> = rows.iter().map(|row| row.iter().map(drawn).collect()).collect();
    frame(id, name, None, header, &rows)
}

/// A table in a frame of its own, which scrolls where the page is narrower.
fn frame(id: &str, name: &str, caption: Option<&str>, header: &[String], rows: &[Vec<Drawn>]) -> Markup {
    html! {
        // Not within the table, where it would be as wide and as narrow as that is.
        @if let Some(caption) = caption { p.caption { (caption) } }
        div.scroll id=(id) tabindex="0" role="region" aria-label=(name) {
            table {
                thead { tr { @for cell in header { th scope="col" { (cell) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (column, Drawn { class, content }) in row.iter().enumerate() {
                                @if column == 0 { th scope="row" { (content) } }
                                @else { td class=[(!class.is_empty()).then_some(class)] { (content) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
