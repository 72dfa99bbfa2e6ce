//! The tokens that were handed out and the identities that they bought, on disk.
//!
//! A token's secret is stored as its BLAKE3 hash. It has 256 random bits, so that a slow hash would add nothing.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mtinet_proto::v1::TokenState;
use mtinet_runtime::tls::{Fingerprint, Role, Subject, TlsError, Token, utc};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use secrecy::SecretString;

use crate::server::store::StoreError;

const VERSION: u32 = 1;

const TABLES: &str = "
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    hash BLOB NOT NULL,
    by TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    revoked_ms INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE identities (
    id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    key BLOB NOT NULL,
    joined_ms INTEGER NOT NULL,
    renewed_ms INTEGER NOT NULL,
    revoked_ms INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX identities_of_token ON identities (token);
PRAGMA user_version = 1;
";

/// Tokens that are over are listed this much longer.
const LISTED_MS: u64 = 30 * 24 * 3_600_000;

/// The registry failed, or refuses in words.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// SQLite refuses: the disk is full or read-only, the file is damaged.
    #[error("the registry of identities failed")]
    Sqlite(#[source] StoreError),
    /// Written by a newer mtinet.
    #[error("the registry of identities has schema {0}, this mtinet knows {VERSION}; use a newer mtinet")]
    Schema(u32),
    /// No randomness.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token or identity buys nothing.
    #[error("{0}")]
    Refused(String),
}

impl From<rusqlite::Error> for RegistryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(StoreError::sqlite("use it")(error))
    }
}

/// A token that was just made.
#[derive(Debug)]
pub struct MadeToken {
    /// The token.
    pub token: Token,
    /// Its end, milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

/// Tokens and identities. Cheap to clone; its calls block for the time of a disk's flush.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Mutex<Connection>>);

impl Registry {
    /// The registry in a file, which is made where it is missing, for its owner alone.
    ///
    /// # Errors
    /// A file that cannot be written or is none of ours.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let connection = Connection::open(path)?;
        // FULL: a token that was used stays used after a power cut.
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
        let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match found {
            0 => connection.execute_batch(&format!("BEGIN; {TABLES} COMMIT;"))?,
            VERSION => {}
            newer => return Err(RegistryError::Schema(newer)),
        }
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Makes a token.
    ///
    /// # Errors
    /// A disk that takes nothing.
    pub fn create_token(
        &self,
        role: Role,
        fingerprint: Fingerprint,
        (ttl, uses): (Duration, u32),
        by: &str,
        now_ms: u64,
    ) -> Result<MadeToken, RegistryError> {
        let token = Token::generate(role, fingerprint)?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        // SQLite's integers are signed.
        let expires_ms = now_ms.saturating_add(ttl_ms).min(i64::MAX.cast_unsigned());
        self.lock().execute(
            "INSERT INTO tokens (id, role, hash, by, created_ms, expires_ms, uses) VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                token.id,
                role.as_str(),
                Token::hash(&token.secret).as_bytes(),
                by,
                now_ms,
                expires_ms,
                uses.max(1)
            ],
        )?;
        Ok(MadeToken { token, expires_ms })
    }

