//! Settings that decide what later statements mean (`search_path`, `role`, those that policies read), on whatever shard.
//!
//! A call of `set_config` is followed (`Class::SetConfig`) or refused. In a message of several statements names are looked up in the path
//! that the statements before have set; where that is not known here, they are refused.

use crate::catalog::{Catalog, SearchPath};
use crate::sql::class::{Class, Discard, SetValue};
use crate::sql::facts::{Facts, Leaves, Name, Source};
use crate::sql::{Body, Statement};

use super::refusal::{Reason, Refusal};

/// What pg_dump sets so, where the server has it. It only forbids, and means nothing for rows.
const OF_PG_DUMP: &str = "'restrict_nonsystem_relation_kind'";
/// What asyncpg sets so. It is about speed.
const OF_ASYNCPG: &str = "jit";

/// Why a statement that calls `set_config` may not run; `text` is the message's.
pub fn refused(text: &str, statement: &Statement, catalog: &Catalog) -> Option<Refusal> {
    let Body::Facts(facts) = &statement.body else {
        return None;
    };
    if !facts.leaves.iter().any(is_setting) {
        return None;
    }
    let refuse = |message: &str| Some(Refusal::new(Reason::SetConfig, message));
    let text = &text[statement.range.clone()];
    if text.to_ascii_lowercase().contains("'trunkline.") {
        return refuse("set_config does not set what only Trunkline knows");
    }
    if catalog.shards.len() == 1 || statement.hint.is_some() || is_harmless(text, facts) {
        return None;
    }
    refuse("what set_config sets here would not be known on other shards")
}

/// Whether a text with other literals in this statement's place may have another plan: they can be settings' names.
pub fn goes_by_literals(leaves: &[Leaves]) -> bool {
    leaves.iter().any(is_setting)
}

fn is_setting(leaves: &Leaves) -> bool {
    matches!(leaves, Leaves::Setting | Leaves::LocalSetting)
}

/// What it sets bears on no answer.
fn is_harmless(text: &str, facts: &Facts) -> bool {
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let mut tables = relations.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some(&*name.name),
        _ => None,
    });
    let mut of_pg_dump = || text.contains(OF_PG_DUMP) && tables.all(|name| name == "pg_settings");
    sets_only(text, OF_ASYNCPG) || of_pg_dump()
}

/// Whether each call has this name as its first argument, written in the plainest way.
fn sets_only(text: &str, name: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut calls = text.split("set_config").skip(1);
    calls.all(|call| {
        let argument = call.trim_start().strip_prefix('(');
        let argument = argument.and_then(|rest| rest.trim_start().strip_prefix('\''));
        let behind = argument.and_then(|rest| rest.strip_prefix(name));
        behind.is_some_and(|rest| rest.starts_with('\''))
    })
}

/// The path behind a statement, in the same message; `before` it, and `first` of all. `None`: only the session knows.
pub fn path_behind(
    class: &Class,
    before: Option<SearchPath>,
    first: &SearchPath,
) -> Option<SearchPath> {
    match class {
        Class::Set {
            name,
            value: SetValue::Given { values, .. },
            ..
        } if **name == *SEARCH_PATH => {
            let is_known = values.iter().all(|schema| **schema != *"$user");
            is_known.then(|| SearchPath(values.as_slice().into()))
        }
        Class::Set { name, .. } | Class::Reset(name) if **name == *SEARCH_PATH => None,
        Class::SetConfig(calls) if calls.iter().any(|call| *call.name == *SEARCH_PATH) => None,
        Class::ResetAll | Class::Discard(Discard::All) => None,
        // It may go back to what it was, or not.
        Class::Commit { .. } | Class::Rollback { .. } | Class::RollbackTo(_) => {
            before.filter(|before| before == first)
        }
        _ => before,
    }
}

const SEARCH_PATH: &str = "search_path";

/// Why a statement may not run behind one after which the path is not known.
pub fn lost(statement: &Statement, catalog: &Catalog) -> Option<Refusal> {
    let names_something = match (&statement.class, &statement.body) {
        (_, Body::Facts(facts)) => has_unqualified(facts),
        (_, Body::Unparsed { .. }) => true,
        (class, Body::None) => matches!(
            class,
            Class::Ddl(_)
                | Class::Copy(_)
                | Class::Lock
                | Class::Maintenance
                | Class::Execute { .. }
                | Class::Call
                | Class::Do
                | Class::Unknown
        ),
    };
    if !names_something || catalog.shards.len() == 1 || statement.hint.is_some() {
        return None;
    }
    let message = "search_path is not known here: it is changed in the same message";
    Some(Refusal::new(Reason::SettingInBatch, message))
}

fn has_unqualified(facts: &Facts) -> bool {
    let is_unqualified = |name: &Name| name.schema.is_none();
    let mut relations = facts.blocks.iter().flat_map(|block| &block.relations);
    relations
        .any(|relation| matches!(&relation.source, Source::Table(name) if is_unqualified(name)))
        || facts
            .inserts
            .iter()
            .any(|insert| is_unqualified(&insert.table))
}
