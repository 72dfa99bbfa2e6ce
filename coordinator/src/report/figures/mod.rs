//! The report's figures: plain functions from results to SVG text.
//!
//! A [`Figure`] is a set of panels. The page lets them flow side by side or one below the other, as its width allows;
//! the figure's file has them in rows. Only [`pictures`] reads files; nothing here writes any.

mod agreement;
mod axes;
mod canvas;
mod confusion;
mod contour;
mod downsample;
mod enhancement;
mod layout;
mod overlay;
mod overlay_png;
mod palette;
pub mod pictures;
mod png;
mod progress;
mod subjects;
mod svg;
mod training;

use mtinet_domain::{Arm, TrialKey};

pub use self::pictures::{Pictures, Sources};
pub use self::progress::{TRAIN_SECONDS, progress_png};
pub use self::svg::Panel;
use super::results::StudyResults;

/// One figure of the report.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Stem of its file's name; unique within a report.
    pub name: String,
    /// What it is, in a few words.
    pub title: String,
    /// How it is to be read.
    pub caption: String,
    /// The trials behind it.
    pub from: Vec<TrialKey>,
    /// What should be in it and is not, and why.
    pub missing: Vec<String>,
    /// The drawing.
    pub panels: Vec<Panel>,
    /// Whether two and two of its panels belong side by side.
    pub pairs: bool,
    /// Its figures as a table, where a reader needs the numbers.
    pub numbers: Option<Numbers>,
    /// The same as an image, for figures that show images.
    pub png: Option<Vec<u8>>,
}

/// A small table that belongs to a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

/// Figures of one kind, under one heading.
#[derive(Clone, Debug)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// What all its figures have in common.
    pub introduction: String,
    /// None where the study has nothing of the kind.
    pub figures: Vec<Figure>,
}

/// Every figure that the study has something for, in the order of the page.
pub fn figures(results: &StudyResults, pictures: &Pictures) -> Vec<Group> {
    let groups = [
        overlay::group(results, pictures),
        confusion::group(results),
        enhancement::group(results),
        agreement::group(results),
        training::group(results),
    ];
    groups.into_iter().filter(|group| !group.figures.is_empty() || !group.introduction.is_empty()).collect()
}

/// A subject's slice, its truth, and what one arm made of it, as an image: width, height and the PNG file.
pub fn trial_picture(
    results: &StudyResults,
    picture: &pictures::Picture,
    arm: Arm,
) -> Option<((usize, usize), Vec<u8>)> {
    overlay_png::draw(results, &[picture], &[arm])
}

/// The trials of `keys` that have no result, each with what became of it.
fn missing(results: &StudyResults, belongs: impl Fn(TrialKey) -> bool) -> Vec<String> {
    let trials = results.trials.iter().filter(|trial| belongs(trial.key) && trial.summary().is_none());
    trials.map(|trial| format!("{} {}", trial.key, trial.outcome.word())).collect()
}
