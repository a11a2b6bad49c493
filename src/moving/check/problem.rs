//! What can stand against a plan, each with where it is and the way out.

/// Whether a plan can begin in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Refuses,
    /// Good to know.
    Noted,
}

macro_rules! problems {
    ($($(#[$note:meta])* $name:ident { $($field:ident: $type:ty),* }, $id:literal, $weight:ident, $text:literal;)*) => {
        /// Its text says what, where, and the way out. Tables and columns are quoted as in SQL.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Problem {
            $($(#[$note])* #[error($text)] $name { $($field: $type),* },)*
        }

        impl Problem {
            /// Every id, as they are documented.
            pub const IDS: &'static [&'static str] = &[$($id),*];

            /// Stable: programs may match on it.
            pub fn id(&self) -> &'static str {
                match self {
                    $(Problem::$name { .. } => $id,)*
                }
            }

            pub fn weight(&self) -> Weight {
                match self {
                    $(Problem::$name { .. } => Weight::$weight,)*
                }
            }
        }
    };
}

problems! {
    /// Of a shard nothing more is known.
    NotAsked { shard: Box<str>, why: Box<str> }, "not_asked", Refuses,
        "shard {shard} could not be asked: {why}; CHECK again when that is mended";
    Version { shard: Box<str>, version: Box<str> }, "version", Refuses,
        "shard {shard} runs Postgres {version}, and rows are moved from 14 on; upgrade it first";
    WalLevel { shard: Box<str>, level: Box<str> }, "wal_level", Refuses,
        "on shard {shard} wal_level is {level}: ALTER SYSTEM SET wal_level = logical, and restart the server";
    Slots { shard: Box<str>, most: i64, used: i64, needed: i64 }, "replication_slots", Refuses,
        "shard {shard} has {used} of {most} replication slots in use, and the plan needs {needed} more: drop slots that nobody uses, or raise max_replication_slots and restart the server";
    Senders { shard: Box<str>, most: i64, used: i64, needed: i64 }, "wal_senders", Refuses,
        "shard {shard} has {used} of {most} WAL senders in use, and the plan needs {needed} more: raise max_wal_senders and restart the server";
    SlotLimit { shard: Box<str>, megabytes: i64 }, "slot_wal_limit", Noted,
        "on shard {shard} max_slot_wal_keep_size is {megabytes} MB: a plan that falls further behind ends there; raise it where writes are many and the disk has room";
    NoReplication { shard: Box<str>, role: Box<str> }, "role_replication", Refuses,
        "role {role} may not replicate on shard {shard}: ALTER ROLE {role} REPLICATION";
    NoReplicaRole { shard: Box<str>, role: Box<str> }, "role_session_replication_role", Refuses,
        "role {role} may not set session_replication_role on shard {shard}, without which triggers would fire again for copied rows: GRANT SET ON PARAMETER session_replication_role TO {role} (Postgres 15 and later), or ALTER ROLE {role} SUPERUSER";
    NoCreate { shard: Box<str>, role: Box<str>, database: Box<str> }, "role_create", Refuses,
        "role {role} may not make publications and schemas on shard {shard}: GRANT CREATE ON DATABASE {database} TO {role}";
    NoSchemaCreate { shard: Box<str>, role: Box<str>, schema: Box<str> }, "role_schema_create", Refuses,
        "role {role} may make nothing in schema {schema} of shard {shard}: GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}";
    NotOwner { shard: Box<str>, role: Box<str>, table: Box<str>, owner: Box<str> }, "role_owner", Refuses,
        "role {role} does not own {table} on shard {shard}, as triggers and publications need it: GRANT {owner} TO {role}";
    NoRole { shard: Box<str>, role: Box<str>, owned: Box<str> }, "role_missing", Refuses,
        "shard {shard} has no role {role} that the plan's role may act as, and {owned}, to be made there, belongs or is granted to it: CREATE ROLE {role}, and grant it to the role that Trunkline uses";
    OldPrepared { shard: Box<str>, gid: Box<str>, minutes: i64 }, "old_prepared_transaction", Refuses,
        "on shard {shard} the transaction {gid} has been prepared for {minutes} minutes, and a replication slot waits for it: COMMIT PREPARED or ROLLBACK PREPARED it (if it is one of Trunkline's: RESOLVE TRANSACTION)";
    LongTransaction { shard: Box<str>, pid: i32, minutes: i64 }, "long_transaction", Noted,
        "on shard {shard} the transaction of process {pid} has been open for {minutes} minutes, and a replication slot waits for it";
    PublicationThere { shard: Box<str>, name: Box<str> }, "publication_exists", Refuses,
        "shard {shard} has a publication {name} already: DROP PUBLICATION {name} if nobody uses it";
    SlotThere { shard: Box<str>, name: Box<str> }, "slot_exists", Refuses,
        "shard {shard} has a replication slot {name} already: SELECT pg_drop_replication_slot('{name}') if nobody uses it";
    OtherPlan { shard: Box<str>, plan: Box<str>, number: i64 }, "other_plan", Refuses,
        "plan {plan} (number {number}) is not over on shard {shard}, and concerns the same tables: FINISH or CANCEL it first";
    NoTable { shard: Box<str>, table: Box<str> }, "table_missing", Refuses,
        "shard {shard} has no table {table}, whose rows leave it: make it there, or take it out of the configuration";
    Kind { shard: Box<str>, table: Box<str>, kind: &'static str, way: Box<str> }, "table_kind", Refuses,
        "{table} on shard {shard} is {kind}, whose changes no log has: {way}";
    Inherits { shard: Box<str>, table: Box<str>, other: Box<str> }, "table_inherits", Refuses,
        "{table} on shard {shard} inherits from, or is inherited by, {other}: rows are moved of tables that stand alone or are partitioned; ALTER TABLE .. NO INHERIT";
    NoKey { shard: Box<str>, table: Box<str> }, "no_row_key", Refuses,
        "{table} on shard {shard} has nothing that its rows are told apart by: give it a primary key, or a unique index of columns that are NOT NULL";
    ReplicaIdentity { shard: Box<str>, table: Box<str>, missing: Box<str>, way: Box<str> }, "replica_identity", Refuses,
        "the log of shard {shard} does not say {missing} of rows of {table} that are updated or deleted: {way}";
    NoShardKey { shard: Box<str>, table: Box<str>, column: Box<str> }, "shard_key_missing", Refuses,
        "{table} on shard {shard} has no column {column}, which is part of its shard key: correct the configuration or the table";
    KeyCollation { shard: Box<str>, table: Box<str>, column: Box<str>, collation: Box<str> }, "key_collation", Refuses,
        "{column} of {table} on shard {shard} has the collation {collation}, by which different values are equal, so that rows cannot be told apart in order: give the table a unique index without this column, or a deterministic collation";
    CollationDiffers { table: Box<str>, column: Box<str>, from: Box<str>, to: Box<str>, there: Box<str>, here: Box<str> }, "collation_version", Refuses,
        "{column} of {table}, which rows are ordered by, is sorted by {there} on shard {from} and by {here} on shard {to}: bring both servers to the same library (and REINDEX, then ALTER COLLATION or DATABASE .. REFRESH COLLATION VERSION), or give the column COLLATE \"C\"";
    Encoding { from: Box<str>, to: Box<str>, there: Box<str>, here: Box<str> }, "encoding", Refuses,
        "the database has encoding {there} on shard {from} and {here} on shard {to}: make it anew on {to}, with ENCODING '{there}'";
    ForeignKey { shard: Box<str>, table: Box<str>, name: Box<str>, other: Box<str> }, "foreign_key", Refuses,
        "the foreign key {name} of {table} on shard {shard} refers to {other}, and both do not move together: put both into the same distribution, make the table that is referred to a reference table, or drop the constraint";
    ForeignKeyColumns { shard: Box<str>, table: Box<str>, name: Box<str>, other: Box<str> }, "foreign_key_columns", Refuses,
        "the foreign key {name} of {table} on shard {shard} does not refer by the shard key to {other}, so that the two rows may go to different shards: add the shard key's columns to it, or drop it";
    NoReference { shard: Box<str>, table: Box<str> }, "reference_table_missing", Noted,
        "shard {shard} gets rows and has no copy of the reference table {table}: START makes one, and whoever writes the table waits meanwhile";
    ColumnMissing { table: Box<str>, column: Box<str>, shard: Box<str>, other: Box<str> }, "column_missing", Refuses,
        "{table} has no column {column} on shard {shard}, and has one on shard {other}: alter one of them, or drop the table on the receiving shard if it is empty, and it is made anew";
    ColumnDiffers { table: Box<str>, column: Box<str>, from: Box<str>, to: Box<str>, there: Box<str>, here: Box<str> }, "column_differs", Refuses,
        "{column} of {table} is {there} on shard {from} and {here} on shard {to}: alter one of them, or drop the table on {to} if it is empty, and it is made anew";
    DefaultDiffers { table: Box<str>, column: Box<str>, from: Box<str>, to: Box<str>, there: Box<str>, here: Box<str> }, "default_differs", Noted,
        "the default of {column} of {table} is {there} on shard {from} and {here} on shard {to}";
    RowKeyMissing { table: Box<str>, from: Box<str>, to: Box<str>, columns: Box<str> }, "row_key_missing", Refuses,
        "rows of {table} are told apart by ({columns}) on shard {from}, and shard {to} has no unique index of just these: make one there";
    RowsThere { shard: Box<str>, table: Box<str> }, "rows_there", Refuses,
        "{table} on shard {shard} has rows already with keys that move there: they belong to another shard; look at them, and delete them there";
    Missing { what: Box<str>, from: Box<str>, to: Box<str> }, "object_missing", Refuses,
        "shard {to} does not have {what}, which tables use on shard {from}: make it there";
    Differs { what: Box<str>, from: Box<str>, to: Box<str> }, "object_differs", Refuses,
        "{what} is not the same on shards {from} and {to}: bring both to the same definition";
    Extension { name: Box<str>, version: Box<str>, from: Box<str>, to: Box<str> }, "extension_missing", Refuses,
        "shard {to} does not have the extension {name}, which tables use on shard {from}: CREATE EXTENSION {name} VERSION '{version}' there";
    ExtensionVersion { name: Box<str>, from: Box<str>, to: Box<str>, there: Box<str>, here: Box<str> }, "extension_version", Refuses,
        "the extension {name}, which tables use, has version {there} on shard {from} and {here} on shard {to}: ALTER EXTENSION {name} UPDATE";
    FiresAlways { shard: Box<str>, table: Box<str>, what: Box<str> }, "fires_for_replication", Refuses,
        "{what} of {table} on shard {shard} fires for copied rows too, so that it would do again what it has done: ALTER TABLE {table} ENABLE {what} without ALWAYS and REPLICA until the plan is over";
    RowSecurity { shard: Box<str>, table: Box<str>, role: Box<str> }, "row_security", Refuses,
        "row security of {table} on shard {shard} is forced on its owner, so that role {role} would not see all rows: ALTER ROLE {role} BYPASSRLS";
    Sequence { table: Box<str>, column: Box<str> }, "sequence", Noted,
        "{column} of {table} has its numbers from a sequence; each shard has one of its own: with sequences = \"per_shard\" see to it that those of the receiving shards never give a number that a row which moves there has";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_apart_and_documented() {
        let page = include_str!("../../../docs/RESHARDING.md");
        let mut seen = std::collections::BTreeSet::new();
        for id in Problem::IDS {
            assert!(seen.insert(id), "{id} is there twice");
            assert!(page.contains(&format!("`{id}`")), "{id} is not documented");
        }
    }
}
