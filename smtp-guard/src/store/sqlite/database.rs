//! The tables of the store: of each source its last ban, and what is counted of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row, Transaction, params};
use smtp_guard_ebpf::reason::Reason;

use super::StoreError;
use super::directory::{own_file, with_suffix};
use crate::addr::Ipv6Prefix;
use crate::clock::WallTime;
use crate::decision::{Ban, Origin};
use crate::key::Key;
use crate::printable::printable;
use crate::store::Change;

/// Schema of this version, in `user_version`. 0 is a new file.
/// 3: a decision may be about a network; for an older version its row would be that of one source.
/// 4: or about a user, and keys of users have their prefix.
pub(super) const SCHEMA: i64 = 4;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS decisions (
        source   TEXT PRIMARY KEY,    -- a key: 192.0.2.1, 2001:db8::/64, 192.0.2.0/24, user:bob
        reason   TEXT NOT NULL,       -- label, as in metrics and logs
        origin   TEXT NOT NULL,       -- ledger | operator | operator:local | file:NAME | node:NAME
        made     INTEGER NOT NULL,    -- ms since 1970-01-01 UTC
        until    INTEGER NOT NULL,    -- ms since 1970-01-01 UTC
        repeat   INTEGER NOT NULL,
        text     TEXT NOT NULL,
        evidence TEXT NOT NULL        -- JSON array of strings
    ) STRICT;
    CREATE INDEX IF NOT EXISTS decisions_until ON decisions (until);
";

const CREATE_COUNTERS: &str = "
    CREATE TABLE IF NOT EXISTS counters (
        kind     TEXT NOT NULL,       -- ledger | connections | messages; of a user: user
        source   TEXT NOT NULL,       -- a key, as above
        at       INTEGER NOT NULL,    -- when it was written, ms since 1970-01-01 UTC
        state    TEXT NOT NULL,       -- JSON
        PRIMARY KEY (kind, source)
    ) STRICT, WITHOUT ROWID;
";

/// Rows about users as this version has them: older ones kept holds among what is counted, and names without the prefix.
const UPGRADE: &str = "
    BEGIN;
    UPDATE counters SET source = 'user:' || source WHERE kind IN ('user', 'hold');
    INSERT OR IGNORE INTO decisions
        SELECT source, 'user_held', 'operator', CAST(state ->> 'since' AS INTEGER), CAST(state ->> 'until' AS INTEGER), 0,
            CAST(state ->> 'text' AS TEXT), '[]'
        FROM counters WHERE kind = 'hold' AND json_valid(state);
    DELETE FROM counters WHERE kind = 'hold';
    PRAGMA user_version = 4;
    COMMIT;
";

/// What is read of each table.
const DECISIONS: &str = "SELECT source, reason, origin, made, until, repeat, text, evidence FROM decisions";
const COUNTERS: &str = "SELECT kind, source, state, at FROM counters ORDER BY at DESC";

/// An open database.
pub(super) struct Database {
    connection: Connection,
    prefix: Ipv6Prefix,
}

impl Database {
    /// Opens `path`, or begins it (`true`). One that is damaged is renamed and begun anew, which is said.
    pub(super) fn open(path: &Path, prefix: Ipv6Prefix) -> Result<(Self, bool), StoreError> {
        let damage = match Self::connect(path, prefix) {
            Err(StoreError::Damaged { what, .. }) => what,
            Err(StoreError::Database { source, .. }) if is_damaged(&source) => source.to_string(),
            result => return result.map(|database| (database, false)),
        };
        let aside = path.with_extension(format!("broken-{}", crate::clock::wall().as_ms()));
        let failed = |source| StoreError::Directory { directory: path.to_owned(), source };
        fs::rename(path, &aside).map_err(failed)?;
        for suffix in ["-wal", "-shm"] {
            // What belongs to the old file must not be taken for a part of the new one.
            let beside = with_suffix(path, suffix);
            if beside.exists() {
                fs::rename(&beside, with_suffix(&aside, suffix)).map_err(failed)?;
            }
        }
        tracing::error!(error = damage, aside = %aside.display(),
            "the store is damaged: it was set aside and a new one is begun; decisions in it are lost");
        own_file(path)?;
        Self::connect(path, prefix).map(|database| (database, true))
    }

