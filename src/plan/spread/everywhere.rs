//! What every shard does alike: changes of reference tables, so that all copies stay equal, and definitions.
//!
//! The copies stay equal only when the statement gives the same rows wherever and whenever it runs. So it may use nothing that the clock,
//! chance, a sequence or the order of stored rows decides, neither in its text nor in the defaults of columns that it leaves out. Strings
//! like 'now' have such a value only as a time: they are looked at when the statement's values are known.

use crate::catalog::{Catalog, ColumnDefault};
use crate::plan::Values;
use crate::plan::parameters::Parameters;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::{Known, Meaning};
use crate::sql::definition::{Word, WordPlace};
use crate::sql::facts::{InsertSource, Name, Operand};
use crate::sql::lexer::LiteralKind;
use crate::sql::normalise::literal_text;

use super::changes::{Asked, Others, Verbatim};

/// The client's text goes to every shard; the home shard's answer is the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Everywhere {
    /// Rows of a reference table are changed. All shards must count the same.
    Copies,
    /// Definitions are changed, in one transaction.
    Definition,
    /// The same for what no transaction block may hold: shard after shard.
    Alone,
}

impl Everywhere {
    pub(super) fn describe(self) -> String {
        match self {
            Everywhere::Copies => "goes    to every shard, each changes its copy",
            Everywhere::Definition => "goes    to every shard in one transaction",
            Everywhere::Alone => "goes    to one shard after the other, outside a transaction",
        }
        .to_owned()
    }
}

/// Functions whose value depends on nothing but their arguments and settings, which are the same on every shard, though they are not declared
/// IMMUTABLE; and what reads like a function and is none.
const STABLE: [&str; 42] = [
    "any",
    "all",
    "some",
    "array",
    "row",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "exists",
    "concat",
    "concat_ws",
    "format",
    "to_char",
    "to_date",
    "to_number",
    "to_timestamp",
    "date_trunc",
    "date_part",
    "timezone",
    "make_timestamptz",
    "array_to_string",
    "to_json",
    "to_jsonb",
    "row_to_json",
    "array_to_json",
    "json_build_object",
    "json_build_array",
    "jsonb_build_object",
    "jsonb_build_array",
    "json_object",
    "jsonb_object",
    "jsonb_insert",
    "jsonb_set_lax",
    "quote_literal",
    "quote_nullable",
    "current_user",
    "session_user",
    "user",
    "current_role",
    "current_schema",
    "count",
];

/// Words that are a time in an expression.
const CLOCK: [&str; 6] = [
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "clock_timestamp",
];

/// A change of rows of reference tables; `None`: it is none.
pub(super) fn copies(asked: &Asked<'_>) -> Option<Result<Everywhere, Refusal>> {
    if asked.refusal.id != Reason::ReferenceWrite.kind().id {
        return None;
    }
    Some(are_equal_after(asked).map(|()| Everywhere::Copies))
}

fn are_equal_after(asked: &Asked<'_>) -> Result<(), Refusal> {
    let target = match asked.target() {
        Some(target) if asked.verbatim() != Verbatim::Other => target,
        _ => return Err(asked.refusal.clone()),
    };
    let known = asked.known(target);
    if known.meaning != Meaning::Reference {
        return Err(asked.refusal.clone());
    }
    asked.others(Others::SharedAlike)?;
    // What it stores in columns that are given values would be left to their sequences.
    if asked.verbatim() == Verbatim::Merge && asked.has_word(&["overriding"]) {
        return Err(asked.refusal.clone());
    }
    let mut functions = asked.facts.functions.iter();
    if let Some(function) = functions.find(|function| !is_stable(&function.name, asked.catalog)) {
        return Err(volatile(format!(
            "{} may give another value on each shard",
            function.name
        )));
    }
    if asked.has_word(&CLOCK) {
        return Err(volatile("the time is another one on each shard"));
    }
    if is_triggered(asked.catalog, target) {
        return Err(volatile(format!(
            "table \"{}\" has triggers, which may do something else on each shard",
            target.name
        )));
    }
    finds_rows_in_no_order(asked)?;
    defaults(asked, target, known)
}

fn is_stable(function: &str, catalog: &Catalog) -> bool {
    STABLE.contains(&function) || catalog.details.immutable_functions.contains(function)
}

/// Whether a word of a column's definition leaves its values the same on every shard.
pub(super) fn is_same_everywhere(word: &Word, catalog: &Catalog) -> bool {
    /// What stands in front of parentheses without being called: types with a length, constraints.
    const SYNTAX: [&str; 22] = [
        "check",
        "unique",
        "key",
        "references",
        "as",
        "in",
        "and",
        "or",
        "not",
        "default",
        "with",
        "varchar",
        "char",
        "character",
        "varying",
        "numeric",
        "decimal",
        "bit",
        "timestamp",
        "time",
        "interval",
        "float",
    ];
    /// What numbers rows in the order in which they are stored.
    const NUMBERING: [&str; 7] = [
        "serial",
        "serial2",
        "serial4",
        "serial8",
        "smallserial",
        "bigserial",
        "identity",
    ];
    let name = &*word.word;
    !CLOCK.contains(&name)
        && !NUMBERING.contains(&name)
        && (word.place == WordPlace::Elsewhere
            || SYNTAX.contains(&name)
            || is_stable(name, catalog))
}

