//! The codes of findings, for programs. The comment of each says when it is an error (E) or a warning (W).

/// E: there are no folds.
pub const NO_SPLIT: &str = "no-split";
/// E: a fold names a case that the data set does not have.
pub const UNKNOWN_CASE_IN_SPLIT: &str = "unknown-case-in-split";
/// W: a fold names a case that is excluded; it takes no part.
pub const EXCLUDED_CASE_IN_SPLIT: &str = "excluded-case-in-split";
/// E: a case is validated in no fold.
pub const CASE_IN_NO_FOLD: &str = "case-in-no-fold";
/// E: a subject is trained on and validated on in one fold.
pub const SUBJECT_ON_BOTH_SIDES: &str = "subject-on-both-sides";
/// E: a subject is validated in more than one fold.
pub const SUBJECT_IN_TWO_FOLDS: &str = "subject-in-two-folds";
/// E: a lesion class has no subject in a fold's validation or training part.
pub const CLASS_MISSING_FROM_FOLD: &str = "class-missing-from-fold";
/// E for a lesion class, W for healthy: fewer subjects than folds.
pub const TOO_FEW_SUBJECTS: &str = "too-few-subjects";
/// E: two subjects have the same volume, also mirrored.
pub const DUPLICATE_VOLUME: &str = "duplicate-volume";
/// E: two phases of a case are the same volume.
pub const DUPLICATE_PHASE: &str = "duplicate-phase";
/// W: two subjects have nearly the same volume.
pub const NEAR_DUPLICATE: &str = "near-duplicate";
/// E: a case has no image of a phase.
pub const MISSING_PHASE: &str = "missing-phase";
/// E: a file is not there.
pub const MISSING_FILE: &str = "missing-file";
/// E: a file cannot be read.
pub const UNREADABLE_FILE: &str = "unreadable-file";
/// E: a file has changed since the import.
pub const FILE_CHANGED: &str = "file-changed";
/// E: phases or mask lie on different grids.
pub const GRID_MISMATCH: &str = "grid-mismatch";
/// E: a mask has values outside the label map.
pub const LABEL_OUTSIDE_MAP: &str = "label-outside-map";
/// E: a tumour case has an empty mask.
pub const EMPTY_MASK: &str = "empty-mask";
/// E: a healthy case has a mask.
pub const MASK_IN_HEALTHY_CASE: &str = "mask-in-healthy-case";
/// E: an image has voxels that are not finite.
pub const NON_FINITE: &str = "non-finite";
/// W: the enhancement contradicts the order of the phases.
pub const PHASE_ORDER: &str = "phase-order";
