//! Whether a statement only reads. Whoever commits on several shards asks: a commit that makes nothing last may get lost.

use crate::catalog::{Catalog, SearchPath};
use crate::sql::class::{Class, Copy, CopyDirection, CopySource};
use crate::sql::facts::{Access, Doubt, Facts, Name, Source};
use crate::sql::{self, Body, Statement};

use super::Effect;
use super::functions::may_write;
use super::scope::{Known, Meaning};
use super::spread::definitions::is_upkeep;

/// Reads only when that is proven. `text` is the whole message's.
pub fn of(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Effect {
    match &statement.class {
        // What these do ends with the transaction, or outlives its failure.
        Class::Empty
        | Class::Begin
        | Class::Commit { .. }
        | Class::Rollback { .. }
        | Class::Savepoint(_)
        | Class::RollbackTo(_)
        | Class::Release(_)
        | Class::Set { .. }
        | Class::SetConfig(_)
        | Class::SetTransaction
        | Class::SetConstraints
        | Class::Reset(_)
        | Class::ResetAll
        | Class::Show(_)
        | Class::Prepare { .. }
        | Class::Deallocate(_) => Effect::Reads,
        Class::Lock => Effect::Locks,
        // The query of a cursor was judged when it was declared.
        Class::Fetch(_) | Class::CloseCursor(_) => Effect::Reads,
        Class::Explain { query } => {
            let options = sql::words(&text[statement.range.start..query.start]);
            let runs = |words: Vec<Box<str>>| words.iter().any(|word| is_analyze(word));
            if options.map_or(true, runs) {
                of_body(statement, catalog, search_path)
            } else {
                Effect::Reads
            }
        }
        Class::Copy(Copy {
            direction: CopyDirection::ToClient,
            source: CopySource::Table { schema, name },
        }) => {
            let name = Name {
                schema: schema.clone(),
                name: name.clone(),
            };
            if only_reads(&name, statement, catalog, search_path) {
                Effect::Reads
            } else {
                Effect::Writes
            }
        }
        Class::Data
        | Class::Declare { .. }
        | Class::Copy(Copy {
            direction: CopyDirection::ToClient,
            source: CopySource::Query(_),
        }) => of_body(statement, catalog, search_path),
        Class::Ddl(_) | Class::Maintenance if is_upkeep(text, statement) => Effect::Reads,
        Class::TwoPhase
        // Only the session knows what it executes.
        | Class::Execute { .. }
        | Class::Discard(_)
        | Class::Listen(_)
        | Class::Unlisten(_)
        | Class::Notify
        | Class::Copy(_)
        | Class::Ddl(_)
        | Class::Maintenance
        | Class::Call
        | Class::Do
        | Class::Load
        | Class::Unknown => Effect::Writes,
    }
}

fn is_analyze(word: &str) -> bool {
    matches!(word, "analyze" | "analyse")
}

fn of_body(statement: &Statement, catalog: &Catalog, search_path: &SearchPath) -> Effect {
    let Body::Facts(facts) = &statement.body else {
        return Effect::Writes;
    };
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let mut read = relations.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some(name),
        Source::Cte(_) | Source::Derived | Source::Function => None,
    });
    let reads = !writes_rows(facts)
        && !facts.doubts.iter().any(is_doubtful)
        && !facts
            .functions
            .iter()
            .any(|function| may_write(&function.name, catalog))
        && read.all(|name| only_reads(name, statement, catalog, search_path));
    match (reads, facts.locking || facts.functions.iter().any(locks)) {
        (true, false) => Effect::Reads,
        (true, true) => Effect::Locks,
        (false, _) => Effect::Writes,
    }
}

/// An advisory lock until the end of the transaction.
fn locks(function: &Name) -> bool {
    let name = &*function.name;
    name.starts_with("pg_advisory_xact_") || name.starts_with("pg_try_advisory_xact_")
}

