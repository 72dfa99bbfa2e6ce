//! That the losses train the networks, and only what they should.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use mtinet_domain::model::{Arm, LossWeights, ModelConfig, Preset};
use mtinet_models::{
    Discriminator, ImageShape, Network, build,
    losses::{Objective, Targets, discriminator_loss, tim},
};
use tch::{
    Device, Kind, Tensor,
    nn::{self, OptimizerConfig, VarStore},
};

const SIZE: i64 = 64;

/// Slices with a disc each, whose enhancement tells its class; `healthy` ones have none.
struct Slices {
    x: Tensor,
    mask: Tensor,
    curve: Tensor,
    class: Tensor,
    tumour: Tensor,
}

impl Slices {
    fn new(count: i64, healthy: bool) -> Self {
        let options = (Kind::Float, Device::Cpu);
        tch::manual_seed(11);
        let x = Tensor::randn([count, 4, SIZE, SIZE], options) * 0.15 - 0.3;
        let mask = Tensor::zeros([count, 1, SIZE, SIZE], options);
        let axis = Tensor::arange(SIZE, options);
        for i in (0..count).filter(|_| !healthy) {
            let (cy, cx, radius) = (20.0 + 3.0 * i as f64, 44.0 - 3.0 * i as f64, 9.0 + i as f64);
            let d2 = (&axis - cy).square().unsqueeze(1) + (&axis - cx).square().unsqueeze(0);
            let disc = d2.le(radius * radius).to_kind(Kind::Float);
            let gain = 1.0 + 0.1 * (i % 3) as f32;
            let curve = if i % 2 == 0 { [0.2, 2.2, 1.4, 0.7] } else { [-0.4, 0.8, 1.7, 2.0] };
            let curve = Tensor::from_slice(&curve.map(|v: f32| v * gain)).reshape([4, 1, 1]);
            let _ = x.get(i).g_add_(&(curve * &disc));
            mask.get(i).copy_(&disc.unsqueeze(0));
        }
        let curve = tim(&mask, &x);
        let class = Tensor::arange(count, (Kind::Int64, Device::Cpu)).remainder(2);
        let tumour = Tensor::arange(if healthy { 0 } else { count }, (Kind::Int64, Device::Cpu));
        Self { x, mask, curve, class, tumour }
    }

    fn targets(&self) -> Targets<'_> {
        let Self { mask, curve, class, tumour, .. } = self;
        Targets { mask, curve, class, tumour }
    }
}

struct Trial {
    vs: VarStore,
    network: Box<dyn Network>,
    vs_d: VarStore,
    d: Discriminator,
    objective: Objective,
}

fn trial(arm: Arm) -> Trial {
    trial_at(arm, SIZE)
}

fn trial_at(arm: Arm, size: i64) -> Trial {
    tch::manual_seed(4);
    let cfg = ModelConfig { dropout: 0.0, ..ModelConfig::preset(Preset::Tiny64) };
    let (vs, vs_d) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
    let image = ImageShape { phases: 4, size: size as usize };
    let network = build(&vs.root(), arm, &cfg, image, 2).unwrap();
    let d = Discriminator::new(&vs_d.root(), &cfg, 4, 2);
    Trial { vs, network, vs_d, d, objective: Objective::new(arm, &cfg, LossWeights::default()) }
}

fn gradient_size(vs: &VarStore) -> f64 {
    let gradients = vs.trainable_variables().into_iter().map(|v| v.grad()).filter(Tensor::defined);
    gradients.map(|g| g.abs().sum(Kind::Double).double_value(&[])).sum()
}

/// Test 9 of MODEL.md section 6.
#[test]
fn each_step_leaves_the_gradients_of_the_other_untouched() {
    let slices = Slices::new(4, false);
    let Trial { vs, network, vs_d, d, objective } = trial(Arm::MtiNet);
    let outputs = network.forward(&slices.x, true);
    discriminator_loss(&d, &outputs, &slices.targets()).unwrap().backward();
    assert_eq!(gradient_size(&vs), 0.0);
    let before = gradient_size(&vs_d);
    assert!(before > 0.0);
    let terms = objective.generator_loss(&outputs, &slices.targets(), &slices.x, Some(&d));
    terms.total.backward();
    assert!(gradient_size(&vs) > 0.0 && terms.adv.is_some());
    assert_eq!(gradient_size(&vs_d), before);
}

