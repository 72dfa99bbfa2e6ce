//! `curves.csv` and `classes.csv`: a row for each case, then one for each of its slices. Columns are named as those of a
//! report's `slices.csv`; curves are in raw intensity, and a cell is empty where a value does not exist.

use std::fs::File;
use std::path::{Path, PathBuf};

use mtinet_domain::evaluation::most_probable;
use mtinet_domain::prediction::{Member, PredictedCase, PredictedSlice};

use crate::cli::error::{CliError, chain};

/// What a row holds.
enum Content {
    Curves { phases: usize },
    Classes { classes: Vec<String> },
}

/// A table that is being written, case by case.
pub struct Table {
    writer: csv::Writer<File>,
    path: PathBuf,
    content: Content,
    /// Arm, folds and seeds, which are the same in all rows.
    origin: [String; 3],
}

/// The values of a row.
struct Values<'a> {
    pixels: Option<u64>,
    curve: Option<&'a Vec<f64>>,
    mask_curve: Option<&'a Vec<f64>>,
    probabilities: Option<&'a Vec<f64>>,
}

/// The tables that the arm has something for, begun in `directory`.
///
/// # Errors
/// Exit code 1 where a file cannot be written.
pub fn begin(
    directory: &Path,
    members: &[Member],
    phases: &[String],
    classes: &[String],
) -> Result<Vec<Table>, CliError> {
    let Some(arm) = members.first().map(|member| member.trial.arm) else { return Ok(Vec::new()) };
    let tasks = arm.tasks();
    let mut tables = Vec::new();
    if tasks.seg || tasks.reg {
        let mut columns: Vec<String> = phases.iter().map(|phase| format!("predicted_{phase}")).collect();
        columns.extend(phases.iter().map(|phase| format!("mask_{phase}")));
        let content = Content::Curves { phases: phases.len() };
        tables.push(Table::begin(directory.join("curves.csv"), members, content, columns)?);
    }
    if tasks.cls {
        let mut columns = vec!["pred_class".to_owned(), "pred_class_index".to_owned()];
        columns.extend((0..classes.len()).map(|class| format!("p_{class}")));
        let content = Content::Classes { classes: classes.to_vec() };
        tables.push(Table::begin(directory.join("classes.csv"), members, content, columns)?);
    }
    Ok(tables)
}

impl Table {
    fn begin(
        path: PathBuf,
        members: &[Member],
        content: Content,
        columns: Vec<String>,
    ) -> Result<Self, CliError> {
        let joined = |of: fn(&Member) -> u64| {
            let mut numbers: Vec<u64> = members.iter().map(of).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(";")
        };
        let arm = members.first().map(|member| member.trial.arm.name().to_owned()).unwrap_or_default();
        let origin = [arm, joined(|member| u64::from(member.trial.fold)), joined(|member| member.trial.seed)];
        let writer = csv::Writer::from_path(&path).map_err(|error| refused(&path, &error))?;
        let mut table = Self { writer, path, content, origin };
        let first =
            ["arm", "fold", "seed", "case", "slice", "n_slices", "predicted_pixels"].map(str::to_owned);
        table.write(first.into_iter().chain(columns).collect())?;
        Ok(table)
    }

    /// Adds a case and its slices.
    ///
    /// # Errors
    /// Exit code 1 where the file cannot be written.
    pub fn add(&mut self, case: &PredictedCase) -> Result<(), CliError> {
        let summary = case.summary();
        let values = Values {
            pixels: summary.predicted_pixels,
            curve: summary.curve.as_ref(),
            mask_curve: summary.mask_curve.as_ref(),
            probabilities: summary.probabilities.as_ref(),
        };
        self.row(&case.case, [String::new(), summary.slices.to_string()], &values)?;
        for slice in &case.slices {
            let PredictedSlice { slice, predicted_pixels, curve, mask_curve, probabilities } = slice;
            let values = Values {
                pixels: *predicted_pixels,
                curve: curve.as_ref(),
                mask_curve: mask_curve.as_ref(),
                probabilities: probabilities.as_ref(),
            };
            self.row(&case.case, [slice.to_string(), String::new()], &values)?;
        }
        Ok(())
    }

