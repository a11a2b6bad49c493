//! Triggers that refuse writes to moving keys, as text. Pure.
//!
//! They are on every moved table of a plan's shards from its start to its end, for each kind of moving keys that the shard has. What they do
//! hangs on the plan's row in `trunkline.reshard_ledger` alone, so guards come and go without a lock on a table:
//!
//! * Every transaction that writes a moving key holds an advisory lock of its kind, shared, to its end; a prepared one too. A fence takes it
//!   exclusively: then no such transaction is open, and whoever waited for the lock sees the guard.
//! * Behind the lock the ledger is read as it is now. In READ COMMITTED each statement of a function has a snapshot of its own. In REPEATABLE READ
//!   and SERIALIZABLE the row is locked FOR SHARE, which fails (40001) when it was changed after the transaction's snapshot; a row that is
//!   not in the snapshot is younger than it.
//! * They do not fire with `session_replication_role = replica`, under which replicated rows are written and moved rows removed.

use crate::resharding::condition::quoted_name;
use crate::resharding::job::{MovingKeys, ShardName};

use super::scope::{MovedTable, Scope};

/// What a trigger refuses. Each has one, because a condition on a row's old and new values is only allowed where it has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Insert,
    Update,
    Delete,
    /// Whatever keys are guarded: the stream of changes cannot say it of some keys only. Partitions need their own, the others come from their root.
    Truncate,
}

impl Event {
    pub const ALL: [Event; 4] = [Event::Insert, Event::Update, Event::Delete, Event::Truncate];

    pub fn name(self) -> &'static str {
        match self {
            Event::Insert => "insert",
            Event::Update => "update",
            Event::Delete => "delete",
            Event::Truncate => "truncate",
        }
    }
}

/// As ledgers and names of triggers have it.
pub fn word(keys: MovingKeys) -> &'static str {
    match keys {
        MovingKeys::Leaving => "leaving",
        MovingKeys::Arriving => "arriving",
    }
}

/// The name of a trigger.
pub fn name(number: u64, keys: MovingKeys, event: Event) -> String {
    format!("trunkline_reshard_{number}_{}_{}", word(keys), event.name())
}

/// Names of all triggers of a kind.
pub fn names(number: u64, keys: MovingKeys) -> [String; 4] {
    Event::ALL.map(|event| name(number, keys, event))
}

/// The first halves of advisory locks: "trk" and a letter in ASCII. The second half is the plan's number.
const CLASS: i32 = 0x7472_6b00;

/// The advisory locks of a plan on a shard, each in two halves as `pg_advisory_xact_lock` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Of what plans have in common.
    Schema,
    /// One order to a shard after the other.
    Orders(u64),
    /// Shared by whoever writes moving keys.
    Keys(u64, MovingKeys),
}

impl Lock {
    pub fn halves(self) -> (i32, i32) {
        // Of two plans with the same lower half of their numbers one waits for the other, and nothing worse.
        let half = |number: u64| (number & 0xffff_ffff) as u32 as i32;
        match self {
            Lock::Schema => (CLASS + 0x73, 0),
            Lock::Orders(number) => (CLASS + 0x6f, half(number)),
            Lock::Keys(number, MovingKeys::Leaving) => (CLASS + 0x6c, half(number)),
            Lock::Keys(number, MovingKeys::Arriving) => (CLASS + 0x61, half(number)),
        }
    }

    /// A statement that takes it alone, until the transaction ends.
    pub fn take(self) -> String {
        let (first, second) = self.halves();
        format!("SELECT pg_catalog.pg_advisory_xact_lock({first}, {second});")
    }
}

/// What all triggers call, with the plan's number, the kind of keys, and the two halves of the lock. It is run for every row of a moving key, so
/// it has no `SET search_path` of its own: everything is named in full.
pub const FUNCTION: &str = "CREATE OR REPLACE FUNCTION trunkline.reshard_guard() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $trunkline$
DECLARE
  of_plan pg_catalog.text;
  refused pg_catalog.bool;
