//! Bugs that can be planted, to see that the simulator finds them.
//!
//! Only in builds with `--cfg mtinet_mutations`, which no feature and no target of the workspace sets: in all others
//! `planted!` is never true, and the type does not exist.

/// Whether a bug is planted in this core.
#[cfg(mtinet_mutations)]
macro_rules! planted {
    ($core:expr, $bug:ident) => {
        $core.config.planted == Some($crate::planted::Bug::$bug)
    };
}

/// Whether a bug is planted in this core: never, in a build like this.
#[cfg(not(mtinet_mutations))]
macro_rules! planted {
    ($core:expr, $bug:ident) => {
        $crate::planted::never()
    };
}

/// No bug is planted.
#[cfg(not(mtinet_mutations))]
pub(crate) const fn never() -> bool {
    false
}

/// A bug that can be planted.
#[cfg(mtinet_mutations)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The slot of a rank that exited stays taken.
    KeepsSlotOfExitedRank,
    /// The slots that a lost worker's ranks held count as free while the worker is only away.
    UsesSlotsOfAwayWorkers,
    /// A lost worker's attempts are started again while other ranks of theirs still run.
    RestartsBeforePeersStopped,
    /// A report that was taken in before is taken in again.
    TakesReportsTwice,
    /// Reports of an attempt that is over are taken for the present attempt's.
    TakesReportsOfFormerAttempts,
    /// Reports are acknowledged beyond what was taken in.
    AcknowledgesTooMuch,
    /// A gang starts with fewer slots than it needs.
    StartsGangsInPart,
    /// The ranks of a gang share a CUDA device.
    SharesDevicesWithinGangs,
    /// Start commands that were lost with a session are not said again.
    ForgetsLostStarts,
    /// Stop commands that were lost with a session are not said again.
    ForgetsLostStops,
    /// After a restart running attempts are not waited for: their workers count as gone at once.
    RestartsInsteadOfAdopting,
    /// A retry after a failure never leaves its pause.
    NeverEndsPauses,
    /// Losing a worker counts as a failure of the trial.
    CountsLostWorkersAsFailures,
    /// A resumed study's trials are not looked at again.
    ForgetsResumedStudies,
    /// A new attempt goes on from nothing although there is a checkpoint.
    ForgetsCheckpoints,
    /// Trials are placed on drained workers.
    PlacesOnDrainedWorkers,
    /// One failure sets a worker aside, the last one too.
    SetsAsideAtOnce,
    /// A cancelled trial whose worker is lost waits again.
    RevivesCancelledTrials,
    /// Pausing is not recorded: a restart forgets it.
    DoesNotRecordPauses,
    /// Attempts are stopped to go on wider while trials wait.
    WidensAlthoughTrialsWait,
    /// Attempts are stopped to go on wider although nothing is spare.
    WidensWithoutRoom,
    /// The study that is served last comes first.
    IgnoresPriority,
    /// The last fold of an arm is served first.
    ServesLastFoldFirst,
    /// A trial that waits behind another says that it waits behind itself.
    NamesItselfAsAhead,
    /// What keeps a whole study from starting is not told.
    ForgetsWhyStudiesWait,
    /// Of a hang, the rank that waited is blamed, although the one that did not arrive had to be killed.
    BlamesWhoWaited,
    /// Of a hang, the rank that tells of it is blamed, although it tells who did not arrive.
    BlamesTheTeller,
}

#[cfg(mtinet_mutations)]
impl Bug {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::KeepsSlotOfExitedRank,
        Self::UsesSlotsOfAwayWorkers,
        Self::RestartsBeforePeersStopped,
        Self::TakesReportsTwice,
        Self::TakesReportsOfFormerAttempts,
        Self::AcknowledgesTooMuch,
        Self::StartsGangsInPart,
        Self::SharesDevicesWithinGangs,
        Self::ForgetsLostStarts,
        Self::ForgetsLostStops,
        Self::RestartsInsteadOfAdopting,
        Self::NeverEndsPauses,
        Self::CountsLostWorkersAsFailures,
        Self::ForgetsResumedStudies,
        Self::ForgetsCheckpoints,
        Self::PlacesOnDrainedWorkers,
        Self::SetsAsideAtOnce,
        Self::RevivesCancelledTrials,
        Self::DoesNotRecordPauses,
        Self::WidensAlthoughTrialsWait,
        Self::WidensWithoutRoom,
        Self::IgnoresPriority,
        Self::ServesLastFoldFirst,
        Self::NamesItselfAsAhead,
        Self::ForgetsWhyStudiesWait,
        Self::BlamesWhoWaited,
        Self::BlamesTheTeller,
    ];
}
