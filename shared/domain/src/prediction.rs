//! What `mtinet predict` asks of a trainer, and what it hears back.
//!
//! The request is one JSON file. The trainer answers on standard output, one [`Message`] in JSON a line, cases in the
//! order of the request. What is averaged over the members of an ensemble is said at [`PredictedSlice`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::evaluation::mean_vectors;
use crate::ids::TrialKey;
use crate::spec::StudySpec;
use crate::trial::Device;

/// Raised whenever request or messages change: both programs come from one release.
pub const VERSION: u32 = 1;

/// Trained networks of one arm, and cases for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// The study that trained the networks.
    pub spec: StudySpec,
    /// Phases in order.
    pub phases: Vec<String>,
    /// Lesion classes in order of their index.
    pub classes: Vec<String>,
    /// The networks, all of one arm.
    pub members: Vec<Member>,
    /// In-plane spacing of the slices that they were trained on, mm.
    pub spacing: f64,
    /// Where to compute; where absent on the first CUDA device, or on the CPU where there is none.
    pub device: Option<Device>,
    /// The cases.
    pub cases: Vec<CaseFiles>,
    /// An existing directory for masks and slices to be shown. Files appear in it whole.
    pub out: PathBuf,
}

/// The network of one finished trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The trial.
    pub trial: TrialKey,
    /// Its weights (safetensors).
    pub weights: PathBuf,
    /// Mean and deviation that its images were normalised with, raw intensity.
    pub normalisation: (f64, f64),
}

/// The images of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFiles {
    /// Its name, and the name of its files.
    pub case: String,
    /// One file a phase, in the order of [`Request::phases`].
    pub images: Vec<PathBuf>,
    /// BLAKE3 of the files (hex), where a manifest pins them; else empty.
    pub hashes: Vec<String>,
    /// Index of the phase on whose grid the mask is written.
    pub reference: usize,
}

/// What a trainer says while it predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "message")]
pub enum Message {
    /// The networks are loaded.
    Ready {
        /// Where they compute.
        device: String,
    },
    /// More slices of the present case are answered.
    Slices {
        /// How many more.
        count: u64,
    },
    /// A case is done and its files are in [`Request::out`].
    Case(PredictedCase),
    /// A case cannot be used; the next one follows.
    Refused {
        /// Its name.
        case: String,
        /// Why, and what to do.
        problem: String,
    },
    /// All cases were tried.
    Finished,
}

/// The answers for one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictedCase {
    /// Its name.
    pub case: String,
    /// Name of the mask's file, where the arm segments.
    pub mask: Option<String>,
    /// The slice with the largest mask, to be drawn, where the arm segments.
    pub shown: Option<ShownSlice>,
    /// All its slices, from inferior to superior.
    pub slices: Vec<PredictedSlice>,
}

/// The answers for one slice.
///
/// Of an ensemble, `predicted_pixels` counts the mask of the pixels in which the mean of the members' tumour
/// probabilities is at least 1/2, taken on the network's grid. `curve` and `probabilities` are means over the members,
/// of curves in raw intensity and of probabilities after the softmax.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictedSlice {
    /// Index in the case, from inferior to superior.
    pub slice: u32,
    /// Tumour pixels on the source grid, where the arm segments.
    pub predicted_pixels: Option<u64>,
    /// Curve, raw intensity, where the arm regresses.
    pub curve: Option<Vec<f64>>,
    /// Mean raw intensity per phase under the mask, where that is not empty.
    pub mask_curve: Option<Vec<f64>>,
    /// Probability of each class, where the arm classifies.
    pub probabilities: Option<Vec<f64>>,
}

/// Pixels for a picture: in a file, little-endian f32, the phases one after another and then the mask, row by row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownSlice {
    /// Name of the file.
    pub file: String,
    /// Index of the slice.
    pub slice: u32,
    /// Height in pixels.
    pub rows: usize,
    /// Width in pixels.
    pub columns: usize,
    /// Millimetres between rows and between columns.
    pub spacing: [f64; 2],
}

/// The answers for a case as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaseSummary {
    /// Slices that the means are over: those with tumour where the arm segments, else all.
    pub slices: usize,
    /// Tumour pixels of all slices.
    pub predicted_pixels: Option<u64>,
    /// Mean of the slices' curves.
    pub curve: Option<Vec<f64>>,
    /// Mean of the slices' curves under the mask.
    pub mask_curve: Option<Vec<f64>>,
    /// Mean of the slices' probabilities.
    pub probabilities: Option<Vec<f64>>,
}

