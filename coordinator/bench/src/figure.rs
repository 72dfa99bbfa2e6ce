//! A measured figure, the table for people and the file for programs.

use std::path::Path;

use anyhow::Context;
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use serde::Serialize;

/// Whether a figure must stay below or above its target.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// Told for comparison only.
    None,
}

/// One line of the bench.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The measured value; null where there was nothing to measure, which the note says.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: String,
    /// What it is to be compared with; null where there is no target.
    pub target: Option<f64>,
    /// Whether the target is met; true where there is none.
    pub ok: bool,
    /// A peer's figure from the same run.
    pub peer: Option<f64>,
    /// How it was measured.
    pub note: String,
}

impl Figure {
    /// A figure with its verdict. One that is no number, as a quantile of no samples, is not ok even without a target.
    pub fn new(what: &str, value: f64, unit: &str, target: Target, note: String) -> Self {
        let (target, ok) = match target {
            Target::AtMost(limit) => (Some(limit), value <= limit),
            Target::AtLeast(limit) => (Some(limit), value >= limit),
            Target::None => (None, value.is_finite()),
        };
        let value = Some(value).filter(|value| value.is_finite());
        let note = if value.is_none() { format!("nothing was measured; {note}") } else { note };
        Self { what: what.to_owned(), value, unit: unit.to_owned(), target, ok, peer: None, note }
    }
}

/// Prints the table.
pub fn print(figures: &[Figure]) {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["what", "value", "unit", "target", "ok", "note"]);
    for figure in figures {
        let target = figure.target.map_or_else(String::new, rounded);
        let ok = if figure.ok { "yes" } else { "NO" };
        let value = figure.value.map_or_else(|| "none".to_owned(), rounded);
        table.add_row([&figure.what, &value, &figure.unit, &target, ok, &figure.note]);
    }
    println!("{table}");
}

/// Writes the figures as one JSON document.
///
/// # Errors
/// A directory that cannot be made or written.
pub fn write(figures: &[Figure], path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

fn rounded(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The value below which `share` (0 to 1) of the values lie; of none NaN, which meets no target. Sorts them.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_compared_with_their_targets() {
        let ok = |value, target| Figure::new("w", value, "s", target, String::new()).ok;
        assert!(ok(1.0, Target::AtMost(1.0)) && !ok(1.1, Target::AtMost(1.0)));
        assert!(ok(1.0, Target::AtLeast(1.0)) && !ok(0.9, Target::AtLeast(1.0)));
        assert!(ok(9.0, Target::None));
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 1.0), 3.0);
        let nothing = quantile(&mut [], 0.5);
        for target in [Target::AtMost(1.0), Target::AtLeast(1.0), Target::None] {
            assert!(!ok(nothing, target), "what was not measured is not ok");
        }
        let told = serde_json::to_value(Figure::new("w", nothing, "s", Target::None, "n".into())).unwrap();
        assert!(told["value"].is_null() && told["note"] == "nothing was measured; n", "{told}");
    }
}
