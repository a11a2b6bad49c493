//! From the text of a message to facts about its statements, in this order: tokenise once, split on top-level `;`, class from the
//! first words (`class.rs`), shim what the parser lacks, parse, extract owned facts (`facts.rs`), drop the tree on a grown stack.
//!
//! This room never talks to a server, never prints a syntax tree, and never guesses: what it cannot read it reports as such.
//! Only `parse.rs` names the parser crate's tree. Read `read()` below for the order of work, `normalise.rs` for the plan cache's key.

pub mod class;
pub mod facts;

use std::ops::Range;

use class::Class;
use facts::Facts;

/// One statement of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Its bytes in the message's text, without the `;`.
    pub range: Range<usize>,
    pub class: Class,
    /// From a leading comment `/* trunkline: ... */`.
    pub hint: Option<Hint>,
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
    /// A trunkline comment that cannot be read; the text says why.
    Malformed(Box<str>),
}
