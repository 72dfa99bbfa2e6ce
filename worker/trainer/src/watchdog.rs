//! Ends a gang that hangs, and names the rank that did not arrive.
//!
//! Every rank writes how far it is into the gang's store, from a thread of its own, and reads how far the others are. A
//! collective that hangs stops all of them; when none has made progress for the whole timeout, a rank that is not
//! itself behind says which one is, and ends. Its agent and the coordinator do the rest. What one rank alone does (an
//! evaluation, a checkpoint, waiting for its agent) is progress too: those who wait for it tell their agents that they
//! are well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mtinet_proto::v1::{TrainerFailed, TrainerWorking, from_trainer::Message};
use mtinet_torch_ext::{TcpStore, TorchExtError};

use crate::connection::Writer;

/// How this rank works, told by the thread that does it.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    step: AtomicU64,
    work: AtomicU64,
    talking: AtomicBool,
    over: AtomicBool,
}

impl Activity {
    /// The rank takes up its next piece of work, in this step.
    pub(crate) fn working(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
        self.work.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs `talk`, for as long as which the agent keeps the rank waiting.
    pub(crate) fn talk<T>(&self, talk: impl FnOnce() -> T) -> T {
        self.talking.store(true, Ordering::Relaxed);
        let result = talk();
        self.talking.store(false, Ordering::Relaxed);
        self.work.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn sign(&self, beat: u64) -> Sign {
        let waits = self.talking.load(Ordering::Relaxed);
        let work = self.work.load(Ordering::Relaxed) + if waits { beat } else { 0 };
        Sign { step: self.step.load(Ordering::Relaxed), work, beat, over: self.over.load(Ordering::Relaxed) }
    }
}

/// Where the gang's store listens, and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
}

/// The watch over a gang, kept by each of its ranks.
pub(crate) struct Watchdog {
    store: Arc<TcpStore>,
    rank: usize,
    activity: Arc<Activity>,
}

impl Watchdog {
    /// Before anyone reads it: the rank's first sign.
    pub(crate) fn enrol(store: &TcpStore, rank: usize) -> Result<(), TorchExtError> {
        store.set(&key(rank), Sign::default().write().as_bytes())
    }

    /// Watches from now on. All ranks are [enrolled](Self::enrol).
    pub(crate) fn start(
        store: Arc<TcpStore>,
        place: Place,
        timeout: Duration,
        activity: &Arc<Activity>,
        agent: Writer,
    ) -> Self {
        let watchdog = Self { store, rank: place.rank, activity: Arc::clone(activity) };
        let watch = Arc::new(Mutex::new(Watch::new(place.rank, place.world_size, timeout, Instant::now())));
        let interval = (timeout / 20).clamp(Duration::from_millis(50), Duration::from_secs(5));
        // Two threads: a request to a store whose process is stopped never returns.
        let (asking, own) = (Arc::clone(&watch), Arc::clone(activity));
        std::thread::spawn(move || ask(&place, interval, &asking, &own));
        let own = Arc::clone(activity);
        std::thread::spawn(move || judge(interval, &watch, &own, &agent));
        watchdog
    }

