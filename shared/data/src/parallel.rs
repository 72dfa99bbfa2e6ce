//! Work over numbered items on all cores, with results in the items' order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::error::Result;

/// A progress callback: items done, items in all. It is called from worker threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Threads to use: the machine's, or `MTINET_DATA_THREADS` where that is set.
pub(crate) fn threads() -> usize {
    let asked = std::env::var("MTINET_DATA_THREADS").ok().and_then(|v| v.parse().ok());
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).max(1)
}

/// Runs `work` for 0..`count` and returns the results in order, or the error of the lowest item that failed.
///
/// Items are taken from a shared counter, so that memory is bounded by the threads and not by the items. After a
/// failure no new item is started.
pub(crate) fn map<T: Send>(
    count: usize,
    threads: usize,
    progress: Progress<'_>,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(count));
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= count {
                break;
            }
            let result = work(item);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((item, result));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, count as u64);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(worker);
        }
        worker();
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(item, _)| *item);
    results.into_iter().map(|(_, result)| result).collect()
}
