//! Steps that are started as one: on CUDA, a step of a rank without others is recorded and then replayed (`train.cuda_graphs`).
//!
//! A recording does the same operations on the same memory each time, so there is one for each [`Shape`] of a step, whose
//! samples are copied into tensors of its own. Nothing is believed of it: the step that is recorded is also taken without it,
//! from the same weights and the same seed, and where the two do not agree, or a recording fails, the trial goes on without
//! recordings and says so in the log.
//!
//! Gangs, several replicas on one rank and EI-DDPM, which draws its noise on the host, take their steps one operation at a time.

use std::collections::BTreeMap;

use mtinet_domain::model::Arm;
use mtinet_domain::spec::TrainConfig;
use mtinet_torch_ext::{CudaGraph, GraphPool, SideStream};
use tch::{Device, Tensor};

use crate::EngineError;
use crate::fold_data::Batch;
use crate::gang::Gang;
use crate::outcome::{Agreement, Outcome, State};
use crate::step::{Game, Measured, Pass};

#[cfg(test)]
mod tests;

/// The sums and counts of a step's measurements.
pub(crate) type Answer = (Tensor, Vec<f32>);

/// What records steps: CUDA's graphs, or what stands for them in a test.
pub(crate) trait Recorder {
    /// Records what `step` does, and does nothing of it.
    fn record(
        &self,
        step: &mut dyn FnMut() -> Result<Answer, EngineError>,
    ) -> Result<(Box<dyn Recording>, Answer), EngineError>;
}

/// A recorded step.
pub(crate) trait Recording {
    /// Takes it.
    fn replay(&self) -> Result<(), EngineError>;
}

impl Recorder for GraphPool {
    fn record(
        &self,
        step: &mut dyn FnMut() -> Result<Answer, EngineError>,
    ) -> Result<(Box<dyn Recording>, Answer), EngineError> {
        let (graph, answer) = GraphPool::record(self, step)?;
        Ok((Box::new(graph), answer))
    }
}

impl Recording for CudaGraph {
    fn replay(&self) -> Result<(), EngineError> {
        Ok(CudaGraph::replay(self)?)
    }
}

/// The recordings of a trial.
pub(crate) struct Graphs {
    recorder: Box<dyn Recorder>,
    ledger: Ledger,
    recorded: BTreeMap<Shape, Recorded>,
    agreement: Agreement,
    device: Device,
}

/// What the operations of a step follow from, besides the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    /// Slices, and those with a tumour.
    rows: (i64, i64),
    adversarial: bool,
}

/// A step of one shape.
struct Recorded {
    graph: Box<dyn Recording>,
    inputs: Batch,
    sums: Tensor,
    counts: Vec<f32>,
}

impl Graphs {
    /// Where the study asks for them and the trial can have them; else nothing, and the log says why.
    pub(crate) fn new(train: &TrainConfig, arm: Arm, device: Device, gang: &Gang) -> Option<Self> {
        if !train.cuda_graphs {
            return None;
        }
        let hindrance = if !device.is_cuda() {
            Some("it runs on the CPU")
        } else if gang.group().is_some() || train.replicas > 1 {
            Some("its steps have several replicas")
        } else if arm == Arm::EiDdpm {
            Some("its network draws noise on the host")
        } else {
            None
        };
        if let Some(hindrance) = hindrance {
            tracing::info!("train.cuda_graphs has no effect on this trial: {hindrance}");
            return None;
        }
        let pool =
            GraphPool::new().inspect_err(|error| tracing::warn!("steps are not recorded: {error}")).ok()?;
        Some(Self::with(Box::new(pool), train, device))
    }

    fn with(recorder: Box<dyn Recorder>, train: &TrainConfig, device: Device) -> Self {
        let learning_rate = train.learning_rate;
        let agreement =
            if train.deterministic { Agreement::Bits } else { Agreement::Rounding { learning_rate } };
        Self { recorder, ledger: Ledger::default(), recorded: BTreeMap::new(), agreement, device }
    }

    /// The stream that all steps of the trial must be taken on, where the device has streams.
    pub(crate) fn stream(&self) -> Result<Option<SideStream>, EngineError> {
        Ok(self.device.is_cuda().then(|| SideStream::enter(self.device)).transpose()?)
    }

