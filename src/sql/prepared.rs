//! PREPARE, EXECUTE and DEALLOCATE: names with their places, types as written, arguments as far as they are plain values.

use super::class::{Argument, Class, Ddl, Executes, Named};
use super::classify::reads_or_writes;
use super::cursor::Cursor;
use super::lexer::{Kind, Lexeme, LiteralKind};
use super::normalise::{Literal, literal_text};
use super::places::lexemes;

/// The class of a statement that is about prepared statements.
pub(super) fn classify(mut cursor: Cursor) -> Option<Class> {
    if cursor.take("prepare") {
        return prepare(cursor);
    }
    if cursor.take("deallocate") {
        let mut after = cursor.clone();
        after.next();
        if !after.at_end() {
            cursor.take("prepare");
        }
        let all = cursor.sees(0, "all");
        let named = named(&mut cursor)?;
        return cursor
            .at_end()
            .then_some(Class::Deallocate((!all).then_some(named)));
    }
    execute(cursor, Executes::Plainly)
}

fn prepare(mut cursor: Cursor) -> Option<Class> {
    let name = named(&mut cursor)?;
    let mut types = Vec::new();
    if cursor.kind() == Some(Kind::OpenParen) {
        let text = cursor.text();
        let inside = cursor.parenthesised()?;
        types = parts(inside).map(|part| type_name(text, part)).collect();
    }
    (cursor.take("as") && reads_or_writes(&cursor)).then(|| Class::Prepare {
        name,
        types,
        query: cursor.range(),
    })
}

/// EXECUTE, wherever it stands.
pub(super) fn execute(mut cursor: Cursor, executes: Executes) -> Option<Class> {
    cursor.take("execute").then_some(())?;
    let name = named(&mut cursor)?;
    let mut arguments = Vec::new();
    if cursor.kind() == Some(Kind::OpenParen) {
        let text = cursor.text();
        let inside = cursor.parenthesised()?;
        arguments = parts(inside).map(|part| argument(text, part)).collect();
    }
    // CREATE TABLE AS EXECUTE may end in WITH NO DATA.
    (cursor.at_end() || executes != Executes::Plainly).then_some(Class::Execute {
        name,
        arguments,
        executes,
    })
}

/// The arguments of an EXECUTE, in their parentheses, behind its name, which ends here in the text; empty if there are none.
pub fn written_arguments(text: &str, name_end: usize) -> &str {
    let lexemes = lexemes(text, name_end..text.len()).unwrap_or_default();
    let mut cursor = Cursor::new(text, &lexemes);
    if cursor.kind() != Some(Kind::OpenParen) || cursor.parenthesised().is_none() {
        return "";
    }
    let taken = lexemes.len() - cursor.lexemes().len();
    &text[name_end..lexemes[taken - 1].range().end]
}

/// CREATE TABLE ... AS EXECUTE, from behind CREATE.
pub(super) fn created_from(cursor: &Cursor, ddl: Ddl) -> Option<Class> {
    let mut cursor = cursor.clone();
    while !cursor.at_end() {
        if cursor.sees(0, "as") && cursor.sees(1, "execute") {
            cursor.next();
            return execute(cursor, Executes::Creating(ddl));
        }
        cursor.next();
    }
    None
}

fn named(cursor: &mut Cursor) -> Option<Named> {
    let range = cursor.peek()?.range();
    cursor.name().map(|name| Named { name, range })
}

/// What stands between commas that are in no brackets.
pub(super) fn parts(lexemes: &[Lexeme]) -> impl Iterator<Item = &[Lexeme]> {
    let mut depth = 0_usize;
    lexemes.split(move |lexeme| {
        match lexeme.kind {
            Kind::OpenParen | Kind::OpenBracket => depth += 1,
            Kind::CloseParen | Kind::CloseBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && lexeme.kind == Kind::Comma
    })
}

/// A type as it is written, in lower case, its length left out (as PREPARE does). A name in quotes keeps them: it is another type.
fn type_name(text: &str, lexemes: &[Lexeme]) -> Box<str> {
    let mut cursor = Cursor::new(text, lexemes);
    let mut words: Vec<String> = Vec::new();
    while let Some(lexeme) = cursor.peek() {
        if lexeme.kind == Kind::OpenParen {
            if cursor.parenthesised().is_none() {
                break;
            }
            continue;
        }
        cursor.next();
        words.push(cursor.source(lexeme).to_ascii_lowercase());
    }
    words.join(" ").replace(" [ ]", "[]").into()
}

/// The value of an argument where it is a plain literal.
fn argument(text: &str, lexemes: &[Lexeme]) -> Argument {
    let mut cursor = Cursor::new(text, lexemes);
    if cursor.take("null") && cursor.at_end() {
        return Argument::Null;
    }
    let negative = cursor.take_operator("-");
    if !negative {
        cursor.take_operator("+");
    }
    let signed = cursor.peek() != lexemes.first();
    match cursor.next() {
        Some(lexeme) if cursor.at_end() => {
            plain(text, lexeme, signed, negative).unwrap_or(Argument::Unknown)
        }
        _ => Argument::Unknown,
    }
}

fn plain(text: &str, lexeme: &Lexeme, signed: bool, negative: bool) -> Option<Argument> {
    let literal = Literal::of(lexeme)?;
    let plain = literal_text(text.as_bytes(), &literal).ok()?;
    match literal.kind {
        LiteralKind::Integer => {
            let digits = plain.trim_start_matches('0');
            let digits = if digits.is_empty() { "0" } else { digits };
            let sign = if negative && digits != "0" { "-" } else { "" };
            Some(Argument::Number(format!("{sign}{digits}").into()))
        }
        LiteralKind::Text | LiteralKind::Escape | LiteralKind::Dollar if !signed => {
            Some(Argument::Text(plain.into()))
        }
        _ => None,
    }
}
