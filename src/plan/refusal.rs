//! Every reason for which a statement is not done: one table of ids, SQLSTATEs, sentences and hints.
//!
//! An id is stable: applications and dashboards may match on it. `docs/REFUSALS.md` is this table as a page, and a test keeps the two equal;
//! another test demands a golden case for each id. The session refuses some statements that plans alone cannot judge; their reasons are here too.

/// A statement that is not done, and why. Its id is stable and documented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Like `multi_shard_select`.
    pub id: &'static str,
    /// Five characters; 0A000 where no Postgres code says it better.
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: &'static str,
    /// 0-based byte offset in the message's text, when a place can be named.
    pub position: Option<usize>,
}

/// One row of the table: what is the same for every refusal of one reason.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub id: &'static str,
    pub sqlstate: &'static str,
    /// When it happens, for the documentation.
    pub sentence: &'static str,
    /// What the application or the administrator can do.
    pub hint: &'static str,
}

macro_rules! reasons {
    ($($reason:ident, $id:literal, $sqlstate:literal, $sentence:literal, $hint:literal;)*) => {
        /// Why a statement is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($reason,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$reason,)*];

            pub fn kind(self) -> Kind {
                match self {
                    $(Reason::$reason => Kind { id: $id, sqlstate: $sqlstate, sentence: $sentence, hint: $hint },)*
                }
            }
        }
    };
}

