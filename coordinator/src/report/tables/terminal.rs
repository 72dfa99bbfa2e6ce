//! A document for a person at a terminal: aligned columns, the best marked by a star, no notes on trials.

use super::super::document::{Block, Document, Table};

pub(super) fn render(document: &Document) -> String {
    let mut text = String::new();
    for block in &document.blocks {
        match block {
            Block::Heading { text: title, .. } => text.push_str(&format!("\n{title}\n")),
            Block::Paragraph(words) | Block::Warning(words) | Block::Code(words) => {
                text.push_str(&format!("{words}\n\n"));
            }
            Block::List { lead, items } => {
                text.push_str(&format!("{lead}\n\n"));
                items.iter().for_each(|item| text.push_str(&format!("- {item}\n")));
                text.push('\n');
            }
            Block::Table(table) => {
                text.push_str(&format!("{}\n", columns(table)));
                table.notes.iter().for_each(|note| text.push_str(&format!("{note}\n\n")));
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
