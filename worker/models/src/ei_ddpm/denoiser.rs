//! The denoiser of one phase: a U-Net with residual blocks that knows the noise level (MODEL.md 4.4).

use tch::{Kind, Tensor, nn};

use crate::{
    init::Bias,
    layers::{Conv2d, ConvSpec, GroupNorm, Linear},
};

/// Widths of the four scales, in units of the base.
const MULTIPLES: [i64; 4] = [1, 2, 4, 8];
const GROUPS: i64 = 8;
const HEADS: i64 = 4;

/// Answers a noisy mask and an image with features, from which the noise and the evidence are read.
#[derive(Debug)]
pub(super) struct Denoiser {
    base: i64,
    time: [Linear; 2],
    conv_in: Conv2d,
    /// Finest first; each but the last halves the map.
    down: Vec<(Residual, Option<Conv2d>)>,
    mid: (Residual, Attention, Residual),
    /// Coarsest first; each but the last doubles the map.
    up: Vec<(Residual, Option<Conv2d>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    evid: Conv2d,
}

impl Denoiser {
    pub(super) fn new(vs: &nn::Path, base: i64) -> Self {
        let temb = 4 * base;
        let time = [(0, base), (2, temb)].map(|(i, inputs)| Linear::new(&(vs / "time" / i), inputs, temb));
        let conv_in = Conv2d::new(&(vs / "conv_in"), 2, base, 3, true);
        let mut width = base;
        let down = MULTIPLES.iter().enumerate().map(|(i, multiple)| {
            let (vs, outputs) = (vs / format!("down{i}"), base * multiple);
            let res = Residual::new(&(&vs / "res"), std::mem::replace(&mut width, outputs), outputs, temb);
            let half = ConvSpec { stride: 2, bias: Bias::Uniform, ..ConvSpec::same(3) };
            let ds = (i + 1 < MULTIPLES.len()).then(|| Conv2d::with(&(&vs / "ds"), outputs, outputs, half));
            (res, ds)
        });
        let down = down.collect();
        let mid = vs / "mid";
        let res = |name: &str| Residual::new(&(&mid / name), width, width, temb);
        let first = res("res1");
        let mid = (first, Attention::new(&(&mid / "attn"), width), res("res2"));
        let up = MULTIPLES.iter().enumerate().rev().map(|(i, multiple)| {
            let (vs, outputs) = (vs / format!("up{i}"), base * multiple);
            let inputs = std::mem::replace(&mut width, outputs) + outputs;
            let res = Residual::new(&(&vs / "res"), inputs, outputs, temb);
            (res, (i > 0).then(|| Conv2d::new(&(&vs / "us"), outputs, outputs, 3, true)))
        });
        let up = up.collect();
        Self {
            base,
            time,
            conv_in,
            down,
            mid,
            up,
            norm_out: group_norm(&(vs / "norm_out"), base),
            conv_out: Conv2d::new(&(vs / "conv_out"), base, 1, 3, true),
            evid: Conv2d::new(&(vs / "evid"), base, 2, 1, true),
        }
    }

    /// A noisy mask and an image, both [N, 1, H, W], at noise levels `t` [N] to features [N, base, H, W].
    pub(super) fn features(&self, noisy: &Tensor, image: &Tensor, t: &Tensor) -> Tensor {
        let [first, second] = &self.time;
        // Every residual block starts with this SiLU.
        let temb = second.forward(&first.forward(&sinusoid(t, self.base)).silu()).silu();
        let mut h = self.conv_in.forward(&Tensor::cat(&[noisy, image], 1));
        let mut skips = Vec::with_capacity(self.down.len());
        for (res, ds) in &self.down {
            h = res.forward(&h, &temb);
            let next = ds.as_ref().map_or_else(|| h.shallow_clone(), |ds| ds.forward(&h));
            skips.push(std::mem::replace(&mut h, next));
        }
        let (res1, attention, res2) = &self.mid;
        h = res2.forward(&attention.forward(&res1.forward(&h, &temb)), &temb);
        for ((res, us), skip) in self.up.iter().zip(skips.iter().rev()) {
            h = res.forward(&Tensor::cat(&[&h, skip], 1), &temb);
            if let Some(us) = us {
                let (height, width) = (h.size()[2], h.size()[3]);
                h = us.forward(&h.upsample_nearest2d([2 * height, 2 * width], None, None));
            }
        }
        self.norm_out.forward(&h).silu()
    }

