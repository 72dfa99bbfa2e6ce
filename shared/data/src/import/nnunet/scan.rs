//! What lies in an nnU-Net directory, judged before anything is copied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{DataError, Result};
use crate::import::phases;
use crate::manifest::{HEALTHY, PHASES};

/// A channel of `dataset.json`.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    pub index: u32,
    pub name: String,
}

/// One case that is complete.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub case: String,
    pub subject: String,
    pub class: String,
    pub images: BTreeMap<String, PathBuf>,
    pub label: PathBuf,
}

/// A source without faults.
#[derive(Debug)]
pub(super) struct Layout {
    path: PathBuf,
    pub name: Option<String>,
    pub license: Option<String>,
    pub channels: BTreeMap<String, Channel>,
    labels: BTreeMap<String, Vec<u32>>,
    pub classes: Vec<String>,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
}

/// The images of one case in the order of the phases, or what is wrong with them.
#[derive(Debug)]
pub struct CaseImages {
    /// Case id, or the name of a file that belongs to no case.
    pub case: String,
    /// One file a phase.
    pub images: Result<Vec<PathBuf>>,
}

/// Finds cases to predict: `CASE_000k.nii.gz` in `dir`, or in its `imagesTs` or `imagesTr`, without labels.
///
/// A `dataset.json` in `dir`, or beside it where it is an images folder, names the channels; without one, channel k is
/// phase k.
///
/// # Errors
/// [`DataError`] where the directory cannot be read or holds no images, [`DataError::Import`] for a `dataset.json` that
/// does not name the phases. What is wrong with one case is told at that case.
pub fn scan_cases(dir: &Path, phases: &[String]) -> Result<Vec<CaseImages>> {
    let folder =
        ["imagesTs", "imagesTr"].iter().map(|f| dir.join(f)).find(|d| d.is_dir()).unwrap_or(dir.to_owned());
    let channels = channels_of(dir, phases)?;
    let found = images(&folder)?;
    let strangers = strangers(&folder)?;
    if found.is_empty() && strangers.is_empty() {
        return Err(DataError::file(
            &folder,
            format!(
                "has no images; name them CASE_0000.nii.gz to CASE_{:04}.nii.gz for the phases {phases:?}",
                phases.len().saturating_sub(1)
            ),
        ));
    }
    let of_case = |(case, files): (String, BTreeMap<u32, PathBuf>)| {
        let images = in_order(&case, &files, &channels, phases);
        CaseImages { case, images }
    };
    let stranger = |name: String| {
        let problem = "is not named CASE_0000.nii.gz, with the number of its phase; rename or remove it";
        CaseImages { images: Err(DataError::file(&folder.join(&name), problem)), case: name }
    };
    Ok(found.into_iter().map(of_case).chain(strangers.into_iter().map(stranger)).collect())
}

/// Channel by phase.
fn channels_of(dir: &Path, phases: &[String]) -> Result<BTreeMap<String, u32>> {
    let beside = dir
        .parent()
        .filter(|_| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("images")));
    let json =
        [Some(dir), beside].into_iter().flatten().map(|d| d.join("dataset.json")).find(|p| p.is_file());
    let Some(json) = json else {
        return Ok((0..).zip(phases).map(|(index, phase)| (phase.clone(), index)).collect());
    };
    let mut problems = Vec::new();
    let channels = channels(&json, &read_json(&json)?, &mut problems);
    problems.extend(
        phases
            .iter()
            .filter(|phase| !channels.contains_key(*phase) && !PHASES.contains(&phase.as_str()))
            .map(|phase| format!("channel_names has no channel for phase {phase}, which the networks know")),
    );
    if problems.is_empty() {
        Ok(channels.into_iter().map(|(phase, channel)| (phase, channel.index)).collect())
    } else {
        Err(DataError::Import { path: json, problems })
    }
}

