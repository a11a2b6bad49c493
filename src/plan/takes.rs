//! Whether a server may take numbers from sequences while it runs a statement: then it knows better than Trunkline what was taken last.

use crate::catalog::{Catalog, Column, ColumnDefault, SearchPath};
use crate::sql::class::{Class, Copy, CopyDirection, CopySource};
use crate::sql::facts::{Access, Facts, Name, Source};
use crate::sql::{self, Body, Statement};

use super::Takes;
use super::functions::is_opaque;
use super::scope::{Known, Meaning};
use super::spread::everywhere::is_triggered;

/// Nothing only when that is proven. `text` is the whole message's.
pub fn of(text: &str, statement: &Statement, catalog: &Catalog, search_path: &SearchPath) -> Takes {
    let takes = match (&statement.class, &statement.body) {
        (
            Class::Empty
            | Class::Begin
            | Class::Commit { .. }
            | Class::Rollback { .. }
            | Class::Savepoint(_)
            | Class::RollbackTo(_)
            | Class::Release(_)
            | Class::Set { .. }
            | Class::SetConfig(_)
            | Class::SetTransaction
            | Class::SetConstraints
            | Class::Reset(_)
            | Class::ResetAll
            | Class::Show(_)
            | Class::Prepare { .. }
            | Class::Deallocate(_)
            | Class::CloseCursor(_)
            | Class::Lock
            | Class::Listen(_)
            | Class::Unlisten(_)
            | Class::Notify,
            _,
        ) => false,
        (_, Body::Facts(facts)) => {
            let text = &text[statement.range.clone()];
            facts_take(text, facts, catalog, search_path)
        }
        (
            Class::Copy(Copy {
                direction,
                source: CopySource::Table { schema, name },
            }),
            _,
        ) => {
            let name = Name {
                schema: schema.clone(),
                name: name.clone(),
            };
            *direction != CopyDirection::ToClient
                && storing_takes(&name, catalog, search_path, "default")
        }
        _ => true,
    };
    if takes {
        Takes::Numbers
    } else {
        Takes::Nothing
    }
}

fn facts_take(text: &str, facts: &Facts, catalog: &Catalog, search_path: &SearchPath) -> bool {
    let mut functions = facts.functions.iter();
    if functions.any(|function| {
        matches!(&*function.name, "nextval" | "setval") || is_opaque(&function.name, catalog)
    }) {
        return true;
    }
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let mut written = relations
        .filter(|relation| relation.access == Access::Write)
        .filter_map(|relation| match &relation.source {
            Source::Table(name) => Some(name),
            _ => None,
        });
    let merged = facts.merge.iter().flat_map(|merge| &merge.inserts);
    let inserts = facts.inserts.iter().chain(merged);
    let mut inserted = inserts.map(|insert| &insert.table);
    inserted.any(|name| storing_takes(name, catalog, search_path, "default"))
        || written.any(|name| storing_takes(name, catalog, search_path, text))
}

/// Whether a row that is stored may get a number there: by a trigger, or by a default where `text` lets one be used.
fn storing_takes(name: &Name, catalog: &Catalog, search_path: &SearchPath, text: &str) -> bool {
    if is_triggered(catalog, name) {
        return true;
    }
    let known = Known::look_up(catalog, search_path, name);
    let is_numbered = |columns: &[Column]| {
        let mut columns = columns.iter();
        columns.any(|column| column.default == ColumnDefault::Sequence)
    };
    match known.meaning {
        // Trunkline has taken them.
        Meaning::Sharded { .. } | Meaning::Reference => false,
        _ => {
            known.columns.is_none_or(is_numbered)
                && sql::words(text)
                    .map_or(true, |words| words.iter().any(|word| **word == *"default"))
        }
    }
}
