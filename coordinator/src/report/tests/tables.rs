//! Layouts of the paper, published values, LaTeX and CSV of tables, and metrics by other conventions.

use super::*;

fn all_arms() -> String {
    Arm::ALL.iter().map(|arm| format!("\"{arm}\"")).collect::<Vec<_>>().join(", ")
}

fn table<'a>(document: &'a Document, id: &str) -> &'a Table {
    document.tables().find(|table| table.id == id).unwrap_or_else(|| panic!("no table {id}"))
}

fn words(table: &Table) -> Vec<Vec<String>> {
    table.rows.iter().map(|row| row.iter().map(TableCell::words).collect()).collect()
}

fn first_column(table: &Table) -> Vec<String> {
    words(table).into_iter().map(|row| row[0].clone()).collect()
}

#[test]
fn tables_have_the_papers_rows_columns_and_order() {
    let results = study(&spec(&all_arms(), "5"), &[], |_| {});
    let document = document(&results, Options::default());
    let last = |id: &str| table(&document, id).header.last().cloned().unwrap();
    let one = table(&document, "table1");
    assert_eq!(one.header[1..4], ["U-Net", "ResUNet++", "TransUNet"].map(str::to_owned));
    assert_eq!(one.header[one.header.len() - 2], "MD-FF stand-in (source not identified)");
    assert_eq!(
        (last("table1").as_str(), first_column(one)),
        ("MTI-Net", vec!["DSC (%)".into(), "IoU (%)".into()])
    );
    let two = table(&document, "table2");
    assert_eq!(
        two.header[1..6].join("; "),
        "VGG-16, regression; ResNet-50, regression; DenseNet-121, regression; Inception v3, regression; MTI-Net"
    );
    assert_eq!(two.header[6..].join("; "), "best constant (no image); class median (told the class)");
    let three = table(&document, "table3");
    assert_eq!(first_column(three), ["DSC (%)", "IoU (%)", "MAE"]);
    assert_eq!(
        three.header[1..].join("; "),
        "MTI-Net without MdIEF; MTI-Net without spectral features; MTI-Net without spatial features; \
         MTI-Net without TIM; MTI-Net without TDD; MTI-Net"
    );
    let four = table(&document, "table4");
    assert_eq!(four.header, ["Configuration", "DSC (%) ↑", "MAE ↓", "Accuracy (%) ↑"]);
    assert_eq!(words(four)[0][2..], ["–", "–"], "segmentation only has neither");
    assert_eq!(four.rows.len(), 4);
}

#[test]
fn ties_are_all_best_and_a_reference_line_never_is() {
    let results = study(&spec("\"mti-net\", \"no-tim\", \"vgg16-reg\"", "3"), &[], |_| {});
    let document = document(&results, Options::default());
    let best = |id: &str, row: usize| -> Vec<bool> {
        table(&document, id).rows[row].iter().map(TableCell::is_best).collect()
    };
    assert_eq!(best("table3", 0), [false, true, true], "the same Dice in both");
    assert_eq!(best("table2", 0), [false, true, true, false, false]);
}

#[test]
fn published_values_stand_apart_and_only_on_request() {
    let results = study(&spec("\"mti-net\", \"unet\"", "3"), &["unet/1/0"], |_| {});
    assert!(!markdown(&results).contains("published"), "not asked for");
    let options = Options { with_paper: true };
    let document = document(&results, options);
    let published = table(&document, "table1_published");
    assert_eq!(published.header[2..4], ["this study", "published"].map(str::to_owned));
    let rows = words(published);
    assert_eq!(rows.len(), 12, "six arms by two metrics, also those that the study does not have");
    assert_eq!(
        rows[0][..4].join(" | "),
        "U-Net | DSC (%) | 66.00 ± 1.41 over 2 of 3 folds; missing: unet/1/0 (waiting) | 77.34 ± 3.04"
    );
    assert_eq!(rows[1][2..4].join(" | "), "not in this study | 78.85 ± 2.91");
    assert!(rows[6][4].starts_with("impossible beside DSC 77.34"), "{:?}", rows[6]);
    assert!(published.rows.iter().flatten().all(|cell| !cell.is_best()));
    assert!(document.tables().all(|table| table.id != "table3_published"), "the study has no Table 3");
    let (markdown, latex) = (tables_markdown(&results, options), tables_latex(&results, options));
    assert!(markdown.contains("They are no targets."), "{markdown}");
    assert!(latex.contains("77.34 $\\pm$ 3.04") && latex.contains("They are no targets."), "{latex}");
    let own = summary_json(&results);
    assert!(!own.to_string().contains("77.34"), "programs get the study's own figures only");
}

