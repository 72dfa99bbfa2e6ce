//! The directory that a coordinator owns.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{NFS_SUPER_MAGIC, statfs};

use super::error::ServerError;

/// The event log's file in a data directory.
pub const DATABASE: &str = "events.db";

/// The file of facts about workers in a data directory.
pub const FLEET: &str = "fleet.db";

/// What trainers wrote, in a data directory.
pub const LOGS: &str = "logs";

/// A data directory that no other coordinator serves while this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory where it is missing, and takes it.
    ///
    /// # Errors
    /// Where it cannot be written, is on NFS, or another coordinator has it.
    pub fn open(path: &Path) -> Result<Self, ServerError> {
        let refused = |source: io::Error| ServerError::DataDir { path: path.to_owned(), source };
        // Results and predictions are of patients: nobody else's on this machine, whatever the umask is.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refused)?;
        if statfs(path).map_err(|errno| refused(errno.into()))?.filesystem_type() == NFS_SUPER_MAGIC {
            return Err(ServerError::NetworkFileSystem { path: path.to_owned() });
        }
        // The lock goes with the process, however that ends.
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(ServerError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(refused(source)),
        }
    }

    /// The event log.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The log of facts about workers.
    pub fn fleet(&self) -> PathBuf {
        self.path.join(FLEET)
    }

    /// The artifact store's directory.
    pub fn artifacts(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// Which files belong to which data set.
    pub fn datasets(&self) -> PathBuf {
        self.path.join("datasets")
    }

    /// What trainers wrote.
    pub fn logs(&self) -> PathBuf {
        self.path.join(LOGS)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_data_directory_that_is_made_is_its_owner_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs").join("data");
        let held = DataDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert!(matches!(DataDir::open(&path), Err(ServerError::InUse { .. })));
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn the_mode_of_one_that_is_there_is_its_owner_s_to_choose() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o750)).unwrap();
        let _held = DataDir::open(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o750);
    }
}
