//! Lexemes as the parser's tokens. A token's span carries what extraction needs: as "line" the byte offset plus one (zero means
//! nowhere to the parser), as "column" the number of the literal plus one, zero when it is none.

use super::keywords;
use crate::sql::lexer::{Kind, Lexeme, LiteralKind};
use crate::sql::names;
use crate::sql::normalise::Literal;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Word};

/// The number of the literal that a token with this span is.
pub(super) fn slot(span: Span) -> Option<usize> {
    usize::try_from(span.start.column).ok()?.checked_sub(1)
}

/// The tokens of one statement.
pub(super) fn tokens(text: &str, lexemes: &[Lexeme], literals: &[Literal]) -> Vec<TokenWithSpan> {
    let mut next = literals.partition_point(|literal| {
        lexemes
            .first()
            .is_some_and(|first| literal.start < first.start)
    });
    lexemes
        .iter()
        .map(|lexeme| {
            let mut column = 0;
            if literals
                .get(next)
                .is_some_and(|literal| literal.start == lexeme.start)
            {
                next += 1;
                if is_plain(lexeme.kind) {
                    column = next as u64;
                }
            }
            let start = Location {
                line: u64::from(lexeme.start) + 1,
                column,
            };
            let end = Location {
                line: u64::from(lexeme.end) + 1,
                column: 0,
            };
            TokenWithSpan {
                token: token(&text[lexeme.range()], lexeme.kind),
                span: Span { start, end },
            }
        })
        .collect()
}

/// Whether a literal's own characters say what value it has.
fn is_plain(kind: Kind) -> bool {
    match kind {
        Kind::Literal(
            LiteralKind::Integer
            | LiteralKind::Number
            | LiteralKind::Text
            | LiteralKind::Escape
            | LiteralKind::Dollar,
        ) => true,
        Kind::Literal(
            LiteralKind::Radix
            | LiteralKind::Bits
            | LiteralKind::Hex
            | LiteralKind::National
            | LiteralKind::Unicode
            | LiteralKind::Continued,
        ) => false,
        _ => false,
    }
}

fn token(source: &str, kind: Kind) -> Token {
    match kind {
        Kind::Word => word(source),
        Kind::Quoted | Kind::UnicodeQuoted => quoted_word(&names::unquote(source)),
        Kind::Literal(LiteralKind::Integer | LiteralKind::Number) => {
            Token::Number(source.to_owned(), false)
        }
        Kind::Literal(LiteralKind::Radix) => Token::HexStringLiteral(String::new()),
        // The content stays outside: nothing in the tree can show it.
        Kind::Literal(_) => Token::SingleQuotedString(String::new()),
        Kind::Param => Token::Placeholder(source.to_owned()),
        Kind::Operator => operator(source),
        Kind::Typecast => Token::DoubleColon,
        Kind::ColonEquals => Token::Assignment,
        Kind::OpenParen => Token::LParen,
        Kind::CloseParen => Token::RParen,
        Kind::OpenBracket => Token::LBracket,
        Kind::CloseBracket => Token::RBracket,
        Kind::Comma => Token::Comma,
        Kind::Dot => Token::Period,
        Kind::Colon => Token::Colon,
        Kind::Semicolon => Token::SemiColon,
        Kind::DotDot | Kind::Stray | Kind::LineComment | Kind::BlockComment => {
            Token::Char(source.chars().next().unwrap_or(' '))
        }
    }
}

/// An unquoted word; a keyword only where Postgres knows it as one (the parser knows those of twenty databases).
pub(super) fn word(source: &str) -> Token {
    match Token::make_word(source, None) {
        Token::Word(word)
            if word.keyword != Keyword::NoKeyword && !keywords::is_keyword(source) =>
        {
            Token::Word(Word {
                keyword: Keyword::NoKeyword,
                ..word
            })
        }
        token => token,
    }
}

pub(super) fn quoted_word(name: &str) -> Token {
    Token::make_word(name, Some('"'))
}

fn operator(source: &str) -> Token {
    match source {
        "+" => Token::Plus,
        "-" => Token::Minus,
        "*" => Token::Mul,
        "/" => Token::Div,
        "%" => Token::Mod,
        "^" => Token::Caret,
        "<" => Token::Lt,
        ">" => Token::Gt,
        "=" => Token::Eq,
        "<=" => Token::LtEq,
        ">=" => Token::GtEq,
        "<>" | "!=" => Token::Neq,
        "=>" => Token::RArrow,
        "||" => Token::StringConcat,
        "&" => Token::Ampersand,
        "|" => Token::Pipe,
        "#" => Token::Sharp,
        "~" => Token::Tilde,
        "~*" => Token::TildeAsterisk,
        "!~" => Token::ExclamationMarkTilde,
        "!~*" => Token::ExclamationMarkTildeAsterisk,
        "~~" => Token::DoubleTilde,
        "~~*" => Token::DoubleTildeAsterisk,
        "!~~" => Token::ExclamationMarkDoubleTilde,
        "!~~*" => Token::ExclamationMarkDoubleTildeAsterisk,
        "<<" => Token::ShiftLeft,
        ">>" => Token::ShiftRight,
        "&&" => Token::Overlap,
        "!" => Token::ExclamationMark,
        "!!" => Token::DoubleExclamationMark,
        "@" => Token::AtSign,
        "^@" => Token::CaretAt,
        "|/" => Token::PGSquareRoot,
        "||/" => Token::PGCubeRoot,
        "->" => Token::Arrow,
        "->>" => Token::LongArrow,
        "#>" => Token::HashArrow,
        "#>>" => Token::HashLongArrow,
        "#-" => Token::HashMinus,
        "@>" => Token::AtArrow,
        "<@" => Token::ArrowAt,
        "@?" => Token::AtQuestion,
        "@@" => Token::AtAt,
        "?" => Token::Question,
        "?&" => Token::QuestionAnd,
        "?|" => Token::QuestionPipe,
        "##" => Token::DoubleSharp,
        "@-@" => Token::AtDashAt,
        "?-" => Token::QuestionMarkDash,
        "?-|" => Token::QuestionMarkDashVerticalBar,
        "?||" => Token::QuestionMarkDoubleVerticalBar,
        "?#" => Token::QuestionMarkSharp,
        "&<" => Token::AmpersandLeftAngleBracket,
        "&>" => Token::AmpersandRightAngleBracket,
        "&<|" => Token::AmpersandLeftAngleBracketVerticalBar,
        "|&>" => Token::VerticalBarAmpersandRightAngleBracket,
        "<->" => Token::TwoWayArrow,
        "<^" => Token::LeftAngleBracketCaret,
        ">^" => Token::RightAngleBracketCaret,
        "~=" => Token::TildeEqual,
        "<<|" => Token::ShiftLeftVerticalBar,
        "|>>" => Token::VerticalBarShiftRight,
        other => Token::CustomBinaryOperator(other.to_owned()),
    }
}
