//! Inception v3 (MODEL.md 5), named and initialised as in torchvision, without the auxiliary head unless asked for.
//!
//! Modules A to E are tables: each row is a convolution, as torchvision's `inception.py` writes it.

use mtinet_domain::model::{BnEval, ModelConfig};
use tch::{Tensor, nn};

use crate::{
    ImageShape,
    init::{Bias, Start},
    layers::{BatchNorm, Conv2d, ConvSpec, Linear, Resize, global_mean, max_pool3},
    network::Backbone,
};

const START: Start = Start::Normal(0.1);
const DROPOUT: f64 = 0.5;

/// The size that the auxiliary head is made for: its unpadded 5 x 5 convolution needs all of it.
const AUXILIARY_SIZE: usize = 299;

/// The module whose maps the auxiliary head reads: Mixed_6e.
const AUXILIARY_AFTER: usize = 7;

/// A stem of five convolutions, eleven modules, and a linear head.
#[derive(Debug)]
pub(crate) struct Inception3 {
    /// The convolutions, and whether a max-pooling follows.
    stem: Vec<(ConvBn, bool)>,
    modules: Vec<Module>,
    fc: Linear,
    /// The auxiliary head and the resizing of the images that it needs.
    auxiliary: Option<(Auxiliary, Resize)>,
}

impl Inception3 {
    /// `outputs` is the length of the answer. Images need at least 75 pixels along each side, unless they are resized
    /// for the auxiliary head.
    pub(crate) fn new(vs: &nn::Path, cfg: &ModelConfig, image: ImageShape, outputs: i64) -> Self {
        let (phases, eval) = (image.phases as i64, cfg.bn_eval);
        let stem = [
            ("Conv2d_1a_3x3", [phases, 32], Kernel::Strided, false),
            ("Conv2d_2a_3x3", [32, 32], Kernel::Valid, false),
            ("Conv2d_2b_3x3", [32, 64], Kernel::Same(3, 3), true),
            ("Conv2d_3b_1x1", [64, 80], Kernel::Same(1, 1), false),
            ("Conv2d_4a_3x3", [80, 192], Kernel::Valid, true),
        ];
        let conv = |(name, shape, kernel, pool)| (ConvBn::new(&(vs / name), shape, kernel, eval), pool);
        let stem = stem.into_iter().map(conv).collect();
        let tables = [
            ("Mixed_5b", module_a(32)),
            ("Mixed_5c", module_a(64)),
            ("Mixed_5d", module_a(64)),
            ("Mixed_6a", module_b()),
            ("Mixed_6b", module_c(128)),
            ("Mixed_6c", module_c(160)),
            ("Mixed_6d", module_c(160)),
            ("Mixed_6e", module_c(192)),
            ("Mixed_7a", module_d()),
            ("Mixed_7b", module_e()),
            ("Mixed_7c", module_e()),
        ];
        let mut channels = 192;
        let mut modules = Vec::with_capacity(tables.len());
        for (name, table) in tables {
            let (module, outputs) = Module::new(&(vs / name), channels, table, eval);
            modules.push(module);
            channels = outputs;
        }
        let fc = Linear::with(&(vs / "fc"), channels, outputs, START, Bias::Uniform);
        let auxiliary = cfg.inception_aux.then(|| {
            let resize = Resize::bilinear(image.size, AUXILIARY_SIZE, vs.device());
            (Auxiliary::new(&(vs / "AuxLogits"), outputs, eval), resize)
        });
        Self { stem, modules, fc, auxiliary }
    }
}

impl Backbone for Inception3 {
    fn answer(&self, x: &Tensor, train: bool) -> Tensor {
        self.answers(x, train).0
    }

    fn answers(&self, x: &Tensor, train: bool) -> (Tensor, Option<Tensor>) {
        let mut y =
            self.auxiliary.as_ref().map_or_else(|| x.shallow_clone(), |(_, resize)| resize.forward(x));
        for (conv, pool) in &self.stem {
            y = conv.forward(&y, train);
            if *pool {
                y = max_pool3(&y, 0);
            }
        }
        let mut auxiliary = None;
        for (i, module) in self.modules.iter().enumerate() {
            y = module.forward(&y, train);
            if let (AUXILIARY_AFTER, true, Some((head, _))) = (i, train, &self.auxiliary) {
                auxiliary = Some(head.forward(&y));
            }
        }
        (self.fc.forward(&global_mean(&y).dropout(DROPOUT, train)), auxiliary)
    }
}

