//! A plan with the shards and tables of now: which table moves which keys between which shards. Pure.

use std::collections::BTreeSet;

use crate::catalog::QualifiedName;
use crate::resharding::condition::{calls_our_functions, condition, quoted_name};
use crate::resharding::difference::Move;
use crate::resharding::job::{MovingKeys, Plan, Route, ShardName};
use crate::resharding::record::StoredError;
use crate::resharding::wanted::Planned;
use crate::sharding::{KeyType, KeyValue, ShardId};

/// What a plan moves.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Of the plan.
    pub number: u64,
    pub name: Box<str>,
    /// Names of all shards, by number.
    pub shards: Vec<Box<str>>,
    /// The distributions that change.
    pub distributions: Vec<Planned>,
    pub tables: Vec<MovedTable>,
    /// Reference tables, by schema and name.
    pub references: Vec<QualifiedName>,
}

/// A table of a distribution that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedTable {
    pub schema: Box<str>,
    pub name: Box<str>,
    /// The place of its distribution in [`Scope::distributions`].
    pub distribution: usize,
    /// The columns of the shard key, in the order of the distribution's key.
    pub key: Vec<Box<str>>,
}

impl MovedTable {
    /// As SQL names it.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quoted_name(&self.schema), quoted_name(&self.name))
    }
}

impl Scope {
    pub fn new(
        plan: &Plan,
        shards: Vec<Box<str>>,
        tables: Vec<MovedTable>,
        references: Vec<QualifiedName>,
    ) -> Result<Scope, StoredError> {
        Ok(Scope {
            number: plan.number,
            name: plan.name.clone(),
            distributions: plan.planned(&shards)?,
            shards,
            tables,
            references,
        })
    }

    /// The types of a table's shard key.
    pub fn key_types(&self, table: &MovedTable) -> &[KeyType] {
        self.distributions[table.distribution].before.key_types()
    }

    /// Each pair of shards with a move between them, once.
    pub fn routes(&self) -> BTreeSet<Route> {
        let moves = self
            .distributions
            .iter()
            .flat_map(|one| &one.difference.moves);
        moves.map(|one| self.route(one)).collect()
    }

    /// The shards that rows leave or arrive at.
    pub fn shards_of_routes(&self) -> BTreeSet<ShardName> {
        let routes = self.routes().into_iter();
        routes.flat_map(|route| [route.from, route.to]).collect()
    }

    /// The tables with rows that may go by the route.
    pub fn tables_of(&self, route: &Route) -> impl Iterator<Item = &MovedTable> {
        self.tables
            .iter()
            .filter(|table| self.moves_by(table, route))
    }

    /// Whether rows of the table may go by the route.
    pub fn moves_by(&self, table: &MovedTable, route: &Route) -> bool {
        let moves = &self.distributions[table.distribution].difference.moves;
        moves.iter().any(|one| self.route(one) == *route)
    }

    /// The way that the rows of a key go, from the old shard to the new one; `None`: the key does not move.
    pub fn way_of(&self, table: &MovedTable, key: &[KeyValue]) -> Option<Route> {
        let planned = &self.distributions[table.distribution];
        planned.difference.move_of(key).map(|one| self.route(one))
    }

    /// The condition under which a row of the table goes by the route (from the old to the new shard). `columns`: an expression for each column of
    /// the shard key, as in [`condition`]. `None`: no row does.
    pub fn condition_of_route(
        &self,
        table: &MovedTable,
        route: &Route,
        columns: &[String],
    ) -> Option<String> {
        self.any_of(table, columns, |one| self.route(one) == *route)
    }

    /// The condition under which a row of the table has a key that leaves, or arrives at, the shard.
    pub fn condition_at(
        &self,
        table: &MovedTable,
        shard: &ShardName,
        keys: MovingKeys,
        columns: &[String],
    ) -> Option<String> {
        self.any_of(table, columns, |one| {
            let route = self.route(one);
            match keys {
                MovingKeys::Leaving => route.from == *shard,
                MovingKeys::Arriving => route.to == *shard,
            }
        })
    }

    /// Whether the shard has keys of the table's distribution before the plan, so that rows which do not move are written there.
    pub fn has_keys(&self, table: &MovedTable, shard: &ShardName) -> bool {
        let before = self.distributions[table.distribution].before.shards();
        before
            .into_iter()
            .any(|id| self.shards[id.index()] == shard.0)
    }

    /// Whether a condition calls functions of [`crate::resharding::hashes`].
    pub fn calls_our_functions(&self) -> bool {
        { self.distributions.iter() }.any(|one| {
            let types = one.before.key_types();
            { one.difference.moves.iter() }.any(|one| calls_our_functions(&one.keys, types))
        })
    }

    /// Whether any rows go by the route.
    pub fn moves_on(&self, route: &Route) -> bool {
        let moves = |planned: &Planned| {
            { planned.difference.moves.iter() }.any(|one| self.route(one) == *route)
        };
        self.distributions.iter().any(moves)
    }

    fn any_of(
        &self,
        table: &MovedTable,
        columns: &[String],
        concerned: impl Fn(&Move) -> bool,
    ) -> Option<String> {
        let planned = &self.distributions[table.distribution];
        let moves = planned.difference.moves.iter();
        let mut parts = Vec::new();
        for one in moves.filter(|one| concerned(one)) {
            let said = condition(&one.keys, planned.before.key_types(), columns);
            parts.push(format!("({said})"));
        }
        (!parts.is_empty()).then(|| format!("({})", parts.join(" OR ")))
    }

    fn route(&self, one: &Move) -> Route {
        let name = |shard: ShardId| ShardName(self.shards[shard.index()].clone());
        Route {
            from: name(one.from),
            to: name(one.to),
        }
    }
}
