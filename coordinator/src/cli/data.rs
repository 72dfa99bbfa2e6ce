//! `mtinet data ...`: data sets made, imported, checked and split on this machine. No coordinator is asked, but to upload one.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use mtinet_data::import::nnunet;
use mtinet_data::{
    Case, CheckOptions, CheckReport, Dataset, Finding, HEALTHY, PhantomOptions, Severity, check, folds,
    phantom,
};
use serde_json::{Value, json};

use super::args::{CheckArgs, DataCommand, ImportCommand, NnunetArgs, PhantomArgs, SplitArgs};
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::{print, print_json, say, table};
use super::progress::Counter;
use super::show;
use super::study::blocking;
use super::upload;

pub async fn run(command: DataCommand) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    match command {
        DataCommand::Phantom(args) => {
            let destination = args.dst.clone();
            or_abandon(&interrupt, &destination, blocking(move || make_phantom(&args))).await
        }
        DataCommand::Import(ImportCommand::Nnunet(args)) => {
            let destination = args.dst.clone();
            or_abandon(&interrupt, &destination, blocking(move || import_nnunet(args))).await
        }
        DataCommand::Check(args) => interrupt.or(blocking(move || check_dataset(&args))).await,
        DataCommand::Split(args) => interrupt.or(blocking(move || split(&args))).await,
        DataCommand::Show(args) => interrupt.or(blocking(move || show::run(&args))).await,
        DataCommand::Upload(args) => interrupt.or(upload::run(args)).await,
    }
}

/// What was begun is removed within this time after an interrupt.
const CLEARING: Duration = Duration::from_secs(10);

/// Runs `work`, which writes a data set to `destination`, unless the end is asked for first: then nothing of it stays.
pub async fn or_abandon<T>(
    interrupt: &Interrupt,
    destination: &Path,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut work = std::pin::pin!(work);
    let done = interrupt.or(work.as_mut()).await;
    let deadline = Instant::now() + CLEARING;
    // The writing thread cannot be ended from here, but it ends when the directory under its hands is gone.
    while matches!(done, Err(CliError::Interrupted)) && Instant::now() < deadline {
        mtinet_data::abandon(destination);
        if tokio::time::timeout(Duration::from_millis(20), work.as_mut()).await.is_ok() {
            break;
        }
    }
    done
}

fn make_phantom(args: &PhantomArgs) -> Result<(), CliError> {
    let default = PhantomOptions::default();
    let options = PhantomOptions {
        subjects: args.subjects.unwrap_or(default.subjects),
        size: args.size.unwrap_or(default.size),
        seed: args.seed.unwrap_or(default.seed),
        ..default
    };
    let dataset = write_phantom(&args.dst, &options)?;
    describe(&dataset, args.json, json!({}));
    Ok(())
}

/// Writes a phantom and shows progress.
pub fn write_phantom(dst: &Path, options: &PhantomOptions) -> Result<Dataset, CliError> {
    let counter = Counter::new("simulating subjects");
    let dataset = phantom::write(dst, options, &|done, all| counter.set(done, all))?;
    drop(counter);
    Ok(dataset)
}

fn import_nnunet(args: NnunetArgs) -> Result<(), CliError> {
    let options = nnunet::ImportOptions {
        cases_csv: args.cases,
        copy: !args.link,
        name: args.name,
        tumour_labels: args.tumour_labels,
        folds: args.folds,
        seed: args.seed,
    };
    let counter = Counter::new("importing cases");
    let report = nnunet::import(&args.src, &args.dst, &options, &|done, all| counter.set(done, all))?;
    drop(counter);
    for note in &report.notes {
        say(format_args!("note: {note}"));
    }
    describe(
        &report.dataset,
        args.json,
        json!({ "bytes_copied": report.bytes_copied, "notes": report.notes }),
    );
    Ok(())
}

fn check_dataset(args: &CheckArgs) -> Result<(), CliError> {
    let dataset = Dataset::open(&args.dataset)?;
    let report = gate(&dataset)?;
    let (errors, warnings) = (of(&report, Severity::Error).count(), of(&report, Severity::Warning).count());
    if args.json {
        let mut document = serde_json::to_value(&report).unwrap_or_default();
        document["dataset"] = json!(dataset.header.name);
        document["passes"] = json!(report.passes());
        print_json(&document);
    } else {
        for finding in &report.findings {
            print(words(finding));
        }
        let counts =
            format!("{} cases of {} subjects in {} folds", report.cases, report.subjects, report.folds);
        let verdict = if report.passes() { "passes" } else { "FAILS" };
        print(format_args!("{verdict}: {counts}, {errors} error(s), {warnings} warning(s)"));
    }
    if report.passes() {
        return Ok(());
    }
    Err(CliError::NotSo(format!("{} fails the check with {errors} error(s)", args.dataset.display())))
}

