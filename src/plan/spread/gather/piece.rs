//! The statement as lexemes: where things stand in its text.

use std::collections::HashSet;
use std::ops::Range;

use crate::sql;
use crate::sql::lexer::{Kind, Lexeme, Lexer};

/// The lexemes of one statement, comments left out. Their places are those of the whole text.
pub struct Piece<'a> {
    text: &'a str,
    lexemes: Vec<Lexeme>,
    /// The identifier that each lexeme is, folded.
    identifiers: Vec<Option<Box<str>>>,
}

impl<'a> Piece<'a> {
    /// `None` for what has no lexemes; the facts would not be there.
    pub fn read(text: &'a str, range: Range<usize>) -> Option<Piece<'a>> {
        let first = u32::try_from(range.start).ok()?;
        let mut lexer = Lexer::new(&text.as_bytes()[range]);
        let mut lexemes = Vec::new();
        while let Some(lexeme) = lexer.next().ok()? {
            if !matches!(lexeme.kind, Kind::LineComment | Kind::BlockComment) {
                lexemes.push(Lexeme {
                    start: lexeme.start + first,
                    end: lexeme.end + first,
                    ..lexeme
                });
            }
        }
        let identifiers = lexemes
            .iter()
            .map(|lexeme| sql::identifier(text, lexeme))
            .collect();
        Some(Piece {
            text,
            lexemes,
            identifiers,
        })
    }

    pub fn len(&self) -> usize {
        self.lexemes.len()
    }

    pub fn range(&self, at: usize) -> Range<usize> {
        self.lexemes[at].range()
    }

    /// Of nothing before the first and behind the last.
    pub fn kind(&self, at: Option<usize>) -> Option<Kind> {
        Some(self.lexemes.get(at?)?.kind)
    }

    pub fn source(&self, at: usize) -> &'a str {
        &self.text[self.range(at)]
    }

    /// The name that stands here, in quotes or not, folded.
    pub fn identifier(&self, at: usize) -> Option<&str> {
        self.identifiers.get(at)?.as_deref()
    }

    /// The word without quotes that stands here, folded.
    pub fn word(&self, at: Option<usize>) -> Option<&str> {
        let at = at?;
        (self.kind(Some(at)) == Some(Kind::Word))
            .then(|| self.identifier(at))
            .flatten()
    }

    pub fn is_word(&self, at: Option<usize>, words: &[&str]) -> bool {
        self.word(at).is_some_and(|word| words.contains(&word))
    }

    /// Every name in the statement, keywords included.
    pub fn names(&self) -> HashSet<&str> {
        self.identifiers
            .iter()
            .flatten()
            .map(|name| &**name)
            .collect()
    }
}
