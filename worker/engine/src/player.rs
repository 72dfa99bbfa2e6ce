//! One player of the adversarial game: its parameters, optimiser and gradient reducer.
//!
//! The network is G and the discriminator is D; each steps on its own and never touches the other's gradients.

use mtinet_torch_ext::{Reducer, ReducerOptions};
use tch::Tensor;
use tch::nn::VarStore;

use crate::EngineError;
use crate::adam::Adam;
use crate::gang::Gang;

/// Parameters, running statistics, optimiser and, in a gang, the reducer that averages gradients.
pub(crate) struct Player {
    pub(crate) vs: VarStore,
    pub(crate) adam: Adam,
    parameters: Vec<Tensor>,
    buffers: Vec<Tensor>,
    reducer: Option<Reducer>,
}

impl Player {
    /// Takes a store whose network is built; gives every rank rank 0's values.
    ///
    /// With `unused_parameters` a step may leave some parameters out, as a batch without tumour does with the heads,
    /// and the reducer does not wait for them.
    pub(crate) fn new(
        vs: VarStore,
        gang: &Gang,
        learning_rate: f64,
        unused_parameters: bool,
    ) -> Result<Self, EngineError> {
        let mut named: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
        // A hash map's order differs between processes; collectives need one order everywhere.
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        let (parameters, buffers): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|(_, tensor)| tensor.requires_grad());
        gang.broadcast(&tensors(&parameters))?;
        gang.broadcast(&tensors(&buffers))?;
        let adam = Adam::new(&parameters, learning_rate);
        // The store lists parameters in the order in which they were made, close to the order of the forward pass:
        // gradients become ready in reverse, which is what the reducer's buckets are made for.
        let in_order = vs.trainable_variables();
        let options =
            ReducerOptions { find_unused_parameters: unused_parameters, ..ReducerOptions::default() };
        let reducer = gang.group().map(|group| Reducer::new(&in_order, group, &options)).transpose()?;
        Ok(Self { vs, adam, parameters: tensors(&parameters), buffers: tensors(&buffers), reducer })
    }

    /// Running statistics, in order of name.
    pub(crate) fn buffers(&self) -> &[Tensor] {
        &self.buffers
    }

    /// What a step changes: parameters and running statistics, then the optimizer's first moments, second moments and counts.
    pub(crate) fn changing(&self) -> [Vec<Tensor>; 4] {
        let weights = self.parameters.iter().chain(&self.buffers).map(Tensor::shallow_clone).collect();
        let [first, second, counts] = self.adam.moments();
        [weights, first, second, counts]
    }

    /// A loss of zero that reaches every parameter: what a rank contributes that has nothing to learn from while
    /// others have.
    pub(crate) fn zero_loss(&self) -> Tensor {
        let sums: Vec<Tensor> = self.parameters.iter().map(|p| p.sum(tch::Kind::Float) * 0.0).collect();
        Tensor::stack(&sums, 0).sum(tch::Kind::Float)
    }

    /// Before the forward passes of a step.
    pub(crate) fn begin(&self) -> Result<(), EngineError> {
        self.adam.clear_gradients()?;
        if let Some(reducer) = &self.reducer {
            reducer.prepare_for_forward()?;
        }
        Ok(())
    }

    /// Adds the loss's gradients. With the `last` loss of the step they are averaged over the ranks while they are
    /// still being computed.
    pub(crate) fn backward(&self, loss: &Tensor, last: bool) -> Result<(), EngineError> {
        if let (Some(reducer), true) = (&self.reducer, last) {
            reducer.prepare_for_backward(std::slice::from_ref(loss))?;
        }
        loss.f_backward()?;
        Ok(())
    }
}

fn tensors(named: &[(String, Tensor)]) -> Vec<Tensor> {
    named.iter().map(|(_, tensor)| tensor.shallow_clone()).collect()
}
