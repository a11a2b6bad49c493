//! `SELECT set_config(name, value, is_local), ...`, by which many drivers and frameworks set what SET takes no parameter for.

use super::class::{Class, ConfigCall, ConfigValue, Scope};
use super::cursor::Cursor;
use super::lexer::{Kind, Lexeme, LiteralKind};
use super::normalise::{Literal, literal_text};
use super::prepared::parts;

/// Lists of names that set_config takes apart and SET takes one by one; `search_path` is read as one.
const LISTS: [&str; 5] = [
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// The class of a statement that is calls of set_config.
pub(super) fn classify(mut cursor: Cursor) -> Option<Class> {
    cursor.take("select").then_some(())?;
    let mut calls = Vec::new();
    loop {
        calls.push(call(&mut cursor)?);
        if cursor.at_end() {
            return Some(Class::SetConfig(calls.into()));
        }
        cursor.take_kind(Kind::Comma).then_some(())?;
    }
}

/// One call, with a name for its column, if it is given one.
fn call(cursor: &mut Cursor) -> Option<ConfigCall> {
    if cursor.take("pg_catalog") {
        cursor.take_kind(Kind::Dot).then_some(())?;
    }
    cursor.take("set_config").then_some(())?;
    if cursor.kind() != Some(Kind::OpenParen) {
        return None;
    }
    let text = cursor.text();
    let inside = cursor.parenthesised()?;
    if cursor.take("as") || !(cursor.at_end() || cursor.kind() == Some(Kind::Comma)) {
        cursor.name()?;
    }
    let mut parts = parts(inside);
    let (name, value, local) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let ConfigValue::Text(name) = value_of(text, name)? else {
        return None;
    };
    let name = name.to_ascii_lowercase();
    if LISTS.contains(&&*name) || name.starts_with("trunkline.") || !is_plain(&name) {
        return None;
    }
    let local = Cursor::new(text, local);
    let scope = match local.peek() {
        Some(_) if local.sees(0, "true") => Scope::Local,
        Some(_) if local.sees(0, "false") => Scope::Session,
        _ => return None,
    };
    let mut local = local;
    local.next();
    local.at_end().then_some(())?;
    Some(ConfigCall {
        scope,
        name: name.into(),
        value: value_of(text, value)?,
    })
}

/// Letters, digits and points: no name that needs a closer look.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

/// A literal, a parameter or NULL, perhaps cast to text.
fn value_of(text: &str, lexemes: &[Lexeme]) -> Option<ConfigValue> {
    let mut cursor = Cursor::new(text, lexemes);
    let first = cursor.next()?;
    if cursor.take_kind(Kind::Typecast) {
        cursor.take("text").then_some(())?;
    }
    cursor.at_end().then_some(())?;
    let source = cursor.source(first);
    match first.kind {
        Kind::Literal(LiteralKind::Text | LiteralKind::Escape | LiteralKind::Dollar) => {
            let value = literal_text(text.as_bytes(), &Literal::of(first)?).ok()?;
            Some(ConfigValue::Text(value.into()))
        }
        Kind::Param => source
            .strip_prefix('$')?
            .parse()
            .ok()
            .map(ConfigValue::Param),
        Kind::Word if source.eq_ignore_ascii_case("null") => Some(ConfigValue::Null),
        _ => None,
    }
}
