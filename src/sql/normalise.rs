//! The plan cache's key: a text with each literal replaced by a mark of its kind, and the numbering of literals that facts refer to.
//!
//! Two texts with the same normal form differ in the content of literals only: they have the same tokens, the same statements and the
//! same facts. Marks are bytes that no UTF-8 text holds, so no text can imitate one. Comments and white space stay (hints matter).
//! A `SET` statement keeps its literals, because its class holds their values; those have no number.
//!
//! Byte offsets differ between texts of one normal form. What is cached beside it keeps offsets *of the normal form*:
//! [`to_normal`] and [`from_normal`] translate.

use super::lexer::{Kind, LexError, Lexeme, Lexer, LiteralKind, dollar_delimiter};
use std::borrow::Cow;

/// A literal of a text; its place in the list is its number (`Operand::Literal::slot`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal {
    /// Byte offsets, quotes and prefix included, signs not.
    pub start: u32,
    pub end: u32,
    pub kind: LiteralKind,
}

impl Literal {
    /// The literal that a lexeme is, if it is one.
    #[inline]
    pub(super) fn of(lexeme: &Lexeme) -> Option<Literal> {
        match lexeme.kind {
            Kind::Literal(kind) => Some(Literal {
                start: lexeme.start,
                end: lexeme.end,
                kind,
            }),
            _ => None,
        }
    }
}

/// Why a text has no normal form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNormalisable {
    /// `read()` reports the same.
    #[error(transparent)]
    Unreadable(#[from] LexError),
    /// Not UTF-8: it could hold a mark.
    #[error("byte {position} is not UTF-8")]
    NotUtf8 { position: usize },
}

/// Why a literal's value cannot be used as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiteralError {
    /// Bit, hex, national, Unicode-escaped and continued strings, numbers to another base.
    #[error("not a plain value")]
    NotPlain,
    /// An escape that Postgres refuses, or one that yields no UTF-8.
    #[error("invalid escape in a string")]
    InvalidEscape,
}

/// The first mark; bytes from here on occur in no UTF-8 text.
const FIRST_MARK: u8 = 0xf5;

/// The byte that stands for a literal: its kinds are told apart because they differ in type.
const fn mark(kind: LiteralKind) -> u8 {
    FIRST_MARK
        + match kind {
            LiteralKind::Integer => 0,
            LiteralKind::Number => 1,
            LiteralKind::Text => 2,
            LiteralKind::Escape => 3,
            LiteralKind::Dollar => 4,
            LiteralKind::Bits => 5,
            LiteralKind::Hex => 6,
            LiteralKind::National => 7,
            LiteralKind::Unicode => 8,
            LiteralKind::Continued => 9,
            LiteralKind::Radix => 10,
        }
}

/// Decides which literals of a message are numbered, lexeme by lexeme: all but those of SET statements.
pub(super) struct Numbering {
    place: Place,
}

enum Place {
    StatementStart,
    Numbered,
    Verbatim,
}

impl Numbering {
    pub(super) fn new() -> Numbering {
        Numbering {
            place: Place::StatementStart,
        }
    }

    /// To be called for every lexeme in turn; the literal that this lexeme is, when it has a number.
    #[inline]
    pub(super) fn literal(&mut self, text: &[u8], lexeme: &Lexeme) -> Option<Literal> {
        match (lexeme.kind, &self.place) {
            (Kind::LineComment | Kind::BlockComment, _) => None,
            (Kind::Semicolon, _) => {
                self.place = Place::StatementStart;
                None
            }
            (_, Place::Numbered) => Literal::of(lexeme),
            (kind, Place::StatementStart) => {
                let set = kind == Kind::Word && text[lexeme.range()].eq_ignore_ascii_case(b"set");
                self.place = if set {
                    Place::Verbatim
                } else {
                    Place::Numbered
                };
                Literal::of(lexeme)
            }
            (_, Place::Verbatim) => None,
        }
    }
}

/// Appends the normal form of `text` to `out` and its literals to `literals` (both are cleared first, their memory is reused).
pub fn normalise(
    text: &[u8],
    out: &mut Vec<u8>,
    literals: &mut Vec<Literal>,
) -> Result<(), NotNormalisable> {
    out.clear();
    literals.clear();
    out.reserve(text.len());
    let mut lexer = Lexer::new(text);
    let mut numbering = Numbering::new();
    let mut copied = 0;
    while let Some(lexeme) = lexer.next()? {
        let literal = numbering.literal(text, &lexeme);
        if matches!(numbering.place, Place::Numbered) {
            lexer.skip_plain();
        }
        if let Some(literal) = literal {
            out.extend_from_slice(&text[copied..literal.start as usize]);
            out.push(mark(literal.kind));
            copied = literal.end as usize;
            literals.push(literal);
        }
    }
    out.extend_from_slice(&text[copied..]);
    // Only a text that is not UTF-8 has more of these bytes than it has literals.
    if !text.is_ascii()
        && let Some(position) = text.iter().position(|byte| *byte >= FIRST_MARK)
    {
        return Err(NotNormalisable::NotUtf8 { position });
    }
    Ok(())
}