/// Environments that are open at the end of a text, and the depth of its braces.
fn open(latex: &str) -> (Vec<String>, i64) {
    let (mut environments, mut depth, mut escaped) = (Vec::new(), 0, false);
    let body: Vec<&str> = latex.lines().filter(|line| !line.trim_start().starts_with('%')).collect();
    let body = body.join("\n");
    for character in body.chars() {
        depth += match (escaped, character) {
            (false, '{') => 1,
            (false, '}') => -1,
            _ => 0,
        };
        assert!(depth >= 0, "a brace is closed that was not opened");
        escaped = character == '\\' && !escaped;
    }
    for part in body.split('\\').skip(1) {
        let name = |part: &str| part.split(['{', '}']).nth(1).unwrap().to_owned();
        if part.starts_with("begin{") {
            environments.push(name(part));
        } else if part.starts_with("end{") {
            assert_eq!(environments.pop(), Some(name(part)));
        }
    }
    (environments, depth)
}

#[test]
fn latex_is_balanced_and_keeps_names_as_text() {
    let spec = spec(&all_arms(), "3");
    let mut log = Log::new(&spec);
    let Event::StudySubmitted { dataset, .. } = &mut log.0[0].event else { panic!() };
    dataset.name = "50 %\n\\end{document}".into();
    dataset.classes = vec!["a_b & {c}".into(), "H$C#C".into()];
    for trial in spec.trials() {
        if trial.arm == Arm::Unet {
            log.push(Event::TrialFailed { trial, reason: "exit code 1: C:\\x_y 100% {".into() });
        } else {
            log.done(trial, evaluation(trial.arm, trial.fold, f64::from(trial.fold)).summary());
        }
    }
    let mut results = StudyResults::from_events(&log.0).unwrap();
    for trial in spec.trials().into_iter().filter(|trial| trial.arm != Arm::Unet) {
        results.set_evaluation(trial, evaluation(trial.arm, trial.fold, f64::from(trial.fold)));
    }
    let latex = tables_latex(&results, Options { with_paper: true });
    assert_eq!(open(&latex), (Vec::new(), 0));
    assert!(latex.contains("called a\\_b \\& \\{c\\}") && latex.contains("H\\$C\\#C"), "{latex}");
    assert!(latex.contains("(failed: exit code 1: C:\\textbackslash{}x\\_y 100\\% \\{)"), "{latex}");
    assert!(
        latex.contains("\\textbf{")
            && latex.contains("\\toprule")
            && latex.contains("\\label{tab:golden-table4}")
    );
    for line in latex.lines().filter(|line| line.ends_with("\\\\")) {
        assert!(!line.trim_start().starts_with('['), "{line}");
    }
    let document = tables_latex_standalone(&results);
    assert_eq!(open(&document), (Vec::new(), 0));
    assert!(document.contains("\\input{tables.tex}"));
}

#[test]
fn every_row_of_a_table_has_a_cell_a_column() {
    let results = study(&spec(&all_arms(), "3"), &["unet/0/0", "seg-cls/1/0"], |_| {});
    let document = document(&results, Options { with_paper: true });
    let mut ids: Vec<&str> = document.tables().map(|table| table.id.as_str()).collect();
    for table in document.tables() {
        for row in &table.rows {
            assert_eq!(row.len(), table.header.len(), "{}", table.id);
        }
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "tables are told apart by their names");
}

