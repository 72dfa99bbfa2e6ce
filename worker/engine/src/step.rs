//! One optimiser step: D and G over all replicas (MODEL.md 3.11), and what it measured.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mtinet_models::losses::{LossTerms, Objective, discriminator_loss};
use mtinet_models::{Discriminator, Network, Outputs};
use mtinet_torch_ext::{autocast, span};
use tch::{Device, Kind, Tensor};

use crate::EngineError;
use crate::fold_data::{Batch, FoldData};
use crate::gang::Gang;
use crate::graphs::Graphs;
use crate::player::Player;
use crate::resident::upload;
use crate::seeds::{self, Purpose};
use crate::statistics::{RunningStatistics, set_mean};

/// What is measured in every step, in this order.
pub(crate) const TERMS: [&str; 8] = ["loss", "seg", "dice", "reg", "cls", "tim", "adv", "disc"];

/// The network, the discriminator where the arm has one, and how they are trained.
pub(crate) struct Game {
    pub(crate) network: Box<dyn Network>,
    pub(crate) generator: Player,
    pub(crate) adversary: Option<(Discriminator, Player)>,
    pub(crate) objective: Objective,
    pub(crate) recipe: Recipe,
    /// Where steps are recorded and replayed.
    pub(crate) graphs: Option<Graphs>,
    /// The samples of a step that is to come, where they are prepared one step ahead.
    pub(crate) ahead: Option<(u64, Vec<Batch>)>,
    /// Time that went by with preparing samples, since it was last asked for.
    pub(crate) data_wait: Cell<Duration>,
}

/// The constants of every step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) seed: u64,
    pub(crate) fold: u32,
    pub(crate) replicas: usize,
    pub(crate) device: Device,
    /// Forward and loss in bfloat16 where it is safe (autocast).
    pub(crate) half: bool,
    pub(crate) grad_clip: Option<f64>,
    /// Steps of the discriminator for each of the generator.
    pub(crate) d_steps: u32,
    /// Steps before the adversarial term joins the generator's loss.
    pub(crate) adversarial_from: u64,
}

/// Sums over a step's replicas: the values of [`TERMS`], how many replicas had each, and how many ranks were asked to stop.
pub(crate) struct StepSums {
    /// The first of these numbers, still on the device.
    device: Tensor,
    /// The others, which a rank alone knows without asking the device.
    host: Vec<f32>,
}

/// One step's work of this rank, as far as the host decides about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// The first of the replicas.
    pub(crate) first: u64,
    /// The replicas of all ranks.
    pub(crate) replicas: usize,
    /// Whether a replica of any rank has a tumour, so that D steps.
    pub(crate) tumour: bool,
    /// Whether the adversarial term is part of G's loss.
    pub(crate) adversarial: bool,
    /// The step whose seeds the replicas draw after; none where the generator is seeded already.
    pub(crate) seeds: Option<u64>,
}

/// A step's measurements on the host.
pub(crate) struct StepReport {
    /// Mean over the replicas that had the term, by name.
    pub(crate) values: BTreeMap<String, f64>,
    /// Whether any rank was asked to stop.
    pub(crate) stop: bool,
}

/// One replica's samples and the network's answers to them.
struct Replica<'a> {
    batch: &'a Batch,
    outputs: Outputs,
}

impl Game {
    /// Runs step `step` (from 0) on the slices of all replicas, of which this rank runs its share.
    pub(crate) fn step(
        &mut self,
        data: &FoldData,
        gang: &Gang,
        step: u64,
        slices: &[Vec<usize>],
        stop: bool,
    ) -> Result<StepSums, EngineError> {
        let mine = gang.replicas(slices.len());
        let pass = Pass {
            first: mine.start as u64,
            replicas: slices.len(),
            // Every rank knows all replicas' slices, so all of them decide alike.
            tumour: slices.iter().flatten().any(|&slice| data.has_tumour(slice)),
            adversarial: step >= self.recipe.adversarial_from,
            seeds: Some(step),
        };
        let batches = self.batches(data, step, &slices[mine])?;
        if let (Some(graphs), [batch]) = (self.graphs.take(), batches.as_slice()) {
            let (sums, counts) = graphs.step(self, pass, batch)?;
            return Ok(StepSums::alone(sums, counts, stop));
        }
        let mut measured = Measured::default();
        let statistics = self.compute(pass, &batches, &mut measured)?;
        self.share(gang, statistics, &measured, stop)
    }

    /// Prepares the samples of step `step` while the device still works on the one before.
    pub(crate) fn prepare(
        &mut self,
        data: &FoldData,
        gang: &Gang,
        step: u64,
        slices: &[Vec<usize>],
    ) -> Result<(), EngineError> {
        let batches = self.batches(data, step, &slices[gang.replicas(slices.len())])?;
        self.ahead = Some((step, batches));
        Ok(())
    }

