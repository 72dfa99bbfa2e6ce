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
use crate::player::Player;
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

/// Sums over a step's replicas, still on the device: the values of [`TERMS`], how many replicas had each, and how
/// many ranks were asked to stop.
pub(crate) struct StepSums(Tensor);

/// A step's measurements on the host.
pub(crate) struct StepReport {
    /// Mean over the replicas that had the term, by name.
    pub(crate) values: BTreeMap<String, f64>,
    /// Whether any rank was asked to stop.
    pub(crate) stop: bool,
}

/// One replica's samples and the network's answers to them.
struct Replica {
    batch: Batch,
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
        self.generator.begin()?;
        let mine = gang.replicas(slices.len());
        let mut measured = Measured::default();
        let statistics = if self.adversary.is_some() {
            self.adversarial_pass(data, step, slices, mine, &mut measured)?
        } else {
            self.plain_pass(data, step, slices, mine, &mut measured)?
        };
        let span = span("optimizer");
        if let Some(norm) = self.recipe.grad_clip {
            self.generator.adam.clip_gradients(norm)?;
        }
        self.generator.adam.step()?;
        drop(span);
        self.share(gang, statistics, &measured, stop)
    }

    /// Without a discriminator each replica's graph is freed before the next is built.
    fn plain_pass(
        &self,
        data: &FoldData,
        step: u64,
        slices: &[Vec<usize>],
        mine: std::ops::Range<usize>,
        measured: &mut Measured,
    ) -> Result<Option<Tensor>, EngineError> {
        let mut statistics = RunningStatistics::begin(self.generator.buffers(), slices.len() > 1)?;
        let share = mine.len();
        for (done, replica) in mine.enumerate() {
            let replica = self.forward(data, step, replica, &slices[replica], &mut statistics)?;
            self.learn(&replica, None, share, done + 1 == share, measured)?;
        }
        Ok(statistics.sum().map(Tensor::shallow_clone))
    }

    /// D learns from all replicas before G does, so the graphs of this rank's replicas live side by side.
    fn adversarial_pass(
        &mut self,
        data: &FoldData,
        step: u64,
        slices: &[Vec<usize>],
        mine: std::ops::Range<usize>,
        measured: &mut Measured,
    ) -> Result<Option<Tensor>, EngineError> {
        let mut statistics = RunningStatistics::begin(self.generator.buffers(), slices.len() > 1)?;
        let mut replicas = Vec::with_capacity(mine.len());
        for replica in mine {
            replicas.push(self.forward(data, step, replica, &slices[replica], &mut statistics)?);
        }
        let sum = statistics.sum().map(Tensor::shallow_clone);
        // Every rank knows all replicas' slices, so all of them decide alike whether D steps.
        if slices.iter().flatten().any(|&slice| data.has_tumour(slice)) {
            for _ in 0..self.recipe.d_steps {
                self.discriminate(&replicas, measured)?;
            }
        }
        let share = replicas.len();
        for (done, replica) in replicas.iter().enumerate() {
            let adversary = self.adversary.as_ref().map(|(discriminator, _)| discriminator);
            let adversary = adversary.filter(|_| step >= self.recipe.adversarial_from);
            self.learn(replica, adversary, share, done + 1 == share, measured)?;
        }
        Ok(sum)
    }

    fn forward(
        &self,
        data: &FoldData,
        step: u64,
        replica: usize,
        slices: &[usize],
        statistics: &mut RunningStatistics,
    ) -> Result<Replica, EngineError> {
        let Recipe { seed, fold, device, half, .. } = self.recipe;
        let since = Instant::now();
        let batch = {
            let _span = span("data");
            data.batch(slices, device)?
        };
        self.data_wait.set(self.data_wait.get() + since.elapsed());
        let _span = span("forward");
        let purpose = Purpose::Replica { step, replica: replica as u64 };
        tch::manual_seed(seeds::derive(seed, fold, purpose).cast_signed());
        let outputs = {
            let _autocast = half.then(|| autocast(device, Kind::BFloat16)).transpose()?;
            self.network.learn(&batch.x, batch.targets().mask)
        };
        statistics.after_forward()?;
        Ok(Replica { batch, outputs })
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
        let sums = measured.to_tensor(stop, self.recipe.device)?;
        let Some(statistics) = statistics else {
            gang.all_reduce_sum(&sums)?;
            return Ok(StepSums(sums));
        };
        let length = statistics.size1()?;
        let message = Tensor::f_cat(&[statistics, sums], 0)?;
        gang.all_reduce_sum(&message)?;
        set_mean(self.generator.buffers(), &message.f_narrow(0, 0, length)?, self.recipe.replicas)?;
        Ok(StepSums(message.f_narrow(0, length, message.size1()? - length)?))
    }
}

impl StepSums {
    /// Brings the measurements to the host; waits for the device.
    pub(crate) fn read(&self) -> Result<StepReport, EngineError> {
        let numbers = Vec::<f32>::try_from(self.0.to_device(Device::Cpu))?;
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
struct Measured {
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

    fn to_tensor(&self, stop: bool, device: Device) -> Result<Tensor, EngineError> {
        let mut sums = Vec::with_capacity(TERMS.len());
        let mut counts = Vec::with_capacity(TERMS.len() + 1);
        for term in TERMS {
            let values = self.values.get(term).map_or(&[][..], Vec::as_slice);
            counts.push(values.len() as f32);
            sums.push(match values {
                [] => Tensor::zeros([], (Kind::Float, device)),
                values => Tensor::f_stack(values, 0)?.sum(Kind::Float),
            });
        }
        counts.push(f32::from(u8::from(stop)));
        let counts = Tensor::f_from_slice(&counts)?.to_device(device);
        Ok(Tensor::f_cat(&[Tensor::f_stack(&sums, 0)?, counts], 0)?)
    }
}