/// Test 10 of MODEL.md section 6.
#[test]
fn a_healthy_batch_trains_the_segmentation_alone() {
    let slices = Slices::new(2, true);
    let Trial { vs, network, d, objective, .. } = trial(Arm::MtiNet);
    let outputs = network.forward(&slices.x, true);
    assert!(discriminator_loss(&d, &outputs, &slices.targets()).is_none());
    let terms = objective.generator_loss(&outputs, &slices.targets(), &slices.x, Some(&d));
    assert!(terms.seg.is_some() && terms.reg.is_none() && terms.cls.is_none());
    assert!(terms.tim.is_none() && terms.adv.is_none());
    terms.total.backward();
    assert!(gradient_size(&vs).is_finite() && gradient_size(&vs) > 0.0);
    assert!(!vs.variables()["head_reg.weight"].grad().defined());
}

#[test]
fn each_arm_has_the_terms_of_its_tasks() {
    tch::set_num_threads(1);
    let slices = Slices::new(2, false);
    for &arm in Arm::ALL {
        // Inception v3 cannot take images as small as these.
        let inception = matches!(arm, Arm::Inception3Reg | Arm::Inception3Cls);
        let size = if inception { SIZE + 16 } else { SIZE };
        let x =
            if inception { slices.x.upsample_nearest2d([size, size], None, None) } else { slices.x.copy() };
        let Trial { network, d, objective, .. } = trial_at(arm, size);
        let outputs = network.learn(&x, &slices.mask);
        let tasks = arm.tasks();
        let answered = (outputs.seg.is_some(), outputs.curve.is_some(), outputs.cls.is_some());
        assert_eq!(answered, (tasks.seg, tasks.reg, tasks.cls), "{arm}");
        let terms = objective.generator_loss(&outputs, &slices.targets(), &x, Some(&d));
        assert_eq!((terms.seg.is_some(), terms.reg.is_some(), terms.cls.is_some()), answered, "{arm}");
        let has_tim = tasks.seg && tasks.reg && arm != Arm::NoTim;
        assert_eq!((terms.tim.is_some(), terms.adv.is_some()), (has_tim, arm.has_discriminator()), "{arm}");
    }
}

/// Dice, normalised MAE and accuracy outside training.
fn scores(network: &dyn Network, slices: &Slices) -> (f64, f64, f64) {
    let outputs = tch::no_grad(|| network.forward(&slices.x, false));
    let answer = outputs.seg.unwrap().ge(0.0).to_kind(Kind::Float);
    let per_slice = |t: Tensor| t.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float);
    let both = per_slice(&answer * &slices.mask);
    let dice = (both * 2.0 / (per_slice(answer) + per_slice(slices.mask.copy()))).mean(Kind::Float);
    let error = (outputs.curve.unwrap() - &slices.curve).abs().mean(Kind::Float);
    let right = outputs.cls.unwrap().argmax(1, false).eq_tensor(&slices.class).to_kind(Kind::Float);
    (dice.double_value(&[]), error.double_value(&[]), right.mean(Kind::Float).double_value(&[]))
}

/// Test 11 of MODEL.md section 6: Dice > 0.95, normalised MAE < 0.05, accuracy 1 within 1000 steps.
#[test]
fn eight_slices_can_be_learnt_by_heart() {
    // So small a network gains nothing from a second thread, and waiting for one on a busy machine takes seconds.
    tch::set_num_threads(1);
    let slices = Slices::new(8, false);
    let Trial { vs, network, vs_d, d, objective } = trial(Arm::MtiNet);
    let mut adam = nn::Adam::default().build(&vs, 1e-3).unwrap();
    let mut adam_d = nn::Adam::default().build(&vs_d, 1e-4).unwrap();
    let mut reached = (0.0, f64::INFINITY, 0.0);
    for step in 1..=1000 {
        let outputs = network.forward(&slices.x, true);
        adam_d.backward_step(&discriminator_loss(&d, &outputs, &slices.targets()).unwrap());
        let terms = objective.generator_loss(&outputs, &slices.targets(), &slices.x, Some(&d));
        adam.backward_step(&terms.total);
        if step % 25 == 0 {
            reached = scores(network.as_ref(), &slices);
            if reached.0 > 0.95 && reached.1 < 0.05 && reached.2 == 1.0 {
                println!("learnt after {step} steps: {reached:?}");
                return;
            }
        }
    }
    panic!("Dice, MAE, accuracy after 1000 steps: {reached:?}");
}
