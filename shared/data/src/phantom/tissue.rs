//! The tissues of MODEL.md 9.2 and what they measure in each phase.

use super::kinetics::{Inputs, Perfusion, R1_BLOOD, R1_PLASMA, Spin};

/// Seconds after aortic arrival of the contrast phases: arterial, portal venous, delayed.
pub(crate) type Times = [f64; 3];

/// Times without jitter.
pub(crate) const REFERENCE_TIMES: Times = [16.0, 53.0, 166.0];

/// Raw intensity before contrast and in the three contrast phases.
pub(crate) type Signals = [f32; 4];

/// What a sub-pixel consists of. The discriminants index [`table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tissue {
    Air,
    Liver,
    CirrhoticLiver,
    Aorta,
    PortalVein,
    HepaticVein,
    Spleen,
    KidneyCortex,
    KidneyMedulla,
    Muscle,
    Pancreas,
    Marrow,
    Fat,
    Fluid,
    /// Has its own signals, pixel by pixel.
    Lesion,
}

impl Tissue {
    pub(crate) const ALL: [Self; 15] = [
        Self::Air,
        Self::Liver,
        Self::CirrhoticLiver,
        Self::Aorta,
        Self::PortalVein,
        Self::HepaticVein,
        Self::Spleen,
        Self::KidneyCortex,
        Self::KidneyMedulla,
        Self::Muscle,
        Self::Pancreas,
        Self::Marrow,
        Self::Fat,
        Self::Fluid,
        Self::Lesion,
    ];

    /// Liver parenchyma and the veins in it: where a lesion may grow.
    pub(crate) fn is_hepatic(self) -> bool {
        matches!(self, Self::Liver | Self::CirrhoticLiver | Self::PortalVein | Self::HepaticVein)
    }
}

/// Signals of every tissue at these times; air and lesions are zero.
pub(crate) fn table(times: Times) -> [Signals; Tissue::ALL.len()] {
    Tissue::ALL.map(|tissue| signals(tissue, times))
}

fn signals(tissue: Tissue, times: Times) -> Signals {
    let inputs = Inputs::get();
    let perfused = |pd: f64, t1: f64, flow: f64, arterial: f64, volume: f64, t2_star: f64| {
        tissue_signals(Spin { pd, t1, t2_star }, Perfusion { flow, arterial, volume }, times)
    };
    let blood = |t1: f64, curve: &super::kinetics::Curve| {
        curve_signals(Spin { pd: 0.85, t1, t2_star: 0.020 }, times.map(|t| curve.at(t)), R1_BLOOD)
    };
    let inert = |pd: f64, t1: f64, t2_star: f64| curve_signals(Spin { pd, t1, t2_star }, [0.0; 3], R1_PLASMA);
    match tissue {
        Tissue::Air | Tissue::Lesion => [0.0; 4],
        Tissue::Liver => perfused(0.75, 0.809, 0.95, 0.18, 0.20, 0.020),
        Tissue::CirrhoticLiver => perfused(0.75, 0.850, 0.67, 0.41, 0.22, 0.020),
        Tissue::Aorta => blood(1.664, &inputs.arterial),
        Tissue::PortalVein => blood(1.584, &inputs.portal),
        Tissue::HepaticVein => blood(1.584, &inputs.hepatic),
        Tissue::Spleen => perfused(0.85, 1.328, 1.0, 1.0, 0.18, 0.020),
        Tissue::KidneyCortex => perfused(0.85, 1.142, 2.0, 1.0, 0.30, 0.020),
        Tissue::KidneyMedulla => perfused(0.85, 1.545, 0.4, 1.0, 0.30, 0.020),
        Tissue::Muscle => perfused(0.85, 0.898, 0.08, 1.0, 0.09, 0.025),
        Tissue::Pancreas => perfused(0.78, 0.725, 0.8, 1.0, 0.16, 0.020),
        Tissue::Marrow => perfused(0.50, 0.586, 0.2, 1.0, 0.10, 0.012),
        Tissue::Fat => inert(0.15, 0.382, 0.020),
        // MODEL.md gives the intensity (152) and not the T1, which follows from it.
        Tissue::Fluid => inert(1.0, 3.52, 0.100),
    }
}

/// Signals of a perfused tissue.
pub(crate) fn tissue_signals(spin: Spin, perfusion: Perfusion, times: Times) -> Signals {
    curve_signals(spin, perfusion.concentrations(times), R1_PLASMA)
}

/// Signals at the given concentrations.
pub(crate) fn curve_signals(spin: Spin, c: [f64; 3], r1: f64) -> Signals {
    [0.0, c[0], c[1], c[2]].map(|c| spin.signal(c, r1) as f32)
}
