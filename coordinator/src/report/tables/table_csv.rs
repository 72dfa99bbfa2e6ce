//! A table as CSV, a cell a line, so that no figure has to be cut out of a text: `row` and `column` are its names in
//! the table; `mean`, `std` and the folds behind it are empty for words.

use super::super::aggregate::gaps;
use super::super::document::{Table, TableCell};

const HEADER: [&str; 10] =
    ["row", "column", "text", "mean", "std", "n_folds", "folds_asked", "best", "trials", "missing"];

/// The cells of a table, row by row. The first column names the row, together with the next where that is words too.
pub(in crate::report) fn table_csv(table: &Table) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEADER)?;
    let names = naming_columns(table);
    for row in &table.rows {
        let name: Vec<String> = row.iter().take(names).map(TableCell::words).collect();
        for (column, cell) in table.header.iter().zip(row).skip(names) {
            let mut record = vec![name.join(", "), column.clone(), cell.words()];
            record.extend(figures(cell));
            writer.write_record(record)?;
        }
    }
    writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))
}

/// One, or as many leading columns of words as it takes to tell rows apart.
fn naming_columns(table: &Table) -> usize {
    let wordy =
        |column: usize| table.rows.iter().all(|row| matches!(row.get(column), Some(TableCell::Text(_))));
    let distinct = |columns: usize| {
        let mut names: Vec<Vec<String>> =
            table.rows.iter().map(|row| row.iter().take(columns).map(TableCell::words).collect()).collect();
        names.sort();
        names.windows(2).all(|pair| pair[0] != pair[1])
    };
    let most = table.header.len().saturating_sub(1);
    (1..=most).take_while(|&columns| wordy(columns - 1)).find(|&columns| distinct(columns)).unwrap_or(1)
}

fn figures(cell: &TableCell) -> [String; 7] {
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    match cell {
        TableCell::Text(_) | TableCell::NoTask => Default::default(),
        TableCell::Constant { mean, std, .. } => [
            number(Some(*mean)),
            number(*std),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ],
        TableCell::Value { aggregate, best } => {
            let stats = aggregate.over_folds;
            let trials: Vec<String> = aggregate.from.iter().map(ToString::to_string).collect();
            [
                number(stats.map(|stats| stats.mean)),
                number(stats.and_then(|stats| stats.std)),
                stats.map_or(0, |stats| stats.n).to_string(),
                aggregate.folds_asked.to_string(),
                best.to_string(),
                trials.join(" "),
                gaps(&aggregate.missing),
            ]
        }
    }
}
