//! `mtinet study init`: commented study files to start from. Each is a real file that the parser reads in a test.

use mtinet_domain::Arm;

use super::args::{InitArgs, Preset};

const SMOKE: &str = include_str!("presets/smoke.toml");
const PAPER: &str = include_str!("presets/paper.toml");

/// The study file's text.
pub fn study_file(args: &InitArgs) -> String {
    let template = match args.preset {
        Preset::Smoke => SMOKE,
        Preset::Paper => PAPER,
    };
    let arms: Vec<String> = Arm::ALL.iter().map(|arm| format!("  \"{arm}\",")).collect();
    template
        .replace("@DATASET@", &toml::Value::String(args.dataset.clone()).to_string())
        .replace("@ARMS@", &arms.join("\n"))
}

#[cfg(test)]
mod tests {
    use mtinet_domain::StudySpec;
    use mtinet_domain::model::Preset as Size;

    use super::*;

    fn parse(preset: Preset, dataset: &str) -> StudySpec {
        let text = study_file(&InitArgs { preset, dataset: dataset.to_owned() });
        StudySpec::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn every_preset_is_a_valid_study() {
        for preset in [Preset::Smoke, Preset::Paper] {
            assert_eq!(parse(preset, "data/liver").dataset, "data/liver");
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
        assert_eq!((spec.train.learning_rate, spec.folds.indices().len()), (1e-4, 5));
        assert_eq!(spec.model.preset, Size::Paper);
    }
}
