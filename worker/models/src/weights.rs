//! Parameters and running statistics as safetensors: written plainly, read strictly.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, serialize},
};
use tch::{Device, Kind, Tensor, nn::VarStore};

use crate::ModelError;

/// How many names a message lists before it only counts.
const NAMES_IN_MESSAGE: usize = 3;

/// Writes all parameters and running statistics of `vs` to `path`, which is replaced.
///
/// # Errors
/// [`ModelError::File`] where the file cannot be written.
pub fn save_safetensors(vs: &VarStore, path: &Path) -> Result<(), ModelError> {
    let bytes = to_bytes(vs)?;
    fs::write(path, bytes).map_err(|source| ModelError::File { path: path.to_owned(), source })
}

/// Reads all parameters and running statistics of `vs` from `path`.
///
/// # Errors
/// As [`from_bytes`], and [`ModelError::File`] where the file cannot be read.
pub fn load_safetensors(vs: &VarStore, path: &Path) -> Result<(), ModelError> {
    let bytes = fs::read(path).map_err(|source| ModelError::File { path: path.to_owned(), source })?;
    from_bytes(vs, &bytes, &path.display().to_string())
}

/// What the header of a safetensors file says about it, by key; empty where it says nothing.
///
/// # Errors
/// [`ModelError::File`] where the file cannot be read, [`ModelError::Format`] where it is not whole.
pub fn metadata(path: &Path) -> Result<HashMap<String, String>, ModelError> {
    let bytes = fs::read(path).map_err(|source| ModelError::File { path: path.to_owned(), source })?;
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .map_err(|source| ModelError::Format { origin: path.display().to_string(), source })?;
    Ok(header.metadata().clone().unwrap_or_default())
}

/// All parameters and running statistics of `vs` as the bytes of a safetensors file (f32, little-endian).
///
/// # Errors
/// [`ModelError::Torch`] where a parameter cannot be copied from its device.
pub fn to_bytes(vs: &VarStore) -> Result<Vec<u8>, ModelError> {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in vs.variables() {
        let shape: Vec<usize> = tensor.size().iter().map(|d| *d as usize).collect();
        let mut bytes = vec![0; 4 * tensor.numel()];
        let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        flat.f_copy_data_u8(&mut bytes, tensor.numel())
            .map_err(|source| ModelError::Torch { name: name.clone(), source })?;
        tensors.insert(name, (shape, bytes));
    }
    let format_error = |source| ModelError::Format { origin: "in memory".into(), source };
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(format_error)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize(views, Some(metadata)).map_err(format_error)
}

/// Sets all parameters and running statistics of `vs` from the bytes of a safetensors file; `origin` is named in
/// messages. Nothing is changed unless everything fits.
///
/// # Errors
/// [`ModelError::Format`] for truncated or foreign bytes, [`ModelError::Missing`] and [`ModelError::Unexpected`] for
/// other names than the network's, [`ModelError::Kind`], [`ModelError::Shape`] and [`ModelError::NotFinite`] for a
/// tensor that does not fit.
pub fn from_bytes(vs: &VarStore, bytes: &[u8], origin: &str) -> Result<(), ModelError> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|source| ModelError::Format { origin: origin.to_owned(), source })?;
    let variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
    check_names(&variables, &file, origin, |_| false)?;
    let mut values = Vec::with_capacity(variables.len());
    for (name, variable) in &variables {
        values.push(read_as(name, &variable.size(), &file, origin)?);
    }
    copy_all(&variables, values)
}

/// Copies values, in the order of the names, into their variables.
pub(crate) fn copy_all(variables: &BTreeMap<String, Tensor>, values: Vec<Tensor>) -> Result<(), ModelError> {
    for ((name, variable), value) in variables.iter().zip(values) {
        let mut variable = variable.shallow_clone();
        tch::no_grad(|| variable.f_copy_(&value).map(drop))
            .map_err(|source| ModelError::Torch { name: name.clone(), source })?;
    }
    Ok(())
}

/// Whether the file has the variables' names and no others than those that may be `passed_over`.
pub(crate) fn check_names(
    variables: &BTreeMap<String, Tensor>,
    file: &SafeTensors,
    origin: &str,
    passed_over: impl Fn(&str) -> bool,
) -> Result<(), ModelError> {
    let origin = origin.to_owned();
    let mut missing: Vec<String> =
        variables.keys().filter(|name| file.tensor(name).is_err()).cloned().collect();
    if !missing.is_empty() {
        let count = missing.len();
        missing.truncate(NAMES_IN_MESSAGE);
        return Err(ModelError::Missing { origin, names: missing, count });
    }
    let names = file.names().into_iter().filter(|name| !passed_over(name)).map(ToString::to_string);
    let mut extra: Vec<String> = names.filter(|name| !variables.contains_key(name)).collect();
    if !extra.is_empty() {
        let count = extra.len();
        extra.sort();
        extra.truncate(NAMES_IN_MESSAGE);
        return Err(ModelError::Unexpected { origin, names: extra, count });
    }
    Ok(())
}

/// The shape of a tensor of the file.
pub(crate) fn shape_of(name: &str, file: &SafeTensors, origin: &str) -> Result<Vec<i64>, ModelError> {
    let view =
        file.tensor(name).map_err(|source| ModelError::Format { origin: origin.to_owned(), source })?;
    Ok(view.shape().iter().map(|d| *d as i64).collect())
}

/// A tensor of the file, which must have this shape.
pub(crate) fn read_as(
    name: &str,
    expected: &[i64],
    file: &SafeTensors,
    origin: &str,
) -> Result<Tensor, ModelError> {
    let (origin, name) = (origin.to_owned(), name.to_owned());
    let view = match file.tensor(&name) {
        Ok(view) => view,
        Err(source) => return Err(ModelError::Format { origin, source }),
    };
    if view.dtype() != Dtype::F32 {
        return Err(ModelError::Kind { origin, name, found: format!("{:?}", view.dtype()) });
    }
    let found: Vec<i64> = view.shape().iter().map(|d| *d as i64).collect();
    if found != expected {
        return Err(ModelError::Shape { origin, name, found, expected: expected.to_vec() });
    }
    let finite = |value: &[u8; 4]| f32::from_le_bytes(*value).is_finite();
    if let Some(index) = view.data().as_chunks::<4>().0.iter().position(|value| !finite(value)) {
        return Err(ModelError::NotFinite { origin, name, index });
    }
    Tensor::f_from_data_size(view.data(), expected, Kind::Float)
        .map_err(|source| ModelError::Torch { name, source })
}
