//! Configuration in layers: embedded defaults < file < environment < flags.
//!
//! The embedded TOML holds every key with a comment and is the reference. A key that nothing reads is an error that
//! names where it stands. Environment variables are `MTINET_SECTION__KEY`; those of sections that a program does
//! not have are another program's and are left alone.

use std::fmt;
use std::path::{Path, PathBuf};

use ::config::{Config, FileFormat, Value};
use serde::de::DeserializeOwned;

/// Prefix of the environment variables.
const PREFIX: &str = "MTINET_";

/// Configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("could not read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file that is not TOML.
    #[error("{}: not valid TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A key that nothing reads.
    #[error("{origin}: unknown key `{key}`; the keys are {known}")]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// Its path.
        key: String,
        /// The keys that exist beside it.
        known: String,
    },
    /// A value of the wrong type or out of range.
    #[error("{origin}: `{key}`: {problem}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// Its path.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Defaults that contradict the type that is read: a mistake in the program.
    #[error("the built-in configuration is broken")]
    Defaults(#[source] ::config::ConfigError),
}

/// The layer that a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults in the program.
    Defaults,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("built-in configuration"),
            Self::File(path) => write!(f, "configuration file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// The layers of a program's configuration, lowest first.
#[derive(Debug)]
pub struct Layers {
    defaults: &'static str,
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<(&'static str, &'static str, Value)>,
}

impl Layers {
    /// Starts with the embedded default TOML and the process's environment.
    pub fn new(defaults: &'static str) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { defaults, file: None, environment, flags: Vec::new() }
    }

    /// Adds a file; it must exist.
    #[must_use]
    pub fn file(mut self, path: Option<&Path>) -> Self {
        self.file = path.map(Path::to_owned);
        self
    }

    /// Replaces the process's environment, for tests.
    #[must_use]
    pub fn environment(mut self, variables: Vec<(String, String)>) -> Self {
        self.environment = variables;
        self
    }

    /// A flag's value for a key path such as `worker.devices`; nothing where the flag was not given.
    #[must_use]
    pub fn flag<V: Into<Value>>(mut self, flag: &'static str, key: &'static str, value: Option<V>) -> Self {
        self.flags.extend(value.map(|value| (flag, key, value.into())));
        self
    }

    /// Merges the layers into `T`, whose fields need no serde defaults except where a key has none (`Option`).
    ///
    /// # Errors
    /// The first thing that is wrong, with the layer and key path that it stands at.
    pub fn load<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        let defaults: toml::Table = self.defaults.parse().map_err(|error: toml::de::Error| {
            ConfigError::Defaults(::config::ConfigError::Message(error.to_string()))
        })?;
        let file = self.read_file()?;
        let environment = self.own_variables(&defaults);
        let config = self.merge(file.as_ref().map(|(text, _)| text.as_str()), &environment)?;

        let origin_of = |key: &str| {
            if let Some((flag, ..)) = self.flags.iter().find(|(_, k, _)| *k == key) {
                return Origin::Flag((*flag).to_owned());
            }
            if let Some((name, ..)) = environment.iter().find(|(_, k, _)| k == key) {
                return Origin::Environment(name.clone());
            }
            match (&self.file, &file) {
                (Some(path), Some((_, table))) if holds(table, key) => Origin::File(path.clone()),
                _ => Origin::Defaults,
            }
        };

        let mut unknown = Vec::new();
        let mut note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
        let value = serde_path_to_error::deserialize(serde_ignored::Deserializer::new(config, &mut note))
            .map_err(|error| {
                let key = error.path().to_string();
                ConfigError::Value { origin: origin_of(&key), problem: error.inner().to_string(), key }
            })?;
        match unknown.into_iter().next() {
            None => Ok(value),
            Some(key) => {
                let known = siblings(&defaults, &key);
                Err(ConfigError::Unknown { origin: origin_of(&key), key, known })
            }
        }
    }

    fn read_file(&self) -> Result<Option<(String, toml::Table)>, ConfigError> {
        let Some(path) = &self.file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let table = text
            .parse()
            .map_err(|source| ConfigError::Syntax { path: path.clone(), source: Box::new(source) })?;
        Ok(Some((text, table)))
    }

    /// (variable, key path, value) of the variables that name one of this program's sections.
    fn own_variables(&self, defaults: &toml::Table) -> Vec<(String, String, String)> {
        let own = |(name, value): &(String, String)| {
            let (section, rest) = name.strip_prefix(PREFIX)?.split_once("__")?;
            let section = section.to_lowercase();
            let key = format!("{section}.{}", rest.to_lowercase().replace("__", "."));
            defaults.contains_key(&section).then(|| (name.clone(), key, value.clone()))
        };
        self.environment.iter().filter_map(own).collect()
    }

    fn merge(
        &self,
        file: Option<&str>,
        environment: &[(String, String, String)],
    ) -> Result<Config, ConfigError> {
        let build = || {
            let mut builder =
                Config::builder().add_source(::config::File::from_str(self.defaults, FileFormat::Toml));
            if let Some(text) = file {
                builder = builder.add_source(::config::File::from_str(text, FileFormat::Toml));
            }
            for (_, key, value) in environment {
                builder = builder.set_override(key, value.as_str())?;
            }
            for (_, key, value) in &self.flags {
                builder = builder.set_override(*key, value.clone())?;
            }
            builder.build()
        };
        build().map_err(ConfigError::Defaults)
    }
}

