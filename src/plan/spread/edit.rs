//! A shard's text: the client's, with pieces of it replaced.

use std::mem::size_of;
use std::ops::Range;

use crate::sql::normalise::{Literal, from_normal};

/// A piece of the text and what stands there instead. An empty range inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Byte offsets in the message's text; of its normal form in what comes from the plan cache.
    pub range: Range<usize>,
    pub with: Box<[Piece]>,
}

/// Part of what an edit puts in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(Box<str>),
    /// What stands elsewhere in the client's text, literals included; offsets as in [`Edit::range`].
    Copy(Range<usize>),
}

impl Edit {
    pub fn insert(at: usize, with: impl Into<Box<str>>) -> Edit {
        Edit::replace(at..at, with)
    }

    pub fn replace(range: Range<usize>, with: impl Into<Box<str>>) -> Edit {
        Edit::pieces(range, vec![Piece::Text(with.into())])
    }

    pub fn pieces(range: Range<usize>, with: Vec<Piece>) -> Edit {
        Edit {
            range,
            with: with.into(),
        }
    }

    /// Brings its places in the text to other offsets.
    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        let moved = |range: &Range<usize>| to(range.start)..to(range.end);
        self.range = moved(&self.range);
        for piece in &mut self.with {
            if let Piece::Copy(range) = piece {
                *range = moved(range);
            }
        }
    }

    /// Its size in memory beyond itself.
    pub fn bytes(&self) -> usize {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Copy(_) => 0,
        };
        self.with
            .iter()
            .map(|piece| size_of::<Piece>() + text(piece))
            .sum()
    }
}

/// The statement at `whole` of a text with its edits done, which are in order and do not overlap. All ranges are of the normal form that
/// belongs to `literals`.
pub fn apply(edits: &[Edit], whole: Range<usize>, text: &[u8], literals: &[Literal]) -> Vec<u8> {
    let end = from_normal(whole.end, literals);
    let mut at = from_normal(whole.start, literals);
    let added: usize = edits.iter().map(Edit::bytes).sum();
    let mut out = Vec::with_capacity(end - at + added);
    for edit in edits {
        let start = from_normal(edit.range.start, literals);
        out.extend_from_slice(&text[at..start]);
        for piece in &edit.with {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Copy(range) => out.extend_from_slice(
                    &text[from_normal(range.start, literals)..from_normal(range.end, literals)],
                ),
            }
        }
        at = from_normal(edit.range.end, literals);
    }
    out.extend_from_slice(&text[at..end]);
    out
}