pub(super) fn writes_rows(facts: &Facts) -> bool {
    let mut relations = facts.blocks.iter().flat_map(|block| &block.relations);
    !facts.inserts.is_empty()
        || !facts.assignments.is_empty()
        || relations.any(|relation| relation.access == Access::Write)
}

fn is_doubtful(doubt: &Doubt) -> bool {
    match doubt {
        Doubt::Natural => false,
        Doubt::Merge | Doubt::Unread(_) | Doubt::SelectInto => true,
    }
}

/// Whether reading the relation runs nothing that writes. A view may call any function when nothing but a hint says where it is read.
fn only_reads(
    name: &Name,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> bool {
    match Known::look_up(catalog, search_path, name).meaning {
        Meaning::Sharded { .. }
        | Meaning::Reference
        | Meaning::Single(_)
        | Meaning::System
        | Meaning::NotATable => true,
        Meaning::View => statement.hint.is_none(),
        Meaning::Refused(_) | Meaning::Temporary | Meaning::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::golden::{cluster, search_path};
    use super::*;

    fn effect(text: &str) -> Effect {
        let statements = sql::read(text).expect("it can be read");
        of(text, &statements[0], &cluster(4), &search_path(&["public"]))
    }

    #[test]
    fn what_only_reads_is_proven_to() {
        for text in [
            "SELECT * FROM orders",
            "SELECT count(*), nextval('s') FROM orders o NATURAL JOIN countries",
            "WITH w AS (SELECT 1) SELECT * FROM w, order_totals",
            "VALUES (1)",
            "EXPLAIN DELETE FROM orders",
            "EXPLAIN (COSTS OFF, ANALYZE) SELECT * FROM orders",
            "DECLARE c CURSOR FOR SELECT * FROM orders",
            "COPY orders TO STDOUT",
            "COPY (SELECT * FROM orders) TO STDOUT",
            "FETCH ALL FROM c",
            "SET work_mem = '1MB'",
            "BEGIN",
            "VACUUM",
            "REINDEX TABLE orders",
            "PREPARE p AS DELETE FROM orders",
            "SELECT pg_advisory_lock(1)",
        ] {
            assert_eq!(effect(text), Effect::Reads, "{text}");
        }
    }

    #[test]
    fn locks_that_the_commit_ends_are_no_mere_reading() {
        for text in [
            "SELECT * FROM orders WHERE customer_id = 5 FOR UPDATE",
            "SELECT * FROM orders WHERE id IN (SELECT order_id FROM order_lines FOR KEY SHARE)",
            "LOCK TABLE orders",
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT 1 WHERE pg_catalog.pg_try_advisory_xact_lock_shared(1, 2)",
        ] {
            assert_eq!(effect(text), Effect::Locks, "{text}");
        }
    }

    #[test]
    fn everything_else_counts_as_writing() {
        for text in [
            "INSERT INTO orders (customer_id) VALUES (5)",
            "UPDATE orders SET total = 1",
            "DELETE FROM orders",
            "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
            "SELECT * INTO kept FROM orders",
            "SELECT monthly_report()",
            "SELECT pg_notify('a', 'b')",
            "SELECT lo_create(0)",
            "SELECT * FROM nobody_knows",
            "SELECT * FROM pg_temp.mine",
            "/* trunkline: shard=s1 */ SELECT * FROM order_totals",
            "EXPLAIN ANALYZE DELETE FROM orders",
            "EXPLAIN (ANALYSE) UPDATE orders SET total = 1",
            "COPY orders FROM STDIN",
            "COPY orders TO '/tmp/file'",
            "COPY (DELETE FROM orders RETURNING *) TO STDOUT",
            "MERGE INTO orders USING countries ON true WHEN MATCHED THEN DELETE",
            "CREATE TABLE t (a int)",
            "DO $$BEGIN END$$",
            "CALL f()",
            "NOTIFY a",
            "SELECT frobnicate FROM FROM",
            "EXECUTE p",
        ] {
            assert_eq!(effect(text), Effect::Writes, "{text}");
        }
    }
}