    /// Spends one use of a token for a new identity. The same token with the same key gets its identity again.
    ///
    /// # Errors
    /// Refusals tell why only to those who know the secret.
    pub fn redeem(
        &self,
        id: &str,
        secret: &SecretString,
        key: &[u8],
        name: &str,
        now_ms: u64,
    ) -> Result<Subject, RegistryError> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stored = transaction
            .query_row(
                "SELECT role, hash, expires_ms, uses, revoked_ms FROM tokens WHERE id = ?",
                [id],
                stored,
            )
            .optional()?;
        // Compared in constant time, also where there is no such token.
        let given = Token::hash(secret);
        let right = stored.as_ref().map_or(blake3::Hash::from_bytes([0; 32]), |stored| stored.hash) == given;
        let Some(stored) = stored.filter(|_| right) else {
            return Err(RegistryError::Refused(
                "this token is not known here; `mtinet token create --role ROLE` on the coordinator's machine makes one"
                    .to_owned(),
            ));
        };
        if let Some(known) = joined_with(&transaction, id, key)? {
            return Ok(known);
        }
        check(&transaction, id, &stored, now_ms)?;
        let subject = Subject::new(stored.role, uuid::Uuid::new_v4().to_string(), name);
        transaction.execute(
            "INSERT INTO identities (id, role, name, token, key, joined_ms, renewed_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![subject.id, subject.role.as_str(), subject.name, id, key_hash(key), now_ms, now_ms],
        )?;
        transaction.commit()?;
        Ok(subject)
    }

    /// Notes that an identity is renewed.
    ///
    /// # Errors
    /// One that is not known, or revoked.
    pub fn renew(&self, id: &str, now_ms: u64) -> Result<(), RegistryError> {
        let changed = self.lock().execute(
            "UPDATE identities SET renewed_ms = ? WHERE id = ? AND revoked_ms = 0",
            params![now_ms, id],
        )?;
        if changed == 1 {
            return Ok(());
        }
        Err(RegistryError::Refused("this identity cannot be renewed; get a new one with a token".to_owned()))
    }

    /// All tokens that are not long over, the newest last.
    ///
    /// # Errors
    /// A disk that gives nothing.
    pub fn tokens(&self) -> Result<Vec<TokenState>, RegistryError> {
        let connection = self.lock();
        let mut names =
            connection.prepare("SELECT name FROM identities WHERE token = ? ORDER BY joined_ms")?;
        let mut tokens = connection.prepare(
            "SELECT id, role, created_ms, expires_ms, by, uses, revoked_ms,
                (SELECT COUNT(*) FROM identities WHERE token = tokens.id),
                (SELECT COALESCE(MAX(joined_ms), 0) FROM identities WHERE token = tokens.id)
             FROM tokens ORDER BY created_ms, id",
        )?;
        let rows = tokens.query_map([], |row| {
            Ok(TokenState {
                id: row.get(0)?,
                role: row.get(1)?,
                created_ms: row.get(2)?,
                expires_ms: row.get(3)?,
                by: row.get(4)?,
                uses: row.get(5)?,
                revoked_ms: row.get(6)?,
                used: row.get(7)?,
                last_used_ms: row.get(8)?,
                joined: Vec::new(),
            })
        })?;
        let mut states = rows.collect::<Result<Vec<_>, _>>()?;
        for state in &mut states {
            state.joined = names.query_map([&state.id], |row| row.get(0))?.collect::<Result<_, _>>()?;
        }
        Ok(states)
    }

    /// Revokes a token and the identities that it bought, whose ids it returns; `None` where there is no such token.
    ///
    /// # Errors
    /// A disk that takes nothing.
    pub fn revoke(&self, id: &str, now_ms: u64) -> Result<Option<Vec<String>>, RegistryError> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let known = transaction.execute(
            "UPDATE tokens SET revoked_ms = CASE revoked_ms WHEN 0 THEN ? ELSE revoked_ms END WHERE id = ?",
            params![now_ms, id],
        )?;
        if known == 0 {
            return Ok(None);
        }
        transaction.execute(
            "UPDATE identities SET revoked_ms = ? WHERE token = ? AND revoked_ms = 0",
            params![now_ms, id],
        )?;
        let ids = ids(&transaction, "SELECT id FROM identities WHERE token = ?", [id])?;
        transaction.commit()?;
        Ok(Some(ids))
    }

    /// The ids of all identities that are refused.
    ///
    /// # Errors
    /// A disk that gives nothing.
    pub fn revoked(&self) -> Result<HashSet<String>, RegistryError> {
        Ok(ids(&self.lock(), "SELECT id FROM identities WHERE revoked_ms > 0", [])?.into_iter().collect())
    }

    /// Forgets tokens that were over long ago and bought nothing that must be remembered.
    ///
    /// # Errors
    /// A disk that takes nothing.
    pub fn prune(&self, now_ms: u64) -> Result<(), RegistryError> {
        self.lock().execute(
            "DELETE FROM tokens WHERE expires_ms < ? AND id NOT IN (SELECT token FROM identities)",
            [now_ms.saturating_sub(LISTED_MS)],
        )?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic between statements rolls back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Stored {
    role: Role,
    hash: blake3::Hash,
    expires_ms: u64,
    uses: u32,
    revoked_ms: u64,
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let (role, hash): (String, [u8; 32]) = (row.get(0)?, row.get(1)?);
    Ok(Stored {
        role: role.parse().map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
        })?,
        hash: blake3::Hash::from_bytes(hash),
        expires_ms: row.get(2)?,
        uses: row.get(3)?,
        revoked_ms: row.get(4)?,
    })
}

/// Whether a token whose secret was given still buys something.
fn check(transaction: &Transaction<'_>, id: &str, token: &Stored, now_ms: u64) -> Result<(), RegistryError> {
    let refused = |problem: String| {
        Err(RegistryError::Refused(format!(
            "this token {problem}; `mtinet token create --role {}` on the coordinator's machine makes a new one",
            token.role
        )))
    };
    if token.revoked_ms > 0 {
        return refused(format!("was revoked at {}", utc(token.revoked_ms / 1000)));
    }
    let (used, last): (u32, Option<(u64, String)>) = transaction.query_row(
        "SELECT COUNT(*), MAX(joined_ms), name FROM identities WHERE token = ?",
        [id],
        |row| Ok((row.get(0)?, row.get::<_, Option<u64>>(1)?.zip(row.get(2)?))),
    )?;
    if used >= token.uses {
        let (at, by) = last.unwrap_or_default();
        let spent = if token.uses == 1 { "was used" } else { "is used up; the last use was" };
        return refused(format!("{spent} at {} by {by}", utc(at / 1000)));
    }
    if now_ms >= token.expires_ms {
        return refused(format!("expired at {}", utc(token.expires_ms / 1000)));
    }
    Ok(())
}

/// The identity that this token bought for this key, where the answer was lost.
fn joined_with(
    transaction: &Transaction<'_>,
    token: &str,
    key: &[u8],
) -> Result<Option<Subject>, RegistryError> {
    let row = transaction
        .query_row(
            "SELECT role, id, name FROM identities WHERE token = ? AND key = ? AND revoked_ms = 0",
            params![token, key_hash(key)],
            |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, String>(2)?)),
        )
        .optional()?;
    Ok(row.and_then(|(role, id, name)| Some(Subject::new(role.parse().ok()?, id, &name))))
}

fn key_hash(key: &[u8]) -> [u8; 32] {
    *blake3::hash(key).as_bytes()
}

fn ids(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<String>> {
    connection.prepare(query)?.query_map(parameters, |row| row.get(0))?.collect()
}
