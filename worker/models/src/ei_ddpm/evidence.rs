//! From features to evidence: the evidence layer (EIL) and the contextual discounting (CDO) of one phase, after Huang et
//! al., MICCAI 2022 (MODEL.md 4.4).
//!
//! Every prototype gives a mass to background, to tumour and to "either"; Dempster's rule combines them. Combining one
//! prototype after another multiplies twenty small numbers. Here everything is a sum of logarithms instead, which
//! neither overflows nor underflows: with contour pl(c) = M(c) + M(either), the rule is pl(c) <- pl(c) (m(c) + m(either))
//! and M(either) <- M(either) m(either), and each factor is at least 0.01.

use tch::{Device, Kind, Tensor, nn};

const PROTOTYPES: i64 = 20;

/// Background and tumour.
const CLASSES: i64 = 2;

/// The largest evidence of one prototype, so that some mass is always left for "either".
const LARGEST_EVIDENCE: f64 = 0.99;

/// The prototypes of a phase and its reliability for each class.
#[derive(Debug)]
pub(super) struct Evidence {
    /// Prototypes [20, 2].
    w: Tensor,
    /// Their classes, before normalisation [20, 2].
    beta: Tensor,
    /// Their largest evidence, before the sigmoid [20, 1].
    alpha: Tensor,
    /// How fast evidence falls with distance [20, 1].
    gamma: Tensor,
    /// Doubt of the phase per class, before the sigmoid [2, 1, 1].
    cdo: Tensor,
}

impl Evidence {
    pub(super) fn new(vs: &nn::Path) -> Self {
        let cpu = (Kind::Float, Device::Cpu);
        let eil = vs / "eil";
        let add = |vs: &nn::Path, name, value: Tensor| vs.add(name, value.to_device(vs.device()), true);
        let bound = (6.0 / (PROTOTYPES + CLASSES) as f64).sqrt();
        Self {
            w: add(&eil, "W", Tensor::randn([PROTOTYPES, CLASSES], cpu)),
            beta: add(&eil, "BETA", Tensor::empty([PROTOTYPES, CLASSES], cpu).uniform_(-bound, bound)),
            alpha: add(&eil, "alpha", Tensor::zeros([PROTOTYPES, 1], cpu)),
            gamma: add(&eil, "gamma", Tensor::full([PROTOTYPES, 1], 0.1, cpu)),
            cdo: add(vs, "cdo", Tensor::zeros([CLASSES, 1, 1], cpu)),
        }
    }

    /// What the phase adds to the fused logits: features [N, 2, H, W] to [N, 1, H, W].
    ///
    /// Single precision throughout, whatever the features are computed in.
    pub(super) fn logits(&self, features: &Tensor) -> Tensor {
        let [background, tumour, _] = self.combine(features);
        let cdo = self.cdo.to_kind(Kind::Float);
        // log(a + (1 - a) pl) with a = sigmoid(cdo): finite even where pl is below the smallest number.
        let discounted = |class: i64, log_contour: &Tensor| {
            let cdo = cdo.get(class);
            cdo.log_sigmoid().logaddexp(&((-&cdo).log_sigmoid() + log_contour))
        };
        (discounted(1, &tumour) - discounted(0, &background)).unsqueeze(1)
    }

