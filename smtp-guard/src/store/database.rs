//! The tables of the store: of each source its last ban, and what is counted of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::{Ban, Change, Counter, Origin, Reason, StoreError, WallTime};
use crate::addr::Ipv6Prefix;

/// Schema of this version, in `user_version`. 0 is a new file.
const SCHEMA: i64 = 2;

const CREATE: &str = "
    CREATE TABLE decisions (
        source   TEXT PRIMARY KEY,    -- 192.0.2.1, or 2001:db8::/64
        reason   TEXT NOT NULL,       -- label, as in metrics and logs
        origin   TEXT NOT NULL,       -- ledger | operator
        made     INTEGER NOT NULL,    -- ms since 1970-01-01 UTC
        until    INTEGER NOT NULL,    -- ms since 1970-01-01 UTC
        repeat   INTEGER NOT NULL,
        text     TEXT NOT NULL,
        evidence TEXT NOT NULL        -- JSON array of strings
    ) STRICT;
    CREATE INDEX decisions_until ON decisions (until);
";

/// From schema 1 to 2.
const CREATE_COUNTERS: &str = "
    CREATE TABLE counters (
        kind     TEXT NOT NULL,       -- ledger | connections | messages
        source   TEXT NOT NULL,       -- 192.0.2.1, or 2001:db8::/64
        at       INTEGER NOT NULL,    -- when it was written, ms since 1970-01-01 UTC
        state    TEXT NOT NULL,       -- JSON
        PRIMARY KEY (kind, source)
    ) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 2;
";

/// An open database.
pub(super) struct Database {
    connection: Connection,
    prefix: Ipv6Prefix,
}

impl Database {
    /// Opens `path`, or begins it. One that SQLite can't read is renamed and begun anew.
    pub(super) fn open(path: &Path, prefix: Ipv6Prefix) -> Result<Self, StoreError> {
        match Self::connect(path, prefix) {
            Err(StoreError::Database { source, .. }) if is_broken(&source) => {
                let aside = path.with_extension(format!("broken-{}", WallTime::now().as_ms()));
                let failed = |source| StoreError::Directory { directory: path.to_owned(), source };
                fs::rename(path, &aside).map_err(failed)?;
                tracing::error!(error = %source, aside = %aside.display(),
                    "the store can't be read: it was set aside and a new one is begun; decisions in it are lost");
                Self::connect(path, prefix)
            }
            result => result,
        }
    }

    fn connect(path: &Path, prefix: Ipv6Prefix) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Database { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // A crash of the machine may cost the last decisions, never the file.
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        match found {
            0 => connection.execute_batch(&format!("BEGIN;{CREATE}{CREATE_COUNTERS}COMMIT;")).map_err(failed)?,
            1 => connection.execute_batch(&format!("BEGIN;{CREATE_COUNTERS}COMMIT;")).map_err(failed)?,
            SCHEMA => {}
            _ => {
                return Err(StoreError::Newer { path: path.to_owned(), found });
            }
        }
        Ok(Self { connection, prefix })
    }

    /// All rows. One that doesn't make sense is left out and told.
    pub(super) fn load(&mut self) -> Vec<Ban> {
        match self.read() {
            Ok(bans) => bans,
            Err(error) => {
                tracing::error!(%error, "decisions can't be read from the store");
                Vec::new()
            }
        }
    }

    fn read(&self) -> rusqlite::Result<Vec<Ban>> {
        let mut statement = self
            .connection
            .prepare("SELECT source, reason, origin, made, until, repeat, text, evidence FROM decisions")?;
        let mut rows = statement.query([])?;
        let mut bans = Vec::new();
        while let Some(row) = rows.next()? {
            let source: String = row.get(0)?;
            let (reason, origin): (String, String) = (row.get(1)?, row.get(2)?);
            let evidence: String = row.get(7)?;
            let address = source.split('/').next().and_then(|address| address.parse().ok());
            let (Some(address), Some(reason), Some(origin)) =
                (address, Reason::from_label(&reason), Origin::from_label(&origin))
            else {
                tracing::warn!(source, reason, origin, "a decision in the store makes no sense and is left out");
                continue;
            };
            bans.push(Ban {
                source: self.prefix.source(address),
                reason,
                origin,
                made: WallTime::from_ms(row.get(3)?),
                until: WallTime::from_ms(row.get(4)?),
                repeat: row.get(5)?,
                text: row.get(6)?,
                evidence: serde_json::from_str(&evidence).unwrap_or_default(),
            });
        }
        Ok(bans)
    }

    /// All counters that a restart brought over.
    pub(super) fn load_counters(&mut self) -> Vec<Counter> {
        match self.read_counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::error!(%error, "counters can't be read from the store: they begin anew");
                Vec::new()
            }
        }
    }

    fn read_counters(&self) -> rusqlite::Result<Vec<Counter>> {
        let mut statement = self.connection.prepare("SELECT kind, source, state FROM counters ORDER BY at DESC")?;
        let mut rows = statement.query([])?;
        let mut counters = Vec::new();
        while let Some(row) = rows.next()? {
            let source: String = row.get(1)?;
            let Some(address) = source.split('/').next().and_then(|address| address.parse().ok()) else {
                tracing::warn!(source, "a counter in the store is of no address and is left out");
                continue;
            };
            counters.push(Counter { kind: row.get(0)?, source: self.prefix.source(address), state: row.get(2)? });
        }
        Ok(counters)
    }

    /// Writes all `changes`, or none.
    pub(super) fn apply(&mut self, changes: &[Change]) -> rusqlite::Result<()> {
        let prefix = self.prefix;
        let transaction = self.connection.transaction()?;
        for change in changes {
            match change {
                Change::Save(ban) => {
                    let evidence = serde_json::to_string(&ban.evidence).unwrap_or_default();
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO decisions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
                        .execute(params![
                            prefix.display(ban.source),
                            ban.reason.label(),
                            ban.origin.label(),
                            ban.made.as_ms(),
                            ban.until.as_ms(),
                            ban.repeat,
                            ban.text,
                            evidence
                        ])?;
                }
                Change::Remove(source) => {
                    transaction
                        .prepare_cached("DELETE FROM decisions WHERE source = ?1")?
                        .execute([prefix.display(*source)])?;
                }
                Change::Count { kind, source, state: Some(state), at } => {
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO counters VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![kind, prefix.display(*source), at.as_ms(), state])?;
                }
                Change::Count { kind, source, state: None, .. } => {
                    transaction
                        .prepare_cached("DELETE FROM counters WHERE kind = ?1 AND source = ?2")?
                        .execute(params![kind, prefix.display(*source)])?;
                }
                Change::Purge { decisions, counters } => {
                    transaction
                        .prepare_cached("DELETE FROM decisions WHERE until < ?1")?
                        .execute([decisions.as_ms()])?;
                    transaction.prepare_cached("DELETE FROM counters WHERE at < ?1")?.execute([counters.as_ms()])?;
                }
            }
        }
        transaction.commit()
    }
}

fn is_broken(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
