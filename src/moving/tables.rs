//! Which tables a plan moves, by what is configured now. Pure.

use super::scope::{MovedTable, Scope};
use crate::catalog::{Configured, ConfiguredTable, Placement};
use crate::resharding::job::Plan;
use crate::resharding::record::StoredError;
use crate::resharding::wanted::Planned;

/// A plan with the tables that are configured. `shards`: names by number.
pub fn scope(
    plan: &Plan,
    shards: Vec<Box<str>>,
    configured: &Configured,
) -> Result<Scope, StoredError> {
    let tables = moved_tables(&plan.planned(&shards)?, configured);
    let references = configured.tables.iter();
    let references = references.filter(|table| table.placement == Placement::Reference);
    let references = references.map(|table| table.name.clone()).collect();
    Scope::new(plan, shards, tables, references)
}

/// The configured tables of the distributions that change.
pub fn moved_tables(planned: &[Planned], configured: &Configured) -> Vec<MovedTable> {
    let moved = |table: &ConfiguredTable| {
        let Placement::Sharded { distribution, key } = &table.placement else {
            return None;
        };
        let name = &configured.distributions[usize::from(distribution.0)].name;
        let place = planned.iter().position(|one| one.distribution == *name)?;
        let (schema, name) = table.name.clone();
        Some(MovedTable {
            schema,
            name,
            distribution: place,
            key: key.to_vec(),
        })
    };
    configured.tables.iter().filter_map(moved).collect()
}
