//! Files that hold keys: whole or not there, and nobody else's to read.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::TlsError;

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes a file that only its owner reads (0600): whole or not at all, and on disk when this returns.
///
/// # Errors
/// Where it cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), TlsError> {
    write(path, content, PRIVATE)
}

/// As [`write_private`], for everyone to read (0644).
///
/// # Errors
/// Where it cannot be written.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), TlsError> {
    write(path, content, PUBLIC)
}

/// Makes a directory that only its owner enters (0700).
pub(super) fn private_dir(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A temporary file is 0600 from its first byte on.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    if mode != PRIVATE {
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Reads a file with a key in it; one that others can read is refused.
pub(super) fn read_private(path: &Path) -> Result<secrecy::SecretString, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned() });
    }
    Ok(std::fs::read_to_string(path).map_err(failed)?.into())
}
