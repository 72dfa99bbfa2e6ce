//! Where traces go, as OpenTelemetry's standard variables say.

use std::env;

/// Where traces go; that for traces alone wins.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The collector's address with the variable that names it; none where traces are not wanted.
pub fn endpoint() -> Option<(&'static str, String)> {
    endpoint_of(|name| env::var(name).ok())
}

fn endpoint_of(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    let is = |name, word: &str| variable(name).is_some_and(|value| value.trim().eq_ignore_ascii_case(word));
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    ENDPOINTS.iter().find_map(|name| {
        let value = variable(name)?.trim().to_owned();
        (!value.is_empty()).then_some((*name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<(&'static str, String)> {
        endpoint_of(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_variable_for_traces_wins_and_an_empty_one_is_none() {
        let (both, traces) = (
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:2"),
        );
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[both]).unwrap(), (both.0, both.1.to_owned()));
        assert_eq!(found(&[both, traces]).unwrap(), (traces.0, traces.1.to_owned()));
        assert_eq!(found(&[(both.0, " ")]), None);
    }

    #[test]
    fn what_is_switched_off_goes_nowhere() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1");
        assert_eq!(found(&[endpoint, ("OTEL_SDK_DISABLED", "True")]), None);
        assert_eq!(found(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert!(
            found(&[endpoint, ("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "otlp")]).is_some()
        );
    }
}
