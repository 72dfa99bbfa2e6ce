//! One rank's whole work on a trial: resume, train, checkpoint, evaluate.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mtinet_domain::evaluation::TrialEvaluation;
use mtinet_domain::event::{DEVICE_MEMORY, MetricRecord, MetricScope};
use mtinet_domain::spec::Precision;
use mtinet_domain::trial::ArtifactRef;
use mtinet_domain::{StudySpec, TrialKey};
use mtinet_models::{Discriminator, ImageShape, losses::Objective};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use crate::checkpoint::{self, CheckpointMeta};
use crate::evaluate::{PredictedCase, evaluate, write_predictions};
use crate::fold_data::FoldData;
use crate::gang::Gang;
use crate::graphs::Graphs;
use crate::observer::{Finish, Observer, Results};
use crate::pace::{Pace, Trace};
use crate::player::Player;
use crate::sampler::Sampler;
use crate::seeds::{self, Purpose};
use crate::step::{Game, Recipe, StepReport, StepSums};
use crate::{CheckpointFile, EngineError};

/// A trial and where it works.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The study's spec.
    pub spec: StudySpec,
    /// Which of its trials.
    pub trial: TrialKey,
    /// Where to compute.
    pub device: Device,
    /// Where checkpoints and results are written.
    pub work_dir: PathBuf,
    /// Where this rank writes a Chrome trace of its sixth to tenth step, if anywhere.
    pub trace: Option<PathBuf>,
    /// Trainers that may run on a CUDA device beside this one, it included.
    pub sharing: u32,
}

/// One rank of a trial.
pub struct Trainer {
    plan: Plan,
    data: FoldData,
    gang: Gang,
    game: Game,
    sampler: Sampler,
    total_steps: u64,
    progress: Progress,
    pace: Pace,
    trace: Trace,
}

/// How far the trial is.
struct Progress {
    step: u64,
    /// Training time of the attempts before this one.
    seconds_before: f64,
    since: Instant,
    epoch_sums: BTreeMap<String, (f64, u64)>,
    last_checkpoint: Instant,
    checkpoint_step: u64,
    /// What writing the last one took, or the first one may take.
    checkpoint_cost: Duration,
}

/// On a GPU, reading a loss waits for it; so it is read every so many steps.
const CUDA_READ_EVERY: u64 = 10;

/// Share of a CUDA device's free memory that slices may fill: the rest is for the network, whose needs are not known before.
const RESIDENT_SHARE: f64 = 0.3;

impl Trainer {
    /// Builds the trial's networks, freshly initialised and equal on all ranks.
    ///
    /// # Errors
    /// [`EngineError::Model`] for a network that cannot be built, [`EngineError::Fold`] where the ranks do not divide
    /// the replicas.
    pub fn new(plan: Plan, mut data: FoldData, gang: Gang) -> Result<Self, EngineError> {
        let replicas = plan.spec.train.replicas as usize;
        if !replicas.is_multiple_of(gang.world_size()) {
            let ranks = gang.world_size();
            return Err(EngineError::Fold(format!("{replicas} replicas cannot be shared by {ranks} ranks")));
        }
        let (seed, fold) = (plan.trial.seed, plan.trial.fold);
        let batch_size = plan.spec.train.batch_size as usize;
        let sampler = Sampler::new(data.train().to_vec(), batch_size, replicas, seed, fold);
        let total_steps = plan.spec.train.total_steps(data.train().len());
        let game = game(&plan, &data, &gang, sampler.steps_per_epoch())?;
        data.settle(plan.device, RESIDENT_SHARE / f64::from(plan.sharing.max(1)))?;
        let pace = Pace::new(plan.spec.train.effective_batch());
        let trace = Trace::new(plan.trace.clone());
        Ok(Self { plan, data, gang, game, sampler, total_steps, progress: Progress::start(), pace, trace })
    }

    /// Starts the network from the weights of a file instead of random ones; before the first step, and on every rank
    /// with the same file. The discriminator keeps its random start. Returns in words what did not come from the file
    /// as it is there.
    ///
    /// # Errors
    /// [`EngineError::Initial`] for a file that does not fit the network, which is then as it was.
    pub fn initialise(&mut self, path: &std::path::Path) -> Result<Vec<String>, EngineError> {
        let phases = self.data.dataset().header.phases.len();
        let vs = &self.game.generator.vs;
        mtinet_models::initialise(vs, self.plan.trial.arm, phases, path).map_err(EngineError::Initial)
    }