    /// Dempster's combination of all prototypes, normalised: the logarithms [N, H, W] of M(background) + M(either), of
    /// M(tumour) + M(either), and of M(either).
    fn combine(&self, features: &Tensor) -> [Tensor; 3] {
        let features = features.to_kind(Kind::Float);
        let column = |t: &Tensor| t.to_kind(Kind::Float).reshape([1, PROTOTYPES, 1, 1]);
        let distance =
            |class: i64| (features.narrow(1, class, 1) - column(&self.w.select(1, class))).square();
        let d = (distance(0) + distance(1)) * 0.5;
        let fall = column(&self.gamma).square();
        let evidence = column(&self.alpha).sigmoid() * LARGEST_EVIDENCE * (-(fall * d)).exp();
        let squares = self.beta.to_kind(Kind::Float).square();
        let total = squares.sum_dim_intlist(1, true, Kind::Float).clamp_min(1e-30);
        let shares = squares / total;
        let log_sum = |t: Tensor| t.log1p().sum_dim_intlist(1, false, Kind::Float);
        // 1 - s (1 - u) = m(c) + m(either); the share of the other class is 1 - u.
        let against = |class: i64| log_sum(-(column(&shares.select(1, 1 - class)) * &evidence));
        let (background, tumour) = (against(0), against(1));
        let either = log_sum(-&evidence);
        // A common factor that leaves the largest term at 1 cancels in the quotient, and so does its gradient.
        let largest = background.maximum(&tumour).detach();
        let relative = |t: &Tensor| (t - &largest).exp();
        let all = relative(&background) + relative(&tumour) - relative(&either);
        let log_all = all.log() + largest;
        [background - &log_all, tumour - &log_all, either - log_all]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::VarStore;

    /// `shape` of numbers in [-1, 1) that look random. Not from libtorch's generator, which tests that run at the same time
    /// share.
    fn scattered(shape: &[i64], seed: f64) -> Tensor {
        let index = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
        let wild = ((index + seed * 100.0) * 12.9898).sin() * 43758.5453;
        ((&wild - wild.floor()) * 2.0 - 1.0).reshape(shape).to_kind(Kind::Float)
    }

    fn layer() -> (VarStore, Evidence) {
        let vs = VarStore::new(Device::Cpu);
        let layer = Evidence::new(&vs.root());
        // Far from the start, where every prototype says much the same.
        tch::no_grad(|| {
            let set = |parameter: &Tensor, values: Tensor| parameter.shallow_clone().copy_(&values);
            set(&layer.w, scattered(&layer.w.size(), 1.0) * 1.7);
            set(&layer.beta, scattered(&layer.beta.size(), 2.0));
            set(&layer.alpha, scattered(&layer.alpha.size(), 3.0) * 3.4);
            set(&layer.gamma, scattered(&layer.gamma.size(), 4.0) * 0.4 + 0.6);
            set(&layer.cdo, scattered(&layer.cdo.size(), 5.0) * 1.7);
        });
        (vs, layer)
    }

    fn features() -> Tensor {
        scattered(&[2, 2, 6, 6], 6.0) * 2.5
    }

    /// Masses [3, N, H, W]: background, tumour, either.
    fn masses(layer: &Evidence, features: &Tensor) -> Tensor {
        let [background, tumour, either] = layer.combine(features).map(|log| log.exp());
        Tensor::stack(&[background - &either, tumour - &either, either], 0)
    }

    /// The rule as it is written, one prototype after another, in double precision.
    fn one_by_one(layer: &Evidence, features: &Tensor) -> Tensor {
        let double = |t: &Tensor| t.to_kind(Kind::Double);
        let (w, beta) = (double(&layer.w), double(&layer.beta).square());
        let (alpha, gamma) = (double(&layer.alpha), double(&layer.gamma));
        let features = double(features);
        let shape = [features.size()[0], features.size()[2], features.size()[3]];
        let zeros = Tensor::zeros(shape, (Kind::Double, Device::Cpu));
        let (mut background, mut tumour, mut either) = (zeros.copy(), zeros.copy(), zeros.ones_like());
        for k in 0..PROTOTYPES {
            let d =
                (&features - w.get(k).reshape([1, 2, 1, 1])).square().sum_dim_intlist(1, false, None) * 0.5;
            let s = (-d * gamma.get(k).square()).exp() * alpha.get(k).sigmoid() * LARGEST_EVIDENCE;
            let u = beta.get(k) / beta.get(k).sum(None);
            let (m0, m1, omega) = (&s * u.get(0), &s * u.get(1), -&s + 1.0);
            background = &background * (&m0 + &omega) + &m0 * &either;
            tumour = &tumour * (&m1 + &omega) + &m1 * &either;
            either = &either * &omega;
        }
        let all = &background + &tumour + &either;
        Tensor::stack(&[background / &all, tumour / &all, either / &all], 0).to_kind(Kind::Float)
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    /// Test 13 of MODEL.md section 6: the masses.
    #[test]
    fn masses_are_those_of_dempsters_rule_and_sum_to_1() {
        let (_vs, layer) = layer();
        let masses = masses(&layer, &features());
        assert!(largest_difference(&masses, &one_by_one(&layer, &features())) < 1e-5);
        let sum = masses.sum_dim_intlist(0, false, Kind::Float);
        assert!(largest_difference(&sum, &sum.ones_like()) < 1e-5);
        assert!(masses.min().double_value(&[]) > -1e-6);
    }

    #[test]
    fn features_far_from_all_prototypes_say_nothing() {
        let (_vs, layer) = layer();
        let masses = masses(&layer, &(features() + 1e3));
        assert!(largest_difference(&masses.get(2), &masses.get(2).ones_like()) < 1e-6);
        let logits = layer.logits(&(features() + 1e3));
        assert!(largest_difference(&logits, &logits.zeros_like()) < 1e-6);
    }

    /// A prototype without evidence has the vacuous mass.
    #[test]
    fn combining_with_a_vacuous_mass_changes_nothing() {
        let (_vs, layer) = layer();
        let silence = |k: i64| {
            tch::no_grad(|| {
                let _ = layer.alpha.get(k).fill_(-200.0);
            });
        };
        silence(4);
        let without = masses(&layer, &features());
        tch::no_grad(|| {
            let _ = layer.beta.get(4).fill_(7.0);
            let _ = layer.w.get(4).fill_(0.3);
        });
        assert_eq!(masses(&layer, &features()), without);
        (0..PROTOTYPES).for_each(silence);
        let nothing = masses(&layer, &features());
        assert_eq!(nothing.get(2), nothing.get(2).ones_like());
        // Four phases that know nothing are fused to a half.
        let fused = (layer.logits(&features()) * 4.0).sigmoid();
        assert!(largest_difference(&fused, &(fused.ones_like() * 0.5)) < 1e-7);
    }

    #[test]
    fn full_doubt_makes_a_phase_irrelevant() {
        let (_vs, layer) = layer();
        let heard = layer.logits(&features()).abs().max().double_value(&[]);
        assert!(heard > 0.1, "{heard}");
        tch::no_grad(|| {
            let _ = layer.cdo.shallow_clone().fill_(40.0);
        });
        assert!(layer.logits(&features()).abs().max().double_value(&[]) < 1e-6);
    }

    /// All prototypes at one place, sure of one class, and a phase without doubt: 0.01^20 is below the smallest float.
    #[test]
    fn certainty_neither_underflows_nor_spoils_gradients() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (_vs, layer) = layer();
            tch::no_grad(|| {
                let _ = layer.w.shallow_clone().fill_(0.0);
                let _ = layer.alpha.shallow_clone().fill_(60.0);
                let _ = layer.beta.shallow_clone().fill_(0.0);
                let _ = layer.beta.select(1, 1).fill_(1.0);
                let _ = layer.cdo.shallow_clone().fill_(-120.0);
            });
            let features = Tensor::zeros([1, 2, 4, 4], (kind, Device::Cpu)).set_requires_grad(true);
            let logits = layer.logits(&features);
            assert_eq!(logits.kind(), Kind::Float);
            let value = logits.double_value(&[0, 0, 0, 0]);
            assert!((value - 20.0 * 100_f64.ln()).abs() < 0.1, "{value}");
            logits.sum(Kind::Float).backward();
            for t in [&features, &layer.w, &layer.beta, &layer.alpha, &layer.gamma, &layer.cdo] {
                assert!(bool::try_from(t.grad().isfinite().all()).unwrap(), "{kind:?}");
            }
        }
    }
}
