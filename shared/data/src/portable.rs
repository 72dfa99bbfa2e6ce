//! A data set on its way to a machine that does not have it: its manifest, with files named by their content alone.
//!
//! What travels are the data set's own files, and whoever receives them builds its slices itself. On that machine a file
//! lies at `files/HASH`: no path of the sender's reaches the receiver's disk, and a manifest that says otherwise is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::folds::Fold;
use crate::manifest::{Case, Dataset, DatasetHeader};

/// The schema that this version reads and writes.
const SCHEMA: &str = "mtinet-dataset-files/1";

/// Where the files lie, under the data set's directory.
pub const FILES: &str = "files";

/// No list of files is longer: this would be a million of them.
pub const MOST_DOCUMENT_BYTES: usize = 256 << 20;

/// Names a document in messages: it is no file of this machine.
const DOCUMENT: &str = "the list of the data set's files";

/// The manifest of a data set and the lengths of its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortableDataset {
    schema: String,
    header: DatasetHeader,
    cases: Vec<Case>,
    splits: Vec<Fold>,
    /// Length in bytes of each file, by the BLAKE3 of its content (hex).
    bytes: BTreeMap<String, u64>,
}

impl PortableDataset {
    /// Describes a data set of this machine, and says where each file is, by its hash. Contents are not read.
    ///
    /// # Errors
    /// [`DataError::Io`] for a file that is gone, [`DataError::File`] for a manifest whose hashes are none.
    pub fn of(dataset: &Dataset) -> Result<(Self, BTreeMap<String, PathBuf>)> {
        let mut cases = dataset.cases.clone();
        let (mut bytes, mut sources) = (BTreeMap::new(), BTreeMap::new());
        for (path, hash) in cases.iter_mut().flat_map(files_mut) {
            let source = dataset.path(path);
            let length = std::fs::metadata(&source).map_err(DataError::io("read", &source))?.len();
            bytes.insert(hash.clone(), length);
            *path = place(hash);
            sources.insert(hash.clone(), source);
        }
        let (header, splits) = (dataset.header.clone(), dataset.splits.clone());
        let portable = Self { schema: SCHEMA.to_owned(), header, cases, splits, bytes };
        portable.validate()?;
        Ok((portable, sources))
    }

    /// Reads a document of [`Self::to_json`] and makes sure that it is about the data set of this hash and leads nowhere else.
    ///
    /// # Errors
    /// [`DataError::File`] in words.
    pub fn from_json(json: &[u8], hash: &str) -> Result<Self> {
        let portable: Self = serde_json::from_slice(json).map_err(|error| refused(error.to_string()))?;
        portable.validate()?;
        let found = portable.at(Path::new("")).hash();
        if found == hash {
            Ok(portable)
        } else {
            Err(refused(format!("describes the data set with hash {found}, not {hash}")))
        }
    }

    /// The document.
    ///
    /// # Errors
    /// None that could be helped.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| refused(error.to_string()))
    }

    /// Hash of the data set.
    #[must_use]
    pub fn hash(&self) -> String {
        self.at(Path::new("")).hash()
    }

    /// Length of each file in bytes, by its hash.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, u64> {
        &self.bytes
    }

    /// Length of all files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.bytes.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Where a file lies under the data set's directory.
    #[must_use]
    pub fn place(hash: &str) -> PathBuf {
        place(hash)
    }

    /// Writes the manifest into `dir`, where the files are.
    ///
    /// # Errors
    /// [`DataError::Io`] when it cannot be written.
    pub fn write_manifest(&self, dir: &Path) -> Result<()> {
        self.at(dir).save()
    }

    fn at(&self, dir: &Path) -> Dataset {
        Dataset {
            dir: dir.to_owned(),
            header: self.header.clone(),
            cases: self.cases.clone(),
            splits: self.splits.clone(),
        }
    }

    fn validate(&self) -> Result<()> {
        if self.schema != SCHEMA {
            return Err(refused(format!("its schema is `{}`; this version reads `{SCHEMA}`", self.schema)));
        }
        self.at(Path::new("")).validate()?;
        for case in &self.cases {
            for (path, hash) in files(case) {
                if !is_hash(hash) {
                    return Err(refused(format!("case {}: `{hash}` is no BLAKE3 hash", case.case)));
                }
                if *path != place(hash) {
                    let wrong = path.display();
                    return Err(refused(format!("case {}: `{wrong}` is not where its file lies", case.case)));
                }
                if !self.bytes.contains_key(hash) {
                    return Err(refused(format!("case {}: the length of {hash} is missing", case.case)));
                }
            }
        }
        match self.bytes.keys().find(|hash| !is_hash(hash)) {
            Some(hash) => Err(refused(format!("`{hash}` is no BLAKE3 hash"))),
            None => Ok(()),
        }
    }
}

/// Whether this is a BLAKE3 hash as hashes are written here: 64 lower-case hex digits, and so a plain file name.
#[must_use]
pub fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn place(hash: &str) -> PathBuf {
    Path::new(FILES).join(hash)
}

fn files(case: &Case) -> impl Iterator<Item = (&PathBuf, &String)> {
    let label = (&case.label.path, &case.label.blake3);
    case.images.values().map(|image| (&image.path, &image.blake3)).chain([label])
}

fn files_mut(case: &mut Case) -> impl Iterator<Item = (&mut PathBuf, &String)> {
    let label = (&mut case.label.path, &case.label.blake3);
    case.images.values_mut().map(|image| (&mut image.path, &image.blake3)).chain([label])
}

fn refused(problem: String) -> DataError {
    DataError::file(Path::new(DOCUMENT), problem)
}
