//! What trainers wrote, kept as plain files: `STUDY/ARM-FOLD-SEED/ATTEMPT/rankN.OFFSET.log`.
//!
//! Nothing depends on these files, so nothing here is synced, and a file that a person deletes is merely missing. They
//! are bounded: of each rank the first segment and the newest ones stay, of each trial the newest attempts. A file's name
//! and length say which bytes of the log it holds, so there is no index that could disagree with them.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mtinet_domain::{AttemptId, AttemptNumber, Rank, TrialId, WorkerId};
use tokio::sync::watch;

/// Most bytes that are appended at once.
pub const CHUNK_BYTES: usize = 64 << 10;

/// A segment takes no more once it has so many bytes.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Segments that stay beside the first.
const NEWEST_SEGMENTS: usize = 3;

/// Attempts of a trial whose logs stay.
const ATTEMPTS: usize = 20;

/// The logs of all trials. Cheap to clone. Its calls block on the disk: they are not for an async task.
#[derive(Clone, Debug)]
pub struct Logs {
    dir: PathBuf,
    /// How often something was appended, for those who follow.
    appended: watch::Sender<u64>,
    /// One writer at a time: a call that was given up may still be at work when it is made again.
    writing: Arc<Mutex<()>>,
}

/// Part of one rank's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub offset: u64,
    /// What was written there; never empty.
    pub data: Vec<u8>,
}

/// A file and the bytes of the log that it holds.
struct Segment {
    start: u64,
    length: u64,
    path: PathBuf,
}

impl Segment {
    fn end(&self) -> u64 {
        self.start + self.length
    }
}

