//! Statements over several shards while rows move between them.
//!
//! A shard may have rows that another one owns: copies that are not in force yet, or what stays behind until the plan is finished. What goes by a key never
//! sees them. What reads all rows of several shards is gathered then, where each shard is told which rows to leave out; what changes all rows is refused.

use std::rc::Rc;

use super::Spread;
use crate::catalog::Placement;
use crate::catalog::{Catalog, DistributionId, QualifiedName, Relation, Resolved, SearchPath};
use crate::plan::refusal::{Reason, Refusal};
use crate::sql::Body;
use crate::sql::Statement;
use crate::sql::class::{Class, CopySource};
use crate::sql::facts::Source;

/// The tables that a statement names.
struct Named {
    sharded: Vec<(QualifiedName, DistributionId)>,
    /// All of them are known, and none is a view.
    is_all: bool,
}

impl Named {
    fn of(statement: &Statement, catalog: &Catalog, search_path: &SearchPath) -> Named {
        let mut named = Named {
            sharded: Vec::new(),
            is_all: true,
        };
        if let Class::Copy(copy) = &statement.class
            && let CopySource::Table { schema, name } = &copy.source
        {
            named.add(schema.as_deref(), name, catalog, search_path);
            return named;
        }
        let Body::Facts(facts) = &statement.body else {
            named.is_all = false;
            return named;
        };
        for relation in facts.blocks.iter().flat_map(|block| &block.relations) {
            if let Source::Table(name) = &relation.source {
                named.add(name.schema.as_deref(), &name.name, catalog, search_path);
            }
        }
        named
    }

    fn add(
        &mut self,
        schema: Option<&str>,
        name: &str,
        catalog: &Catalog,
        search_path: &SearchPath,
    ) {
        match catalog.resolve(search_path, schema, name) {
            Resolved::Found {
                schema,
                relation: Relation::Table { placement, .. },
            } => {
                if let Placement::Sharded { distribution, .. } = placement {
                    let found = (Box::from(schema), Box::from(name));
                    self.sharded.push((found, *distribution));
                }
            }
            Resolved::Found {
                relation: Relation::System,
                ..
            } => {}
            Resolved::Found { .. } | Resolved::Temporary | Resolved::Unknown => self.is_all = false,
        }
    }
}

/// The distributions whose rows a statement can concern; `None`: any.
pub fn over(
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Rc<[DistributionId]>> {
    let named = Named::of(statement, catalog, search_path);
    let mut over: Vec<DistributionId> = named.sharded.iter().map(|(_, one)| *one).collect();
    over.sort_unstable_by_key(|one| one.0);
    over.dedup();
    (named.is_all && !over.is_empty()).then(|| over.into())
}

/// How the statement is done while rows move.
pub fn among(
    spread: Rc<Spread>,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Rc<Spread>, Refusal> {
    let named = Named::of(statement, catalog, search_path);
    let moves = |(name, distribution): &&(QualifiedName, DistributionId)| {
        let turning = &catalog.distributions[usize::from(distribution.0)].turning;
        turning.is_some() && catalog.has_foreign_rows(*distribution, name)
    };
    let concerned = named.sharded.iter().find(moves);
    if concerned.is_none() && named.is_all {
        return Ok(spread);
    }
    let refused = || {
        let what = concerned.map_or("a table that the statement reads", |((_, name), _)| name);
        let message = format!(
            "rows of \"{what}\" are being moved between shards, and the statement is for rows of several shards"
        );
        Refusal::new(Reason::TableMoving, message)
    };
    // What is left out is known by the table's own name.
    let mut moving = named.sharded.iter().filter(moves);
    if moving.any(|(name, _)| !catalog.foreign.contains_key(name)) || !named.is_all {
        return Err(refused());
    }
    match &*spread {
        Spread::Scatter { otherwise, .. } => match otherwise {
            Ok(gather) => Ok(Rc::new(Spread::Gather((**gather).clone()))),
            Err(_) => Err(refused()),
        },
        Spread::Gather(_)
        | Spread::Rows(_)
        | Spread::CopyIn(_)
        | Spread::Numbered(_)
        | Spread::Everywhere(_) => Ok(spread),
        Spread::Write(_)
        | Spread::Move(_)
        | Spread::Delivery(_)
        | Spread::CopyOut(_)
        | Spread::Explain(_) => Err(refused()),
    }
}
