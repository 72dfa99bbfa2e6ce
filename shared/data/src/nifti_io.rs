//! NIfTI-1 files: reading into the canonical order of axes, and writing back onto the source grid.
//!
//! Only single files (`.nii`, `.nii.gz`) are read, three-dimensional or with a last dimension of one. NIfTI-2, ANALYZE
//! and header/image pairs are refused with the way to convert them. Voxels that are not finite are kept: the leak gate
//! reports them.

use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use ndarray::{Array3, ShapeBuilder};
use nifti::{InMemNiftiVolume, IntoNdArray, NiftiHeader};

use crate::error::{DataError, Result};
use crate::fsutil;
use crate::grid::Grid;

const HEADER_LEN: usize = 348;

/// A decoded volume: slope and intercept applied, canonical order of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Values `[slice z, row y, column x]` in the file's unit; see [`Grid`] for the directions.
    pub data: Array3<f32>,
    /// The source grid.
    pub grid: Grid,
}

/// Reads a volume.
///
/// # Errors
/// [`DataError::Io`] when the file cannot be opened, [`DataError::File`] when it is truncated or not a volume that we read.
pub fn read(path: &Path) -> Result<Volume> {
    Ok(read_hashed(path)?.0)
}

/// Reads a volume and the BLAKE3 hash (hex) of the file's bytes as they are on disk.
///
/// # Errors
/// As [`read`].
pub fn read_hashed(path: &Path) -> Result<(Volume, String)> {
    let stored = std::fs::read(path).map_err(DataError::io("read", path))?;
    let hash = blake3::hash(&stored).to_hex().to_string();
    Ok((decode(path, &stored)?, hash))
}

/// Reads the grid alone, from the header.
///
/// # Errors
/// As [`read`]; the voxels are not looked at.
pub fn read_grid(path: &Path) -> Result<Grid> {
    let file = std::fs::File::open(path).map_err(DataError::io("read", path))?;
    let mut head = Vec::new();
    let mut reader = std::io::BufReader::new(file);
    let mut magic = [0; 2];
    reader.read_exact(&mut magic).map_err(|e| truncated(path, &e))?;
    let whole = (&magic[..]).chain(reader);
    let limit = HEADER_LEN as u64;
    let read = if magic == GZIP {
        MultiGzDecoder::new(whole).take(limit).read_to_end(&mut head)
    } else {
        whole.take(limit).read_to_end(&mut head)
    };
    read.map_err(|e| truncated(path, &e))?;
    Ok(parse_header(path, &head)?.1)
}

/// Decodes the bytes of a file, gzip or not; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn decode(path: &Path, stored: &[u8]) -> Result<Volume> {
    let inflated;
    let bytes: &[u8] = if stored.starts_with(&GZIP) {
        let mut out = Vec::new();
        MultiGzDecoder::new(stored).read_to_end(&mut out).map_err(|e| truncated(path, &e))?;
        inflated = out;
        &inflated
    } else {
        stored
    };
    let (mut header, grid) = parse_header(path, bytes)?;
    // As nibabel: a slope of zero or one that is no number means that values are stored unscaled.
    if header.scl_slope == 0.0 || !header.scl_slope.is_finite() || !header.scl_inter.is_finite() {
        (header.scl_slope, header.scl_inter) = (0.0, 0.0);
    }
    let kind = header.data_type().map_err(|e| DataError::file(path, e.to_string()))?;
    let voxels: usize = grid.source_shape.iter().product();
    let start = (header.vox_offset.max(0.0) as usize).max(HEADER_LEN);
    let length = voxels * kind.size_of();
    let raw = bytes.get(start..start + length).ok_or_else(|| {
        DataError::file(
            path,
            format!(
                "the file is truncated: its header promises {length} bytes of voxels, and {} are there; copy it again",
                bytes.len().saturating_sub(start)
            ),
        )
    })?;
    let values = InMemNiftiVolume::from_raw_data(&header, raw.to_vec())
        .and_then(IntoNdArray::into_ndarray::<f64>)
        .map_err(|e| DataError::file(path, format!("cannot read voxels of type {kind:?}: {e}")))?;
    // The crate hands back Fortran order, that is the file's own; both are made explicit here.
    let ordered: Vec<f32> = values.t().iter().map(|&v| v as f32).collect();
    let [i, j, k] = grid.source_shape;
    let source = Array3::from_shape_vec((i, j, k).f(), ordered)
        .map_err(|e| DataError::file(path, format!("voxels do not fit the shape: {e}")))?;
    let data = grid.to_canonical(&source).as_standard_layout().into_owned();
    Ok(Volume { data, grid })
}

