//! The parser crate behind a wall: lexemes in, owned facts out. Nothing outside of this folder names the crate.
//!
//! A syntax tree is never printed, cloned, hashed or asked for its span as a whole: printing is an injection, the others recurse
//! without a limit. Literals enter the tree without their content, so nothing of it can leak. The tree lives and dies inside
//! [`facts`], on a stack that is large enough for its drop.

#[cfg(test)]
mod agreement;
mod conditions;
mod dialect;
mod extract;
mod from;
mod keywords;
mod merge;
mod relations;
mod shim;
mod tokens;
mod walk;
mod writes;

use super::facts::Facts;
use super::lexer::{Kind, Lexeme};
use super::normalise::Literal;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// Longer statements are not parsed; a planner sees their words.
const LONGEST_PARSED: usize = 4 << 20;

/// Lexemes at one depth of parentheses without a comma between them: what bounds the length of a chain in the tree. Lists of any
/// length have commas.
const LONGEST_CHAIN: usize = 10_000;

/// UNION, INTERSECT and EXCEPT in one statement: their branches may hold commas and still form one chain.
const MOST_SET_OPERATIONS: usize = 5_000;

/// Nesting that the parser follows.
const DEEPEST: usize = 300;

/// Nesting of joins without parentheses, which the parser follows without counting. A NATURAL JOIN counts, though it does not nest.
const DEEPEST_JOINS: usize = 100;

/// Stack for parsing and dropping a statement of a given length: measured at most 33 bytes per byte of text for the drop alone.
fn stack_needed(length: usize) -> usize {
    (1 << 20) + 64 * length
}

/// Why there are no facts.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    TooComplex { position: usize },
    Unparsed { near: usize, message: Box<str> },
}

/// The facts of one statement, given as its lexemes without comments. `literals` are those of the whole message.
pub(super) fn facts(
    text: &str,
    lexemes: &[Lexeme],
    literals: &[Literal],
) -> Result<Facts, Failure> {
    let (Some(first), Some(last)) = (lexemes.first(), lexemes.last()) else {
        return Err(Failure::Unparsed {
            near: 0,
            message: "empty".into(),
        });
    };
    let length = (last.end - first.start) as usize;
    if length > LONGEST_PARSED {
        let message = format!("a statement of more than {} MB", LONGEST_PARSED >> 20);
        return Err(Failure::Unparsed {
            near: first.start as usize,
            message: message.into(),
        });
    }
    refuse_long_chains(text, lexemes)?;
    let near = first.start as usize;
    let needed = stack_needed(length);
    stacker::maybe_grow(needed, needed, || {
        let tokens = tokens::tokens(text, lexemes, literals);
        let shimmed = shim::shim(tokens).map_err(|why| Failure::Unparsed {
            near,
            message: why.into(),
        })?;
        let parsed = {
            let mut parser = Parser::new(&dialect::PgShim)
                .with_recursion_limit(DEEPEST)
                .with_tokens_with_locations(shimmed.tokens);
            parser
                .parse_statement()
                .and_then(|statement| match parser.peek_token_ref().token {
                    Token::EOF => Ok(statement),
                    _ => parser.expected_ref("end of statement", parser.peek_token_ref()),
                })
        };
        match parsed {
            Ok(statement) => {
                extract::facts(&statement, shimmed.notes).map_err(|why| Failure::Unparsed {
                    near,
                    message: why.0.into(),
                })
            }
            Err(ParserError::RecursionLimitExceeded) => Err(Failure::TooComplex { position: near }),
            Err(ParserError::ParserError(message) | ParserError::TokenizerError(message)) => {
                Err(complaint(&message, last.end as usize))
            }
        }
    })
}

/// Cuts the place out of a parser's message, and what it found there, which may be a client's data.
fn complaint(message: &str, end: usize) -> Failure {
    let near = message
        .rsplit_once(" at Line: ")
        .and_then(|(_, place)| place.split(',').next()?.parse::<usize>().ok())
        .map_or(end, |line| line.saturating_sub(1));
    let expected = message.split(", found:").next().unwrap_or(message);
    let expected = expected.split(" at Line: ").next().unwrap_or(expected);
    Failure::Unparsed {
        near,
        message: expected.trim_start_matches("sql parser error: ").into(),
    }
}

/// What has been seen at one depth of parentheses.
#[derive(Clone, Copy, Default)]
struct Level {
    since_comma: usize,
    /// JOINs whose ON or USING has not come yet: `a JOIN b JOIN c ON .. ON ..` nests.
    open_joins: usize,
}

/// The guard that keeps every tree shallow enough to be built and dropped.
fn refuse_long_chains(text: &str, lexemes: &[Lexeme]) -> Result<(), Failure> {
    let mut levels = vec![Level::default()];
    let mut set_operations = 0;
    for (index, lexeme) in lexemes.iter().enumerate() {
        if levels.len() > 1 && matches!(lexeme.kind, Kind::CloseParen | Kind::CloseBracket) {
            levels.pop();
        }
        let Some(level) = levels.last_mut() else {
            break;
        };
        level.since_comma = if lexeme.kind == Kind::Comma {
            0
        } else {
            level.since_comma + 1
        };
        if lexeme.kind == Kind::Word {
            let is = |word: &str| text[lexeme.range()].eq_ignore_ascii_case(word);
            if is("join") {
                let crossed =
                    index > 0 && text[lexemes[index - 1].range()].eq_ignore_ascii_case("cross");
                level.open_joins += usize::from(!crossed);
            } else if is("on") || is("using") {
                level.open_joins = level.open_joins.saturating_sub(1);
            } else if is("union") || is("intersect") || is("except") {
                set_operations += 1;
            }
        }
        if level.since_comma > LONGEST_CHAIN
            || level.open_joins > DEEPEST_JOINS
            || set_operations > MOST_SET_OPERATIONS
        {
            return Err(Failure::TooComplex {
                position: lexeme.start as usize,
            });
        }
        if matches!(lexeme.kind, Kind::OpenParen | Kind::OpenBracket) {
            levels.push(Level::default());
        }
    }
    Ok(())
}
