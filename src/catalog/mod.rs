//! What is sharded and how: an immutable snapshot with a version, made from configuration and from the definitions read from a shard.
//!
//! This room never decides where a statement goes (that is `plan`) and never knows which server is alive (that is `topology`).
//! `build.rs` makes the configured part, `schema.rs` reads and holds what servers define; `assemble.rs` joins both into a [`Catalog`] and says what does not fit;
//! `resolve.rs` finds a name along a search path. `assemble.rs` is the one to read next.

mod assemble;
mod build;
pub mod details;
mod family;
pub mod functions;
pub mod residue;
mod resolve;
pub mod schema;
mod view;

pub use assemble::{Configured, ConfiguredTable, Warning};
pub use build::build;
pub use resolve::Resolved;
pub use view::{SpreadView, Writes};

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::CrossShardCommit;
use crate::sharding::ShardId;

/// The version of a catalog: moves with every change of configuration or schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The place of a distribution in [`Catalog::distributions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DistributionId(pub u16);

/// The schemas in which unqualified names are looked up, `"$user"` already replaced; `pg_catalog` is implied first unless named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SearchPath(pub Arc<[Box<str>]>);

/// Where a table's rows are.
#[derive(Clone, Debug, PartialEq)]
pub enum Placement {
    /// By key columns in a distribution; the names are in the order of the distribution's key.
    Sharded {
        distribution: DistributionId,
        key: Arc<[Box<str>]>,
    },
    /// A full copy on every shard.
    Reference,
    /// All rows on one home shard.
    Single(ShardId),
}

/// A column as a server defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: Box<str>,
    /// The type's OID in `pg_type`; for a domain, its base type.
    pub type_oid: u32,
    pub default: ColumnDefault,
    pub collation: Collation,
}

/// What comparing texts depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collation {
    /// "C" or "POSIX", whose order is that of the bytes; also of types without a collation.
    Bytes,
    /// Rules of a language; only equal bytes are equal.
    Language,
    /// Different bytes may be equal, or it is not known.
    Loose,
}

/// What an INSERT without a value for the column stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnDefault {
    /// No default, or one that is the same whenever and wherever it is computed.
    Plain,
    /// Computed from the clock, the session, chance or the like: another value on every shard.
    Volatile,
    /// From a sequence (serial, identity, `nextval` anywhere in the default), or from a function whose body is not known to use none.
    Sequence,
    /// `GENERATED ALWAYS AS (..)`: computed from the row, never given by a statement.
    Generated,
}

/// What a name means to the planner.
#[derive(Clone, Debug, PartialEq)]
pub enum Relation {
    /// A table; its columns when the servers' definitions have been read.
    Table {
        placement: Placement,
        columns: Option<Arc<[Column]>>,
    },
    /// A view (materialised or not) that reads, directly or through other views, rows of several shards.
    ShardedView,
    /// Exists or is configured, but a statement that names it is refused; the text is a sentence that says why.
    Refused(Arc<str>),
    /// In `pg_catalog` or `information_schema`: the same on every shard.
    System,
}

/// A table name in one schema, folded.
pub type QualifiedName = (Box<str>, Box<str>);

/// One named key space that tables share.
#[derive(Clone, Debug)]
pub struct Distribution {
    pub name: Box<str>,
    pub map: crate::sharding::ShardMap,
}

/// The whole snapshot for one database.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub epoch: Epoch,
    /// Names by [`ShardId`].
    pub shards: Arc<[Box<str>]>,
    /// Home of sequences, of statements without tables, and of tables that the configuration does not name.
    pub home: ShardId,
    pub undeclared: Undeclared,
    pub sequences: Sequences,
    /// How transactions commit that wrote on several shards.
    pub cross_shard_commit: CrossShardCommit,
    pub distributions: Arc<[Distribution]>,
    /// Tables, views and partitions by schema and name (configured ones even when the schema has not been read).
    pub relations: HashMap<QualifiedName, Relation>,
    /// Views that read rows of several shards. In `relations` such a view is a sharded view, or a sharded table when each of its rows has the
    /// shard key of the rows it is made from (`plan/views.rs`).
    pub views: HashMap<QualifiedName, SpreadView>,
    /// The columns of tables' primary keys, in the key's order; tables without one are left out.
    pub primary_keys: HashMap<QualifiedName, Arc<[Box<str>]>>,
    /// Functions (lower-case names, any schema) written in a language that can read tables, extensions' functions excepted.
    pub opaque_functions: std::collections::HashSet<Box<str>>,
    /// Which functions are aggregates, volatile ...
    pub functions: Arc<functions::FunctionKinds>,
    /// The database's own, which expressions have without another.
    pub collation: Collation,
    /// What statements may leave behind in a connection.
    pub residue: Arc<residue::Residue>,
    /// What changing statements must know besides.
    pub details: Arc<details::Details>,
    pub schema: SchemaState,
}

/// What is done with a table that exists on the servers but is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undeclared {
    /// It is `single` on the home shard (configured `default_shard`, or the only shard).
    Home,
    /// A statement that names it is refused.
    Refused,
}

/// What `nextval` on shards may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequences {
    /// Refused where a shard's own sequence would give numbers that another shard gives too.
    Refused,
    /// The administrator made them disjoint (INCREMENT and START per shard).
    PerShard,
}

/// Whether the servers' definitions are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// Not yet read: unknown names cannot be judged.
    Unread,
    Read,
}
