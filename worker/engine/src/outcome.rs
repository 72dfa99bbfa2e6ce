//! What a step leaves behind, to be put back or to be compared with what it left another time.

use tch::{Kind, Tensor};

use crate::EngineError;
use crate::player::Player;
use crate::step::Game;

/// Copies of all that a step changes: weights and running statistics, and of the optimizers both moments and the counts.
pub(crate) struct State([Vec<Tensor>; 4]);

/// A step's result.
pub(crate) struct Outcome {
    pub(crate) state: State,
    pub(crate) sums: Tensor,
}

/// When two outcomes of one step are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Agreement {
    /// In every bit.
    Bits,
    /// As far as operations whose order of summation is free allow.
    Rounding { learning_rate: f64 },
}

impl State {
    pub(crate) fn of(game: &Game) -> Self {
        let copies = |tensors: Vec<Tensor>| tensors.iter().map(|tensor| tensor.detach().copy()).collect();
        Self(live(game).map(copies))
    }

    /// Makes the game's what these are.
    pub(crate) fn restore(&self, game: &Game) -> Result<(), EngineError> {
        let _no_grad = tch::no_grad_guard();
        for (live, kept) in live(game).iter().flatten().zip(self.0.iter().flatten()) {
            live.f_data()?.f_copy_(kept)?;
        }
        Ok(())
    }
}

/// What is in use, in the order of [`State`].
fn live(game: &Game) -> [Vec<Tensor>; 4] {
    let mut all: [Vec<Tensor>; 4] = Default::default();
    let players = std::iter::once(&game.generator).chain(game.adversary.as_ref().map(|(_, player)| player));
    for player in players.map(Player::changing) {
        for (list, tensors) in all.iter_mut().zip(player) {
            list.extend(tensors);
        }
    }
    all
}

impl Outcome {
    /// In words what differs, where the two are not the same. `before` is the state that both began with.
    pub(crate) fn differs(
        &self,
        other: &Self,
        before: &State,
        agreement: Agreement,
    ) -> Result<Option<String>, EngineError> {
        let _no_grad = tch::no_grad_guard();
        let (State(mine), State(theirs)) = (&self.state, &other.state);
        Ok(match agreement {
            Agreement::Bits => {
                let equal = |a: &[Tensor], b: &[Tensor]| a.iter().zip(b).all(|(a, b)| a.equal(b));
                let names = ["weights", "first moments", "second moments", "counts of updates"];
                let lists = names.iter().zip(mine.iter().zip(theirs));
                let apart = lists.filter(|(_, (a, b))| !equal(a, b)).map(|(name, _)| *name).next();
                apart.or((!self.sums.equal(&other.sums)).then_some("losses")).map(str::to_owned)
            }
            Agreement::Rounding { learning_rate } => {
                // A weight with next to no gradient moves by as much as any other, in a direction that rounding
                // decides: so the movement of all of them together is compared, and more loosely.
                let moved = norm(&mine[0], Some(&before.0[0]))?.max(learning_rate);
                let ratios = [
                    (
                        "losses",
                        apart(std::slice::from_ref(&self.sums), std::slice::from_ref(&other.sums))?,
                        1e-3,
                    ),
                    ("first moments", apart(&mine[1], &theirs[1])?, 0.05),
                    ("weights", norm(&mine[0], Some(&theirs[0]))? / moved, 0.2),
                    ("counts of updates", apart(&mine[3], &theirs[3])?, 0.0),
                ];
                let mut beyond = ratios.iter().filter(|(_, ratio, most)| ratio.is_nan() || ratio > most);
                beyond.next().map(|(name, ratio, _)| format!("{name} are {ratio:.1e} apart"))
            }
        })
    }
}

/// How far two lists are apart, as a share of the first.
fn apart(mine: &[Tensor], theirs: &[Tensor]) -> Result<f64, EngineError> {
    Ok(norm(mine, Some(theirs))? / norm(mine, None)?.max(f64::MIN_POSITIVE))
}

/// The norm of all values together, or of their differences from others.
fn norm(values: &[Tensor], others: Option<&[Tensor]>) -> Result<f64, EngineError> {
    let square = |(index, value): (usize, &Tensor)| match others {
        Some(others) => (value - &others[index]).square().sum(Kind::Double),
        None => value.square().sum(Kind::Double),
    };
    let squares: Vec<Tensor> = values.iter().enumerate().map(square).collect();
    Ok(f64::try_from(Tensor::f_stack(&squares, 0)?.sum(Kind::Double))?.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
    const ROUNDING: Agreement = Agreement::Rounding { learning_rate: 1e-3 };

    /// Weights of 1 that moved by `moved`, moments of `moment`, losses of `loss`, one update.
    fn outcome(moved: f64, moment: f64, loss: f64) -> Outcome {
        let all = |value: f64| vec![Tensor::full([4, 4], value, FLOAT), Tensor::full([3], value, FLOAT)];
        let state =
            State([all(1.0 + moved), all(moment), all(moment * moment), vec![Tensor::ones([], FLOAT)]]);
        Outcome { state, sums: Tensor::full([8], loss, FLOAT) }
    }

    fn differs(other: &Outcome, agreement: Agreement) -> Option<String> {
        outcome(0.1, 0.5, 2.0).differs(other, &outcome(0.0, 0.0, 0.0).state, agreement).unwrap()
    }

    #[test]
    fn equal_outcomes_agree() {
        for agreement in [Agreement::Bits, ROUNDING] {
            assert_eq!(differs(&outcome(0.1, 0.5, 2.0), agreement), None);
        }
    }

    #[test]
    fn rounding_agrees_only_where_bits_are_free() {
        let rounded = outcome(0.1001, 0.5001, 2.0001);
        assert_eq!(differs(&rounded, ROUNDING), None);
        assert_eq!(differs(&rounded, Agreement::Bits).unwrap(), "weights");
        assert_eq!(differs(&outcome(0.1, 0.5, 2.0001), Agreement::Bits).unwrap(), "losses");
    }

    #[test]
    fn a_step_that_does_something_else_is_found() {
        for (other, what) in [
            // It did nothing to the weights, went further, or the wrong way.
            (outcome(0.0, 0.5, 2.0), "weights"),
            (outcome(0.15, 0.5, 2.0), "weights"),
            (outcome(-0.1, 0.5, 2.0), "weights"),
            (outcome(0.1, 0.6, 2.0), "first moments"),
            (outcome(0.1, 0.5, 2.1), "losses"),
            (outcome(f64::NAN, 0.5, 2.0), "weights"),
            (outcome(0.1, 0.5, f64::NAN), "losses"),
        ] {
            let said = differs(&other, ROUNDING).unwrap_or_default();
            assert!(said.starts_with(what), "{said:?}, not {what}");
        }
        let mut twice = outcome(0.1, 0.5, 2.0);
        twice.state.0[3] = vec![Tensor::full([], 2.0, FLOAT)];
        assert!(differs(&twice, ROUNDING).unwrap().starts_with("counts"));
    }
}