    fn connect(path: &Path, prefix: Ipv6Prefix) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Database { path: path.to_owned(), source };
        let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // A crash of the machine may cost the last decisions, never the file.
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        if found > SCHEMA {
            return Err(StoreError::Newer { path: path.to_owned(), found });
        }
        let checked: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if checked != "ok" {
            return Err(damaged(checked));
        }
        // Both are of this version, or of one that had less.
        connection.execute_batch(&format!("BEGIN;{CREATE}{CREATE_COUNTERS}COMMIT;")).map_err(failed)?;
        for select in [DECISIONS, COUNTERS] {
            connection.prepare(select).map_err(|error| damaged(error.to_string()))?;
        }
        if found < SCHEMA {
            connection.execute_batch(UPGRADE).map_err(failed)?;
        }
        Ok(Self { connection, prefix })
    }

    /// All rows as changes that make them: decisions, then counters, the latest first. A row that makes no sense is left out, which
    /// is told.
    pub(super) fn load(&self) -> Vec<Change> {
        let mut alike = Alike::default();
        let bans = self.read("decisions", DECISIONS, |row| Some(Change::Save(Box::new(self.ban(row, &mut alike)?))));
        let counters = self.read("counters", COUNTERS, |row| self.counter(row));
        bans.into_iter().chain(counters).collect()
    }

    fn read(&self, table: &str, select: &str, mut change: impl FnMut(&Row<'_>) -> Option<Change>) -> Vec<Change> {
        let (mut changes, mut senseless) = (Vec::new(), Senseless::default());
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare(select)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                match change(row) {
                    Some(change) => changes.push(change),
                    None => senseless.note(row),
                }
            }
            Ok(())
        };
        if let Err(error) = read() {
            tracing::error!(%error, table, "the store can't be read to its end: the rest is lost");
        }
        senseless.tell(table);
        changes
    }

    /// The ban of a row; `None`: it makes no sense.
    fn ban(&self, row: &Row<'_>, alike: &mut Alike) -> Option<Ban> {
        let text = |column| row.get::<_, String>(column).ok();
        Some(Ban {
            key: Key::read(&text(0)?, self.prefix)?,
            reason: Reason::from_label(&text(1)?)?,
            origin: alike.origin(text(2)?)?,
            made: WallTime::from_ms(row.get(3).ok()?),
            until: WallTime::from_ms(row.get(4).ok()?),
            repeat: row.get(5).ok()?,
            text: alike.text(&text(6)?),
            evidence: serde_json::from_str::<Vec<String>>(&text(7)?).unwrap_or_default().iter().collect(),
        })
    }

    fn counter(&self, row: &Row<'_>) -> Option<Change> {
        let text = |column| row.get::<_, String>(column).ok();
        let (kind, key) = (text(0)?, Key::read(&text(1)?, self.prefix)?);
        let at = WallTime::from_ms(row.get(3).ok()?);
        Some(Change::Count { kind: kind.into(), key, state: Some(text(2)?), at })
    }

    /// Writes all `changes`, or none.
    pub(super) fn apply<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) -> rusqlite::Result<()> {
        let prefix = self.prefix;
        let transaction = self.connection.transaction()?;
        for change in changes {
            match change {
                Change::Save(ban) => save(&transaction, prefix, ban)?,
                Change::Remove(key) => {
                    transaction
                        .prepare_cached("DELETE FROM decisions WHERE source = ?1")?
                        .execute([key.text(prefix)])?;
                }
                Change::Count { kind, key, state: Some(state), at } => {
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO counters VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![kind, key.text(prefix), at.as_ms(), state])?;
                }
                Change::Count { kind, key, state: None, .. } => {
                    transaction
                        .prepare_cached("DELETE FROM counters WHERE kind = ?1 AND source = ?2")?
                        .execute(params![kind, key.text(prefix)])?;
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

fn save(transaction: &Transaction<'_>, prefix: Ipv6Prefix, ban: &Ban) -> rusqlite::Result<()> {
    let evidence = serde_json::to_string(&ban.evidence.to_vec()).unwrap_or_default();
    transaction.prepare_cached("INSERT OR REPLACE INTO decisions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(
        params![
            ban.key.text(prefix),
            ban.reason.label(),
            ban.origin.to_string(),
            ban.made.as_ms(),
            ban.until.as_ms(),
            ban.repeat,
            ban.text,
            evidence
        ],
    )?;
    Ok(())
}

/// What the row before had: bans that came together share it.
#[derive(Default)]
struct Alike {
    origin: Option<(String, Origin)>,
    text: Arc<str>,
}

impl Alike {
    fn origin(&mut self, text: String) -> Option<Origin> {
        match &self.origin {
            Some((before, origin)) if *before == text => Some(origin.clone()),
            _ => {
                let origin: Origin = text.parse().ok()?;
                self.origin = Some((text, origin.clone()));
                Some(origin)
            }
        }
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if *self.text != *text {
            self.text = text.into();
        }
        Arc::clone(&self.text)
    }
}

/// Rows that make no sense: left out, and told together.
#[derive(Default)]
struct Senseless {
    rows: u64,
    first: String,
}

impl Senseless {
    fn note(&mut self, row: &Row<'_>) {
        self.rows += 1;
        if self.rows == 1 {
            self.first = row.get(0).unwrap_or_default();
        }
    }

    fn tell(self, table: &str) {
        if self.rows > 0 {
            let first = printable(self.first.as_bytes());
            tracing::warn!(table, rows = self.rows, first, "rows of the store can't be read, and are left out");
        }
    }
}

/// Whether it is the file that is damaged.
pub(super) fn is_damaged(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
