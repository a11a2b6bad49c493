//! Finds the class of a statement from its words, without a parser.
//!
//! A class that the session acts on by itself is given only to a statement that is well formed to its last word: `BEGIN nonsense` is
//! `Unknown`, so that a server gets to complain about it.

use super::class::{
    Chain, Class, Copy, CopyDirection, CopySource, Ddl, Discard, Executes, Hold, RowFormat, Scope,
    Scroll, SetValue,
};
use super::cursor::Cursor;
use super::lexer::{Kind, Lexeme};
use super::motion;
use super::names;
use super::normalise::{Literal, literal_text};
use super::prepared;
use super::set_config;
use std::ops::Range;

const QUERY: [&str; 4] = ["select", "values", "table", "with"];
const WRITE: [&str; 4] = ["insert", "update", "delete", "merge"];

/// The class of the statement that consists of these lexemes (none of them a comment).
pub(super) fn classify(text: &str, lexemes: &[Lexeme]) -> Class {
    let cursor = Cursor::new(text, lexemes);
    if lexemes.is_empty() {
        return Class::Empty;
    }
    if reads_or_writes(&cursor) {
        return set_config::classify(cursor).unwrap_or(Class::Data);
    }
    transaction(cursor.clone())
        .or_else(|| setting(cursor.clone()))
        .or_else(|| prepared::classify(cursor.clone()))
        .or_else(|| discard(cursor.clone()))
        .or_else(|| cursor_statement(cursor.clone()))
        .or_else(|| motion::classify(cursor.clone()))
        .or_else(|| explain(cursor.clone()))
        .or_else(|| copy(cursor.clone()))
        .or_else(|| definition(cursor.clone()))
        .or_else(|| by_first_word(cursor))
        .unwrap_or(Class::Unknown)
}

/// SELECT and the like, with parentheses before it, or a write.
pub(super) fn reads_or_writes(cursor: &Cursor) -> bool {
    let mut cursor = cursor.clone();
    if cursor.sees_any(0, &WRITE) {
        return true;
    }
    while cursor.take_kind(Kind::OpenParen) {}
    cursor.sees_any(0, &QUERY)
}

fn by_first_word(mut cursor: Cursor) -> Option<Class> {
    let first = cursor.next().filter(|lexeme| lexeme.kind == Kind::Word)?;
    let word = names::fold(cursor.source(first));
    Some(match &*word {
        "listen" => Class::Listen(last_name(cursor)?),
        "unlisten" if cursor.take_operator("*") => {
            cursor.at_end().then_some(Class::Unlisten(None))?
        }
        "unlisten" => Class::Unlisten(Some(last_name(cursor)?)),
        "notify" => Class::Notify,
        "lock" => Class::Lock,
        "vacuum" | "analyze" | "analyse" | "cluster" | "checkpoint" => Class::Maintenance,
        "call" => Class::Call,
        "do" => Class::Do,
        "load" => Class::Load,
        _ => return None,
    })
}

/// A name and nothing behind it.
fn last_name(mut cursor: Cursor) -> Option<Box<str>> {
    let name = cursor.name()?;
    cursor.at_end().then_some(name)
}

fn transaction(mut cursor: Cursor) -> Option<Class> {
    let class = if cursor.take("begin") {
        cursor.take_any(&["work", "transaction"]);
        transaction_modes(&mut cursor)?;
        Class::Begin
    } else if cursor.take_all(&["start", "transaction"]) {
        transaction_modes(&mut cursor)?;
        Class::Begin
    } else if cursor.take_all(&["prepare", "transaction"])
        || cursor.take_all(&["commit", "prepared"])
        || cursor.take_all(&["rollback", "prepared"])
    {
        cursor
            .next()
            .filter(|lexeme| matches!(lexeme.kind, Kind::Literal(_)))?;
        Class::TwoPhase
    } else if cursor.take_any(&["commit", "end"]) {
        cursor.take_any(&["work", "transaction"]);
        Class::Commit {
            chain: chain(&mut cursor)?,
        }
    } else if cursor.take("abort") {
        cursor.take_any(&["work", "transaction"]);
        Class::Rollback {
            chain: chain(&mut cursor)?,
        }
    } else if cursor.take("rollback") {
        cursor.take_any(&["work", "transaction"]);
        if cursor.take("to") {
            cursor.take("savepoint");
            Class::RollbackTo(cursor.name()?)
        } else {
            Class::Rollback {
                chain: chain(&mut cursor)?,
            }
        }
    } else if cursor.take("savepoint") {
        Class::Savepoint(cursor.name()?)
    } else if cursor.take("release") {
        if !is_last(&cursor) {
            cursor.take("savepoint");
        }
        Class::Release(cursor.name()?)
    } else {
        return None;
    };
    cursor.at_end().then_some(class)
}

