//! Folding, keys, and every screen at the sizes that it has to work at.

mod folding;
mod keys;
mod screens;
mod speed;

use jiff::tz::TimeZone;
use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded, ReportId, StudyOutcome};
use mtinet_domain::trial::{
    ArtifactRef, AttemptEnd, CheckpointRef, DatasetRef, Device, FailureCause, Placement, ProcessExit,
};
use mtinet_domain::{AttemptNumber, Rank, SlotIndex, StudyId, StudySpec, TrialKey, WorkerId};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::draw::{Look, Scene, draw};
use super::input::Ui;
use super::state::{Link, MachineUse, Model, Slot, SlotHold, SlotUse, StudyLine, Update, Worker, WorkerLink};

/// 2023-11-14 22:13:20 UTC, when every story begins.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// A study as its events tell it, on a clock that the test moves.
struct Story {
    events: Vec<Recorded>,
    now_ms: u64,
}

impl Story {
    fn new(text: &str) -> Self {
        let spec = StudySpec::from_toml(text).unwrap();
        let dataset = DatasetRef {
            name: "phantom".into(),
            path: "/data/phantom".into(),
            hash: "d".repeat(64),
            phases: ["pre", "art", "pv", "del"].map(Into::into).to_vec(),
            classes: ["hemangioma", "hcc"].map(Into::into).to_vec(),
        };
        let mut story = Self { events: Vec::new(), now_ms: BEGIN_MS };
        let (spec_hash, by) = (spec.hash(), Some("ada".to_owned()));
        story.tell(Event::StudySubmitted { spec: Box::new(spec), spec_hash, dataset, by });
        story
    }

    fn tell(&mut self, event: Event) {
        let seq = self.events.len() as u64 + 1;
        self.events.push(Recorded { study: StudyId(1), seq, time_ms: self.now_ms, event });
    }

    fn wait(&mut self, seconds: u64) {
        self.now_ms += seconds * 1000;
    }

    fn start(&mut self, trial: TrialKey, attempt: u32, from: Option<u64>) {
        let slot = trial.fold % 2;
        let placement = Placement {
            rank: Rank(0),
            worker: WorkerId("w1".into()),
            slot: SlotIndex(slot),
            device: Device::Cuda(slot),
        };
        let artifact = ArtifactRef { blake3: "0".repeat(64), bytes: 3_400_000 };
        let resume = from.map(|step| CheckpointRef { step, artifact });
        let attempt = AttemptNumber(attempt);
        self.tell(Event::AttemptStarted { trial, attempt, placements: vec![placement], resume });
    }

    fn measure(&mut self, trial: TrialKey, attempt: u32, records: Vec<MetricRecord>) {
        let report = ReportId { worker: WorkerId("w1".into()), seq: self.events.len() as u64 };
        self.tell(Event::Metrics { trial, attempt: AttemptNumber(attempt), report, records });
    }

    /// Trains from one step to another, a tenth of a second each, with epochs of 50 steps and the held-out fold
    /// measured after each.
    fn train(&mut self, trial: TrialKey, attempt: u32, from: u64, to: u64) {
        let mut records = Vec::new();
        for step in from + 1..=to {
            let epoch = u32::try_from(step.div_ceil(50)).unwrap();
            let (at, train_seconds) = (step as f64, step as f64 / 10.0);
            let loss = 4.0 * (-at / 300.0).exp() + 0.2 + 0.05 * (at * 1.7).sin();
            let values = [("loss".to_owned(), loss), ("seg".to_owned(), loss / 3.0)].into();
            records.push(MetricRecord { scope: MetricScope::Step, step, epoch, train_seconds, values });
            if step % 50 == 0 {
                let values = [("loss".to_owned(), loss), ("learning_rate".to_owned(), 1e-4)].into();
                records.push(MetricRecord { scope: MetricScope::Epoch, step, epoch, train_seconds, values });
                let dsc = 80.0 * (1.0 - (-at / 200.0).exp());
                let values =
                    [("dsc".to_owned(), dsc), ("iou".to_owned(), dsc * 0.8), ("mae".to_owned(), 150.0 - dsc)];
                let values = values.into();
                records.push(MetricRecord {
                    scope: MetricScope::HeldOut,
                    step,
                    epoch,
                    train_seconds,
                    values,
                });
            }
        }
        self.now_ms += (to - from) * 100;
        self.measure(trial, attempt, records);
    }

