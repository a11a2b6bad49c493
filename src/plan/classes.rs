//! What each class of statement needs: the session itself, any shard, the home shard, the shard of its tables, or a shard that only the
//! application can name.

use crate::catalog::{Catalog, SchemaState, SearchPath};
use crate::sql::class::{Class, Copy, CopyDirection, CopySource, Ddl, Executes};
use crate::sql::facts::Name;
use crate::sql::{self, Body, Statement};

use super::refusal::{Reason, Refusal};
use super::scope::{Known, Meaning};
use super::spread::definitions::{self, Place};
use super::spread::listed;
use super::words::Concern;
use super::{Target, data};

/// The session answers or remembers these itself, whatever the number of shards.
pub fn is_for_the_session(class: &Class) -> bool {
    match class {
        Class::Empty
        | Class::Begin
        | Class::Commit { .. }
        | Class::Rollback { .. }
        | Class::Savepoint(_)
        | Class::RollbackTo(_)
        | Class::Release(_)
        | Class::Set { .. }
        | Class::SetTransaction
        | Class::SetConstraints
        | Class::Reset(_)
        | Class::ResetAll
        | Class::Deallocate(_)
        | Class::Discard(_) => true,
        // No server knows them.
        Class::Show(name) => name.starts_with("trunkline."),
        Class::Data
        | Class::TwoPhase
        | Class::Declare { .. }
        | Class::Fetch(_)
        | Class::CloseCursor(_)
        | Class::Prepare { .. }
        | Class::Execute { .. }
        | Class::SetConfig(_)
        | Class::Listen(_)
        | Class::Unlisten(_)
        | Class::Notify
        | Class::Lock
        | Class::Explain { .. }
        | Class::Copy(_)
        | Class::Ddl(_)
        | Class::Maintenance
        | Class::Call
        | Class::Do
        | Class::Load
        | Class::Unknown => false,
    }
}

