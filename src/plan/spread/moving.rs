//! Statements over several shards while rows move between them.
//!
//! A shard may have rows that another one owns: copies that are not in force yet, or what stays behind until the plan is finished. What goes by a key never
//! sees them. In all else each shard is told which rows to leave out (`own_rows.rs`). What cannot be told so is gathered, or refused.

use std::rc::Rc;

use super::Spread;
use crate::catalog::Placement;
use crate::catalog::{Catalog, DistributionId, Relation, Resolved, SearchPath};
use crate::plan::refusal::{Reason, Refusal};
use crate::sql::Body;
use crate::sql::Statement;
use crate::sql::class::{Class, CopySource};
use crate::sql::facts::Source;

/// The tables that a statement names.
struct Named {
    sharded: Vec<(Box<str>, DistributionId)>,
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
                relation: Relation::Table { placement, .. },
                ..
            } => {
                if let Placement::Sharded { distribution, .. } = placement {
                    self.sharded.push((Box::from(name), *distribution));
                }
            }
            Resolved::Found {
                relation: Relation::System,
                ..
            } => {}
            Resolved::Found { .. } | Resolved::Temporary | Resolved::Unknown => self.is_all = false,
        }
    }

    fn distributions(&self) -> Vec<DistributionId> {
        let mut each: Vec<DistributionId> = self.sharded.iter().map(|(_, one)| *one).collect();
        each.sort_unstable_by_key(|one| one.0);
        each.dedup();
        each
    }
}

/// The distributions whose rows a statement can concern; `None`: any.
pub fn over(
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Rc<[DistributionId]>> {
    let named = Named::of(statement, catalog, search_path);
    let over = named.distributions();
    (named.is_all && !over.is_empty()).then(|| over.into())
}

/// How the statement is done while rows move.
pub fn among(
    spread: Rc<Spread>,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Rc<Spread>, Refusal> {
    let own = match &*spread {
        Spread::Scatter { scatter, .. } => &scatter.own,
        Spread::Write(write) => &write.own,
        Spread::CopyOut(copy) => &copy.own,
        // Table by table.
        Spread::Gather(_) | Spread::Delivery(_) | Spread::Move(_) => return Ok(spread),
        // Rows are stored by their keys, or every shard has them.
        Spread::Rows(_)
        | Spread::CopyIn(_)
        | Spread::Numbered(_)
        | Spread::Placed(_)
        | Spread::Everywhere(_)
        | Spread::Once(_)
        | Spread::Listed(_) => return Ok(spread),
        // The statement in it has been here; a cursor's has.
        Spread::Explain(_) | Spread::Declare(_) | Spread::Prepared(_) | Spread::Cursor => {
            return Ok(spread);
        }
    };
    if own.is_some() {
        return Ok(spread);
    }
    let named = Named::of(statement, catalog, search_path);
    let shards = match named.is_all {
        true => catalog.shards_of(&named.distributions()),
        false => super::all_shards(catalog),
    };
    let moves = |distribution| catalog.has_foreign_rows(distribution, &shards);
    let concerned = named.sharded.iter().find(|(_, one)| moves(*one));
    if concerned.is_none() && named.is_all {
        return Ok(spread);
    }
    if let Spread::Scatter {
        otherwise: Ok(gather),
        ..
    } = &*spread
    {
        return Ok(Rc::new(Spread::Gather((**gather).clone())));
    }
    let what = concerned.map_or("a table that the statement reads", |(name, _)| name);
    let message = format!(
        "rows of \"{what}\" are being moved between shards, and the statement is for rows of several shards, in a form that cannot leave out those of others"
    );
    Err(Refusal::new(Reason::TableMoving, message))
}
