//! Presets and the knobs that have a few named values (MODEL.md 3.16). The first value of each is its default.

use serde::{Deserialize, Serialize};

/// Sizes of the MTI-Net family (MODEL.md 3): all channel numbers follow from the preset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Encoder 64-512: faithful runs.
    #[default]
    Paper,
    /// Encoder 32-256: sweeps.
    Fast,
    /// Encoder 16-128: smoke runs on a CPU.
    Small,
    /// Encoder 4-16, meant for 64 x 64 images: tests.
    Tiny64,
}

impl Preset {
    /// Encoder and decoder channels, block 1 to 4.
    pub const fn channels(self) -> ([usize; 4], [usize; 4]) {
        match self {
            Preset::Paper => ([64, 128, 256, 512], [256, 128, 64, 32]),
            Preset::Fast => ([32, 64, 128, 256], [128, 64, 32, 16]),
            Preset::Small => ([16, 32, 64, 128], [64, 32, 16, 16]),
            Preset::Tiny64 => ([4, 8, 8, 16], [16, 8, 8, 8]),
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "paper" => Ok(Self::Paper),
            "fast" => Ok(Self::Fast),
            "small" => Ok(Self::Small),
            "tiny64" => Ok(Self::Tiny64),
            _ => Err(format!("there is no preset `{name}`: use paper, fast, small or tiny64")),
        }
    }
}

macro_rules! knob {
    ($(#[$doc:meta])* $name:ident { $first:ident : $first_doc:literal, $($other:ident : $other_doc:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            #[doc = $first_doc]
            #[default]
            $first,
            $(#[doc = $other_doc] $other),+
        }
    };
}

knob! {
    /// Whether the four phases share encoder weights (MODEL.md 3.1).
    EncoderSharing { Shared: "One encoder; phases are folded into the batch.", PerPhase: "Four encoders." }
}
knob! {
    /// Shape of the high-pass filter (MODEL.md 3.4).
    HighPass {
        Gaussian: "1 - exp(-D^2 / (2 D0^2)).",
        Ideal: "1 where D > D0, otherwise 0.",
        Butterworth: "Order 2.",
    }
}
knob! {
    /// What the spectral branch sees (MODEL.md 3.4).
    SpectralRepr { Ifft: "The high-passed image.", Logmag: "The log-magnitude of the filtered spectrum." }
}
knob! {
    /// Where spectral features come from (MODEL.md 3.3). In studies: `own`, `feature_fft`, `pool1x1`.
    SpeEncoder {
        Own: "A second encoder of the same shape.",
        FeatureFft: "The spatial features, high-passed; no parameters.",
        Pool1x1: "The pooled image spectrum and a 1 x 1 convolution.",
    }
}
knob! {
    /// Channel weights of MdIEF (MODEL.md 3.5).
    MdiefWeight { Eq1: "Softmax of the channel means.", Shannon: "Softmax of the spatial entropies." }
}
knob! {
    /// Levels at which MdIEF fuses (MODEL.md 3.5).
    MdiefLevels { Last: "The last encoder block.", All: "All four blocks; needs `skip = \"add1x1\"`." }
}
knob! {
    /// Skip connections into the decoder (MODEL.md 3.6).
    Skip { None: "None, as the paper's text.", Add1x1: "Fused maps, projected and added." }
}
knob! {
    /// Position encoding of the transformer (MODEL.md 3.16, row 16).
    Pos { Learned: "A parameter.", Sincos: "Fixed sine and cosine." }
}
knob! {
    /// How tokens are pooled before the two heads (MODEL.md 3.7).
    TokenPool {
        Phase: "Mean over the channels of each phase.",
        Mean: "Mean over all tokens.",
        Gap: "Mean over the positions of each token; needs `final_norm = false`.",
    }
}
knob! {
    /// The mask that TIM averages under (MODEL.md 3.8).
    TimMask { Soft: "Probabilities.", Ste: "Probabilities rounded, with a straight-through gradient." }
}
knob! {
    /// Sign convention of the adversarial loss (MODEL.md 3.10).
    AdvMode { NonSaturating: "BCE(D(fake), 1).", Saturating: "-BCE(D(fake), 0)." }
}
knob! {
    /// How the absolute error of a curve is reduced over phases (MODEL.md 3.9).
    RegReduce { Mean: "Mean over phases.", Sum: "Sum over phases." }
}
knob! {
    /// What is regressed (MODEL.md 3.9).
    RegTarget { Tic4: "The four mean intensities.", Map: "The intensity of every pixel inside the mask." }
}
knob! {
    /// The reading of the ablation "No MdIEF" (MODEL.md 3.13).
    NoMdiefMode { Plain: "Spatial features alone.", Concat: "Both branches, concatenated." }
}
knob! {
    /// Statistics that batch normalisation uses outside training (MODEL.md 3.12, H1).
    BnEval { Running: "The running averages.", Batch: "Those of the batch at hand." }
}
