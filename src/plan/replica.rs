//! Whether a statement may run on a streaming replica, and means the same there as on the primary that it follows.
//!
//! Only when that is proven: it changes and locks nothing, asks nothing of the server that it runs on, and reads what a replica has. How far
//! the replica has come is another question (`topology/choice.rs`).

use crate::catalog::{Catalog, SchemaState, SearchPath};
use crate::sql::class::{Class, Copy, CopyDirection, CopySource, Hold};
use crate::sql::facts::{Doubt, Facts, Name, Source};
use crate::sql::{Body, Statement};

use super::Nodes;
use super::effect::writes_rows;
use super::scope::{Known, Meaning};

/// `text` is the whole message's.
pub fn of(text: &str, statement: &Statement, catalog: &Catalog, search_path: &SearchPath) -> Nodes {
    let text = &text[statement.range.clone()];
    // What a name means is not known without the servers' definitions.
    if catalog.schema == SchemaState::Read && is_fit(text, statement, catalog, search_path) {
        Nodes::Any
    } else {
        Nodes::Primary
    }
}

fn is_fit(text: &str, statement: &Statement, catalog: &Catalog, search_path: &SearchPath) -> bool {
    match &statement.class {
        Class::Data
        // Of a plan that is only shown, too: to make it takes the locks of what is planned.
        | Class::Explain { .. }
        | Class::Declare {
            hold: Hold::Without,
            ..
        }
        | Class::Copy(Copy {
            direction: CopyDirection::ToClient,
            source: CopySource::Query(_),
        }) => match &statement.body {
            Body::Facts(facts) => only_reads(text, facts, catalog, search_path),
            Body::None | Body::Unparsed { .. } => false,
        },
        Class::Copy(Copy {
            direction: CopyDirection::ToClient,
            source: CopySource::Table { schema, name },
        }) => {
            let name = Name {
                schema: schema.clone(),
                name: name.clone(),
            };
            can_read(&name, catalog, search_path)
        }
        // What these are about is the connection, its transaction, the server, or a change. The session knows what EXECUTE runs, and asks for
        // that; where a cursor is, FETCH goes.
        Class::Empty
        | Class::Begin
        | Class::Commit { .. }
        | Class::Rollback { .. }
        | Class::Savepoint(_)
        | Class::RollbackTo(_)
        | Class::Release(_)
        | Class::TwoPhase
        | Class::Set { .. }
        | Class::SetConfig(_)
        | Class::SetTransaction
        | Class::SetConstraints
        | Class::Reset(_)
        | Class::ResetAll
        | Class::Show(_)
        | Class::Declare {
            hold: Hold::With, ..
        }
        | Class::Fetch(_)
        | Class::CloseCursor(_)
        | Class::Prepare { .. }
        | Class::Execute { .. }
        | Class::Deallocate(_)
        | Class::Discard(_)
        | Class::Listen(_)
        | Class::Unlisten(_)
        | Class::Notify
        | Class::Lock
        | Class::Copy(_)
        | Class::Ddl(_)
        | Class::Maintenance
        | Class::Call
        | Class::Do
        | Class::Load
        | Class::Unknown => false,
    }
}

fn only_reads(text: &str, facts: &Facts, catalog: &Catalog, search_path: &SearchPath) -> bool {
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let mut read = relations.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some(name),
        Source::Cte(_) | Source::Derived | Source::Function => None,
    });
    !writes_rows(facts)
        && !facts.locking
        && facts.leaves.is_empty()
        && facts.doubts.iter().all(is_about_names)
        && catalog.replicas.can_compute(text)
        && facts.functions.iter().all(|name| can_call(name, catalog))
        && read.all(|name| can_read(name, catalog, search_path))
}

/// The doubt is about what columns are called; all that is read and called is known.
fn is_about_names(doubt: &Doubt) -> bool {
    match doubt {
        Doubt::Natural => true,
        Doubt::Unread(what) => Doubt::NAMES.contains(&&**what),
        Doubt::Merge | Doubt::SelectInto => false,
    }
}

fn can_call(function: &Name, catalog: &Catalog) -> bool {
    let name = &*function.name;
    let is_temporary = function.schema.as_deref() == Some("pg_temp");
    // What leaves something behind in its connection must be where the session will be; a name that is not known is not harmless.
    let is_fit = catalog.residue.is_harmless(name) && catalog.replicas.can_call(name);
    !is_temporary && (is_fit || catalog.replica_functions.contains(name))
}

fn can_read(name: &Name, catalog: &Catalog, search_path: &SearchPath) -> bool {
    let is_there = match Known::look_up(catalog, search_path, name).meaning {
        Meaning::Sharded { .. }
        | Meaning::Reference
        | Meaning::Single(_)
        | Meaning::View
        | Meaning::System
        | Meaning::NotATable => true,
        // It may have been made a moment ago, or be the session's own.
        Meaning::Refused(_) | Meaning::Temporary | Meaning::Unknown => false,
    };
    is_there
        && catalog.residue.reads_harmlessly(&name.name)
        && catalog.replicas.can_read(&name.name)
}

#[cfg(test)]
mod tests;
