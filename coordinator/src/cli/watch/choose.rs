//! Which study a person means.

use mtinet_domain::StudyId;
use mtinet_domain::suggest::did_you_mean;

use crate::cli::error::CliError;
use crate::dashboard::StudyLine;

/// The study of this number, or the newest of this name; without either the newest that runs, else the newest. None
/// where nothing was asked for and there is no study yet.
///
/// # Errors
/// Exit code 1 for a study that is not there, with the name that was probably meant.
pub fn study(studies: &[StudyLine], wanted: Option<&str>) -> Result<Option<StudyId>, CliError> {
    let newest = |is_it: &dyn Fn(&&StudyLine) -> bool| {
        studies.iter().filter(is_it).max_by_key(|study| study.id).map(|study| study.id)
    };
    let Some(wanted) = wanted else {
        return Ok(newest(&|study| study.status == "running").or_else(|| newest(&|_| true)));
    };
    let number = wanted.parse().ok().and_then(|number| newest(&|study| study.id == StudyId(number)));
    match number.or_else(|| newest(&|study| study.name == wanted)) {
        Some(found) => Ok(Some(found)),
        None => Err(CliError::NotSo(format!(
            "there is no study `{wanted}`{}; `mtinet study list` shows all",
            did_you_mean(wanted, studies.iter().map(|study| study.name.as_str()))
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn studies() -> Vec<StudyLine> {
        let line = |id, name: &str, status: &str| StudyLine {
            id: StudyId(id),
            name: name.to_owned(),
            status: status.to_owned(),
            done: (0, 1),
            submitted_ms: 0,
        };
        vec![
            line(1, "ablation", "complete"),
            line(2, "ablation", "running"),
            line(3, "synergy", "running"),
            line(4, "3", "incomplete"),
        ]
    }

    #[test]
    fn the_newest_that_runs_is_meant_unless_another_is_named() {
        let chosen = |wanted| study(&studies(), wanted).unwrap().map(|id| id.0);
        assert_eq!(chosen(None), Some(3));
        assert_eq!(chosen(Some("ablation")), Some(2));
        assert_eq!(chosen(Some("1")), Some(1));
        assert_eq!(chosen(Some("3")), Some(3), "a number is a number first");
        assert_eq!(study(&studies()[..1], None).unwrap(), Some(StudyId(1)));
        assert_eq!(study(&[], None).unwrap(), None);
    }

    #[test]
    fn a_mistyped_name_is_met_with_the_nearest_one() {
        let error = study(&studies(), Some("Ablaton")).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("did you mean `ablation`?"), "{error}");
        let error = study(&studies(), Some("something else")).unwrap_err().to_string();
        assert!(!error.contains("did you mean") && error.contains("mtinet study list"), "{error}");
    }
}