/// A second head, half way, that helps the gradient along in training.
#[derive(Debug)]
struct Auxiliary {
    convs: [ConvBn; 2],
    fc: Linear,
}

impl Auxiliary {
    fn new(vs: &nn::Path, outputs: i64, eval: BnEval) -> Self {
        let wide = ConvSpec { start: Start::Normal(0.01), padding: [0, 0], ..ConvSpec::same(5) };
        let convs = [
            ConvBn::new(&(vs / "conv0"), [768, 128], Kernel::Same(1, 1), eval),
            ConvBn::with(&(vs / "conv1"), [128, 768], wide, eval),
        ];
        Self { convs, fc: Linear::with(&(vs / "fc"), 768, outputs, Start::Normal(0.001), Bias::Uniform) }
    }

    /// Maps [N, 768, 17, 17] in training to [N, outputs].
    fn forward(&self, x: &Tensor) -> Tensor {
        let pooled = x.avg_pool2d([5, 5], [3, 3], [0, 0], false, true, None);
        let y = self.convs.iter().fold(pooled, |y, conv| conv.forward(&y, true));
        self.fc.forward(&global_mean(&y))
    }
}

/// Kernels of Inception: all but two kinds keep the image's size.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    /// Height and width, padded.
    Same(i64, i64),
    /// 3 x 3, unpadded.
    Valid,
    /// 3 x 3, unpadded, stride 2.
    Strided,
}

/// Convolution without bias, batch normalisation with eps 1e-3, ReLU.
#[derive(Debug)]
struct ConvBn {
    conv: Conv2d,
    bn: BatchNorm,
}

impl ConvBn {
    fn new(vs: &nn::Path, [inputs, outputs]: [i64; 2], kernel: Kernel, eval: BnEval) -> Self {
        let base = ConvSpec { start: START, ..ConvSpec::same(3) };
        let spec = match kernel {
            Kernel::Same(h, w) => ConvSpec { kernel: [h, w], padding: [h / 2, w / 2], ..base },
            Kernel::Valid => ConvSpec { padding: [0, 0], ..base },
            Kernel::Strided => ConvSpec { padding: [0, 0], stride: 2, ..base },
        };
        Self::with(vs, [inputs, outputs], spec, eval)
    }

    fn with(vs: &nn::Path, [inputs, outputs]: [i64; 2], spec: ConvSpec, eval: BnEval) -> Self {
        let conv = Conv2d::with(&(vs / "conv"), inputs, outputs, spec);
        Self { conv, bn: BatchNorm::with_eps(&(vs / "bn"), outputs, eval, 1e-3) }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        self.bn.forward(&self.conv.forward(x), train).relu()
    }
}

/// What feeds a chain of convolutions.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The module's input.
    Input,
    /// The input, averaged over 3 x 3 pixels, the zeros around the image counted.
    Mean,
}

