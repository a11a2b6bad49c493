//! From the text of a message to facts about its statements, in this order: lex once (`lexer.rs`, Postgres's own rules), split at
//! top-level `;` (`split.rs`), class from the first words (`classify.rs`), and for what reads or writes rows: tokens for the parser,
//! a shim for what it lacks, parse, extract owned facts (`facts.rs`), drop the tree on a grown stack (`parse/`).
//!
//! This room never talks to a server, never prints a syntax tree, and never guesses: what it cannot read it reports as such.
//! Only `parse/` names the parser crate. Read `read()` below for the order of work, `normalise.rs` for the plan cache's key.

pub mod class;
mod classify;
pub mod copy;
mod cursor;
pub mod definition;
pub mod explain;
pub mod facts;
mod hint;
pub mod insertion;
pub mod lexer;
pub mod list;
pub mod modes;
mod motion;
mod names;
pub mod normalise;
mod parse;
pub mod places;
pub mod prepared;
pub mod select;
mod set_config;
mod split;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ops::Range;

use crate::config::{MaxLag, ReadFrom};
use class::{Class, CopySource};
use facts::Facts;
use lexer::{Kind, LexError, Lexeme, Lexer};
use normalise::{Literal, Numbering};

/// One statement of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Its bytes in the message's text, leading comments included, without the `;`.
    pub range: Range<usize>,
    pub class: Class,
    /// From a leading comment `/* trunkline: ... */`.
    pub hint: Option<Hint>,
    pub reads: ReadHint,
    pub body: Body,
}

/// What is known of a statement's (or its inner query's) data access.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The class says all.
    None,
    /// Parsed: the statement itself, or the query inside DECLARE, EXPLAIN, PREPARE, COPY (query).
    Facts(Box<Facts>),
    /// The parser could not read it. `words` are all identifiers in it (folded, keywords included), so that a planner can prove that no
    /// sharded table is concerned; `near` is the byte offset where the parser stopped, `message` its complaint.
    Unparsed {
        words: Vec<Box<str>>,
        near: usize,
        message: Box<str>,
    },
}

/// A routing hint written by the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// `shard=name`
    Shard(Box<str>),
    /// `key=42`, `key='DE',7` (several columns), optionally with `distribution=name`.
    Key {
        distribution: Option<Box<str>>,
        values: Vec<Box<str>>,
    },
    /// `placement=reference`, of a table that is created
    Reference,
    /// A trunkline comment that cannot be read; the text says why.
    Malformed(Box<str>),
}

/// Which nodes a statement asks for when it reads, and how far behind they may be, whatever holds for its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadHint {
    /// `read=replica`
    pub from: Option<ReadFrom>,
    /// `max_lag=500ms`
    pub max_lag: Option<MaxLag>,
}

/// Why a whole message was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// Every Postgres refuses this text before it executes any part of it (an unterminated string ...): any server may say so itself.
    #[error("{message} at byte {position}")]
    Unreadable { position: usize, message: Box<str> },
    /// Postgres may accept this text, this room does not: it must not be sent to a server (0A000).
    #[error("{message} at byte {position}")]
    Unsupported { position: usize, message: Box<str> },
    /// Too long a chain of operators or too deep a nesting (54001, as Postgres has it for its own limit).
    #[error("statement too complex at byte {position}")]
    TooComplex { position: usize },
}

impl SqlError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            SqlError::Unreadable { .. } => "42601",
            SqlError::Unsupported { .. } => "0A000",
            SqlError::TooComplex { .. } => "54001",
        }
    }

    /// Byte offset in the message's text.
    pub fn position(&self) -> usize {
        match self {
            SqlError::Unreadable { position, .. }
            | SqlError::Unsupported { position, .. }
            | SqlError::TooComplex { position } => *position,
        }
    }
}

impl From<LexError> for SqlError {
    fn from(error: LexError) -> SqlError {
        SqlError::Unreadable {
            position: error.position,
            message: error.what.into(),
        }
    }
}

/// Reads a message: its statements in order, one `Class::Empty` when there is none.
pub fn read(text: &str) -> Result<Vec<Statement>, SqlError> {
    let source = Source::lex(text)?;
    let pieces = split::statements(text, &source.lexemes);
    if pieces.is_empty() {
        return Ok(vec![Statement {
            range: 0..text.len(),
            class: Class::Empty,
            hint: None,
            reads: ReadHint::default(),
            body: Body::None,
        }]);
    }
    pieces
        .into_iter()
        .map(|piece| source.statement(&source.lexemes[piece]))
        .collect()
}

