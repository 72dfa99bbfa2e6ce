//! Every screen as it looks.

use mtinet_domain::event::StudyOutcome;
use ratatui::style::Color;

use super::super::input::{Popup, Tab, on_key};
use super::super::state::Explained;
use super::*;

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 60);

/// Both sizes of a screen.
fn assert_screens(name: &str, model: &Model, ui: &Ui) {
    for size in [SMALL, LARGE] {
        insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), screen(model, ui, size));
    }
}

fn on(tab: Tab, trial: usize) -> Ui {
    Ui { tab, trial, ..Ui::default() }
}

#[test]
fn overview() {
    let mut model = ablation_model();
    assert_screens("overview_running", &model, &on(Tab::Overview, 4));
    let explained = Explained {
        reason: "needs 1 cuda slot, 0 of 4 free".into(),
        details: vec![
            "needs 1 cuda at once; the fleet has 4 in use or free, 0 free".into(),
            "priority 0; 2 trials of the study wait".into(),
        ],
    };
    model.apply(Update::Explained(key("resnet50-cls/1/0"), explained), 0);
    assert_screens("overview_waiting", &model, &on(Tab::Overview, 7));
}

#[test]
fn a_trial() {
    assert_screens("trial_running", &ablation_model(), &on(Tab::Trial, 4));
    assert_screens("trial_failed", &ablation_model(), &on(Tab::Trial, 6));
}

#[test]
fn the_workers() {
    assert_screens("workers", &ablation_model(), &on(Tab::Workers, 0));
    let selected = Ui { worker: 1, problems_first: true, ..on(Tab::Workers, 0) };
    assert_screens("workers_problems", &ablation_model(), &selected);
}

#[test]
fn the_leaderboard() {
    assert_screens("leaderboard", &ablation_model(), &on(Tab::Leaderboard, 0));
}

#[test]
fn the_events() {
    let ui = Ui { events_filter: "no-tim".into(), ..on(Tab::Events, 0) };
    assert_screens("events", &ablation_model(), &on(Tab::Events, 0));
    assert_screens("events_filtered", &ablation_model(), &ui);
}

#[test]
fn what_lies_over_the_screen() {
    let model = ablation_model();
    let with = |popup| Ui { popup: Some(popup), ..on(Tab::Overview, 4) };
    assert_screens("help", &model, &with(Popup::Help));
    assert_screens("studies", &model, &with(Popup::Studies(1)));
    let mut ui = on(Tab::Overview, 4);
    let c = crossterm::event::KeyEvent::from(crossterm::event::KeyCode::Char('c'));
    on_key(&mut ui, &model, c);
    assert_screens("confirm", &model, &ui);
}

#[test]
fn a_coordinator_that_is_away() {
    let mut model = ablation_model();
    let last = model.study.results().unwrap().last_event_ms;
    let link = Link::Away {
        since_ms: last - 11_000,
        again_ms: last + 3500,
        why: "the coordinator does not answer: tcp connect error".into(),
    };
    model.apply(Update::Link(link), last);
    assert_screens("away", &model, &on(Tab::Overview, 4));
}

#[test]
fn a_hundred_and_ten_trials() {
    let model = programme().model();
    assert_screens("programme", &model, &on(Tab::Overview, 3));
    assert_screens("programme_end", &model, &on(Tab::Overview, 109));
    assert_screens("programme_leaderboard", &model, &on(Tab::Leaderboard, 0));
}

#[test]
fn a_study_that_is_over_and_its_recording() {
    let mut story = ablation();
    story.over(StudyOutcome::Incomplete);
    let mut model = story.model();
    model.apply(Update::Link(Link::Recorded), story.now_ms);
    assert_screens("recording", &model, &on(Tab::Overview, 0));
    assert_screens("recording_workers", &model, &on(Tab::Workers, 0));
}

#[test]
fn nothing_is_known_yet() {
    assert_screens("loading", &Model::new("https://10.0.0.1:7077"), &Ui::default());
}

#[test]
fn too_small_a_terminal_is_told_so() {
    let text = screen(&ablation_model(), &Ui::default(), (20, 5));
    insta::assert_snapshot!("too_small_20x5", text);
    for size in [(1, 1), (20, 1), (3, 9), (59, 16), (60, 15)] {
        screen(&ablation_model(), &Ui::default(), size);
    }
}

#[test]
fn every_size_can_be_drawn() {
    let (model, many) = (ablation_model(), programme().model());
    for width in (60..=210).step_by(7) {
        for height in [16, 17, 20, 24, 31, 45, 70] {
            for tab in Tab::ALL {
                for popup in [None, Some(Popup::Help), Some(Popup::Studies(0))] {
                    let ui = Ui { tab, trial: 4, popup, ..Ui::default() };
                    screen(&model, &ui, (width, height));
                    screen(&many, &ui, (width, height));
                }
            }
        }
    }
}

#[test]
fn without_colour_nothing_is_coloured_and_nothing_is_lost() {
    let model = ablation_model();
    for tab in Tab::ALL {
        let ui = on(tab, 4);
        let mono = buffer(&model, &ui, &look(false), SMALL);
        assert!(mono.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        // Every state is told by a sign or a word: the text is the same as with colours.
        assert_eq!(text_of(&mono), screen(&model, &ui, SMALL), "{tab:?}");
    }
}

#[test]
fn only_the_terminal_s_own_colours_are_used() {
    for tab in Tab::ALL {
        let buffer = buffer(&ablation_model(), &on(tab, 4), &look(true), LARGE);
        let is_own = |colour: Color| !matches!(colour, Color::Rgb(..) | Color::Indexed(_));
        assert!(buffer.content.iter().all(|cell| is_own(cell.fg) && is_own(cell.bg)), "{tab:?}");
    }
}

#[test]
fn a_terminal_without_unicode_gets_ascii() {
    let ascii = Look::new(false, false, TimeZone::UTC);
    for tab in Tab::ALL {
        let text = text_of(&buffer(&ablation_model(), &on(tab, 4), &ascii, SMALL));
        assert!(text.is_ascii(), "{tab:?}: {text}");
    }
    let text = text_of(&buffer(&ablation_model(), &on(Tab::Overview, 4), &ascii, SMALL));
    insta::assert_snapshot!("ascii_80x24", text);
}