    /// Has steps recorded by a stand-in.
    #[cfg(test)]
    pub(crate) fn record_with(&mut self, graphs: Graphs) {
        self.game.graphs = Some(graphs);
    }

    /// Goes on from a checkpoint of the same trial; every rank does, with the same file.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] for a file that is damaged or of another trial. The trainer is then as it was.
    pub fn resume(
        &mut self,
        path: &std::path::Path,
        artifact: Option<&ArtifactRef>,
    ) -> Result<(), EngineError> {
        let meta = checkpoint::read(path, artifact, &self.state())?;
        let mine = self.meta();
        if (&meta.spec_hash, &meta.dataset_hash, meta.trial)
            != (&mine.spec_hash, &mine.dataset_hash, mine.trial)
        {
            let reason = format!("belongs to another study, data set or trial ({})", meta.trial);
            return Err(EngineError::Checkpoint { path: path.to_owned(), reason });
        }
        self.progress = Progress {
            step: meta.step,
            seconds_before: meta.train_seconds,
            epoch_sums: meta.epoch_sums,
            checkpoint_step: meta.step,
            ..Progress::start()
        };
        Ok(())
    }

    /// Optimiser steps done.
    pub fn step(&self) -> u64 {
        self.progress.step
    }

    /// The fewest steps that any rank has done; all ranks ask at once.
    ///
    /// # Errors
    /// Where a rank does not answer.
    pub fn fewest_steps(&self) -> Result<u64, EngineError> {
        let steps = self.gang.numbers(self.progress.step, self.plan.device)?;
        Ok(steps.into_iter().min().unwrap_or(self.progress.step))
    }

    /// Optimiser steps of the whole trial.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Writes the network's weights and running statistics as they are now (safetensors).
    ///
    /// # Errors
    /// [`EngineError::Model`] where the file cannot be written.
    pub fn save_weights(&self, path: &std::path::Path) -> Result<(), EngineError> {
        Ok(mtinet_models::save_safetensors(&self.game.generator.vs, path)?)
    }