impl Logs {
    /// The logs under a directory, which is made when the first is kept.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, appended: watch::Sender::new(0), writing: Arc::default() }
    }

    /// Resolves, again and again, after something was appended.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// Whether a rank's log was begun by this worker.
    pub fn is_of(&self, attempt: AttemptId, rank: Rank, worker: &WorkerId) -> bool {
        fs::read_to_string(self.owner(attempt, rank)).is_ok_and(|owner| owner == worker.0)
    }

    /// Appends what begins at `offset` and says up to where the log is kept then. What is kept already is passed over;
    /// what would leave a gap is not taken, unless the gap is meant (`skips`).
    ///
    /// # Errors
    /// A disk that is full or cannot be written. What was written of it before that counts.
    pub fn append(
        &self,
        attempt: AttemptId,
        rank: Rank,
        worker: &WorkerId,
        offset: u64,
        data: &[u8],
        skips: bool,
    ) -> io::Result<u64> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut segments = self.segments(attempt, rank)?;
        let end = segments.last().map_or(0, Segment::end);
        if data.is_empty() || offset > end && !skips {
            return Ok(end);
        }
        let known = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(new) = data.get(known..).filter(|new| !new.is_empty()) else { return Ok(end) };
        let begin = offset.max(end);
        if segments.is_empty() {
            self.begin(attempt, rank, worker)?;
        }
        let current = segments.last().filter(|last| last.length < SEGMENT_BYTES && last.end() == begin);
        let path = match current {
            Some(last) => last.path.clone(),
            None => self.attempt(attempt).join(format!("{}{begin}.log", prefix(rank))),
        };
        File::options().create(true).append(true).open(path)?.write_all(new)?;
        if current.is_none() && segments.len() > NEWEST_SEGMENTS {
            for middle in segments.drain(1..segments.len() - NEWEST_SEGMENTS + 1) {
                fs::remove_file(middle.path)?;
            }
        }
        self.appended.send_modify(|count| *count += 1);
        Ok(begin + new.len() as u64)
    }

    /// Attempts of a trial that have logs, oldest first.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn attempts(&self, trial: TrialId) -> io::Result<Vec<AttemptNumber>> {
        let mut attempts: Vec<_> = names(&self.trial(trial))?
            .filter_map(|(name, _)| Some(AttemptNumber(name.parse().ok()?)))
            .collect();
        attempts.sort_unstable();
        Ok(attempts)
    }

    /// Ranks of an attempt that have logs, in order.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn ranks(&self, attempt: AttemptId) -> io::Result<Vec<Rank>> {
        let rank = |name: &str| name.strip_prefix("rank")?.split_once('.')?.0.parse().ok().map(Rank);
        let mut ranks: Vec<_> = names(&self.attempt(attempt))?.filter_map(|(name, _)| rank(&name)).collect();
        ranks.sort_unstable();
        ranks.dedup();
        Ok(ranks)
    }

    /// What a rank wrote from `from` on, at most [`CHUNK_BYTES`]; none where there is nothing more yet. It begins later
    /// than asked for where that part was not kept.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(&self, attempt: AttemptId, rank: Rank, from: u64) -> io::Result<Option<Piece>> {
        let segments = self.segments(attempt, rank)?;
        for segment in segments.iter().filter(|segment| segment.end() > from) {
            let mut file = match File::open(&segment.path) {
                // It has just made room for a newer one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let offset = from.max(segment.start);
            let length = (segment.end() - offset).min(CHUNK_BYTES as u64);
            file.seek(SeekFrom::Start(offset - segment.start))?;
            let mut data = Vec::new();
            file.take(length).read_to_end(&mut data)?;
            return Ok((!data.is_empty()).then_some(Piece { offset, data }));
        }
        Ok(None)
    }

    /// Where the last `bytes` bytes of a rank's log begin, at the start of a line.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn tail(&self, attempt: AttemptId, rank: Rank, bytes: u64) -> io::Result<u64> {
        let end = self.segments(attempt, rank)?.last().map_or(0, Segment::end);
        let from = end.saturating_sub(bytes);
        if from == 0 {
            return Ok(0);
        }
        // From the byte before: the tail may begin with a line.
        let Some(piece) = self.read(attempt, rank, from - 1)? else { return Ok(from) };
        let line = piece.data.iter().position(|byte| *byte == b'\n');
        Ok(line.map_or(from, |place| piece.offset + place as u64 + 1))
    }

    /// A rank's files in order.
    fn segments(&self, attempt: AttemptId, rank: Rank) -> io::Result<Vec<Segment>> {
        let prefix = prefix(rank);
        let mut segments = Vec::new();
        for (name, path) in names(&self.attempt(attempt))? {
            let start = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".log"));
            let Some(start) = start.and_then(|start| start.parse().ok()) else { continue };
            // One that was just deleted holds nothing.
            let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            segments.push(Segment { start, length, path });
        }
        segments.sort_unstable_by_key(|segment| segment.start);
        Ok(segments)
    }

    /// Notes whose log it is, and makes room for it.
    fn begin(&self, attempt: AttemptId, rank: Rank, worker: &WorkerId) -> io::Result<()> {
        fs::create_dir_all(self.attempt(attempt))?;
        fs::write(self.owner(attempt, rank), &worker.0)?;
        let kept = self.attempts(attempt.trial)?;
        for number in &kept[..kept.len().saturating_sub(ATTEMPTS)] {
            fs::remove_dir_all(self.attempt(AttemptId { number: *number, ..attempt }))?;
        }
        Ok(())
    }

    fn trial(&self, trial: TrialId) -> PathBuf {
        let key = trial.key;
        self.dir.join(trial.study.to_string()).join(format!("{}-{}-{}", key.arm, key.fold, key.seed))
    }

    fn attempt(&self, attempt: AttemptId) -> PathBuf {
        self.trial(attempt.trial).join(attempt.number.to_string())
    }

    fn owner(&self, attempt: AttemptId, rank: Rank) -> PathBuf {
        self.attempt(attempt).join(format!("{}worker", prefix(rank)))
    }
}

fn prefix(rank: Rank) -> String {
    format!("rank{rank}.")
}

/// What lies in a directory; nothing where there is none.
fn names(dir: &Path) -> io::Result<impl Iterator<Item = (String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let entries = entries.into_iter().flatten().flatten();
    Ok(entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())))
}

#[cfg(test)]
mod tests {
    use mtinet_domain::StudyId;

    use super::*;

    const RANK: Rank = Rank(0);

    fn attempt(number: u32) -> AttemptId {
        let trial = TrialId { study: StudyId(1), key: "mti-net/0/0".parse().unwrap() };
        AttemptId { trial, number: AttemptNumber(number) }
    }

    fn worker() -> WorkerId {
        WorkerId("w.1".to_owned())
    }

