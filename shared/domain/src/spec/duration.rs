//! Durations as people write them: `60s`, `5m`, `1h`, or a plain number of seconds.

use serde::{Deserialize, Serialize};

/// A duration in seconds, not negative.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

impl Seconds {
    /// As the standard library's type.
    pub fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.0)
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let factor = match &text[split..] {
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        Self::checked(text[..split].trim().parse::<f64>().ok()? * factor)
    }

    fn checked(seconds: f64) -> Option<Self> {
        // A year: longer is a typing error, and would overflow deadlines further on.
        (0.0..=31_536_000.0).contains(&seconds).then_some(Self(seconds))
    }
}

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}s", self.0))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration such as \"60s\", \"5m\" or \"1h\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Seconds, E> {
                Seconds::parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Seconds, E> {
                Seconds::checked(value)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Float(value), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Seconds, E> {
                self.visit_f64(value as f64)
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Seconds, E> {
                self.visit_f64(value as f64)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in
            [("60s", 60.0), ("5m", 300.0), ("1h", 3600.0), ("250ms", 0.25), ("7", 7.0), ("1.5 h", 5400.0)]
        {
            assert_eq!(Seconds::parse(text), Some(Seconds(seconds)), "{text}");
        }
        for bad in ["", "-1s", "soon", "1 fortnight", "nan", "inf", "9999999h"] {
            assert_eq!(Seconds::parse(bad), None, "{bad}");
        }
    }
}