    /// Trains to the end, or until asked to stop, and evaluates on rank 0.
    ///
    /// # Errors
    /// Whatever goes wrong; what was checkpointed before stays good.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Finish, EngineError> {
        self.gang.agree_on_step(self.progress.step, self.plan.device)?;
        let _stream = self.game.graphs.as_ref().map(Graphs::stream).transpose()?.flatten();
        self.progress.since = Instant::now();
        self.progress.last_checkpoint = Instant::now();
        self.progress.checkpoint_cost = checkpoint::expected_cost(&self.state());
        while self.progress.step < self.total_steps {
            let since = Instant::now();
            let stop = self.train_step(observer)?;
            self.pace.step(since.elapsed(), self.game.data_wait.take());
            // Also before a stop: what belongs to this epoch must neither be missing nor go into the next one.
            let epoch_ended = self.progress.step.is_multiple_of(self.sampler.steps_per_epoch());
            if epoch_ended {
                self.end_epoch(observer)?;
            }
            if stop {
                self.checkpoint(observer)?;
                return Ok(Finish::Stopped { step: self.progress.step });
            }
            if self.checkpoint_due(epoch_ended) {
                self.checkpoint(observer)?;
            }
        }
        let _ = self.pace.tell();
        Ok(Finish::Done(self.finish(observer)?.map(Box::new)))
    }

    /// One step; true where any rank was asked to stop.
    fn train_step(&mut self, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        observer.working(self.progress.step + 1);
        self.trace.before_step()?;
        let slices = self.sampler.step(self.progress.step);
        let next = self.next_slices();
        let stop = observer.stop_requested();
        let sums = self.game.step(&self.data, &self.gang, self.progress.step, &slices, stop)?;
        self.progress.step += 1;
        if let Some(next) = next.filter(|_| self.plan.device.is_cuda()) {
            // The host is free while the device computes. On the CPU there is nobody to do it besides.
            self.game.prepare(&self.data, &self.gang, self.progress.step, &next)?;
        }
        let last = self.progress.step == self.total_steps;
        let due = self.progress.step.is_multiple_of(CUDA_READ_EVERY);
        // All ranks read at the same steps, so that all learn of a stop at the same step.
        if self.plan.device.is_cuda() && !due && !last {
            return Ok(false);
        }
        self.report_step(&sums, observer)
    }

    /// The slices of the step after this one, which the system reads from the disk meanwhile where it has to.
    fn next_slices(&mut self) -> Option<Vec<Vec<usize>>> {
        let next = self.progress.step + 1;
        if next >= self.total_steps {
            return None;
        }
        let slices = self.sampler.step(next);
        self.data.will_need(slices[self.gang.replicas(slices.len())].iter().flatten().copied());
        Some(slices)
    }

    fn report_step(&mut self, sums: &StepSums, observer: &mut dyn Observer) -> Result<bool, EngineError> {
        let StepReport { mut values, stop } = {
            let report = sums.read()?;
            report.check_finite(self.progress.step)?;
            report
        };
        for (name, value) in &values {
            let (sum, count) = self.progress.epoch_sums.entry(name.clone()).or_default();
            *sum += value;
            *count += 1;
        }
        values.extend(self.pace.now_and_then());
        self.tell(MetricScope::Step, values, observer)?;
        Ok(stop)
    }

    fn end_epoch(&mut self, observer: &mut dyn Observer) -> Result<(), EngineError> {
        let sums = std::mem::take(&mut self.progress.epoch_sums);
        let mut means: BTreeMap<String, f64> =
            sums.into_iter().map(|(name, (sum, count))| (name, sum / count as f64)).collect();
        means.insert("learning_rate".to_owned(), self.plan.spec.train.learning_rate);
        means.extend(self.pace.end_epoch());
        if self.plan.device.is_cuda() {
            let memory = mtinet_torch_ext::device_memory(self.plan.device)?;
            means.insert(DEVICE_MEMORY.to_owned(), memory.peak_reserved as f64);
        }
        self.tell(MetricScope::Epoch, means, observer)?;
        let every = u64::from(self.plan.spec.train.eval_every);
        let done = self.progress.step == self.total_steps;
        if every > 0 && !done && self.epoch().is_multiple_of(every) && self.gang.rank() == 0 {
            let (evaluation, _) = self.evaluate(observer)?;
            self.tell_held_out(&evaluation, observer)?;
        }
        Ok(())
    }

    fn evaluate(
        &self,
        observer: &dyn Observer,
    ) -> Result<(TrialEvaluation, Vec<PredictedCase>), EngineError> {
        let bn_eval = self.plan.spec.model.bn_eval;
        let working = || observer.working(self.progress.step);
        evaluate(self.game.network.as_ref(), &self.data, self.plan.device, bn_eval, self.plan.trial, &working)
    }

    fn tell_held_out(
        &self,
        evaluation: &TrialEvaluation,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        let summary = evaluation.summary();
        let named = [
            ("dsc", summary.dsc),
            ("iou", summary.iou),
            ("mae", summary.mae),
            ("accuracy", summary.accuracy),
        ];
        let values = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        self.tell(MetricScope::HeldOut, values, observer)
    }

    /// Evaluates and writes the results, on rank 0.
    fn finish(&mut self, observer: &mut dyn Observer) -> Result<Option<Results>, EngineError> {
        if self.gang.rank() != 0 {
            return Ok(None);
        }
        if self.checkpoint_due(true) {
            self.checkpoint(observer)?;
        }
        let (evaluation, cases) = self.evaluate(observer)?;
        self.tell_held_out(&evaluation, observer)?;
        let weights = self.plan.work_dir.join("weights.safetensors");
        self.save_weights(&weights)?;
        let predictions = if self.plan.spec.output.predictions {
            let dir = self.plan.work_dir.join("predictions");
            std::fs::create_dir_all(&dir).map_err(EngineError::file(&dir))?;
            write_predictions(&dir, &cases)?
        } else {
            Vec::new()
        };
        Ok(Some(Results { evaluation, weights, predictions }))
    }

    /// Time's up, or the epoch's end where one is cheap; a rank other than 0 has none to write.
    fn checkpoint_due(&self, epoch_ended: bool) -> bool {
        let config = &self.plan.spec.checkpoint;
        let step = self.progress.step;
        if self.gang.rank() != 0 || step == self.progress.checkpoint_step {
            return false;
        }
        let (elapsed, every) = (self.progress.last_checkpoint.elapsed(), config.every.as_duration());
        config.every_steps.is_some_and(|every| step.is_multiple_of(every))
            || elapsed >= every
            || (epoch_ended && checkpoint::worth_at_epoch_end(elapsed, every, self.progress.checkpoint_cost))
    }

    fn checkpoint(&mut self, observer: &mut dyn Observer) -> Result<(), EngineError> {
        if self.gang.rank() != 0 {
            return Ok(());
        }
        let since = Instant::now();
        let file: CheckpointFile =
            checkpoint::write(&self.plan.work_dir.join("checkpoints"), &self.meta(), &self.state())?;
        self.progress.last_checkpoint = Instant::now();
        self.progress.checkpoint_cost = since.elapsed();
        self.progress.checkpoint_step = self.progress.step;
        observer.checkpoint(file)
    }

    fn meta(&self) -> CheckpointMeta {
        CheckpointMeta {
            version: checkpoint::VERSION,
            spec_hash: self.plan.spec.hash(),
            dataset_hash: self.data.dataset().hash(),
            trial: self.plan.trial,
            step: self.progress.step,
            train_seconds: self.progress.seconds(),
            epoch_sums: self.progress.epoch_sums.clone(),
        }
    }

    /// Every tensor that the next step depends on, by name.
    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        let mut add = |player: &Player, name: &str| {
            let weights =
                player.vs.variables().into_iter().map(|(key, value)| (format!("{name}.{key}"), value));
            state.extend(weights);
            let moments =
                player.adam.state().into_iter().map(|(key, value)| (format!("{name}.adam.{key}"), value));
            state.extend(moments);
        };
        add(&self.game.generator, "network");
        if let Some((_, player)) = &self.game.adversary {
            add(player, "discriminator");
        }
        state
    }

    fn tell(
        &self,
        scope: MetricScope,
        values: BTreeMap<String, f64>,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        if self.gang.rank() != 0 {
            return Ok(());
        }
        let (step, epoch) = (self.progress.step, u32::try_from(self.epoch()).unwrap_or(u32::MAX));
        observer.metrics(MetricRecord { scope, step, epoch, train_seconds: self.progress.seconds(), values })
    }

    /// Epochs begun after the steps done so far.
    fn epoch(&self) -> u64 {
        self.progress.step.div_ceil(self.sampler.steps_per_epoch())
    }
}

