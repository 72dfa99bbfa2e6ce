//! `[init]`: weights that an arm's network starts from instead of random ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StudySpec;
use crate::model::Arm;
use crate::trial::ArtifactRef;

/// Initial weights by arm. An arm that is not named starts from random weights.
pub type InitialWeights = BTreeMap<Arm, InitialFile>;

/// A safetensors file with the weights that an arm's network starts from.
///
/// A study file names it; submission pins it to its content, so that the spec's hash says which weights were used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the path of a safetensors file (\"weights/unet.safetensors\")")]
pub enum InitialFile {
    /// The path as written: relative to the study file, or absolute.
    Path(String),
    /// The same with its content.
    Pinned(PinnedFile),
}

/// A file with what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// The path as the study file has it.
    pub path: String,
    /// BLAKE3 of the content, lower-case hex.
    pub blake3: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl PinnedFile {
    /// The file in the artifact store.
    pub fn artifact(&self) -> ArtifactRef {
        ArtifactRef { blake3: self.blake3.clone(), bytes: self.bytes }
    }
}

impl InitialFile {
    /// The path as the study file has it.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Pinned(file) => &file.path,
        }
    }

    /// The content, once the file is pinned to it.
    pub fn artifact(&self) -> Option<ArtifactRef> {
        match self {
            Self::Path(_) => None,
            Self::Pinned(file) => Some(file.artifact()),
        }
    }
}

impl StudySpec {
    /// The pinned initial weights of an arm; `None` where it starts from random ones.
    pub fn initial_weights(&self, arm: Arm) -> Option<ArtifactRef> {
        self.init.get(&arm)?.artifact()
    }

    /// All pinned initial weights, which the artifact store must hold for as long as the study exists.
    pub fn initial_artifacts(&self) -> Vec<ArtifactRef> {
        self.init.values().filter_map(InitialFile::artifact).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "name = \"x\"\ndataset = \"d\"\narms = [\"unet\", \"mti-net\"]\n[init]\nunet = \"w/unet.safetensors\"\n";

    #[test]
    fn a_study_file_names_weights_by_arm() {
        let spec = StudySpec::from_toml(FILE).unwrap();
        assert_eq!(spec.init[&Arm::Unet].path(), "w/unet.safetensors");
        assert_eq!((spec.initial_weights(Arm::Unet), spec.initial_artifacts()), (None, Vec::new()));
    }

    #[test]
    fn pinned_weights_are_part_of_the_specs_hash_and_read_back() {
        let plain = StudySpec::from_toml(FILE).unwrap();
        let pin = |digit: &str| {
            let file = PinnedFile { path: "w/unet.safetensors".into(), blake3: digit.repeat(64), bytes: 5 };
            let init = BTreeMap::from([(Arm::Unet, InitialFile::Pinned(file))]);
            StudySpec { init, ..plain.clone() }
        };
        let pinned = pin("a");
        assert_eq!(StudySpec::from_json(&pinned.to_json()).unwrap(), pinned);
        assert_eq!(pinned.initial_weights(Arm::Unet).unwrap().bytes, 5);
        assert_eq!(pinned.initial_weights(Arm::MtiNet), None);
        assert_eq!(pinned.initial_artifacts().len(), 1);
        assert!(pinned.hash() != plain.hash() && pinned.hash() != pin("b").hash());
    }

    #[test]
    fn a_spec_without_initial_weights_is_stored_as_it_always_was() {
        let spec = StudySpec::from_toml("name = \"x\"\ndataset = \"d\"\narms = [\"unet\"]").unwrap();
        assert!(!spec.to_json().contains("init\":"), "{}", spec.to_json());
    }

    #[test]
    fn weights_for_nothing_and_impossible_ones_are_refused_where_they_stand() {
        let refusal = |table: &str| {
            let text = format!("name = \"x\"\ndataset = \"d\"\narms = [\"unet\"]\n[init]\n{table}\n");
            StudySpec::from_toml(&text).unwrap_err().to_string()
        };
        for (table, words) in [
            ("mti-net = \"w\"", "line 4: init: names weights for mti-net, which is not among the arms"),
            ("unet = \"\"", "line 4: init: unet: must be the path"),
            ("unet = 5", "the path of a safetensors file"),
            ("u-net = \"w\"", "did you mean \"unet\"?"),
            ("unet = { path = \"w\", blake3 = \"../x\", bytes = 1 }", "64 hexadecimal digits"),
        ] {
            let message = refusal(table);
            assert!(message.contains(words), "{message}");
        }
    }
}