impl Request {
    /// Whether the trainer can begin.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn validate(&self) -> Result<(), String> {
        let Some(first) = self.members.first() else { return Err("it names no trial".to_owned()) };
        if self.version != VERSION {
            let version = self.version;
            return Err(format!("it is of version {version}, and this trainer reads {VERSION}"));
        }
        if let Some(other) = self.members.iter().find(|member| member.trial.arm != first.trial.arm) {
            return Err(format!("{} and {} are of different arms", first.trial, other.trial));
        }
        if !(self.spacing.is_finite() && self.spacing > 0.0) {
            return Err(format!("a spacing of {} mm is none", self.spacing));
        }
        let normal = |(mean, std): (f64, f64)| mean.is_finite() && std.is_finite() && std > 0.0;
        if let Some(member) = self.members.iter().find(|member| !normal(member.normalisation)) {
            return Err(format!("{} has no usable normalisation", member.trial));
        }
        let phases = self.phases.len();
        for CaseFiles { case, images, hashes, reference } in &self.cases {
            if case.is_empty() || case.contains(['/', '\\', '\0']) || case.starts_with('.') {
                return Err(format!("case `{case}` cannot be a file's name"));
            }
            let pinned = hashes.is_empty() || hashes.len() == phases;
            if images.len() != phases || !pinned || *reference >= phases {
                return Err(format!("case {case} does not have one file for each of {phases} phases"));
            }
        }
        Ok(())
    }
}

impl PredictedCase {
    /// The means over the slices in which tumour was found, or over all slices where the arm does not segment.
    pub fn summary(&self) -> CaseSummary {
        let segments = self.mask.is_some();
        let counted: Vec<&PredictedSlice> = self
            .slices
            .iter()
            .filter(|slice| !segments || slice.predicted_pixels.is_some_and(|pixels| pixels > 0))
            .collect();
        let mean = |of: fn(&PredictedSlice) -> Option<&Vec<f64>>| {
            mean_vectors(counted.iter().filter_map(|slice| of(slice).map(Vec::as_slice)))
        };
        CaseSummary {
            slices: counted.len(),
            predicted_pixels: segments
                .then(|| self.slices.iter().filter_map(|slice| slice.predicted_pixels).sum()),
            curve: mean(|slice| slice.curve.as_ref()),
            mask_curve: mean(|slice| slice.mask_curve.as_ref()),
            probabilities: mean(|slice| slice.probabilities.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(slice: u32, pixels: Option<u64>, value: f64) -> PredictedSlice {
        PredictedSlice {
            slice,
            predicted_pixels: pixels,
            curve: Some(vec![value, 2.0 * value]),
            mask_curve: pixels.filter(|&pixels| pixels > 0).map(|_| vec![value]),
            probabilities: Some(vec![1.0 - value, value]),
        }
    }

    fn case(mask: Option<&str>, slices: Vec<PredictedSlice>) -> PredictedCase {
        PredictedCase { case: "a".to_owned(), mask: mask.map(str::to_owned), shown: None, slices }
    }

    #[test]
    fn a_case_is_the_mean_of_the_slices_with_tumour() {
        let found = case(
            Some("a.nii.gz"),
            vec![slice(0, Some(4), 0.25), slice(1, Some(0), 0.9), slice(2, Some(1), 0.75)],
        )
        .summary();
        assert_eq!((found.slices, found.predicted_pixels), (2, Some(5)));
        assert_eq!(found.curve, Some(vec![0.5, 1.0]));
        assert_eq!(found.mask_curve, Some(vec![0.5]));
        assert_eq!(found.probabilities, Some(vec![0.5, 0.5]));
        let nothing = case(Some("a.nii.gz"), vec![slice(0, Some(0), 0.25)]).summary();
        assert_eq!((nothing.slices, nothing.predicted_pixels, nothing.curve), (0, Some(0), None));
    }

    #[test]
    fn without_masks_all_slices_count() {
        let found = case(None, vec![slice(0, None, 0.25), slice(1, None, 0.75)]).summary();
        assert_eq!((found.slices, found.predicted_pixels), (2, None));
        assert_eq!(found.curve, Some(vec![0.5, 1.0]));
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        let spec = StudySpec::from_toml("name = \"s\"\ndataset = \"d\"\narms = [\"unet\"]\n").unwrap();
        let member = |trial: &str| Member {
            trial: trial.parse().unwrap(),
            weights: "w".into(),
            normalisation: (1.0, 2.0),
        };
        let good = Request {
            version: VERSION,
            spec,
            phases: vec!["pre".to_owned(), "art".to_owned()],
            classes: Vec::new(),
            members: vec![member("unet/0/0"), member("unet/1/0")],
            spacing: 1.5,
            device: None,
            cases: vec![CaseFiles {
                case: "a".to_owned(),
                images: vec!["0".into(), "1".into()],
                hashes: Vec::new(),
                reference: 1,
            }],
            out: "out".into(),
        };
        good.validate().unwrap();
        let json = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), good);
        type Change = fn(&mut Request);
        let cases: [(Change, &str); 8] = [
            (|r| r.version = 0, "version 0"),
            (|r| r.members.clear(), "no trial"),
            (|r| r.members[1].trial.arm = crate::Arm::MtiNet, "different arms"),
            (|r| r.spacing = f64::NAN, "spacing"),
            (|r| r.members[0].normalisation.1 = 0.0, "normalisation"),
            (|r| drop(r.cases[0].images.pop()), "each of 2 phases"),
            (|r| r.cases[0].reference = 2, "each of 2 phases"),
            (|r| r.cases[0].case = "../a".to_owned(), "file's name"),
        ];
        for (change, words) in cases {
            let mut bad = good.clone();
            change(&mut bad);
            let problem = bad.validate().unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
