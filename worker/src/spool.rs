//! What the coordinator has not acknowledged, on disk: an append-only file for each agent process.
//!
//! What survives. A fact (anything but measurements) is synchronised to the disk before it is sent, so it survives the
//! end of the agent and of the machine; measurements are written and survive the end of the agent. The trainers of an
//! agent end with it, so a later agent on the same directory takes over nothing that runs: it says under the former
//! identity what that agent had not got rid of ([`crate::estate`]), and (worker, number) keeps each report from being
//! applied twice.
//!
//! The file is `MTSPOOL1` and frames: length and checksum (the first four bytes of BLAKE3) as little-endian `u32`, then
//! a `WorkerMessage` of the wire. A `Hello` says who speaks from there on and which ranks it holds. A frame that was cut
//! short by the end of the process was told to nobody and is left out. An open file is locked, so no two processes ever
//! speak for one worker.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::{Attempt, Hello, Report, WorkerMessage, worker_message};
use prost::Message;

const MAGIC: &[u8] = b"MTSPOOL1";

/// Length and checksum.
const HEAD_BYTES: u64 = 8;

/// A longer frame is a damaged one: no message on the wire is larger.
const LONGEST_FRAME: u32 = mtinet_proto::MAX_MESSAGE_BYTES as u32;

const SUFFIX: &str = "spool";

/// Where a frame's content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    offset: u64,
    length: u32,
}

#[cfg(test)]
impl Place {
    /// Where nothing can be read.
    pub fn beyond(self) -> Self {
        Self { offset: self.offset + (1 << 40), ..self }
    }
}

/// The file of one agent process.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    end: u64,
    #[cfg(test)]
    held: Option<Held>,
}

/// Tells a test that a sync has begun, and waits for it.
#[cfg(test)]
type Held = (std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);

/// What a former agent left behind.
#[derive(Debug)]
pub struct Leftover {
    /// Who it was and what it held.
    pub hello: Hello,
    /// What it had not been told to be recorded, in order.
    pub reports: Vec<Told>,
    /// The file, which is locked.
    pub spool: Spool,
}

/// What a former agent reported, as far as it must be known before it is said: all of it would not fit into memory.
#[derive(Debug)]
pub struct Told {
    /// Its number.
    pub seq: u64,
    /// Where it lies.
    pub place: Place,
    /// Whether it is measurements.
    pub is_metrics: bool,
    /// The attempt and rank whose end it tells.
    pub end_of: Option<(Attempt, u32)>,
}

impl Told {
    fn new(report: Report, place: Place) -> Self {
        let Report { seq, attempt, rank, fact } = report;
        let is_metrics = matches!(fact, Some(Fact::Metrics(_)));
        let is_end = matches!(fact, Some(Fact::Exited(_)));
        Self { seq, place, is_metrics, end_of: attempt.filter(|_| is_end).map(|attempt| (attempt, rank)) }
    }

    /// Its encoded size.
    pub fn bytes(&self) -> usize {
        self.place.length as usize
    }
}

