//! Which artifacts are still needed. Two trials may share one, because artifacts are named by their content.

use std::collections::BTreeMap;

use mtinet_domain::trial::ArtifactRef;

/// How many references each artifact has, and which have lost their last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct References {
    counts: BTreeMap<String, u32>,
    garbage: Vec<ArtifactRef>,
}

impl References {
    /// Replaces the references of one holder. The new ones are counted first, so that none is lost in between.
    pub(crate) fn replace(&mut self, old: Vec<ArtifactRef>, new: &[ArtifactRef]) {
        for artifact in new {
            *self.counts.entry(artifact.blake3.clone()).or_default() += 1;
        }
        for artifact in old {
            if let Some(count) = self.counts.get_mut(&artifact.blake3) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&artifact.blake3);
                    self.garbage.push(artifact);
                }
            }
        }
    }

    /// Artifacts without a reference since the last call.
    pub(crate) fn take_garbage(&mut self) -> Vec<ArtifactRef> {
        let mut garbage = std::mem::take(&mut self.garbage);
        // One may have come back since: the same training gives the same bytes again.
        garbage.retain(|artifact| !self.counts.contains_key(&artifact.blake3));
        garbage
    }

    /// Leaves what lost its last reference to whoever looks for such files.
    pub(crate) fn forget_garbage(&mut self) {
        self.garbage.clear();
    }

    pub(crate) fn counts(&self) -> &BTreeMap<String, u32> {
        &self.counts
    }
}
