//! Configuration and definitions become one [`Catalog`].
//!
//! What the two do not agree on is refused, never guessed: the relation becomes [`Relation::Refused`] and a [`Warning`] says why.
//! `family.rs` places tables (with their partitions and children), `view.rs` places views.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use thiserror::Error;

use super::placed::Misfit;
use super::schema::{DefinedColumn, Kind, Schema};
use super::{
    Catalog, Collation, Column, Distribution, Epoch, Foreign, Hearing, Placed, Placement,
    QualifiedName, Relation, SchemaState, Sequences, Undeclared, family, view,
};
use crate::config::CrossShardCommit;
use crate::sharding::{KeyType, ShardId};

/// The configured part of a catalog: what is known before any server was asked.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Names by [`ShardId`].
    pub shards: Arc<[Box<str>]>,
    pub home: ShardId,
    /// See [`Catalog::gather`].
    pub gather: Option<ShardId>,
    pub undeclared: Undeclared,
    pub sequences: Sequences,
    pub cross_shard_commit: CrossShardCommit,
    /// Functions that the administrator lets run on replicas.
    pub replica_functions: Arc<HashSet<Box<str>>>,
    pub distributions: Arc<[Distribution]>,
    pub foreign: Foreign,
    /// Each name once; every placement names an existing distribution or shard, with as many key columns as the distribution has.
    pub tables: Vec<ConfiguredTable>,
    /// See [`Catalog::placed`].
    pub placed: Placed,
    /// Tables whose place is of no use here, and why.
    pub misfits: BTreeMap<QualifiedName, Misfit>,
}

/// A table named by the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredTable {
    pub name: QualifiedName,
    pub placement: Placement,
}

/// Something in the configuration that the servers' definitions do not bear out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Warning {
    #[error(
        "table {} is configured but does not exist on the servers",
        dotted(table)
    )]
    Missing { table: QualifiedName },
    #[error(
        "{} is configured as a table but is a view: its own definition places it",
        dotted(table)
    )]
    View { table: QualifiedName },
    #[error(
        "table {} has no column \"{column}\", which is configured as its shard key",
        dotted(table)
    )]
    KeyColumnMissing {
        table: QualifiedName,
        column: Box<str>,
    },
    #[error("column \"{column}\" of table {} has type {}, its distribution's key has type {}", dotted(table), type_name(*found), expected.name())]
    KeyColumnType {
        table: QualifiedName,
        column: Box<str>,
        found: u32,
        expected: KeyType,
    },
    #[error(
        "column \"{column}\" of table {} stores values rounded to its declared precision, which a shard key must not be",
        dotted(table)
    )]
    KeyColumnRounds {
        table: QualifiedName,
        column: Box<str>,
    },
    #[error(
        "column \"{column}\" of table {} is generated, so that no statement gives the shard key",
        dotted(table)
    )]
    KeyColumnGenerated {
        table: QualifiedName,
        column: Box<str>,
    },
    #[error(
        "column \"{column}\" of table {} has a non-deterministic collation, under which different texts are one shard key",
        dotted(table)
    )]
    KeyColumnCollation {
        table: QualifiedName,
        column: Box<str>,
    },
    #[error(
        "table {} has a shard key of text, which needs the server encoding UTF8, not {encoding}",
        dotted(table)
    )]
    Encoding {
        table: QualifiedName,
        encoding: Box<str>,
    },
    #[error(
        "table {} was given a place that this proxy's configuration does not know: {why}",
        dotted(table)
    )]
    Misfit { table: QualifiedName, why: Misfit },
    #[error(
        "table {} was made before its recorded place was settled: DROP it, or ALTER TABLE ... RESET after DROP",
        dotted(table)
    )]
    Unsettled { table: QualifiedName },
    #[error(
        "table {} has rules (CREATE RULE), which may send its rows elsewhere",
        dotted(table)
    )]
    Rules { table: QualifiedName },
    #[error(
        "tables {} and {} are placed differently, but one is a partition of the other or inherits from it",
        dotted(table),
        dotted(other)
    )]
    Family {
        table: QualifiedName,
        other: QualifiedName,
    },
}

fn dotted((schema, name): &QualifiedName) -> String {
    format!("{schema}.{name}")
}

fn type_name(oid: u32) -> String {
    KeyType::from_oid(oid).map_or_else(
        || format!("with OID {oid}, which no key has"),
        |known| known.name().to_owned(),
    )
}

