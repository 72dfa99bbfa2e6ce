//! Raw label values of a file to the data set's own labels.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array3;

/// Applies a case's remap. Background (0) needs no entry. Values without an entry are returned instead, sorted.
pub(crate) fn remap(raw: &Array3<f32>, map: &BTreeMap<String, u8>) -> Result<Array3<u8>, Vec<f32>> {
    let table: BTreeMap<i64, u8> = map.iter().filter_map(|(k, &v)| Some((k.parse().ok()?, v))).collect();
    let mut unknown: BTreeSet<u32> = BTreeSet::new();
    let mask = raw.mapv(|value| {
        if value == 0.0 && !table.contains_key(&0) {
            return 0;
        }
        let known = if value.fract() == 0.0 { table.get(&(value as i64)).copied() } else { None };
        known.unwrap_or_else(|| {
            // A label map of continuous values would fill the set with every voxel.
            if unknown.len() < 16 {
                unknown.insert(value.to_bits());
            }
            0
        })
    });
    if unknown.is_empty() { Ok(mask) } else { Err(unknown.into_iter().map(f32::from_bits).collect()) }
}
