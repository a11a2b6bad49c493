//! SHOW SHARDS, NODES, DISTRIBUTIONS and TABLES: what is where.

use super::super::table::{Cell, Column, Table, row, text, truth, whole};
use super::primary;
use crate::catalog::{Catalog, Placement, Relation};
use crate::config::Duty;
use crate::session::shared::Snapshot;
use crate::topology::view::View;
use crate::topology::{Lock, NodeStatus};

pub const SHARDS: &[Column] = &[
    text("name"),
    whole("id"),
    whole("nodes"),
    text("primary_addr"),
    whole("primary_port"),
    truth("primary_up"),
    text("home_of"),
    text("trouble"),
];

pub const NODES: &[Column] = &[
    text("shard"),
    text("host"),
    whole("port"),
    text("role"),
    text("state"),
    whole("lag_bytes"),
    text("version"),
    whole("round_trip_us"),
    whole("checked_seconds_ago"),
    text("error"),
    truth("primary"),
    whole("timeline"),
    whole("lag_ms"),
    text("zone"),
    whole("weight"),
    truth("backup"),
    whole("ejected_ms"),
    whole("ejections"),
    text("patroni"),
    whole("share_percent"),
];

pub const DISTRIBUTIONS: &[Column] = &[
    text("database"),
    text("name"),
    text("strategy"),
    text("key"),
    text("shard"),
    text("holds"),
];

pub const TABLES: &[Column] = &[
    text("database"),
    text("schema"),
    text("name"),
    text("placement"),
    text("distribution"),
    text("key"),
    text("shard"),
    whole("columns"),
    text("refused"),
    text("declared_by"),
];

pub fn shards(snapshot: &Snapshot, nodes: &[NodeStatus], view: &View, table: &mut Table) {
    for (id, shard) in snapshot.config.shards.iter().enumerate() {
        let primary = primary(nodes, &shard.name);
        let homes = snapshot.config.databases.iter().filter(|database| {
            snapshot
                .catalogs
                .get(&*database.name)
                .is_some_and(|catalog| catalog.home.index() == id)
        });
        let homes: Vec<&str> = homes.map(|database| &*database.name).collect();
        table.push(row![
            &*shard.name,
            id,
            shard.nodes.len(),
            primary.map(|node| &*node.host),
            primary.map(|node| node.port),
            primary.is_some_and(|node| node.is_primary),
            (!homes.is_empty()).then(|| homes.join(", ")),
            trouble(view, &shard.name),
        ]);
    }
}

/// Why a shard has no primary.
fn trouble<'a>(view: &'a View, shard: &str) -> Option<&'a str> {
    let configured = view.config.shards.iter();
    let mut shards = configured.zip(&view.shards);
    let (_, view) = shards.find(|(configured, _)| configured.name == *shard)?;
    view.trouble.as_deref()
}

pub fn nodes(nodes: &[NodeStatus], table: &mut Table) {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    for node in nodes {
        let ago = node.checked.and_then(|checked| checked.elapsed().ok());
        table.push(row![
            &*node.shard,
            &*node.host,
            node.port,
            node.role.as_str(),
            node.stage.as_str(),
            node.lag,
            node.version.as_deref(),
            node.round_trip
                .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            ago.map(|ago| ago.as_secs()),
            node.error.as_deref(),
            node.is_primary,
            node.timeline.map(|timeline| timeline.0),
            node.lag_time.map(millis),
            node.zone.as_deref(),
            node.weight,
            node.duty == Duty::Backup,
            node.ejected_for.map(millis),
            node.ejections,
            match node.lock {
                Lock::Unasked => None,
                Lock::Held { .. } => Some("leader"),
                Lock::NotHeld { .. } => Some("not leader"),
                Lock::Unknown(_) => Some("no answer"),
            },
            (node.share * 100.0).round() as u64,
        ]);
    }
}

pub fn distributions(snapshot: &Snapshot, table: &mut Table) {
    for (database, catalog) in in_order(snapshot) {
        for distribution in catalog.distributions.iter() {
            let map = &distribution.map;
            let types: Vec<&str> = map
                .key_types()
                .iter()
                .map(|key_type| key_type.name())
                .collect();
            let mut push = |shard: crate::sharding::ShardId, holds: &str| {
                let strategy = map.strategy().name().as_str();
                table.push(row![
                    database,
                    &*distribution.name,
                    strategy,
                    types.join(", "),
                    &*catalog.shards[shard.index()],
                    holds
                ]);
            };
            for pin in map.pins() {
                let key: Vec<String> = pin.key.iter().map(ToString::to_string).collect();
                push(pin.shard, &format!("pin {}", key.join(", ")));
            }
            for piece in map.pieces() {
                push(piece.shard, &piece.what);
            }
        }
    }
}

pub fn tables(snapshot: &Snapshot, table: &mut Table) {
    for (database, catalog) in in_order(snapshot) {
        let relations = catalog
            .relations
            .iter()
            .filter(|(_, relation)| !matches!(relation, Relation::System));
        let mut relations: Vec<_> = relations.collect();
        relations.sort_by_key(|(name, _)| *name);
        for (key @ (schema, name), relation) in relations {
            let mut cells = row![database, &**schema, &**name];
            cells.extend(placed(catalog, relation));
            // A view is where its tables are, and what no configuration names is on the default shard.
            cells.extend(row![catalog.placed.contains_key(key).then_some("record")]);
            table.push(cells);
        }
    }
}

/// From `placement` on.
fn placed(catalog: &Catalog, relation: &Relation) -> Vec<Cell> {
    let nowhere = |word: &'static str| row![word, Cell::Null, Cell::Null, Cell::Null];
    let (mut cells, columns, refused) = match relation {
        Relation::Table { placement, columns } => {
            let cells = match placement {
                Placement::Sharded { distribution, key } => {
                    let distribution = &catalog.distributions[usize::from(distribution.0)].name;
                    row!["sharded", &**distribution, key.join(", "), Cell::Null]
                }
                Placement::Reference => nowhere("reference"),
                Placement::Single(shard) => row![
                    "single",
                    Cell::Null,
                    Cell::Null,
                    &*catalog.shards[shard.index()]
                ],
            };
            (cells, columns.as_ref().map(|columns| columns.len()), None)
        }
        Relation::ShardedView => (nowhere("view"), None, None),
        Relation::Refused(why) => (nowhere("refused"), None, Some(&**why)),
        // Left out above: they are Postgres's own.
        Relation::System => (nowhere("system"), None, None),
    };
    cells.extend(row![columns, refused]);
    cells
}

/// Databases in the order of the configuration.
fn in_order(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &Catalog)> {
    let catalog = |name: &str| snapshot.catalogs.get(name).map(|catalog| &**catalog);
    snapshot
        .config
        .databases
        .iter()
        .filter_map(move |database| Some((&*database.name, catalog(&database.name)?)))
}