impl Progress {
    fn start() -> Self {
        let now = Instant::now();
        Self {
            step: 0,
            seconds_before: 0.0,
            since: now,
            epoch_sums: BTreeMap::new(),
            last_checkpoint: now,
            checkpoint_step: 0,
            checkpoint_cost: Duration::ZERO,
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + Duration::as_secs_f64(&self.since.elapsed())
    }
}

fn game(plan: &Plan, data: &FoldData, gang: &Gang, steps_per_epoch: u64) -> Result<Game, EngineError> {
    let Plan { spec, trial, device, .. } = plan;
    let header = &data.dataset().header;
    let (phases, classes) = (header.phases.len(), header.classes.len());
    let shape = ImageShape { phases, size: spec.train.image_size as usize };
    tch::manual_seed(seeds::derive(trial.seed, trial.fold, Purpose::Weights).cast_signed());
    let vs = VarStore::new(*device);
    let network = mtinet_models::build(&vs.root(), trial.arm, &spec.model, shape, classes)?;
    let tasks = trial.arm.tasks();
    let generator = Player::new(vs, gang, spec.train.learning_rate, tasks.reg || tasks.cls)?;
    let adversary = if trial.arm.has_discriminator() {
        let vs = VarStore::new(*device);
        let discriminator = Discriminator::new(&vs.root(), &spec.model, phases, classes);
        let rate = spec.train.discriminator_learning_rate.unwrap_or(spec.train.learning_rate);
        Some((discriminator, Player::new(vs, gang, rate, false)?))
    } else {
        None
    };
    let recipe = Recipe {
        seed: trial.seed,
        fold: trial.fold,
        replicas: spec.train.replicas as usize,
        device: *device,
        half: half(spec.train.precision, *device, gang)?,
        grad_clip: spec.train.grad_clip,
        d_steps: spec.train.d_steps,
        adversarial_from: u64::from(spec.train.adv_warmup_epochs) * steps_per_epoch,
    };
    let objective = Objective::new(trial.arm, &spec.model, spec.train.loss);
    let graphs = Graphs::new(&spec.train, trial.arm, *device, gang);
    Ok(Game {
        network,
        generator,
        adversary,
        objective,
        recipe,
        graphs,
        ahead: None,
        data_wait: Cell::default(),
    })
}

/// Whether this trial computes in bfloat16; the same on all ranks, of which some may be on other processors.
fn half(precision: Precision, device: Device, gang: &Gang) -> Result<bool, EngineError> {
    Ok(match precision {
        Precision::Fp32 | Precision::Tf32 => false,
        Precision::Bf16 => true,
        Precision::Auto => {
            let mine = u64::from(mtinet_torch_ext::multiplies_bf16(device));
            gang.numbers(mine, device)?.into_iter().all(|can| can == 1)
        }
    })
}