/// Where a statement without a hint goes in a cluster of several shards. `whole` is the message's text, which its range cuts.
pub fn target(
    whole: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Target, Refusal> {
    let refuse = |reason, message: &str| Err(Refusal::new(reason, message));
    let text = &whole[statement.range.clone()];
    match &statement.class {
        Class::Data | Class::Declare { .. } | Class::Prepare { .. } | Class::Explain { .. } => {
            by_body(text, statement, catalog, search_path)
        }
        Class::Show(_) | Class::Fetch(_) | Class::CloseCursor(_) => Ok(Target::Any),
        Class::Execute {
            executes: Executes::Creating(Ddl::Schema | Ddl::Global | Ddl::Truncate),
            ..
        } => refuse(
            Reason::Ddl,
            "a definition statement has to run on every shard, and no shard is named",
        ),
        // Only the session knows what it executes.
        Class::Execute { .. } | Class::SetConfig(_) => Ok(Target::Any),
        Class::Listen(_) | Class::Unlisten(_) | Class::Notify | Class::Load => {
            Ok(Target::Shard(catalog.home))
        }
        Class::TwoPhase => refuse(Reason::TwoPhase, "two-phase commit by hand needs a shard"),
        Class::Lock => lock(whole, statement, catalog, search_path),
        Class::Copy(copy) => self::copy(copy, text, statement, catalog, search_path),
        Class::Ddl(Ddl::Temporary) => temporary(text, statement, catalog, search_path),
        Class::Ddl(Ddl::Global | Ddl::Truncate | Ddl::Schema) | Class::Maintenance => {
            // Those of every shard are spread.
            let several = || {
                refuse(
                    Reason::Ddl,
                    "a definition statement has to run on every shard",
                )
            };
            match definitions::place(whole, statement, catalog, search_path) {
                Some(Ok(Place::One(shard))) => Ok(Target::Shard(shard)),
                Some(Ok(Place::All(_) | Place::Each(_))) | None => several(),
                Some(Err(refusal)) => Err(refusal),
            }
        }
        Class::Call => refuse(
            Reason::OpaqueCode,
            "CALL may use any table, and no shard is named",
        ),
        Class::Do => refuse(
            Reason::OpaqueCode,
            "DO may use any table, and no shard is named",
        ),
        Class::Unknown => unknown(text, catalog),
        Class::Empty
        | Class::Begin
        | Class::Commit { .. }
        | Class::Rollback { .. }
        | Class::Savepoint(_)
        | Class::RollbackTo(_)
        | Class::Release(_)
        | Class::Set { .. }
        | Class::SetTransaction
        | Class::SetConstraints
        | Class::Reset(_)
        | Class::ResetAll
        | Class::Deallocate(_)
        | Class::Discard(_) => Ok(Target::Any),
    }
}

fn by_body(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Target, Refusal> {
    match &statement.body {
        Body::Facts(facts) => data::target(text, facts, catalog, search_path),
        Body::Unparsed {
            words,
            near,
            message,
        } => by_concern(Concern::of_words(words, catalog), message, catalog)
            .map_err(|refusal| refusal.at(*near)),
        Body::None => by_concern(
            Concern::of_text(text, catalog),
            "no query was found",
            catalog,
        ),
    }
}

/// A statement that cannot be read goes to the shard of its tables when nothing in it can concern others.
fn by_concern(concern: Concern, why: &str, catalog: &Catalog) -> Result<Target, Refusal> {
    match concern {
        Concern::Shards | Concern::Several => {
            let message = format!(
                "cannot tell on which shard the statement runs, because it is not understood: {why}"
            );
            Err(Refusal::new(Reason::UnreadSyntax, message))
        }
        // An unknown name may be a view of a sharded table.
        _ if catalog.schema == SchemaState::Unread => {
            let message = format!(
                "the servers' definitions have not been read yet, and the statement is not understood: {why}"
            );
            Err(Refusal::new(Reason::CatalogUnread, message))
        }
        Concern::One(shard) => Ok(Target::Shard(shard)),
        Concern::None => Ok(Target::Shard(catalog.home)),
    }
}

/// First words that are no statement go to any server, which says what is wrong with them. EXPLAIN is one: before CREATE TABLE AS it may
/// create the table, before EXECUTE it needs what only the session knows.
fn unknown(text: &str, catalog: &Catalog) -> Result<Target, Refusal> {
    let words = sql::words(text).unwrap_or_default();
    let is_statement = words.first().is_some_and(|first| **first == *"explain");
    if is_statement || Concern::of_text(text, catalog) == Concern::Shards {
        let message = "the statement begins with words that are not understood";
        return Err(Refusal::new(Reason::UnreadSyntax, message));
    }
    Ok(Target::Any)
}

fn lock(
    whole: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Target, Refusal> {
    match listed::locked(whole, statement, catalog, search_path) {
        Ok(tables) => tables
            .only_shard()
            .map(Target::Shard)
            .ok_or_else(|| Refusal::new(Reason::Lock, "LOCK of tables that are on several shards")),
        // Tables whose names are all of one shard.
        Err(refusal) => at_home_unless(&whole[statement.range.clone()], catalog, || refusal),
    }
}

/// The one shard of the tables among a statement's words, the home shard when there are none.
fn at_home_unless(
    text: &str,
    catalog: &Catalog,
    several: impl FnOnce() -> Refusal,
) -> Result<Target, Refusal> {
    match Concern::of_text(text, catalog) {
        Concern::Shards | Concern::Several => Err(several()),
        Concern::One(shard) => Ok(Target::Shard(shard)),
        Concern::None => Ok(Target::Shard(catalog.home)),
    }
}

/// A temporary table lives in one connection; it is made on the home shard unless a query decides otherwise.
fn temporary(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Target, Refusal> {
    if let Body::Facts(facts) = &statement.body {
        return Ok(match data::target(text, facts, catalog, search_path)? {
            Target::Any => Target::Shard(catalog.home),
            target => target,
        });
    }
    at_home_unless(text, catalog, || {
        Refusal::new(
            Reason::Ddl,
            "a temporary table is made from tables that are on several shards, and no shard is named",
        )
    })
}

fn copy(
    copy: &Copy,
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Target, Refusal> {
    let refuse = |message: String| Err(Refusal::new(Reason::Copy, message));
    if copy.direction == CopyDirection::Server {
        return refuse(
            "COPY reads or writes a server's file or program, and no shard is named".to_owned(),
        );
    }
    let CopySource::Table { schema, name } = &copy.source else {
        return by_body(text, statement, catalog, search_path);
    };
    let named = Name {
        schema: schema.clone(),
        name: name.clone(),
    };
    let known = Known::look_up(catalog, search_path, &named);
    match (known.meaning, copy.direction) {
        (Meaning::Sharded { .. }, _) => refuse(format!("COPY of sharded table \"{name}\"")),
        (Meaning::Reference, CopyDirection::FromClient) => {
            refuse(format!("COPY into reference table \"{name}\""))
        }
        (Meaning::Reference | Meaning::System, _) => Ok(Target::Any),
        (Meaning::Single(shard), _) => Ok(Target::Shard(shard)),
        (Meaning::View, _) => Err(Refusal::new(
            Reason::ViewOverSharded,
            format!("\"{name}\" is a view of sharded or reference tables"),
        )),
        (Meaning::Temporary | Meaning::NotATable, _) => Ok(Target::Shard(catalog.home)),
        (Meaning::Refused(why), _) => Err(Refusal::new(Reason::TableRefused, why)),
        (Meaning::Unknown, _) => {
            data::unknown_is_for_home_to_judge(name, catalog).map(|()| Target::Shard(catalog.home))
        }
    }
}
