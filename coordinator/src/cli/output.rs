//! Answers on standard output, words on standard error. A reader that goes away (`| head`) is no error.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;
use tokio::sync::mpsc;

/// Where words go while the terminal is a dashboard's.
static HELD: Mutex<Option<mpsc::UnboundedSender<String>>> = Mutex::new(None);

/// Prints an answer and a line feed.
pub fn print(answer: impl Display) {
    print_raw(format_args!("{answer}\n"));
}

/// Prints an answer as it is.
pub fn print_raw(answer: impl Display) {
    let mut out = std::io::stdout().lock();
    // A closed pipe means that nobody wants the rest; there is nobody to tell either.
    let _ = write!(out, "{answer}").and_then(|()| out.flush());
}

/// Prints the one JSON document of `--json`.
pub fn print_json(document: &Value) {
    print(format_args!("{document:#}"));
}

/// Says something to a person.
pub fn say(words: impl Display) {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(held) = &*held
        && held.send(words.to_string()).is_ok()
    {
        return;
    }
    drop(held);
    let _ = writeln!(std::io::stderr().lock(), "{words}");
}

/// Words that were said while the terminal was a dashboard's; they are said again when this is dropped.
#[derive(Debug)]
pub struct Held {
    said: mpsc::UnboundedReceiver<String>,
    told: Vec<String>,
}

/// Holds back what is said, until the answer is dropped.
pub fn hold() -> Held {
    let (held, said) = mpsc::unbounded_channel();
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    Held { said, told: Vec::new() }
}

impl Held {
    /// The next words, for the dashboard to show.
    pub async fn said(&mut self) -> String {
        match self.said.recv().await {
            Some(words) => {
                self.told.push(words.clone());
                words
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = None;
        while let Ok(words) = self.said.try_recv() {
            self.told.push(words);
        }
        self.told.drain(..).for_each(say);
    }
}

/// A table for people.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table
}

/// Milliseconds since the Unix epoch as a time in UTC.
pub fn utc(milliseconds: u64) -> String {
    i64::try_from(milliseconds).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map_or_else(
        || format!("{milliseconds} ms"),
        |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

/// A span as a person says it: `45 s`, `3 min 20 s`, `2 h 05 min`.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn words_are_held_while_a_dashboard_is_shown_and_lost_never() {
        let mut held = hold();
        say("first");
        say("second");
        assert_eq!(held.said().await, "first");
        assert_eq!(held.told, ["first"]);
        drop(held);
        assert!(HELD.lock().unwrap().is_none(), "what is said next goes to the person again");
    }

    #[test]
    fn spans_read_as_people_say_them() {
        assert_eq!(span(-1.0), "0 s");
        assert_eq!(span(59.4), "59 s");
        assert_eq!(span(200.0), "3 min 20 s");
        assert_eq!(span(7500.0), "2 h 05 min");
    }

    #[test]
    fn a_table_fits_a_narrow_terminal_whatever_the_names() {
        let long = "a-worker-with-a-name-that-nobody-would-give.example.org";
        let row =
            vec![long, "liver-study-with-a-long-name", "ready, drained, set aside", "3 min 20 s ago", "0"];
        let row =
            row.into_iter().chain(["cuda:0", "study 12 md-ff/4/17 attempt 3 rank 7"]).map(str::to_owned);
        let mut table =
            table(&["Worker", "Name", "Status", "Last heard", "Slot", "Device", "Holds"], [row.collect()]);
        let text = table.set_width(80).to_string();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        // Nothing is cut off: it goes on in the next line.
        let column: String = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(column.contains("a-worker") && column.contains(".org"), "{text}");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(utc(1_700_000_000_000), "2023-11-14 22:13:20 UTC");
    }
}
