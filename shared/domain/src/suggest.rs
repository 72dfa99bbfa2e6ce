//! What a person may have meant by a name that is none.

/// The name closest to what was asked for, where one is close.
pub fn closest<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tidy = asked.trim().to_lowercase().replace(['_', ' '], "-");
    let nearest =
        names.into_iter().map(|name| (strsim::osa_distance(&name.to_lowercase(), &tidy), name)).min()?;
    Some(nearest).filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4).map(|(_, name)| name)
}

/// A question to end a sentence with, e.g. ", did you mean `unet`?"; empty where no name is close.
pub fn did_you_mean<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    closest(asked, names).map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_close_is_suggested() {
        let names = ["ablation", "ablation-2", "Paper"];
        assert_eq!(closest("ablatoin", names), Some("ablation"));
        assert_eq!(closest("paper", names), Some("Paper"));
        assert_eq!(closest("ablation_2", names), Some("ablation-2"));
        assert_eq!(closest("liver", names), None);
        assert_eq!(closest("x", []), None);
        assert_eq!(did_you_mean("Papr", names), ", did you mean `Paper`?");
    }
}