impl Spool {
    /// A new file in `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn create(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = dir.join(format!("{}-{}.{SUFFIX}", since.as_nanos(), std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.try_lock()?;
        file.write_all_at(MAGIC, 0)?;
        Ok(Self {
            path,
            file,
            end: MAGIC.len() as u64,
            #[cfg(test)]
            held: None,
        })
    }

    /// Appends a message; with `durable` it is on the disk when this returns. After an error the file is as before.
    ///
    /// # Errors
    /// A full or failing disk.
    pub fn append(&mut self, message: &WorkerMessage, durable: bool) -> io::Result<Place> {
        let payload = message.encode_to_vec();
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(payload.len() + HEAD_BYTES as usize);
        frame.extend(length.to_le_bytes());
        frame.extend(checksum(&payload));
        frame.extend(&payload);
        let written = self.file.write_all_at(&frame, self.end);
        if let Err(error) = written.and_then(|()| if durable { self.sync() } else { Ok(()) }) {
            // What was written of it must not stand before a later frame. Shrinking works on a full disk too.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        let place = Place { offset: self.end + HEAD_BYTES, length };
        self.end += frame.len() as u64;
        Ok(place)
    }

    /// Reads a report back.
    ///
    /// # Errors
    /// A failing disk, a frame that holds no report.
    pub fn read(&self, place: Place) -> io::Result<Report> {
        match self.message(place)? {
            worker_message::Message::Report(report) => Ok(report),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    /// Empties the file.
    ///
    /// # Errors
    /// A failing disk.
    pub fn clear(&mut self) -> io::Result<()> {
        self.end = MAGIC.len() as u64;
        self.file.set_len(self.end)
    }

    /// Writes `hello` and the frames at `places` to a new file that takes this one's place; returns their new places.
    ///
    /// # Errors
    /// A full disk; then this file stays as it is.
    pub fn rewrite(&mut self, hello: Option<&Hello>, places: &[Place]) -> io::Result<Vec<Place>> {
        let mut new = Self::create(self.path.parent().unwrap_or(Path::new(".")))?;
        let mut copy = || -> io::Result<Vec<Place>> {
            if let Some(hello) = hello {
                new.append(&hello_message(hello.clone()), false)?;
            }
            let copied: io::Result<Vec<Place>> = places
                .iter()
                .map(|place| new.append(&WorkerMessage { message: Some(self.message(*place)?) }, false))
                .collect();
            new.sync()?;
            copied
        };
        let copied = copy();
        if copied.is_ok() {
            std::mem::swap(self, &mut new);
        }
        // The old file, or the copy that failed.
        new.remove();
        copied
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes the file.
    pub fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "could not remove a spool");
        }
    }

    /// As if the disk were full from now on.
    #[cfg(test)]
    pub fn refuse_writes(&mut self) {
        self.file = File::open(&self.path).expect("the file is there");
    }

    /// As if the disk took each sync only once `release` is closed.
    #[cfg(test)]
    pub fn hold_syncs(&mut self, began: std::sync::mpsc::Sender<()>, release: std::sync::mpsc::Receiver<()>) {
        self.held = Some((began, release));
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some((began, release)) = &self.held {
            // Both fail only when the test is over.
            let _ = (began.send(()), release.recv());
        }
        self.file.sync_data()
    }

    fn message(&self, place: Place) -> io::Result<worker_message::Message> {
        let mut payload = vec![0; place.length as usize];
        self.file.read_exact_at(&mut payload, place.offset)?;
        let message = WorkerMessage::decode(payload.as_slice()).map_err(io::Error::other)?;
        message.message.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// The files in `dir` that no process has open. One without anything to say is removed.
pub fn leftovers(dir: &Path) -> Vec<Leftover> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut spools: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX)).collect();
    spools.sort();
    let open = |path: PathBuf| match open(&path) {
        Ok(leftover) => leftover,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "could not read a former agent's spool");
            None
        }
    };
    spools.into_iter().filter_map(open).collect()
}

fn open(path: &Path) -> io::Result<Option<Leftover>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.try_lock().is_err() {
        return Ok(None);
    }
    let mut magic = [0; 8];
    let is_ours = file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC;
    let mut spool = Spool {
        path: path.to_owned(),
        file,
        end: MAGIC.len() as u64,
        #[cfg(test)]
        held: None,
    };
    let (mut hello, mut reports) = (None, Vec::new());
    while let Some(place) = next_frame(&spool).filter(|_| is_ours) {
        match spool.message(place)? {
            worker_message::Message::Hello(said) => hello = Some(said),
            worker_message::Message::Report(report) => reports.push(Told::new(report, place)),
            worker_message::Message::Heartbeat(_) => {}
        }
        spool.end = place.offset + u64::from(place.length);
    }
    match hello {
        Some(hello) if !reports.is_empty() || !hello.running.is_empty() => {
            Ok(Some(Leftover { hello, reports, spool }))
        }
        // It had never joined, or had got rid of everything.
        _ => {
            spool.remove();
            Ok(None)
        }
    }
}