#[test]
fn a_table_as_csv_names_cells_figures_and_trials() {
    let results = study(&spec("\"mti-net\", \"unet\"", "3"), &["unet/1/0"], |_| {});
    let directory = tempfile::tempdir().unwrap();
    write(&results, Options { with_paper: true }, &Pictures::default(), directory.path()).unwrap();
    let file = |name: &str| read(&std::fs::read(directory.path().join("tables").join(name)).unwrap());
    let (header, rows) = file("table1.csv");
    assert_eq!(header.join(","), "row,column,text,mean,std,n_folds,folds_asked,best,trials,missing");
    let unet = rows.iter().find(|row| row[0] == "DSC (%)" && row[1] == "U-Net").unwrap();
    assert_eq!(unet[5..].join(","), "2,3,false,unet/0/0 unet/2/0,unet/1/0 (waiting)");
    assert!((unet[3].parse::<f64>().unwrap() - 66.0).abs() < 1e-9, "{unet:?}");
    let (_, rows) = file("confusion.csv");
    assert_eq!(rows[0][..3].join(","), "MTI-Net, hemangioma,called hemangioma,0.0 (0)");
    let (_, rows) = file("table1_published.csv");
    let published = rows.iter().find(|row| row[0] == "U-Net, IoU (%)" && row[1] == "published").unwrap();
    assert_eq!(published[3..5].join(","), "58.79,8.45");
}

#[test]
fn other_conventions_are_in_files_and_tables() {
    let mut results = study(&spec("\"mti-net\"", "2"), &[], |_| {});
    let summary = summary_json(&results);
    let mean = |name: &str| summary["arms"][0]["mean"][name].as_f64().unwrap();
    // Folds 0 and 1: slices of Dice 0.80 and 0.60, 0.81 and 0.61, and one of 12 pixels where there is no tumour.
    assert!((mean("dsc") - 70.5).abs() < 1e-9);
    assert!((mean("dsc_skip_both_empty") - 47.0).abs() < 1e-9);
    assert!((mean("dsc_both_empty_one") - 47.0).abs() < 1e-9);
    assert!((mean("dsc_per_subject") - 70.5).abs() < 1e-9);
    assert!((mean("mae_sum") - 20.5).abs() < 1e-9, "10 + 10 + the fold's offset");
    assert_eq!((mean("sensitivity"), mean("specificity")), (100.0, 0.0));
    let trial = &summary["arms"][0]["trials"][0];
    assert_eq!(trial["confusion_subjects"], serde_json::json!([[0, 1], [0, 1]]));
    let pooled = &summary["arms"][0]["pooled"];
    assert_eq!(pooled["subjects"]["subject_accuracy"]["mean"], 50.0);
    assert_eq!(pooled["slices"]["dsc_skip_both_empty"]["n"], 6);
    assert!(section(&markdown(&results), "## The same by other").contains("| MTI-Net | 70.50 ± 0.71[^1] |"));

    assert_eq!(mean("healthy_fp_rate"), 100.0, "12 pixels are above the usual 10");
    results.set_healthy_minimum(13);
    let summary = summary_json(&results);
    assert_eq!(summary["arms"][0]["mean"]["healthy_fp_rate"], 0.0);
    assert_eq!(summary["healthy_minimum_pixels"], 13);
    assert!(markdown(&results).contains("from 13 predicted pixels on"));
}

#[test]
fn slices_hold_what_a_recomputation_needs() {
    let results = study(&spec("\"mti-net\"", "[0]"), &[], |_| {});
    let (header, rows) = read(&csv_files::slices(&results).unwrap());
    let value = |row: usize, name: &str| {
        let column = header.iter().position(|column| column == name).unwrap_or_else(|| panic!("{name}"));
        rows[row][column].clone()
    };
    assert_eq!(header[header.len() - 4..].join(","), "mask_pre,mask_art,mask_pv,mask_del");
    assert_eq!((value(0, "truth_pixels"), value(0, "predicted_pixels")), ("40".into(), "12".into()));
    assert_eq!(
        (value(0, "p_0"), value(0, "p_1"), value(0, "mae_sum")),
        ("0.25".into(), "0.75".into(), "20".into())
    );
    assert_eq!(value(2, "dsc_skip_both_empty"), "0", "12 pixels without a tumour");
    assert_eq!((value(2, "overlap_pixels"), value(2, "dsc")), ("0".into(), String::new()));
}
