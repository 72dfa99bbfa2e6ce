//! Tables as LaTeX: `table` environments with booktabs, and a document around them.
//!
//! Written by hand because no kept crate writes LaTeX tables; what can break a compilation is [`escape`]'s business
//! alone. What the report says before a table or in a list after it becomes part of the notes below the table, since
//! an environment may float away from the text.

use super::super::document::{Block, Document, Table, TableCell, TrialNotes, one_line};
use super::super::results::StudyResults;

/// Characters that a line of `\small` type holds between the margins of the standalone document.
const LINE: usize = 92;

/// Characters that the space between two columns takes.
const COLUMN_GAP: usize = 2;

pub(super) fn render(document: &Document, results: &StudyResults) -> String {
    let mut text = header(results);
    for (table, before, after) in with_words(document) {
        text.push_str(&environment(table, &before, &after, results));
    }
    text
}

pub(super) fn standalone(results: &StudyResults) -> String {
    format!(
        "% The tables of study {} as a document of their own; the tables themselves are in tables.tex beside it.\n\
         % Compile in this directory: pdflatex tables-standalone.tex\n\
         \\documentclass[11pt,a4paper]{{article}}\n\
         \\usepackage[T1]{{fontenc}}\n\
         \\usepackage[utf8]{{inputenc}}\n\
         \\usepackage{{textcomp}}\n\
         \\usepackage[margin=20mm]{{geometry}}\n\
         \\usepackage{{booktabs}}\n\
         \\usepackage{{tabularx}}\n\
         \\extrafloats{{64}}\n\
         \\begin{{document}}\n\
         \\input{{tables.tex}}\n\
         \\end{{document}}\n",
        comment(&results.spec.name)
    )
}

