//! Figures and facts as people read them.

use mtinet_domain::trial::{AttemptEnd, Placement};

/// A loss or a metric in at most six characters, with as many digits as say something.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => value.to_string(),
        0.0 => "0".to_owned(),
        _ if !(1e-3..1e6).contains(&size) => format!("{value:.0e}"),
        _ if size >= 1000.0 => format!("{value:.0}"),
        _ if size >= 100.0 => format!("{value:.1}"),
        _ if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A metric of a fold: percentages and intensities with two digits, as the report has them.
pub fn figure(value: f64) -> String {
    format!("{value:.2}")
}

/// Seconds in few characters: `45 s`, `12 min`, `3 h 05`, `2 d 7 h`.
pub fn short_span(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {:02}", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The time of a step: `81 ms`, `1.35 s`.
pub fn step_time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.0995 => format!("{:.1} ms", seconds * 1000.0),
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds * 1000.0),
        _ => format!("{seconds:.2} s"),
    }
}

/// How an attempt ended, in one line.
pub fn end_words(end: &AttemptEnd) -> String {
    match end {
        AttemptEnd::Completed => "completed".to_owned(),
        AttemptEnd::Failed(cause) => {
            let step = cause.step.map(|step| format!(" at step {step}")).unwrap_or_default();
            format!("failed ({}{step}): {}", cause.exit, one_line(&cause.message))
        }
        AttemptEnd::WorkerLost { reason, .. } => format!("lost a worker: {}", one_line(reason)),
        AttemptEnd::Cancelled => "cancelled".to_owned(),
        AttemptEnd::Paused => "stopped: it was paused".to_owned(),
        AttemptEnd::Drained { worker } => format!("stopped: worker {worker} was drained"),
        AttemptEnd::Unfit { worker, cause } => {
            format!("failed, put down to worker {worker} ({}): {}", cause.exit, one_line(&cause.message))
        }
        AttemptEnd::Widened => "stopped to go on with more ranks".to_owned(),
    }
}

/// Where an attempt's ranks run: `cpu` or `4 ranks on cuda:0-3`.
pub fn ranks_words(placements: &[Placement]) -> String {
    let mut devices: Vec<String> = placements.iter().map(|place| place.device.to_string()).collect();
    devices.dedup();
    match (placements.len(), devices.len()) {
        (0, _) => "no rank".to_owned(),
        (1, _) => devices.concat(),
        (ranks, 0..=4) => format!("{ranks} ranks on {}", devices.join(", ")),
        (ranks, _) => format!("{ranks} ranks on {} to {}", devices[0], devices[devices.len() - 1]),
    }
}

/// Text with every run of white space and control characters as one space: nothing in it can move a cursor.
pub fn one_line(text: &str) -> String {
    let is_gap = |c: char| c.is_whitespace() || c.is_control();
    text.split(is_gap).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_digits_that_say_something() {
        let cases = [
            (0.0, "0"),
            (0.41234, "0.412"),
            (12.345, "12.35"),
            (79.03, "79.03"),
            (149.65, "149.7"),
            (12345.6, "12346"),
        ];
        for (value, words) in cases {
            assert_eq!(number(value), words);
        }
        assert_eq!((number(1e-4), number(f64::NAN)), ("1e-4".to_owned(), "NaN".to_owned()));
    }

    #[test]
    fn spans_and_step_times_are_short() {
        assert_eq!([59.4, 200.0, 7500.0, 200_000.0].map(short_span), ["59 s", "3 min", "2 h 05", "2 d 7 h"]);
        assert_eq!([0.0123, 0.0814, 0.35, 1.352].map(step_time), ["12.3 ms", "81.4 ms", "350 ms", "1.35 s"]);
    }

    #[test]
    fn what_a_trainer_wrote_cannot_move_the_cursor() {
        assert_eq!(one_line("a\u{1b}[2J\n  b\tc\r\n"), "a [2J b c");
    }
}