    /// Features to the noise in the mask [N, 1, H, W].
    pub(super) fn noise(&self, features: &Tensor) -> Tensor {
        self.conv_out.forward(features)
    }

    /// Features to the two values per pixel that are compared with the prototypes [N, 2, H, W].
    pub(super) fn evidence(&self, features: &Tensor) -> Tensor {
        self.evid.forward(features)
    }
}

/// Noise levels [N] to sines and cosines [N, width].
fn sinusoid(t: &Tensor, width: i64) -> Tensor {
    let half = width / 2;
    let frequencies: Vec<f32> = (0..half).map(|i| 1e4_f64.powf(-(i as f64) / half as f64) as f32).collect();
    let frequencies = Tensor::from_slice(&frequencies).to_device(t.device());
    let angle = t.to_kind(Kind::Float).unsqueeze(1) * frequencies.unsqueeze(0);
    Tensor::cat(&[angle.sin(), angle.cos()], 1)
}

fn group_norm(vs: &nn::Path, channels: i64) -> GroupNorm {
    GroupNorm::new(vs, GROUPS, channels, 1e-5)
}

/// Two convolutions with the noise level added between them.
#[derive(Debug)]
struct Residual {
    norm1: GroupNorm,
    conv1: Conv2d,
    temb: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    skip: Option<Conv2d>,
}

impl Residual {
    fn new(vs: &nn::Path, inputs: i64, outputs: i64, temb: i64) -> Self {
        Self {
            norm1: group_norm(&(vs / "norm1"), inputs),
            conv1: Conv2d::new(&(vs / "conv1"), inputs, outputs, 3, true),
            temb: Linear::new(&(vs / "temb"), temb, outputs),
            norm2: group_norm(&(vs / "norm2"), outputs),
            conv2: Conv2d::new(&(vs / "conv2"), outputs, outputs, 3, true),
            skip: (inputs != outputs).then(|| Conv2d::new(&(vs / "skip"), inputs, outputs, 1, true)),
        }
    }

    /// `temb` is the embedded noise level after its SiLU.
    fn forward(&self, x: &Tensor, temb: &Tensor) -> Tensor {
        let level = self.temb.forward(temb).unsqueeze(-1).unsqueeze(-1);
        let h = self.conv1.forward(&self.norm1.forward(x).silu()) + level;
        let h = self.conv2.forward(&self.norm2.forward(&h).silu());
        match &self.skip {
            Some(skip) => skip.forward(x) + h,
            None => x + h,
        }
    }
}

/// Self-attention over the pixels of a map, with a residual.
#[derive(Debug)]
struct Attention {
    norm: GroupNorm,
    qkv: Conv2d,
    proj: Conv2d,
}

impl Attention {
    fn new(vs: &nn::Path, width: i64) -> Self {
        Self {
            norm: group_norm(&(vs / "norm"), width),
            qkv: Conv2d::new(&(vs / "qkv"), width, 3 * width, 1, true),
            proj: Conv2d::new(&(vs / "proj"), width, width, 1, true),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let heads = self.qkv.forward(&self.norm.forward(x)).flatten(2, 3).chunk(3, 1);
        // [N, C, pixels] to [N, heads, pixels, C / heads].
        let [q, k, v] =
            [0, 1, 2].map(|i: usize| heads[i].unflatten(1, [HEADS, -1]).transpose(2, 3).contiguous());
        let y = Tensor::scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, false, None, false);
        let y = y.transpose(2, 3).flatten(1, 2).view_as(x);
        x + self.proj.forward(&y)
    }
}