fn in_order(
    case: &str,
    files: &BTreeMap<u32, PathBuf>,
    channels: &BTreeMap<String, u32>,
    phases: &[String],
) -> Result<Vec<PathBuf>> {
    let channel = |phase: &String| channels.get(phase).copied();
    let missing: Vec<String> = phases
        .iter()
        .filter(|phase| channel(phase).is_none_or(|index| !files.contains_key(&index)))
        .map(|phase| format!("{phase} ({case}_{:04}.nii.gz)", channel(phase).unwrap_or_default()))
        .collect();
    if !missing.is_empty() {
        let problem =
            format!("has no image of phase {}; every case needs all of {phases:?}", missing.join(", "));
        return Err(DataError::case(case, problem));
    }
    let known: Vec<u32> = phases.iter().filter_map(channel).collect();
    if let Some(path) = files.iter().find_map(|(index, path)| (!known.contains(index)).then_some(path)) {
        return Err(DataError::case(
            case,
            format!(
                "has {} images, {} among them, and the networks know {} phases, {phases:?}; remove what is too many, or \
                 say in dataset.json (channel_names) which file is which phase",
                files.len(),
                path.display(),
                phases.len()
            ),
        ));
    }
    Ok(known.iter().map(|index| files[index].clone()).collect())
}

