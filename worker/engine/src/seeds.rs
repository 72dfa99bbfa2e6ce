//! Seeds for every purpose, derived from the trial's and from where in the trial they are used.

/// What a seed is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Initial weights.
    Weights,
    /// The order of an epoch's slices.
    Order { epoch: u64 },
    /// Dropout of one replica in one step.
    Replica { step: u64, replica: u64 },
}

/// A seed for `purpose` in the trial of this seed and fold. Different inputs give unrelated seeds.
pub(crate) fn derive(seed: u64, fold: u32, purpose: Purpose) -> u64 {
    let (tag, a, b) = match purpose {
        Purpose::Weights => (0_u64, 0, 0),
        Purpose::Order { epoch } => (1, epoch, 0),
        Purpose::Replica { step, replica } => (2, step, replica),
    };
    let mut hasher = blake3::Hasher::new();
    for word in [seed, u64::from(fold), tag, a, b] {
        hasher.update(&word.to_le_bytes());
    }
    let bytes = *hasher.finalize().as_bytes();
    let word = bytes.first_chunk::<8>().copied().unwrap_or_default();
    // libtorch's seeds are signed.
    u64::from_le_bytes(word) >> 1
}
