//! The parts of a MERGE that say which rows it looks at.

use std::ops::Range;

use super::{Outside, lexemes, outside};
use crate::sql::identifier;
use crate::sql::lexer::{Kind, Lexeme};

/// As they stand in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeParts {
    pub source: MergeSource,
    /// Of ON.
    pub condition: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeSource {
    Table {
        /// With its schema, if that is written.
        name: Range<usize>,
        alias: Option<Range<usize>>,
    },
    /// A query in parentheses, without these.
    Query(Range<usize>),
    /// A join, a function, ONLY, a list of column names.
    Other,
}

/// `None`: WITH in front, or it is no MERGE.
pub fn merge_parts(text: &str, range: Range<usize>) -> Option<MergeParts> {
    let lexemes = lexemes(text, range)?;
    let outside = outside(text, &lexemes)?;
    if !outside.is(0, "merge") || !outside.is(1, "into") {
        return None;
    }
    let using = outside.find(2, "using")?;
    let on = outside.find(using, "on")?;
    let when = first_action(&outside, on + 1)?;
    Some(MergeParts {
        source: source(text, &lexemes[using + 1..on])?,
        condition: bytes(&lexemes[on + 1..when])?,
    })
}

fn bytes(lexemes: &[Lexeme]) -> Option<Range<usize>> {
    Some(lexemes.first()?.range().start..lexemes.last()?.range().end)
}

/// The first WHEN that is not of a CASE.
fn first_action(outside: &Outside<'_>, from: usize) -> Option<usize> {
    let mut cases = 0_usize;
    for at in from..outside.lexemes.len() {
        match () {
            () if outside.lexemes[at - 1].kind == Kind::Dot => {}
            () if outside.is(at, "case") => cases += 1,
            () if outside.is(at, "end") => cases = cases.checked_sub(1)?,
            () if outside.is(at, "when") && cases == 0 => return Some(at),
            () => {}
        }
    }
    None
}

fn source(text: &str, lexemes: &[Lexeme]) -> Option<MergeSource> {
    let is = |at: usize, word: &str| {
        lexemes.get(at).is_some_and(|lexeme| {
            lexeme.kind == Kind::Word && text[lexeme.range()].eq_ignore_ascii_case(word)
        })
    };
    if lexemes.first()?.kind == Kind::OpenParen {
        let close = partner(lexemes)?;
        return Some(match is(1, "select") || is(1, "with") {
            true => MergeSource::Query(bytes(&lexemes[1..close])?),
            false => MergeSource::Other,
        });
    }
    let mut at = 0;
    identifier(text, lexemes.first()?)?;
    while lexemes
        .get(at + 1)
        .is_some_and(|lexeme| lexeme.kind == Kind::Dot)
    {
        at += 2;
        identifier(text, lexemes.get(at)?)?;
    }
    let name = bytes(&lexemes[..=at])?;
    let behind = &lexemes[at + 1 + usize::from(is(at + 1, "as"))..];
    Some(match behind {
        _ if is(0, "only") => MergeSource::Other,
        [] => MergeSource::Table { name, alias: None },
        [alias] if identifier(text, alias).is_some() => MergeSource::Table {
            name,
            alias: Some(alias.range()),
        },
        _ => MergeSource::Other,
    })
}

/// The parenthesis that closes the first one.
fn partner(lexemes: &[Lexeme]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, lexeme) in lexemes.iter().enumerate() {
        match lexeme.kind {
            Kind::OpenParen => depth += 1,
            Kind::CloseParen => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_has_a_source_and_a_condition() {
        let found = |text: &str| {
            let parts = merge_parts(text, 0..text.len())?;
            let of = |range: Range<usize>| text[range].to_owned();
            let source = match parts.source {
                MergeSource::Table { name, alias } => {
                    format!("table {} as {}", of(name), alias.map_or("-".into(), of))
                }
                MergeSource::Query(query) => format!("query {}", of(query)),
                MergeSource::Other => "other".to_owned(),
            };
            Some((source, of(parts.condition)))
        };
        let cases = [
            (
                "MERGE INTO t USING a.\"S\" ON t.k = \"S\".k WHEN MATCHED THEN DELETE",
                Some(("table a.\"S\" as -", "t.k = \"S\".k")),
            ),
            (
                "merge into only t * as x using s /* c */ as \"y z\" on x.k = \"y z\".when and case when x.a then x.case else x.end end when not matched then do nothing",
                Some((
                    "table s as \"y z\"",
                    "x.k = \"y z\".when and case when x.a then x.case else x.end end",
                )),
            ),
            (
                "MERGE INTO t USING (SELECT k FROM s WHERE a IN (1, 2)) v (k) ON (t.k = v.k) WHEN MATCHED THEN UPDATE SET a = CASE WHEN true THEN 1 END",
                Some(("query SELECT k FROM s WHERE a IN (1, 2)", "(t.k = v.k)")),
            ),
            (
                "MERGE INTO t USING (VALUES (1)) v (k) ON t.k = v.k WHEN MATCHED THEN DELETE",
                Some(("other", "t.k = v.k")),
            ),
            (
                "MERGE INTO t USING (s JOIN r ON s.a = r.a) ON t.k = s.k WHEN MATCHED THEN DELETE",
                Some(("other", "t.k = s.k")),
            ),
            (
                "MERGE INTO t USING ONLY s ON t.k = s.k WHEN MATCHED THEN DELETE",
                Some(("other", "t.k = s.k")),
            ),
            (
                "MERGE INTO t USING s x (k) ON t.k = x.k WHEN MATCHED THEN DELETE",
                Some(("other", "t.k = x.k")),
            ),
            (
                "WITH w AS (SELECT 1) MERGE INTO t USING w ON true WHEN MATCHED THEN DELETE",
                None,
            ),
            ("UPDATE t SET a = 1", None),
        ];
        for (text, expected) in cases {
            let found = found(text);
            let found = found.as_ref().map(|(source, on)| (&**source, &**on));
            assert_eq!(found, expected, "{text}");
        }
    }
}