/// Writes a mask in canonical order onto the source grid `grid`, as unsigned bytes, gzip, atomically.
///
/// Header fields that say where the voxels are (shape, spacing, qform, sform, units) are the source's, bit for bit.
///
/// # Errors
/// [`DataError::File`] when the mask's shape is not the grid's, [`DataError::Io`] when it cannot be written.
pub fn write_mask(path: &Path, mask: &Array3<u8>, grid: &Grid) -> Result<()> {
    fsutil::write_atomic(path, &encode_mask(path, mask, grid)?)
}

/// Writes a volume of 16-bit integers in canonical order onto `grid`, gzip, atomically.
///
/// # Errors
/// As [`write_mask`].
pub fn write_volume(path: &Path, volume: &Array3<i16>, grid: &Grid) -> Result<()> {
    fsutil::write_atomic(path, &encode_volume(path, volume, grid)?)
}

pub(crate) fn encode_mask(path: &Path, mask: &Array3<u8>, grid: &Grid) -> Result<Vec<u8>> {
    check_shape(path, mask.dim(), grid)?;
    encode(path, grid, 2, 8, &grid.to_file_order(mask), Compression::new(6))
}

pub(crate) fn encode_volume(path: &Path, volume: &Array3<i16>, grid: &Grid) -> Result<Vec<u8>> {
    check_shape(path, volume.dim(), grid)?;
    let big = is_big_endian(&grid.header);
    let bytes: Vec<u8> = grid
        .to_file_order(volume)
        .into_iter()
        .flat_map(|v| if big { v.to_be_bytes() } else { v.to_le_bytes() })
        .collect();
    // Noise hardly compresses: the fastest level loses a few percent and takes a third of the time.
    encode(path, grid, 4, 16, &bytes, Compression::fast())
}

const GZIP: [u8; 2] = [0x1f, 0x8b];

fn truncated(path: &Path, error: &std::io::Error) -> DataError {
    DataError::file(
        path,
        format!("the file is truncated or damaged ({error}); copy it again from its source"),
    )
}

/// Validates the header's bytes and takes the grid from them.
fn parse_header(path: &Path, bytes: &[u8]) -> Result<(NiftiHeader, Grid)> {
    refuse_other_formats(path, bytes)?;
    let header = NiftiHeader::from_reader(bytes)
        .map_err(|e| DataError::file(path, format!("cannot read its header: {e}")))?;
    let dim = header.dim().map_err(|e| DataError::file(path, format!("its header is damaged: {e}")))?;
    if dim.len() < 2 || dim.iter().skip(3).any(|&n| n != 1) {
        return Err(DataError::file(
            path,
            format!(
                "has the shape {dim:?}; one three-dimensional volume per phase is needed: split it into single volumes, for example with fslsplit"
            ),
        ));
    }
    let shape: [usize; 3] = std::array::from_fn(|d| dim.get(d).map_or(1, |&n| usize::from(n)));
    let affine = affine(&header);
    let degenerate = (0..3).any(|c| (0..3).all(|r| affine[r][c] == 0.0));
    if degenerate || affine.iter().flatten().any(|v| !v.is_finite()) {
        return Err(DataError::file(
            path,
            "its header gives no usable voxel positions (an axis of the affine is zero or not finite); repair its sform or qform",
        ));
    }
    Ok((header, Grid::new(shape, affine, bytes[..HEADER_LEN].to_vec())))
}

fn refuse_other_formats(path: &Path, bytes: &[u8]) -> Result<()> {
    let message = match bytes.first_chunk::<4>().map(|b| (i32::from_le_bytes(*b), i32::from_be_bytes(*b))) {
        Some((540, _) | (_, 540)) => {
            "is NIfTI-2, which is not read; convert it to NIfTI-1, for example with `fslchfiletype NIFTI_GZ`, `mrconvert IN OUT.nii.gz` or nibabel's Nifti1Image.from_image"
        }
        Some((348, _) | (_, 348)) if bytes.len() < HEADER_LEN => {
            "is truncated inside its header; copy it again from its source"
        }
        Some((348, _) | (_, 348)) => match &bytes[344..348] {
            b"n+1\0" => return Ok(()),
            b"ni1\0" => "is one half of a NIfTI-1 header/image pair; convert it to a single .nii.gz file",
            _ => "is an ANALYZE 7.5 file, whose orientation is not defined; convert it to NIfTI-1",
        },
        _ => "is not a NIfTI-1 file",
    };
    Err(DataError::file(path, message))
}

