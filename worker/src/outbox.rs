//! Reports that the coordinator has not acknowledged, in order: in memory while they are few, else on disk only.
//!
//! Facts are never given up. While the coordinator is away for so long that the spool exceeds its limit, measurements
//! are thinned: of the reports of measurements in the older half of what waits every second goes, again and again, so
//! that the past gets coarser and the present stays whole. Numbers may therefore have gaps; their order stays.

use std::collections::VecDeque;

use mtinet_proto::v1::{Attempt, Hello, Report, report::Fact};
use prost::Message;

use crate::session::report_message;
use crate::spool::{Leftover, Place, Spool, Told, hello_message};

/// How much is kept where.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Encoded bytes of spooled reports that are also kept in memory.
    pub memory_bytes: usize,
    /// Bytes of the spool above which measurements are thinned.
    pub spool_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 8 << 20, spool_bytes: 256 << 20 }
    }
}

/// An emptied spool above this size is cut back.
const SLACK_BYTES: u64 = 64 << 10;

/// Unacknowledged reports in order of `seq`, which ascends from 1 over the agent's life.
#[derive(Debug, Default)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    /// Encoded bytes of reports in memory that the spool has too.
    cached: usize,
    /// Encoded bytes of reports that are in memory only.
    unspooled: usize,
    last_seq: u64,
    spool: Option<Spool>,
    limits: Limits,
    /// The spool's last word was an error.
    failing: bool,
    /// What could not be read, and how often in a row.
    unreadable: Option<(u64, u32)>,
    /// What was given up because it could not be read.
    lost: Vec<u64>,
}

/// Times that a report is tried to be read from the disk before it is given up, so that the others are said.
const READ_TRIES: u32 = 5;

/// One report: in memory, on disk, or both.
#[derive(Debug)]
struct Entry {
    seq: u64,
    bytes: usize,
    is_metrics: bool,
    place: Option<Place>,
    report: Option<Report>,
}

impl Outbox {
    /// An empty one; without a spool everything is kept in memory.
    pub fn new(spool: Option<Spool>, limits: Limits) -> Self {
        Self { spool, limits, ..Self::default() }
    }

    /// What a former agent left behind.
    pub fn inherit(leftover: Leftover) -> Self {
        let entry = |told: &Told| Entry {
            seq: told.seq,
            bytes: told.bytes(),
            is_metrics: told.is_metrics,
            place: Some(told.place),
            report: None,
        };
        let entries: VecDeque<Entry> = leftover.reports.iter().map(entry).collect();
        let last_seq = entries.back().map_or(0, |entry| entry.seq);
        Self { entries, last_seq, ..Self::new(Some(leftover.spool), Limits::default()) }
    }

    /// Numbers a fact and keeps it until it is acknowledged. A fact that is no measurement is on the disk when this
    /// returns, unless the disk refuses it.
    pub fn push(&mut self, attempt: Attempt, rank: u32, fact: Fact) -> u64 {
        self.last_seq += 1;
        let report = Report { seq: self.last_seq, attempt: Some(attempt), rank, fact: Some(fact) };
        let (bytes, is_metrics) = (report.encoded_len(), is_metrics(&report));
        let place = self.write(&report_message(report.clone()), !is_metrics);
        let spare = self.cached + bytes <= self.limits.memory_bytes;
        match place {
            None => self.unspooled += bytes,
            Some(_) if spare => self.cached += bytes,
            Some(_) => {}
        }
        let report = (place.is_none() || spare).then_some(report);
        self.entries.push_back(Entry { seq: self.last_seq, bytes, is_metrics, place, report });
        self.last_seq
    }

    /// Notes in the spool who speaks from here on. `hello` also says which ranks are held.
    pub fn note(&mut self, hello: Hello) {
        self.write(&hello_message(hello), true);
    }

    /// Whether it is time to [`Outbox::thin`].
    pub fn is_too_large(&self) -> bool {
        self.spool.as_ref().is_some_and(|spool| spool.bytes() > self.limits.spool_bytes)
    }

