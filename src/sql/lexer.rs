//! Postgres's own lexical rules over bytes: the one place that knows where a literal, a comment or a quoted name begins and ends.
//!
//! Splitting, classes, the plan cache's key and the parser's tokens all come from here, so they cannot disagree with each other.
//! Follows `src/backend/parser/scan.l` with `standard_conforming_strings = on` and a UTF-8 text. Where server versions differ (`1_000`,
//! `0x1F`, `5or`), the reading is the one that the newest accepts, or, where the newest rejects it, the one of the oldest.

/// One lexical element; white space is not one. Positions are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexeme {
    pub kind: Kind,
    pub start: u32,
    pub end: u32,
}

impl Lexeme {
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    LineComment,
    BlockComment,
    /// An unquoted identifier or keyword.
    Word,
    /// `"name"`
    Quoted,
    /// `U&"name"`
    UnicodeQuoted,
    Literal(LiteralKind),
    /// `$1`
    Param,
    /// A run of operator characters, cut as Postgres cuts it; single characters such as `+` and `=` too.
    Operator,
    /// `::`
    Typecast,
    /// `:=`
    ColonEquals,
    /// `..`
    DotDot,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    Comma,
    Dot,
    Colon,
    Semicolon,
    /// A byte that no Postgres grammar uses outside of literals (`{`, `\`, a lone `$` ...).
    Stray,
}

/// What kind of constant a literal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// Decimal digits only.
    Integer,
    /// A number with a point, an exponent or underscores.
    Number,
    /// `0x1F`, `0o17`, `0b101`: a number since Postgres 16, something else before.
    Radix,
    /// `'text'`
    Text,
    /// `E'text'`
    Escape,
    /// `$tag$text$tag$`
    Dollar,
    /// `B'101'`
    Bits,
    /// `X'1F'`
    Hex,
    /// `N'text'`: of type bpchar.
    National,
    /// `U&'text'`
    Unicode,
    /// Any of the quoted kinds, continued on another line (`'a'` newline `'b'`).
    Continued,
}

/// A text that every Postgres refuses before it executes any part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {position}")]
pub struct LexError {
    /// Byte offset where the element begins.
    pub position: usize,
    pub what: &'static str,
}

/// Byte classes, so that the common bytes cost one load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Byte {
    Space,
    /// Starts an identifier.
    Letter,
    /// Starts an identifier or, before a quote, a literal: b e n u x.
    Prefix,
    Digit,
    Operator,
    Quote,
    DoubleQuote,
    Dollar,
    Dot,
    Colon,
    Punctuation,
    Stray,
}

const CLASSES: [Byte; 256] = byte_classes();

const fn byte_classes() -> [Byte; 256] {
    let mut table = [Byte::Stray; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Byte::Space,
            b'b' | b'B' | b'e' | b'E' | b'n' | b'N' | b'u' | b'U' | b'x' | b'X' => Byte::Prefix,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Byte::Letter,
            b'0'..=b'9' => Byte::Digit,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*'
            | b'/' | b'%' | b'<' | b'>' | b'=' => Byte::Operator,
            b'\'' => Byte::Quote,
            b'"' => Byte::DoubleQuote,
            b'$' => Byte::Dollar,
            b'.' => Byte::Dot,
            b':' => Byte::Colon,
            b'(' | b')' | b'[' | b']' | b',' | b';' => Byte::Punctuation,
            _ => Byte::Stray,
        };
        byte += 1;
    }
    table
}

/// Bytes that continue an identifier.
const CONTINUES: [bool; 256] = identifier_bytes();

const fn identifier_bytes() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9' | b'$' | 0x80..=0xff);
        byte += 1;
    }
    table
}

