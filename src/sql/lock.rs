//! LOCK TABLE: the tables, each with its place in the text.

use std::ops::Range;

use super::cursor::Cursor;
use super::facts::Name;
use super::lexer::Kind;
use super::places::lexemes;

/// The tables of a LOCK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locking {
    /// Each with what belongs to it (ONLY, `*`).
    pub tables: Vec<(Name, Range<usize>)>,
}

/// The statement at this range of a message's text; `None`: it cannot be read.
pub fn locking(text: &str, range: Range<usize>) -> Option<Locking> {
    let lexemes = lexemes(text, range)?;
    let mut cursor = Cursor::new(text, &lexemes);
    cursor.take("lock").then_some(())?;
    cursor.take("table");
    let mut tables = vec![table(&mut cursor)?];
    while cursor.take_kind(Kind::Comma) {
        tables.push(table(&mut cursor)?);
    }
    let ends = cursor.at_end() || cursor.sees(0, "in") || cursor.sees(0, "nowait");
    ends.then_some(Locking { tables })
}

/// `[ONLY] [schema.]name [*]`, or ONLY with the name in parentheses.
fn table(cursor: &mut Cursor) -> Option<(Name, Range<usize>)> {
    let start = cursor.peek()?.range().start;
    let mut end = start;
    let mut only = cursor.clone();
    // A table may have the name.
    if only.take("only")
        && !matches!(only.kind(), None | Some(Kind::Comma | Kind::Dot))
        && !only.sees(0, "in")
    {
        *cursor = only;
    }
    let in_parentheses = cursor.take_kind(Kind::OpenParen);
    let mut parts = Vec::new();
    loop {
        end = end.max(cursor.peek()?.range().end);
        parts.push(cursor.name()?);
        if !cursor.take_kind(Kind::Dot) {
            break;
        }
    }
    if in_parentheses {
        end = cursor.peek()?.range().end;
        cursor.take_kind(Kind::CloseParen).then_some(())?;
    }
    if let Some(star) = cursor.peek() {
        let star = star.range().end;
        if cursor.take_operator("*") {
            end = star;
        }
    }
    let name = parts.pop()?;
    let schema = parts.pop();
    Some((Name { schema, name }, start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_with_their_places() {
        let read = |text: &str| -> Option<Vec<String>> {
            let locking = locking(text, 0..text.len())?;
            let tables = locking.tables.into_iter().map(|(name, range)| {
                format!(
                    "{:?} {}: {}",
                    name.schema.as_deref(),
                    name.name,
                    &text[range]
                )
            });
            Some(tables.collect())
        };
        assert_eq!(
            read("LOCK TABLE a, ONLY s.\"B c\" *, ONLY (c) IN ACCESS SHARE MODE NOWAIT").unwrap(),
            [
                "None a: a",
                "Some(\"s\") B c: ONLY s.\"B c\" *",
                "None c: ONLY (c)"
            ]
        );
        assert_eq!(read("lock only").unwrap(), ["None only: only"]);
        assert_eq!(read("LOCK a nowait").unwrap(), ["None a: a"]);
        assert_eq!(read("LOCK TABLE a b"), None);
        assert_eq!(read("LOCK TABLE"), None);
    }
}
