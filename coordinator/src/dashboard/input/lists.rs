//! Lists as they are shown: filtered and ordered. Keys and drawing must mean the same rows.

use crate::dashboard::state::{Model, Worker, WorkerLink};

use super::ui::Ui;

/// Workers that hold the filter's text in name, id, state or what they run, in the chosen order.
pub fn visible_workers<'a>(model: &'a Model, ui: &Ui) -> Vec<&'a Worker> {
    let filter = ui.workers_filter.to_lowercase();
    let workers = model.workers.as_deref().unwrap_or_default();
    let mut shown: Vec<&Worker> = workers.iter().filter(|worker| matches(worker, &filter)).collect();
    if ui.problems_first {
        // Stable: among equals the order by name stays.
        shown.sort_by_key(|worker| (worker.is_usable(), worker.link == WorkerLink::Lost));
    }
    shown
}

/// The word for how a worker stands.
pub fn worker_words(worker: &Worker) -> String {
    let mut words = vec![match worker.link {
        WorkerLink::Ready => "ready",
        WorkerLink::Away => "away",
        WorkerLink::Lost => "lost",
    }];
    if worker.drained {
        words.push("drained");
    }
    if worker.set_aside.is_some() {
        words.push("set aside");
    }
    if words.len() > 1 && words[0] == "ready" {
        words.remove(0);
    }
    words.join(", ")
}

fn matches(worker: &Worker, filter: &str) -> bool {
    filter.is_empty()
        || worker.name.to_lowercase().contains(filter)
        || worker.id.contains(filter)
        || worker_words(worker).contains(filter)
        || worker.slots.iter().any(|slot| slot.held.as_ref().is_some_and(|held| held.trial.contains(filter)))
}
