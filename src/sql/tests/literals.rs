//! The numbering of literals, and the plan cache's key.

use crate::sql::lexer::LiteralKind;
use crate::sql::normalise::{
    Literal, LiteralError, from_normal, literal_text, normalise, to_normal,
};
use crate::sql::{Body, Source, read};
use proptest::prelude::*;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

fn normal(text: &str) -> (Vec<u8>, Vec<Literal>) {
    let (mut out, mut literals) = (Vec::new(), Vec::new());
    normalise(text.as_bytes(), &mut out, &mut literals).expect("normalisable");
    (out, literals)
}

fn decoded(text: &str) -> Result<String, LiteralError> {
    let (_, literals) = normal(text);
    literal_text(text.as_bytes(), &literals[0]).map(|value| value.into_owned())
}

#[test]
fn texts_that_differ_in_literals_share_a_key() {
    assert_eq!(
        normal("SELECT 1, 'a' -- c").0,
        normal("SELECT 23, 'it''s' -- c").0
    );
    for (one, other) in [
        ("SELECT 1", "SELECT 1.5"),
        ("SELECT 1", "SELECT '1'"),
        ("SELECT 'a'", "SELECT E'a'"),
        ("SELECT 1 /* a */", "SELECT 1 /* b */"),
        ("SELECT a ?i", "SELECT a 1"),
        ("SET a = 1", "SET a = 2"),
        ("SELECT 1; SET a = 'x'", "SELECT 1; SET a = 'y'"),
        ("SELECT -1", "SELECT 1"),
        ("SELECT x'1'", "SELECT b'1'"),
    ] {
        assert_ne!(normal(one).0, normal(other).0, "{one} and {other}");
    }
    assert_eq!(normal("SET a = 1; SELECT 2").1.len(), 1);
}

#[test]
fn a_text_that_is_not_utf8_has_no_key() {
    assert!(normalise(b"SELECT \xf5", &mut Vec::new(), &mut Vec::new()).is_err());
}

#[test]
fn values_are_decoded_as_postgres_decodes_them() {
    assert_eq!(decoded("12").as_deref(), Ok("12"));
    assert_eq!(decoded("1_000").as_deref(), Ok("1000"));
    assert_eq!(decoded("'it''s \\n'").as_deref(), Ok("it's \\n"));
    assert_eq!(
        decoded(r"E'\'\n\x41\101\u00e9\q'''").as_deref(),
        Ok("'\nAA\u{e9}q'")
    );
    assert_eq!(decoded("$$a'b$$").as_deref(), Ok("a'b"));
    assert_eq!(decoded("$x$a$$b$x$").as_deref(), Ok("a$$b"));
    for text in ["X'1'", "B'1'", "N'a'", "U&'a'", "0x1F", "'a'\n'b'"] {
        assert_eq!(decoded(text), Err(LiteralError::NotPlain), "{text}");
    }
    for text in [r"E'\x00'", r"E'\xff'", r"E'\ud83d\ude00'", r"E'\u12'"] {
        assert_eq!(decoded(text), Err(LiteralError::InvalidEscape), "{text}");
    }
}

#[test]
fn offsets_move_with_the_literals() {
    let (one, other) = (
        "SELECT 1, 'a'; SELECT 22 + 3;",
        "SELECT 100, 'bcd'; SELECT 4 + 5;",
    );
    let (ones, others) = (normal(one).1, normal(other).1);
    for (statement, counterpart) in read(one)
        .expect("read")
        .iter()
        .zip(read(other).expect("read"))
    {
        let moved = |offset: usize| from_normal(to_normal(offset, &ones), &others);
        assert_eq!(
            moved(statement.range.start)..moved(statement.range.end),
            counterpart.range
        );
    }
}

#[test]
fn facts_count_literals_over_the_whole_message() {
    let text = "SELECT 'a', 2; SET x = 3; SELECT 1 FROM t WHERE id = 5";
    let read = read(text).expect("read");
    let Body::Facts(facts) = &read[2].body else {
        panic!("parsed")
    };
    assert!(format!("{:?}", facts.blocks[0].conjuncts).contains("slot: 3"));
    assert_eq!(normal(text).1.len(), 4);
}

/// The parser crate's own reading of where the literals are.
fn literals_of_the_crate(text: &str) -> Option<Vec<(usize, usize)>> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize_with_location()
        .ok()?;
    let lines: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let byte = |line: u64, column: u64| {
        let start = lines[line as usize - 1];
        start
            + text[start..]
                .chars()
                .take(column as usize - 1)
                .map(char::len_utf8)
                .sum::<usize>()
    };
    let literal = |token: &Token| {
        matches!(
            token,
            Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::EscapedStringLiteral(_)
                | Token::DollarQuotedString(_)
                | Token::SingleQuotedByteStringLiteral(_)
                | Token::HexStringLiteral(_)
                | Token::NationalStringLiteral(_)
                | Token::UnicodeStringLiteral(_)
        )
    };
    let found = tokens.iter().filter(|token| literal(&token.token));
    Some(
        found
            .map(|token| {
                (
                    byte(token.span.start.line, token.span.start.column),
                    byte(token.span.end.line, token.span.end.column),
                )
            })
            .collect(),
    )
}