    /// This rank's part is done: the others need not wait for it.
    pub(crate) fn finish(&self) {
        self.activity.over.store(true, Ordering::Relaxed);
        // Where the store is gone, so is everyone who would read it.
        let _ = self.store.set(&key(self.rank), self.activity.sign(u64::MAX).write().as_bytes());
    }
}

/// Writes this rank's signs and reads the others' until the rank is over. A connection that is lost is made anew: the
/// gang's own may be whole, and without the others' signs this rank would have to guess.
fn ask(place: &Place, interval: Duration, watch: &Mutex<Watch>, activity: &Activity) {
    let mut beat = 0;
    while !activity.over.load(Ordering::Relaxed) {
        // The connecting is a question too: from here on the store owes an answer.
        lock(watch).asks(activity.sign(beat), Instant::now());
        let asked = TcpStore::connect(&place.host, place.port, place.world_size, interval * 20)
            .and_then(|store| ask_through(&store, &mut beat, place, interval, watch, activity));
        if let Err(error) = asked {
            if activity.over.load(Ordering::Relaxed) {
                return;
            }
            eprintln!("warning: the watchdog asks the gang's store again: {error}");
            std::thread::sleep(interval);
        }
    }
}

fn ask_through(
    store: &TcpStore,
    beat: &mut u64,
    place: &Place,
    interval: Duration,
    watch: &Mutex<Watch>,
    activity: &Activity,
) -> Result<(), TorchExtError> {
    while !activity.over.load(Ordering::Relaxed) {
        *beat += 1;
        let mine = activity.sign(*beat);
        lock(watch).asks(mine, Instant::now());
        store.set(&key(place.rank), mine.write().as_bytes())?;
        for rank in (0..place.world_size).filter(|&rank| rank != place.rank) {
            let value = store.get(&key(rank))?;
            if let Some(sign) = Sign::read(&value) {
                lock(watch).sees(rank, sign, Instant::now());
            }
        }
        lock(watch).answered(Instant::now());
        std::thread::sleep(interval);
    }
    Ok(())
}

/// Ends the process when the gang hangs; as long as it does not, the agent hears that this rank is well, also while it
/// waits for another's work.
fn judge(interval: Duration, watch: &Mutex<Watch>, activity: &Activity, agent: &Writer) {
    let mut told = Instant::now();
    while !activity.over.load(Ordering::Relaxed) {
        std::thread::sleep(interval);
        let (verdict, worked, now) = {
            let (mut watch, now) = (lock(watch), Instant::now());
            watch.works(activity.sign(0), now);
            (watch.verdict(now), watch.worked(), now)
        };
        let step = activity.step.load(Ordering::Relaxed);
        if let Some(Verdict { missing, message }) = verdict {
            tracing::error!("{message}");
            let step = Some(step.saturating_sub(1));
            let missing = missing.into_iter().filter_map(|rank| u32::try_from(rank).ok()).collect();
            // Its exit code tells the agent too, should this not get through.
            agent.send(Message::Failed(TrainerFailed { message, step, missing })).ok();
            mtinet_torch_ext::exit_now(1);
        }
        if worked > told {
            told = now;
            // A broken socket ends the trainer by its reading end.
            agent.send(Message::Working(TrainerWorking { step })).ok();
        }
    }
}

fn key(rank: usize) -> String {
    format!("watch/{rank}")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What a thread that panicked has seen is still true.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far a rank is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sign {
    /// The step that it works on, from 1; 0 before the first.
    step: u64,
    /// Pieces of work taken up.
    work: u64,
    /// Times that it wrote this: its process lives and reaches the store.
    beat: u64,
    /// It has done its part.
    over: bool,
}

impl Sign {
    fn write(self) -> String {
        format!("{} {} {} {}", self.step, self.work, self.beat, u8::from(self.over))
    }

    fn read(text: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(text).ok()?.split(' ').map(str::parse::<u64>);
        let mut field = || fields.next()?.ok();
        Some(Self { step: field()?, work: field()?, beat: field()?, over: field()? != 0 })
    }
}

/// Why a gang is ended.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// The ranks that did not arrive, ascending; none where all wait for each other.
    missing: Vec<usize>,
    message: String,
}

/// What one rank knows of all.
struct Watch {
    mine: usize,
    timeout: Duration,
    ranks: Vec<Seen>,
    /// Since when the store has not answered.
    asking: Option<Instant>,
    /// When it answered last: what is known of the others is that old.
    answered: Instant,
}

#[derive(Clone, Copy)]
struct Seen {
    sign: Sign,
    worked: Instant,
    lived: Instant,
}

impl Watch {
    fn new(mine: usize, world_size: usize, timeout: Duration, now: Instant) -> Self {
        let seen = Seen { sign: Sign::default(), worked: now, lived: now };
        Self { mine, timeout, ranks: vec![seen; world_size], asking: None, answered: now }
    }