/// Runs the leak gate with progress. Files are compared with the hashes of their import on the way.
pub fn gate(dataset: &Dataset) -> Result<CheckReport, CliError> {
    let counter = Counter::new("checking the data set");
    let report = check::check(dataset, &CheckOptions::default(), &|done, all| counter.set(done, all))?;
    drop(counter);
    Ok(report)
}

/// The findings of one severity.
pub fn of(report: &CheckReport, severity: Severity) -> impl Iterator<Item = &Finding> {
    report.findings.iter().filter(move |finding| finding.severity == severity)
}

/// A finding in one line.
pub fn words(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    format!("{severity} [{}] {}", finding.code, finding.message)
}

fn split(args: &SplitArgs) -> Result<(), CliError> {
    let mut dataset = Dataset::open(&args.dataset)?;
    folds::split(&mut dataset, args.folds, args.seed)?;
    if args.json {
        print_json(&json!({
            "dataset": dataset.header.name,
            "dataset_hash": dataset.hash(),
            "folds": fold_counts(&dataset),
        }));
        return Ok(());
    }
    let mut header = vec!["Fold".to_owned(), "Cases held out".to_owned(), "Subjects".to_owned()];
    header.extend(class_names(&dataset));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows = fold_counts(&dataset).into_iter().enumerate().map(|(fold, counts)| {
        let mut row = vec![fold.to_string(), counts["cases"].to_string(), counts["subjects"].to_string()];
        row.extend(class_names(&dataset).iter().map(|class| counts["classes"][class].to_string()));
        row
    });
    print(table(&header, rows));
    Ok(())
}

fn class_names(dataset: &Dataset) -> Vec<String> {
    let mut names = dataset.header.classes.clone();
    names.push(HEALTHY.to_owned());
    names
}

/// Held-out cases and subjects of each fold, and its cases by class.
fn fold_counts(dataset: &Dataset) -> Vec<Value> {
    // Looked up by name: with ten thousand cases a search through them for each is noticed.
    let by_id: HashMap<&str, &Case> = dataset.cases.iter().map(|case| (case.case.as_str(), case)).collect();
    let count = |fold: &folds::Fold| {
        let cases: Vec<&Case> = fold.val.iter().filter_map(|id| by_id.get(id.as_str()).copied()).collect();
        let subjects: std::collections::BTreeSet<&str> =
            cases.iter().map(|case| case.subject.as_str()).collect();
        let classes: serde_json::Map<String, Value> = class_names(dataset)
            .into_iter()
            .map(|class| {
                let n = cases.iter().filter(|case| case.class == class).count();
                (class, json!(n))
            })
            .collect();
        json!({ "cases": cases.len(), "subjects": subjects.len(), "classes": classes })
    };
    dataset.splits.iter().map(count).collect()
}

fn describe(dataset: &Dataset, as_json: bool, more: Value) {
    let subjects: std::collections::BTreeSet<&str> =
        dataset.cases.iter().map(|case| case.subject.as_str()).collect();
    if as_json {
        let mut document = json!({
            "dataset": dataset.header.name,
            "path": dataset.dir,
            "dataset_hash": dataset.hash(),
            "cases": dataset.cases.len(),
            "subjects": subjects.len(),
            "phases": dataset.header.phases,
            "classes": dataset.header.classes,
            "folds": fold_counts(dataset),
        });
        if let (Some(document), Value::Object(more)) = (document.as_object_mut(), more) {
            document.extend(more);
        }
        print_json(&document);
        return;
    }
    print(format_args!(
        "{}: {} cases of {} subjects, phases {}, classes {}, {} folds, hash {}",
        dataset.dir.display(),
        dataset.cases.len(),
        subjects.len(),
        dataset.header.phases.join(", "),
        dataset.header.classes.join(", "),
        dataset.splits.len(),
        dataset.hash()
    ));
    say(format_args!("next: mtinet data check {}", dataset.dir.display()));
}
