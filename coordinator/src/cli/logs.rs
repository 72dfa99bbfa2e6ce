//! `mtinet logs`: what the trainers of a trial wrote.

use std::collections::BTreeMap;

use mtinet_domain::StudyId;
use mtinet_proto::v1::{LogChunk, StreamLogRequest, Trial};
use serde_json::{Value, json};

use super::args::LogsArgs;
use super::client::Coordinator;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::{print, print_json, say};
use super::report::with_coordinator;

pub async fn run(args: LogsArgs) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    let show = async |coordinator: &mut Coordinator| show(coordinator, &args).await;
    let shown = interrupt.or(with_coordinator(args.data_dir.as_deref(), &args.server, show)).await;
    if interrupt.is_requested() { Err(CliError::Interrupted) } else { shown }
}

async fn show(coordinator: &mut Coordinator, args: &LogsArgs) -> Result<(), CliError> {
    let study = match &args.study {
        Some(study) => coordinator.study_id(study).await?,
        // The newest that has such a trial.
        None => StudyId(0),
    };
    let mut chunks = coordinator
        .log(StreamLogRequest {
            trial: Some(Trial { study: study.0, key: args.trial.to_string() }),
            attempt: args.attempt.unwrap_or(0),
            rank: args.rank,
            tail_bytes: 0,
            follow: args.follow,
        })
        .await?;
    let mut lines = LogLines::default();
    let mut document = Document::default();
    let mut printer = Printer::default();
    let mut any = false;
    while let Some(chunk) = chunks.message().await? {
        any = true;
        printer.with_rank = args.rank.is_none() && chunk.ranks > 1;
        if args.json {
            document.add(&chunk, lines.push(&chunk));
        } else {
            lines.push(&chunk).iter().for_each(|line| printer.print(line));
        }
    }
    let rest = lines.finish();
    if args.json {
        print_json(&document.finish(args, rest));
    } else {
        rest.iter().for_each(|line| printer.print(line));
    }
    match (any, args.rank) {
        (false, Some(rank)) => Err(CliError::NotSo(format!(
            "no log of rank {rank} of trial {} is kept; leave --rank out to see those that are",
            args.trial
        ))),
        _ => Ok(()),
    }
}

/// One line of a trainer's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Which execution of the trial.
    pub attempt: u32,
    /// Which of its ranks.
    pub rank: u32,
    /// What it wrote, without line feed and without anything that would steer a terminal.
    pub text: String,
}

/// Makes lines of chunks as they come, whose ends fall anywhere.
#[derive(Debug, Default)]
pub struct LogLines {
    /// Of each rank where its next chunk begins, and the beginning of a line whose end has not come.
    ranks: BTreeMap<(u32, u32), (u64, Vec<u8>)>,
}

impl LogLines {
    /// The lines that a chunk completes. A part of the log that is not kept is told in a line of its own.
    pub fn push(&mut self, chunk: &LogChunk) -> Vec<LogLine> {
        let (attempt, rank) = (chunk.attempt, chunk.rank);
        let is_first = !self.ranks.contains_key(&(attempt, rank));
        let (next, rest) = self.ranks.entry((attempt, rank)).or_default();
        let line = |bytes: &[u8]| LogLine { attempt, rank, text: plain(bytes) };
        let mut lines = Vec::new();
        if chunk.offset > *next && !is_first {
            if !rest.is_empty() {
                lines.push(line(&std::mem::take(rest)));
            }
            lines.push(line(format!("[... {} bytes are not kept ...]", chunk.offset - *next).as_bytes()));
        }
        *next = chunk.offset + chunk.data.len() as u64;
        let mut parts = chunk.data.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            rest.extend_from_slice(part);
            if parts.peek().is_some() {
                lines.push(line(&std::mem::take(rest)));
            }
        }
        lines
    }

    /// Last lines that never got a line feed.
    pub fn finish(self) -> Vec<LogLine> {
        let ranks = self.ranks.into_iter().filter(|(_, (_, rest))| !rest.is_empty());
        ranks.map(|((attempt, rank), (_, rest))| LogLine { attempt, rank, text: plain(&rest) }).collect()
    }
}

/// What a program wrote as text: a worker must not steer the terminal of whoever reads its log.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\r').chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

/// Prints lines, with the rank before them where there is more than one.
#[derive(Debug, Default)]
struct Printer {
    with_rank: bool,
    attempt: u32,
}

impl Printer {
    fn print(&mut self, line: &LogLine) {
        if self.attempt != line.attempt {
            self.attempt = line.attempt;
            say(format_args!("attempt {}:", line.attempt));
        }
        if self.with_rank {
            print(format_args!("{} | {}", line.rank, line.text));
        } else {
            print(&line.text);
        }
    }
}

/// The one document of `--json`.
#[derive(Debug, Default)]
struct Document {
    study: u64,
    attempt: u32,
    ranks: BTreeMap<u32, Vec<String>>,
    bytes: BTreeMap<u32, u64>,
    left_out: BTreeMap<u32, u64>,
}

impl Document {
    fn add(&mut self, chunk: &LogChunk, lines: Vec<LogLine>) {
        (self.study, self.attempt) = (chunk.study, chunk.attempt);
        let seen = self.bytes.entry(chunk.rank).or_default();
        *self.left_out.entry(chunk.rank).or_default() += chunk.offset.saturating_sub(*seen);
        *seen = chunk.offset + chunk.data.len() as u64;
        self.ranks.entry(chunk.rank).or_default().extend(lines.into_iter().map(|line| line.text));
    }

    fn finish(mut self, args: &LogsArgs, rest: Vec<LogLine>) -> Value {
        for line in rest {
            self.ranks.entry(line.rank).or_default().push(line.text);
        }
        let ranks: Vec<Value> = self
            .ranks
            .iter()
            .map(|(rank, lines)| {
                json!({
                    "rank": rank,
                    "bytes": self.bytes.get(rank),
                    "bytes_left_out": self.left_out.get(rank),
                    "lines": lines,
                })
            })
            .collect();
        json!({
            "study": self.study,
            "trial": args.trial.to_string(),
            "attempt": self.attempt,
            "ranks": ranks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(rank: u32, offset: u64, data: &str) -> LogChunk {
        LogChunk { study: 1, attempt: 1, rank, offset, data: data.as_bytes().to_vec(), ranks: 2 }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_are_whole_wherever_chunks_end() {
        let mut lines = LogLines::default();
        assert_eq!(texts(&lines.push(&chunk(0, 0, "one\ntw"))), ["one"]);
        assert_eq!(texts(&lines.push(&chunk(1, 0, "other\n"))), ["other"]);
        assert_eq!(texts(&lines.push(&chunk(0, 6, "o\r\n\nthr"))), ["two", ""]);
        assert_eq!(
            texts(&lines.push(&chunk(0, 100, "\nnine\n"))),
            ["thr", "[... 87 bytes are not kept ...]", "", "nine"]
        );
        let mut two = LogLines::default();
        let both = [chunk(0, 0, "ü\u{1b}[2J").data, b"\xff".to_vec()].concat();
        assert!(two.push(&LogChunk { data: both, ..chunk(0, 0, "") }).is_empty());
        assert_eq!(texts(&two.finish()), ["ü[2J\u{fffd}"], "nothing steers the terminal");
    }

    #[test]
    fn a_tail_begins_without_a_word_about_what_is_before_it() {
        let mut lines = LogLines::default();
        assert_eq!(texts(&lines.push(&chunk(0, 4000, "end\n"))), ["end"]);
    }
}