fn is_last(cursor: &Cursor) -> bool {
    let mut cursor = cursor.clone();
    cursor.next();
    cursor.at_end()
}

fn chain(cursor: &mut Cursor) -> Option<Chain> {
    if cursor.take_all(&["and", "no", "chain"]) || cursor.at_end() {
        return Some(Chain::No);
    }
    cursor.take_all(&["and", "chain"]).then_some(Chain::Yes)
}

/// Steps over all transaction modes; `None` when something else is among them.
fn transaction_modes(cursor: &mut Cursor) -> Option<()> {
    const MODES: [&[&str]; 8] = [
        &["isolation", "level", "serializable"],
        &["isolation", "level", "repeatable", "read"],
        &["isolation", "level", "read", "committed"],
        &["isolation", "level", "read", "uncommitted"],
        &["read", "write"],
        &["read", "only"],
        &["deferrable"],
        &["not", "deferrable"],
    ];
    while !cursor.at_end() {
        MODES
            .iter()
            .any(|mode| cursor.take_all(mode))
            .then_some(())?;
        if cursor.take_kind(Kind::Comma) && cursor.at_end() {
            return None;
        }
    }
    Some(())
}

fn setting(mut cursor: Cursor) -> Option<Class> {
    if cursor.take("set") {
        return set(cursor);
    }
    if cursor.take("reset") {
        return Some(match &*setting_name(&mut cursor)? {
            "all" => Class::ResetAll,
            name => Class::Reset(name.into()),
        });
    }
    cursor
        .take("show")
        .then(|| setting_name(&mut cursor))
        .flatten()
        .map(Class::Show)
}

/// The name in SHOW and RESET, to the end of the statement.
fn setting_name(cursor: &mut Cursor) -> Option<Box<str>> {
    let name = if cursor.take_all(&["time", "zone"]) {
        "timezone".into()
    } else if cursor.take_all(&["transaction", "isolation", "level"]) {
        "transaction_isolation".into()
    } else if cursor.take_all(&["session", "authorization"]) {
        "session_authorization".into()
    } else {
        dotted_name(cursor)?
    };
    cursor.at_end().then_some(name)
}

/// A setting's name; the case of a quoted one does not matter either.
fn dotted_name(cursor: &mut Cursor) -> Option<Box<str>> {
    let mut name = cursor.name()?.into_string();
    while cursor.take_kind(Kind::Dot) {
        name.push('.');
        name.push_str(&cursor.name()?);
    }
    name.make_ascii_lowercase();
    Some(name.into())
}

fn set(mut cursor: Cursor) -> Option<Class> {
    if cursor.take("constraints") {
        return Some(Class::SetConstraints);
    }
    let session_word =
        cursor.sees(0, "session") && !cursor.sees_any(1, &["characteristics", "authorization"]);
    let scope = if cursor.take("local") {
        Scope::Local
    } else {
        Scope::Session
    };
    if session_word {
        cursor.take("session");
    }
    if cursor.sees(0, "transaction")
        && !matches!(after_first(&cursor), Some(Kind::Operator))
        && !cursor.sees(1, "to")
    {
        cursor.take("transaction");
        if cursor.take("snapshot") {
            return Some(Class::SetTransaction);
        }
        transaction_modes(&mut cursor)?;
        return Some(Class::SetTransaction);
    }
    let (name, value): (Box<str>, _) =
        if cursor.take_all(&["session", "characteristics", "as", "transaction"]) {
            let (source, words) = (cursor.text()[cursor.range()].into(), cursor.clone());
            transaction_modes(&mut cursor)?;
            (
                "session_characteristics".into(),
                SetValue::Given {
                    source,
                    values: all_words(words),
                },
            )
        } else if cursor.take_all(&["session", "authorization"]) {
            ("session_authorization".into(), value(cursor)?)
        } else if cursor.take_all(&["time", "zone"]) {
            let zone = if cursor.sees_any(0, &["local", "default"]) && is_last(&cursor) {
                SetValue::Default
            } else {
                value(cursor)?
            };
            ("timezone".into(), zone)
        } else if cursor.take("names") {
            (
                "client_encoding".into(),
                if cursor.at_end() {
                    SetValue::Default
                } else {
                    value(cursor)?
                },
            )
        } else if cursor.take_all(&["xml", "option"]) {
            ("xmloption".into(), value(cursor)?)
        } else if cursor.sees(0, "role") && !assigns(after_first(&cursor), cursor.sees(1, "to")) {
            cursor.take("role");
            ("role".into(), value(cursor)?)
        } else if cursor.sees(0, "schema") && !assigns(after_first(&cursor), cursor.sees(1, "to")) {
            cursor.take("schema");
            ("search_path".into(), value(cursor)?)
        } else {
            let name = dotted_name(&mut cursor)?;
            if !cursor.take("to") && !cursor.take_operator("=") {
                // FROM CURRENT has a meaning in CREATE FUNCTION only.
                return None;
            }
            (name, value(cursor)?)
        };
    Some(Class::Set { scope, name, value })
}