/// NIfTI files whose names say neither case nor phase.
fn strangers(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io("read", folder))? {
        let name = entry.map_err(DataError::io("read", folder))?.file_name().to_string_lossy().into_owned();
        let is_nifti = name.ends_with(".nii") || name.ends_with(".nii.gz");
        if is_nifti && !name.starts_with('.') && case_and_channel(&name).is_none() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The parts of `CASE_000k.nii[.gz]`.
fn case_and_channel(name: &str) -> Option<(&str, u32)> {
    let stem = name.strip_suffix(".nii.gz").or_else(|| name.strip_suffix(".nii"))?;
    let (case, channel) = stem.rsplit_once('_')?;
    (channel.len() == 4 && !case.is_empty()).then_some(())?;
    Some((case, channel.parse().ok()?))
}

/// Looks at `src` and lists everything that is wrong with it.
pub(super) fn scan(src: &Path, table: Option<&Path>) -> Result<Layout> {
    let json = src.join("dataset.json");
    let description = read_json(&json)?;
    let mut problems = Vec::new();
    let channels = channels(&json, &description, &mut problems);
    let labels = labels(&description, &mut problems);
    let table = table.map_or_else(|| src.join("cases.csv"), Path::to_owned);
    let listed = read_table(&table)?;
    let found = images(&src.join("imagesTr"))?;
    if found.is_empty() {
        problems.push("imagesTr has no files named CASE_0000.nii.gz".to_owned());
    }
    for case in found.keys().filter(|case| !listed.contains_key(*case)) {
        problems.push(format!("case {case} has images but no line in {}", table.display()));
    }
    let classes = classes(listed.values().map(|(_, class)| class.as_str()));
    let mut rows = Vec::new();
    for (case, (subject, class)) in listed {
        let Some(files) = found.get(&case) else {
            problems.push(format!("case {case} is in {} but has no images", table.display()));
            continue;
        };
        let images = by_phase(&case, files, &channels, &mut problems);
        match existing(&src.join("labelsTr"), &case) {
            Some(label) => rows.push(Row { case, subject, class, images, label }),
            None => problems.push(format!(
                "case {case} has no mask labelsTr/{case}.nii.gz; a healthy case needs an empty one"
            )),
        }
    }
    if !problems.is_empty() {
        return Err(DataError::Import { path: src.to_owned(), problems });
    }
    let notes = Vec::new();
    let (name, license) = (description.name, description.licence.or(description.license));
    Ok(Layout { path: json, name, license, channels, labels, classes, rows, notes })
}

impl Layout {
    /// Values of the masks to 0 and 1: named labels are tumour, by default all above 0.
    pub(super) fn remap(&self, tumour: Option<&[String]>) -> Result<BTreeMap<String, u8>> {
        if let Some(missing) = tumour.into_iter().flatten().find(|name| !self.labels.contains_key(*name)) {
            let known: Vec<&String> = self.labels.keys().collect();
            return Err(DataError::Options(format!(
                "label `{missing}` is not in {}, which has {known:?}",
                self.path.display()
            )));
        }
        let is_tumour = |name: &String| tumour.is_none_or(|wanted| wanted.contains(name));
        let mut remap = BTreeMap::new();
        for (name, values) in &self.labels {
            for &value in values.iter().filter(|&&v| v > 0) {
                let target = remap.entry(value.to_string()).or_insert(0);
                // A value of several regions is tumour when one of them is.
                *target = (*target).max(u8::from(is_tumour(name)));
            }
        }
        Ok(remap)
    }
}

#[derive(Deserialize)]
struct Description {
    name: Option<String>,
    licence: Option<String>,
    license: Option<String>,
    // Version 1 of nnU-Net called the channels a modality.
    #[serde(alias = "modality")]
    channel_names: BTreeMap<String, String>,
    labels: BTreeMap<String, serde_json::Value>,
}

fn read_json(path: &Path) -> Result<Description> {
    let text = std::fs::read_to_string(path).map_err(DataError::io("read", path))?;
    serde_json::from_str(&text)
        .map_err(|e| DataError::file(path, format!("is not nnU-Net's dataset.json: {e}")))
}

/// Channels by phase.
fn channels(path: &Path, description: &Description, problems: &mut Vec<String>) -> BTreeMap<String, Channel> {
    let mut channels: BTreeMap<String, Channel> = BTreeMap::new();
    for (index, name) in &description.channel_names {
        let Ok(index) = index.parse::<u32>() else {
            problems.push(format!("{}: channel `{index}` is not a number", path.display()));
            continue;
        };
        let Some(phase) = phases::phase_of(name) else {
            problems.push(format!("channel {index} is called `{name}`, which is no known phase; rename it in dataset.json to one of: {}", phases::synonyms()));
            continue;
        };
        if let Some(other) = channels.insert(phase.to_owned(), Channel { index, name: name.clone() }) {
            problems.push(format!(
                "channels {} (`{}`) and {index} (`{name}`) are both phase {phase}",
                other.index, other.name
            ));
        }
    }
    for phase in PHASES.iter().filter(|p| !channels.contains_key(**p)) {
        problems
            .push(format!("channel_names has no channel for phase {phase}; all of {PHASES:?} are needed"));
    }
    channels
}

fn labels(description: &Description, problems: &mut Vec<String>) -> BTreeMap<String, Vec<u32>> {
    let mut labels = BTreeMap::new();
    for (name, value) in &description.labels {
        if name == "ignore" {
            problems.push("the label `ignore` is not supported: masks must be complete".to_owned());
        }
        // Version 1 of nnU-Net wrote {"1": "tumor"}.
        let (name, value) = match (name.parse::<u32>(), value.as_str()) {
            (Ok(number), Some(text)) => (text.to_owned(), serde_json::Value::from(number)),
            _ => (name.clone(), value.clone()),
        };
        let values = value.as_array().map_or_else(|| vec![value.clone()], Clone::clone);
        let numbers: Option<Vec<u32>> =
            values.iter().map(|v| v.as_u64().and_then(|v| u32::try_from(v).ok())).collect();
        match numbers {
            Some(numbers) => _ = labels.insert(name, numbers),
            None => problems.push(format!(
                "label `{name}` has the value {value}, which is no whole number or list of them"
            )),
        }
    }
    if labels.values().flatten().all(|&v| v == 0) {
        problems.push("dataset.json names no label above 0, so nothing can be tumour".to_owned());
    }
    labels
}

/// Files `CASE_000k.nii[.gz]` of a folder: case to channel to file.
fn images(folder: &Path) -> Result<BTreeMap<String, BTreeMap<u32, PathBuf>>> {
    let mut cases: BTreeMap<String, BTreeMap<u32, PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io("read", folder))? {
        let path = entry.map_err(DataError::io("read", folder))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.')) else {
            continue;
        };
        if let Some((case, channel)) = case_and_channel(name) {
            cases.entry(case.to_owned()).or_default().insert(channel, path.clone());
        }
    }
    Ok(cases)
}

