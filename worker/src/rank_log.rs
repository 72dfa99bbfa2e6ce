//! A rank's log file: what its trainer writes there, and the agent's own lines between.
//!
//! The agent marks progress with lines that begin with `-- `, so that a log shows how training goes although trainers
//! write only what is out of the ordinary. Those lines are left out where the end of a log explains a failure.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mtinet_proto::v1::MetricRecord;
use mtinet_proto::v1::metric_record::Scope;

/// What a line of progress begins with.
const PROGRESS: &str = "-- ";

/// Lines of a log that a message repeats, and how far back they are looked for.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 8 << 10;

/// The file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RankLog(PathBuf);

impl RankLog {
    /// The log at a path, which is made when something is written.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        std::fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    /// Writes a warning of the agent's, where the log's reader looks.
    pub fn note(&self, line: &str) {
        self.write(&format!("mtinet-worker: {line}\n"));
    }

    /// Writes a line about how it goes, with the time.
    pub fn progress(&self, words: &str) {
        let now = humantime(SystemTime::now());
        self.write(&format!("{PROGRESS}{now} {words}\n"));
    }

    /// Writes what was measured over an epoch or on the held-out fold; of single steps nothing.
    pub fn measured(&self, record: &MetricRecord) {
        let scope = match record.scope() {
            Scope::Epoch => "epoch",
            Scope::HeldOut => "held-out fold after epoch",
            Scope::Step | Scope::Unspecified => return,
        };
        let mut values: Vec<_> = record.values.iter().collect();
        values.sort_unstable_by_key(|(name, _)| name.as_str());
        let values: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.progress(&format!("{scope} {}, step {}: {}", record.epoch, record.step, values.join(", ")));
    }

    /// The last lines, at most a few kilobytes, without those of progress; empty where there is none.
    pub fn tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = std::fs::File::open(&self.0)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<String> = text.lines().filter(|line| !line.starts_with(PROGRESS)).map(words).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n").trim().to_owned()
    }

    /// In one call, so that lines of the trainer's and ours do not mix.
    fn write(&self, line: &str) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.0);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            tracing::warn!(%error, log = %self.0.display(), "could not write the log");
        }
    }
}

/// What a line says: two failures are compared by their words, which must not differ by the time of a JSON line.
fn words(line: &str) -> String {
    let fields: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(line).ok();
    let spoken = fields
        .as_ref()
        .and_then(|fields| Some((fields.get("level")?.as_str()?, fields.get("message")?.as_str()?)));
    match spoken {
        Some(("ERROR", message)) => format!("error: {message}"),
        Some(("WARN", message)) => format!("warning: {message}"),
        Some((_, message)) => message.to_owned(),
        None => line.to_owned(),
    }
}

/// `2026-01-31 23:59:59Z`.
fn humantime(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map_or_else(|_| "(no time)".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, RankLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = RankLog::new(dir.path().join("rank0.log"));
        (dir, log)
    }

    #[test]
    fn only_the_end_of_a_log_is_repeated() {
        let (_dir, log) = log();
        let lines: Vec<String> = (0..5000).map(|line| format!("line {line}")).collect();
        std::fs::write(log.path(), lines.join("\n")).unwrap();
        let tail = log.tail();
        assert!(tail.starts_with("line 4980\n") && tail.ends_with("line 4999"), "{tail}");
        assert_eq!(RankLog::new("/nowhere".into()).tail(), "");
    }

    #[test]
    fn of_a_json_line_the_message_is_repeated() {
        let (_dir, log) = log();
        let json =
            "{\"level\":\"WARN\",\"message\":\"no room\",\"timestamp\":\"2026\"}\nTraceback {\n{\"a\": 1}";
        std::fs::write(log.path(), json).unwrap();
        assert_eq!(log.tail(), "warning: no room\nTraceback {\n{\"a\": 1}");
    }

    #[test]
    fn progress_is_shown_and_explains_no_failure() {
        let (_dir, log) = log();
        let record = |scope: Scope| MetricRecord {
            scope: scope.into(),
            step: 12,
            epoch: 3,
            train_seconds: 1.0,
            values: [("loss".to_owned(), 0.25), ("dsc".to_owned(), 61.5)].into(),
        };
        log.note("the checkpoint of step 4 is lost");
        for scope in [Scope::Step, Scope::Epoch, Scope::HeldOut] {
            log.measured(&record(scope));
        }
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(text.lines().count(), 3, "steps are not listed: {text}");
        assert!(text.contains(" epoch 3, step 12: dsc 61.5000, loss 0.2500\n"), "{text}");
        assert_eq!(log.tail(), "mtinet-worker: the checkpoint of step 4 is lost");
        assert_eq!(log.length(), text.len() as u64);
    }
}