/// sform, else qform, else voxel sizes alone.
fn affine(header: &NiftiHeader) -> [[f64; 4]; 4] {
    let last = [0.0, 0.0, 0.0, 1.0];
    if header.sform_code > 0 {
        return [
            header.srow_x.map(f64::from),
            header.srow_y.map(f64::from),
            header.srow_z.map(f64::from),
            last,
        ];
    }
    let size: [f64; 3] = std::array::from_fn(|d| {
        let size = f64::from(header.pixdim[d + 1]).abs();
        if size == 0.0 { 1.0 } else { size }
    });
    if header.qform_code > 0 {
        return qform(header, size);
    }
    // As nibabel for a file without orientation: the first axis runs to the left, the volume is centred on the origin.
    let shape: [f64; 3] =
        std::array::from_fn(|d| f64::from(header.dim.get(d + 1).copied().unwrap_or(1).max(1)));
    let step = [-size[0], size[1], size[2]];
    let origin: [f64; 3] = std::array::from_fn(|d| -(shape[d] - 1.0) / 2.0 * step[d]);
    [[step[0], 0.0, 0.0, origin[0]], [0.0, step[1], 0.0, origin[1]], [0.0, 0.0, step[2], origin[2]], last]
}

/// The rotation of NIfTI-1's quaternion, "method 2" of the standard.
fn qform(header: &NiftiHeader, size: [f64; 3]) -> [[f64; 4]; 4] {
    let [b, c, d] = [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let a = (1.0 - (b * b + c * c + d * d)).max(0.0).sqrt();
    let handed = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let step = [size[0], size[1], size[2] * handed];
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    let offset = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
    let row =
        |r: usize| [rotation[r][0] * step[0], rotation[r][1] * step[1], rotation[r][2] * step[2], offset[r]];
    [row(0), row(1), row(2), [0.0, 0.0, 0.0, 1.0]]
}

fn check_shape(path: &Path, (z, y, x): (usize, usize, usize), grid: &Grid) -> Result<()> {
    if [z, y, x] == grid.shape {
        return Ok(());
    }
    Err(DataError::file(
        path,
        format!("a volume of shape {:?} does not fit the grid of shape {:?}", [z, y, x], grid.shape),
    ))
}

fn is_big_endian(header: &[u8]) -> bool {
    header.len() == HEADER_LEN && header[..4] == 348i32.to_be_bytes()
}

/// Header in the source's own byte order with a new data type, then the voxels, then gzip.
fn encode(
    path: &Path,
    grid: &Grid,
    datatype: i16,
    bits: i16,
    voxels: &[u8],
    level: Compression,
) -> Result<Vec<u8>> {
    let mut head = if grid.header.len() == HEADER_LEN { grid.header.clone() } else { fresh_header(grid) };
    let big = is_big_endian(&head);
    let mut put = |at: usize, value: i16| {
        head[at..at + 2].copy_from_slice(&if big { value.to_be_bytes() } else { value.to_le_bytes() });
    };
    put(40, 3);
    for (d, &n) in grid.source_shape.iter().enumerate() {
        let n = i16::try_from(n)
            .map_err(|_| DataError::file(path, format!("an axis of {n} voxels does not fit into NIfTI-1")))?;
        put(42 + 2 * d, n);
    }
    for d in 4..8 {
        put(40 + 2 * d, 1);
    }
    put(68, 0); // intent_code: a source that declares a statistic must not lend it to a mask
    put(70, datatype);
    put(72, bits);
    let mut put_f32 = |at: usize, value: f32| {
        head[at..at + 4].copy_from_slice(&if big { value.to_be_bytes() } else { value.to_le_bytes() });
    };
    put_f32(108, 352.0); // vox_offset
    put_f32(112, 1.0); // scl_slope
    put_f32(116, 0.0); // scl_inter
    put_f32(124, 0.0); // cal_max
    put_f32(128, 0.0); // cal_min
    head[344..348].copy_from_slice(b"n+1\0");
    let mut encoder = GzEncoder::new(Vec::with_capacity(voxels.len() / 2 + 512), level);
    let written = encoder
        .write_all(&head)
        .and_then(|()| encoder.write_all(&[0; 4])) // no header extensions
        .and_then(|()| encoder.write_all(voxels));
    written.and_then(|()| encoder.finish()).map_err(DataError::io("compress", path))
}

/// A little-endian header for a grid that came from no file.
fn fresh_header(grid: &Grid) -> Vec<u8> {
    let mut head = vec![0; HEADER_LEN];
    head[..4].copy_from_slice(&348i32.to_le_bytes());
    let mut put = |at: usize, value: f32| head[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(76, 1.0);
    for a in 0..3 {
        put(80 + 4 * grid.axes[a], grid.spacing[a] as f32);
    }
    for (r, row) in grid.affine.iter().take(3).enumerate() {
        for (c, &value) in row.iter().enumerate() {
            put(280 + 16 * r + 4 * c, value as f32);
        }
    }
    head[123] = 2; // millimetres
    head[254] = 1; // sform: scanner coordinates
    head
}
