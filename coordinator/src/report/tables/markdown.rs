//! A document as Markdown with footnotes (GitHub's dialect).

use super::super::document::{Block, Document, Table, TrialNotes, one_line};

pub(in crate::report) fn render(document: &Document) -> String {
    let (mut text, mut notes) = (String::new(), TrialNotes::default());
    for block in &document.blocks {
        match block {
            Block::Heading { level, text: title } => {
                text.push_str(&format!("{} {}\n\n", "#".repeat(*level), escape(title)));
            }
            Block::Paragraph(words) => text.push_str(&format!("{}\n\n", escape(words))),
            Block::Warning(words) => text.push_str(&format!("**{}**\n\n", escape(words))),
            Block::List { lead, items } => {
                text.push_str(&format!("{}\n\n", escape(lead)));
                items.iter().for_each(|item| text.push_str(&format!("- {}\n", escape(item))));
                text.push('\n');
            }
            Block::Table(table) => text.push_str(&render_table(table, &mut notes)),
            Block::Code(code) => text.push_str(&format!("```toml\n{}\n```\n\n", code.trim_end())),
        }
    }
    for (number, note) in notes.iter() {
        text.push_str(&format!("[^{number}]: {note}\n"));
    }
    text
}

fn render_table(table: &Table, notes: &mut TrialNotes) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(table.header.iter().map(|name| escape(name)).collect());
    text.push_str(&format!("|{}\n", " --- |".repeat(table.header.len())));
    for row in &table.rows {
        let cells = row.iter().map(|cell| {
            let words = escape(&cell.words());
            let words = if cell.is_best() { format!("**{words}**") } else { words };
            match notes.number(cell.trials()) {
                Some(number) => format!("{words}[^{number}]"),
                None => words,
            }
        });
        text.push_str(&line(cells.collect()));
    }
    text.push('\n');
    for note in &table.notes {
        text.push_str(&format!("{}\n\n", escape(note)));
    }
    text
}

/// Characters that would begin markup, on one line; underscores and brackets are harmless within words.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in one_line(text).chars() {
        if matches!(character, '\\' | '|' | '*' | '`' | '<') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}