    fn end(&mut self, trial: TrialKey, attempt: u32, end: AttemptEnd) {
        self.tell(Event::AttemptEnded { trial, attempt: AttemptNumber(attempt), end, retry_at_ms: None });
    }

    /// A whole trial with these figures.
    fn done(&mut self, trial: TrialKey, dsc: f64) {
        self.start(trial, 1, None);
        self.train(trial, 1, 0, 200);
        self.finish(trial, 1, dsc);
    }

    fn finish(&mut self, trial: TrialKey, attempt: u32, dsc: f64) {
        let tasks = trial.arm.tasks();
        let summary = FoldSummary {
            dsc: tasks.seg.then_some(dsc),
            iou: tasks.seg.then_some(dsc * 0.85),
            mae: tasks.reg.then_some(165.5 - dsc),
            accuracy: tasks.cls.then_some(dsc + 8.25),
            n_slices: 96,
            n_subjects: 24,
            ..FoldSummary::default()
        };
        let report = ReportId { worker: WorkerId("w1".into()), seq: self.events.len() as u64 };
        let evaluation = ArtifactRef { blake3: "1".repeat(64), bytes: 1 };
        let (weights, predictions) = (None, None);
        let attempt_number = AttemptNumber(attempt);
        self.tell(Event::TrialEvaluated {
            trial,
            attempt: attempt_number,
            report,
            summary: Box::new(summary),
            evaluation,
            weights,
            predictions,
        });
        self.end(trial, attempt, AttemptEnd::Completed);
    }

    fn model(&self) -> Model {
        let mut model = Model::new("https://10.0.0.1:7077");
        model.apply(Update::Study(StudyId(1)), self.now_ms);
        for batch in self.events.chunks(50) {
            model.apply(Update::Events(batch.to_vec()), self.now_ms);
        }
        model.apply(Update::Link(Link::Live), self.now_ms);
        model
    }
}

fn key(text: &str) -> TrialKey {
    text.parse().unwrap()
}

fn crash(step: u64) -> AttemptEnd {
    AttemptEnd::Failed(FailureCause {
        rank: Some(Rank(0)),
        exit: ProcessExit::Signal(9),
        step: Some(step),
        message: "killed by the out-of-memory killer:\n cgroup limit 16 GB".into(),
        hang: None,
    })
}

/// Three arms x three folds: done, running (one after a crash), waiting, given up.
fn ablation() -> Story {
    let mut story = Story::new(
        "name = \"ablation\"\ndataset = \"data/liver\"\narms = [\"mti-net\", \"no-tim\", \"resnet50-cls\"]\n\
         folds = 3\n[train]\nsteps = 500\nbatch_size = 8\n",
    );
    story.wait(5);
    for (fold, dsc) in [(0, 79.03), (1, 75.2), (2, 77.5)] {
        story.done(TrialKey { fold, ..key("mti-net/0/0") }, dsc);
    }
    story.done(key("no-tim/0/0"), 74.8);
    story.start(key("no-tim/1/0"), 1, None);
    story.train(key("no-tim/1/0"), 1, 0, 120);
    story.end(key("no-tim/1/0"), 1, crash(120));
    story.wait(2);
    story.start(key("no-tim/1/0"), 2, Some(100));
    story.train(key("no-tim/1/0"), 2, 100, 310);
    story.start(key("no-tim/2/0"), 1, None);
    story.train(key("no-tim/2/0"), 1, 0, 60);
    story.start(key("resnet50-cls/0/0"), 1, None);
    story.end(key("resnet50-cls/0/0"), 1, crash(3));
    story.tell(Event::TrialFailed {
        trial: key("resnet50-cls/0/0"),
        reason: "the same error twice at step 3: killed by the out-of-memory killer".into(),
    });
    story.wait(1);
    story
}

