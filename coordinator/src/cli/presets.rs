//! `mtinet study init`: commented study files to start from. Each is a real file that the parser reads in a test.

use super::args::{InitArgs, Preset};

const SMOKE: &str = include_str!("presets/smoke.toml");
const PAPER: &str = include_str!("presets/paper.toml");
const ABLATION: &str = include_str!("presets/ablation.toml");
const SYNERGY: &str = include_str!("presets/synergy.toml");
const BASELINES: &str = include_str!("presets/baselines.toml");

/// The study file's text.
pub fn study_file(args: &InitArgs) -> String {
    let template = match args.preset {
        Preset::Smoke => SMOKE,
        Preset::Paper => PAPER,
        Preset::Ablation => ABLATION,
        Preset::Synergy => SYNERGY,
        Preset::Baselines => BASELINES,
    };
    template.replace("@DATASET@", &toml::Value::String(args.dataset.clone()).to_string())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use mtinet_domain::model::Preset as Size;
    use mtinet_domain::{Arm, StudySpec};

    use super::*;

    fn parse(preset: Preset, dataset: &str) -> StudySpec {
        let text = study_file(&InitArgs { preset, dataset: dataset.to_owned() });
        StudySpec::from_toml(&text).unwrap_or_else(|error| panic!("{preset:?}: {error}\n{text}"))
    }

    fn names(spec: &StudySpec) -> Vec<&'static str> {
        spec.arms.iter().map(|arm| arm.name()).collect()
    }

    #[test]
    fn every_preset_is_a_valid_study_of_five_folds() {
        let trials =
            [(Preset::Smoke, 10), (Preset::Paper, 110), (Preset::Ablation, 30), (Preset::Synergy, 20)];
        let trials = trials.into_iter().chain([(Preset::Baselines, 70)]);
        assert_eq!(trials.clone().count(), Preset::value_variants().len());
        for (preset, trials) in trials {
            let spec = parse(preset, "data/liver");
            assert_eq!(spec.dataset, "data/liver");
            assert_eq!((spec.trials().len(), spec.folds.indices().len()), (trials, 5), "{preset:?}");
            assert_eq!(spec.train.eval_every, 0, "{preset:?}: nothing is chosen on a held-out fold");
            let name = preset.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(Some(&spec.name), name.as_ref());
        }
    }

    #[test]
    fn a_directory_with_quotes_stays_one_string() {
        let odd = r#"data/"a" \ b's"#;
        assert_eq!(parse(Preset::Smoke, odd).dataset, odd);
    }

    #[test]
    fn the_paper_is_the_papers() {
        let spec = parse(Preset::Paper, "d");
        assert_eq!(spec.arms, Arm::ALL);
        assert_eq!((spec.train.epochs, spec.train.batch_size, spec.train.image_size), (Some(100), 1, 256));
        assert_eq!((spec.train.learning_rate, spec.model.preset), (1e-4, Size::Paper));
    }

    #[test]
    fn the_papers_tables_have_their_arms_at_one_batch_size() {
        let (ablation, synergy) = (parse(Preset::Ablation, "d"), parse(Preset::Synergy, "d"));
        assert_eq!(names(&ablation), ["mti-net", "no-mdief", "no-spe", "no-spa", "no-tim", "no-tdd"]);
        assert_eq!(names(&synergy), ["seg-only", "seg-reg", "seg-cls", "mti-net"]);
        let baselines = parse(Preset::Baselines, "d");
        let expected: Vec<Arm> =
            Arm::ALL.iter().copied().filter(|arm| *arm == Arm::MtiNet || !arm.is_mti()).collect();
        assert_eq!(baselines.arms, expected);
        // They can be read beside each other only where nothing but the arms differs.
        for other in [&synergy, &baselines] {
            assert_eq!((&other.train, &other.model), (&ablation.train, &ablation.model));
        }
        assert_eq!((ablation.train.batch_size, ablation.train.epochs), (8, Some(100)));
    }
}