/// All identifiers in a text, keywords included, folded, once each: for a proof that no sharded table is named in it.
pub fn words(text: &str) -> Result<Vec<Box<str>>, SqlError> {
    Ok(identifiers(text, &Source::lex(text)?.lexemes))
}

/// The number of the highest parameter in a text, 0 without one; `None` when it is not a text or the number not a parameter's.
pub fn highest_parameter(text: &str) -> Option<u16> {
    let source = Source::lex(text).ok()?;
    let mut parameters = source
        .lexemes
        .iter()
        .filter(|lexeme| lexeme.kind == Kind::Param);
    parameters.try_fold(0, |highest: u16, lexeme| {
        let number = text[lexeme.range()].strip_prefix('$')?.parse().ok()?;
        Some(highest.max(number))
    })
}

/// The name that a lexeme of a text is, in quotes or not, folded; `None` for what is no name.
pub fn identifier(text: &str, lexeme: &Lexeme) -> Option<Box<str>> {
    names::identifier(text, lexeme)
}

fn identifiers(text: &str, lexemes: &[Lexeme]) -> Vec<Box<str>> {
    let mut seen = HashSet::new();
    lexemes
        .iter()
        .filter_map(|lexeme| names::identifier(text, lexeme))
        .filter(|word| seen.insert(word.clone()))
        .collect()
}

/// A message after lexing.
struct Source<'a> {
    text: &'a str,
    lexemes: Vec<Lexeme>,
    literals: Vec<Literal>,
}

impl<'a> Source<'a> {
    fn lex(text: &'a str) -> Result<Source<'a>, SqlError> {
        if u32::try_from(text.len()).is_err() {
            return Err(SqlError::Unsupported {
                position: 0,
                message: "a text of 4 GB or more".into(),
            });
        }
        let mut source = Source {
            text,
            lexemes: Vec::with_capacity(text.len() / 6 + 1),
            literals: Vec::new(),
        };
        let mut lexer = Lexer::new(text.as_bytes());
        let mut numbering = Numbering::new();
        while let Some(lexeme) = lexer.next()? {
            // Its escape character may be given behind it: the name it stands for is not known here.
            if lexeme.kind == Kind::UnicodeQuoted {
                return Err(SqlError::Unsupported {
                    position: lexeme.start as usize,
                    message: "an identifier with Unicode escapes".into(),
                });
            }
            source
                .literals
                .extend(numbering.literal(text.as_bytes(), &lexeme));
            source.lexemes.push(lexeme);
        }
        Ok(source)
    }

    /// `piece` are the lexemes of one statement, at least one of which is no comment.
    fn statement(&self, piece: &[Lexeme]) -> Result<Statement, SqlError> {
        let comments = piece
            .iter()
            .take_while(|lexeme| split::is_comment(lexeme))
            .map(|lexeme| &self.text[lexeme.range()]);
        let (hint, reads) = hint::read(comments);
        let significant: Vec<Lexeme> = piece
            .iter()
            .filter(|lexeme| !split::is_comment(lexeme))
            .copied()
            .collect();
        let range = piece.first().map_or(0, |first| first.start as usize)
            ..significant.last().map_or(0, |last| last.end as usize);
        let class = classify::classify(self.text, &significant);
        let body = match &class {
            Class::Data => self.body(&significant)?,
            Class::Declare { query, .. }
            | Class::Prepare { query, .. }
            | Class::Explain { query }
            | Class::Copy(class::Copy {
                source: CopySource::Query(query),
                ..
            }) => {
                let first =
                    significant.partition_point(|lexeme| (lexeme.start as usize) < query.start);
                let end = significant.partition_point(|lexeme| (lexeme.start as usize) < query.end);
                self.body(&significant[first..end])?
            }
            _ => Body::None,
        };
        Ok(Statement {
            range,
            class,
            hint,
            reads,
            body,
        })
    }

    fn body(&self, query: &[Lexeme]) -> Result<Body, SqlError> {
        match parse::facts(self.text, query, &self.literals) {
            Ok(facts) => Ok(Body::Facts(Box::new(facts))),
            Err(parse::Failure::TooComplex { position }) => Err(SqlError::TooComplex { position }),
            Err(parse::Failure::Unparsed { near, message }) => Ok(Body::Unparsed {
                words: identifiers(self.text, query),
                near,
                message,
            }),
        }
    }
}
