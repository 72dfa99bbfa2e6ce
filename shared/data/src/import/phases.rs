//! Names that people give to the phases.

/// The phase that a channel name stands for, if it is one of the known names.
///
/// Case, spaces, and the signs `-_.+/()` do not matter, nor do a leading `T1`, `T1W` or `MR` and a trailing `phase`.
#[must_use]
pub fn phase_of(name: &str) -> Option<&'static str> {
    let mut plain: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    if let Some(short) = plain.strip_suffix("phase") {
        plain = short.to_owned();
    }
    for prefix in ["mrit1", "mrt1", "t1w", "t1", "mr"] {
        if let Some(short) = plain.strip_prefix(prefix).filter(|s| !s.is_empty()) {
            plain = short.to_owned();
            break;
        }
    }
    TABLE.iter().find(|(_, names)| names.contains(&plain.as_str())).map(|(phase, _)| *phase)
}

/// All known names, for messages.
#[must_use]
pub fn synonyms() -> String {
    let line = |(phase, names): &(&str, &[&str])| format!("{phase} ({})", names.join(", "));
    TABLE.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// Hepatobiliary phases are left out on purpose: they are no delayed phase of an extracellular agent.
const TABLE: [(&str, &[&str]); 4] = [
    (
        "pre",
        &[
            "pre",
            "precontrast",
            "cpre",
            "native",
            "plain",
            "noncontrast",
            "unenhanced",
            "nc",
            "nativ",
            "prec",
        ],
    ),
    ("art", &["art", "arterial", "latearterial", "lateart", "ap", "ca", "a", "hap"]),
    ("pv", &["pv", "portal", "portalvenous", "portovenous", "venous", "ven", "pvp", "cv", "v", "vp"]),
    ("del", &["del", "delay", "delayed", "cdelay", "dp", "late", "equilibrium", "eq", "latevenous"]),
];