/// The frame at the end of what is read, where one stands there whole.
fn next_frame(spool: &Spool) -> Option<Place> {
    let mut head = [0; HEAD_BYTES as usize];
    spool.file.read_exact_at(&mut head, spool.end).ok()?;
    let (length, sum) = head.split_at(4);
    let length = u32::from_le_bytes(length.try_into().ok()?);
    if length > LONGEST_FRAME {
        return None;
    }
    let place = Place { offset: spool.end + HEAD_BYTES, length };
    let mut payload = vec![0; length as usize];
    spool.file.read_exact_at(&mut payload, place.offset).ok()?;
    (checksum(&payload) == sum).then_some(place)
}

fn checksum(payload: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(payload);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// The message that says who speaks.
pub fn hello_message(hello: Hello) -> WorkerMessage {
    WorkerMessage { message: Some(worker_message::Message::Hello(hello)) }
}

#[cfg(test)]
mod tests {
    use mtinet_proto::v1::{RankStarted, RunningRank};

    use super::*;
    use crate::session::report_message;

    fn report(seq: u64) -> Report {
        let fact = Some(Fact::Started(RankStarted { pid: 7 }));
        Report { seq, fact, ..Report::default() }
    }

    fn hello(worker: &str) -> Hello {
        let running = vec![RunningRank::default()];
        Hello { worker_id: worker.to_owned(), running, ..Hello::default() }
    }

    fn seqs(leftover: &Leftover) -> Vec<u64> {
        leftover.reports.iter().map(|told| told.seq).collect()
    }

    #[test]
    fn what_was_written_is_found_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path()).unwrap();
        spool.append(&hello_message(hello("w1")), true).unwrap();
        let place = spool.append(&report_message(report(1)), true).unwrap();
        spool.append(&report_message(report(2)), false).unwrap();
        assert_eq!(spool.read(place).unwrap(), report(1));
        assert!(leftovers(dir.path()).is_empty(), "its process lives");
        drop(spool);
        let found = leftovers(dir.path());
        assert_eq!((found[0].hello.worker_id.as_str(), seqs(&found[0])), ("w1", vec![1, 2]));
        assert!(leftovers(dir.path()).is_empty(), "one heir is enough");
    }

    #[test]
    fn a_file_cut_anywhere_gives_what_is_whole_before_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path()).unwrap();
        spool.append(&hello_message(hello("w")), false).unwrap();
        let mut ends = vec![spool.bytes()];
        for seq in 1..=5 {
            spool.append(&report_message(report(seq)), false).unwrap();
            ends.push(spool.bytes());
        }
        let path = spool.path().to_owned();
        drop(spool);
        let whole = std::fs::read(&path).unwrap();
        for cut in ends[0]..=ends[5] {
            let mut bytes = whole[..cut as usize].to_vec();
            let expected = ends.iter().filter(|end| **end <= cut).count() as u64 - 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(seqs(&leftovers(dir.path())[0]), (1..=expected).collect::<Vec<_>>(), "cut at {cut}");
            // As a file system may leave it after a power cut: the length is right, the content is not.
            bytes.resize(whole.len(), 0);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(seqs(&leftovers(dir.path())[0]), (1..=expected).collect::<Vec<_>>(), "zeros at {cut}");
        }
    }

    #[test]
    fn a_rewritten_file_holds_what_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path()).unwrap();
        let places: Vec<Place> =
            (1..=4).map(|seq| spool.append(&report_message(report(seq)), false).unwrap()).collect();
        let kept = spool.rewrite(Some(&hello("w")), &[places[1], places[3]]).unwrap();
        assert_eq!(spool.read(kept[1]).unwrap().seq, 4);
        spool.append(&report_message(report(5)), false).unwrap();
        drop(spool);
        let found = leftovers(dir.path());
        assert_eq!((found.len(), seqs(&found[0])), (1, vec![2, 4, 5]));
    }

    #[test]
    fn nothing_is_left_of_an_agent_that_said_everything() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path()).unwrap();
        spool.append(&report_message(report(1)), false).unwrap();
        spool.clear().unwrap();
        spool.append(&hello_message(Hello::default()), false).unwrap();
        drop(spool);
        assert!(leftovers(dir.path()).is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
