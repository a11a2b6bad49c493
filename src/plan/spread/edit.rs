//! A shard's text: the client's, with pieces of it replaced.

use std::ops::Range;

use crate::sql::normalise::{Literal, from_normal};

/// A piece of the text and what stands there instead. An empty range inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Byte offsets in the message's text; of its normal form in what comes from the plan cache.
    pub range: Range<usize>,
    pub with: Box<str>,
}

impl Edit {
    pub fn insert(at: usize, with: impl Into<Box<str>>) -> Edit {
        Edit {
            range: at..at,
            with: with.into(),
        }
    }

    pub fn replace(range: Range<usize>, with: impl Into<Box<str>>) -> Edit {
        Edit {
            range,
            with: with.into(),
        }
    }
}

/// The statement at `whole` of a text with its edits done, which are in order and do not overlap. All ranges are of the normal form that
/// belongs to `literals`.
pub fn apply(edits: &[Edit], whole: Range<usize>, text: &[u8], literals: &[Literal]) -> Vec<u8> {
    let end = from_normal(whole.end, literals);
    let mut at = from_normal(whole.start, literals);
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let mut out = Vec::with_capacity(end - at + added);
    for edit in edits {
        let start = from_normal(edit.range.start, literals);
        out.extend_from_slice(&text[at..start]);
        out.extend_from_slice(edit.with.as_bytes());
        at = from_normal(edit.range.end, literals);
    }
    out.extend_from_slice(&text[at..end]);
    out
}