/// Reads lexemes from left to right.
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    /// `text` is shorter than 4 GB (the wire's message limit is far below).
    pub fn new(text: &'a [u8]) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    /// The next element, comments included; `None` at the end.
    #[inline]
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Lexeme>, LexError> {
        while let Some(&byte) = self.text.get(self.at) {
            if CLASSES[byte as usize] != Byte::Space {
                return self.element(byte).map(Some);
            }
            self.at += 1;
        }
        Ok(None)
    }

    /// Steps over elements that are neither literals, comments, names in quotes, parameters nor `;`: the greater part of a text, for
    /// those who look for the others only.
    #[inline]
    pub(super) fn skip_plain(&mut self) {
        let mut at = self.at;
        while let Some(&byte) = self.text.get(at) {
            match CLASSES[byte as usize] {
                Byte::Space => at += 1,
                Byte::Letter => at = self.word_end(at),
                Byte::Prefix if !matches!(self.text.get(at + 1), Some(b'\'' | b'&')) => {
                    at = self.word_end(at)
                }
                Byte::Punctuation if byte != b';' => at += 1,
                // An operator may be stepped over byte by byte: a comment begins at the first `--` or `/*` in it all the same.
                Byte::Operator
                    if !matches!(
                        (byte, self.text.get(at + 1)),
                        (b'-', Some(b'-')) | (b'/', Some(b'*'))
                    ) =>
                {
                    at += 1
                }
                _ => break,
            }
        }
        self.at = at;
    }

    #[inline]
    fn word_end(&self, start: usize) -> usize {
        let mut at = start + 1;
        while self
            .text
            .get(at)
            .is_some_and(|byte| CONTINUES[*byte as usize])
        {
            at += 1;
        }
        at
    }

    #[inline]
    fn element(&mut self, byte: u8) -> Result<Lexeme, LexError> {
        let start = self.at;
        let kind = match CLASSES[byte as usize] {
            Byte::Letter => self.word(),
            Byte::Prefix => return self.prefixed(start),
            Byte::Digit => self.number(),
            Byte::Punctuation => {
                self.at += 1;
                punctuation(byte)
            }
            Byte::Operator => return self.operator(start, byte),
            Byte::Quote => self.quoted_literal(start, 1, LiteralKind::Text)?,
            Byte::DoubleQuote => self.quoted_name(start, 1, Kind::Quoted)?,
            Byte::Dollar => self.dollar(start)?,
            Byte::Dot => self.dot(),
            Byte::Colon => self.colon(),
            Byte::Space | Byte::Stray => {
                self.at += 1;
                Kind::Stray
            }
        };
        Ok(self.lexeme(kind, start))
    }

    #[inline]
    fn lexeme(&self, kind: Kind, start: usize) -> Lexeme {
        Lexeme {
            kind,
            start: start as u32,
            end: self.at as u32,
        }
    }

    #[inline]
    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    #[inline]
    fn word(&mut self) -> Kind {
        self.at = self.word_end(self.at);
        Kind::Word
    }

    fn prefixed(&mut self, start: usize) -> Result<Lexeme, LexError> {
        let kind = match (
            self.text[start].to_ascii_lowercase(),
            self.byte(1),
            self.byte(2),
        ) {
            (b'e', Some(b'\''), _) => self.quoted_literal(start, 2, LiteralKind::Escape)?,
            (b'b', Some(b'\''), _) => self.quoted_literal(start, 2, LiteralKind::Bits)?,
            (b'x', Some(b'\''), _) => self.quoted_literal(start, 2, LiteralKind::Hex)?,
            (b'n', Some(b'\''), _) => self.quoted_literal(start, 2, LiteralKind::National)?,
            (b'u', Some(b'&'), Some(b'\'')) => {
                self.quoted_literal(start, 3, LiteralKind::Unicode)?
            }
            (b'u', Some(b'&'), Some(b'"')) => self.quoted_name(start, 3, Kind::UnicodeQuoted)?,
            _ => self.word(),
        };
        Ok(self.lexeme(kind, start))
    }

    /// A string with its continuations; `opening` is the length of what stands before its content.
    fn quoted_literal(
        &mut self,
        start: usize,
        opening: usize,
        kind: LiteralKind,
    ) -> Result<Kind, LexError> {
        self.at = start + opening;
        self.quoted_part(start, kind)?;
        let mut kind_found = kind;
        while let Some(next) = continuation(self.text, self.at) {
            self.at = next;
            self.quoted_part(start, kind)?;
            kind_found = LiteralKind::Continued;
        }
        Ok(Kind::Literal(kind_found))
    }

    /// From behind an opening quote to behind the closing one.
    fn quoted_part(&mut self, start: usize, kind: LiteralKind) -> Result<(), LexError> {
        // In bit and hex strings a doubled quote is no quote: the string ends and another begins.
        let doubles = !matches!(kind, LiteralKind::Bits | LiteralKind::Hex);
        while let Some(byte) = self.byte(0) {
            self.at += 1;
            match byte {
                b'\'' if doubles && self.byte(0) == Some(b'\'') => self.at += 1,
                b'\'' => return Ok(()),
                b'\\' if kind == LiteralKind::Escape => self.at += 1,
                _ => {}
            }
        }
        self.at = self.text.len();
        Err(LexError {
            position: start,
            what: "unterminated quoted string",
        })
    }

    fn quoted_name(&mut self, start: usize, opening: usize, kind: Kind) -> Result<Kind, LexError> {
        self.at = start + opening;
        let content = self.at;
        while let Some(byte) = self.byte(0) {
            self.at += 1;
            if byte != b'"' {
                continue;
            }
            if self.byte(0) != Some(b'"') {
                if self.at == content + 1 {
                    return Err(LexError {
                        position: start,
                        what: "zero-length delimited identifier",
                    });
                }
                return Ok(kind);
            }
            self.at += 1;
        }
        Err(LexError {
            position: start,
            what: "unterminated quoted identifier",
        })
    }

    /// `$1`, `$tag$ .. $tag$`, or a lone dollar sign.
    fn dollar(&mut self, start: usize) -> Result<Kind, LexError> {
        if self.byte(1).is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 2;
            while self.byte(0).is_some_and(|byte| byte.is_ascii_digit()) {
                self.at += 1;
            }
            return Ok(Kind::Param);
        }
        let Some(content) = dollar_delimiter(self.text, start) else {
            self.at += 1;
            return Ok(Kind::Stray);
        };
        let delimiter = &self.text[start..content];
        match find(&self.text[content..], delimiter) {
            Some(offset) => {
                self.at = content + offset + delimiter.len();
                Ok(Kind::Literal(LiteralKind::Dollar))
            }
            None => Err(LexError {
                position: start,
                what: "unterminated dollar-quoted string",
            }),
        }
    }

    fn dot(&mut self) -> Kind {
        match self.byte(1) {
            Some(b'.') => {
                self.at += 2;
                Kind::DotDot
            }
            Some(digit) if digit.is_ascii_digit() => {
                self.at += 1;
                self.digits();
                self.exponent();
                Kind::Literal(LiteralKind::Number)
            }
            _ => {
                self.at += 1;
                Kind::Dot
            }
        }
    }

    fn colon(&mut self) -> Kind {
        let (kind, length) = match self.byte(1) {
            Some(b':') => (Kind::Typecast, 2),
            Some(b'=') => (Kind::ColonEquals, 2),
            _ => (Kind::Colon, 1),
        };
        self.at += length;
        kind
    }

    #[inline]
    fn number(&mut self) -> Kind {
        let start = self.at;
        if self.text[start] == b'0' && self.radix() {
            return Kind::Literal(LiteralKind::Radix);
        }
        let underscores = self.digits();
        let mut kind = if underscores {
            LiteralKind::Number
        } else {
            LiteralKind::Integer
        };
        // `1..10` is an integer and a range.
        if self.byte(0) == Some(b'.') && self.byte(1) != Some(b'.') {
            self.at += 1;
            if self.byte(0).is_some_and(|byte| byte.is_ascii_digit()) {
                self.digits();
            }
            kind = LiteralKind::Number;
        }
        if self.exponent() {
            kind = LiteralKind::Number;
        }
        Kind::Literal(kind)
    }

    /// Digits, with single underscores between them; whether there was an underscore.
    #[inline]
    fn digits(&mut self) -> bool {
        let mut underscores = false;
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b'0'..=b'9'), _) => self.at += 1,
                (Some(b'_'), Some(b'0'..=b'9')) => {
                    self.at += 2;
                    underscores = true;
                }
                _ => return underscores,
            }
        }
    }

    /// `e10`, `E+10`; left alone when no digit follows.
    #[inline]
    fn exponent(&mut self) -> bool {
        if !matches!(self.byte(0), Some(b'e' | b'E')) {
            return false;
        }
        let sign = usize::from(matches!(self.byte(1), Some(b'+' | b'-')));
        if !self
            .byte(1 + sign)
            .is_some_and(|byte| byte.is_ascii_digit())
        {
            return false;
        }
        self.at += 1 + sign;
        self.digits();
        true
    }

    /// At a zero: takes `0x1F`, `0o17` or `0b101` whole.
    fn radix(&mut self) -> bool {
        let belongs: fn(u8) -> bool = match self.byte(1) {
            Some(b'x' | b'X') => |byte| byte.is_ascii_hexdigit(),
            Some(b'o' | b'O') => |byte| matches!(byte, b'0'..=b'7'),
            Some(b'b' | b'B') => |byte| matches!(byte, b'0' | b'1'),
            _ => return false,
        };
        let first = if self.byte(2) == Some(b'_') { 3 } else { 2 };
        if !self.byte(first).is_some_and(belongs) {
            return false;
        }
        self.at += first;
        while self.byte(0).is_some_and(belongs)
            || (self.byte(0) == Some(b'_') && self.byte(1).is_some_and(belongs))
        {
            self.at += 1;
        }
        true
    }

    fn operator(&mut self, start: usize, byte: u8) -> Result<Lexeme, LexError> {
        match (byte, self.byte(1)) {
            (b'-', Some(b'-')) => {
                self.at = line_end(self.text, start);
                return Ok(self.lexeme(Kind::LineComment, start));
            }
            (b'/', Some(b'*')) => return self.block_comment(start),
            _ => {}
        }
        let mut end = start + 1;
        while end < self.text.len() && CLASSES[self.text[end] as usize] == Byte::Operator {
            // A comment may begin inside a run of operator characters.
            if matches!(
                (self.text[end], self.text.get(end + 1)),
                (b'-', Some(b'-')) | (b'/', Some(b'*'))
            ) {
                break;
            }
            end += 1;
        }
        // `+` and `-` end a longer operator only when it holds a character that SQL's own operators lack, so that `a>-1` reads as `> -1`.
        let special = |byte: &u8| {
            matches!(
                byte,
                b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%'
            )
        };
        while end - start > 1
            && matches!(self.text[end - 1], b'+' | b'-')
            && !self.text[start..end - 1].iter().any(special)
        {
            end -= 1;
        }
        self.at = end;
        Ok(self.lexeme(Kind::Operator, start))
    }

    fn block_comment(&mut self, start: usize) -> Result<Lexeme, LexError> {
        self.at = start + 2;
        let mut depth = 1;
        while let Some(byte) = self.byte(0) {
            match (byte, self.byte(1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(self.lexeme(Kind::BlockComment, start));
                    }
                }
                _ => self.at += 1,
            }
        }
        Err(LexError {
            position: start,
            what: "unterminated /* comment",
        })
    }
}

