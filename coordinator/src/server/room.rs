//! What uploads may take of the coordinator's disk and memory.
//!
//! The event log is on the same disk as the files, and a coordinator that cannot write it ends. So files leave a reserve,
//! and what an upload has announced counts as taken from the start: uploads that begin together cannot each be promised
//! the same room.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Files leave this much of the disk to the event log, or a fiftieth of a small disk.
const RESERVE_BYTES: u64 = 1 << 30;

/// What is taken of those who upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// Length of one file at most.
    pub file_bytes: u64,
    /// Uploads under way at once, each of which holds one part in memory; others wait.
    pub at_once: usize,
    /// An upload of which nothing arrives for this long is given up.
    pub silence: Duration,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self { file_bytes: 64_000_000_000, at_once: 32, silence: Duration::from_secs(60) }
    }
}

/// The disk under a directory, as uploads see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Room {
    dir: Arc<Path>,
    limits: UploadLimits,
    places: Arc<Semaphore>,
    /// Bytes that were promised to uploads and are not on the disk yet.
    promised: Arc<Mutex<u64>>,
}

impl Room {
    /// The room in a directory.
    pub fn new(dir: &Path, limits: UploadLimits) -> Self {
        let places = Arc::new(Semaphore::new(limits.at_once));
        Self { dir: dir.into(), limits, places, promised: Arc::default() }
    }

    /// What it was made with.
    pub fn limits(&self) -> UploadLimits {
        self.limits
    }

    /// Keeps room for a file of so many bytes; waits while too many uploads are under way.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` for a file that is longer than any may be, `UNAVAILABLE` where the disk does not take it now.
    pub async fn keep(&self, bytes: u64) -> Result<Kept, Status> {
        let most = self.limits.file_bytes;
        if bytes > most {
            return Err(Status::failed_precondition(format!(
                "a file of {bytes} bytes is longer than the {most} that this coordinator takes \
                 (coordinator.max_artifact_gb)"
            )));
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| Status::unavailable("the coordinator is shutting down"))?;
        let mut promised = self.promised();
        self.check_beside(*promised, bytes)?;
        *promised += bytes;
        drop(promised);
        Ok(Kept { room: self.clone(), left: bytes, _place: place })
    }

    /// Whether the disk takes so many bytes more, beside what is promised.
    ///
    /// # Errors
    /// `UNAVAILABLE` in words: later, perhaps.
    pub fn check(&self, bytes: u64) -> Result<(), Status> {
        self.check_beside(*self.promised(), bytes)
    }

    fn check_beside(&self, promised: u64, bytes: u64) -> Result<(), Status> {
        // Where the system does not say, the disk does, in time.
        let Ok(disk) = statvfs(&*self.dir) else { return Ok(()) };
        let free = disk.blocks_available() * disk.fragment_size();
        let reserve = reserve(disk.blocks() * disk.fragment_size());
        if has_room(free, reserve, promised, bytes) {
            return Ok(());
        }
        let dir = self.dir.display();
        Err(Status::unavailable(format!(
            "the disk of the coordinator is nearly full: {free} bytes are free in {dir}, {reserve} of them kept for the \
             event log and {promised} for files that are arriving, and {bytes} are to be stored; free space there"
        )))
    }

    fn promised(&self) -> MutexGuard<'_, u64> {
        // The number is whole at every panic.
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that is kept for one upload, until it is dropped.
#[derive(Debug)]
pub struct Kept {
    room: Room,
    left: u64,
    _place: OwnedSemaphorePermit,
}

impl Kept {
    /// So many bytes are on the disk now, where the system counts them.
    pub fn use_up(&mut self, bytes: u64) {
        let used = bytes.min(self.left);
        self.left -= used;
        let mut promised = self.room.promised();
        *promised = promised.saturating_sub(used);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.use_up(self.left);
    }
}

/// What files leave of a disk of `total` bytes.
fn reserve(total: u64) -> u64 {
    RESERVE_BYTES.min(total / 50)
}

/// Whether so many bytes fit onto what is free without what is kept and what is promised.
fn has_room(free: u64, reserve: u64, promised: u64, bytes: u64) -> bool {
    free.saturating_sub(reserve).saturating_sub(promised) >= bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn without_limit() -> UploadLimits {
        UploadLimits { file_bytes: u64::MAX, ..UploadLimits::default() }
    }

    #[test]
    fn files_leave_a_gibibyte_or_a_fiftieth_of_a_small_disk() {
        assert_eq!((reserve(500 * GIB), reserve(50 * GIB), reserve(10 * GIB)), (GIB, GIB, 10 * GIB / 50));
        assert!(has_room(3 * GIB, GIB, 0, 2 * GIB), "to the last byte");
        assert!(!has_room(3 * GIB, GIB, 0, 2 * GIB + 1));
        assert!(!has_room(3 * GIB, GIB, 1, 2 * GIB), "what is promised is taken");
        // The log may have used up what is kept for it.
        assert!(!has_room(GIB / 2, GIB, 0, 1));
        assert!(has_room(GIB / 2, GIB, 7, 0), "nothing always fits");
    }

    #[tokio::test]
    async fn uploads_that_begin_together_are_not_promised_the_same_room() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), without_limit());
        let disk = statvfs(dir.path()).unwrap();
        let most = disk.blocks_available() * disk.fragment_size();
        // Others may write here meanwhile, but not half of what is free.
        let large = most / 3 * 2;
        let mut first = room.keep(large).await.unwrap();
        let refused = room.keep(large).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        assert!(refused.message().contains(&format!("{large} for files that are arriving")), "{refused}");
        assert!(room.check(large).is_err(), "logs wait as well");
        // Half of it is written, as far as this counts: then only the other half is still to come.
        first.use_up(large / 2);
        assert!(room.check(most / 3).is_ok());
        assert!(room.check(large).is_err());
        drop(first);
        assert_eq!(*room.promised(), 0);
        room.keep(large).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_longer_than_any_may_be_is_refused_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), UploadLimits { file_bytes: 9, ..UploadLimits::default() });
        room.keep(9).await.unwrap();
        let refused = room.keep(10).await.unwrap_err();
        // Agents try again after most codes, but not after this one.
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("max_artifact_gb"), "{refused}");
    }

    #[tokio::test]
    async fn uploads_beyond_the_limit_wait_for_one_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), UploadLimits { at_once: 1, ..UploadLimits::default() });
        let first = room.keep(1).await.unwrap();
        let mut second = std::pin::pin!(room.keep(1));
        assert!(futures::poll!(second.as_mut()).is_pending());
        drop(first);
        second.await.unwrap();
    }
}