fn header(results: &StudyResults) -> String {
    format!(
        "% Tables of study {}, data set {} (BLAKE3 {}), written by mtinet {}.\n\
         % Take it into a document with \\input{{tables.tex}}; the preamble needs \\usepackage{{booktabs,tabularx,textcomp}}\n\
         % and \\usepackage[T1]{{fontenc}}. tables-standalone.tex beside it compiles as it is.\n\n",
        comment(&results.spec.name),
        comment(&results.dataset.name),
        comment(&results.dataset.hash),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Each table with the paragraphs before it and the list after it. A lead that ends in a colon only points down.
fn with_words(document: &Document) -> Vec<(&Table, Vec<String>, Vec<String>)> {
    let mut tables: Vec<(&Table, Vec<String>, Vec<String>)> = Vec::new();
    let mut before = Vec::new();
    for block in &document.blocks {
        match block {
            Block::Paragraph(words) | Block::Warning(words) if !words.ends_with(':') => {
                before.push(words.clone());
            }
            Block::Table(table) => tables.push((table, std::mem::take(&mut before), Vec::new())),
            Block::List { lead, items } => {
                if let Some((_, _, after)) = tables.last_mut() {
                    after.push(format!("{lead} {}", items.join(" ")));
                }
            }
            _ => {}
        }
    }
    // Words after the last table, such as on a metric of which nothing can be compared.
    if let Some((_, _, after)) = tables.last_mut() {
        after.append(&mut before);
    }
    tables
}

fn environment(table: &Table, before: &[String], after: &[String], results: &StudyResults) -> String {
    let mut notes = TrialNotes::default();
    let header: Vec<String> = table.header.iter().map(|name| escape(name)).collect();
    let mut rows = String::new();
    for row in &table.rows {
        let cells: Vec<String> = row.iter().map(|cell| set(cell, &mut notes)).collect();
        rows.push_str(&format!("    {} \\\\\n", cells.join(" & ")));
    }
    let (begin, end, size) = columns(table);
    let mut below: Vec<String> =
        before.iter().chain(&table.notes).chain(after).map(|note| escape(note)).collect();
    // One paragraph of them all: a line each would make the float of a large study higher than a page.
    let from: Vec<String> = notes
        .iter()
        .map(|(number, note)| format!("\\textsuperscript{{{number}}} {}", escape(&note)))
        .collect();
    if !from.is_empty() {
        below.push(format!("\\scriptsize {}", from.join(" ")));
    }
    let below = if below.is_empty() {
        String::new()
    } else {
        format!(
            "  \\par\\smallskip\n  \\begin{{minipage}}{{\\linewidth}}\\footnotesize\\raggedright\n    {}\n  \\end{{minipage}}\n",
            below.join("\\par\n    ")
        )
    };
    format!(
        "\\begin{{table}}[htbp]\n  \\centering\n  \\caption{{{}}}\n  \\label{{tab:{}}}\n  \\par\\smallskip\n  {size}\n  {begin}\n    \
         \\toprule\n    {} \\\\\n    \\midrule\n{rows}    \\bottomrule\n  {end}\n{below}\\end{{table}}\n\n",
        escape(&caption(table, results)),
        label(&format!("{}-{}", results.spec.name, table.id)),
        header.join(" & "),
    )
}

/// A caption stands alone: it says what the figures are taken over and what bold means.
fn caption(table: &Table, results: &StudyResults) -> String {
    let values = || table.rows.iter().flatten().filter(|cell| matches!(cell, TableCell::Value { .. }));
    if values().next().is_none() {
        return table.caption.clone();
    }
    let best = if values().any(TableCell::is_best) { " Best in bold." } else { "" };
    let mut spread = super::spread(results);
    if let Some(first) = spread.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    format!("{} {spread}.{best}", table.caption)
}

/// A cell with its emphasis and the number of its note.
fn set(cell: &TableCell, notes: &mut TrialNotes) -> String {
    let words = escape(&cell.words());
    let words = if cell.is_best() { format!("\\textbf{{{words}}}") } else { words };
    match notes.number(cell.trials()) {
        Some(number) => format!("{words}\\textsuperscript{{{number}}}"),
        None => words,
    }
}

/// The environment of the rows and its type size: natural widths where they fit a line, else columns that break.
fn columns(table: &Table) -> (String, &'static str, &'static str) {
    let longest = |column: usize| {
        let cells =
            table.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.words().chars().count());
        cells.chain([table.header[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..table.header.len()).map(longest).collect();
    let all: usize = widths.iter().map(|width| width + COLUMN_GAP).sum();
    if all <= LINE {
        return (
            format!("\\begin{{tabular}}{{@{{}}{}@{{}}}}", "l".repeat(widths.len())),
            "\\end{tabular}",
            "\\small",
        );
    }
    let short = LINE / widths.len().max(1);
    let kinds: String = widths
        .iter()
        .map(|&width| if width <= short / 2 { "l" } else { ">{\\raggedright\\arraybackslash}X" })
        .collect();
    // A tabularx without a column that may break cannot take the width it is given.
    let kinds =
        if kinds.contains('X') { kinds } else { ">{\\raggedright\\arraybackslash}X".repeat(widths.len()) };
    let size = if widths.len() > 5 || all > 2 * LINE {
        "\\footnotesize\\setlength{\\tabcolsep}{3pt}"
    } else {
        "\\small"
    };
    (format!("\\begin{{tabularx}}{{\\linewidth}}{{@{{}}{kinds}@{{}}}}"), "\\end{tabularx}", size)
}

/// Text on one line that LaTeX sets as it stands. Of letters, those that T1 fonts have are kept; what they lack is
/// named by its number, because an unknown character ends a compilation.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let text = one_line(text);
    let mut characters = text.chars().peekable();
    let mut begins = true;
    while let Some(character) = characters.next() {
        let number = begins && characters.peek().is_some_and(char::is_ascii_digit);
        begins = matches!(character, ' ' | '[' | '(');
        match character {
            '-' if number => escaped.push_str("$-$"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '{' | '}' | '$' | '&' | '%' | '#' | '_' => escaped.extend(['\\', character]),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '"' => escaped.push_str("\\textquotedbl{}"),
            '`' => escaped.push_str("\\textasciigrave{}"),
            '\'' => escaped.push_str("\\textquotesingle{}"),
            // Neighbouring hyphens, and brackets after a line's end, mean something else.
            '-' => escaped.push_str("{-}"),
            '[' | ']' => escaped.extend(['{', character, '}']),
            '±' => escaped.push_str("$\\pm$"),
            '−' => escaped.push_str("$-$"),
            '–' => escaped.push_str("\\textendash{}"),
            '…' => escaped.push_str("\\dots{}"),
            '↑' => escaped.push_str("$\\uparrow$"),
            '↓' => escaped.push_str("$\\downarrow$"),
            ' '..='~' | 'À'..='ÿ' => escaped.push(character),
            _ if EXTENDED.contains(character) => escaped.push(character),
            _ => escaped.push_str(&format!("{{[}}U+{:04X}{{]}}", u32::from(character))),
        }
    }
    escaped
}

/// Letters of Latin Extended-A in T1 fonts.
const EXTENDED: &str = "ĂăĄąĆćČčĎďĐđĘęĚěĞğİıĹĺĽľŁłŃńŇňŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž";

/// What a `\label` can hold.
fn label(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-:.".contains(c) { c } else { '-' }).collect()
}

/// What a comment can hold: it ends with its line.
fn comment(text: &str) -> String {
    one_line(text).chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_stay_text() {
        assert_eq!(escape("a_b & 50 % of #1 {x} $y$"), "a\\_b \\& 50 \\% of \\#1 \\{x\\} \\$y\\$");
        assert_eq!(escape("C:\\~^"), "C:\\textbackslash{}\\textasciitilde{}\\textasciicircum{}");
        assert_eq!(escape("1 ± 2\nand –"), "1 $\\pm$ 2 and \\textendash{}");
        assert_eq!(escape("--[x]"), "{-}{-}{[}x{]}", "no dash, and no argument after a line's end");
        assert_eq!(escape("Łódź, é"), "Łódź, é");
        assert_eq!(escape("肝\u{0}"), "{[}U+809D{]}{[}U+0000{]}");
    }

    #[test]
    fn a_hyphen_before_a_number_is_a_minus() {
        assert_eq!(escape("-1.50 [-2, +3] 5-fold a-1"), "$-$1.50 {[}$-$2, +3{]} 5{-}fold a{-}1");
    }

    #[test]
    fn labels_and_comments_cannot_end_early() {
        assert_eq!(label("a b_c%-table1"), "a-b-c--table1");
        assert_eq!(comment("x\n\\end{document}"), "x \\end{document}");
    }
}