    /// Brings everything to the file; where that is.
    ///
    /// # Errors
    /// As [`Table::add`].
    pub fn finish(mut self) -> Result<PathBuf, CliError> {
        self.writer.flush().map_err(|error| refused(&self.path, &error))?;
        Ok(self.path)
    }

    fn row(&mut self, case: &str, place: [String; 2], values: &Values<'_>) -> Result<(), CliError> {
        let mut row = self.origin.to_vec();
        row.push(case.to_owned());
        row.extend(place);
        row.push(cell(values.pixels));
        let list = |list: Option<&Vec<f64>>, length: usize| -> Vec<String> {
            (0..length).map(|place| cell(list.and_then(|list| list.get(place)))).collect()
        };
        match &self.content {
            Content::Curves { phases } => {
                row.extend(list(values.curve, *phases));
                row.extend(list(values.mask_curve, *phases));
            }
            Content::Classes { classes } => {
                let class = values.probabilities.map(|probabilities| most_probable(probabilities));
                row.extend([cell(class.and_then(|class| classes.get(class))), cell(class)]);
                row.extend(list(values.probabilities, classes.len()));
            }
        }
        self.write(row)
    }

    fn write(&mut self, row: Vec<String>) -> Result<(), CliError> {
        self.writer.write_record(row).map_err(|error| refused(&self.path, &error))
    }
}

fn cell(value: Option<impl std::fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn refused(path: &Path, error: &dyn std::error::Error) -> CliError {
    CliError::NotSo(format!("cannot write {}: {}", path.display(), chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_has_a_row_and_its_slices_follow() {
        let here = tempfile::tempdir().unwrap();
        let member = |trial: &str| Member {
            trial: trial.parse().unwrap(),
            weights: PathBuf::new(),
            normalisation: (0.0, 1.0),
        };
        let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        let members = [member("mti-net/1/0"), member("mti-net/4/0")];
        let tables =
            begin(here.path(), &members, &names(["pre", "art"]), &names(["hemangioma", "hcc"])).unwrap();
        let slice = |slice: u32, pixels: u64| PredictedSlice {
            slice,
            predicted_pixels: Some(pixels),
            curve: Some(vec![100.5, 200.0]),
            mask_curve: (pixels > 0).then(|| vec![99.0, 198.0]),
            probabilities: Some(vec![0.25, 0.75]),
        };
        let case = PredictedCase {
            case: "a".to_owned(),
            mask: Some("a.nii.gz".to_owned()),
            shown: None,
            slices: vec![slice(0, 0), slice(1, 7)],
        };
        let text: Vec<String> = tables
            .into_iter()
            .map(|mut table| {
                table.add(&case).unwrap();
                std::fs::read_to_string(table.finish().unwrap()).unwrap()
            })
            .collect();
        assert_eq!(
            text[0],
            "arm,fold,seed,case,slice,n_slices,predicted_pixels,predicted_pre,predicted_art,mask_pre,mask_art\n\
             mti-net,1;4,0,a,,1,7,100.5,200,99,198\n\
             mti-net,1;4,0,a,0,,0,100.5,200,,\n\
             mti-net,1;4,0,a,1,,7,100.5,200,99,198\n"
        );
        assert_eq!(
            text[1],
            "arm,fold,seed,case,slice,n_slices,predicted_pixels,pred_class,pred_class_index,p_0,p_1\n\
             mti-net,1;4,0,a,,1,7,hcc,1,0.25,0.75\n\
             mti-net,1;4,0,a,0,,0,hcc,1,0.25,0.75\n\
             mti-net,1;4,0,a,1,,7,hcc,1,0.25,0.75\n"
        );
    }
}