    fn asks(&mut self, mine: Sign, now: Instant) {
        self.works(mine, now);
        self.asking.get_or_insert(now);
    }

    fn answered(&mut self, now: Instant) {
        self.asking = None;
        self.answered = now;
    }

    /// When any rank of the gang made progress last, as far as is known.
    fn worked(&self) -> Instant {
        self.ranks.iter().map(|seen| seen.worked).fold(self.ranks[self.mine].worked, Instant::max)
    }

    /// This rank needs no store to know of itself.
    fn works(&mut self, mine: Sign, now: Instant) {
        let rank = self.mine;
        self.sees(rank, mine, now);
        self.ranks[rank].lived = now;
    }

    fn sees(&mut self, rank: usize, sign: Sign, now: Instant) {
        let seen = &mut self.ranks[rank];
        if (seen.sign.step, seen.sign.work) != (sign.step, sign.work) {
            seen.worked = now;
        }
        if seen.sign.beat != sign.beat {
            seen.lived = now;
        }
        seen.sign = sign;
    }

    /// Why the gang is to end, where this rank is one to say so.
    fn verdict(&self, now: Instant) -> Option<Verdict> {
        let older = |then: Instant, age: Duration| now.saturating_duration_since(then) >= age;
        let here: Vec<usize> = (0..self.ranks.len()).filter(|&rank| !self.ranks[rank].sign.over).collect();
        let alone = here.iter().all(|&rank| rank == self.mine);
        if alone || here.iter().any(|&rank| !older(self.ranks[rank].worked, self.timeout)) {
            return None;
        }
        let end = format!(
            "no rank made progress for {:?} (worker.hang_timeout), so the attempt is ended",
            self.timeout
        );
        let step = self.ranks[self.mine].sign.step;
        let absent = |missing: Vec<usize>, how: &str| {
            let message = format!("{} did not arrive in step {step}: {how}; {end}", named(&missing));
            Some(Verdict { missing, message })
        };
        // A stopped process, or one behind a broken link, is silent about as long as nothing has moved.
        let patience = self.timeout / 2;
        if self.mine != 0 && self.asking.is_some_and(|since| older(since, patience)) {
            return absent(vec![0], "it hosts the gang's store and does not answer any more");
        }
        // Nothing new is known of the others, who may all be well.
        if older(self.answered, patience) {
            return None;
        }
        let others = || here.iter().copied().filter(|&rank| rank != self.mine);
        let silent: Vec<usize> = others().filter(|&rank| older(self.ranks[rank].lived, patience)).collect();
        if !silent.is_empty() {
            return absent(silent, "nothing is heard of its process any more");
        }
        let behind: Vec<usize> = others().filter(|&rank| self.ranks[rank].sign.step < step).collect();
        if let Some(&first) = behind.first() {
            let at = self.ranks[first].sign.step;
            return absent(behind, &format!("its process lives but is still in step {at}"));
        }
        // One that is itself behind leaves the word to those who wait for it.
        let first = here.iter().all(|&rank| self.ranks[rank].sign.step == step);
        let message = format!("all ranks are in step {step} and wait for each other; {end}");
        first.then_some(Verdict { missing: Vec::new(), message })
    }
}

fn named(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn sign(step: u64, beat: u64) -> Sign {
        Sign { step, work: step, beat, over: false }
    }

    /// A gang in which rank 2 stays in step 4 while the others go on to step 5, seen by `mine` when all is still.
    fn stuck(mine: usize, lives: bool) -> (Watch, Instant) {
        let start = Instant::now();
        let mut watch = Watch::new(mine, 3, TIMEOUT, start);
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            assert_eq!(watch.verdict(now), None, "too early");
            for rank in 0..3 {
                let beat = if rank == 2 && !lives { 1 } else { second + 1 };
                watch.sees(rank, sign(if rank == 2 { 4 } else { 5 }, beat), now);
            }
            watch.works(sign(if mine == 2 { 4 } else { 5 }, 0), now);
            watch.answered(now);
        }
        (watch, start + TIMEOUT)
    }