    /// Takes a step of one replica, and stays with `game` as long as recordings can be relied on.
    pub(crate) fn step(mut self, game: &mut Game, pass: Pass, batch: &Batch) -> Result<Answer, EngineError> {
        let shape = Shape { rows: batch.rows(), adversarial: pass.adversarial };
        let answer = match self.ledger.turn(shape) {
            Turn::Plain => plain(game, pass, batch)?,
            Turn::Replay => self.recorded[&shape].replay(game, pass, batch)?,
            Turn::Record => match self.record(game, pass, batch, shape)? {
                (answer, true) => answer,
                (answer, false) => return Ok(answer),
            },
        };
        game.graphs = Some(self);
        Ok(answer)
    }

    /// Takes the step twice, and whether both agree. Where not, what remains is the step without a recording.
    fn record(
        &mut self,
        game: &mut Game,
        pass: Pass,
        batch: &Batch,
        shape: Shape,
    ) -> Result<(Answer, bool), EngineError> {
        let before = State::of(game);
        let (sums, counts) = plain(game, pass, batch)?;
        let expected = Outcome { state: State::of(game), sums };
        before.restore(game)?;
        let inputs = batch.duplicate();
        let (graph, (sums, recorded_counts)) =
            match self.recorder.record(&mut || plain(game, Pass { seeds: None, ..pass }, &inputs)) {
                Ok(recording) => recording,
                Err(error) => {
                    let words = error_chain(&error);
                    tracing::warn!("a step could not be recorded, training goes on without: {words}");
                    expected.state.restore(game)?;
                    return Ok(((expected.sums, counts), false));
                }
            };
        let recorded = Recorded { graph, inputs, sums, counts: recorded_counts };
        let (sums, replayed_counts) = recorded.replay(game, pass, batch)?;
        let replayed = Outcome { state: State::of(game), sums };
        let mut apart = expected.differs(&replayed, &before, self.agreement)?;
        if replayed_counts != counts {
            apart = Some("what was measured".to_owned());
        }
        if let Some(what) = apart {
            tracing::warn!(
                "a recorded step does not do what it should ({what}), training goes on without recordings"
            );
            expected.state.restore(game)?;
            return Ok(((expected.sums, counts), false));
        }
        let (rows, tumour) = shape.rows;
        tracing::info!("recorded a step of {rows} slices, {tumour} of them with a tumour");
        self.recorded.insert(shape, recorded);
        Ok(((replayed.sums, counts), true))
    }
}

impl Recorded {
    fn replay(&self, game: &Game, pass: Pass, batch: &Batch) -> Result<Answer, EngineError> {
        self.inputs.overwrite(batch)?;
        if let Some(step) = pass.seeds {
            game.seed(step, pass.first);
        }
        self.graph.replay()?;
        // Its own are written to by the next replay.
        Ok((self.sums.copy(), self.counts.clone()))
    }
}

/// One operation at a time.
fn plain(game: &mut Game, pass: Pass, batch: &Batch) -> Result<Answer, EngineError> {
    let mut measured = Measured::default();
    game.compute(pass, std::slice::from_ref(batch), &mut measured)?;
    Ok((measured.sums(game.recipe.device)?, measured.counts()))
}

fn error_chain(error: &EngineError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What was done with steps so far, by shape.
#[derive(Debug, Default)]
struct Ledger {
    plain: u32,
    seen: BTreeMap<Shape, bool>,
    recordings: usize,
}

/// How a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Plain,
    Record,
    Replay,
}

/// Steps before the first recording: libraries set themselves up in them.
const WARM_UP: u32 = 3;

/// Recordings of a trial at most; each holds some memory of the device.
const MOST: usize = 24;

impl Ledger {
    /// A shape is recorded when it comes again: some come once.
    fn turn(&mut self, shape: Shape) -> Turn {
        if self.seen.get(&shape) == Some(&true) {
            return Turn::Replay;
        }
        let again = self.seen.contains_key(&shape);
        if again && self.plain >= WARM_UP && self.recordings < MOST {
            self.recordings += 1;
            self.seen.insert(shape, true);
            return Turn::Record;
        }
        self.seen.insert(shape, false);
        self.plain += 1;
        Turn::Plain
    }
}