type Row = (&'static str, i64, Kernel);

/// A branch: a chain of convolutions, and perhaps several ends side by side.
struct Branch {
    source: Source,
    chain: Vec<Row>,
    ends: Vec<Row>,
}

/// Branches of one module, and whether the max-pooled input, at half the size, joins them.
struct Table {
    branches: Vec<Branch>,
    pooled: bool,
}

fn chain<const N: usize>(rows: [Row; N]) -> Branch {
    Branch { source: Source::Input, chain: rows.to_vec(), ends: Vec::new() }
}

fn split<const N: usize>(rows: [Row; N], ends: [Row; 2]) -> Branch {
    Branch { source: Source::Input, chain: rows.to_vec(), ends: ends.to_vec() }
}

fn mean(outputs: i64) -> Branch {
    Branch { source: Source::Mean, chain: vec![("branch_pool", outputs, P1)], ends: Vec::new() }
}

const P1: Kernel = Kernel::Same(1, 1);
const P3: Kernel = Kernel::Same(3, 3);
const ROW3: Kernel = Kernel::Same(1, 3);
const COLUMN3: Kernel = Kernel::Same(3, 1);
const ROW7: Kernel = Kernel::Same(1, 7);
const COLUMN7: Kernel = Kernel::Same(7, 1);

fn module_a(pool: i64) -> Table {
    let branches = vec![
        chain([("branch1x1", 64, P1)]),
        chain([("branch5x5_1", 48, P1), ("branch5x5_2", 64, Kernel::Same(5, 5))]),
        chain([("branch3x3dbl_1", 64, P1), ("branch3x3dbl_2", 96, P3), ("branch3x3dbl_3", 96, P3)]),
        mean(pool),
    ];
    Table { branches, pooled: false }
}

fn module_b() -> Table {
    let branches = vec![
        chain([("branch3x3", 384, Kernel::Strided)]),
        chain([
            ("branch3x3dbl_1", 64, P1),
            ("branch3x3dbl_2", 96, P3),
            ("branch3x3dbl_3", 96, Kernel::Strided),
        ]),
    ];
    Table { branches, pooled: true }
}

fn module_c(c: i64) -> Table {
    let branches = vec![
        chain([("branch1x1", 192, P1)]),
        chain([("branch7x7_1", c, P1), ("branch7x7_2", c, ROW7), ("branch7x7_3", 192, COLUMN7)]),
        chain([
            ("branch7x7dbl_1", c, P1),
            ("branch7x7dbl_2", c, COLUMN7),
            ("branch7x7dbl_3", c, ROW7),
            ("branch7x7dbl_4", c, COLUMN7),
            ("branch7x7dbl_5", 192, ROW7),
        ]),
        mean(192),
    ];
    Table { branches, pooled: false }
}

fn module_d() -> Table {
    let branches = vec![
        chain([("branch3x3_1", 192, P1), ("branch3x3_2", 320, Kernel::Strided)]),
        chain([
            ("branch7x7x3_1", 192, P1),
            ("branch7x7x3_2", 192, ROW7),
            ("branch7x7x3_3", 192, COLUMN7),
            ("branch7x7x3_4", 192, Kernel::Strided),
        ]),
    ];
    Table { branches, pooled: true }
}

fn module_e() -> Table {
    let branches = vec![
        chain([("branch1x1", 320, P1)]),
        split([("branch3x3_1", 384, P1)], [("branch3x3_2a", 384, ROW3), ("branch3x3_2b", 384, COLUMN3)]),
        split(
            [("branch3x3dbl_1", 448, P1), ("branch3x3dbl_2", 384, P3)],
            [("branch3x3dbl_3a", 384, ROW3), ("branch3x3dbl_3b", 384, COLUMN3)],
        ),
        mean(192),
    ];
    Table { branches, pooled: false }
}

/// A built branch: source, chain and ends.
#[derive(Debug)]
struct BuiltBranch {
    source: Source,
    chain: Vec<ConvBn>,
    ends: Vec<ConvBn>,
}

#[derive(Debug)]
struct Module {
    branches: Vec<BuiltBranch>,
    pooled: bool,
}

impl Module {
    /// The module and its number of output channels.
    fn new(vs: &nn::Path, inputs: i64, table: Table, eval: BnEval) -> (Self, i64) {
        let Table { branches, pooled } = table;
        let mut outputs = if pooled { inputs } else { 0 };
        let build = |branch: Branch| {
            let conv = |inputs, (name, outputs, kernel): Row| {
                ConvBn::new(&(vs / name), [inputs, outputs], kernel, eval)
            };
            let mut width = inputs;
            let chain =
                branch.chain.into_iter().map(|row| conv(std::mem::replace(&mut width, row.1), row)).collect();
            outputs += if branch.ends.is_empty() { width } else { branch.ends.iter().map(|row| row.1).sum() };
            let ends = branch.ends.into_iter().map(|row| conv(width, row)).collect();
            BuiltBranch { source: branch.source, chain, ends }
        };
        let branches = branches.into_iter().map(build).collect();
        (Self { branches, pooled }, outputs)
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let mut maps = Vec::with_capacity(6);
        for BuiltBranch { source, chain, ends } in &self.branches {
            let y = match source {
                Source::Input => x.shallow_clone(),
                Source::Mean => x.avg_pool2d([3, 3], [1, 1], [1, 1], false, true, None),
            };
            let y = chain.iter().fold(y, |y, conv| conv.forward(&y, train));
            if ends.is_empty() {
                maps.push(y);
            } else {
                maps.extend(ends.iter().map(|conv| conv.forward(&y, train)));
            }
        }
        if self.pooled {
            maps.push(max_pool3(x, 0));
        }
        Tensor::cat(&maps, 1)
    }
}