    fn batches(
        &mut self,
        data: &FoldData,
        step: u64,
        slices: &[Vec<usize>],
    ) -> Result<Vec<Batch>, EngineError> {
        if let Some((_, batches)) = self.ahead.take().filter(|(ahead, _)| *ahead == step) {
            return Ok(batches);
        }
        let since = Instant::now();
        let _span = span("data");
        let batches = slices.iter().map(|slices| data.batch(slices, self.recipe.device)).collect();
        self.data_wait.set(self.data_wait.get() + since.elapsed());
        batches
    }

    /// All that this rank computes in a step, up to its own updates. Returns the sum of the running statistics, which
    /// is still to be averaged where there are several replicas.
    pub(crate) fn compute(
        &mut self,
        pass: Pass,
        batches: &[Batch],
        measured: &mut Measured,
    ) -> Result<Option<Tensor>, EngineError> {
        self.generator.begin()?;
        let statistics = if self.adversary.is_some() {
            self.adversarial_pass(pass, batches, measured)?
        } else {
            self.plain_pass(pass, batches, measured)?
        };
        let _span = span("optimizer");
        if let Some(norm) = self.recipe.grad_clip {
            self.generator.adam.clip_gradients(norm)?;
        }
        self.generator.adam.step()?;
        Ok(statistics)
    }

    /// Without a discriminator each replica's graph is freed before the next is built.
    fn plain_pass(
        &self,
        pass: Pass,
        batches: &[Batch],
        measured: &mut Measured,
    ) -> Result<Option<Tensor>, EngineError> {
        let mut statistics = RunningStatistics::begin(self.generator.buffers(), pass.replicas > 1)?;
        for (done, batch) in batches.iter().enumerate() {
            let replica = self.forward(pass, done, batch, &mut statistics)?;
            self.learn(&replica, None, batches.len(), done + 1 == batches.len(), measured)?;
        }
        Ok(statistics.sum().map(Tensor::shallow_clone))
    }

    /// D learns from all replicas before G does, so the graphs of this rank's replicas live side by side.
    fn adversarial_pass(
        &mut self,
        pass: Pass,
        batches: &[Batch],
        measured: &mut Measured,
    ) -> Result<Option<Tensor>, EngineError> {
        let mut statistics = RunningStatistics::begin(self.generator.buffers(), pass.replicas > 1)?;
        let mut replicas = Vec::with_capacity(batches.len());
        for (index, batch) in batches.iter().enumerate() {
            replicas.push(self.forward(pass, index, batch, &mut statistics)?);
        }
        let sum = statistics.sum().map(Tensor::shallow_clone);
        if pass.tumour {
            for _ in 0..self.recipe.d_steps {
                self.discriminate(&replicas, measured)?;
            }
        }
        let share = replicas.len();
        for (done, replica) in replicas.iter().enumerate() {
            let adversary = self.adversary.as_ref().map(|(discriminator, _)| discriminator);
            let adversary = adversary.filter(|_| pass.adversarial);
            self.learn(replica, adversary, share, done + 1 == share, measured)?;
        }
        Ok(sum)
    }

