//! Which tables a plan moves, by what is configured now. Pure.

use super::scope::MovedTable;
use crate::catalog::{Configured, ConfiguredTable, Placement};
use crate::resharding::wanted::Planned;

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
