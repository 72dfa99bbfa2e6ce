//! What is wrong with a study file, and where.

use std::fmt;

/// The first problem of a study file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// Dotted path of the key, e.g. `train.batch_size`; empty for a syntax error.
    pub key: String,
    /// Line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// A value that parses but cannot be.
#[derive(Debug)]
pub(super) struct Problem {
    pub key: &'static str,
    pub message: String,
}

impl SpecError {
    pub(super) fn new(key: String, message: String) -> Self {
        Self { key, line: None, message }
    }

    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| line_of(text, span.start));
        Self { key: String::new(), line, message: error.message().trim().to_owned() }
    }

    pub(super) fn shape(text: &str, path: &str, error: &toml::de::Error) -> Self {
        let key = if path == "." { String::new() } else { path.to_owned() };
        Self { key, ..Self::syntax(text, error) }
    }

    pub(super) fn value(text: &str, problem: Problem) -> Self {
        Self { key: problem.key.to_owned(), line: line_of_key(text, problem.key), message: problem.message }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for SpecError {}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The line of a dotted key; that of the nearest table above it where the key itself is absent (a default).
fn line_of_key(text: &str, path: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found = None;
    for part in path.split('.') {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == part) else { break };
        found = Some(line_of(text, key.span().start));
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    found
}
