//! `report.html`: the whole report as one page that works offline.
//!
//! The page holds no script and asks for nothing outside itself; its content security policy has browsers enforce that.
//! All text goes through [`maud`]'s escaping; the only markup put in as it is are our own drawings and style sheet.

mod document;
mod figures;

use maud::{DOCTYPE, PreEscaped, html};

use self::document::{Ids, Parts, Section};
use super::document::{Document, plural};
use super::figures::Group;
use super::results::StudyResults;

/// Nothing is loaded: styles stand in the page, images are data.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

const STYLE: &str = include_str!("style.css");

/// Sections that figures stand before: what a reader looks up, after what a reader reads.
const APPENDIX: [&str; 2] = ["Missing trials", "Provenance"];

/// The page, with the text and tables of `document` and the figures of `groups`.
pub fn page(results: &StudyResults, document: &Document, groups: &[Group]) -> String {
    let title = format!("Study {}", results.spec.name);
    let mut ids = Ids::default();
    let parts = Parts::of(document, &mut ids);
    let figures: Vec<Section> = groups.iter().map(|group| figures::section(group, &mut ids)).collect();
    let mut sections = parts.sections;
    let appendix = sections.iter().position(|section| APPENDIX.contains(&section.title.as_str()));
    let after = sections.split_off(appendix.unwrap_or(sections.len()));
    let sections: Vec<Section> =
        sections.into_iter().chain(figures).chain(after).chain(parts.notes).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                // Without it a browser asks the server for one.
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    p.lead { (lead(results)) }
                    (parts.introduction)
                }
                nav aria-label="Contents" {
                    ul { @for section in &sections { li { a href=(format!("#{}", section.id)) { (section.title) } } } }
                }
                main {
                    @for section in &sections {
                        section id=(section.id) {
                            h2 { (section.title) }
                            (section.body)
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn lead(results: &StudyResults) -> String {
    let spec = &results.spec;
    let done = results.trials.iter().filter(|trial| trial.summary().is_some()).count();
    format!(
        "Data set {}: {done} of {} done ({}, {}, {}).",
        results.dataset.name,
        plural(results.trials.len(), "trial"),
        plural(spec.arms.len(), "arm"),
        plural(spec.folds.indices().len(), "fold"),
        plural(spec.seeds.len(), "seed")
    )
}