fn after_first(cursor: &Cursor) -> Option<Kind> {
    let mut cursor = cursor.clone();
    cursor.next();
    cursor.kind()
}

fn assigns(next: Option<Kind>, to: bool) -> bool {
    to || next == Some(Kind::Operator)
}

fn value(cursor: Cursor) -> Option<SetValue> {
    if cursor.sees(0, "default") && is_last(&cursor) {
        Some(SetValue::Default)
    } else {
        given(&cursor)
    }
}

/// A list of plain values to the end of the statement.
fn given(cursor: &Cursor) -> Option<SetValue> {
    let mut cursor = cursor.clone();
    let (text, range) = (cursor.text(), cursor.range());
    let mut values = Vec::new();
    loop {
        values.push(plain_value(&mut cursor)?);
        if cursor.at_end() {
            return Some(SetValue::Given {
                source: text[range].into(),
                values,
            });
        }
        cursor.take_kind(Kind::Comma).then_some(())?;
    }
}

fn all_words(mut cursor: Cursor) -> Vec<Box<str>> {
    let mut words = Vec::new();
    while !cursor.at_end() {
        words.extend(cursor.name().or_else(|| cursor.next().and(None)));
    }
    words
}

fn plain_value(cursor: &mut Cursor) -> Option<Box<str>> {
    if let Some(name) = cursor.name() {
        return Some(name);
    }
    let sign = if cursor.take_operator("-") {
        "-"
    } else {
        cursor.take_operator("+");
        ""
    };
    let literal = Literal::of(cursor.next()?)?;
    let plain = literal_text(cursor.text().as_bytes(), &literal).ok()?;
    Some(format!("{sign}{plain}").into())
}

fn discard(mut cursor: Cursor) -> Option<Class> {
    cursor.take("discard").then_some(())?;
    let what = match () {
        () if cursor.take("all") => Discard::All,
        () if cursor.take("plans") => Discard::Plans,
        () if cursor.take("sequences") => Discard::Sequences,
        () if cursor.take_any(&["temp", "temporary"]) => Discard::Temp,
        () => return None,
    };
    cursor.at_end().then_some(Class::Discard(what))
}

fn cursor_statement(mut cursor: Cursor) -> Option<Class> {
    if !cursor.take("declare") {
        return None;
    }
    let name = cursor.name()?;
    let (mut scroll, mut rows) = (Scroll::Unsaid, RowFormat::Text);
    while !cursor.take("cursor") {
        match () {
            () if cursor.take("binary") => rows = RowFormat::Binary,
            () if cursor.take_all(&["no", "scroll"]) => scroll = Scroll::No,
            () if cursor.take("scroll") => scroll = Scroll::Yes,
            () if cursor.take_any(&["insensitive", "asensitive"]) => {}
            () => return None,
        }
    }
    let hold = if cursor.take_all(&["with", "hold"]) {
        Hold::With
    } else {
        cursor.take_all(&["without", "hold"]);
        Hold::Without
    };
    (cursor.take("for") && reads_or_writes(&cursor)).then(|| Class::Declare {
        name,
        scroll,
        rows,
        hold,
        query: cursor.range(),
    })
}

fn explain(mut cursor: Cursor) -> Option<Class> {
    if !cursor.take("explain") {
        return None;
    }
    if cursor.kind() == Some(Kind::OpenParen) && !reads_or_writes(&cursor) {
        cursor.parenthesised()?;
    } else {
        cursor.take_any(&["analyze", "analyse"]);
        cursor.take("verbose");
    }
    if cursor.sees(0, "execute") {
        return prepared::execute(cursor, Executes::Explained);
    }
    if cursor.take("create") {
        return prepared::created_from(&cursor, created(cursor.clone()));
    }
    // DECLARE means something that only the session knows; CREATE TABLE AS under ANALYZE creates the table.
    reads_or_writes(&cursor).then(|| Class::Explain {
        query: cursor.range(),
    })
}

