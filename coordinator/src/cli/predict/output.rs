//! The directory that a prediction is written to.
//!
//! Everything is made in a hidden directory inside it and moved into place when it is whole; that directory is gone at the
//! end, however the command ends short of being killed.

use std::path::{Path, PathBuf};

use mtinet_domain::prediction::{PredictedCase, ShownSlice};
use serde_json::{Value, json};

use super::ensemble::Ensemble;
use super::tables::{self, Table};
use crate::cli::error::CliError;
use crate::cli::show::{self, Plane};
use crate::cli::study::blocking;
use crate::report::{StudyResults, write_atomically};

/// A prediction's files.
pub struct Output {
    directory: PathBuf,
    // In this order: the place is only removed once this is.
    staging: tempfile::TempDir,
    _place: Option<Place>,
    tables: Vec<Table>,
    phases: usize,
    about: Value,
    done: usize,
    refused: Vec<(String, String)>,
    cases: usize,
}

/// A directory that this command made: it goes again where nothing comes to lie in it.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // Fails where it is not empty, which is as it should be.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// How many cases came to an end.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Answered.
    pub done: usize,
    /// Asked for.
    pub all: usize,
}

impl Output {
    /// Nothing that is there is ever mixed with a prediction.
    ///
    /// # Errors
    /// Exit code 2 for a directory that holds something, or for a file.
    pub fn refuse_occupied(directory: &Path) -> Result<(), CliError> {
        let occupied = match std::fs::read_dir(directory) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        if occupied {
            return Err(CliError::Usage(format!(
                "{} already exists and is not an empty directory; give another one, or remove it first",
                directory.display()
            )));
        }
        Ok(())
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// Exit code 1 where that is not possible.
    pub fn begin(directory: &Path) -> Result<Self, CliError> {
        let failed =
            |error| CliError::failed(format_args!("cannot write to {}", directory.display()), &error);
        let made = !directory.exists();
        std::fs::create_dir_all(directory).map_err(failed)?;
        let directory = directory.canonicalize().map_err(failed)?;
        let place = made.then(|| Place(directory.clone()));
        let staging = tempfile::Builder::new().prefix(".predicting-").tempdir_in(&directory);
        Ok(Self {
            staging: staging.map_err(failed)?,
            _place: place,
            directory,
            tables: Vec::new(),
            phases: 0,
            about: Value::Null,
            done: 0,
            refused: Vec::new(),
            cases: 0,
        })
    }

    /// Where files are made.
    pub fn staging(&self) -> &Path {
        self.staging.path()
    }

    /// Says whose answers these are.
    ///
    /// # Errors
    /// Exit code 1 where the tables cannot be begun.
    pub fn describe(
        &mut self,
        results: &StudyResults,
        networks: &Ensemble,
        spacing: f64,
    ) -> Result<(), CliError> {
        let dataset = &results.dataset;
        self.tables =
            tables::begin(self.staging.path(), &networks.members, &dataset.phases, &dataset.classes)?;
        self.phases = dataset.phases.len();
        let members: Vec<Value> = networks
            .members
            .iter()
            .zip(&networks.weights)
            .map(|(member, weights)| {
                let (mean, std) = member.normalisation;
                json!({ "trial": member.trial, "weights": weights.blake3, "mean": mean, "std": std })
            })
            .collect();
        self.about = json!({
            "schema": "mtinet-prediction/1",
            "version": env!("CARGO_PKG_VERSION"),
            "study": results.spec.name,
            "spec_hash": results.spec_hash,
            "dataset_hash": dataset.hash,
            "phases": dataset.phases,
            "classes": dataset.classes,
            "members": members,
            "image_size": results.spec.train.image_size,
            "spacing_mm": spacing,
            "mask": "mean over the members of sigmoid(seg), on the network's grid, at least 0.5; nearest neighbour to the source grid",
            "curve": "mean over the members, raw intensity",
            "classes_probability": "mean over the members of softmax(cls)",
            "case": "mean over the slices with predicted tumour, or over all slices where the arm does not segment",
        });
        Ok(())
    }

    /// Says where the answers were computed.
    pub fn computed_on(&mut self, device: &str) {
        self.about["device"] = json!(device);
    }

    /// A case that cannot be answered; told at the end.
    pub fn refuse(&mut self, case: String, problem: String) {
        self.cases += 1;
        self.refused.push((case, problem));
    }

    /// Takes over a case that the trainer has finished in [`Output::staging`].
    ///
    /// # Errors
    /// Exit code 1 where a file cannot be read or written.
    pub async fn take(&mut self, case: PredictedCase) -> Result<(), CliError> {
        for table in &mut self.tables {
            table.add(&case)?;
        }
        let (staging, directory, phases) =
            (self.staging.path().to_owned(), self.directory.clone(), self.phases);
        blocking(move || {
            let failed = |error| CliError::failed(format_args!("cannot write case {}", case.case), &error);
            if let Some(shown) = &case.shown {
                let file = staging.join(plain(&shown.file)?);
                let picture = draw(&std::fs::read(&file).map_err(failed)?, shown, phases)?;
                std::fs::remove_file(&file).map_err(failed)?;
                write_atomically(&directory.join(format!("{}.png", case.case)), &picture)?;
            }
            if let Some(mask) = &case.mask {
                let mask = plain(mask)?;
                std::fs::rename(staging.join(mask), directory.join(mask)).map_err(failed)?;
            }
            Ok(())
        })
        .await?;
        self.cases += 1;
        self.done += 1;
        Ok(())
    }

    /// Puts the tables into place, and `prediction.json`, which says whose answers these are. Of a command that is
    /// interrupted they hold what was done; where nothing was, nothing stays.
    ///
    /// # Errors
    /// Exit code 1 where a file cannot be written.
    pub fn finish(&mut self, all: usize, interrupted: bool) -> Result<Counts, CliError> {
        let counts = Counts { done: self.done, all };
        for table in std::mem::take(&mut self.tables) {
            let path = table.finish()?;
            let name = path.file_name().unwrap_or_default();
            if self.done > 0 {
                let failed =
                    |error| CliError::failed(format_args!("cannot write {}", path.display()), &error);
                std::fs::rename(&path, self.directory.join(name)).map_err(failed)?;
            }
        }
        if self.done > 0 {
            self.about["cases"] = json!(self.done);
            self.about["interrupted"] = json!(interrupted);
            let refused =
                self.refused.iter().map(|(case, problem)| json!({ "case": case, "problem": problem }));
            self.about["refused"] = refused.collect();
            write_atomically(
                &self.directory.join("prediction.json"),
                format!("{:#}\n", self.about).as_bytes(),
            )?;
        }
        Ok(counts)
    }

    /// Removes what was only needed on the way; tells of cases that could not be answered.
    ///
    /// # Errors
    /// Exit code 4 where there is one.
    pub fn close(self) -> Result<(), CliError> {
        let Self { staging, _place, refused, cases, .. } = self;
        staging.close().map_err(|error| CliError::failed("cannot remove a temporary directory", &error))?;
        if refused.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> =
            refused.iter().map(|(case, problem)| format!("\n  {case}: {problem}")).collect();
        Err(CliError::BadData(format!(
            "{} of {cases} cases cannot be predicted:{}\nmend them, and predict them alone into another directory",
            refused.len(),
            lines.concat()
        )))
    }
}

/// A name that stays in its directory.
fn plain(name: &str) -> Result<&str, CliError> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(CliError::NotSo(format!("the trainer named a file `{name}`; is it of another release?")));
    }
    Ok(name)
}

