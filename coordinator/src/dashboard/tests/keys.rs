//! What keys and the mouse do; above all, that nothing is sent without a confirmation.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use mtinet_domain::event::StudyOutcome;

use super::super::input::{Command, Effect, Pane, Popup, Tab, Target, on_key, on_mouse};
use super::*;

struct Person {
    model: Model,
    ui: Ui,
}

impl Person {
    fn new(model: Model) -> Self {
        Self { model, ui: Ui::default() }
    }

    fn press(&mut self, code: KeyCode) -> Effect {
        on_key(&mut self.ui, &self.model, KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn types(&mut self, text: &str) -> Effect {
        text.chars().map(|c| self.press(KeyCode::Char(c))).last().unwrap()
    }

    /// Looks at the screen, as every person does between two keys.
    fn look(&mut self) {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let (model, ui, look) = (&self.model, &self.ui, look(true));
        let mut drawn = None;
        let scene = Scene { model, ui, look: &look, now_ms: BEGIN_MS };
        terminal.draw(|frame| drawn = Some(draw(frame, scene))).unwrap();
        let drawn = drawn.unwrap();
        (self.ui.offsets, self.ui.targets) = (drawn.offsets, drawn.targets);
    }

    fn click(&mut self, wanted: Target) -> Effect {
        self.look();
        let (area, _) = *self.ui.targets.iter().find(|(_, target)| *target == wanted).expect("on the screen");
        let event = MouseEvent {
            kind: MouseEventKind::Down(MouseButton::Left),
            column: area.x,
            row: area.y,
            modifiers: KeyModifiers::NONE,
        };
        on_mouse(&mut self.ui, &self.model, event)
    }
}

#[test]
fn every_command_is_confirmed_before_it_is_sent() {
    let cases = [
        ('p', 0, Command::Pause),
        ('C', 0, Command::CancelStudy),
        ('T', 0, Command::Retry(vec![])),
        ('c', 4, Command::CancelTrial(key("no-tim/1/0"))),
        ('t', 6, Command::Retry(vec![key("resnet50-cls/0/0")])),
        ('z', 4, Command::PauseTrial(key("no-tim/1/0"))),
    ];
    for (letter, trial, command) in cases {
        let mut person = Person::new(ablation_model());
        person.ui.trial = trial;
        assert_eq!(person.types(&letter.to_string()), Effect::None, "{letter}");
        assert!(matches!(&person.ui.popup, Some(Popup::Confirm { .. })), "{letter} asks first");
        // Neither Enter nor the same key again is a yes.
        assert_eq!(person.press(KeyCode::Enter), Effect::None, "{letter}");
        assert_eq!(person.ui.popup, None);
        person.types(&letter.to_string());
        assert_eq!(person.press(KeyCode::Esc), Effect::None, "{letter}");
        person.types(&letter.to_string());
        assert_eq!(person.press(KeyCode::Char('y')), Effect::Send(command), "{letter}");
        assert_eq!(person.press(KeyCode::Char('y')), Effect::None, "a second yes sends nothing");
    }
}

#[test]
fn what_makes_no_sense_is_said_instead_of_asked() {
    let mut person = Person::new(ablation_model());
    assert!(matches!(person.types("c"), Effect::Tell(why) if why.contains("mti-net/0/0 is done already")));
    assert!(matches!(person.types("t"), Effect::Tell(why) if why.contains("only failed or cancelled")));
    let mut story = ablation();
    story.over(StudyOutcome::Incomplete);
    let mut person = Person::new(story.model());
    assert!(matches!(person.types("p"), Effect::Tell(_)));
    assert!(matches!(person.types("C"), Effect::Tell(_)));
    // Nothing can be changed in a recording.
    person.model.apply(Update::Link(Link::Recorded), 0);
    assert!(matches!(person.types("T"), Effect::Tell(why) if why.contains("recording")));
    assert_eq!(person.ui.popup, None);
}

#[test]
fn a_paused_study_is_resumed_with_the_same_key() {
    let mut story = ablation();
    story.tell(Event::StudyPaused { by: None });
    let mut person = Person::new(story.model());
    person.types("p");
    assert_eq!(person.types("y"), Effect::Send(Command::Resume));
}

#[test]
fn a_paused_trial_is_resumed_with_the_same_key() {
    let mut story = ablation();
    story.tell(Event::TrialPaused { trial: key("no-tim/1/0"), by: None });
    let mut person = Person::new(story.model());
    person.ui.trial = 4;
    person.types("z");
    assert_eq!(person.types("y"), Effect::Send(Command::ResumeTrial(key("no-tim/1/0"))));
    person.ui.trial = 0;
    assert!(matches!(person.types("z"), Effect::Tell(why) if why.contains("mti-net/0/0 is done")));
}

#[test]
fn workers_are_drained_and_readmitted_after_a_confirmation() {
    let mut person = Person::new(ablation_model());
    person.types("3");
    assert_eq!(person.ui.tab, Tab::Workers);
    person.types("d");
    assert_eq!(person.types("y"), Effect::Send(Command::Drain { worker: "w1".into(), undo: false }));
    assert!(matches!(person.types("r"), Effect::Tell(why) if why.contains("not set aside")));
    person.press(KeyCode::Down);
    person.types("r");
    assert_eq!(person.types("y"), Effect::Send(Command::Readmit("w2".into())));
    person.press(KeyCode::End);
    assert!(matches!(person.types("d"), Effect::Tell(why) if why.contains("lost")));
}

#[test]
fn filters_take_all_letters_until_they_are_kept_or_cleared() {
    let mut person = Person::new(ablation_model());
    person.types("3/");
    assert_eq!(person.types("quiet"), Effect::None, "q does not leave while a filter is written");
    assert_eq!(person.ui.workers_filter, "quiet");
    person.press(KeyCode::Esc);
    assert_eq!((person.ui.workers_filter.as_str(), person.ui.tab), ("", Tab::Workers));
    person.types("/node2");
    person.press(KeyCode::Enter);
    person.types("r");
    assert_eq!(person.types("y"), Effect::Send(Command::Readmit("w2".into())), "the row that is shown");
    person.press(KeyCode::Esc);
    assert_eq!(person.ui.workers_filter, "");
    person.press(KeyCode::Esc);
    assert_eq!(person.ui.tab, Tab::Overview);
}

#[test]
fn arrows_walk_the_grid_and_stay_on_it() {
    let mut person = Person::new(ablation_model());
    person.press(KeyCode::Up);
    person.press(KeyCode::Left);
    assert_eq!(person.ui.trial, 0);
    person.press(KeyCode::Down);
    person.press(KeyCode::Right);
    assert_eq!(person.ui.trial, 4);
    person.press(KeyCode::PageDown);
    assert_eq!(person.ui.trial, 7, "the same fold of the last arm");
    person.press(KeyCode::Enter);
    assert_eq!(person.ui.tab, Tab::Trial);
    person.types("vv");
    assert_eq!(person.ui.pane, Pane::Log);
}

#[test]
fn the_mouse_selects_tabs_trials_and_answers() {
    let mut person = Person::new(ablation_model());
    person.click(Target::Trial(4));
    assert_eq!((person.ui.trial, person.ui.tab), (4, Tab::Overview));
    person.click(Target::Trial(4));
    assert_eq!(person.ui.tab, Tab::Trial, "a second click opens it");
    person.click(Target::Tab(Tab::Workers));
    person.click(Target::Worker(1));
    assert_eq!((person.ui.tab, person.ui.worker), (Tab::Workers, 1));
    person.types("p");
    assert_eq!(person.click(Target::No), Effect::None);
    person.types("p");
    assert_eq!(person.click(Target::Yes), Effect::Send(Command::Pause));
}

#[test]
fn another_study_is_followed_from_the_list() {
    let mut person = Person::new(ablation_model());
    person.types("s");
    person.press(KeyCode::Down);
    assert_eq!(person.press(KeyCode::Enter), Effect::Follow(StudyId(2)));
    person.model.apply(Update::Study(StudyId(2)), 0);
    assert!(person.model.study.results().is_none(), "nothing of the other study stays");
}

#[test]
fn events_stay_where_they_were_scrolled_to() {
    let mut person = Person::new(programme().model());
    person.types("5");
    person.look();
    person.press(KeyCode::PageUp);
    let pinned = person.ui.pinned.expect("scrolled back");
    let mut story = programme();
    story.over(StudyOutcome::Incomplete);
    person.model.apply(Update::Events(vec![story.events.last().unwrap().clone()]), 0);
    assert_eq!(person.ui.pinned, Some(pinned), "what is new does not move what is read");
    person.press(KeyCode::Home);
    person.look();
    let first = screen(&person.model, &person.ui, (80, 24));
    assert!(first.contains("the study was submitted by ada"), "{first}");
    person.press(KeyCode::End);
    assert_eq!(person.ui.pinned, None);
}

#[test]
fn control_c_is_an_interrupt_whatever_is_open() {
    let mut person = Person::new(ablation_model());
    person.types("?");
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(on_key(&mut person.ui, &person.model, key), Effect::Interrupt);
    assert_eq!(person.types("q"), Effect::None, "any key closes the help");
    assert_eq!(person.types("q"), Effect::Quit);
}