/// The offset in the normal form of an offset in the text whose literals these are. An offset inside a literal becomes the mark's.
pub fn to_normal(offset: usize, literals: &[Literal]) -> usize {
    let mut shrunk = 0;
    for literal in literals
        .iter()
        .take_while(|literal| (literal.start as usize) < offset)
    {
        shrunk += offset.min(literal.end as usize)
            - literal.start as usize
            - usize::from(offset >= literal.end as usize);
    }
    offset - shrunk
}

/// The opposite of [`to_normal`]; an offset of a mark becomes the start of its literal.
pub fn from_normal(offset: usize, literals: &[Literal]) -> usize {
    let mut grown = 0;
    for literal in literals {
        if literal.start as usize >= offset + grown {
            break;
        }
        grown += literal.end as usize - literal.start as usize - 1;
    }
    offset + grown
}

/// The value of a literal as Postgres's input functions get it: quotes and escapes resolved.
///
/// `text` is the text that the literal was found in.
pub fn literal_text<'a>(text: &'a [u8], literal: &Literal) -> Result<Cow<'a, str>, LiteralError> {
    let source = &text[literal.start as usize..literal.end as usize];
    let utf8 = |bytes: &'a [u8]| std::str::from_utf8(bytes).map_err(|_| LiteralError::NotPlain);
    match literal.kind {
        LiteralKind::Integer => utf8(source).map(Cow::Borrowed),
        LiteralKind::Number => {
            let digits = utf8(source)?;
            Ok(if digits.contains('_') {
                Cow::Owned(digits.replace('_', ""))
            } else {
                Cow::Borrowed(digits)
            })
        }
        LiteralKind::Text => {
            let content = utf8(&source[1..source.len() - 1])?;
            Ok(if content.contains('\'') {
                Cow::Owned(content.replace("''", "'"))
            } else {
                Cow::Borrowed(content)
            })
        }
        LiteralKind::Escape => {
            let content = utf8(&source[2..source.len() - 1])?;
            if content.contains(['\'', '\\']) {
                unescape(content).map(Cow::Owned)
            } else {
                Ok(Cow::Borrowed(content))
            }
        }
        LiteralKind::Dollar => {
            let delimiter = dollar_delimiter(source, 0).ok_or(LiteralError::NotPlain)?;
            utf8(&source[delimiter..source.len() - delimiter]).map(Cow::Borrowed)
        }
        LiteralKind::Radix
        | LiteralKind::Bits
        | LiteralKind::Hex
        | LiteralKind::National
        | LiteralKind::Unicode
        | LiteralKind::Continued => Err(LiteralError::NotPlain),
    }
}

/// The content of `E'..'`, by the table in the manual ("String Constants with C-Style Escapes").
fn unescape(content: &str) -> Result<String, LiteralError> {
    let source = content.as_bytes();
    let mut bytes = Vec::with_capacity(source.len());
    let mut at = 0;
    while at < source.len() {
        match (source[at], source.get(at + 1)) {
            (b'\'', _) => {
                bytes.push(b'\'');
                at += 2;
            }
            (b'\\', Some(&escaped)) => at = unescape_one(source, at + 1, escaped, &mut bytes)?,
            (byte, _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    if bytes.contains(&0) {
        return Err(LiteralError::InvalidEscape);
    }
    String::from_utf8(bytes).map_err(|_| LiteralError::InvalidEscape)
}

/// Resolves the escape whose letter stands at `at`; where the text goes on.
fn unescape_one(
    source: &[u8],
    at: usize,
    letter: u8,
    bytes: &mut Vec<u8>,
) -> Result<usize, LiteralError> {
    let digits = |from: usize, base: u32, most: usize| {
        let length = source[from..]
            .iter()
            .take(most)
            .take_while(|byte| (**byte as char).is_digit(base))
            .count();
        let value = source[from..from + length].iter().fold(0, |value, byte| {
            value * base + (*byte as char).to_digit(base).unwrap_or(0)
        });
        (length, value)
    };
    match letter {
        b'b' => bytes.push(0x08),
        b'f' => bytes.push(0x0c),
        b'n' => bytes.push(b'\n'),
        b'r' => bytes.push(b'\r'),
        b't' => bytes.push(b'\t'),
        // Servers differ on it.
        b'v' => return Err(LiteralError::InvalidEscape),
        b'0'..=b'7' => {
            let (length, value) = digits(at, 8, 3);
            bytes.push(value as u8);
            return Ok(at + length);
        }
        b'x' => match digits(at + 1, 16, 2) {
            (0, _) => bytes.push(b'x'),
            (length, value) => {
                bytes.push(value as u8);
                return Ok(at + 1 + length);
            }
        },
        b'u' | b'U' => {
            let most = if letter == b'u' { 4 } else { 8 };
            let (length, value) = digits(at + 1, 16, most);
            // A surrogate needs its other half: left to Postgres.
            let Some(character) = char::from_u32(value).filter(|_| length == most) else {
                return Err(LiteralError::InvalidEscape);
            };
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(at + 1 + length);
        }
        other => bytes.push(other),
    }
    Ok(at + 1)
}
