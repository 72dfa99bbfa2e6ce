//! Files as tensors.

use std::fs::{self, File};

use mtinet_torch_ext::map_file;
use tch::{Device, Kind, Tensor};

#[test]
fn a_file_is_a_tensor_of_its_numbers_and_stays_one_when_its_name_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("numbers");
    let values: Vec<f32> = (0..24).map(|n| n as f32 / 3.0).collect();
    fs::write(&path, values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>()).unwrap();
    let mapped = map_file(&path, &[2, 3, 4], Kind::Float).unwrap();
    assert_eq!((mapped.size(), mapped.device()), (vec![2, 3, 4], Device::Cpu));
    let rows = mapped.index_select(0, &Tensor::from_slice(&[1_i64]));
    fs::remove_file(&path).unwrap();
    assert_eq!(Vec::<f32>::try_from(mapped.reshape([-1])).unwrap(), values);
    drop(mapped);
    assert_eq!(Vec::<f32>::try_from(rows.reshape([-1])).unwrap(), values[12..]);
}

#[test]
fn a_file_larger_than_memory_is_mapped_and_a_short_or_missing_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holes");
    // No machine's memory and no disk: the file has no blocks, but its size counts where a mapping is accounted for.
    let length = 8_i64 << 40;
    File::create(&path).unwrap().set_len(length as u64).unwrap();
    let mapped = map_file(&path, &[length], Kind::Uint8).unwrap();
    assert_eq!(mapped.int64_value(&[length - 1]), 0);
    let error = map_file(&path, &[length + 1], Kind::Uint8).unwrap_err().to_string();
    assert!(error.contains("holes") && error.contains("bytes expected"), "{error}");
    let error = map_file(&dir.path().join("nowhere"), &[1], Kind::Uint8).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("No such file"), "{error}");
    assert!(map_file(&path, &[1], Kind::Int64).is_err());
}