    /// Cuts the spool back to what waits; where that alone is too large, gives up every second report of measurements in
    /// the older half of it.
    pub fn thin(&mut self, hello: &Hello) {
        let waiting: u64 = self.entries.iter().map(|entry| entry.bytes as u64).sum();
        let Some(spool) = &mut self.spool else { return };
        // Half, or the next report would ask for all of this again.
        let half = if waiting > self.limits.spool_bytes / 2 { self.entries.len() / 2 } else { 0 };
        let mut spare = false;
        let stays = |(position, entry): &(usize, &Entry)| {
            spare ^= entry.is_metrics;
            !(entry.is_metrics && spare && *position < half)
        };
        let kept: Vec<usize> =
            self.entries.iter().enumerate().filter(stays).map(|(position, _)| position).collect();
        let places: Vec<Place> = kept.iter().filter_map(|position| self.entries[*position].place).collect();
        let before = self.entries.len();
        match spool.rewrite(Some(hello), &places) {
            Ok(places) => {
                let mut places = places.into_iter();
                let mut stays = kept.into_iter().peekable();
                let old = std::mem::take(&mut self.entries);
                for (position, mut entry) in old.into_iter().enumerate() {
                    if stays.next_if_eq(&position).is_some() {
                        entry.place = entry.place.and_then(|_| places.next());
                        self.entries.push_back(entry);
                    } else {
                        self.forget(&entry);
                    }
                }
                let gone = before - self.entries.len();
                if gone > 0 {
                    tracing::warn!(gone, "the coordinator is away for long: older measurements are thinned");
                }
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Lets go of everything up to `seq`.
    pub fn acknowledge(&mut self, seq: u64) {
        while self.entries.front().is_some_and(|entry| entry.seq <= seq) {
            if let Some(entry) = self.entries.pop_front() {
                self.forget(&entry);
            }
        }
    }

    /// Whether the spool has grown and nothing in it waits any more: then [`Outbox::restart`] cuts it back.
    pub fn is_stale(&self) -> bool {
        self.entries.is_empty() && self.spool.as_ref().is_some_and(|spool| spool.bytes() > SLACK_BYTES)
    }

    /// Empties the spool of what is acknowledged.
    pub fn restart(&mut self, hello: Hello) {
        if let Some(Err(error)) = self.spool.as_mut().map(Spool::clear) {
            self.complain(&error);
        }
        self.write(&hello_message(hello), true);
    }

    /// Deletes the spool: nobody is to hear of it again.
    pub fn close(&mut self) {
        if let Some(spool) = self.spool.take() {
            spool.remove();
        }
    }

    /// Up to `max` unacknowledged reports after `seq`, in order. What follows one that cannot be read waits with it, until
    /// that is given up after some calls.
    pub fn after(&mut self, seq: u64, max: usize) -> Vec<Report> {
        let start = self.start_after(seq);
        let reports: Vec<Report> =
            self.entries.range(start..).take(max).map_while(|entry| self.read(entry)).collect();
        let next = self.entries.get(start + reports.len()).map(|entry| entry.seq);
        // Those before it go out first; the next call then begins with it.
        if reports.is_empty()
            && let Some(seq) = next
        {
            self.on_unreadable(start, seq);
        }
        reports
    }

    /// Whether there is anything after `seq`.
    pub fn has_after(&self, seq: u64) -> bool {
        self.start_after(seq) < self.entries.len()
    }

    /// The numbers of what was given up since the last call.
    pub fn take_lost(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.lost)
    }

    fn start_after(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| entry.seq <= seq)
    }

    fn read(&self, entry: &Entry) -> Option<Report> {
        match (&entry.report, entry.place, &self.spool) {
            (Some(report), _, _) => Some(report.clone()),
            (None, Some(place), Some(spool)) => spool
                .read(place)
                .inspect_err(|error| {
                    tracing::error!(%error, path = %spool.path().display(), seq = entry.seq, "could not read the spool");
                })
                .ok(),
            _ => None,
        }
    }

    fn on_unreadable(&mut self, position: usize, seq: u64) {
        let tries = self.unreadable.filter(|(known, _)| *known == seq).map_or(1, |(_, tries)| tries + 1);
        self.unreadable = Some((seq, tries));
        if tries >= READ_TRIES
            && let Some(entry) = self.entries.remove(position)
        {
            self.forget(&entry);
            self.lost.push(seq);
            self.unreadable = None;
            tracing::error!(
                seq,
                "a report is lost: it cannot be read from the spool; look at this machine's disk"
            );
        }
    }

    /// As if the disk had lost the report with this number.
    #[cfg(test)]
    pub fn damage(&mut self, seq: u64) {
        let entry = self.entries.iter_mut().find(|entry| entry.seq == seq).expect("it waits");
        entry.place = entry.place.map(Place::beyond);
    }

    /// The number given last; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// How many reports wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Encoded size in bytes of what is kept in memory only: all of it where there is no spool or the disk is full.
    pub fn bytes(&self) -> usize {
        self.unspooled
    }

    /// Size of the spool in bytes; 0 where there is none.
    pub fn spool_bytes(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::bytes)
    }

    fn forget(&mut self, entry: &Entry) {
        match (entry.place, &entry.report) {
            (None, _) => self.unspooled -= entry.bytes,
            (Some(_), Some(_)) => self.cached -= entry.bytes,
            (Some(_), None) => {}
        }
    }

    fn write(&mut self, message: &mtinet_proto::v1::WorkerMessage, durable: bool) -> Option<Place> {
        match self.spool.as_mut()?.append(message, durable) {
            Ok(place) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the spool can be written again");
                }
                Some(place)
            }
            Err(error) => {
                self.complain(&error);
                None
            }
        }
    }

    fn complain(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            let path = self.spool.as_ref().map(|spool| spool.path().display().to_string());
            tracing::error!(
                %error,
                path,
                "the spool cannot be written; what is not acknowledged is kept in memory, and trainers wait when that \
                 is too much; free space under the work directory"
            );
        }
    }
}

fn is_metrics(report: &Report) -> bool {
    matches!(report.fact, Some(Fact::Metrics(_)))
}

#[cfg(test)]
mod tests {
    use mtinet_proto::v1::{MetricBatch, MetricRecord, RankExited};