#[inline]
fn punctuation(byte: u8) -> Kind {
    match byte {
        b'(' => Kind::OpenParen,
        b')' => Kind::CloseParen,
        b'[' => Kind::OpenBracket,
        b']' => Kind::CloseBracket,
        b',' => Kind::Comma,
        b';' => Kind::Semicolon,
        _ => Kind::Stray,
    }
}

fn line_end(text: &[u8], from: usize) -> usize {
    text[from..]
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
        .map_or(text.len(), |offset| from + offset)
}

/// Where the content of the next part begins when a string that ended at `at` goes on: white space with a line break in it
/// (line comments count as white space), then a quote.
fn continuation(text: &[u8], mut at: usize) -> Option<usize> {
    let mut broken = false;
    loop {
        match text.get(at)? {
            b'\n' | b'\r' => {
                broken = true;
                at += 1;
            }
            b' ' | b'\t' | 0x0b | 0x0c => at += 1,
            b'-' if text.get(at + 1) == Some(&b'-') => at = line_end(text, at),
            b'\'' if broken => return Some(at + 1),
            _ => return None,
        }
    }
}

/// At a dollar sign: where the content begins, when this opens a dollar-quoted string.
pub(super) fn dollar_delimiter(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'$' => return Some(at + 1),
            b'0'..=b'9' if at == start + 1 => return None,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9' | 0x80..=0xff => at += 1,
            _ => return None,
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(offset) = haystack[from..].iter().position(|byte| *byte == first) {
        let at = from + offset;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, &str)> {
        let mut lexer = Lexer::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(lexeme) = lexer.next().expect("readable") {
            found.push((lexeme.kind, &text[lexeme.range()]));
        }
        found
    }

    fn literals(text: &str) -> Vec<(LiteralKind, &str)> {
        kinds(text)
            .into_iter()
            .filter_map(|(kind, text)| match kind {
                Kind::Literal(kind) => Some((kind, text)),
                _ => None,
            })
            .collect()
    }

    fn error(text: &str) -> LexError {
        let mut lexer = Lexer::new(text.as_bytes());
        loop {
            match lexer.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{text} was read"),
                Err(error) => return error,
            }
        }
    }

    #[test]
    fn operators_are_cut_as_postgres_cuts_them() {
        let operators = |text: &'static str| -> Vec<&str> {
            kinds(text)
                .into_iter()
                .filter(|(kind, _)| *kind == Kind::Operator)
                .map(|(_, text)| text)
                .collect()
        };
        assert_eq!(operators("a>-1"), [">", "-"]);
        assert_eq!(operators("a>=-1"), [">=", "-"]);
        assert_eq!(operators("a<>-1"), ["<>", "-"]);
        assert_eq!(operators("a=+-1"), ["=", "+", "-"]);
        assert_eq!(operators("a@-1"), ["@-"]);
        assert_eq!(operators("a->>'b'"), ["->>"]);
        assert_eq!(operators("a*/*c*/b"), ["*"]);
        assert_eq!(operators("a+--c\nb"), ["+"]);
    }

    #[test]
    fn strings_end_where_postgres_ends_them() {
        assert_eq!(
            literals(r"'a''b' 'c\'"),
            [(LiteralKind::Text, "'a''b'"), (LiteralKind::Text, r"'c\'")]
        );
        assert_eq!(
            literals(r"E'a\'b' e'\\'"),
            [
                (LiteralKind::Escape, r"E'a\'b'"),
                (LiteralKind::Escape, r"e'\\'")
            ]
        );
        assert_eq!(
            literals("$$a$b$$ $x$ $$ $y$ $x$"),
            [
                (LiteralKind::Dollar, "$$a$b$$"),
                (LiteralKind::Dollar, "$x$ $$ $y$ $x$")
            ]
        );
        assert_eq!(literals("B'1' x'F' N'n' U&'u'").len(), 4);
        assert_eq!(
            literals("X'a''b'"),
            [(LiteralKind::Hex, "X'a'"), (LiteralKind::Text, "'b'")]
        );
        assert_eq!(literals("'a' 'b'").len(), 2);
        assert_eq!(
            literals("'a'\n  'b'"),
            [(LiteralKind::Continued, "'a'\n  'b'")]
        );
        assert_eq!(
            literals("'a' -- c\n 'b'"),
            [(LiteralKind::Continued, "'a' -- c\n 'b'")]
        );
        assert_eq!(literals("'a' /* c */\n 'b'").len(), 2);
        assert_eq!(literals("a$b$c$b$"), []);
        assert_eq!(literals("$1$2"), []);
    }

    #[test]
    fn numbers() {
        assert_eq!(
            literals("1 1.5 .5 1. 1e5 1E-5 1_000 0x1F 0b101 0o17"),
            [
                (LiteralKind::Integer, "1"),
                (LiteralKind::Number, "1.5"),
                (LiteralKind::Number, ".5"),
                (LiteralKind::Number, "1."),
                (LiteralKind::Number, "1e5"),
                (LiteralKind::Number, "1E-5"),
                (LiteralKind::Number, "1_000"),
                (LiteralKind::Radix, "0x1F"),
                (LiteralKind::Radix, "0b101"),
                (LiteralKind::Radix, "0o17"),
            ]
        );
        assert_eq!(kinds("1..2")[1], (Kind::DotDot, ".."));
        assert_eq!(kinds("5or")[1], (Kind::Word, "or"));
        assert_eq!(kinds("1e")[1], (Kind::Word, "e"));
    }

    #[test]
    fn what_never_ends_is_an_error_at_its_start() {
        assert_eq!(error("select 'a").position, 7);
        assert_eq!(error("select E'a\\'").position, 7);
        assert_eq!(error("select E'a\\").position, 7);
        assert_eq!(error("/* /* */").position, 0);
        assert_eq!(error("a \"b").position, 2);
        assert_eq!(error("a \"\"").position, 2);
        assert_eq!(error("a $x$ $x").position, 2);
    }
}
