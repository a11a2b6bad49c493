//! What is asked of a shard, and the table in which proxies tell each other whose processes work for one transaction.
//!
//! Only what every role may see is relied on: `pg_locks` and `pg_blocking_pids`. Rows of a proxy that is gone say nothing, because the virtual
//! transactions that they name are over.

use std::fmt::Write as _;

use crate::execution::commit::id::{Proxy, TransactionId, quoted};

/// Needs the schema `trunkline`. Statements are bytes, because a database need not have their letters.
///
/// Nobody but its owner may use it: who writes here can have transactions ended, and reads statements.
pub const TABLE: &str = "CREATE UNLOGGED TABLE IF NOT EXISTS trunkline.waits (
    id text COLLATE \"C\" NOT NULL,
    pid integer NOT NULL,
    virtual_transaction text NOT NULL,
    apart boolean NOT NULL,
    statement bytea NOT NULL,
    noted timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (id, pid))";

/// One row: whether the table is there, whether the schema is.
pub const IS_THERE: &str = "SELECT pg_catalog.to_regclass('trunkline.waits') IS NOT NULL, \
    pg_catalog.to_regnamespace('trunkline') IS NOT NULL";

pub const SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS trunkline";

/// Whether other proxies can be told, and tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    There,
    Missing,
}

/// Whether the shards of a statement end on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// All are one transaction block: no shard ends before the others have done their part.
    Together,
    /// It runs outside a block: a shard that has done its part is out of it, unless the proxy makes it wait.
    Apart,
}

/// A process as a shard tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub pid: i32,
    pub virtual_transaction: Box<str>,
    pub blockers: Vec<i32>,
    pub since: Option<Box<str>>,
    pub role: Option<Box<str>>,
    pub statement: Option<Box<str>>,
    /// It waits for its client, that is, for a proxy.
    pub waits_for_client: bool,
    pub noted: Option<Noted>,
}

/// What a proxy has noted of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub id: TransactionId,
    pub ends: Ends,
    pub statement: Box<str>,
}

impl Row {
    /// Whether a transaction that ends like this cannot go on while this process does not.
    pub fn holds(&self, ends: Ends) -> bool {
        ends == Ends::Together || !self.blockers.is_empty() || self.waits_for_client
    }
}

/// Asks who waits for whom, and of these processes whatever they do.
pub fn look(pids: &[i32], table: Table) -> String {
    let noted = match table {
        Table::There => {
            "SELECT id, pid, virtual_transaction, apart, pg_catalog.encode(statement, 'hex') AS statement FROM trunkline.waits"
        }
        Table::Missing => {
            "SELECT NULL::text AS id, NULL::integer AS pid, NULL::text AS virtual_transaction, \
             NULL::boolean AS apart, NULL::text AS statement WHERE false"
        }
    };
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    // Every transaction holds a lock on its own virtual id; the rows of prepared ones have no process.
    format!(
        "WITH locks AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks WHERE pid IS NOT NULL), noted AS ({noted}) \
         SELECT own.pid, own.virtualtransaction, pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(own.pid), ','), \
         waits.since, activity.usename, activity.query, activity.wait_event IN ('ClientRead', 'ClientWrite'), \
         noted.id, noted.apart, noted.statement FROM locks own \
         LEFT JOIN (SELECT pid, pg_catalog.min(waitstart::text) AS since FROM locks WHERE NOT granted GROUP BY pid) waits \
         ON waits.pid = own.pid \
         LEFT JOIN noted ON noted.pid = own.pid AND noted.virtual_transaction = own.virtualtransaction \
         LEFT JOIN pg_catalog.pg_stat_activity activity ON activity.pid = own.pid \
         WHERE own.locktype = 'virtualxid' AND own.virtualxid = own.virtualtransaction AND own.granted \
         AND (waits.pid IS NOT NULL OR noted.pid IS NOT NULL OR own.pid = ANY ('{{{}}}'))",
        pids.join(",")
    )
}

/// Reads a row of the answer, given its columns; `None`: no server says such a thing.
pub fn read<'a>(column: impl Fn(usize) -> Option<&'a str>) -> Option<Row> {
    let text = |number| column(number).map(Box::from);
    let blockers = column(2).unwrap_or_default().split(',');
    let noted = column(7).and_then(|id| {
        Some(Noted {
            id: TransactionId::parse(id).ok()?,
            ends: match column(8)? {
                "t" => Ends::Apart,
                _ => Ends::Together,
            },
            statement: unhex(column(9)?)?,
        })
    });
    Some(Row {
        pid: column(0)?.parse().ok()?,
        virtual_transaction: text(1)?,
        // A prepared transaction has no process: it is shown as 0, and waits for nobody.
        blockers: blockers
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| *pid != 0)
            .collect(),
        since: text(3),
        role: text(4),
        statement: column(5)
            .filter(|query| !query.is_empty() && *query != "<insufficient privilege>")
            .map(Box::from),
        waits_for_client: column(6) == Some("t"),
        noted,
    })
}

/// A process that a proxy tells others of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub id: TransactionId,
    pub pid: i32,
    pub virtual_transaction: Box<str>,
    pub ends: Ends,
    pub statement: Box<str>,
}

/// Makes the rows of a proxy these and no others, and takes away what others have left behind.
pub fn note(proxy: Proxy, notes: &[Note]) -> String {
    // The proxy is the middle part of an id.
    let Proxy(proxy) = proxy;
    let mut sql = format!(
        "DELETE FROM trunkline.waits WHERE pg_catalog.split_part(id, '-', 2) = '{proxy:08x}' \
         OR noted < pg_catalog.clock_timestamp() - interval '1 minute'"
    );
    for (number, note) in notes.iter().enumerate() {
        sql += if number == 0 {
            "; INSERT INTO trunkline.waits (id, pid, virtual_transaction, apart, statement) VALUES "
        } else {
            ", "
        };
        // A string takes whatever is written.
        let _ = write!(
            sql,
            "('{}', {}, {}, {}, pg_catalog.decode('{}', 'hex'))",
            note.id,
            note.pid,
            quoted(&note.virtual_transaction),
            note.ends == Ends::Apart,
            hex(&note.statement)
        );
    }
    sql
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Box<str>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
    Some(String::from_utf8_lossy(&bytes?).into())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn rows_are_read() {
        let id = TransactionId::new(SystemTime::UNIX_EPOCH, Proxy(3)).to_string();
        let row = [
            Some("12"),
            Some("3/4"),
            Some("7,0,9"),
            Some("2024-01-01"),
            Some("app"),
            Some("<insufficient privilege>"),
            Some("f"),
            Some(&*id),
            Some("t"),
            Some("55504441544520c3a9"),
        ];
        let read = read(|column| row[column]).unwrap();
        assert_eq!(read.blockers, [7, 9]);
        assert_eq!(read.statement, None);
        let noted = read.noted.clone().unwrap();
        assert_eq!((noted.id.to_string(), noted.ends), (id, Ends::Apart));
        assert_eq!(&*noted.statement, "UPDATE \u{e9}");
        assert_eq!(hex(&noted.statement), "55504441544520c3a9");
        assert!(read.holds(Ends::Apart) && read.holds(Ends::Together));
    }

    #[test]
    fn a_shard_that_is_done_holds_nobody_up() {
        let idle = [
            Some("12"),
            Some("3/4"),
            Some(""),
            None,
            None,
            None,
            None,
            None,
            None,
            None,
        ];
        let row = read(|column| idle[column]).unwrap();
        assert!(row.blockers.is_empty());
        assert!(row.holds(Ends::Together) && !row.holds(Ends::Apart));
    }
}