/// The picture of a slice from the trainer's pixels.
fn draw(bytes: &[u8], shown: &ShownSlice, phases: usize) -> Result<Vec<u8>, CliError> {
    let (rows, columns) = (shown.rows, shown.columns);
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    if rows * columns == 0 || values.len() != rows * columns * (phases + 1) {
        return Err(CliError::NotSo(format!("{} has {} bytes, which is no slice", shown.file, bytes.len())));
    }
    let mut planes: Vec<Plane<f32>> = values
        .chunks(rows * columns)
        .map(|values| Plane { rows, columns, values: values.to_vec() })
        .collect();
    let Some(mask) = planes.pop() else { return Err(CliError::NotSo("a slice without a mask".to_owned())) };
    show::png(&planes, &mask, shown.spacing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_place_is_written_to() {
        let here = tempfile::tempdir().unwrap();
        Output::refuse_occupied(here.path()).unwrap();
        Output::refuse_occupied(&here.path().join("new")).unwrap();
        std::fs::write(here.path().join("notes"), "").unwrap();
        for place in [here.path().to_owned(), here.path().join("notes")] {
            assert_eq!(Output::refuse_occupied(&place).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn where_nothing_was_done_nothing_stays_and_every_refusal_is_named() {
        let here = tempfile::tempdir().unwrap();
        let mut output = Output::begin(&here.path().join("out")).unwrap();
        output.refuse("a".to_owned(), "has no image of phase art".to_owned());
        assert_eq!(output.finish(1, false).unwrap().done, 0);
        let error = output.close().unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(
            error.to_string().contains("1 of 1 cases cannot be predicted:\n  a: has no image"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_picture_needs_all_its_pixels() {
        let shown =
            ShownSlice { file: "a.slice".to_owned(), slice: 0, rows: 2, columns: 3, spacing: [1.0, 1.0] };
        let bytes = vec![0; 4 * 6 * 5];
        assert!(draw(&bytes, &shown, 4).unwrap().starts_with(b"\x89PNG"));
        assert!(draw(&bytes[4..], &shown, 4).is_err());
        assert!(plain("../a").is_err() && plain("a.nii.gz").is_ok());
    }
}