    fn logs() -> (tempfile::TempDir, Logs) {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path().join("logs"));
        (dir, logs)
    }

    /// Everything that is kept, with the places where something is missing.
    fn all(logs: &Logs, number: u32, rank: Rank) -> (Vec<u8>, Vec<u64>) {
        let (mut data, mut gaps, mut from) = (Vec::new(), Vec::new(), 0);
        while let Some(piece) = logs.read(attempt(number), rank, from).unwrap() {
            if piece.offset > from {
                gaps.push(piece.offset);
            }
            from = piece.offset + piece.data.len() as u64;
            data.extend(piece.data);
        }
        (data, gaps)
    }

    #[test]
    fn each_byte_is_kept_once_however_often_it_comes() {
        let (_dir, logs) = logs();
        let put = |offset, data: &[u8], skips| {
            logs.append(attempt(1), RANK, &worker(), offset, data, skips).unwrap()
        };
        assert_eq!(put(0, b"", false), 0, "a question");
        assert!(logs.attempts(attempt(1).trial).unwrap().is_empty(), "a question leaves nothing");
        assert_eq!(put(0, b"one\n", false), 4);
        assert_eq!(put(0, b"one\n", false), 4, "said again because the answer was lost");
        assert_eq!(put(0, b"one\ntwo\n", false), 8);
        assert_eq!(put(20, b"lost?", false), 8, "a gap that is not meant");
        assert_eq!(all(&logs, 1, RANK), (b"one\ntwo\n".to_vec(), vec![]));
        assert_eq!(put(20, b"three\n", true), 26);
        assert_eq!(put(8, b"too late", false), 26);
        assert_eq!(all(&logs, 1, RANK), (b"one\ntwo\nthree\n".to_vec(), vec![20]));
        assert!(logs.is_of(attempt(1), RANK, &worker()));
        assert!(!logs.is_of(attempt(1), RANK, &WorkerId("w.2".to_owned())));
        assert!(!logs.is_of(attempt(2), RANK, &worker()));
    }

    #[test]
    fn a_long_log_keeps_its_beginning_and_its_end() {
        let (dir, logs) = logs();
        let mut end = 0;
        for chunk in 0..200_u32 {
            let line = format!("{chunk:063}\n").repeat(CHUNK_BYTES / 64);
            end = logs.append(attempt(1), RANK, &worker(), end, line.as_bytes(), false).unwrap();
        }
        let (data, gaps) = all(&logs, 1, RANK);
        assert_eq!((end, gaps.len()), (200 * CHUNK_BYTES as u64, 1));
        assert!(data.len() as u64 <= (2 + NEWEST_SEGMENTS as u64) * SEGMENT_BYTES, "{}", data.len());
        assert!(data.starts_with(format!("{:063}\n", 0).as_bytes()));
        assert!(data.ends_with(format!("{:063}\n", 199).as_bytes()));
        let tail = logs.tail(attempt(1), RANK, 100).unwrap();
        assert_eq!(tail, end - 64, "a tail begins with a line");
        assert_eq!(logs.tail(attempt(1), RANK, 64).unwrap(), end - 64);
        assert_eq!(logs.tail(attempt(1), RANK, u64::MAX).unwrap(), 0);
        // The same after a restart.
        let again = Logs::new(dir.path().join("logs"));
        assert_eq!(all(&again, 1, RANK), (data, gaps));
        assert_eq!(again.append(attempt(1), RANK, &worker(), 0, b"", false).unwrap(), end);
    }

    #[test]
    fn old_attempts_make_room_and_ranks_are_kept_apart() {
        let (_dir, logs) = logs();
        for number in 1..=ATTEMPTS as u32 + 5 {
            for rank in [Rank(0), Rank(11)] {
                let text = format!("attempt {number} rank {rank}\n");
                logs.append(attempt(number), rank, &worker(), 0, text.as_bytes(), false).unwrap();
            }
        }
        let kept = logs.attempts(attempt(1).trial).unwrap();
        assert_eq!((kept.first(), kept.len()), (Some(&AttemptNumber(6)), ATTEMPTS));
        assert_eq!(logs.ranks(attempt(6)).unwrap(), [Rank(0), Rank(11)]);
        assert_eq!(all(&logs, 6, Rank(11)).0, b"attempt 6 rank 11\n");
        assert!(logs.ranks(attempt(5)).unwrap().is_empty());
        assert_eq!(logs.read(attempt(5), Rank(0), 0).unwrap(), None);
    }

    #[test]
    fn those_who_follow_are_told() {
        let (_dir, logs) = logs();
        let watch = logs.watch();
        logs.append(attempt(1), RANK, &worker(), 0, b"", false).unwrap();
        assert!(!watch.has_changed().unwrap());
        logs.append(attempt(1), RANK, &worker(), 0, b"x", false).unwrap();
        assert!(watch.has_changed().unwrap());
    }
}