BEGIN
  IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
    RAISE EXCEPTION USING ERRCODE = '55006',
      MESSAGE = pg_catalog.format('table \"%s.%s\" cannot be truncated while its rows are moved between shards', TG_TABLE_SCHEMA, TG_TABLE_NAME),
      HINT = 'DELETE the rows, or wait for the end of the resharding plan.';
  END IF;
  PERFORM pg_catalog.pg_advisory_xact_lock_shared(TG_ARGV[2]::pg_catalog.int4, TG_ARGV[3]::pg_catalog.int4);
  IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.~~) 'read %' THEN
    SELECT l.name, TG_ARGV[1] OPERATOR(pg_catalog.=) ANY (l.guarded) INTO of_plan, refused FROM trunkline.reshard_ledger l
      WHERE l.number OPERATOR(pg_catalog.=) TG_ARGV[0]::pg_catalog.int8;
  ELSE
    SELECT l.name, TG_ARGV[1] OPERATOR(pg_catalog.=) ANY (l.guarded) INTO of_plan, refused FROM trunkline.reshard_ledger l
      WHERE l.number OPERATOR(pg_catalog.=) TG_ARGV[0]::pg_catalog.int8 FOR SHARE;
    IF NOT FOUND THEN
      RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'could not serialize access: the resharding of this key began after the transaction',
        HINT = 'Repeat the transaction.';
    END IF;
  END IF;
  IF refused THEN
    RAISE EXCEPTION USING ERRCODE = '40001',
      MESSAGE = pg_catalog.format('a row of table \"%s.%s\" has a key that is being moved to another shard (plan %s)', TG_TABLE_SCHEMA, TG_TABLE_NAME, of_plan),
      HINT = 'Repeat the transaction: it is then sent to the shard that has the key.';
  END IF;
  RETURN NULL;
END
$trunkline$;
REVOKE ALL ON FUNCTION trunkline.reshard_guard() FROM PUBLIC;";

/// CREATE TRIGGER on a relation (the table itself or a partition of it, as SQL names it); `None`: the shard has no such keys of this table.
pub fn create(
    scope: &Scope,
    table: &MovedTable,
    shard: &ShardName,
    keys: MovingKeys,
    event: Event,
    relation: &str,
) -> Option<String> {
    let condition = |row: &str| {
        let columns: Vec<String> = table
            .key
            .iter()
            .map(|column| format!("{row}.{}", quoted_name(column)))
            .collect();
        scope.condition_at(table, shard, keys, &columns)
    };
    let (new, old) = (condition("NEW")?, condition("OLD")?);
    let (when, clause) = match event {
        Event::Insert => ("AFTER INSERT", format!("FOR EACH ROW WHEN ({new})")),
        // Also of a key that moves and becomes one that does not: what is equal for the column's type may be two keys.
        Event::Update => (
            "AFTER UPDATE",
            format!("FOR EACH ROW WHEN ({new} OR {old})"),
        ),
        Event::Delete => ("AFTER DELETE", format!("FOR EACH ROW WHEN ({old})")),
        Event::Truncate => ("BEFORE TRUNCATE", "FOR EACH STATEMENT".to_owned()),
    };
    let number = scope.number;
    let (first, second) = Lock::Keys(number, keys).halves();
    Some(format!(
        "CREATE TRIGGER {} {when} ON {relation} {clause} EXECUTE FUNCTION trunkline.reshard_guard('{number}', '{}', '{first}', '{second}');",
        quoted_name(&name(number, keys, event)),
        word(keys),
    ))
}

/// Takes a trigger off a relation.
pub fn drop(relation: &str, trigger: &str) -> String {
    format!(
        "DROP TRIGGER IF EXISTS {} ON {relation};",
        quoted_name(trigger)
    )
}

/// Sets a trigger that somebody switched off to work again.
pub fn enable(relation: &str, trigger: &str) -> String {
    format!(
        "ALTER TABLE {relation} ENABLE TRIGGER {};",
        quoted_name(trigger)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_locks_differ() {
        let longest = name(u64::MAX, MovingKeys::Arriving, Event::Truncate);
        assert!(longest.len() <= 63, "{longest}");
        let mut locks = vec![Lock::Schema.halves()];
        for number in [1, 2, u64::from(u32::MAX)] {
            locks.push(Lock::Orders(number).halves());
            locks.push(Lock::Keys(number, MovingKeys::Leaving).halves());
            locks.push(Lock::Keys(number, MovingKeys::Arriving).halves());
        }
        let count = locks.len();
        locks.sort_unstable();
        locks.dedup();
        assert_eq!(locks.len(), count);
    }
}
