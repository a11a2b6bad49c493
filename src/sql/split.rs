//! Cuts a message into statements where Postgres's grammar does: at `;` outside of parentheses and of SQL-standard function bodies.

use super::lexer::{Kind, Lexeme};
use std::ops::Range;

/// The statements of a message as index ranges of its lexemes, without the `;` and without empty ones.
pub(super) fn statements(text: &str, lexemes: &[Lexeme]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < lexemes.len() {
        let end = start + length(text, &lexemes[start..]);
        if lexemes[start..end].iter().any(|lexeme| !is_comment(lexeme)) {
            pieces.push(start..end);
        }
        start = end + 1;
    }
    pieces
}

pub(super) fn is_comment(lexeme: &Lexeme) -> bool {
    matches!(lexeme.kind, Kind::LineComment | Kind::BlockComment)
}

/// How many lexemes stand before the `;` that ends the first statement.
fn length(text: &str, lexemes: &[Lexeme]) -> usize {
    let is = |index: usize, word: &str| {
        lexemes.get(index).is_some_and(|lexeme| {
            lexeme.kind == Kind::Word && text[lexeme.range()].eq_ignore_ascii_case(word)
        })
    };
    let mut parentheses = 0usize;
    // BEGIN ATOMIC and the CASEs in it, all closed by END.
    let mut bodies = 0usize;
    let routine = creates_routine(text, lexemes);
    for (index, lexeme) in lexemes.iter().enumerate() {
        match lexeme.kind {
            Kind::OpenParen => parentheses += 1,
            Kind::CloseParen => parentheses = parentheses.saturating_sub(1),
            Kind::Semicolon if parentheses == 0 && bodies == 0 => return index,
            Kind::Word if routine && parentheses == 0 => {
                let opens = (bodies == 0 && is(index, "begin") && is(index + 1, "atomic"))
                    || (bodies > 0 && is(index, "case"));
                if opens {
                    bodies += 1;
                } else if is(index, "end") {
                    bodies = bodies.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
    lexemes.len()
}

/// CREATE [OR REPLACE] FUNCTION or PROCEDURE.
fn creates_routine(text: &str, lexemes: &[Lexeme]) -> bool {
    let mut words = lexemes
        .iter()
        .filter(|lexeme| !is_comment(lexeme))
        .map(|lexeme| &text[lexeme.range()]);
    let mut next = || words.next().unwrap_or_default();
    let is = |word: &str, expected: &str| word.eq_ignore_ascii_case(expected);
    if !is(next(), "create") {
        return false;
    }
    let mut object = next();
    if is(object, "or") {
        next();
        object = next();
    }
    is(object, "function") || is(object, "procedure")
}