reasons! {
    MultiShardSelect, "multi_shard_select", "0A000",
        "A query reads a sharded table without a condition that keeps it on one shard, or its keys lie on several shards.",
        "Compare every key column of each sharded table with a value, as a top-level condition of the query that reads it, or name a shard: /* trunkline: shard=name */.";
    MultiShardInsert, "multi_shard_insert", "0A000",
        "An INSERT has rows that belong on several shards.",
        "Insert the rows of each shard with a statement of its own.";
    MultiShardUpdate, "multi_shard_update", "0A000",
        "An UPDATE of a sharded table is not kept on one shard by its conditions, or its keys lie on several shards.",
        "Compare every key column with a value in WHERE, or run the statement on each shard: /* trunkline: shard=name */.";
    MultiShardDelete, "multi_shard_delete", "0A000",
        "A DELETE from a sharded table is not kept on one shard by its conditions, or its keys lie on several shards.",
        "Compare every key column with a value in WHERE, or run the statement on each shard: /* trunkline: shard=name */.";
    JoinNotColocated, "join_not_colocated", "0A000",
        "One sharded table of a join is kept on one shard, another is not.",
        "Join the tables on their key columns, or compare the key columns of both with values.";
    TooManyKeys, "too_many_keys", "54000",
        "The combinations of the values that key columns are compared with exceed the limit of 65536.",
        "Use fewer values in a statement.";
    TooComplex, "too_complex", "54001",
        "A statement has so many tables and conditions that comparing them all would take too long.",
        "Split the statement, or name a shard: /* trunkline: shard=name */.";
    InsertWithoutKey, "insert_without_key", "0A000",
        "An INSERT into a sharded table gives no value for a key column.",
        "List every key column and give it a literal or a parameter.";
    InsertKeyNotKnown, "insert_key_not_known", "0A000",
        "An INSERT into a sharded table computes a key column: an expression, DEFAULT (also as COPY's DEFAULT marker) or a column of its query that is not compared with a value.",
        "Give key columns literals or parameters.";
    InsertSelectNotColocated, "insert_select_not_colocated", "0A000",
        "INSERT ... SELECT whose rows may belong on other shards than those they are made from, and that cannot be brought there: the statement has OVERRIDING USER VALUE, or a subquery or a sequence in ON CONFLICT or RETURNING, or values of a column's type mean another thing on another server.",
        "Select the key column of a table of the same distribution into the key column, without grouping, DISTINCT or LIMIT; leave the clauses out; or read the rows and insert them with VALUES or COPY.";
    NullKey, "null_key", "22004",
        "A key column is given, or compared with, NULL: such a row has no shard, such a comparison is never true.",
        "Give key columns values that are not NULL; use IS NULL with /* trunkline: shard=name */ to look for NULL.";
    KeyUpdate, "key_update", "0A000",
        "An UPDATE, or ON CONFLICT DO UPDATE, assigns a key column, and the rows cannot move: they get different keys, the table has triggers, row security or foreign keys that refer to it, or the statement is not a plain UPDATE of one table.",
        "Assign every key column one literal or parameter, and nothing else that is unique; or insert the row with its new key and delete the old one.";
    KeyValue, "key_value", "22023",
        "A value for a key column cannot be read as the key's type, is out of its range, or is not compared exactly.",
        "Write the value as the column's type does, or cast it to that type.";
    KeyNotPlaced, "key_not_placed", "22023",
        "No range, list entry or region of the distribution holds the key.",
        "Add the key to the distribution's configuration, or give it a default shard.";
    KeyMoving, "key_moving", "40001",
        "A key was held back while its rows change their shard, for longer than a statement waits.",
        "Nothing was done: send the transaction again. SHOW RESHARDS in the admin database tells what is being moved.";
    TableMoving, "table_moving", "55006",
        "While rows of a table are being moved between shards, its definition changes, it is truncated, or a statement over several shards has a form in which the rows of other shards cannot be left out (docs/RESHARDING.md).",
        "Do it before the plan starts, or after FINISH or CANCEL: SHOW RESHARDS in the admin database tells.";
    ParameterType, "parameter_type", "42P18",
        "A parameter that decides the shard stands in several places, has no declared type, and Postgres may read it as another type than the key's.",
        "Declare the parameter's type, or use a parameter of its own for the key.";
    ParameterMissing, "parameter_missing", "08P01",
        "A parameter that decides the shard has no value in the Bind message, or the Bind message is malformed.",
        "Bind a value to every parameter.";
    ReferenceWrite, "reference_write", "0A000",
        "A statement writes to a reference table, whose copies on all shards must stay equal, and reads or writes other tables, or is not plain.",
        "Write to the reference table with a statement of its own: INSERT, UPDATE, DELETE or MERGE without WITH, LIMIT, and tables that are not reference tables.";
    VolatileReferenceWrite, "volatile_reference_write", "0A000",
        "A write to a reference table may store other values on each shard, and is no INSERT that one shard could do for all: by the clock, chance, a sequence, a trigger, or the order of rows.",
        "Compute such values first and write them as literals or parameters, column defaults included.";
    ReferenceLock, "reference_lock", "0A000",
        "A locking query reads a reference table together with a table that lives elsewhere: the lock would be taken on another copy than other sessions take it on.",
        "Lock the tables with statements of their own.";
    SingleTablesApart, "single_tables_apart", "0A000",
        "A statement uses tables that live on different shards, and their rows cannot be brought together: a definition, a write to one of them, or a change on several shards that reads single tables of different shards.",
        "Query the tables with statements of their own.";
    UnknownTable, "unknown_table", "42P01",
        "A statement names a table that the catalog does not know together with sharded or reference tables.",
        "Check the name and search_path; a temporary table can only be used on its own, or with a shard named: /* trunkline: shard=name */.";
    TableRefused, "table_refused", "0A000",
        "A statement names a table that the configuration leaves out while there is no default shard, or whose definition does not fit its configuration.",
        "Declare the table as sharded, reference or single, or correct its entry.";
    TablePlace, "table_place", "55000",
        "The comment of a CREATE TABLE gives the table a place, and it has another one, or the place cannot be recorded in the control store.",
        "SHOW TABLES in the admin database shows where tables belong; ALTER TABLE name RESET there takes back what was recorded of a table that does not exist.";
    ViewOverSharded, "view_over_sharded", "0A000",
        "A statement reads a view of sharded tables that Trunkline cannot make where the rows are gathered (materialised, opaque functions, row security of its owner's), or changes rows by way of a view that does not keep the shard key.",
        "Use the view's tables in the statement, or name a shard: /* trunkline: shard=name */.";
    CatalogUnread, "catalog_unread", "57P03",
        "The tables' definitions have not been read from the servers yet, and the statement cannot be judged without them.",
        "Try again when the shards can be reached.";
    TableUnheard, "table_unheard", "57P03",
        "A table is not known to a proxy that has lost the control store: it may have been made by way of another one, which was told where it belongs.",
        "Try again when the control store answers; write pg_temp. in front of the name of a temporary table. SHOW TABLES lists the tables that are known.";
    OpaqueFunction, "opaque_function", "0A000",
        "A function, not declared IMMUTABLE, may read or write tables that cannot be seen, on any shard.",
        "Name the shard that has all it uses: /* trunkline: shard=name */ or /* trunkline: key=value */; declare functions that use no tables IMMUTABLE.";
    OpaqueCode, "opaque_code", "0A000",
        "CALL and DO run code that may read or write any table.",
        "Name the shard: /* trunkline: shard=name */ or /* trunkline: key=value */.";
    Sequence, "sequence", "0A000",
        "A statement that runs away from the home shard uses a sequence, whose numbers would be given by another shard too.",
        "Ask for the number with a statement of its own and pass it as a value, or write nextval('name') as a value of INSERT ... VALUES.";
    SequenceDefault, "sequence_default", "0A000",
        "A statement leaves a column of a sharded table to a sequence of the shard, whose numbers other shards give too, and Trunkline cannot take the numbers for it: INSERT ... SELECT without a list of columns, WITH, OVERRIDING USER VALUE, a default that does more than nextval, or sequences = \"refused\".",
        "List the columns of INSERT ... SELECT, use INSERT ... VALUES or COPY, or give the column a value.";
    UniqueId, "unique_id", "0A000",
        "trunkline.unique_id() stands where Trunkline cannot put a number in its place, or the configuration has no proxy_id.",
        "Write it as a value of INSERT ... VALUES, or in a SELECT without tables, and give every proxy a proxy_id of its own.";
    HomeOnly, "home_only", "0A000",
        "A statement on a shard's tables uses what lives on the home shard (notifications, advisory locks, large objects), and its tables are elsewhere.",
        "Use a statement of its own.";
    Merge, "merge", "0A000",
        "A MERGE into a sharded table whose rows may not stay on their shards: its source is not joined on the key, its INSERT gives another key than the source's, it has RETURNING, NOT MATCHED BY SOURCE or WITH.",
        "Join a source of the same distribution on every key column and insert its key, compare every key column with a value in ON, use INSERT ... ON CONFLICT, or name the shard: /* trunkline: shard=name */.";
    NaturalJoin, "natural_join", "0A000",
        "A NATURAL JOIN with a sharded table: its condition depends on the tables' columns.",
        "Write the join with ON or USING.";
    GatherCatalog, "gather_catalog", "0A000",
        "A query that needs rows of several shards also asks about tables themselves: system columns, names or sizes of tables, system catalogs that list tables. It runs over temporary tables of the same names, where the answer would be another.",
        "Ask for the rows and for the catalog with statements of their own.";
    GatherNames, "gather_names", "0A000",
        "A query that needs rows of several shards runs over temporary tables of the same names, and a name in it would not mean them: tables of one name in two schemas, ONLY, a schema's name that is also an alias, pg_temp in search_path.",
        "Give tables and aliases names of their own, and leave pg_temp out of search_path.";
    GatherReadOnly, "gather_read_only", "0A000",
        "A query that needs rows of several shards in temporary tables also reads reference or single tables, in a transaction that only reads and sees the tables as of its beginning, or has written before.",
        "Use a transaction that may write, or one that is READ COMMITTED from its beginning.";
    SelectInto, "select_into", "0A000",
        "SELECT INTO from sharded or reference tables would create a table on one shard.",
        "Create the table first, on the shards that need it, with hints.";
    UnreadSyntax, "unread_syntax", "0A000",
        "The statement has a form that Trunkline cannot read, and sharded or reference tables may be concerned.",
        "Write the statement differently, or name the shard: /* trunkline: shard=name */.";
    TwoPhase, "two_phase", "0A000",
        "PREPARE TRANSACTION, COMMIT PREPARED or ROLLBACK PREPARED without a shard.",
        "Name the shard: /* trunkline: shard=name */.";
    Ddl, "ddl", "0A000",
        "A definition statement would make the configuration untrue (a table renamed, a key column changed), makes a table from rows of other shards, or concerns a server rather than the database.",
        "Change the configuration first, write the rows with statements of their own, or run it on each shard in turn: /* trunkline: shard=name */.";
    UniqueWithoutKey, "unique_without_key", "0A000",
        "A primary key, unique or exclusion constraint, or unique index of a sharded table does not contain all key columns: a shard cannot see the rows of others.",
        "Add the key columns to it.";
    ForeignKeyApart, "foreign_key_apart", "0A000",
        "A foreign key refers to rows that may be on another shard: of another distribution, of a single table, or without the shard keys of both tables.",
        "Let the foreign key contain the shard key of both tables, refer to a reference table, or leave it out.";
    Lock, "lock", "0A000",
        "LOCK TABLE of what is not the same on all shards: Trunkline's own tables, tables whose definition does not fit the configuration; or its tables cannot be read.",
        "Name the shard: /* trunkline: shard=name */. pg_dump leaves Trunkline's own tables out with --exclude-schema=trunkline.";
    Copy, "copy", "0A000",
        "COPY of a table that lives on several shards, or from or to a file of a server.",
        "Copy each shard in turn: /* trunkline: shard=name */.";
    HintMalformed, "hint_malformed", "22023",
        "A trunkline comment that cannot be read.",
        "Write /* trunkline: shard=name */ or /* trunkline: key=value */.";
    HintKey, "hint_key", "22023",
        "A key in a hint or in trunkline.key does not fit the distribution, or it is not clear which distribution is meant.",
        "Give one value for each key column and name the distribution: /* trunkline: key=42 distribution=name */, or SET trunkline.key = 'distribution=name', 42.";
    UnknownShard, "unknown_shard", "22023",
        "A hint or trunkline.shard names a shard that does not exist.",
        "Use a shard of the configuration.";
    NoReplica, "no_replica", "57P03",
        "A read may run on replicas only (`trunkline.read = 'replica'`, or as configured), and no replica of its shard can serve it.",
        "SHOW NODES in the admin database tells why. With trunkline.read = 'any' the primary would serve it.";
    OnReplica, "on_replica", "25006",
        "A READ ONLY transaction that keeps one snapshot works on a replica, and a statement in it needs the primary.",
        "SET trunkline.read = 'primary' before the transaction.";
    MultiShardMessage, "multi_shard_message", "0A000",
        "The statements of one simple query message belong on several shards; together they are one transaction.",
        "Send the statements one by one.";
    MultiShardTransaction, "multi_shard_transaction", "0A000",
        "A transaction works on one shard and a statement in it belongs on another.",
        "Use a transaction for each shard.";
    CrossShardCommit, "cross_shard_commit", "0A000",
        "A transaction has written on several shards, and nothing makes its commit happen on all of them or on none.",
        "Mend what the message says, or set cross_shard_commit = \"best_effort\" for the database: shards then commit one after the other.";
    CannotPrepare, "cannot_prepare", "0A000",
        "A transaction has written on several shards, and Postgres cannot prepare it on more than one of them: temporary tables, LISTEN, NOTIFY, cursors WITH HOLD and exported snapshots stand in its way. It is rolled back on all.",
        "Do that in a transaction of its own.";
    AtomicRead, "atomic_read", "0A000",
        "Under trunkline.read_consistency = 'atomic' a query reads several shards in a transaction whose snapshots were not taken together.",
        "BEGIN ISOLATION LEVEL REPEATABLE READ, after trunkline.read_consistency was set, or run the query outside a transaction block.";
    ExplainForm, "explain_form", "0A000",
        "EXPLAIN (GENERIC_PLAN) of a statement that several shards do, with parameters that have no values.",
        "Write values, or name a shard: /* trunkline: shard=name */.";
    RowLimit, "row_limit", "0A000",
        "An Execute message asks for a part of the rows of EXPLAIN or FETCH over several shards, or of a query that is gathered, in a transaction that only reads or with columns of types that are not Postgres's own.",
        "Ask for all rows (a fetch size of 0), write LIMIT, or use a transaction that may write.";
    Cursor, "cursor", "0A000",
        "A cursor over rows of several shards is moved back although it was declared neither SCROLL nor NO SCROLL, FETCH asks for its rows in another format than it was declared with, or the cursors that a session has declared SCROLL or WITH HOLD have more than 64 MB of rows.",
        "Declare it SCROLL to go back; restrict the rows, or declare it NO SCROLL and WITHOUT HOLD, where they are more than a session keeps.";
    SettingInBatch, "setting_in_batch", "0A000",
        "A setting of Trunkline's own is set or shown in one message together with other statements; or names stand behind what changes search_path in the same message in a way that is not known beforehand (RESET, DEFAULT, \"$user\", set_config, the end of a transaction that had set it).",
        "Send the statement alone.";
    SetConfig, "set_config", "0A000",
        "set_config stands in a statement that does more than call it, its name or its last argument is not a literal, or it names a setting of Trunkline's own: what it sets could not be followed to other shards.",
        "SET or SET LOCAL does it, or SELECT set_config('name', 'value', false) and nothing else; several calls may stand in one SELECT.";
    Execute, "execute", "0A000",
        "An argument of EXECUTE that decides the shard is not a literal, or one calls what may write, asks a sequence, or leaves something behind, or EXECUTE names a statement that was parsed as something else than a query or a write.",
        "Write the argument as a literal, or bind the statement by the extended protocol.";
    Pinned, "pinned", "0A000",
        "The pool is strict, and the statement would keep its server connection: a temporary table, a session's advisory lock, a cursor WITH HOLD, LOAD, or set_config with a name or value that is not known.",
        "Use what ends with the transaction (ON COMMIT DROP does not, pg_advisory_xact_lock and SET LOCAL do), or a pool of mode \"transaction\".";
    LastValue, "last_value", "0A000",
        "currval or lastval, or a function that uses them, on a connection that may hold another client's values: in a pipeline behind other statements, or, once, in the first transaction that uses them. Or it is not known which number was taken last, because Trunkline has taken some and a server others, or because the statement does not tell of which sequence.",
        "Run the transaction again, in a transaction block, and write currval('name') in a SELECT without tables or as a value of INSERT ... VALUES; or use INSERT ... RETURNING, or a pool of mode \"session\".";
    TextSettings, "text_settings", "0A000",
        "standard_conforming_strings is off or client_encoding is not UTF8: the text of statements could be read differently here and on a server.",
        "Set standard_conforming_strings to on and client_encoding to UTF8.";
    NotUtf8, "not_utf8", "22021",
        "The statement's text is not valid UTF-8.",
        "Set client_encoding to UTF8.";
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Refusal {
        let kind = reason.kind();
        Refusal {
            id: kind.id,
            sqlstate: kind.sqlstate,
            message: message.into(),
            hint: kind.hint,
            position: None,
        }
    }

    /// It is refused only because one shard is not enough.
    pub fn is_of_several_shards(&self) -> bool {
        [
            Reason::MultiShardSelect,
            Reason::MultiShardInsert,
            Reason::MultiShardUpdate,
            Reason::MultiShardDelete,
            Reason::Merge,
            Reason::SingleTablesApart,
        ]
        .iter()
        .any(|reason| reason.kind().id == self.id)
    }

    /// With a place in the message's text.
    pub fn at(mut self, position: usize) -> Refusal {
        self.position = Some(position);
        self
    }
}

/// The table as `docs/REFUSALS.md` shows it.
pub fn page() -> String {
    let mut page = String::from(
        "# What is refused, and why\n\n\
         Trunkline gives exactly the answer that one Postgres with all rows would give, or a clear error. Each refusal has a stable id, which\n\
         stands in the error's DETAIL field, a SQLSTATE and a hint. A database with a single shard refuses none of them.\n\n\
         | id | SQLSTATE | when | what to do |\n| --- | --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        let Kind {
            id,
            sqlstate,
            sentence,
            hint,
        } = reason.kind();
        page.push_str(&format!(
            "| `{id}` | `{sqlstate}` | {sentence} | {hint} |\n"
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_sqlstates_have_five_characters() {
        let mut ids: Vec<_> = Reason::ALL.iter().map(|reason| reason.kind().id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason.kind().sqlstate.len(), 5, "{reason:?}");
        }
    }

    #[test]
    fn the_page_of_refusals_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/REFUSALS.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"))
                .expect("docs can be made");
            std::fs::write(path, page()).expect("the page can be written");
        }
        let found = std::fs::read_to_string(path).expect("docs/REFUSALS.md exists");
        assert!(found == page(), "run the tests with UPDATE_GOLDEN=1");
    }
}