fn copy(mut cursor: Cursor) -> Option<Class> {
    if !cursor.take("copy") {
        return None;
    }
    let source = if cursor.kind() == Some(Kind::OpenParen) {
        let inside = cursor.parenthesised()?;
        if !reads_or_writes(&Cursor::new(cursor.text(), inside)) {
            return None;
        }
        CopySource::Query(range_of(inside)?)
    } else {
        if cursor.sees(0, "binary")
            && !cursor.sees_any(1, &["from", "to"])
            && !matches!(after_first(&cursor), Some(Kind::Dot | Kind::OpenParen))
        {
            cursor.take("binary");
        }
        let (schema, name) = table_name(&mut cursor)?;
        if cursor.kind() == Some(Kind::OpenParen) {
            cursor.parenthesised()?;
        }
        CopySource::Table { schema, name }
    };
    let from = cursor.take("from");
    if !from && !cursor.take("to") {
        return None;
    }
    let client = cursor.take_any(&["stdin", "stdout"]);
    if !client && !cursor.take("program") && !matches!(cursor.kind(), Some(Kind::Literal(_))) {
        return None;
    }
    let direction = match (client, from) {
        (false, _) => CopyDirection::Server,
        (true, true) => CopyDirection::FromClient,
        (true, false) => CopyDirection::ToClient,
    };
    Some(Class::Copy(Copy { direction, source }))
}

fn range_of(lexemes: &[Lexeme]) -> Option<Range<usize>> {
    Some(lexemes.first()?.start as usize..lexemes.last()?.end as usize)
}

/// `[[database.]schema.]name`
fn table_name(cursor: &mut Cursor) -> Option<(Option<Box<str>>, Box<str>)> {
    let (mut schema, mut name) = (None, cursor.name()?);
    while cursor.take_kind(Kind::Dot) {
        schema = Some(std::mem::replace(&mut name, cursor.name()?));
    }
    Some((schema, name))
}

fn definition(mut cursor: Cursor) -> Option<Class> {
    let first = cursor.next().filter(|lexeme| lexeme.kind == Kind::Word)?;
    let word = names::fold(cursor.source(first));
    let ddl = match &*word {
        "create" => {
            let ddl = created(cursor.clone());
            if let Some(execute) = prepared::created_from(&cursor, ddl) {
                return Some(execute);
            }
            ddl
        }
        "alter" | "drop" => {
            if is_global_object(&cursor) || cursor.sees(0, "system") {
                Ddl::Global
            } else {
                Ddl::Schema
            }
        }
        "truncate" => Ddl::Truncate,
        // Without ON it grants a role to a role.
        "grant" | "revoke" => {
            let mut on = false;
            while !cursor.at_end() {
                on |= cursor.take("on");
                cursor.next();
            }
            if on { Ddl::Schema } else { Ddl::Global }
        }
        "comment" | "reindex" | "refresh" | "security" | "import" | "reassign" => Ddl::Schema,
        _ => return None,
    };
    Some(Class::Ddl(ddl))
}

fn is_global_object(cursor: &Cursor) -> bool {
    cursor.sees_any(0, &["database", "tablespace", "role", "group"])
        || (cursor.sees(0, "user") && !cursor.sees(1, "mapping"))
}

fn created(mut cursor: Cursor) -> Ddl {
    cursor.take_all(&["or", "replace"]);
    if is_global_object(&cursor) {
        return Ddl::Global;
    }
    cursor.take_any(&["global", "local"]);
    if cursor.sees_any(0, &["temp", "temporary"]) {
        return Ddl::Temporary;
    }
    // What has a name in pg_temp is temporary without saying so.
    while cursor.take_any(&[
        "unlogged",
        "recursive",
        "table",
        "view",
        "sequence",
        "function",
        "procedure",
        "type",
        "domain",
        "aggregate",
        "collation",
        "statistics",
        "if",
        "not",
        "exists",
    ]) {}
    let schema = cursor.name();
    if schema.as_deref() == Some("pg_temp") && cursor.kind() == Some(Kind::Dot) {
        Ddl::Temporary
    } else {
        Ddl::Schema
    }
}