fn volatile(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::VolatileReferenceWrite, message)
}

/// The name's schema is not known here; a trigger on any table of that name counts.
pub fn is_triggered(catalog: &Catalog, target: &Name) -> bool {
    let mut triggered = catalog.details.triggered.iter();
    triggered.any(|(schema, name)| {
        *name == target.name
            && target
                .schema
                .as_ref()
                .is_none_or(|written| written == schema)
    })
}

/// An UPDATE may find several rows for one, and ON CONFLICT keeps the first of those that come. For MERGE such rows are an error.
fn finds_rows_in_no_order(asked: &Asked<'_>) -> Result<(), Refusal> {
    let joins = asked.verbatim() == Verbatim::Update
        && asked
            .facts
            .blocks
            .first()
            .is_some_and(|block| block.relations.len() > 1);
    let selects = asked
        .facts
        .inserts
        .iter()
        .any(|insert| matches!(insert.source, InsertSource::Select(_)));
    if joins {
        return Err(volatile(
            "UPDATE ... FROM may take another row on each shard",
        ));
    }
    if selects && asked.has_word(&["conflict"]) {
        return Err(volatile(
            "INSERT ... SELECT ... ON CONFLICT may keep another row on each shard",
        ));
    }
    Ok(())
}

/// No column that the statement leaves to its default may get another value on each shard.
fn defaults(asked: &Asked<'_>, target: &Name, known: Known<'_>) -> Result<(), Refusal> {
    let Some(columns) = known.columns else {
        let message = format!(
            "the definition of table \"{}\" has not been read from the servers yet",
            target.name
        );
        return Err(Refusal::new(Reason::CatalogUnread, message));
    };
    let mut unsafe_columns = columns.iter().enumerate().filter(|(_, column)| {
        matches!(
            column.default,
            ColumnDefault::Volatile | ColumnDefault::Sequence
        )
    });
    let assigned = |column: &str| {
        let mut assignments = asked.facts.assignments.iter();
        asked.has_word(&["default"])
            && assignments.any(|assignment| assignment.columns.iter().any(|name| **name == *column))
    };
    let left_out = |place: usize, column: &str| {
        let merged = asked.facts.merge.iter().flat_map(|merge| &merge.inserts);
        let mut inserts = asked.facts.inserts.iter().chain(merged);
        inserts.any(|insert| {
            let place = match &insert.columns {
                Some(listed) => listed.iter().position(|name| **name == *column),
                None => Some(place),
            };
            !place.is_some_and(|place| gives_value(&insert.source, place, asked))
        })
    };
    let found = unsafe_columns
        .find(|(place, column)| assigned(&column.name) || left_out(*place, &column.name));
    match found {
        Some((_, column)) => Err(volatile(format!(
            "column \"{}\" of reference table \"{}\" would get another value on each shard by its default",
            column.name, target.name
        ))),
        None => Ok(()),
    }
}

/// Whether every row has something other than DEFAULT at this place.
fn gives_value(source: &InsertSource, place: usize, asked: &Asked<'_>) -> bool {
    match source {
        InsertSource::DefaultValues => false,
        InsertSource::Values(rows) => rows.iter().all(|row| {
            row.get(place)
                .is_some_and(|operand| *operand != Operand::Default)
        }),
        InsertSource::Select(block) => {
            block.is_some_and(|block| place < asked.facts.blocks[block].output.len())
        }
    }
}

/// No string among the values may stand for the time at which it is read.
pub fn has_no_clock(values: &Values<'_>) -> Result<(), Refusal> {
    let strings = values.literals.iter().filter(|literal| {
        !matches!(
            literal.kind,
            LiteralKind::Integer | LiteralKind::Number | LiteralKind::Radix
        )
    });
    for literal in strings {
        // What cannot be read here may say anything.
        let text = literal_text(values.text, literal);
        if text.map_or(true, |text| may_be_clock(text.as_bytes())) {
            return Err(clock());
        }
    }
    if parameters_with_clock(values.parameters) {
        return Err(clock());
    }
    Ok(())
}

fn clock() -> Refusal {
    volatile("a value like 'now' or 'today' is another time on each shard")
}

/// A binary parameter can be text, too; of any other type it is no word.
fn parameters_with_clock(parameters: &Parameters<'_>) -> bool {
    let mut given = parameters.all().into_iter().flatten();
    given.any(|parameter| parameter.value.is_some_and(may_be_clock))
}

/// Whether Postgres may read a string as a time that depends on when it is read (`datetktbl` in `datetime.c`): it must be short and have the
/// word. What has other words than those of a date is no time.
fn may_be_clock(text: &[u8]) -> bool {
    /// `MAXDATELEN`.
    const LONGEST: usize = 128;
    const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    if text.len() > LONGEST {
        // As an element of an array or a field of a row it is shorter.
        return text.iter().any(|byte| b"{}()".contains(byte)) && has_word(text, &WORDS);
    }
    has_word(text, &WORDS)
}

fn has_word(text: &[u8], words: &[&[u8]]) -> bool {
    let mut pieces = text.split(|byte| !byte.is_ascii_alphabetic());
    pieces.any(|piece| words.iter().any(|word| piece.eq_ignore_ascii_case(word)))
}