impl Catalog {
    /// Without a schema (no server was reached yet) only configured tables are known, without their columns.
    ///
    /// The warnings are ordered by table; each relation they speak of is refused, missing ones excepted.
    pub fn assemble(
        configured: Configured,
        schema: Option<&Schema>,
        epoch: Epoch,
    ) -> (Catalog, Vec<Warning>) {
        let mut catalog = Catalog {
            epoch,
            shards: configured.shards.clone(),
            home: configured.home,
            gather: configured.gather,
            undeclared: configured.undeclared,
            sequences: configured.sequences,
            cross_shard_commit: configured.cross_shard_commit,
            distributions: configured.distributions.clone(),
            foreign: configured.foreign.clone(),
            relations: unread_relations(&configured),
            views: Default::default(),
            known_sequences: Default::default(),
            primary_keys: Default::default(),
            opaque_functions: Default::default(),
            functions: Default::default(),
            collation: Collation::Loose,
            residue: Default::default(),
            replicas: Default::default(),
            replica_functions: Arc::clone(&configured.replica_functions),
            placed: Arc::clone(&configured.placed),
            details: Default::default(),
            schema: SchemaState::Unread,
            hearing: Hearing::Yes,
        };
        let Some(schema) = schema else {
            return (catalog, Vec::new());
        };
        catalog.schema = SchemaState::Read;
        catalog.opaque_functions = schema.opaque_functions.clone();
        catalog.functions = Arc::clone(&schema.functions);
        catalog.known_sequences = Arc::clone(&schema.sequences);
        catalog.collation = schema.collation;
        catalog.residue = Arc::clone(&schema.residue);
        catalog.replicas = Arc::clone(&schema.replicas);
        catalog.details = Arc::clone(&schema.details);
        let with_key = schema
            .relations
            .iter()
            .filter(|(_, definition)| !definition.primary_key.is_empty());
        catalog.primary_keys = with_key
            .map(|(name, definition)| (name.clone(), definition.primary_key.as_slice().into()))
            .collect();
        let mut warnings: Vec<Warning> = configured
            .tables
            .iter()
            .filter_map(|table| misnamed(&table.name, schema))
            .collect();
        catalog.relations.extend(
            schema
                .system_relations
                .iter()
                .map(|name| (name.clone(), Relation::System)),
        );
        let (tables, refused) = family::place(&configured, schema);
        catalog.relations.extend(tables);
        let views = view::place(&catalog.relations, schema, configured.home);
        catalog.relations.extend(views);
        catalog.views = view::spread(&catalog.relations, schema);
        if catalog.details.schemas.contains("trunkline") {
            let why: Arc<str> =
                "it is Trunkline's own, and each shard has another; a hint names the shard".into();
            for name in [
                "commits",
                "waits",
                "reshard_ledger",
                "reshard_streams",
                "reshard_chunks",
            ] {
                let own = ("trunkline".into(), name.into());
                catalog
                    .relations
                    .insert(own, Relation::Refused(Arc::clone(&why)));
            }
        }
        warnings.extend(refused);
        warnings.sort_by_cached_key(ToString::to_string);
        (catalog, warnings)
    }
}

fn unread_relations(configured: &Configured) -> HashMap<QualifiedName, Relation> {
    let misfits = configured.misfits.iter().map(|(name, why)| {
        let why = Warning::Misfit {
            table: name.clone(),
            why: why.clone(),
        };
        (name.clone(), Relation::Refused(why.to_string().into()))
    });
    misfits
        .chain(configured.tables.iter().map(unread))
        .collect()
}

/// A configured table of which no definition is known.
fn unread(table: &ConfiguredTable) -> (QualifiedName, Relation) {
    (
        table.name.clone(),
        Relation::Table {
            placement: table.placement.clone(),
            columns: None,
        },
    )
}

/// A configured name that is no table on the servers.
fn misnamed(name: &QualifiedName, schema: &Schema) -> Option<Warning> {
    match schema
        .relations
        .get(name)
        .map(|definition| &definition.kind)
    {
        None => Some(Warning::Missing {
            table: name.clone(),
        }),
        Some(Kind::View(_) | Kind::Materialised(_)) => Some(Warning::View {
            table: name.clone(),
        }),
        Some(Kind::Table(_)) => None,
    }
}

/// The columns as planners see them.
pub(super) fn plain(columns: &[DefinedColumn]) -> Option<Arc<[Column]>> {
    Some(
        columns
            .iter()
            .map(|defined| defined.column.clone())
            .collect(),
    )
}

#[cfg(test)]
mod tests;
