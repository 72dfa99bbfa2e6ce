//! The page: complete, self-contained, and only text where text is meant.

use std::collections::BTreeSet;

use scraper::{Html, Selector};

use super::*;
use crate::report::figures::{Pictures, figures};
use crate::report::html::page;

fn parsed(results: &StudyResults) -> Html {
    let document = document(results, Options::default());
    let html = Html::parse_document(&page(results, &document, &figures(results, &Pictures::default())));
    assert_eq!(html.errors, Vec::<std::borrow::Cow<'_, str>>::new(), "the parser found mistakes");
    html
}

fn all<'a>(html: &'a Html, selector: &str) -> Vec<scraper::ElementRef<'a>> {
    let selector = Selector::parse(selector).unwrap();
    html.select(&selector).collect()
}

fn text(element: scraper::ElementRef<'_>) -> String {
    element.text().collect()
}

#[test]
fn nothing_is_asked_for_outside_the_page() {
    let html = parsed(&study(&spec("\"mti-net\", \"unet\"", "5"), &["unet/2/0"], |_| {}));
    assert!(all(&html, "script, iframe, object, embed, form, base, audio, video").is_empty());
    for element in all(&html, "*") {
        for (name, value) in element.value().attrs() {
            assert!(!name.starts_with("on") && name != "src" && name != "srcset", "{name}={value}");
            if name == "href" {
                let link = element.value().name() == "a" && value.starts_with("figures/");
                assert!(link || value.starts_with('#') || value.starts_with("data:"), "{value}");
            }
            assert!(!value.contains("url("), "{value}");
        }
    }
    let style = text(all(&html, "style")[0]);
    assert!(!style.contains("url(") && !style.contains("@import"));
    let policy = all(&html, "meta[http-equiv=Content-Security-Policy]")[0].value().attr("content").unwrap();
    assert_eq!(policy, "default-src 'none'; style-src 'unsafe-inline'; img-src data:");
}

#[test]
fn ids_are_unique_and_links_lead_somewhere() {
    let html = parsed(&study(&spec("\"mti-net\", \"unet\", \"no-tim\"", "2"), &["unet/1/0"], |_| {}));
    let mut ids = BTreeSet::new();
    for element in all(&html, "[id]") {
        assert!(ids.insert(element.value().id().unwrap()), "{:?} stands twice", element.value().id());
    }
    let links: Vec<&str> = all(&html, "[href^='#']").iter().filter_map(|a| a.value().attr("href")).collect();
    assert!(links.len() > 10, "{links:?}");
    for link in links {
        assert!(ids.contains(&link[1..]), "{link} leads nowhere");
    }
}

#[test]
fn a_studys_name_stays_text() {
    let mut results = study(&spec("\"mti-net\"", "2"), &[], |_| {});
    let name = "</title><script>alert(1)</script> & \"q\" 'a'";
    results.spec.name = name.to_owned();
    results.dataset.name = "<img src=x onerror=y>".to_owned();
    results.dataset.classes[1] = "<i>hcc</i>".to_owned();
    let html = parsed(&results);
    assert!(all(&html, "script, img, i").is_empty());
    assert_eq!(text(all(&html, "h1")[0]), format!("Study {name}"));
    assert_eq!(text(all(&html, "title")[0]), format!("Study {name}"));
}

#[test]
fn the_page_has_the_documents_tables_with_gaps_marked_and_every_figure() {
    let failed = "unet/1/0";
    let results = study(&spec("\"mti-net\", \"unet\"", "3"), &[failed], |log| {
        log.started(key(failed), 1);
        log.ended(key(failed), 1, failure("loss is <NaN>"));
        log.push(Event::TrialFailed { trial: key(failed), reason: "loss is <NaN>".into() });
    });
    let (document, groups) =
        (document(&results, Options::default()), figures(&results, &Pictures::default()));
    let html = parsed(&results);
    let words: Vec<String> = all(&html, "th, td").into_iter().map(text).collect();
    for cell in document.tables().flat_map(|table| table.rows.iter().flatten()) {
        assert!(words.iter().any(|other| other.starts_with(&cell.words())), "{:?}", cell.words());
    }
    let gaps: Vec<String> = all(&html, "td.gap").into_iter().map(text).collect();
    assert!(gaps.iter().any(|gap| gap.contains(failed) && gap.contains("<NaN>")), "{gaps:?}");
    assert!(!text(all(&html, "header .warning")[0]).is_empty(), "an incomplete study says so at the top");
    for figure in groups.iter().flat_map(|group| &group.figures) {
        let id = format!("#figure-{}", figure.name);
        assert_eq!(all(&html, &format!("{id} svg")).len(), figure.panels.len(), "{id}");
        assert!(!all(&html, &format!("{id} figcaption a")).is_empty(), "{id} links its file");
        assert!(all(&html, &format!("{id} svg")).iter().all(|svg| svg.value().attr("role") == Some("img")));
    }
    assert!(text(all(&html, "#provenance")[0]).contains(&results.spec_hash));
}

/// Every measurement that a training of 100 epochs reports, with every term that any arm has.
fn long_training(trial: TrialKey) -> Event {
    let record = |scope, step: u64, names: &[&str]| MetricRecord {
        scope,
        step,
        epoch: 1,
        train_seconds: 1.0,
        values: names.iter().map(|&name| (name.to_owned(), 1.0 / step as f64 + 0.123_456)).collect(),
    };
    let losses = ["adv", "cls", "disc", "loss", "reg", "seg", "tim"];
    let records = (1..=400).flat_map(|epoch| {
        let step = epoch * 119;
        let held_out = record(MetricScope::HeldOut, step, &["accuracy", "dsc", "iou", "mae"]);
        [record(MetricScope::Epoch, step, &losses), held_out]
    });
    Event::Metrics {
        trial,
        attempt: AttemptNumber(1),
        report: ReportId { worker: WorkerId("w0".into()), seq: 50 },
        records: records.collect(),
    }
}

#[test]
fn a_page_of_the_whole_paper_leaves_room_for_images_below_ten_megabytes() {
    let arms: Vec<String> = Arm::ALL.iter().map(|arm| format!("\"{arm}\"")).collect();
    let spec = spec(&arms.join(", "), "5");
    let subjects = |trial: TrialKey| {
        let mut all = evaluation(trial.arm, trial.fold, 0.0);
        all.slices = (0..48_u32)
            .flat_map(|subject| {
                let of_fold = evaluation(trial.arm, trial.fold, f64::from(subject)).slices;
                of_fold
                    .into_iter()
                    .map(move |slice| SliceResult { subject: format!("{}{subject}", slice.subject), ..slice })
            })
            .collect();
        all
    };
    let mut log = Log::new(&spec);
    for trial in spec.trials() {
        log.started(trial, 1);
        log.push(long_training(trial));
        log.evaluated(trial, 1, subjects(trial).summary());
        log.ended(trial, 1, AttemptEnd::Completed);
    }
    let mut results = StudyResults::from_events(&log.0).unwrap();
    for trial in spec.trials() {
        results.set_evaluation(trial, subjects(trial));
    }
    let groups = figures(&results, &Pictures::default());
    let page = page(&results, &document(&results, Options::default()), &groups);
    println!("{} trials: a page of {:.1} MB without images", results.trials.len(), page.len() as f64 / 1e6);
    // Three segmentation figures of six subjects, each with two images of at most 256 x 256 grey values in base64.
    let images = 3 * 6 * 2 * 256 * 256 * 4 / 3;
    assert!(page.len() + images < 10_000_000, "{}", page.len());
}
