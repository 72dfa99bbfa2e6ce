//! A document for a person at a terminal: aligned columns, the best marked by a star, no notes on trials. Prose is as wide
//! as the terminal; where there is none, its lines are not broken.

use super::super::document::{Block, Document, Table};

pub(super) fn render(document: &Document) -> String {
    // The same that its tables take for the width.
    prose(document, comfy_table::Table::new().width().map(usize::from))
}

fn prose(document: &Document, width: Option<usize>) -> String {
    let fill = |words: &str, indent: &str| match width {
        Some(width) => textwrap::fill(words, textwrap::Options::new(width).subsequent_indent(indent)),
        None => words.to_owned(),
    };
    let mut text = String::new();
    for block in &document.blocks {
        match block {
            Block::Heading { text: title, .. } => text.push_str(&format!("\n{title}\n")),
            Block::Paragraph(words) | Block::Warning(words) => {
                text.push_str(&format!("{}\n\n", fill(words, "")));
            }
            Block::Code(words) => text.push_str(&format!("{words}\n\n")),
            Block::List { lead, items } => {
                text.push_str(&format!("{}\n\n", fill(lead, "")));
                items
                    .iter()
                    .for_each(|item| text.push_str(&format!("{}\n", fill(&format!("- {item}"), "  "))));
                text.push('\n');
            }
            Block::Table(table) => {
                text.push_str(&format!("{}\n", columns(table)));
                table.notes.iter().for_each(|note| text.push_str(&format!("{}\n\n", fill(note, ""))));
            }
        }
    }
    text
}

fn columns(table: &Table) -> comfy_table::Table {
    let mut columns = comfy_table::Table::new();
    columns.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    columns.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    columns.set_header(table.header.clone());
    for row in &table.rows {
        columns.add_row(row.iter().map(|cell| {
            let words = cell.words();
            if cell.is_best() { format!("{words} *") } else { words }
        }));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_broken_between_words() {
        let items = vec!["an item that is longer than the line".to_owned()];
        let words = "a paragraph that is longer than the line".to_owned();
        let blocks = vec![Block::Paragraph(words), Block::List { lead: "lead".to_owned(), items }];
        let document = Document { blocks };
        let narrow = prose(&document, Some(20));
        assert_eq!(
            narrow,
            "a paragraph that is\nlonger than the line\n\nlead\n\n- an item that is\n  longer than the\n  line\n\n"
        );
        assert!(prose(&document, None).starts_with("a paragraph that is longer than the line\n"));
    }
}
