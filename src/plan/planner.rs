//! The cascade, first match wins: the session itself, the only shard, a hint, the class of the statement, its facts.

use std::rc::Rc;

use crate::catalog::{Catalog, SearchPath};
use crate::sharding::ShardId;
use crate::sql::class::{Class, Copy, CopyDirection, CopySource, Ddl};
use crate::sql::facts::{Access, Facts, Leaves, Name, Source};
use crate::sql::{self, Body, Statement};

use super::refusal::{Reason, Refusal};
use super::spread::numbered::{Written, numbered, write};
use super::spread::placed::{self, Placed};
use super::{
    Arity, Creates, KeyTuple, Numbered, Plan, Planned, PlannedStatement, Spread, Target, classes,
    data, effect, hint, replica, settings, spread, takes,
};

/// Plans every statement of a message. `text` is the whole message's, which the statements' ranges cut.
pub fn plan(
    text: &str,
    statements: &[Statement],
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Planned {
    let first_path = search_path;
    let mut path = Some(first_path.clone());
    let planned = statements.iter().enumerate().map(|(place, statement)| {
        let here = path.clone();
        let search_path = here.as_ref().unwrap_or(first_path);
        path = settings::path_behind(&statement.class, path.take(), first_path);
        let unhinted;
        let (statement, placed) = match placed::declared(text, statement, catalog, search_path) {
            Some(declared) => {
                // The comment says where rows belong, not where this runs.
                unhinted = Statement {
                    hint: None,
                    ..statement.clone()
                };
                (&unhinted, Some(declared))
            }
            None => (statement, None),
        };
        let mut plan = decide(text, statement, catalog, search_path);
        let numbered = numbered(text, statement, catalog, search_path);
        let spread = match &plan {
            _ if let Some(refusal) = settings::refused(text, statement, catalog) => {
                plan = Err(refusal);
                None
            }
            _ if here.is_none()
                && let Some(refusal) = settings::lost(statement, catalog) =>
            {
                plan = Err(refusal);
                None
            }
            _ if let Some(Err(refusal)) = &placed => {
                plan = Err(refusal.clone());
                None
            }
            _ if let Some(Ok(placed::Declared::Wanted(placed, there))) = placed => {
                let (refusal, spread) = to_be_placed(placed, text, statement, &there, search_path);
                plan = Err(refusal);
                spread
            }
            // Wherever it would go without: a number may decide that.
            _ if let Some(mut numbered) = numbered => {
                numbered.otherwise = plan.clone();
                let refusal = refusal_with_numbers(&numbered, text, place, catalog, search_path);
                let needed = Refusal::new(Reason::SequenceDefault, "the statement needs numbers");
                plan = Err(refusal.clone().unwrap_or(needed));
                refusal
                    .is_none()
                    .then(|| Rc::new(Spread::Numbered(numbered)))
            }
            _ if calls_unique_id(statement) => {
                let message =
                    "trunkline.unique_id() stands where no number can be put in its place";
                plan = Err(Refusal::new(Reason::UniqueId, message));
                None
            }
            Err(refusal) => {
                let refusal = refusal.clone();
                match spread::spread(text, statement, catalog, search_path, refusal) {
                    Ok(spread) => Some(spread),
                    Err(refusal) => {
                        plan = Err(refusal);
                        None
                    }
                }
            }
            // The session knows where the cursor is.
            Ok(Plan::Relay(Target::Any))
                if matches!(
                    statement.class,
                    Class::Fetch(Some(_)) | Class::CloseCursor(Some(_))
                ) =>
            {
                Some(Rc::new(Spread::Cursor))
            }
            // Their values may lie on several shards.
            Ok(_) if may_have_several_keys(&plan) => {
                // The refusal at bind time names the shards.
                let refusal = Refusal::new(Reason::MultiShardSelect, "");
                spread::spread(text, statement, catalog, search_path, refusal).ok()
            }
            Ok(_) => None,
        };
        let over = spread
            .as_ref()
            .and_then(|_| spread::moving::over(statement, catalog, search_path));
        PlannedStatement {
            range: statement.range.clone(),
            class: statement.class.clone(),
            plan,
            spread,
            over,
            leaves: leaves(&text[statement.range.clone()], statement, catalog),
            effect: effect::of(text, statement, catalog, search_path),
            nodes: replica::of(text, statement, catalog, search_path),
            reads: statement.reads,
            takes: takes::of(text, statement, catalog, search_path),
            creates: creates(text, statement, catalog, search_path),
        }
    });
    Planned {
        statements: planned.collect(),
    }
}

fn creates(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Creates {
    if let Some(awaited) = placed::awaited(text, statement, catalog, search_path) {
        return Creates::Awaited(Rc::new(awaited));
    }
    let is_definition = matches!(statement.class, Class::Ddl(Ddl::Schema));
    match is_definition && defines_schema(&text[statement.range.clone()]) {
        true => Creates::Schema,
        false => Creates::Other,
    }
}

/// CREATE SCHEMA, or what may do so: ALTER SCHEMA RENAME.
fn defines_schema(text: &str) -> bool {
    sql::words(text).is_ok_and(|words| {
        let mut words = words.iter().take(4);
        words.any(|word| **word == *"schema")
    })
}

/// The plan of a statement whose table is to get its place first, if it is sound with it.
fn to_be_placed(
    placed: Placed,
    text: &str,
    statement: &Statement,
    there: &Catalog,
    search_path: &SearchPath,
) -> (Refusal, Option<Rc<Spread>>) {
    let sound = decide(text, statement, there, search_path)
        .map(|_| ())
        .or_else(|refusal| {
            spread::spread(text, statement, there, search_path, refusal).map(|_| ())
        });
    match sound {
        Ok(()) => {
            let needed = Refusal::new(Reason::TablePlace, "the table has no place yet");
            (needed, Some(Rc::new(Spread::Placed(placed))))
        }
        Err(refusal) => (refusal, None),
    }
}

fn calls_unique_id(statement: &Statement) -> bool {
    let Body::Facts(facts) = &statement.body else {
        return false;
    };
    facts.functions.iter().any(|function| {
        &*function.name == "unique_id" && function.schema.as_deref() == Some("trunkline")
    })
}

/// Why a statement is refused even when it has its numbers: then none are taken.
fn refusal_with_numbers(
    numbered: &Numbered,
    text: &str,
    place: usize,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Refusal> {
    let written = Written::Parameters(numbered.parameters.saturating_add(1));
    let (text, _) = write(&[numbered], written, text.as_bytes(), &[]);
    let text = String::from_utf8(text).ok()?;
    let statements = sql::read(&text).ok()?;
    let statement = statements.get(place)?;
    let one = std::slice::from_ref(statement);
    match plan(&text, one, catalog, search_path).statements.pop()? {
        PlannedStatement {
            plan: Err(refusal),
            spread: None,
            ..
        } => Some(Refusal {
            position: None,
            ..refusal
        }),
        _ => None,
    }
}

/// Whether the plan's keys can be more than one when it is bound.
pub fn may_have_several_keys(plan: &Result<Plan, Refusal>) -> bool {
    let Ok(Plan::Relay(Target::Keys { sets, also, .. })) = plan else {
        return false;
    };
    let mut tuples = sets.iter().flat_map(|set| &set.tuples);
    let several = |tuple: &KeyTuple| tuple.0.iter().any(|key| key.arity == Arity::Array);
    also.is_some() || tuples.clone().count() > 1 || tuples.any(several)
}

/// What the statement may leave behind in its connection.
fn leaves(text: &str, statement: &Statement, catalog: &Catalog) -> Vec<Leaves> {
    let mut leaves = match &statement.body {
        Body::Facts(facts) => facts.leaves.clone(),
        Body::None | Body::Unparsed { .. } => Vec::new(),
    };
    let harmless = match (&statement.body, &statement.class) {
        (Body::Facts(facts), _) => runs_harmlessly(facts, catalog),
        (Body::Unparsed { .. }, _) => false,
        (
            Body::None,
            Class::Copy(Copy {
                direction: CopyDirection::FromClient | CopyDirection::Server,
                source: CopySource::Table { name, .. },
            }),
        ) => catalog.residue.writes_harmlessly(name),
        (Body::None, Class::Copy(_)) => true,
        // What they run is not read. They are rare.
        (Body::None, Class::Ddl(_) | Class::Maintenance | Class::Unknown) => false,
        (Body::None, _) => true,
    };
    if !harmless {
        leaves.push(Leaves::Unseen);
    }
    if asks_for_last_value(text, statement, catalog) {
        leaves.push(Leaves::LastValue);
    }
    if sets_sequence(text, statement) {
        leaves.push(Leaves::SetsSequence);
    }
    if let Body::Facts(facts) = &statement.body {
        let calls = |name: &str| facts.functions.iter().any(|known| *known.name == *name);
        leaves.extend(calls("pg_notify").then_some(Leaves::Notification));
        leaves.extend(calls("pg_export_snapshot").then_some(Leaves::ExportedSnapshot));
    }
    leaves
}

/// Whether the statement may set a sequence to another number, as far as its own words tell.
fn sets_sequence(text: &str, statement: &Statement) -> bool {
    let words: &[&str] = match &statement.class {
        Class::Data => &["setval"],
        // Sequences that are made anew or altered are definitions, whose changes are seen by themselves.
        Class::Ddl(_) => &["restart"],
        Class::Do | Class::Call => &["setval", "restart"],
        _ => return false,
    };
    let holds = |written: Vec<Box<str>>| written.iter().any(|word| words.contains(&&**word));
    match (&statement.class, &statement.body) {
        (Class::Data, Body::Facts(facts)) => {
            let mut functions = facts.functions.iter();
            functions.any(|function| words.contains(&&*function.name))
        }
        (Class::Do, _) => words.iter().any(|word| text.contains(word)),
        _ => sql::words(text).is_ok_and(holds),
    }
}

/// Whether a sequence's last value in the connection may matter.
fn asks_for_last_value(text: &str, statement: &Statement, catalog: &Catalog) -> bool {
    let residue = &catalog.residue;
    let facts = match (&statement.body, &statement.class) {
        (Body::Facts(facts), _) => facts,
        (
            Body::None,
            Class::Copy(Copy {
                source: CopySource::Table { name, .. },
                ..
            }),
        ) => return residue.writing_asks(name),
        // What is only written down does not run.
        (_, Class::Ddl(_)) if defines_routine(text) => return false,
        (Body::Unparsed { .. }, _)
        | (_, Class::Ddl(_) | Class::Do | Class::Call | Class::Unknown) => {
            return residue.text_asks(text);
        }
        (Body::None, _) => return false,
    };
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let mut relations = relations.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some((name, relation.access)),
        _ => None,
    });
    let mut inserts = facts.inserts.iter();
    let mut functions = facts.functions.iter();
    functions.any(|function| residue.asks_for_last_value(&function.name))
        || inserts.any(|insert| residue.writing_asks(&insert.table.name))
        || relations.any(|(name, access)| match access {
            Access::Read => residue.reading_asks(&name.name),
            Access::Write => residue.writing_asks(&name.name),
        })
}

/// CREATE [OR REPLACE] FUNCTION or PROCEDURE.
fn defines_routine(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace().take(4);
    words
        .any(|word| word.eq_ignore_ascii_case("function") || word.eq_ignore_ascii_case("procedure"))
}

fn runs_harmlessly(facts: &Facts, catalog: &Catalog) -> bool {
    let residue = &catalog.residue;
    let is_harmless = |function: &Name| {
        residue.is_harmless(&function.name)
            // What it leaves behind is known.
            || matches!(&*function.name, "set_config") && function.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
    };
    let relations = facts.blocks.iter().flat_map(|block| &block.relations);
    let mut relations = relations.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some((name, relation.access)),
        _ => None,
    });
    facts.functions.iter().all(is_harmless)
        && facts
            .inserts
            .iter()
            .all(|insert| residue.writes_harmlessly(&insert.table.name))
        && relations.all(|(name, access)| match access {
            Access::Read => residue.reads_harmlessly(&name.name),
            Access::Write => residue.writes_harmlessly(&name.name),
        })
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
