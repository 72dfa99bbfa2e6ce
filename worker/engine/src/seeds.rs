//! Seeds for every purpose, derived from the trial's and from where in the trial they are used.

/// What a seed is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose<'a> {
    /// Initial weights.
    Weights,
    /// The order of an epoch's slices.
    Order { epoch: u64 },
    /// Dropout and noise of one replica in one step.
    Replica { step: u64, replica: u64 },
    /// The noise that an answer to one slice of one case starts from.
    Answer { case: &'a str, slice: u64 },
}

/// A seed for `purpose` in the trial of this seed and fold. Different inputs give unrelated seeds.
pub(crate) fn derive(seed: u64, fold: u32, purpose: Purpose<'_>) -> u64 {
    let (tag, a, b) = match purpose {
        Purpose::Weights => (0_u64, 0, 0),
        Purpose::Order { epoch } => (1, epoch, 0),
        Purpose::Replica { step, replica } => (2, step, replica),
        Purpose::Answer { case, slice } => (3, first_word(&blake3::hash(case.as_bytes())), slice),
    };
    let mut hasher = blake3::Hasher::new();
    for word in [seed, u64::from(fold), tag, a, b] {
        hasher.update(&word.to_le_bytes());
    }
    // libtorch's seeds are signed.
    first_word(&hasher.finalize()) >> 1
}

fn first_word(hash: &blake3::Hash) -> u64 {
    u64::from_le_bytes(hash.as_bytes().first_chunk::<8>().copied().unwrap_or_default())
}
