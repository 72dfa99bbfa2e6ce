//! When steps are recorded, and that a trial whose recordings are of no use ends as one without any.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use mtinet_data::phantom::{self, PhantomOptions};
use mtinet_domain::StudySpec;
use mtinet_domain::event::MetricRecord;

use super::Turn::{Plain, Record, Replay};
use super::*;
use crate::{CheckpointFile, FoldData, Observer, Plan, Trainer};

fn shape(tumour: i64) -> Shape {
    Shape { rows: (64, tumour), adversarial: true }
}

#[test]
fn a_shape_is_recorded_once_and_not_before_the_libraries_are_set_up() {
    let mut ledger = Ledger::default();
    let turns: Vec<Turn> = [1, 1, 1, 1, 1, 2, 2, 2, 1].map(|tumour| ledger.turn(shape(tumour))).into();
    assert_eq!(turns, [Plain, Plain, Plain, Record, Replay, Plain, Record, Replay, Replay]);
    let other = Shape { adversarial: false, ..shape(1) };
    assert_eq!(ledger.turn(other), Plain, "another loss is another step");
}

#[test]
fn recordings_have_an_end() {
    let mut ledger = Ledger::default();
    let mut recordings = 0;
    for _ in 0..4 {
        recordings += (0..60).filter(|&tumour| ledger.turn(shape(tumour)) == Turn::Record).count();
    }
    assert_eq!(recordings, MOST);
    assert_eq!(ledger.turn(shape(0)), Turn::Replay, "what is recorded stays in use");
}

#[test]
fn a_rank_that_cannot_have_recordings_has_none() {
    let train = TrainConfig { cuda_graphs: true, ..TrainConfig::default() };
    assert!(Graphs::new(&train, Arm::MtiNet, Device::Cpu, &Gang::alone()).is_none());
    // On a machine without CUDA the pool cannot be made, which is no error either.
    if !mtinet_torch_ext::is_cuda_build() {
        assert!(Graphs::new(&train, Arm::MtiNet, Device::Cuda(0), &Gang::alone()).is_none());
    }
}

/// A recorder that cannot record. CUDA's has done nothing then; this one has done the step.
struct Unable(Rc<Cell<u32>>);

impl Recorder for Unable {
    fn record(
        &self,
        step: &mut dyn FnMut() -> Result<Answer, EngineError>,
    ) -> Result<(Box<dyn Recording>, Answer), EngineError> {
        self.0.set(self.0.get() + 1);
        let _answer = step()?;
        Err(EngineError::Fold("operation not permitted when stream is capturing".to_owned()))
    }
}

/// A recorder whose recordings draw other random numbers than the step should: the step is taken while it is recorded, as
/// the generator happens to stand.
struct Confused(Rc<Cell<u32>>);

impl Recorder for Confused {
    fn record(
        &self,
        step: &mut dyn FnMut() -> Result<Answer, EngineError>,
    ) -> Result<(Box<dyn Recording>, Answer), EngineError> {
        self.0.set(self.0.get() + 1);
        Ok((Box::new(Done), step()?))
    }
}

struct Done;

impl Recording for Done {
    fn replay(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

struct Silent;

impl Observer for Silent {
    fn metrics(&mut self, _: MetricRecord) -> Result<(), EngineError> {
        Ok(())
    }

    fn checkpoint(&mut self, _: CheckpointFile) -> Result<(), EngineError> {
        Ok(())
    }

    fn stop_requested(&self) -> bool {
        false
    }
}

/// The weights after some steps.
fn trained(dir: &Path, recorder: Option<Box<dyn Recorder>>) -> Vec<u8> {
    let spec = StudySpec::from_toml(
        "name = \"s\"\ndataset = \"data\"\narms = [\"mti-net\"]\n[model]\npreset = \"tiny64\"\n\
         [train]\nimage_size = 64\nbatch_size = 2\nsteps = 6\nlearning_rate = 1e-3\n",
    )
    .unwrap();
    assert!(spec.model.dropout > 0.0, "else nothing is random");
    // Threads that share a core with others wait for each other more than they compute.
    mtinet_torch_ext::set_num_threads(1).unwrap();
    let data = FoldData::open(&dir.join("data"), &dir.join("cache"), &spec, 0, &|_, _| {}).unwrap();
    let trial = "mti-net/0/0".parse().unwrap();
    let work_dir = dir.join("work");
    let plan = Plan { spec, trial, device: Device::Cpu, work_dir: work_dir.clone(), trace: None, sharing: 1 };
    std::fs::create_dir_all(&work_dir).unwrap();
    let train = plan.spec.train.clone();
    let mut trainer = Trainer::new(plan, data, Gang::alone()).unwrap();
    if let Some(recorder) = recorder {
        trainer.record_with(Graphs::with(recorder, &train, Device::Cpu));
    }
    trainer.run(&mut Silent).unwrap();
    let weights = dir.join("weights.safetensors");
    trainer.save_weights(&weights).unwrap();
    std::fs::read(weights).unwrap()
}

#[test]
fn recordings_that_are_of_no_use_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = PhantomOptions { subjects: 12, size: 64, seed: 5, ..PhantomOptions::default() };
    phantom::write(&dir.path().join("data"), &options, &|_, _| {}).unwrap();
    let plain = trained(dir.path(), None);
    let tries = Rc::new(Cell::new(0));
    let unable = trained(dir.path(), Some(Box::new(Unable(Rc::clone(&tries)))));
    assert_eq!(tries.take(), 1, "one failure is enough");
    assert!(unable == plain);
    let confused = trained(dir.path(), Some(Box::new(Confused(Rc::clone(&tries)))));
    assert_eq!(tries.take(), 1);
    assert!(confused == plain);
}