fn agree(text: &str) {
    let (mut out, mut ours) = (Vec::new(), Vec::new());
    let normalised = normalise(text.as_bytes(), &mut out, &mut ours);
    let Some(theirs) = literals_of_the_crate(text) else {
        return;
    };
    if normalised.is_err() && text.contains('\n') {
        // A string continued on another line keeps its escapes (E'' and then '\' on the next line never ends); the crate knows
        // no continuation.
        return;
    }
    assert!(normalised.is_ok(), "{text:?}");
    // Postgres's rules differ from the crate's for these, on purpose.
    if ours.iter().any(|literal| {
        matches!(
            literal.kind,
            LiteralKind::Continued | LiteralKind::Radix | LiteralKind::Hex | LiteralKind::Bits
        )
    }) {
        return;
    }
    let ours: Vec<(usize, usize)> = ours
        .iter()
        .map(|literal| (literal.start as usize, literal.end as usize))
        .collect();
    assert_eq!(ours, theirs, "{text:?}");
}

/// Pieces of statements that make and break literals. `SET` and operators that swallow comments are left out: there we follow Postgres.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,6}".prop_filter("SET keeps its literals", |word| word != "set"),
        "[0-9]{1,5}",
        "[0-9]{1,3}\\.[0-9]{0,3}",
        "[1-9]e[0-9]{1,2}",
        "'[a-z \\\\\"$é]{0,6}'",
        "'(a|''){0,4}'",
        "[eE]'(a|\\\\'|\\\\\\\\|''){0,4}'",
        "[nN]'[a-z]{0,3}'",
        "\"[a-z'$ ]{1,5}\"",
        "\\$\\$[a-z' ]{0,5}\\$\\$",
        "\\$[a-z]{1,3}\\$x\\$y\\$",
        "\\$[1-9]",
        "/\\*[a-z' /]{0,5}\\*/",
        "--[a-z' ]{0,5}\n",
        Just("$q$a'b$q$".to_owned()),
        Just("::".to_owned()),
        Just(";".to_owned()),
        Just("(".to_owned()),
        Just(")".to_owned()),
        Just(", ".to_owned()),
        Just(" = ".to_owned()),
        Just(" -".to_owned()),
        Just("<>".to_owned()),
        Just(" ".to_owned()),
        Just("\n".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn literals_are_where_the_crate_sees_them(pieces in prop::collection::vec(piece(), 0..12)) {
        agree(&pieces.join(" "));
    }

    /// The key steps over what `read()` looks at; they must count alike.
    #[test]
    fn key_and_reading_number_alike(text in "[-+*/'\"$;.:=a-eE1é\n ]{0,30}") {
        let (mut out, mut literals) = (Vec::new(), Vec::new());
        let key = normalise(text.as_bytes(), &mut out, &mut literals);
        if let Ok(source) = Source::lex(&text) {
            prop_assert!(key.is_ok());
            prop_assert_eq!(&source.literals, &literals);
        } else {
            prop_assert!(key.is_err());
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[ -~é\\n]{0,40}") {
        normalise(text.as_bytes(), &mut Vec::new(), &mut Vec::new()).ok();
        read(&text).ok();
    }

    #[test]
    fn any_pieces_are_read_or_refused(pieces in prop::collection::vec(piece(), 0..12)) {
        read(&format!("SELECT {}", pieces.join(" "))).ok();
    }

    /// Same key, same statements: the numbers, classes and facts of one text fit the other.
    #[test]
    fn one_key_one_reading(pieces in prop::collection::vec(piece(), 0..8), number in 0..9999u32) {
        let text = format!("SELECT {} FROM t WHERE id = 5 AND b = 'x'", pieces.join(" "));
        let (mut key, mut literals) = (Vec::new(), Vec::new());
        if normalise(text.as_bytes(), &mut key, &mut literals).is_ok() {
            let mut other = String::new();
            let mut copied = 0;
            for literal in &literals {
                other.push_str(&text[copied..literal.start as usize]);
                match literal.kind {
                    LiteralKind::Integer => other.push_str(&number.to_string()),
                    LiteralKind::Text => other.push_str("'another'"),
                    _ => other.push_str(&text[literal.start as usize..literal.end as usize]),
                }
                copied = literal.end as usize;
            }
            other.push_str(&text[copied..]);
            let (other_key, _) = normal(&other);
            prop_assert_eq!(&key, &other_key);
            let body = |text: &str| read(text).map(|read| read.into_iter().map(|statement| statement.body).collect::<Vec<_>>());
            if let (Ok(one), Ok(two)) = (body(&text), body(&other)) {
                for (one, two) in one.into_iter().zip(two) {
                    match (one, two) {
                        (Body::Unparsed { words, .. }, Body::Unparsed { words: others, .. }) => prop_assert_eq!(words, others),
                        (one, two) => prop_assert_eq!(one, two),
                    }
                }
            }
        }
    }
}
