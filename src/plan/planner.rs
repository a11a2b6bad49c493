//! The cascade, first match wins: the session itself, the only shard, a hint, the class of the statement, its facts.

use crate::catalog::{Catalog, SearchPath};
use crate::sharding::ShardId;
use crate::sql::{Body, Statement};

use super::refusal::Refusal;
use super::{Plan, Planned, PlannedStatement, Target, classes, data, hint};

/// Plans every statement of a message. `text` is the whole message's, which the statements' ranges cut.
pub fn plan(
    text: &str,
    statements: &[Statement],
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Planned {
    let planned = statements.iter().map(|statement| PlannedStatement {
        range: statement.range.clone(),
        class: statement.class.clone(),
        plan: decide(
            &text[statement.range.clone()],
            statement,
            catalog,
            search_path,
        ),
        leaves: match &statement.body {
            Body::Facts(facts) => facts.leaves.clone(),
            Body::None | Body::Unparsed { .. } => Vec::new(),
        },
    });
    Planned {
        statements: planned.collect(),
    }
}

fn decide(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Plan, Refusal> {
    if classes::is_for_the_session(&statement.class) {
        return Ok(Plan::Session);
    }
    if catalog.shards.len() == 1 {
        return Ok(Plan::Relay(Target::Shard(ShardId(0))));
    }
    if let Some(named) = &statement.hint {
        let tables = match &statement.body {
            Body::Facts(facts) => data::distribution(facts, catalog, search_path),
            Body::None | Body::Unparsed { .. } => None,
        };
        return Ok(Plan::Relay(Target::Shard(hint::hinted(
            named, tables, catalog,
        )?)));
    }
    classes::target(text, statement, catalog, search_path).map(Plan::Relay)
}
