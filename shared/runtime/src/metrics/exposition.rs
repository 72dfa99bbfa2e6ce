//! A strict reader of the OpenMetrics text format, for the tests of the programs that export it.
//!
//! It reads what such programs write and refuses what Prometheus's conventions do not allow; timestamps and exemplars,
//! which are not written, are not understood.

use std::collections::{BTreeMap, BTreeSet};

/// A metric with all its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// What it is, in words.
    pub help: String,
    /// What was measured.
    pub samples: Vec<Sample>,
}

/// A value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name with the suffix of the kind: `_total`, `_bucket`, `_sum`, `_count`, `_info`.
    pub name: String,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// Reads a whole exposition into its families, by name.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn check(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut open: Option<String> = None;
    for line in body.lines() {
        let wrong = |problem: &str| format!("{problem}: {line}");
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').ok_or_else(|| wrong("no words"))?;
            let new = Family { kind: String::new(), help: help.to_owned(), samples: Vec::new() };
            if !is_name(name) || families.insert(name.to_owned(), new).is_some() {
                return Err(wrong("a second family of this name, or no name"));
            }
            open = Some(name.to_owned());
            continue;
        }
        let name = open.clone().ok_or_else(|| wrong("no HELP before it"))?;
        let family = families.get_mut(&name).ok_or_else(|| wrong("no family"))?;
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let kind =
                kind.strip_prefix(&format!("{name} ")).ok_or_else(|| wrong("another name than HELP's"))?;
            kind.clone_into(&mut family.kind);
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            let unit =
                unit.strip_prefix(&format!("{name} ")).ok_or_else(|| wrong("another name than HELP's"))?;
            if !name.ends_with(&format!("_{unit}")) {
                return Err(wrong("the name does not end with its unit"));
            }
        } else {
            family.samples.push(sample(line).ok_or_else(|| wrong("no sample"))?);
        }
    }
    for (name, family) in &families {
        check_family(name, family).map_err(|problem| format!("{name}: {problem}"))?;
    }
    Ok(families)
}

fn check_family(name: &str, family: &Family) -> Result<(), String> {
    let suffixes: &[&str] = match family.kind.as_str() {
        "counter" => &["_total"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_sum", "_count"],
        "info" => &["_info"],
        other => return Err(format!("unknown type `{other}`")),
    };
    if !family.help.ends_with('.') || family.help.len() < 8 {
        return Err(format!("its help `{}` is no sentence", family.help));
    }
    if name.ends_with("_total") || name.ends_with("_count") || name.ends_with("_sum") {
        return Err("the name ends with a suffix that is reserved".to_owned());
    }
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        let suffix = sample.name.strip_prefix(name).filter(|suffix| suffixes.contains(suffix));
        if suffix.is_none() {
            return Err(format!("a sample is called {}", sample.name));
        }
        if !seen.insert((&sample.name, &sample.labels)) {
            return Err(format!("{} {:?} stands twice", sample.name, sample.labels));
        }
        if family.kind != "gauge" && (sample.value < 0.0 || sample.value.is_nan()) {
            return Err(format!("{} is {}", sample.name, sample.value));
        }
    }
    if family.kind == "histogram" { check_histogram(name, family) } else { Ok(()) }
}

/// Buckets are cumulative, ascending, and end with all.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut last: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        if sample.name == format!("{name}_bucket") {
            let bound = labels.remove("le").and_then(|le| le.parse().ok()).ok_or("a bucket without bound")?;
            let before = last.insert(labels, (bound, sample.value));
            if before.is_some_and(|(low, count)| low >= bound || count > sample.value) {
                return Err(format!("the bucket up to {bound} is not above the one before"));
            }
        }
    }
    for count in family.samples.iter().filter(|sample| sample.name == format!("{name}_count")) {
        if last.get(&count.labels) != Some(&(f64::INFINITY, count.value)) {
            return Err("the last bucket does not hold all".to_owned());
        }
    }
    Ok(())
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, labels)) => (name, self::labels(labels.strip_suffix('}')?)?),
    };
    is_name(name).then_some(())?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// `a="b",c="d"`, with `\"`, `\\` and `\n` in values.
fn labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        is_name(name).then_some(())?;
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    letter => letter,
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.insert(name.to_owned(), value).is_none().then_some(())?;
        text = &rest[end + 1..];
        text = if text.is_empty() { text } else { text.strip_prefix(',')? };
    }
    Some(labels)
}

fn is_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}

/// The metrics that a Grafana dashboard (JSON) asks for, among those that begin with `prefix`.
///
/// # Errors
/// A document that is not JSON.
pub fn asked_by_dashboard(json: &str, prefix: &str) -> Result<BTreeSet<String>, serde_json::Error> {
    let document: serde_json::Value = serde_json::from_str(json)?;
    let mut asked = BTreeSet::new();
    collect(&document, prefix, &mut asked);
    Ok(asked)
}

fn collect(value: &serde_json::Value, prefix: &str, asked: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, prefix, asked)),
        serde_json::Value::Object(members) => {
            for (name, value) in members {
                match value {
                    serde_json::Value::String(text)
                        if matches!(name.as_str(), "expr" | "query" | "definition") =>
                    {
                        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                        asked.extend(words.filter(|word| word.starts_with(prefix)).map(str::to_owned));
                    }
                    _ => collect(value, prefix, asked),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_read() {
        let text = "# HELP a_seconds It takes so long.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                    a_seconds_sum 2.5\na_seconds_count 2\na_seconds_bucket{le=\"1.0\"} 1\n\
                    a_seconds_bucket{le=\"+Inf\"} 2\n# HELP b How many there are.\n# TYPE b counter\n\
                    b_total{x=\"q\\\"\\\\\",y=\"\"} 3\n# EOF\n";
        let families = check(text).unwrap();
        assert_eq!(families["b"].samples[0].labels["x"], "q\"\\");
        assert_eq!(families["a_seconds"].samples.len(), 4);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let wrong = [
            ("", "EOF"),
            ("a 1\n# EOF\n", "HELP"),
            ("# HELP a Some words.\n# TYPE a counter\na 1\n# EOF\n", "called a"),
            ("# HELP a Some words.\n# TYPE a gauge\na{x=1} 1\n# EOF\n", "no sample"),
            ("# HELP a Some words.\n# TYPE a gauge\na 1\na 2\n# EOF\n", "twice"),
            ("# HELP a Some words.\n# TYPE a gauge\n# UNIT a bytes\na 2\n# EOF\n", "unit"),
            (
                "# HELP a Some words.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_count 2\na_sum 1\n# EOF\n",
                "all",
            ),
        ];
        for (text, word) in wrong {
            let problem = check(text).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }

    #[test]
    fn a_dashboards_questions_are_found() {
        let json = r#"{"panels": [{"targets": [{"expr": "rate(mtinet_a_total[5m]) / on(job) up"}]}], "title": "mtinet_no"}"#;
        assert_eq!(asked_by_dashboard(json, "mtinet_").unwrap(), ["mtinet_a_total".to_owned()].into());
    }
}
