//! How long a redraw takes. Run it for the figures:
//! `cargo test --release -p mtinet --lib redraw_times -- --ignored --nocapture`

use std::time::Instant;

use super::super::input::Tab;
use super::*;

/// 110 trials with full curves, 1,000 workers of eight devices.
fn large() -> Model {
    let mut story = programme();
    let running = key("seg-cls/0/0");
    let trial = TrialKey { arm: running.arm, ..running };
    story.start(trial, 1, None);
    for part in 0..40 {
        story.train(trial, 1, part * 250, (part + 1) * 250);
    }
    let mut model = story.model();
    let mut fleet = Vec::new();
    for number in 0..1000 {
        let one = &workers(story.now_ms)[0];
        let slots = (0..8).map(|index| Slot { index, ..one.slots[0].clone() }).collect();
        fleet.push(Worker {
            id: format!("w{number}"),
            name: format!("node{number:04}"),
            slots,
            ..one.clone()
        });
    }
    model.apply(Update::Workers(fleet), story.now_ms);
    model
}

#[test]
#[ignore = "prints times and asserts nothing; see the module's words"]
fn redraw_times() {
    let model = large();
    let look = look(true);
    for size in [(80, 24), (200, 60), (400, 120)] {
        for tab in Tab::ALL {
            let ui = Ui { tab, trial: 40, ..Ui::default() };
            let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
            let mut times: Vec<f64> = (0..200)
                .map(|_| {
                    let began = Instant::now();
                    let scene = Scene { model: &model, ui: &ui, look: &look, now_ms: BEGIN_MS };
                    terminal.draw(|frame| drop(draw(frame, scene))).unwrap();
                    began.elapsed().as_secs_f64() * 1000.0
                })
                .collect();
            times.sort_by(f64::total_cmp);
            println!(
                "{:>3}x{:<3} {:<12} median {:>6.2} ms   99 % {:>6.2} ms",
                size.0,
                size.1,
                tab.label(),
                times[100],
                times[197]
            );
        }
    }
    let began = Instant::now();
    let events = programme().events;
    let built = began.elapsed().as_secs_f64() * 1000.0;
    let began = Instant::now();
    let mut model = Model::new("x");
    let records = events.len();
    model.apply(Update::Events(events), 0);
    println!(
        "{records} events: made in {built:.1} ms, folded in {:.1} ms",
        began.elapsed().as_secs_f64() * 1000.0
    );
}