/// Its model, with workers and reasons.
fn ablation_model() -> Model {
    let story = ablation();
    let mut model = story.model();
    model.apply(Update::Workers(workers(story.now_ms)), story.now_ms);
    let reasons = [1, 2].map(|fold| {
        (TrialKey { fold, ..key("resnet50-cls/0/0") }, "needs 1 cuda slot, 0 of 4 free".to_owned())
    });
    model.apply(Update::Reasons(reasons.into()), story.now_ms);
    let line = |id, name: &str, status: &str, done| StudyLine {
        id: StudyId(id),
        name: name.to_owned(),
        status: status.to_owned(),
        done,
        submitted_ms: BEGIN_MS,
    };
    let studies = vec![line(1, "ablation", "running", (4, 9)), line(2, "synergy", "paused", (0, 20))];
    model.apply(Update::Studies(studies), story.now_ms);
    model
}

fn workers(now_ms: u64) -> Vec<Worker> {
    let slot = |index: u32, held: Option<&str>, percent: Option<f64>| Slot {
        index,
        device: Some(Device::Cuda(index)),
        held: held.map(|trial| SlotHold { study: 1, trial: trial.to_owned(), attempt: 1, rank: 0 }),
        usage: percent.map(|percent| SlotUse {
            memory: Some((31_400_000_000, 85_000_000_000)),
            percent: Some(percent),
            celsius: Some(64.0),
        }),
    };
    let worker = |id: &str, name: &str, link, slots| Worker {
        id: id.to_owned(),
        name: name.to_owned(),
        link,
        heard_ms: now_ms - 400,
        slots,
        drained: false,
        set_aside: None,
        usage: Some(MachineUse { memory: Some((40_000_000_000, 256_000_000_000)), cpu_percent: Some(21.0) }),
    };
    let both = vec![slot(0, Some("no-tim/2/0"), Some(97.0)), slot(1, Some("no-tim/1/0"), Some(92.0))];
    vec![
        worker("w1", "node1", WorkerLink::Ready, both),
        Worker {
            set_aside: Some("3 attempts failed here: CUDA error 719".to_owned()),
            ..worker("w2", "node2", WorkerLink::Ready, vec![slot(0, None, None), slot(1, None, None)])
        },
        Worker {
            heard_ms: now_ms - 95_000,
            ..worker("w0", "node0", WorkerLink::Lost, vec![slot(0, None, None)])
        },
    ]
}

fn look(colour: bool) -> Look {
    Look::new(colour, true, TimeZone::UTC)
}

fn buffer(model: &Model, ui: &Ui, look: &Look, size: (u16, u16)) -> Buffer {
    let now_ms = model.study.results().map_or(BEGIN_MS, |results| results.last_event_ms) + 1000;
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal
        .draw(|frame| {
            draw(frame, Scene { model, ui, look, now_ms });
        })
        .unwrap();
    terminal.backend().buffer().clone()
}

/// The screen as text.
fn screen(model: &Model, ui: &Ui, size: (u16, u16)) -> String {
    text_of(&buffer(model, ui, &look(true), size))
}

fn text_of(buffer: &Buffer) -> String {
    let area = buffer.area;
    let row = |y| (0..area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..area.height).map(row).collect::<Vec<_>>().join("\n")
}

/// 22 arms x 5 folds in all states.
fn programme() -> Story {
    let arms: Vec<String> = mtinet_domain::Arm::ALL.iter().map(|arm| format!("\"{arm}\"")).collect();
    let mut story = Story::new(&format!(
        "name = \"paper\"\ndataset = \"data/liver\"\narms = [{}]\nfolds = 5\n[train]\nsteps = 400\n",
        arms.join(", ")
    ));
    let trials = story.trials();
    for (place, trial) in trials.into_iter().enumerate() {
        match place {
            0..40 => story.done(trial, 60.0 + (place * 7 % 23) as f64),
            40..48 => {
                story.start(trial, 1, None);
                story.train(trial, 1, 0, 30 + place as u64);
            }
            _ => {}
        }
    }
    story
}

impl Story {
    fn trials(&self) -> Vec<TrialKey> {
        let Event::StudySubmitted { spec, .. } = &self.events[0].event else { panic!() };
        spec.trials()
    }

    fn over(&mut self, outcome: StudyOutcome) {
        self.tell(Event::StudyFinished { outcome });
    }
}