    #[test]
    fn signs_read_back() {
        let sign = Sign { over: true, ..sign(3, u64::MAX) };
        assert_eq!(Sign::read(sign.write().as_bytes()), Some(sign));
        assert_eq!(Sign::read(b"1 2 x 0"), None);
    }

    #[test]
    fn a_rank_that_is_behind_is_named_by_those_who_wait() {
        let (watch, now) = stuck(0, true);
        let Verdict { missing, message } = watch.verdict(now).unwrap();
        assert_eq!(missing, [2]);
        assert!(message.starts_with("rank 2 did not arrive in step 5: its process lives"), "{message}");
        let (watch, now) = stuck(2, true);
        assert_eq!(watch.verdict(now), None, "it leaves the word to the others");
    }

    #[test]
    fn a_process_that_is_stopped_is_named() {
        let (watch, now) = stuck(1, false);
        let Verdict { missing, message } = watch.verdict(now).unwrap();
        assert_eq!(missing, [2]);
        assert!(message.starts_with("rank 2 did not arrive in step 5: nothing is heard"), "{message}");
    }

    #[test]
    fn a_store_that_does_not_answer_is_rank_0() {
        let (mut watch, now) = stuck(1, false);
        watch.asks(sign(5, 0), now - TIMEOUT / 2);
        watch.asks(sign(5, 0), now - TIMEOUT / 4);
        let Verdict { missing, message } = watch.verdict(now).unwrap();
        assert_eq!(missing, [0]);
        assert!(message.starts_with("rank 0 did not arrive"), "{message}");
    }

    #[test]
    fn who_does_not_reach_the_store_knows_nothing_of_the_others() {
        let start = Instant::now();
        for mine in [0, 1] {
            let mut watch = Watch::new(mine, 3, TIMEOUT, start);
            (0..3).for_each(|rank| watch.sees(rank, sign(5, 1), start));
            // The connection is lost while the others go on; they are not accused of it.
            watch.answered(start);
            assert_eq!(watch.verdict(start + TIMEOUT * 2), None, "rank {mine}");
            // Once it is made anew, their progress is seen before they are judged.
            watch.asks(sign(5, 2), start + TIMEOUT * 2);
            watch.sees(2, sign(6, 30), start + TIMEOUT * 2);
            watch.answered(start + TIMEOUT * 2);
            assert_eq!(watch.verdict(start + TIMEOUT * 2), None, "rank {mine}");
            assert_eq!(watch.worked(), start + TIMEOUT * 2);
        }
    }

    #[test]
    fn work_of_one_rank_is_progress_of_all_and_what_is_over_is_not_waited_for() {
        let (mut watch, now) = stuck(1, true);
        watch.sees(0, Sign { work: 9, ..sign(5, 11) }, now);
        assert_eq!(watch.verdict(now + TIMEOUT / 2), None);
        let (mut watch, now) = stuck(0, true);
        for rank in [1, 2] {
            watch.sees(rank, Sign { over: true, ..sign(5, 12) }, now);
        }
        assert_eq!(watch.verdict(now + TIMEOUT * 2), None, "rank 0 alone writes the results");
    }

    #[test]
    fn waiting_for_the_agent_is_no_hang() {
        let activity = Activity::default();
        activity.working(3);
        let before = activity.sign(1);
        activity.talk(|| assert_ne!(activity.sign(2).work, before.work));
        assert_eq!((activity.sign(3).step, activity.sign(3).work), (3, 2));
    }
}