fn by_phase(
    case: &str,
    files: &BTreeMap<u32, PathBuf>,
    channels: &BTreeMap<String, Channel>,
    problems: &mut Vec<String>,
) -> BTreeMap<String, PathBuf> {
    let mut images = BTreeMap::new();
    for (phase, channel) in channels {
        match files.get(&channel.index) {
            Some(path) => _ = images.insert(phase.clone(), path.clone()),
            None => problems.push(format!(
                "case {case} has no image of phase {phase} ({case}_{:04}.nii.gz)",
                channel.index
            )),
        }
    }
    images
}

fn existing(folder: &Path, stem: &str) -> Option<PathBuf> {
    ["nii.gz", "nii"].iter().map(|e| folder.join(format!("{stem}.{e}"))).find(|p| p.is_file())
}

/// `cases.csv`: case to subject and class.
fn read_table(path: &Path) -> Result<BTreeMap<String, (String, String)>> {
    if !path.is_file() {
        return Err(DataError::file(
            path,
            "is missing: nnU-Net data has no subjects and classes, so a table with the columns case,subject,class is needed; put it there or name it with --cases FILE",
        ));
    }
    let fail = |e: csv::Error| DataError::file(path, format!("cannot be read as CSV: {e}"));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(fail)?;
    let headers = reader.headers().map_err(fail)?.clone();
    let column = |name: &str| {
        // Spreadsheets put a byte order mark before the first name.
        let wanted = |h: &str| h.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name);
        headers.iter().position(wanted).ok_or_else(|| {
            DataError::file(
                path,
                format!("has no column `{name}`; its first line must name case,subject,class"),
            )
        })
    };
    let (case, subject, class) = (column("case")?, column("subject")?, column("class")?);
    let mut rows = BTreeMap::new();
    for (n, record) in reader.records().enumerate() {
        let record = record.map_err(fail)?;
        let field = |i: usize| record.get(i).unwrap_or_default().to_owned();
        let (id, subject, class) = (field(case), field(subject), canonical_class(&field(class)));
        if id.is_empty() || subject.is_empty() || class.is_empty() {
            return Err(DataError::file(
                path,
                format!("line {}: case, subject and class must all be given", n + 2),
            ));
        }
        if rows.insert(id.clone(), (subject, class)).is_some() {
            return Err(DataError::file(path, format!("line {}: case {id} stands there twice", n + 2)));
        }
    }
    Ok(rows)
}

fn canonical_class(name: &str) -> String {
    let lower = name.to_lowercase();
    match lower.as_str() {
        "haemangioma" | "hepatic hemangioma" | "hepatic haemangioma" | "hh" => "hemangioma".to_owned(),
        "hepatocellular carcinoma" => "hcc".to_owned(),
        "none" | "no tumor" | "no tumour" | "normal" => HEALTHY.to_owned(),
        _ => lower,
    }
}

/// Lesion classes in a fixed order: the paper's two where no others occur, else by name.
fn classes<'a>(found: impl Iterator<Item = &'a str>) -> Vec<String> {
    let found: BTreeSet<&str> = found.filter(|&c| c != HEALTHY).collect();
    let paper = ["hemangioma", "hcc"];
    if found.iter().all(|c| paper.contains(c)) {
        return paper.map(str::to_owned).to_vec();
    }
    found.into_iter().map(str::to_owned).collect()
}
