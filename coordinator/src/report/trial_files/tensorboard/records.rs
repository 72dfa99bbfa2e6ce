//! TFRecord framing: length, its checksum, the bytes, their checksum; all little-endian.

/// A record as it stands in a file.
pub fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked(crc32c::crc32c(&length)).to_le_bytes());
    record.extend(data);
    record.extend(masked(crc32c::crc32c(data)).to_le_bytes());
    record
}

/// TensorFlow masks its checksums, because the checksum of bytes that hold their own checksum is no good one.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The records of a file, each checked; for tests.
#[cfg(test)]
pub fn read(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let (record, rest) = file.split_at(length + 16);
        assert_eq!(record, frame(&record[12..12 + length]), "a checksum");
        records.push(record[12..12 + length].to_vec());
        file = rest;
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_as_tensorboard_frames_it() {
        // struct.pack("<Q", 6), masked_crc32c of that, b"mtinet", masked_crc32c of it, by tensorboard 2.21.0.
        let expected = "06000000000000007369d5376d74696e6574bc8dad59";
        let framed: String = frame(b"mtinet").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(framed, expected);
        assert_eq!(read(&[frame(b"a"), frame(b"")].concat()), [b"a".to_vec(), Vec::new()]);
    }
}
