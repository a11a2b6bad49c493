//! A place among the lexemes of one statement, for matching first words. Comments are not among them.

use super::lexer::{Kind, Lexeme};
use super::names;
use std::ops::Range;

#[derive(Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    lexemes: &'a [Lexeme],
}

impl<'a> Cursor<'a> {
    /// `lexemes` are those of one statement in `text`, without comments.
    pub(super) fn new(text: &'a str, lexemes: &'a [Lexeme]) -> Cursor<'a> {
        Cursor { text, lexemes }
    }

    /// The message that the lexemes' offsets count in.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        self.lexemes.first().map(|lexeme| lexeme.kind)
    }

    pub(super) fn at_end(&self) -> bool {
        self.lexemes.is_empty()
    }

    pub(super) fn peek(&self) -> Option<&'a Lexeme> {
        self.lexemes.first()
    }

    pub(super) fn source(&self, lexeme: &Lexeme) -> &'a str {
        &self.text[lexeme.range()]
    }

    pub(super) fn next(&mut self) -> Option<&'a Lexeme> {
        let (first, rest) = self.lexemes.split_first()?;
        self.lexemes = rest;
        Some(first)
    }

    /// Whether the n-th lexeme from here is this unquoted word.
    pub(super) fn sees(&self, ahead: usize, word: &str) -> bool {
        self.lexemes.get(ahead).is_some_and(|lexeme| {
            lexeme.kind == Kind::Word && self.source(lexeme).eq_ignore_ascii_case(word)
        })
    }

    pub(super) fn sees_any(&self, ahead: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.sees(ahead, word))
    }

    /// Steps over a word if it is the next.
    pub(super) fn take(&mut self, word: &str) -> bool {
        let found = self.sees(0, word);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn take_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.take(word))
    }

    /// Steps over all these words, or over none.
    pub(super) fn take_all(&mut self, words: &[&str]) -> bool {
        let found = words
            .iter()
            .enumerate()
            .all(|(ahead, word)| self.sees(ahead, word));
        if found {
            self.lexemes = &self.lexemes[words.len()..];
        }
        found
    }

    pub(super) fn take_kind(&mut self, kind: Kind) -> bool {
        let found = self.kind() == Some(kind);
        if found {
            self.next();
        }
        found
    }

    /// Steps over an operator of this spelling.
    pub(super) fn take_operator(&mut self, operator: &str) -> bool {
        let found = self
            .peek()
            .is_some_and(|lexeme| lexeme.kind == Kind::Operator && self.source(lexeme) == operator);
        if found {
            self.next();
        }
        found
    }

    /// An identifier, quoted or not.
    pub(super) fn name(&mut self) -> Option<Box<str>> {
        let name = names::identifier(self.text, self.peek()?)?;
        self.next();
        Some(name)
    }

    /// From an opening parenthesis to behind its partner; what lies between them. `None` without a partner.
    pub(super) fn parenthesised(&mut self) -> Option<&'a [Lexeme]> {
        let mut depth = 0usize;
        for (index, lexeme) in self.lexemes.iter().enumerate() {
            match lexeme.kind {
                Kind::OpenParen => depth += 1,
                Kind::CloseParen => depth = depth.checked_sub(1)?,
                _ => {}
            }
            if depth == 0 {
                let inside = self.lexemes.get(1..index)?;
                self.lexemes = &self.lexemes[index + 1..];
                return Some(inside);
            }
        }
        None
    }

    /// All from here on.
    pub(super) fn lexemes(&self) -> &'a [Lexeme] {
        self.lexemes
    }

    /// The bytes from here to the end of the statement.
    pub(super) fn range(&self) -> Range<usize> {
        match (self.lexemes.first(), self.lexemes.last()) {
            (Some(first), Some(last)) => first.start as usize..last.end as usize,
            _ => 0..0,
        }
    }
}