    use super::*;
    use crate::spool::leftovers;

    const LIMITS: Limits = Limits { memory_bytes: 1000, spool_bytes: 20_000 };

    fn metrics(step: u64) -> Fact {
        let values = [("loss".to_owned(), 0.5)].into();
        Fact::Metrics(MetricBatch { records: vec![MetricRecord { step, values, ..MetricRecord::default() }] })
    }

    fn exited() -> Fact {
        Fact::Exited(RankExited { message: "x".repeat(100), ..RankExited::default() })
    }

    fn hello() -> Hello {
        Hello { worker_id: "w".to_owned(), ..Hello::default() }
    }

    #[test]
    fn memory_stays_small_and_everything_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { spool_bytes: u64::MAX, ..LIMITS };
        let mut outbox = Outbox::new(Some(Spool::create(dir.path()).unwrap()), limits);
        for step in 1..=1000 {
            outbox.push(Attempt::default(), 0, metrics(step));
        }
        let in_memory = outbox.entries.iter().filter(|entry| entry.report.is_some()).count();
        assert!(outbox.cached <= 1000 && in_memory < 50, "{in_memory}");
        assert_eq!(outbox.bytes(), 0, "nobody waits while the disk takes it");
        let said: Vec<u64> = outbox.after(10, 2000).iter().map(|report| report.seq).collect();
        assert_eq!(said, (11..=1000).collect::<Vec<_>>());
        outbox.acknowledge(1000);
        assert_eq!((outbox.len(), outbox.cached), (0, 0));
        assert!(outbox.is_stale() == (outbox.spool.as_ref().unwrap().bytes() > SLACK_BYTES));
    }

    #[test]
    fn measurements_are_thinned_from_the_oldest_and_facts_never() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::new(Some(Spool::create(dir.path()).unwrap()), LIMITS);
        let mut facts = Vec::new();
        for step in 1..=5000 {
            if outbox.is_too_large() {
                outbox.thin(&hello());
            }
            let seq = outbox.push(Attempt::default(), 0, metrics(step));
            if step % 500 == 0 {
                facts.push(outbox.push(Attempt::default(), 0, exited()));
            }
            assert!(outbox.spool.as_ref().unwrap().bytes() < 21_000, "at report {seq}");
        }
        let left = outbox.after(0, usize::MAX);
        let seqs: Vec<u64> = left.iter().map(|report| report.seq).collect();
        assert!(seqs.is_sorted() && facts.iter().all(|fact| seqs.contains(fact)));
        let middle = outbox.last_seq() / 2;
        let old = seqs.partition_point(|seq| *seq < middle);
        assert!(old * 4 < seqs.len(), "{old} of {} are from the older half", seqs.len());
        let newest = outbox.last_seq();
        assert!((newest - 50..=newest).all(|seq| seqs.contains(&seq)), "the present is whole");
        outbox.acknowledge(newest);
        assert_eq!((outbox.len(), outbox.cached, outbox.unspooled), (0, 0, 0));
    }

    #[test]
    fn what_is_acknowledged_goes_before_what_waits() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::new(Some(Spool::create(dir.path()).unwrap()), LIMITS);
        let mut thinned = 0;
        for step in 1..=5000 {
            if outbox.is_too_large() {
                outbox.thin(&hello());
                thinned += 1;
            }
            let seq = outbox.push(Attempt::default(), 0, metrics(step));
            // Never more than ten wait.
            outbox.acknowledge(seq.saturating_sub(10));
        }
        assert!(thinned > 2, "{thinned}");
        let left: Vec<u64> = outbox.after(0, usize::MAX).iter().map(|report| report.seq).collect();
        assert_eq!(left, (4991..=5000).collect::<Vec<_>>());
        assert!(outbox.spool.as_ref().unwrap().bytes() < 21_000);
    }

    #[test]
    fn an_emptied_spool_is_cut_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::new(Some(Spool::create(dir.path()).unwrap()), Limits::default());
        while outbox.spool.as_ref().unwrap().bytes() <= SLACK_BYTES {
            outbox.push(Attempt::default(), 0, exited());
        }
        assert!(!outbox.is_stale());
        outbox.acknowledge(outbox.last_seq());
        assert!(outbox.is_stale());
        outbox.restart(hello());
        assert!(outbox.spool.as_ref().unwrap().bytes() < 100);
        let seq = outbox.push(Attempt::default(), 0, exited());
        drop(outbox);
        let found = leftovers(dir.path());
        assert_eq!(found[0].reports[0].seq, seq, "numbers go on");
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_everything_in_memory() {
        // Reads work and writes fail, as on a full disk.
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path()).unwrap();
        spool.refuse_writes();
        let mut outbox = Outbox::new(Some(spool), LIMITS);
        for _ in 0..20 {
            outbox.push(Attempt::default(), 0, exited());
        }
        assert!(outbox.bytes() > 2000, "reporters wait by this");
        assert_eq!(outbox.after(0, 100).len(), 20);
        outbox.acknowledge(20);
        assert_eq!(outbox.bytes(), 0);
    }
}