fn holds(table: &toml::Table, key: &str) -> bool {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    match (table.get(first), rest) {
        (Some(toml::Value::Table(inner)), Some(rest)) => holds(inner, rest),
        (found, _) => found.is_some(),
    }
}

/// The keys that stand beside `key` in the defaults, for the message.
fn siblings(defaults: &toml::Table, key: &str) -> String {
    let mut table = defaults;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        match table.get(part) {
            Some(toml::Value::Table(inner)) if parts.peek().is_some() => table = inner,
            _ => break,
        }
    }
    table.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = "[worker]\n# Where.\nurl = \"a:1\"\nslots = 1\n";

    #[derive(Debug, serde::Deserialize)]
    struct Settings {
        worker: Worker,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Worker {
        url: String,
        slots: u32,
        name: Option<String>,
    }

    fn variables(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn later_layers_win() {
        let file = file("[worker]\nurl = \"b:2\"\nslots = 2\nname = \"x\"\n");
        let settings: Settings = Layers::new(DEFAULTS)
            .file(Some(file.path()))
            .environment(variables(&[
                ("MTINET_WORKER__SLOTS", "3"),
                ("MTINET_WORKER__URL", "c:3"),
                ("MTINET_LOG", "debug"),
                ("MTINET_TOKEN", "secret"),
                ("MTINET_COORDINATOR__LISTEN", "another program's"),
            ]))
            .flag("--url", "worker.url", Some("d:4"))
            .flag("--slots", "worker.slots", None::<u32>)
            .load()
            .unwrap();
        assert_eq!((settings.worker.url.as_str(), settings.worker.slots), ("d:4", 3));
        assert_eq!(settings.worker.name.as_deref(), Some("x"));
    }

    #[test]
    fn an_unknown_key_names_its_place() {
        let typo = file("[worker]\nslot = 2\n");
        let load = |layers: Layers| layers.load::<Settings>().unwrap_err().to_string();
        let message = load(Layers::new(DEFAULTS).environment(vec![]).file(Some(typo.path())));
        assert!(message.contains(typo.path().to_str().unwrap()), "{message}");
        assert!(message.contains("`worker.slot`") && message.contains("slots, url"), "{message}");
        let message = load(Layers::new(DEFAULTS).environment(variables(&[("MTINET_WORKER__SLOT", "3")])));
        assert!(message.contains("MTINET_WORKER__SLOT"), "{message}");
    }

    #[test]
    fn a_wrong_value_names_its_place() {
        let layers = Layers::new(DEFAULTS).environment(variables(&[("MTINET_WORKER__SLOTS", "many")]));
        let message = layers.load::<Settings>().unwrap_err().to_string();
        assert!(message.contains("MTINET_WORKER__SLOTS") && message.contains("worker.slots"), "{message}");
    }
}