    fn forward<'a>(
        &self,
        pass: Pass,
        index: usize,
        batch: &'a Batch,
        statistics: &mut RunningStatistics,
    ) -> Result<Replica<'a>, EngineError> {
        let Recipe { device, half, .. } = self.recipe;
        let _span = span("forward");
        if let Some(step) = pass.seeds {
            self.seed(step, pass.first + index as u64);
        }
        let outputs = {
            let _autocast = half.then(|| autocast(device, Kind::BFloat16)).transpose()?;
            self.network.learn(&batch.x, batch.targets().mask)
        };
        statistics.after_forward()?;
        Ok(Replica { batch, outputs })
    }

    /// What is random in a replica's step is drawn from here on.
    pub(crate) fn seed(&self, step: u64, replica: u64) {
        let Recipe { seed, fold, .. } = self.recipe;
        tch::manual_seed(seeds::derive(seed, fold, Purpose::Replica { step, replica }).cast_signed());
    }

    /// A D step.
    fn discriminate(&mut self, replicas: &[Replica], measured: &mut Measured) -> Result<(), EngineError> {
        let Some((discriminator, player)) = &mut self.adversary else { return Ok(()) };
        let _span = span("discriminator");
        player.begin()?;
        for (done, replica) in replicas.iter().enumerate() {
            let loss = discriminator_loss(discriminator, &replica.outputs, &replica.batch.targets());
            measured.add("disc", loss.as_ref());
            let loss = loss.unwrap_or_else(|| player.zero_loss()) / replicas.len() as f64;
            player.backward(&loss, done + 1 == replicas.len())?;
        }
        player.adam.step()
    }

    /// Adds the gradients of one replica's G loss.
    fn learn(
        &self,
        replica: &Replica,
        adversary: Option<&Discriminator>,
        share: usize,
        last: bool,
        measured: &mut Measured,
    ) -> Result<(), EngineError> {
        let Replica { batch, outputs } = replica;
        let _span = span("loss and backward");
        let terms = self.objective.generator_loss(outputs, &batch.targets(), &batch.x, adversary);
        self.generator.backward(&(&terms.total / share as f64), last)?;
        measured.add_terms(&terms);
        Ok(())
    }

    /// Averages running statistics over the replicas and sums the measurements, in one message.
    fn share(
        &self,
        gang: &Gang,
        statistics: Option<Tensor>,
        measured: &Measured,
        stop: bool,
    ) -> Result<StepSums, EngineError> {
        let _no_grad = tch::no_grad_guard();
        let device = self.recipe.device;
        let sums = measured.sums(device)?;
        if gang.group().is_none() {
            if let Some(statistics) = statistics {
                set_mean(self.generator.buffers(), &statistics, self.recipe.replicas)?;
            }
            return Ok(StepSums::alone(sums, measured.counts(), stop));
        }
        let mut host = measured.counts();
        host.push(f32::from(u8::from(stop)));
        let host = upload(&Tensor::f_from_slice(&host)?, device)?;
        let length = statistics.as_ref().map_or(Ok(0), Tensor::size1)?;
        let parts: Vec<Tensor> = statistics.into_iter().chain([sums, host]).collect();
        let message = Tensor::f_cat(&parts, 0)?;
        gang.all_reduce_sum(&message)?;
        if length > 0 {
            set_mean(self.generator.buffers(), &message.f_narrow(0, 0, length)?, self.recipe.replicas)?;
        }
        let device = message.f_narrow(0, length, message.size1()? - length)?;
        Ok(StepSums { device, host: Vec::new() })
    }
}

impl StepSums {
    /// Those of a rank without others.
    fn alone(sums: Tensor, counts: Vec<f32>, stop: bool) -> Self {
        let mut host = counts;
        host.push(f32::from(u8::from(stop)));
        Self { device: sums, host }
    }

    /// Brings the measurements to the host; waits for the device.
    pub(crate) fn read(&self) -> Result<StepReport, EngineError> {
        let mut numbers = Vec::<f32>::try_from(self.device.to_device(Device::Cpu))?;
        numbers.extend(&self.host);
        let (sums, rest) = numbers.split_at(TERMS.len());
        let (counts, stop) = rest.split_at(TERMS.len());
        let values = TERMS
            .iter()
            .zip(sums.iter().zip(counts))
            .filter(|(_, (_, count))| **count > 0.0)
            .map(|(name, (sum, count))| ((*name).to_owned(), f64::from(sum / count)))
            .collect();
        Ok(StepReport { values, stop: stop.iter().any(|&ranks| ranks > 0.0) })
    }
}

impl StepReport {
    /// An error naming the first term that is not finite.
    pub(crate) fn check_finite(&self, step: u64) -> Result<(), EngineError> {
        for term in TERMS {
            if let Some(&value) = self.values.get(term)
                && !value.is_finite()
            {
                return Err(EngineError::NotFinite { term, value, step });
            }
        }
        Ok(())
    }
}

/// The detached loss values of this rank's replicas.
#[derive(Default)]
pub(crate) struct Measured {
    values: BTreeMap<&'static str, Vec<Tensor>>,
}

impl Measured {
    fn add(&mut self, term: &'static str, value: Option<&Tensor>) {
        if let Some(value) = value {
            self.values.entry(term).or_default().push(value.detach().to_kind(Kind::Float).reshape([]));
        }
    }

    fn add_terms(&mut self, terms: &LossTerms) {
        self.add("loss", Some(&terms.total));
        self.add("seg", terms.seg.as_ref());
        self.add("dice", terms.dice.as_ref());
        self.add("reg", terms.reg.as_ref());
        self.add("cls", terms.cls.as_ref());
        self.add("tim", terms.tim.as_ref());
        self.add("adv", terms.adv.as_ref());
    }

    /// The sum of each of [`TERMS`] over this rank's replicas.
    pub(crate) fn sums(&self, device: Device) -> Result<Tensor, EngineError> {
        let mut sums = Vec::with_capacity(TERMS.len());
        for term in TERMS {
            sums.push(match self.values.get(term).map(Vec::as_slice) {
                None | Some([]) => Tensor::zeros([], (Kind::Float, device)),
                Some(values) => Tensor::f_stack(values, 0)?.sum(Kind::Float),
            });
        }
        Ok(Tensor::f_stack(&sums, 0)?)
    }

    /// How many of this rank's replicas had each of [`TERMS`].
    pub(crate) fn counts(&self) -> Vec<f32> {
        TERMS.iter().map(|term| self.values.get(term).map_or(0, Vec::len) as f32).collect()
    }
}
