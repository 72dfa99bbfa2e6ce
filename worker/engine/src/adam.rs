//! Adam over a network's parameters, with libtorch's fused kernel, and with a state that can be saved.

use mtinet_torch_ext::{AdamOptions, clear_grads, fused_adam_step};
use tch::{Kind, Tensor};

use crate::EngineError;

/// Adam with betas (0.9, 0.999), eps 1e-8 and no weight decay, as in the paper (MODEL.md 3.11).
pub(crate) struct Adam {
    parameters: Vec<Parameter>,
    options: AdamOptions,
}

struct Parameter {
    name: String,
    value: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    /// Updates so far, a float scalar as the kernel wants it.
    step: Tensor,
}

/// Names of the state tensors of one parameter, as in PyTorch's `state_dict`.
const STATE_NAMES: [&str; 3] = ["exp_avg", "exp_avg_sq", "step"];

impl Adam {
    pub(crate) fn new(parameters: &[(String, Tensor)], learning_rate: f64) -> Self {
        let parameters = parameters
            .iter()
            .map(|(name, value)| Parameter {
                name: name.clone(),
                value: value.shallow_clone(),
                exp_avg: value.detach().zeros_like(),
                exp_avg_sq: value.detach().zeros_like(),
                step: Tensor::zeros([], (Kind::Float, value.device())),
            })
            .collect();
        Self { parameters, options: AdamOptions { learning_rate, ..AdamOptions::default() } }
    }

    /// Forgets all gradients: they become undefined, not zero, so that a parameter that a step does not use is left
    /// alone by that step.
    pub(crate) fn clear_gradients(&self) -> Result<(), EngineError> {
        let values: Vec<&Tensor> = self.parameters.iter().map(|parameter| &parameter.value).collect();
        Ok(clear_grads(&values)?)
    }

    /// Scales the gradients down where their joint norm exceeds `most`, without waiting for the device.
    pub(crate) fn clip_gradients(&self, most: f64) -> Result<(), EngineError> {
        let _no_grad = tch::no_grad_guard();
        let gradients = self.gradients();
        if gradients.is_empty() {
            return Ok(());
        }
        let squares: Vec<Tensor> =
            gradients.iter().map(|gradient| gradient.square().sum(Kind::Float)).collect();
        let norm = Tensor::f_stack(&squares, 0)?.sum(Kind::Float).sqrt();
        let scale = ((norm + 1e-6).reciprocal() * most).clamp_max(1.0);
        for mut gradient in gradients {
            let _ = gradient.f_mul_(&scale)?;
        }
        Ok(())
    }

    /// One update of every parameter that has a gradient.
    pub(crate) fn step(&mut self) -> Result<(), EngineError> {
        let _no_grad = tch::no_grad_guard();
        let used: Vec<&Parameter> = self.parameters.iter().filter(|p| p.value.grad().defined()).collect();
        if used.is_empty() {
            return Ok(());
        }
        let gradients: Vec<Tensor> = used.iter().map(|parameter| parameter.value.grad()).collect();
        let list = |of: fn(&Parameter) -> &Tensor| -> Vec<&Tensor> { used.iter().map(|p| of(p)).collect() };
        fused_adam_step(
            &list(|p| &p.value),
            &gradients.iter().collect::<Vec<_>>(),
            &list(|p| &p.exp_avg),
            &list(|p| &p.exp_avg_sq),
            &list(|p| &p.step),
            &self.options,
        )?;
        Ok(())
    }

    /// The state by name, e.g. `enc_spa.block1.conv.weight.exp_avg`.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::with_capacity(3 * self.parameters.len());
        for parameter in &self.parameters {
            for (kind, tensor) in STATE_NAMES.iter().zip(parameter.tensors()) {
                state.push((format!("{}.{kind}", parameter.name), tensor.shallow_clone()));
            }
        }
        state
    }

    /// First moments, second moments and counts of updates, parameter by parameter.
    pub(crate) fn moments(&self) -> [Vec<Tensor>; 3] {
        [0, 1, 2].map(|kind| self.parameters.iter().map(|p| p.tensors()[kind].shallow_clone()).collect())
    }

    fn gradients(&self) -> Vec<Tensor> {
        self.parameters.iter().map(|p| p.value.grad()).filter(Tensor::defined).collect()
    }
}

impl Parameter {
    fn tensors(&self) -> [&Tensor; 3] {
        [&self.exp_avg, &self.exp_avg_sq, &self.step]
    }
}
